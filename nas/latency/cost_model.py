"""What a layer costs if it was not measured: a roofline per operation, with seven fitted coefficients. No torch.

Each operation of a layer has three streams of work at once: arithmetic, activations and weights. If they would take a,
t and w milliseconds alone, the operation takes ::

    dispatch + (a^p + t^p + w^p)^(1/p)

The second term lies between the longest stream and the sum of all three, and it grows with each of them. p = 1 means no
overlap. A large p means nearly perfect overlap (the roofline of Williams, Waterman and Patterson, 2009).

A network takes the sum of its operations and one overhead. Every coefficient is positive. So no operation is free, and
whatever makes a network larger makes it slower.

`nas/latency/calibrate.py` fits the coefficients. latency_tables/README.md has the assumptions and what else was tried.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nas.errors import InputError
from nas.files import Record
from nas.networks import Layer, Operation, OperationKind, operations

__all__ = [
    "CoefficientName",
    "Coefficients",
    "CostModel",
    "Demand",
    "FitRow",
    "PublishedRow",
    "demand",
    "demands",
    "jackknife_plus",
]

CoefficientName = Literal[
    "dense_ms_per_gmac",
    "low_reuse_ms_per_gmac",
    "memory_ms_per_mb",
    "stream_ms_per_mb",
    "fused_ms_per_mb",
    "dispatch_ms",
    "overhead_ms",
]

# A dense product uses each weight and each activation many times. The other two kinds fetch an operand for every few
# MACs.
_ARITHMETIC: Mapping[OperationKind, CoefficientName] = MappingProxyType(
    {
        "dense": "dense_ms_per_gmac",
        "depthwise": "low_reuse_ms_per_gmac",
        "product": "low_reuse_ms_per_gmac",
    }
)

# Convolutions stream their activations from one to the next. Element-wise work is fused with the operation before it.
# Attention maps, norms that need the whole tensor first, and rearranged tensors go through memory, as weights do.
_TRAFFIC: Mapping[OperationKind, CoefficientName] = MappingProxyType(
    {
        "dense": "stream_ms_per_mb",
        "depthwise": "stream_ms_per_mb",
        "product": "memory_ms_per_mb",
        "softmax": "memory_ms_per_mb",
        "norm": "memory_ms_per_mb",
        "reshape": "memory_ms_per_mb",
        "elementwise": "fused_ms_per_mb",
        "pool": "fused_ms_per_mb",
    }
)
_FUSED: frozenset[OperationKind] = frozenset({"elementwise", "pool"})

_Positive = Annotated[float, Field(gt=0, le=1e6)]
_Fraction = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Coefficients(Record):
    """The cost of one unit of work, in ms. A MAC is one multiply-add, a megabyte is 10^6 bytes.

    Attributes:
        dense_ms_per_gmac: 10^9 MACs of convolutions and linear layers across channels.
        low_reuse_ms_per_gmac: 10^9 MACs of depthwise convolutions and of attention products.
        memory_ms_per_mb: weights, and the tensors of attention products, softmax, norms and reshapes.
        stream_ms_per_mb: activations into and out of dense and depthwise operations.
        fused_ms_per_mb: activations of element-wise operations and pooling.
        dispatch_ms: each operation that is not element-wise or pooling.
        overhead_ms: each inference.
    """

    dense_ms_per_gmac: _Positive
    low_reuse_ms_per_gmac: _Positive
    memory_ms_per_mb: _Positive
    stream_ms_per_mb: _Positive
    fused_ms_per_mb: _Positive
    dispatch_ms: _Positive
    overhead_ms: _Positive


class PublishedRow(Record):
    """A published network that the model was fitted to.

    Attributes:
        name: the column `name` of its row in the published file.
        published_ms: the measured time.
        predicted_ms: prediction of the model, whose fit includes this row.
    """

    name: str
    published_ms: _Positive
    predicted_ms: _Positive

    @property
    def fit_error(self) -> float:
        """Relative error of the prediction, signed."""
        return self.predicted_ms / self.published_ms - 1


class FitRow(PublishedRow):
    """A fitted network of the family. Its error says something about other networks of the family.

    Attributes:
        left_out_ms: prediction with the coefficients `left_out`.
        left_out: coefficients fitted to all rows and baselines except this row.
    """

    left_out_ms: _Positive
    left_out: Coefficients

    @property
    def left_out_error(self) -> float:
        """Relative error of the prediction from a fit without this row, signed."""
        return self.left_out_ms / self.published_ms - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The work of one operation: amounts, each with the name of the coefficient that prices it.

    Attributes:
        arithmetic: coefficient of `gmacs`. None for operations without MACs.
        gmacs: 10^9 MACs, with channels rounded up to whole groups.
        traffic: coefficient of `traffic_mb`.
        traffic_mb: 10^6 bytes of activations read and written. Channels of dense and depthwise operations are rounded
            up to whole groups.
        weights_mb: 10^6 bytes of weights and biases.
        dispatched: whether the operation is a step of its own, with a dispatch.
    """

    arithmetic: CoefficientName | None
    gmacs: float
    traffic: CoefficientName
    traffic_mb: float
    weights_mb: float
    dispatched: bool

    def cost_ms(self, coefficients: Coefficients, overlap: float) -> float:
        """Milliseconds of the operation."""
        arithmetic = self.gmacs * _price(coefficients, self.arithmetic) if self.arithmetic else 0.0
        traffic = self.traffic_mb * _price(coefficients, self.traffic)
        weights = self.weights_mb * coefficients.memory_ms_per_mb
        dispatch = coefficients.dispatch_ms if self.dispatched else 0.0
        return dispatch + float((arithmetic**overlap + traffic**overlap + weights**overlap) ** (1 / overlap))


