"""The records of what an accuracy table predicts, beside what is published."""

from __future__ import annotations

from nas.accuracy.published import Errors
from nas.files import Record

__all__ = ["AccuracyPart", "FrontRow", "PredictedRow"]


class PredictedRow(Record):
    """A published accuracy in %, and the prediction from all other rows with its 90 % interval."""

    name: str
    top1: float
    predicted: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the published accuracy lies inside the interval."""
        return self.low <= self.top1 <= self.high


class FrontRow(Record):
    """The front of a survey at the latency of a published variant.

    Attributes:
        variant: name of the published network.
        variant_ms: its predicted latency.
        top1: its published accuracy in %.
        id: the best network found that is no slower.
        latency_ms: its predicted latency.
        predicted: its predicted accuracy in %, with the interval from `low` to `high`.
    """

    variant: str
    variant_ms: float
    top1: float
    id: str
    latency_ms: float
    predicted: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """How the front passes the variant."""
        if self.low <= self.top1 <= self.high:
            return "through it, within the interval"
        return f"{'above' if self.top1 < self.low else 'below'} it by more than the interval: not recovered"


class AccuracyPart(Record):
    """How far an accuracy table can be trusted.

    Attributes:
        table: name of the table.
        digest: of its content.
        errors: over other families and this one, by what was left out; kept in the table.
        rows: rows of the family, each predicted from all others.
        tau: Kendall's tau over these rows.
        tau_near: the same over rows of 0.95 to 1.20 ms; None if there are fewer than three.
        looked_at: networks of the survey.
        front: the front of a survey at the latencies of the published variants, with a table that has not seen their
            accuracies, and without the variants as parents.
    """

    table: str
    digest: str
    errors: dict[str, Errors]
    rows: tuple[PredictedRow, ...]
    tau: float
    tau_near: float | None = None
    looked_at: int
    front: tuple[FrontRow, ...]
