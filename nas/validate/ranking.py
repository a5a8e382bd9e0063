"""How well two rankings agree, and how repeatable the scores behind a ranking are."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "bootstrap_interval",
    "deviation_by_chance",
    "deviation_within_seeds",
    "kendall_tau_b",
    "lead_interval",
    "pooled_deviation",
]

_RESAMPLES = 2000
_FEW = 1000  # items whose pairs fit into the memory


def kendall_tau_b(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Kendall's tau-b along the last axis; nan if either side is all ties.

    Two long rankings take memory and time in n log n; others in n^2.

    Examples:
        >>> float(kendall_tau_b([1, 2, 3], [10, 30, 20])).__round__(3)
        0.333
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim == second.ndim == 1 and len(first) > _FEW:
        from scipy.stats import kendalltau  # 2 s to load

        return np.asarray(kendalltau(first, second).statistic, dtype=np.float64)
    signs = [np.sign(values[..., :, None] - values[..., None, :]) for values in (first, second)]
    agreement = (signs[0] * signs[1]).sum((-2, -1))
    pairs = [np.abs(sign).sum((-2, -1), dtype=np.float64) for sign in signs]
    with np.errstate(invalid="ignore"):
        return np.asarray(agreement / np.sqrt(pairs[0] * pairs[1]), dtype=np.float64)


def bootstrap_interval(
    first: Sequence[float], second: Sequence[float], *, coverage: float = 0.95
) -> tuple[float, float] | None:
    """Interval of Kendall's tau-b by a percentile bootstrap over the items; None for fewer than three items."""
    if len(first) < 3:
        return None
    drawn = _resamples(len(first))
    return _interval(kendall_tau_b(np.asarray(first)[drawn], np.asarray(second)[drawn]), coverage)


def lead_interval(
    first: Sequence[float], others: Sequence[Sequence[float]], truth: Sequence[float], *, coverage: float = 0.95
) -> tuple[float, float] | None:
    """Interval of the lead of a ranking: its tau-b against the truth less the highest tau-b of some other rankings.

    A paired percentile bootstrap: all rankings are compared on the same resampled items. The best of the others is
    chosen again in every resample. To choose it once, on all items, is less strict: in every resample the lead over
    that one ranking is at least the lead over the best of that resample, so both ends of its interval are at least as
    high as here.

    Args:
        first: values of the ranking, one an item.
        others: values of each other ranking, at least one.
        truth: what all of them should agree with.
        coverage: of the interval.
    Returns:
        Both ends. None for fewer than three items, or if no resample has a defined tau.
    """
    if len(first) < 3:
        return None
    drawn = _resamples(len(first))
    true = np.asarray(truth)[drawn]
    rivals = np.stack([kendall_tau_b(np.asarray(other)[drawn], true) for other in others])
    best = np.where(np.isnan(rivals), -np.inf, rivals).max(0)  # a ranking that is all ties in a resample does not count
    leads = kendall_tau_b(np.asarray(first)[drawn], true) - best
    return _interval(leads[np.isfinite(leads)], coverage)


def _resamples(items: int) -> npt.NDArray[np.int64]:
    """Items drawn with replacement, one resample a row; always the same, so that comparisons are paired."""
    return np.random.default_rng(0).integers(items, size=(_RESAMPLES, items))


def _interval(values: npt.NDArray[np.float64], coverage: float) -> tuple[float, float] | None:
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    low, high = np.quantile(values, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def deviation_by_chance(truth: Iterable[float]) -> float | None:
    """Standard deviation of Kendall's tau-b of a random order without ties: how far tau goes from 0 by chance.

    For n different values it is sqrt(2 (2 n + 5) / (9 n (n - 1))): 0.23 for eleven and 0.32 for seven. Ties widen it:
    with two pairs of equal accuracies among the eleven published networks it is 0.24. The variance with ties is that of
    Kendall, Rank Correlation Methods, chapter 4.

    Args:
        truth: the values that the random order is compared with.
    Returns:
        The deviation. None if all values are equal.

    Examples:
        >>> round(deviation_by_chance(range(7)), 3)
        0.317
    """
    ties = Counter(truth).values()
    n = sum(ties)
    variance = (_spread(n) - sum(map(_spread, ties))) / 18
    untied = n * (n - 1) - sum(tie * (tie - 1) for tie in ties)  # twice the number of pairs that differ
    return math.sqrt(4 * variance / (untied * n * (n - 1))) if untied else None


def _spread(n: int) -> int:
    return n * (n - 1) * (2 * n + 5)


def pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation within groups, each around its own mean; None if no group has two values.

    Examples:
        >>> pooled_deviation([[1.0, 3.0], [5.0, 5.0, 5.0]])
        0.816496580927726
    """
    squares, freedom = 0.0, 0
    for group in groups:
        if group:
            mean = statistics.fmean(group)
            squares += math.fsum((value - mean) ** 2 for value in group)
            freedom += len(group) - 1
    return math.sqrt(squares / freedom) if freedom else None


def deviation_within_seeds(networks: Iterable[Mapping[int, float]]) -> float | None:
    """Standard deviation over seeds of one score, without the effect that a seed has on all networks alike.

    A search scores all networks under one seed. This is the noise in the order of such scores.

    Args:
        networks: scores by seed. A network that lacks the score of a seed does not count.
    Returns:
        The deviation, from the residuals of a two-way layout. None for fewer than two seeds or networks.

    Examples:
        >>> deviation_within_seeds([{0: 1.0, 1: 2.0}, {0: 5.0, 1: 6.0}])  # seed 1 gives one more to both
        0.0
    """
    groups = list(networks)
    seeds = sorted({seed for group in groups for seed in group})
    complete = [[group[seed] for seed in seeds] for group in groups if len(group) == len(seeds)]
    if len(complete) < 2 or len(seeds) < 2:
        return None
    scores = np.asarray(complete)
    residuals = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    return math.sqrt((residuals**2).sum() / ((len(complete) - 1) * (len(seeds) - 1)))
