"""The contents of a latency table: its provenance, the entry of each layer, and the check of its sums."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from nas.errors import InputError
from nas.files import Amount, Milliseconds, Number, Record

__all__ = [
    "QUANTILES",
    "Agreement",
    "Check",
    "CheckRow",
    "Correction",
    "Entry",
    "Failed",
    "Filled",
    "Provenance",
    "PublishedTime",
    "ReferenceTime",
    "Source",
    "Timing",
]

Source = Literal["measured", "calibrated", "analytic"]
_Count = Annotated[int, Field(ge=0, le=10**12)]
_Runs = Annotated[int, Field(gt=0, le=10**12)]


class Provenance(Record):
    """Where the numbers of a table come from. A table never mixes numbers of different provenance.

    Attributes:
        source: `measured` (on the device), `calibrated` (a model fitted to published end-to-end times) or `analytic`.
        device: model name of the device, such as a phone or a processor.
        os: operating system and version.
        runtime: what ran the network, such as onnxruntime.
        versions: version of each piece of software that affects the numbers.
        precision: number format of weights and activations.
        threads: number of threads of the runtime. None if the runtime decides.
        settings: other settings that affect the times, such as compute units or pinned cores.
        batch: number of images in one inference.
        kind: the value of `--device` without the address.
        statistic: the quantile of each layer's timed runs that a lookup adds up.
        protocol: how the times were measured, in words.
        date: day of the measurement or calibration, ISO 8601.
    """

    source: Source
    device: str
    os: str
    runtime: str
    versions: dict[str, str]
    precision: str
    threads: Annotated[int, Field(gt=0, le=10**6)] | None = None
    settings: dict[str, str] = Field(default_factory=dict)
    batch: Literal[1] = 1
    kind: str | None = None
    statistic: Literal["minimum", "median"] = "median"
    protocol: str
    date: str

    @property
    def label(self) -> str:
        """The origin in a few words, to show beside the numbers."""
        parts = [f"{self.source}: {self.device}", self.os, self.runtime, self.precision]
        if self.threads:
            parts.append(f"{self.threads} thread{'' if self.threads == 1 else 's'}")
        parts += [f"{name} {value}" for name, value in sorted(self.settings.items())]
        return ", ".join([*parts, f"batch {self.batch}"])

    def difference(self, other: Provenance) -> str | None:
        """The first field in which two provenances differ, in words. None if no field except the date differs."""
        for name, value in self:
            theirs = getattr(other, name)
            if name != "date" and value != theirs:
                return f"{name}: {_short(value)} in the table, {_short(theirs)} here"
        return None


# The quantiles of a timing, from the fastest run to the slowest.
QUANTILES = ("minimum_ms", "p10_ms", "median_ms", "p90_ms", "maximum_ms")


class Timing(Record):
    """The measured time of one layer, in milliseconds: quantiles over its steady runs.

    On some devices, each call has a fixed cost. There the quantiles are computed from a stack of k copies of the layer:
    the quantile of the stack minus the quantile of one layer, divided by k - 1.

    Attributes:
        minimum_ms: fastest run.
        p10_ms: a tenth of the runs were faster.
        median_ms: half of the runs were faster.
        p90_ms: nine tenths of the runs were faster.
        maximum_ms: slowest run, including interruptions by other programs.
        runs: number of steady runs.
        warmup_runs: number of runs before the steady runs. The quantiles ignore them.
        slowdown: steady time divided by the time of the first runs, if the device runs faster at first. Otherwise 1.
        settled: whether the time stopped changing.
        reference_ms: time of the reference layer around these runs. The drift is this time divided by the table's
            reference time.
        visits: number of times that the layer was measured, seconds or minutes apart. The best visit is kept.
        alone_ms: fastest run of the single layer over all visits, if stacks are measured.
        stack_ms: fastest run of the stack over all visits, if stacks are measured.
        output_error: relative error of the output against torch. None if the device does not return the output.
        facts: what else the device reported.
    """

    minimum_ms: Milliseconds
    p10_ms: Milliseconds
    median_ms: Milliseconds
    p90_ms: Milliseconds
    maximum_ms: Milliseconds | None = None
    runs: _Runs
    warmup_runs: _Count = 0
    slowdown: Milliseconds = 1.0
    settled: bool = True
    reference_ms: Milliseconds | None = None
    visits: _Runs = 1
    alone_ms: Milliseconds | None = None
    stack_ms: Milliseconds | None = None
    output_error: Amount | None = None
    facts: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        quantiles = [self.minimum_ms, self.p10_ms, self.median_ms, self.p90_ms]
        quantiles += [] if self.maximum_ms is None else [self.maximum_ms]
        if quantiles != sorted(quantiles):
            raise ValueError("quantiles must rise from minimum_ms to maximum_ms")
        return self

    @property
    def confirmed(self) -> bool:
        """Whether the fastest run is not an outlier: a tenth of the runs came within 3 % of it."""
        return self.p10_ms <= 1.03 * self.minimum_ms

    @property
    def in_doubt(self) -> bool:
        """Whether the layer should be timed again."""
        return not (self.settled and self.confirmed) or (self.slowdown > 1 and self.visits == 1)


class Filled(Record):
    """A layer that was not measured. Its time is interpolated between measured layers of the same kind.

    Attributes:
        filled_ms: interpolated time, which a lookup uses.
        low_ms: lower end of the 90 % interval of `filled_ms`.
        high_ms: upper end of the 90 % interval of `filled_ms`.
    """

    filled_ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low_ms <= self.filled_ms <= self.high_ms:
            raise ValueError("filled_ms must lie between low_ms and high_ms")
        return self


class Failed(Record):
    """A layer that could not be timed. `failed` is the reason."""

    failed: Annotated[str, Field(min_length=1)]


def _entry_kind(value: object) -> str:
    """Kind of an entry. Only `Filled` has the field `filled_ms`, and only `Failed` has the field `failed`."""
    if isinstance(value, Filled) or (isinstance(value, Mapping) and "filled_ms" in value):
        return "<filled>"
    if isinstance(value, Failed) or (isinstance(value, Mapping) and "failed" in value):
        return "<failed>"
    return "<timing>"


# The value of a layer's key. nas/errors.py leaves tags in angle brackets out of the paths in error messages.
Entry = Annotated[
    Annotated[Timing, Tag("<timing>")] | Annotated[Filled, Tag("<filled>")] | Annotated[Failed, Tag("<failed>")],
    Discriminator(_entry_kind),
]


class PublishedTime(Record):
    """A published time of a whole network on this device. It is shown beside the prediction."""

    name: str
    latency_ms: Milliseconds
    top1: Annotated[float, Field(gt=0, le=100)] | None = None
    source: str


class ReferenceTime(Record):
    """The reference layer and its usual time.

    The reference layer is timed repeatedly between the other layers. The usual time is the median over the table.
    """

    key: str
    latency_ms: Milliseconds


class Correction(Record):
    """Correction of a sum of layers, learned from whole networks: `scale` * sum + `weights_ms_per_mb` * weights.

    The weights need a term of their own. A layer that is timed alone reads its weights from the cache. In a network,
    the layer reads them from memory.

    Attributes:
        scale: factor on the time of every layer.
        weights_ms_per_mb: time added for each 10^6 bytes of a layer's weights.
        networks: number of whole networks that the correction was learned from.
    """

    scale: Annotated[float, Field(gt=0, le=100)]
    weights_ms_per_mb: Annotated[Amount, Field(le=1000)]
    networks: _Runs


class Agreement(Record):
    """How well predictions agree with measured end-to-end times.

    An error is predicted / measured - 1, as a fraction.

    Attributes:
        networks: number of compared networks.
        bias: mean of the errors.
        mean_error: mean absolute error.
        worst_error: largest absolute error.
        tau: Kendall's rank correlation.
    """

    networks: _Count
    bias: Number
    mean_error: Amount
    worst_error: Amount
    tau: Annotated[float, Field(ge=-1, le=1)]

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Self:
        """Compare predicted with measured times. Both sequences have the same length, at least two."""
        from scipy.stats import kendalltau

        errors = [ours / theirs - 1 for ours, theirs in zip(predicted, measured, strict=True)]
        absolute = list(map(abs, errors))
        tau = float(kendalltau(predicted, measured).statistic)
        return cls(
            networks=len(errors),
            bias=round(sum(errors) / len(errors), 6),
            mean_error=round(sum(absolute) / len(absolute), 6),
            worst_error=round(max(absolute), 6),
            tau=0.0 if math.isnan(tau) else round(tau, 6),
        )

    def describe(self) -> str:
        """The figures in a few words."""
        return (
            f"mean error {self.mean_error:.1%}, worst {self.worst_error:.1%}, bias {self.bias:+.1%}, "
            f"Kendall's tau {self.tau:.2f}"
        )


class CheckRow(Record):
    """One whole network that was timed and predicted.

    Attributes:
        name: name of a reference network, or the architecture's id.
        id: the architecture's id.
        role: `calibration` if the correction was learned from this network, otherwise `held-out`.
        measured_ms: `raw_ms` divided by the drift of the device since the table was measured.
        raw_ms: end-to-end time of the fastest round, as timed.
        predicted_ms: latency that the table predicts, with the correction.
        sum_ms: latency that the table predicts without the correction: the plain sum of the layers.
        spread: mean relative difference between two repetitions (rounds).
    """

    name: str
    id: str
    role: Literal["held-out", "calibration"]
    measured_ms: Milliseconds
    raw_ms: Milliseconds
    predicted_ms: Milliseconds
    sum_ms: Milliseconds
    spread: Amount


class Check(Record):
    """The end-to-end comparison that shows how far the sum of layers can be trusted.

    Attributes:
        date: day of the measurement, ISO 8601.
        protocol: how the networks were timed, in words.
        agreement: agreement of the predictions with the measured times of the held-out networks.
        uncorrected: agreement of the plain sums of layers with the measured times of the held-out networks.
        noise_floor: mean relative difference between two repetitions (rounds) of the same network.
        half_noise: mean relative difference between the fastest times of the two halves of the rounds.
        drift: time of the reference layer divided by its time in the table. Below 1, the device was faster than for
            the table.
        baselines: agreement of two linear fits, one in MACs and one in parameters. Both are fitted to one half of the
            held-out networks and evaluated on the other half.
        rows: all networks, held-out and calibration.
    """

    date: str
    protocol: str
    agreement: Agreement
    uncorrected: Agreement
    noise_floor: Amount
    half_noise: Amount
    drift: Milliseconds
    baselines: dict[str, Agreement]
    rows: Annotated[tuple[CheckRow, ...], Field(min_length=2)]

    def factors(self, coverage: float) -> tuple[float, float]:
        """Factors on a prediction that give the lower and upper end of its interval.

        The interval covers the share `coverage` of networks. The method is split conformal prediction (Vovk et al.,
        2005) on the relative errors of the held-out networks. The coverage is exact for networks drawn like the
        held-out networks. It says nothing about networks unlike the held-out networks.

        Raises:
            InputError: the check has too few networks for this coverage.
        """
        ratios = sorted(
            abs(math.log(row.measured_ms / row.predicted_ms)) for row in self.rows if row.role == "held-out"
        )
        rank = math.ceil(coverage * (len(ratios) + 1) - 1e-9)
        if rank > len(ratios):
            most = len(ratios) / (len(ratios) + 1)
            raise InputError(
                f"the table's check of {len(ratios)} networks gives intervals of at most {most:.1%}, got {coverage:g}; "
                "check more (nas table check --networks N)"
            )
        miss = math.exp(ratios[rank - 1])
        return 1 / miss, miss

    def describe(self) -> str:
        """The check in one sentence."""
        return (
            f"checked on {self.agreement.networks} whole networks: {self.agreement.describe()}; "
            f"two rounds of one network differ by {self.noise_floor:.1%} (noise floor)"
        )


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in sorted(value.items())) or "none"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
