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
from scipy.stats import kendalltau, spearmanr

from nas.accuracy.process import Kernel, Labels, Process, covariance, squared_distance
from nas.accuracy.published import Errors, Published, Row
from nas.accuracy.structure import NUMBERS, numbers
from nas.accuracy.table import AccuracyTable, share_of_trained
from nas.accuracy.trained import Foretelling, Line, ScoredBySupernets, SupernetUsed, Trained, same_labels
from nas.accuracy.traits import TRAITS
from nas.errors import InputError
from nas.networks import Architecture

__all__ = ["WEIGHTS", "errors_of", "fit_kernel", "fit_published", "fit_trained", "weigh"]

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
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the trained part, to choose from
_DRAWS, _LIKELY = 100, 0.1  # random orders of scores, and the share of them that would make it chance
_GROUPS = 6  # of families, for errors of fits that have not seen them
_FEWEST_IN_BAND = 15  # networks of a band, for a rank correlation


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
    return _checked(_published(others, seed=seed), others, own, axes)


def _published(others: Sequence[Row], *, seed: int | None = None) -> Published:
    """What these networks alone say."""
    matrix = np.asarray([row.traits for row in others])
    centre, scale = _scales(matrix)
    targets = Published.target(np.asarray([row.top1 for row in others]))
    kernel = fit_kernel(
        (matrix - centre) / scale,
        Published.labels(others),
        (targets - targets.mean()) / targets.std(),
        seed=seed,
    )
    return Published(
        traits=TRAITS,
        centre=tuple(centre),
        scale=tuple(scale),
        target_centre=float(_rounded(targets.mean())),
        target_scale=float(_rounded(targets.std())),
        kernel=kernel,
        widening=1.0,
        rows=tuple(others),
        errors={},
    )


def _checked(alone: Published, others: Sequence[Row], own: Sequence[Row], axes: Mapping[str, str]) -> Published:
    """The same with the rows of the family, its errors, and intervals as wide as the errors of families left out."""
    known = np.asarray([row.top1 for row in others])
    top1, low, high = _nested(others)
    widening = float(_rounded(np.quantile(np.abs(top1 - known) / ((high - low) / 2), 0.9)))
    alone = alone.model_copy(update={"widening": widening})
    published = alone.with_rows([*others, *own])
    own_groups = {
        "each row of the family left out": [f"{number}" for number in range(len(own))],
        "each axis of the family left out": [axes[row.name] for row in own],
    }
    errors = {
        "each family left out": _errors(
            known.tolist(), top1, top1 - widening * (top1 - low), top1 + widening * (high - top1)
        ),
        "no row of the family seen": _errors([row.top1 for row in own], *alone.foretold(own)),
    }
    for name, groups in own_groups.items():
        top1, low, high = published.left_out([*(f"other {i}" for i in range(len(others))), *groups])
        start = len(others)
        errors[name] = _errors([row.top1 for row in own], top1[start:], low[start:], high[start:])
    return published.model_copy(update={"errors": errors})


def _nested(others: Sequence[Row]) -> tuple[Array, Array, Array]:
    """Every network foretold without its family, by a kernel and scales that have not seen it either.

    The kernel is learnt anew without every sixth family, six times.
    """
    families = [row.family for row in others]
    group = {family: number % _GROUPS for number, family in enumerate(sorted(set(families)))}
    found = [np.empty(len(others)) for _ in range(3)]
    for number in range(_GROUPS):
        published = _published([row for row in others if group[row.family] != number])
        published = published.with_rows(others)
        own = [place for place, family in enumerate(families) if group[family] == number]
        for end, values in zip(found, published.left_out(families), strict=True):
            end[own] = values[own]
    return found[0], found[1], found[2]


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


def fit_trained(
    networks: Sequence[Architecture],
    scores: Mapping[SupernetUsed, Mapping[str, float]],
    *,
    latencies_ms: Sequence[float],
    family: Mapping[str, tuple[str, float]],
) -> Trained:
    """Distil the scores of supernets.

    Args:
        networks: the scored networks.
        scores: by supernet and network id; higher is better. A network that some supernet has not scored is left out.
        latencies_ms: of the networks, for the rank correlation inside bands.
        family: for each published network of the family by name: its id, and its top-1 accuracy in %.
    """
    kept = [n for n, network in enumerate(networks) if all(network.id in own for own in scores.values())]
    ids = [networks[n].id for n in kept]
    values = np.asarray([[own[network_id] for network_id in ids] for own in scores.values()])
    targets = _rounded(((values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)).mean(0))
    matrix = np.round(numbers([networks[n] for n in kept]), _DIGITS)
    centre, scale = _scales(matrix)
    standardised = (matrix - centre) / scale
    kernel = fit_kernel(standardised, same_labels(len(kept)), targets)
    known = dict(zip(ids, targets.tolist(), strict=True))
    own = {name: (known[network_id], top1) for name, (network_id, top1) in family.items() if network_id in known}
    return Trained(
        supernets=tuple(one.model_copy(update={"networks": len(kept)}) for one in scores),
        numbers=NUMBERS,
        centre=tuple(centre),
        scale=tuple(scale),
        kernel=kernel,
        rows=tuple(
            ScoredBySupernets(id=network_id, numbers=tuple(row), score=score)
            for network_id, row, score in zip(ids, matrix.tolist(), targets.tolist(), strict=True)
        ),
        family={name: score for name, (score, _) in own.items()},
        line=Line.through(*(np.asarray(column) for column in zip(*own.values(), strict=True))),
        foretelling=_foretelling(standardised, targets, kernel, np.asarray([latencies_ms[n] for n in kept])),
    )


