"""A network of a search: a candidate with its latency and score, or one that was screened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from nas.errors import MissingLatencyError
from nas.files import Milliseconds, Number, Record
from nas.latency import Latency
from nas.networks import Architecture

if TYPE_CHECKING:
    from nas.networks.modules import Network

__all__ = ["Candidate", "Kind", "Screening", "trained_network", "weights_file"]

Kind = Literal["searched", "reference"]
_FOLDER = "_folder"


class Candidate(Record):
    """A network of a search with its predicted latency, and its score or the reason why it has none.

    Attributes:
        kind: `searched` (proposed by the sampler), or `reference` (a known network, scored for comparison).
        name: of a reference.
        trial: number of the Optuna trial.
        latency_ms: predicted by the table, with the interval from `low_ms` to `high_ms`.
        score: by the proxy; higher is better. None for a failed candidate.
        failure: why there is no score.
        seconds: time spent on the score.
        details: what else the proxy reports.
        quantities: what else the search limits or lowers, by name.
    """

    id: str
    kind: Kind
    name: str | None = None
    trial: int | None = None
    latency_ms: Milliseconds
    low_ms: Number
    high_ms: Number
    score: float | None = None
    failure: str | None = None
    seconds: float
    details: dict[str, float | int | str] = Field(default_factory=dict)
    quantities: dict[str, float] = Field(default_factory=dict)
    architecture: Architecture

    @classmethod
    def of(cls, network: Architecture, latency: Latency, **facts: Any) -> Self:
        """The candidate that a network with this latency is; `facts` are its other attributes."""
        times = {"latency_ms": latency.latency_ms, "low_ms": latency.low_ms, "high_ms": latency.high_ms}
        return cls(id=network.id, architecture=network, **times, **facts)

    def completed(self, quantities: Callable[[Architecture], Mapping[str, float]], names: Collection[str]) -> Candidate:
        """This candidate with all quantities of some names, those that it lacks computed.

        Args:
            quantities: computes all of them for a network.
            names: of the quantities.
        """
        if self.quantities.keys() >= set(names):
            return self
        try:
            known = quantities(self.architecture)
        except MissingLatencyError:  # A reference may lie outside the space, and so outside a further table.
            return self
        return self.model_copy(update={"quantities": {**self.quantities, **known}})

    @property
    def label(self) -> str:
        """The name of a reference, or the id of any other network."""
        return self.name or self.id

    def build(self, *, seed: int = 0) -> Network:
        """This network in torch, in training form, with the number of classes of the data that it was scored on.

        It has the weights that its run keeps: of winners and references, where their score comes from a training. Else
        its weights are random.

        Args:
            seed: of random weights.

        Raises:
            InputError: the file of its weights is broken.
        """
        from nas.networks.modules import load_model
        from nas.training.recipe import seeded_network

        folder = self.__dict__.get(_FOLDER)
        weights = None if folder is None else weights_file(folder, self.id)
        if weights is not None and weights.exists():
            return load_model(trained_network(self), weights)
        return seeded_network(trained_network(self), seed=seed)

    def belong_to(self, folder: Path) -> None:
        """Remember the results folder, where `build` looks for weights. It is no part of the record."""
        # Like a value of functools.cached_property: in no file, and in no comparison.
        self.__dict__[_FOLDER] = folder


class Screening(Record):
    """The result of a screening proxy for a network. It is not part of the front.

    Attributes:
        proxy: name of the proxy.
        kind: as for a candidate. Only `searched` networks compete to be passed on.
        trial: number of the Optuna trial.
        round: in a run of an earlier version, the number of the round whose best network was passed on.
        value: on the proxy's own scale; higher is better. None after a failure.
        failure: why there is no value.
        seconds: time spent on the value.
        details: what else the proxy reports.
    """

    id: str
    proxy: str
    kind: Kind
    trial: int | None = None
    round: int | None = None
    value: float | None = None
    failure: str | None = None
    seconds: float
    details: dict[str, float | int | str] = Field(default_factory=dict)
    architecture: Architecture


def weights_file(folder: Path, network_id: str) -> Path:
    """The file with the weights of a candidate in a results folder."""
    return folder / "weights" / f"{network_id}.safetensors"


def trained_network(candidate: Candidate) -> Architecture:
    """The network that the weights belong to. Its number of classes is that of the proxy's data."""
    return candidate.architecture.at(num_classes=int(candidate.details.get("classes", 0)) or None)
