"""How an accuracy table comes to be: a kernel learnt from the networks of others, then the rows of the family itself.

The kernel never sees a row of the family. It is the mode of its posterior: the likelihood of the accuracies of other
networks, times a prior that expects every trait to matter a little. The prior makes the mode the same from every start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.stats import kendalltau

from nas.accuracy.process import Kernel, Labels, covariance
from nas.accuracy.table import INTERVAL, Errors, Published, Row
from nas.accuracy.traits import TRAITS
from nas.errors import InputError

__all__ = ["fit_kernel", "fit_published"]

Array = npt.NDArray[np.float64]

# Prior of the kernel: median of each size and length, and the standard deviation of its logarithm.
_LINEAR, _CURVE, _LENGTH = (0.3, 1.0), (0.5, 0.7), (3.0, 0.7)
_OTHERS = {
    "family": (0.25, 0.7),
    "family_curve": (0.2, 0.7),
    "family_length": (2 / 3, 0.7),
    "recipe": (0.15, 0.7),
    "distilled": (0.2, 0.7),
    "network": (0.15, 0.7),
    "noise": (0.05, 0.7),
}
_DIGITS = 5


def fit_published(
    others: Sequence[Row], own: Sequence[Row], *, axes: Mapping[str, str], seed: int | None = None
) -> Published:
    """Learn from published accuracies; about ten seconds for 500 networks.

    Args:
        others: networks of other families. The kernel is learnt from these alone.
        own: networks of the family, which is left out of the kernel.
        axes: for each row of the family by name: what it varies, such as `depth`. Rows of one axis are left out
            together.
        seed: start of the optimizer; None for the middle of the prior. The result should not depend on it.
    Raises:
        InputError: a row of the family has no axis.
    """
    if missing := [row.name for row in own if row.name not in axes]:
        raise InputError(f"no axis for {', '.join(missing)}")
    matrix = np.asarray([row.traits for row in others])
    centre, scale = _rounded(matrix.mean(0)), _rounded(np.maximum(matrix.std(0), 1e-6))
    targets = Published.target(np.asarray([row.top1 for row in others]))
    kernel = fit_kernel(
        (matrix - centre) / scale,
        Published.labels(others),
        (targets - targets.mean()) / targets.std(),
        seed=seed,
    )
    published = Published(
        traits=TRAITS,
        centre=tuple(centre),
        scale=tuple(scale),
        target_centre=float(_rounded(targets.mean())),
        target_scale=float(_rounded(targets.std())),
        kernel=kernel,
        widening=1.0,
        rows=(*others, *own),
        errors={},
    )
    return _checked(published, others, own, axes)


def _checked(published: Published, others: Sequence[Row], own: Sequence[Row], axes: Mapping[str, str]) -> Published:
    """The same with its errors, and intervals as wide as the errors of families left out ask for."""
    alone = published.with_rows(others)
    families = [row.family for row in others]
    mean, deviation = alone.process.leave_out(families)
    misses = np.abs(mean - alone.process.targets) / deviation
    widening = float(_rounded(np.quantile(misses, 0.9) / INTERVAL))
    published = published.model_copy(update={"widening": widening})
    alone = published.with_rows(others)
    own_groups = {
        "each row of the family left out": [f"{number}" for number in range(len(own))],
        "each axis of the family left out": [axes[row.name] for row in own],
    }
    errors = {
        "each family left out": _errors([row.top1 for row in others], *alone.left_out(families)),
        "no row of the family seen": _errors([row.top1 for row in own], *alone.foretold(own)),
    }
    for name, groups in own_groups.items():
        top1, low, high = published.left_out([*(f"other {i}" for i in range(len(others))), *groups])
        start = len(others)
        errors[name] = _errors([row.top1 for row in own], top1[start:], low[start:], high[start:])
    return published.model_copy(update={"errors": errors})


def _errors(known: Sequence[float], top1: Array, low: Array, high: Array) -> Errors:
    truth = np.asarray(known)
    misses = np.abs(top1 - truth)
    return Errors(
        networks=len(truth),
        mean=float(_rounded(misses.mean())),
        worst=float(_rounded(misses.max())),
        tau=float(_rounded(kendalltau(top1, truth).statistic)),
        covered=float(_rounded(((low <= truth) & (truth <= high)).mean())),
    )


def fit_kernel(traits: Array, labels: Labels, targets: Array, *, seed: int | None = None) -> Kernel:
    """The most probable kernel.

    Args:
        traits: standardised, (N, T).
        labels: of the same networks.
        targets: standardised, (N,).
        seed: start from a random draw of the prior instead of its middle.
    """
    width = traits.shape[1]
    medians = [_LINEAR] * width + [_CURVE] + [_LENGTH] * width + list(_OTHERS.values())
    middle, spread = np.log([median for median, _ in medians]), np.asarray([spread for _, spread in medians])
    start = middle if seed is None else middle + spread * np.random.default_rng(seed).normal(size=len(middle))
    problem = _Problem(traits=traits, labels=labels, targets=targets, middle=middle, spread=spread)
    found = minimize(problem.loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-12})
    return problem.kernel(_rounded(np.exp(found.x)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """The negative logarithm of a kernel's posterior density, over the logarithms of its numbers."""

    traits: Array
    labels: Labels
    targets: Array
    middle: Array
    spread: Array

    def kernel(self, values: Array) -> Kernel:
        width = self.traits.shape[1]
        others = dict(zip(_OTHERS, values[2 * width + 1 :], strict=True))
        return Kernel(
            linear=tuple(values[:width]),
            curve=values[width],
            lengths=tuple(values[width + 1 : 2 * width + 1]),
            **others,
        )

    def loss(self, logarithms: Array) -> tuple[float, Array]:
        """The loss and its gradient."""
        x, n = self.traits, len(self.targets)
        # Not rounded: the loss would be a staircase, and its gradient wrong.
        kernel = self.kernel(np.exp(logarithms))
        own = covariance(kernel, x, self.labels, x, self.labels) + kernel.noise**2 * np.eye(n)
        factor = cho_factor(own, lower=True)
        weights: Array = cho_solve(factor, self.targets)
        away = (logarithms - self.middle) / self.spread
        loss = self.targets @ weights / 2 + np.log(np.diag(factor[0])).sum() + (away**2).sum() / 2
        # Derivative by the covariance, times two.
        by = cho_solve(factor, np.eye(n)) - np.outer(weights, weights)
        family, recipe, network = (
            names[:, None] == names for names in (self.labels.family, self.labels.recipe, self.labels.network)
        )
        distilled = np.outer(self.labels.distilled, self.labels.distilled)
        scaled = x / np.asarray(kernel.lengths)
        squares = (scaled**2).sum(1)
        distance = np.maximum(squares[:, None] + squares - 2 * scaled @ scaled.T, 0)
        curve = kernel.curve**2 * np.exp(-distance / 2)
        shorter = kernel.family_length**2
        own_curve = family * kernel.family_curve**2 * np.exp(-distance / (2 * shorter))
        bends = by * (curve + own_curve / shorter)
        gradient = np.concatenate(
            [
                np.asarray(kernel.linear) ** 2 * ((by @ x) * x).sum(0),
                [(by * curve).sum()],
                ((bends.sum(1)[:, None] * scaled**2).sum(0) - ((bends @ scaled) * scaled).sum(0)),
                [
                    kernel.family**2 * by[family].sum(),
                    (by * own_curve).sum(),
                    (by * own_curve * distance).sum() / (2 * shorter),
                    kernel.recipe**2 * by[recipe].sum(),
                    kernel.distilled**2 * (by * distilled).sum(),
                    kernel.network**2 * by[network].sum(),
                    kernel.noise**2 * np.trace(by),
                ],
            ]
        )
        return float(loss), gradient + away / self.spread


def _rounded(values: npt.ArrayLike) -> Array:
    """To some significant digits, so that a table is equal on every machine and reads well."""
    array = np.asarray(values, dtype=np.float64)
    digits = _DIGITS - 1 - np.floor(np.log10(np.abs(np.where(array == 0, 1, array))))
    factor = 10.0**digits
    return np.asarray(np.round(array * factor) / factor)