class CostModel(Record):
    """A fitted cost model and its known errors.

    Attributes:
        coefficients: fitted to all rows and baselines.
        overlap: p, how far arithmetic, activations and weights overlap inside an operation.
        channel_group: dense and depthwise operations pay for channels in whole groups of this many.
        element_bytes: bytes of an activation or weight, 2 for fp16.
        coverage: share of networks like the fitted ones that `interval_ms` aims to cover.
        observed_coverage: share of the fitted rows that lie inside the interval made from the other rows alone.
        fit_error_mean: mean absolute relative error over the rows.
        fit_error_worst: largest absolute relative error over the rows.
        left_out_error_mean: mean absolute relative error over the rows, each predicted from a fit without it.
        left_out_error_worst: largest absolute relative error over the rows, each predicted from a fit without it.
        rows: the fitted networks of the family. All errors and intervals are computed from these.
        baselines: networks of other authors that the coefficients were also fitted to.
    """

    coefficients: Coefficients
    overlap: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    channel_group: Annotated[int, Field(strict=True, gt=0)]
    element_bytes: Annotated[int, Field(strict=True, gt=0)]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    observed_coverage: Annotated[float, Field(ge=0, le=1)]
    fit_error_mean: _Fraction
    fit_error_worst: _Fraction
    left_out_error_mean: _Fraction
    left_out_error_worst: _Fraction
    rows: Annotated[tuple[FitRow, ...], Field(min_length=1)]
    baselines: tuple[PublishedRow, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if _outside(self.coverage, len(self.rows)) < 1:
            raise ValueError(f"an interval of coverage {self.coverage:g} needs more rows, got {len(self.rows)}")
        return self

    @property
    def overhead_ms(self) -> float:
        """Milliseconds of an inference outside its layers."""
        return self.coefficients.overhead_ms

    def layer_ms(self, layer: Layer) -> float:
        """Milliseconds of one layer."""
        return self._cost_ms(layer, self.coefficients)

    def network_ms(self, layers: Iterable[Layer]) -> float:
        """Milliseconds of one inference: the layers and the overhead."""
        return self._network_ms(Counter(layers), self.coefficients)

    def interval_ms(self, layers: Iterable[Layer], coverage: float | None = None) -> tuple[float, float]:
        """A prediction interval around `network_ms` that aims to cover a share of networks.

        This is a jackknife+ interval (Barber, Candes, Ramdas and Tibshirani, 2021, Annals of Statistics 49) on relative
        errors. Each row has coefficients fitted without it. These coefficients predict the network. Their relative
        error on the network is taken to be as large as on the row that was left out.

        The interval covers at least 1 - 2 * (1 - coverage) of the networks drawn like the rows, and in practice about
        the coverage. It says nothing about networks unlike all rows: other operations, very different sizes, or the
        winner of a long search.

        Args:
            layers: the layers of the network.
            coverage: the share, above 0 and below 1. By default the model's own coverage.
        Raises:
            InputError: the coverage is not above 0 and below 1, or needs more rows than the model has.
        """
        share = self.coverage if coverage is None else coverage
        if not 0 < share < 1:
            raise InputError(f"coverage must be above 0 and below 1, got {share:g}")
        if _outside(share, len(self.rows)) < 1:
            most = 1 - 1 / (len(self.rows) + 1)
            raise InputError(
                f"an interval of coverage {share:g} takes more than the {len(self.rows)} networks that the model was "
                f"fitted to; ask for {math.floor(most * 1000) / 1000:g} at most"
            )
        counts = Counter(layers)
        return jackknife_plus(
            self._network_ms(counts, self.coefficients),
            [(self._network_ms(counts, row.left_out), row.left_out_ms / row.published_ms) for row in self.rows],
            coverage=share,
        )

    @property
    def interval_meaning(self) -> str:
        """What the interval aims to cover, and what it covered of the fitted rows."""
        inside = round(self.observed_coverage * len(self.rows))
        return (
            f"{self.coverage:.0%} jackknife+ from {len(self.rows)} published times; "
            f"{inside} of these lay inside the interval made without them"
        )

    @property
    def trust(self) -> str:
        """How far a prediction can be trusted, in one sentence."""
        others = f" (and, with little weight, to {len(self.baselines)} of other networks)" if self.baselines else ""
        return (
            f"fitted to {len(self.rows)} published times{others}: error {self.fit_error_mean:.1%} in the mean, "
            f"{self.fit_error_worst:.1%} at worst; each predicted from the others: "
            f"{self.left_out_error_mean:.1%} and {self.left_out_error_worst:.1%}"
        )

    def describe(self) -> Iterator[str]:
        """The coefficients and the fit, row by row, as lines of text."""
        yield f"model: roofline per operation, overlap {self.overlap:g}, channels in groups of {self.channel_group}"
        for name, value in self.coefficients:
            yield f"  {name} {value:.4g}"
        yield self.trust
        yield f"interval: {self.interval_meaning}"
        width = max(len(row.name) for row in (*self.rows, *self.baselines))
        yield f"  {'':{width}}  published  predicted   error  left out"
        for row in self.rows:
            yield (
                f"  {row.name:{width}}  {row.published_ms:9.2f}  {row.predicted_ms:9.3f}  {row.fit_error:+6.1%}"
                f"  {row.left_out_error:+8.1%}"
            )
        if self.baselines:
            yield "  networks of other authors, fitted with little weight"
        for other in self.baselines:
            yield (
                f"  {other.name:{width}}  {other.published_ms:9.2f}  {other.predicted_ms:9.3f}  {other.fit_error:+6.1%}"
            )

    def _network_ms(self, counts: Mapping[Layer, int], coefficients: Coefficients) -> float:
        layers = sum(count * self._cost_ms(layer, coefficients) for layer, count in counts.items())
        return layers + coefficients.overhead_ms

    def _cost_ms(self, layer: Layer, coefficients: Coefficients) -> float:
        parts = demands(layer, channel_group=self.channel_group, element_bytes=self.element_bytes)
        return sum(part.cost_ms(coefficients, self.overlap) for part in parts)


def jackknife_plus(
    predicted: float, left_out: Iterable[tuple[float, float]], *, coverage: float
) -> tuple[float, float]:
    """The interval of `CostModel.interval_ms`, widened if needed to contain `predicted`.

    Args:
        predicted: prediction of the fit to all rows.
        left_out: for each row two values of the fit without this row: its prediction for the network, and its
            prediction for the row divided by the true time of the row.
        coverage: the share of networks to cover.
    """
    ends = [(value, math.exp(abs(math.log(ratio)))) for value, ratio in left_out]
    low = sorted(value / miss for value, miss in ends)
    high = sorted((value * miss for value, miss in ends), reverse=True)
    index = _outside(coverage, len(ends)) - 1
    return min(low[index], predicted), max(high[index], predicted)


@lru_cache(maxsize=16384)
def demands(layer: Layer, *, channel_group: int, element_bytes: int) -> tuple[Demand, ...]:
    """The demands of the operations of one layer, in the order they run."""
    return tuple(demand(part, channel_group=channel_group, element_bytes=element_bytes) for part in operations(layer))


def demand(operation: Operation, *, channel_group: int, element_bytes: int) -> Demand:
    """The demand of one operation."""
    inputs, outputs = (_padding(channels, channel_group) for channels in (operation.inputs, operation.outputs))
    # A depthwise operation has one input channel for each output channel, so the rounding up counts once.
    factor = inputs * outputs if operation.kind == "dense" else outputs
    traffic = inputs * operation.reads + outputs * operation.writes
    return Demand(
        arithmetic=_ARITHMETIC.get(operation.kind),
        gmacs=factor * operation.macs / 1e9,
        traffic=_TRAFFIC[operation.kind],
        traffic_mb=traffic * element_bytes / 1e6,
        weights_mb=operation.weights * element_bytes / 1e6,
        dispatched=operation.kind not in _FUSED,
    )


def _padding(channels: int, group: int) -> float:
    """Factor by which rounding up to whole groups multiplies the channels. 1 if `channels` is 0, as for the image."""
    if channels == 0:
        return 1.0
    return math.ceil(channels / group) * group / channels


def _price(coefficients: Coefficients, name: CoefficientName) -> float:
    value = getattr(coefficients, name)
    assert isinstance(value, float)
    return value


def _outside(coverage: float, rows: int) -> int:
    """Rank of the sorted end that bounds an interval of this coverage. 1 is the outermost; 0 if rows are too few."""
    # The small addition keeps a product such as 0.1 * 10 from becoming 0.9999.
    return math.floor((1 - coverage) * (rows + 1) + 1e-9)
