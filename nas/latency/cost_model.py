"""The cost of a layer that was not measured: a roofline per operation with seven fitted coefficients. No torch.

Each operation of a layer has three streams of work at once: arithmetic, activations and weights. Alone, the streams
take a, t and w milliseconds. Together, the operation takes ::

    dispatch + (a^p + t^p + w^p)^(1/p)

The second term lies between the time of the longest stream and the sum of all three. It grows with each stream. p = 1
means no overlap. A large p means nearly perfect overlap (the roofline of Williams, Waterman and Patterson, 2009).

The time of a network is the sum of its operations plus one overhead. Every coefficient is positive. So no operation is
free, and a network that becomes larger becomes slower.

`nas/latency/calibrate.py` fits the coefficients. latency_tables/README.md lists the assumptions and the alternatives
that were tried.
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
from nas.files import Amount, Record
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

# A dense operation uses each weight and each activation many times. Depthwise operations and attention products fetch
# an operand for every few MACs.
_ARITHMETIC: Mapping[OperationKind, CoefficientName] = MappingProxyType(
    {
        "dense": "dense_ms_per_gmac",
        "depthwise": "low_reuse_ms_per_gmac",
        "product": "low_reuse_ms_per_gmac",
    }
)

# Convolutions stream their activations from one to the next. Element-wise work is fused with the operation before it.
# Attention maps and rearranged tensors go through memory, as weights do. So do the tensors of norms that need the whole
# tensor first.
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


class Coefficients(Record):
    """The cost of one unit of work, in ms. A MAC is one multiply-add. A megabyte is 10^6 bytes.

    Attributes:
        dense_ms_per_gmac: 10^9 MACs of convolutions and linear layers across channels.
        low_reuse_ms_per_gmac: 10^9 MACs of depthwise convolutions and of attention products.
        memory_ms_per_mb: weights, and the tensors of attention products, softmax, norms and reshapes.
        stream_ms_per_mb: activations into and out of dense and depthwise operations.
        fused_ms_per_mb: activations of element-wise operations and pooling.
        dispatch_ms: each operation, except element-wise operations and pooling.
        overhead_ms: each inference, beside its layers.
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
        name: name of the network, from the column `name` of the published file.
        published_ms: the measured time.
        predicted_ms: prediction of the model. The fit of the model includes this row.
    """

    name: str
    published_ms: _Positive
    predicted_ms: _Positive

    @property
    def fit_error(self) -> float:
        """Relative error of the prediction, signed."""
        return self.predicted_ms / self.published_ms - 1


class FitRow(PublishedRow):
    """A fitted network of the family. Its errors are evidence about other networks of the family.

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
    """The work of one operation: each amount of work, and the coefficient that gives its cost.

    Attributes:
        arithmetic: coefficient of `gmacs`. None for operations without MACs.
        gmacs: 10^9 MACs. Channels are rounded up to whole groups.
        traffic: coefficient of `traffic_mb`.
        traffic_mb: 10^6 bytes of activations read and written. Channels of dense and depthwise operations are rounded
            up to whole groups.
        weights_mb: 10^6 bytes of weights and biases.
        dispatched: whether the operation pays for a dispatch. Fused operations do not.
    """

    arithmetic: CoefficientName | None
    gmacs: float
    traffic: CoefficientName
    traffic_mb: float
    weights_mb: float
    dispatched: bool

    def cost_ms(self, coefficients: Coefficients, overlap: float) -> float:
        """Predicted time of the operation in ms. `overlap` is p."""
        arithmetic = self.gmacs * _price(coefficients, self.arithmetic) if self.arithmetic else 0.0
        traffic = self.traffic_mb * _price(coefficients, self.traffic)
        weights = self.weights_mb * coefficients.memory_ms_per_mb
        dispatch = coefficients.dispatch_ms if self.dispatched else 0.0
        return dispatch + float((arithmetic**overlap + traffic**overlap + weights**overlap) ** (1 / overlap))


