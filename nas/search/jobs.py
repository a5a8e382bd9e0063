"""The jobs of a search: one network to score on one rung, and what the study knows of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from nas.networks import Architecture
from nas.search.records import Kind

__all__ = ["MAIN", "Attributes", "Entry", "Job", "Key", "Result"]

MAIN = "main"  # name of the worker in the process that owns the results folder

State = Literal["running", "finished", "abandoned"]
Key = tuple[str, int | None, Kind]  # network, rung and kind: equal for the same job


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
    def key(self) -> Key:
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
    def key(self) -> Key:
        """What is equal for entries of the same job."""
        return self.id, self.rung, self.kind


class Result(BaseModel):
    """What a search needs of the record of a job, which is a `Candidate` or a `Screening`.

    Attributes:
        seconds: time that it took.
        score: of a candidate. None after a failure.
        value: of a screening. None after a failure.
        failure: why there is neither.
        details: what else the proxy reports.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    seconds: FiniteFloat
    score: FiniteFloat | None = None
    value: FiniteFloat | None = None
    failure: str | None = None
    details: Mapping[str, Any] = Field(default_factory=dict)


class Attributes(BaseModel):
    """The attributes of a trial; see `Entry`.

    Attributes:
        id: None in a trial of an earlier version.
        network: of a reference outside the space, as JSON.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    id: str | None = None
    rung: NonNegativeInt | None = None
    kind: Kind = "searched"
    name: str | None = None
    latency_ms: float = math.nan
    worker: str = ""
    network: Mapping[str, Any] | None = None
    record: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, trial: int, attributes: Mapping[str, Any]) -> Attributes:
        """The attributes of a trial. Its record says what a search needs (`Result`), if there is one.

        Raises:
            ValueError: one of them is not of its kind; the message is a line.
        """
        try:
            found = cls.model_validate(attributes)
            if found.record is not None:
                Result.model_validate(found.record)
            return found
        except ValidationError as error:  # whose own words are many lines
            first = error.errors(include_url=False)[0]
            raise ValueError(f"trial {trial}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
