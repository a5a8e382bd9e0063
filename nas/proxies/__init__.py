"""How good a network looks before full training: one module per proxy, each with `Options` and `build`.

`--proxy short-training` is nas/proxies/short_training.py. A module has at its top level::

    class Options(Record): ...                     what --option NAME=VALUE may set, with defaults
    VARIANT = "effort"                             the option that --proxy short-training:standard sets; may be absent
    def build(options: Options, inputs: Inputs) -> Proxy
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from nas.catalog import load_plugin
from nas.errors import InputError, NasError
from nas.files import Record
from nas.networks import Architecture

if TYPE_CHECKING:
    import torch

    from nas.data import Progress

__all__ = ["Attempt", "Inputs", "Proxy", "Score", "ScoringFailed", "attempt", "build_proxies"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A proxy's score of one network.

    Attributes:
        value: the score; higher is better. If `details` has `val_images`, the value is the likelihood of the held-out
            labels, in [0, 1] (nas/proxies/_torch.py). Otherwise it can be any number.
        seconds: time that scoring took.
        details: how the score was obtained, for the record: plain numbers and words.
        weights: the network's state for `build_model(...).load_state_dict`, on the CPU; None if the proxy has no
            weights.
    """

    value: float
    seconds: float
    details: Mapping[str, float | int | str]
    weights: Mapping[str, torch.Tensor] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What every proxy is built from, besides its own options.

    Attributes:
        data: source of the images to score on, as `nas.data.load_images` takes it.
        seed: random seed of weights, order of images, augmentation, and the choice of images.
        device: where to run; by default a GPU if there is one.
        progress: called with the progress of loading.
    """

    data: str
    seed: int
    device: str | None = None
    progress: Progress | None = None


class ScoringFailed(NasError):  # noqa: N818 - an outcome of a candidate that a search records, not an error of the run
    """A network could not be scored; the message has the reason, such as divergence or too little memory."""


class Proxy(Protocol):
    """Scores all networks in the same way."""

    def settings(self) -> dict[str, Any]:
        """Everything needed to repeat the scoring, as plain JSON data for run.json."""
        ...

    def estimate_seconds(self, architecture: Architecture) -> float:
        """Estimated seconds of `score` for this network; the estimate takes a few seconds at most."""
        ...

    def score(self, architecture: Architecture) -> Score:
        """Score a network; the same network gets the same score with the same settings.

        Raises:
            ScoringFailed: this network cannot be scored; other networks may still be scored.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The outcome of scoring a network once.

    Attributes:
        score: the proxy's score; None after a failure.
        failure: why there is no score; None if there is one.
        seconds: time that the attempt took.
    """

    score: Score | None
    failure: str | None
    seconds: float

    @property
    def value(self) -> float | None:
        """The value of the score; None after a failure."""
        return self.score.value if self.score else None

    @property
    def account(self) -> dict[str, Any]:
        """Failure, seconds and details; every record of a score contains these three."""
        details = dict(self.score.details) if self.score else {}
        return {"failure": self.failure, "seconds": self.seconds, "details": details}


def attempt(proxy: Proxy, network: Architecture) -> Attempt:
    """Score a network. A failure is an outcome, not an error."""
    start = time.monotonic()
    try:
        score = proxy.score(network)
    except ScoringFailed as error:
        return Attempt(score=None, failure=str(error), seconds=time.monotonic() - start)
    return Attempt(score=score, failure=None, seconds=score.seconds)


def build_proxies(
    names: str,
    *,
    data: str,
    seed: int,
    options: Mapping[str, str] | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Proxy]:
    """Build the proxies of `--proxy NAME[:VARIANT][,...]` and `--option NAME=VALUE`, by name, in the order given.

    The keys are the names as written in `--proxy`, with their variants. A variant is the value of the option that a
    module names in `VARIANT`: `short-training:standard` is short training with `effort=standard`. An option from
    `--option` goes to every proxy that has it.

    Raises:
        InputError: a proxy does not exist or is named twice, an option belongs to none of the proxies, a value breaks a
            rule, or the data cannot be read.
    """
    chosen = names.split(",")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"--proxy {names}: the same proxy twice")
    modules = {name: load_plugin("proxy", "proxies", name.partition(":")[0]) for name in chosen}
    given = dict(options or {})
    known = {option: None for module in modules.values() for option in module.Options.model_fields}
    if unknown := sorted(set(given) - set(known)):
        takes = f"its options are {', '.join(known)}" if known else "it has no options"
        raise InputError(f"--proxy {names} does not take {unknown[0]}: {takes}")
    checked = {name: _checked(name, module, given) for name, module in modules.items()}
    inputs = Inputs(data=data, seed=seed, device=device, progress=progress)
    return {name: module.build(checked[name], inputs) for name, module in modules.items()}


def _checked(name: str, module: ModuleType, given: Mapping[str, str]) -> Record:
    """The validated options of one proxy."""
    own = {key: value for key, value in given.items() if key in module.Options.model_fields}
    base, colon, variant = name.partition(":")
    if colon:
        option = getattr(module, "VARIANT", None)
        if option is None:
            raise InputError(f"--proxy {name}: {base} has no variants")
        if own.setdefault(option, variant) != variant:
            raise InputError(f"--proxy {name} and --option {option}={own[option]} do not go together: leave out one")
    try:
        checked: Record = module.Options.model_validate(own)
    except ValidationError as error:
        raise InputError.from_validation(f"--proxy {name}", error) from error
    return checked
