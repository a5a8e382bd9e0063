"""The fit of a cost model to published end-to-end times. It needs no device.

The points file describes every published network completely. So anyone can repeat the fit::

    nas table calibrate latency_tables/iphone13.points.csv --out iphone13.coreml.fp16.json

The fit is the maximum a posteriori estimate: the most probable coefficients given the published times and the priors.
The priors are log-normal around public specifications of the device (`PRIORS`). No prior is derived from the times.
Priors are needed because about 17 times cannot determine seven coefficients. If the times contain no information about
a coefficient, the coefficient keeps its value from the specification.

Baselines are mobile networks of other authors that were timed on the same device. They enter the fit with little
weight. A file beside their times holds their operations, which were traced once from timm
(`tests/benchmarks/trace_baselines.py`). A baseline that the model predicts badly hardly changes the fit
(`BASELINE_UNCERTAINTY`, `BASELINE_FREEDOM`). Errors and intervals are computed only from the networks of the family.
"""

from __future__ import annotations

import datetime
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from nas.errors import InputError
from nas.latency.cost_model import (
    CoefficientName,
    Coefficients,
    CostModel,
    Demand,
    FitRow,
    PublishedRow,
    demand,
    jackknife_plus,
)
from nas.latency.entries import Provenance, PublishedTime
from nas.latency.published import (
    Baseline,
    PublishedPoint,
    operations_beside,
    read_baselines,
    read_operations,
    read_points,
)
from nas.latency.table import LatencyTable
from nas.networks import Operation, operations

__all__ = [
    "PRIORS",
    "Evidence",
    "Prior",
    "calibrate",
    "iphone13_table",
]

COVERAGE = 0.9
CHANNEL_GROUP = 32  # 64 bytes of fp16, the alignment of the Neural Engine's buffers
ELEMENT_BYTES = 2  # fp16
OVERLAP = 4.0
# The relative error of a baseline follows Student's t with this scale and these degrees of freedom. A baseline is
# uncertain for three reasons: it has other authors, its time may come from another measurement campaign, and the model
# was not made for its operations. The heavy tails allow for a network that falls back from the Neural Engine.
# latency_tables/README.md compares other values.
BASELINE_UNCERTAINTY = 0.1
BASELINE_FREEDOM = 4.0
_DIGITS = 6  # significant digits in the file; results of different machines agree to more digits
_FEWEST_ROWS = 10  # a 90 % interval needs nine rows, and the check of its coverage leaves one row out

