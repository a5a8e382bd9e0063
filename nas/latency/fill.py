"""Interpolation between measured layers: values for layers that were not measured, and outliers among measured layers.

Each kind of layer has its own Gaussian process (Rasmussen and Williams, 2006, chapters 2 and 5), which predicts the
logarithm of the time. The process is a power law in multiply-adds and memory traffic, plus a smooth function of the
layer's own numbers. Each prediction has a standard deviation. Leave-one-out over the measured layers checks these
standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from nas.latency.entries import Filled
from nas.networks import AttentionSpec, Layer, operations

__all__ = ["fewest", "fill", "measuring_order", "too_slow"]

_Array = npt.NDArray[np.float64]

# A kind with at most this many layers is measured completely. Such kinds are stems and heads, which every network has.
_FEW = 12
_FEWEST = 4  # smallest number of measured layers that an interpolation needs
# Largest number of points used to fit the scales (hyperparameters) of a process. For 720 layers, the fit then takes a
# second instead of a minute.
_FOR_SCALES = 200
_Z90 = 1.645

# A measured layer is an outlier if it is slower than the other layers predict, by more than both limits.
_STANDS_OUT = 2.5  # standard deviations
_STANDS_OUT_SHARE = 0.015

# Priors of the process: intercept, power of MACs, power of traffic. They suit times from fractions of a millisecond to
# seconds.
_PRIOR_MEAN = np.array([0.0, 0.5, 0.5])
_PRIOR_VARIANCE = np.array([100.0, 0.25, 0.25])
_LENGTH = 2.0  # expected length scale of the standardised numbers


def measuring_order(layers: Iterable[Layer]) -> list[Layer]:
    """Order the layers so that the first n layers cover all layers evenly, for any n.

    All layers of the kinds with few layers come first. Next come, for each other kind, as many layers as an
    interpolation needs. After these, the kinds take turns in proportion to their size. Within a kind, the next layer is
    always the layer farthest from all layers before it. The order depends on the layers alone, so a resumed build has
    the same order.
    """
    kinds = _by_kind(layers)
    few = [layer for members in kinds.values() if len(members) <= _FEW for layer in members]
    ranked: list[tuple[float, str, Layer]] = []
    for name, members in kinds.items():
        if len(members) > _FEW:
            for position, index in enumerate(_farthest_first(_encode(members, members))):
                share = 0.0 if position < _FEWEST else (position + 0.5) / len(members)
                ranked.append((share, name, members[index]))
    return few + [layer for _, _, layer in sorted(ranked, key=lambda item: item[:2])]


def fewest(order: Sequence[Layer]) -> int:
    """Number of layers to measure from the start of a measuring order so that the others can be filled in."""
    kinds = _by_kind(order).values()
    return sum(len(members) if len(members) <= _FEW else _FEWEST for members in kinds)


def fill(measured: Mapping[Layer, float], wanted: Iterable[Layer]) -> dict[Layer, Filled]:
    """Values for layers that were not measured.

    Args:
        measured: milliseconds of measured layers.
        wanted: layers to fill in. A layer gets no value if too few layers of its kind were measured.
    Returns:
        A value with its 90 % prediction interval for each layer that could be filled in.
    """
    known = _by_kind(measured)
    filled: dict[Layer, Filled] = {}
    for kind, members in _by_kind(wanted).items():
        seen = known.get(kind, [])
        if len(seen) < _FEWEST:
            continue
        everything = [*seen, *members]
        process = _Process(
            _encode(seen, everything), _basis(seen), np.log(np.array([measured[layer] for layer in seen]))
        )
        means, deviations = process.predict(_encode(members, everything), _basis(members))
        for layer, mean, deviation in zip(members, means, deviations, strict=True):
            low, middle, high = (round(math.exp(mean + z * deviation), 6) for z in (-_Z90, 0.0, _Z90))
            filled[layer] = Filled(filled_ms=middle, low_ms=low, high_ms=high)
    return filled


def too_slow(measured: Mapping[Layer, float]) -> list[Layer]:
    """Outliers: layers that take longer than the other layers of their kind predict, the largest outlier first.

    Another program may have run during the whole timing of such a layer. The layer's own runs cannot show that.

    Args:
        measured: milliseconds of measured layers.
    """
    found: dict[Layer, float] = {}
    for members in _by_kind(measured).values():
        if len(members) > _FEW:
            times = np.log(np.array([measured[layer] for layer in members]))
            residuals, deviations = _Process(_encode(members, members), _basis(members), times).left_out()
            for layer, residual, deviation in zip(members, residuals, deviations, strict=True):
                if residual > max(_STANDS_OUT * deviation, _STANDS_OUT_SHARE):
                    found[layer] = float(residual / deviation)
    return sorted(found, key=lambda layer: -found[layer])


class _Process:
    """A Gaussian process on N layers with D numbers each and 3 basis functions.

    Args:
        x: (N, D) encoded layers.
        basis: (N, 3).
        y: (N,) logarithms of times.
    """

    def __init__(self, x: _Array, basis: _Array, y: _Array) -> None:
        # The cost grows with the cube of the number of points. A part of the points is enough to fit the scales.
        part = slice(None, None, math.ceil(len(x) / _FOR_SCALES))
        self._x, self._basis, self._residual = x[part], basis[part], (y - basis @ _PRIOR_MEAN)[part]
        # Logarithms of the standard deviations of the smooth function and of the noise, then of the length scales.
        start = np.log([0.1, 0.01, *[_LENGTH] * x.shape[1]])
        bounds = np.log([(0.005, 2.0), (0.003, 0.1), *[(0.3, 100.0)] * x.shape[1]])
        best = minimize(self._loss, start, method="L-BFGS-B", bounds=bounds.tolist(), options={"maxiter": 60})
        self._theta: _Array = best.x
        self._x, self._basis, self._residual = x, basis, y - basis @ _PRIOR_MEAN
        self._factor, self._weights = self._solve(self._theta)
        residuals, deviations = self.left_out()
        # Ratio of the leave-one-out errors to their expected standard deviations, at least 1. It widens the intervals.
        self._widening = max(1.0, float(np.sqrt(((residuals / deviations) ** 2).mean())))

    def predict(self, x: _Array, basis: _Array) -> tuple[_Array, _Array]:
        """(M,) means and (M,) standard deviations of the logarithms of the times of M other layers."""
        cross = self._covariance(x, self._x, basis, self._basis, self._theta)  # (M, N)
        means = basis @ _PRIOR_MEAN + cross @ self._weights
        prior = np.exp(2 * self._theta[0]) + basis**2 @ _PRIOR_VARIANCE
        explained = (cross * cho_solve(self._factor, cross.T).T).sum(axis=1)
        variance = np.maximum(prior - explained, 0) + np.exp(2 * self._theta[1])
        return means, np.sqrt(variance) * self._widening

    def left_out(self) -> tuple[_Array, _Array]:
        """(N,) leave-one-out errors of the logarithms of times, and (N,) their expected standard deviations.

        Rasmussen and Williams, equations 5.10 to 5.12.
        """
        precision = np.diag(cho_solve(self._factor, np.eye(len(self._x))))
        return self._weights / precision, 1 / np.sqrt(precision)

    def _loss(self, theta: _Array) -> float:
        """Negative logarithm of the posterior of the scales."""
        try:
            factor, weights = self._solve(theta)
        except np.linalg.LinAlgError:
            return 1e6
        fit = 0.5 * float(self._residual @ weights) + float(np.log(np.diag(factor[0])).sum())
        return fit + 0.5 * float(((theta[2:] - math.log(_LENGTH)) ** 2).sum())

    def _solve(self, theta: _Array) -> tuple[tuple[_Array, bool], _Array]:
        covariance = self._covariance(self._x, self._x, self._basis, self._basis, theta)
        covariance += np.exp(2 * theta[1]) * np.eye(len(self._x))
        factor = cho_factor(covariance, lower=True)
        return factor, cho_solve(factor, self._residual)

    def _covariance(self, x: _Array, other: _Array, basis: _Array, other_basis: _Array, theta: _Array) -> _Array:
        lengths = np.exp(theta[2:])
        squared = (((x[:, None] - other[None]) / lengths) ** 2).sum(axis=-1)
        smooth: _Array = np.exp(2 * theta[0]) * np.exp(-0.5 * squared)
        linear: _Array = basis * _PRIOR_VARIANCE @ other_basis.T
        return smooth + linear


def _by_kind(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    kinds: dict[str, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault(type(layer).__name__, []).append(layer)
    return kinds


def _numbers(layer: Layer) -> dict[str, Any]:
    """Every field of a layer and of its attention, by name."""
    found: dict[str, Any] = {}
    for field in fields(layer):
        value = getattr(layer, field.name)
        found |= value.model_dump(exclude={"type"}) if isinstance(value, AttentionSpec) else {field.name: value}
    return found


def _encode(layers: Sequence[Layer], everything: Sequence[Layer]) -> _Array:
    """The layers as numbers, (N, D).

    A field of positive numbers becomes one column: their standardised logarithms. Any other field is one-hot encoded,
    without a column for its first value. A field that is constant over `everything` carries no information and gets no
    column.
    """
    rows = [_numbers(layer) for layer in layers]
    all_rows = [_numbers(layer) for layer in everything]
    columns: list[_Array] = []
    for name in all_rows[0]:
        values = [row[name] for row in all_rows]
        if len(set(values)) == 1:
            continue
        if all(isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values):
            logarithms = np.log(np.array(values, dtype=float))
            own = np.log(np.array([row[name] for row in rows], dtype=float))
            columns.append((own - logarithms.mean()) / logarithms.std())
        else:
            columns += [
                np.array([float(str(row[name]) == value) for row in rows])
                for value in sorted(set(map(str, values)))[1:]
            ]
    return np.stack(columns, axis=1) if columns else np.zeros((len(layers), 0))


def _basis(layers: Sequence[Layer]) -> _Array:
    """(N, 3): 1, the logarithm of the MACs / 10^6, and the logarithm of the elements read and written / 10^6."""
    rows = []
    for layer in layers:
        parts = operations(layer)
        macs = sum(part.macs for part in parts)
        traffic = sum(part.reads + part.writes + part.weights for part in parts)
        rows.append([1.0, math.log(macs / 1e6), math.log(traffic / 1e6)])
    return np.array(rows)


def _farthest_first(x: _Array) -> list[int]:
    """Indices: first the point farthest from the mean, then always the point farthest from all points before it."""
    order = [int(np.argmax(((x - x.mean(axis=0)) ** 2).sum(axis=1)))]
    distance = ((x - x[order[0]]) ** 2).sum(axis=1)
    while len(order) < len(x):
        distance[order[-1]] = -1.0
        order.append(int(np.argmax(distance)))
        distance = np.minimum(distance, ((x - x[order[-1]]) ** 2).sum(axis=1))
    return order
