"""What a proxy is: what it is built from, what it promises, and what a score is. The package passes these names on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nas.errors import NasError
from nas.networks import Architecture

if TYPE_CHECKING:
    import torch

    from nas.data import DataSource, Progress

__all__ = [
    "CIRCUMSTANCES",
    "NO_IMAGES",
    "Attempt",
    "Inputs",
    "OutOfTime",
    "Proxy",
    "Score",
    "ScoringFailed",
    "attempt",
    "differing",
    "identity",
]

# Settings of a proxy that say where it runs. They may differ when a run is resumed on another machine.
CIRCUMSTANCES = ("device", "threads", "torch", "precision")
# The images by content, which earlier versions did not keep: they knew them by the words of `data` alone.
_BY_CONTENT = ("fingerprint", "train_images", "val_images")
_IN_WORDS = ("data",)  # where there is a fingerprint
_PATHS = ("file",)  # of the user's own code, which is known by its content or its version (_own.py)
NO_IMAGES = "none used"  # the fingerprint in the settings of a proxy that records the source, but does not open it
_FILES = ("supernet", "init", "accuracy_table")  # where there is a digest of the file


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
        progress: called with the progress of loading, of what a proxy computes once for all networks, and of a score,
            such as ("step", 40, 128). It raises `OutOfTime` where a search must end, which a proxy lets pass.
        band: random networks of the latency band that the scores are for. A panel needs them; other proxies do not.
    """

    data: str | DataSource
    seed: int
    device: str | None = None
    progress: Progress | None = None
    band: tuple[Architecture, ...] = ()


class ScoringFailed(NasError):  # noqa: N818 - an outcome of a candidate that a search records, not an error of the run
    """A network could not be scored; the message has the reason, such as divergence or too little memory."""


class OutOfTime(NasError):  # noqa: N818 - it ends a search as was asked
    """The time of a search is up in the middle of a score. The network has no score and no failure."""


class Proxy(Protocol):
    """Scores all networks in the same way."""

    def settings(self) -> dict[str, Any]:
        """Everything needed to repeat the scoring, as plain JSON data for run.json; `identity` says what they decide.

        `contents`, if there is any, is what all images of the source are (`nas.data.Contents`), and `normalisation`
        how their pixels become the input of a network (`nas.data.Normalisation`).
        """
        ...

    def estimate_seconds(self, architecture: Architecture) -> float:
        """Estimated seconds of `score` for this network.

        The estimate takes a few seconds at most, after what the proxy computes once for all networks.
        """
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


def identity(settings: Mapping[str, Any], *, by_content: bool = True) -> dict[str, Any]:
    """The settings that decide a score. Scores are compared, and a run goes on, only if these are equal.

    Left out is where a proxy runs, and what is known better by content: the words about images beside their
    fingerprint, and the name of a file beside its digest. A panel's settings may have its members' names before theirs.

    Args:
        settings: of a proxy, from now or from a file of an earlier version.
        by_content: whether to know the images by content if the settings allow it; without it by words, as earlier
            versions did.
    """
    by_content = by_content and "fingerprint" in settings
    left_out = {*CIRCUMSTANCES, *_PATHS, "contents", "normalisation", *(_IN_WORDS if by_content else _BY_CONTENT)}
    if "digest" in settings:
        left_out |= set(_FILES)
    return {name: value for name, value in settings.items() if name.rpartition(" ")[2] not in left_out}


def differing(settings: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Names of the settings that make two scores incomparable. Images are known by content if both settings say it."""
    by_content = "fingerprint" in settings and "fingerprint" in others
    one, other = (identity(each, by_content=by_content) for each in (settings, others))
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]
