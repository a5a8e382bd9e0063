"""The jobs of a search: one network to score on one rung, and what the study knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nas.networks import Architecture
from nas.search.records import Kind

__all__ = ["MAIN", "Entry", "Job"]

MAIN = "main"  # name of the worker in the process that owns the results folder

State = Literal["running", "finished", "abandoned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A network to score on a rung.

    Attributes:
        network: the network.
        rung: number of the rung, from 0.
        kind: as of a candidate.
        name: of a reference.
        latency_ms: predicted latency of the network.
    """

    network: Architecture
    rung: int
    kind: Kind
    name: str | None = None
    latency_ms: float

    @property
    def key(self) -> tuple[str, int | None, Kind]:
        """What is equal for the same job: that of a reference is another than that of the network as a proposal."""
        return self.network.id, self.rung, self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A job in the study.

    Attributes:
        trial: number of the trial.
        id: of the network.
        rung: number of the rung. None for a trial of an earlier version.
        kind: as of a candidate.
        name: of a reference.
        latency_ms: predicted latency of the network; NaN in a trial of an earlier version.
        worker: name of the worker; empty if it stopped in order.
        state: `running`, `finished` or `abandoned`.
        value: the score; None while there is none, or for a failure.
        record: what the worker kept of the result; None while there is none.
    """

    trial: int
    id: str
    rung: int | None
    kind: Kind
    name: str | None
    latency_ms: float
    worker: str
    state: State
    value: float | None
    record: Mapping[str, Any] | None

    @property
    def key(self) -> tuple[str, int | None, Kind]:
        """What is equal for entries of the same job."""
        return self.id, self.rung, self.kind