_NO_FIT = "no cost model fits the published times: look for rows with absurd times, uncertainties or widths"
_Array = npt.NDArray[Any]
_NAMES: tuple[CoefficientName, ...] = get_args(CoefficientName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Prior distribution of a coefficient, before any published time is used.

    The coefficient is `floor + (typical - floor) * exp(spread * z)` with z standard normal. So the coefficient is
    always above `floor`.
    """

    typical: float
    spread: float
    floor: float = 0.0


# Public specifications of the iPhone 13's A15 chip, used only as priors. The Neural Engine has 15.8 TOPS, which is
# 7.9e12 multiply-adds a second. The 64-bit LPDDR4X-4266 memory has 34.1 GB/s. All other values are rough orders of
# magnitude.
_PEAK_MS_PER_GMAC = 1 / 7.9
PRIORS: Mapping[CoefficientName, Prior] = MappingProxyType(
    {
        # Half the peak speed. The spread is a factor of two (e^0.7) in the time above the floor.
        "dense_ms_per_gmac": Prior(typical=2 * _PEAK_MS_PER_GMAC, spread=0.7, floor=_PEAK_MS_PER_GMAC),
        # An eighth of the peak speed.
        "low_reuse_ms_per_gmac": Prior(typical=8 * _PEAK_MS_PER_GMAC, spread=1.0, floor=_PEAK_MS_PER_GMAC),
        # The full speed of the memory. The 32 MB system cache may deliver weights faster.
        "memory_ms_per_mb": Prior(typical=1 / 34.1, spread=0.7),
        # Twice the speed of the memory, because the activations stay on the chip.
        "stream_ms_per_mb": Prior(typical=0.5 / 34.1, spread=1.0),
        # A convolution does this work while it writes its output, so most of the time is hidden.
        "fused_ms_per_mb": Prior(typical=0.17 / 34.1, spread=1.0),
        # About a thousand cycles at about 1 GHz.
        "dispatch_ms": Prior(typical=0.001, spread=1.0),
        # A call through the driver to another processor and back.
        "overhead_ms": Prior(typical=0.1, spread=1.0),
    }
)


def calibrate(points: Path, baselines: Path | None = None) -> CostModel:
    """Fit a cost model to the rows with `yes` in the column `fit`. Takes a few seconds.

    Args:
        points: file of published networks of the family.
        baselines: file of published networks of other authors. A file beside it holds their operations. If None, the
            model is fitted only to the points.

    Raises:
        InputError: a file cannot be used, or too few rows of the points have `yes` in the column `fit`.
    """
    rows = [point for point in read_points(points) if point.fit == "yes"]
    if len(rows) < _FEWEST_ROWS:
        raise InputError(f"{points}: column fit: at least {_FEWEST_ROWS} rows must say yes, got {len(rows)}")
    others = _fitted_baselines(baselines) if baselines else {}
    evidence = Evidence.of(rows, others)
    everything = np.arange(len(rows) + len(others))
    coefficients = evidence.fit(everything)
    left_out = [evidence.fit(np.delete(everything, index)) for index in range(len(rows))]
    predicted = evidence.predict(coefficients)
    fit_rows = tuple(
        FitRow(
            name=row.name,
            published_ms=row.latency_ms,
            predicted_ms=_rounded(predicted[index]),
            left_out_ms=_rounded(evidence.predict(left_out[index])[index]),
            left_out=_named(left_out[index]),
        )
        for index, row in enumerate(rows)
    )
    fit_errors = [abs(row.fit_error) for row in fit_rows]
    left_out_errors = [abs(row.left_out_error) for row in fit_rows]
    return CostModel(
        coefficients=_named(coefficients),
        overlap=OVERLAP,
        channel_group=CHANNEL_GROUP,
        element_bytes=ELEMENT_BYTES,
        coverage=COVERAGE,
        observed_coverage=_rounded(_observed_coverage(evidence, rows)),
        fit_error_mean=_rounded(float(np.mean(fit_errors))),
        fit_error_worst=_rounded(max(fit_errors)),
        left_out_error_mean=_rounded(float(np.mean(left_out_errors))),
        left_out_error_worst=_rounded(max(left_out_errors)),
        rows=fit_rows,
        baselines=tuple(
            PublishedRow(name=other.name, published_ms=other.latency_ms, predicted_ms=_rounded(value))
            for other, value in zip(others, predicted[len(rows) :], strict=True)
        ),
    )


def iphone13_table(points: Path, baselines: Path | None = None) -> LatencyTable:
    """The latency table of the iPhone 13: no entries, a fitted model for all layers, and the published times.

    Raises:
        InputError: a file cannot be used.
    """
    published = {
        point.architecture().id: PublishedTime(
            name=point.name,
            latency_ms=point.latency_ms,
            top1=point.top1,
            source=f"arXiv:2501.15369, {point.source}{'' if point.timed == 'network' else '; without the classifier'}",
        )
        for point in read_points(points)
        if point.fit == "yes"
    }
    provenance = Provenance(
        source="calibrated",
        device="iPhone 13",
        os="iOS 17.7",
        runtime="Core ML",
        versions={"coremltools": "8.1", "torch": "2.1", "Xcode": "15.4"},
        precision="fp16",
        protocol="per-layer model fitted to published medians of whole networks (Xcode performance tab, compute units "
        "all; iFormer, arXiv:2501.15369); nothing was measured here",
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    )
    return LatencyTable(provenance=provenance, model=calibrate(points, baselines), published=published)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The published networks as arrays: R rows (points, then baselines), D distinct demands, K coefficients.

    Attributes:
        counts: (R, D), how often each demand occurs in each network.
        streams: (D, 3, K), amounts of arithmetic, activations and weights. Each amount is at the index of the
            coefficient that gives its cost. The other elements are 0.
        steps: (D, K), 1 at the index of the dispatch coefficient if the demand pays for a dispatch. Otherwise 0.
        published_ms: (R,), published times.
        uncertainty: (R,), relative uncertainty of the published times.
        forgiven: (R,), True if the error follows Student's t, False if it follows a normal distribution.
    """

    counts: _Array
    streams: _Array
    steps: _Array
    published_ms: _Array
    uncertainty: _Array
    forgiven: _Array

    @classmethod
    def of(
        cls,
        points: Sequence[PublishedPoint],
        baselines: Mapping[Baseline, Mapping[Operation, int]] = MappingProxyType({}),
    ) -> Self:
        """Build the arrays: one row for each point, then one row for each baseline.

        Args:
            points: networks of the family.
            baselines: network of other authors -> its operations, and how often each operation occurs.
        """
        family = [Counter(part for layer in point.timed_layers() for part in operations(layer)) for point in points]
        networks = []
        for parts in (*family, *baselines.values()):
            network: Counter[Demand] = Counter()
            for part, count in parts.items():
                network[demand(part, channel_group=CHANNEL_GROUP, element_bytes=ELEMENT_BYTES)] += count
            networks.append(network)
        distinct = list(dict.fromkeys(demand for network in networks for demand in network))
        streams = np.zeros((len(distinct), 3, len(_NAMES)))
        steps = np.zeros((len(distinct), len(_NAMES)))
        for index, one in enumerate(distinct):
            if one.arithmetic:
                streams[index, 0, _NAMES.index(one.arithmetic)] = one.gmacs
            streams[index, 1, _NAMES.index(one.traffic)] = one.traffic_mb
            streams[index, 2, _NAMES.index("memory_ms_per_mb")] = one.weights_mb
            steps[index, _NAMES.index("dispatch_ms")] = one.dispatched
        return cls(
            counts=np.array([[network[one] for one in distinct] for network in networks], dtype=float),
            streams=streams,
            steps=steps,
            published_ms=np.array([*(row.latency_ms for row in points), *(row.latency_ms for row in baselines)]),
            uncertainty=np.array([*(point.uncertainty for point in points), *[BASELINE_UNCERTAINTY] * len(baselines)]),
            forgiven=np.arange(len(networks)) >= len(points),
        )

    def predict(self, coefficients: _Array) -> _Array:
        """(R,) predicted times of the networks in ms. This is the vectorized form of `CostModel.network_ms`."""
        return self._predict(coefficients)[0]

    def fit(self, rows: _Array) -> _Array:
        """(K,) most probable coefficients given these rows, rounded to the digits that the file stores."""
        floor = np.array([PRIORS[name].floor for name in _NAMES])
        span = np.array([PRIORS[name].typical for name in _NAMES]) - floor
        spread = np.array([PRIORS[name].spread for name in _NAMES])

        @functools.lru_cache(maxsize=1)  # The solver asks for errors and slopes of the same point, one after the other.
        def predicted_at(z: bytes) -> tuple[_Array, _Array]:
            return self._predict(floor + span * np.exp(spread * np.frombuffer(z)))

        def residuals(z: _Array) -> _Array:
            predicted, _ = predicted_at(z.tobytes())
            errors = np.log(predicted / self.published_ms) / self.uncertainty
            return np.append(np.where(self.forgiven, _forgiven(errors)[0], errors)[rows], z)

        def jacobian(z: _Array) -> _Array:
            above = span * np.exp(spread * z)
            predicted, slopes = predicted_at(z.tobytes())
            errors = np.log(predicted / self.published_ms) / self.uncertainty
            slopes = slopes * np.where(self.forgiven, _forgiven(errors)[1], 1.0)[:, None]
            relative = slopes * above * spread / (predicted * self.uncertainty)[:, None]
            return np.vstack([relative[rows], np.eye(len(_NAMES))])

        start = np.zeros(len(_NAMES))
        try:
            best = least_squares(residuals, start, jac=jacobian, method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14)
        except ValueError as error:  # SciPy meets numbers that are not finite.
            raise InputError(_NO_FIT) from error
        if not best.success:
            raise InputError(_NO_FIT)
        return np.array([_rounded(value) for value in floor + span * np.exp(spread * best.x)])

    def _predict(self, coefficients: _Array) -> tuple[_Array, _Array]:
        """(R,) predicted times in ms, and (R, K) the derivatives of these times with respect to the coefficients."""
        streams = self.streams @ coefficients  # (D, 3)
        together = (streams**OVERLAP).sum(axis=1) ** (1 / OVERLAP)  # (D,)
        weight = (streams / together[:, None]) ** (OVERLAP - 1)  # (D, 3)
        overhead = np.eye(len(_NAMES))[_NAMES.index("overhead_ms")]  # (K,)
        predicted = self.counts @ (together + self.steps @ coefficients) + overhead @ coefficients
        slopes = self.counts @ (np.einsum("ds,dsk->dk", weight, self.streams) + self.steps) + overhead
        return predicted, slopes


def _forgiven(errors: _Array) -> tuple[_Array, _Array]:
    """Transform standardised errors for a least-squares fit with Student's t, and return the derivatives as well.

    The square of a transformed error is twice the loss of Student's t.
    """
    squares = errors**2 / BASELINE_FREEDOM
    # log1p(x) / x tends to 1 at 0. Below the bound, the value is so close to 1 that a computed quotient is only noise.
    shrink = np.sqrt(np.where(squares > 1e-12, np.log1p(squares) / np.maximum(squares, 1e-12), 1.0))
    scale = np.sqrt(1 + 1 / BASELINE_FREEDOM)
    return errors * scale * shrink, scale / (shrink * (1 + squares))


def _fitted_baselines(path: Path) -> dict[Baseline, Counter[Operation]]:
    """The baselines with `yes` in the column `fit`, and their operations."""
    traced = read_operations(operations_beside(path))
    fitted = [row for row in read_baselines(path) if row.fit == "yes"]
    if missing := [row.name for row in fitted if row.name not in traced]:
        raise InputError(
            f"{operations_beside(path)}: has no operations of {', '.join(missing)}; "
            "make the file again with tests/benchmarks/trace_baselines.py"
        )
    return {row: traced[row.name] for row in fitted}


def _observed_coverage(evidence: Evidence, rows: Sequence[PublishedPoint]) -> float:
    """Share of the points inside their intervals. The interval of a point uses only the other rows.

    This is a nested leave-one-out.
    """
    count = len(rows)
    everything = np.arange(len(evidence.published_ms))
    # A fit without i and j does not depend on the order in which the two rows are left out.
    pairs = {
        (i, j): evidence.predict(evidence.fit(np.delete(everything, [i, j]))) for i in range(count) for j in range(i)
    }
    inside = 0
    for index, row in enumerate(rows):
        predicted = evidence.predict(evidence.fit(np.delete(everything, index)))[index]
        left_out = []
        for other, other_row in enumerate(rows):
            if other != index:
                without = pairs[max(index, other), min(index, other)]
                left_out.append((float(without[index]), float(without[other]) / other_row.latency_ms))
        low, high = jackknife_plus(float(predicted), left_out, coverage=COVERAGE)
        inside += low <= row.latency_ms <= high
    return inside / count


def _named(coefficients: _Array) -> Coefficients:
    return Coefficients.model_validate(dict(zip(_NAMES, coefficients.tolist(), strict=True)))


def _rounded(value: float) -> float:
    """Round to the number of digits that the file stores.

    So a rerun on another machine writes the same file, and a reader of the file gets the same numbers.
    """
    return float(f"{value:.{_DIGITS}g}")
