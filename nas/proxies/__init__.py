"""How good a network looks before full training: one module a proxy, each with a `build` function.

`nas/proxies/short_training.py` is `--proxy short-training`. A new proxy is one new file here with
`build(*, data: str, seed: int, device: str | None = None, progress: Progress | None = None) -> Proxy`; arguments of its
own have defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nas.architecture import Architecture
from nas.errors import NasError

if TYPE_CHECKING:
    import torch

__all__ = ["Proxy", "Score", "ScoringFailed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a proxy says about one network.

    Attributes:
        value: held-out accuracy in [0, 1], or what stands for it; higher is better.
        seconds: what scoring took.
        details: how it came about, for the record: plain numbers and words.
        weights: the network's state as `build_model(...).load_state_dict` takes it, on the CPU, if there are any.
    """

    value: float
    seconds: float
    details: Mapping[str, float | int | str]
    weights: Mapping[str, torch.Tensor] | None = None


class ScoringFailed(NasError):  # noqa: N818 - an outcome of a candidate that a search records, not an error of the run
    """A network that could not be scored, with the reason: it diverged, or did not fit into memory."""


class Proxy(Protocol):
    """Scores networks, all in the same way."""

    def settings(self) -> dict[str, Any]:
        """Everything needed to score again in the same way, as plain JSON data for run.json."""
        ...

    def estimate_seconds(self, architecture: Architecture) -> float:
        """About how long `score` will take; itself takes a few seconds at most."""
        ...

    def score(self, architecture: Architecture) -> Score:
        """Score a network; the same network gets the same score from the same settings.

        Raises:
            ScoringFailed: this network has no score; others may have one.
        """
        ...