def _foretelling(matrix: Array, targets: Array, kernel: Kernel, latencies_ms: Array) -> Foretelling:
    """Foretell every fifth network from the others, five times."""
    fold = np.random.default_rng(0).permutation(len(targets)) % 5
    labels, foretold = same_labels(len(targets)), np.empty_like(targets)
    for number in range(5):
        out, seen = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        process = Process(kernel, matrix[seen], labels[seen], targets[seen])
        foretold[out] = process.predict(matrix[out], labels[out])[0]
    bands = np.floor(latencies_ms * 10 + 1e-9).astype(int)
    inside = {
        f"{band / 10:.1f}": float(_rounded(spearmanr(foretold[bands == band], targets[bands == band]).statistic))
        for band in np.unique(bands).tolist()
        if (bands == band).sum() >= _FEWEST_IN_BAND
    }
    overall = float(_rounded(spearmanr(foretold, targets).statistic))
    return Foretelling(networks=len(targets), rank_correlation=overall, in_bands=inside)


def weigh(table: AccuracyTable, axes: Mapping[str, str]) -> AccuracyTable:
    """The table with the weight of its trained part, and the errors of both parts together.

    The weight is one of `WEIGHTS`: that with the least mean squared error on the rows of the family, where all rows of
    an axis are left out together. It only counts if scores in random order do as well in fewer than a tenth of draws;
    else the weight is 0, because a line through few rows pulls predictions to their mean, and that helps by itself.
    """
    weight, chance = 0.0, None
    if table.trained:
        names, scores = list(table.trained.family), list(table.trained.family.values())
        weight, error = _best_weight(table, axes)
        draws = [np.random.default_rng(seed).permutation(scores).tolist() for seed in range(_DRAWS)]
        shuffled = [
            table.model_copy(
                update={"trained": table.trained.model_copy(update={"family": dict(zip(names, draw, strict=True))})}
            )
            for draw in draws
        ]
        chance = sum(_best_weight(one, axes)[1] <= error for one in shuffled) / _DRAWS
        weight = weight if chance < _LIKELY else 0.0
    chosen = table.model_copy(update={"weight": weight, "chance": chance})
    errors = {
        "each row of the family left out": errors_of(chosen, {name: name for name in axes}),
        "each axis of the family left out": errors_of(chosen, axes),
    }
    return chosen.model_copy(update={"errors": errors})


def _best_weight(table: AccuracyTable, axes: Mapping[str, str]) -> tuple[float, float]:
    """The weight with the least mean squared error when axes are left out, and that error."""
    found = table.left_out(axes)
    top1 = {row.name: row.top1 for row in table.published.rows}

    def error(weight: float) -> float:
        misses = []
        for name, one in found.items():
            published, trained, middle = one.parts["published"], one.parts.get("trained"), one.parts["published"].top1
            if trained:
                one_reach, other_reach = (np.asarray([(part.high - part.low) / 2]) for part in (published, trained))
                share = float(share_of_trained(one_reach, other_reach, weight)[0])
                middle = (1 - share) * published.top1 + share * trained.top1
            misses.append((middle - top1[name]) ** 2)
        return float(np.mean(misses))

    best = min(WEIGHTS, key=error)
    return best, error(best)


def errors_of(table: AccuracyTable, groups: Mapping[str, object]) -> Errors:
    """How far the rows of the family are foretold wrong, each without its whole group."""
    found = table.left_out(groups)
    top1 = {row.name: row.top1 for row in table.published.rows if row.name in found}
    low, middle, high = (np.asarray([getattr(found[name], end) for name in found]) for end in ("low", "top1", "high"))
    return _errors([top1[name] for name in found], middle, low, high)


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
        distance = squared_distance(scaled, scaled)
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


def _scales(matrix: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each column; a column that does not vary is divided by next to nothing."""
    return _rounded(matrix.mean(0)), _rounded(np.maximum(matrix.std(0), 1e-6))


def _rounded(values: npt.ArrayLike) -> Array:
    """To some significant digits, so that a table reads well. The last may differ with the number of threads."""
    array = np.asarray(values, dtype=np.float64)
    digits = _DIGITS - 1 - np.floor(np.log10(np.abs(np.where(array == 0, 1, array))))
    factor = 10.0**digits
    return np.asarray(np.round(array * factor) / factor)
