"""How good a network looks before full training: one module a proxy, each with `Options` and `build`.

`--proxy short-training` is nas/proxies/short_training.py. A module has at its top level::

    class Options(Record): ...                     what --option NAME=VALUE may set, with defaults
    def build(*, data: str, seed: int, options: Options,
              device: str | None = None, progress: Progress | None = None) -> Proxy
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from nas.architecture import Architecture
from nas.catalog import load_plugin
from nas.errors import InputError, NasError

if TYPE_CHECKING:
    import torch

    from nas.data import Progress

__all__ = ["Proxy", "Score", "ScoringFailed", "build_proxies"]


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


def build_proxies(
    names: str,
    *,
    data: str,
    seed: int,
    options: Mapping[str, str] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Proxy]:
    """The proxies that `--proxy NAME[,NAME...]` and `--option NAME=VALUE` mean, by name, in their order.

    An option goes to every proxy that has it.

    Raises:
        InputError: no such proxy, one named twice, an option that none of them has, a value against a rule, or data
            that cannot be read.
    """
    chosen = names.split(",")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"--proxy {names}: the same proxy twice")
    modules = {name: load_plugin("proxy", "proxies", name) for name in chosen}
    given = dict(options or {})
    known = {option: None for module in modules.values() for option in module.Options.model_fields}
    if unknown := sorted(set(given) - set(known)):
        takes = f"its options are {', '.join(known)}" if known else "it has no options"
        raise InputError(f"--proxy {names} does not take {unknown[0]}: {takes}")
    checked = {}
    for name, module in modules.items():
        try:
            own = {key: value for key, value in given.items() if key in module.Options.model_fields}
            checked[name] = module.Options.model_validate(own)
        except ValidationError as error:
            raise InputError.from_validation(f"--proxy {name}", error) from error
    return {
        name: module.build(data=data, seed=seed, options=checked[name], device=device, progress=progress)
        for name, module in modules.items()
    }