class CostModel(Record):
    """A fitted cost model and its known errors.

    Attributes:
        coefficients: coefficients of the fit to all rows and baselines.
        overlap: the exponent p. A larger p means more overlap of arithmetic, activations and weights in an operation.
        channel_group: size of a group of channels. Dense and depthwise operations pay for whole groups.
        element_bytes: bytes of one activation or weight. 2 for fp16.
        coverage: share of networks that `interval_ms` aims to cover, among networks like the fitted networks.
        observed_coverage: share of the fitted rows inside their intervals. Each interval uses only the other rows.
        fit_error_mean: mean absolute relative error over the rows.
        fit_error_worst: largest absolute relative error over the rows.
        left_out_error_mean: mean absolute relative error over the rows, each predicted from a fit without this row.
        left_out_error_worst: largest absolute relative error over the rows, each predicted from a fit without this row.
        rows: the fitted networks of the family. All errors and intervals are computed from these rows.
        baselines: networks of other authors. The coefficients are also fitted to these networks.
    """

    coefficients: Coefficients
    overlap: Annotated[float, Field(ge=1, le=20)]
    channel_group: Annotated[int, Field(strict=True, gt=0, le=4096)]
    element_bytes: Annotated[int, Field(strict=True, gt=0, le=16)]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    observed_coverage: Annotated[float, Field(ge=0, le=1)]
    fit_error_mean: Amount
    fit_error_worst: Amount
    left_out_error_mean: Amount
    left_out_error_worst: Amount
    rows: Annotated[tuple[FitRow, ...], Field(min_length=1)]
    baselines: tuple[PublishedRow, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if _outside(self.coverage, len(self.rows)) < 1:
            raise ValueError(f"an interval of coverage {self.coverage:g} needs more rows, got {len(self.rows)}")
        return self

    @property
    def overhead_ms(self) -> float:
        """Fixed cost of one inference in ms, outside the layers."""
        return self.coefficients.overhead_ms

    def layer_ms(self, layer: Layer) -> float:
        """Predicted time of one layer in ms."""
        return self._cost_ms(layer, self.coefficients)

    def network_ms(self, layers: Iterable[Layer]) -> float:
        """Predicted time of one inference in ms: the layers and the overhead."""
        return self._network_ms(Counter(layers), self.coefficients)

    def interval_ms(self, layers: Iterable[Layer], coverage: float | None = None) -> tuple[float, float]:
        """A prediction interval around `network_ms` that aims to cover a share of networks.

        This is a jackknife+ interval (Barber, Candes, Ramdas and Tibshirani, 2021, Annals of Statistics 49) on relative
        errors. For each row, there is a fit without this row. Each fit predicts the network. The method assumes that
        the relative error of the fit on the network is as large as its error on the row that was left out.

        For networks drawn like the rows, the interval covers a share of at least 1 - 2 * (1 - coverage). In practice,
        it covers about `coverage`. The interval says nothing about networks unlike all rows: other operations, very
        different sizes, or the winner of a long search.

        Args:
            layers: the layers of the network.
            coverage: the share, above 0 and below 1. By default the model's own coverage.

        Raises:
            InputError: the coverage is not above 0 and below 1, or it needs more rows than the model has.
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
        """What the interval aims to cover, and how many of the fitted rows it covered."""
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
        return _layer_ms(layer, coefficients, self.overlap, self.channel_group, self.element_bytes)


def jackknife_plus(
    predicted: float, left_out: Iterable[tuple[float, float]], *, coverage: float
) -> tuple[float, float]:
    """The interval of `CostModel.interval_ms`, widened if needed to contain `predicted`.

    Args:
        predicted: prediction of the fit to all rows.
        left_out: one pair for each row, from the fit without this row. The first value is the prediction for the
            network. The second value is the prediction for the row, divided by the published time of the row.
        coverage: the share of networks to cover.
    """
    ends = [(value, math.exp(abs(math.log(ratio)))) for value, ratio in left_out]
    low = sorted(value / miss for value, miss in ends)
    high = sorted((value * miss for value, miss in ends), reverse=True)
    index = _outside(coverage, len(ends)) - 1
    return min(low[index], predicted), max(high[index], predicted)


@lru_cache(maxsize=65536)  # An interval asks for a layer with the coefficients of every row that was left out.
def _layer_ms(
    layer: Layer, coefficients: Coefficients, overlap: float, channel_group: int, element_bytes: int
) -> float:
    parts = demands(layer, channel_group=channel_group, element_bytes=element_bytes)
    return sum(part.cost_ms(coefficients, overlap) for part in parts)


@lru_cache(maxsize=16384)
def demands(layer: Layer, *, channel_group: int, element_bytes: int) -> tuple[Demand, ...]:
    """Demand of each operation of a layer, in the order in which the operations run."""
    return tuple(demand(part, channel_group=channel_group, element_bytes=element_bytes) for part in operations(layer))


def demand(operation: Operation, *, channel_group: int, element_bytes: int) -> Demand:
    """The demand of one operation."""
    inputs, outputs = (_padding(channels, channel_group) for channels in (operation.inputs, operation.outputs))
    # A depthwise operation has one input channel for each output channel. So its MACs are rounded up only once.
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
    """Factor on the channels when they are rounded up to whole groups. 1 if `channels` is 0, as for the image."""
    if channels == 0:
        return 1.0
    return math.ceil(channels / group) * group / channels


def _price(coefficients: Coefficients, name: CoefficientName) -> float:
    value = getattr(coefficients, name)
    assert isinstance(value, float)
    return value


def _outside(coverage: float, rows: int) -> int:
    """Rank of the sorted end that bounds an interval of this coverage. 1 is the outermost end, 0 means too few rows."""
    # The small addition keeps a product such as 0.1 * 10 from becoming 0.9999.
    return math.floor((1 - coverage) * (rows + 1) + 1e-9)
