"""How well two rankings agree, and how repeatable the scores behind a ranking are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["bootstrap_interval", "deviation_within_seeds", "kendall_tau_b", "pooled_deviation"]

_RESAMPLES = 2000


def kendall_tau_b(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Kendall's tau-b along the last axis; nan if either side is all ties.

    Example:
        >>> float(kendall_tau_b([1, 2, 3], [10, 30, 20])).__round__(3)
        0.333
    """
    signs = [np.sign(values[..., :, None] - values[..., None, :]) for values in map(np.asarray, (first, second))]
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
    drawn = np.random.default_rng(0).integers(len(first), size=(_RESAMPLES, len(first)))
    taus = kendall_tau_b(np.asarray(first)[drawn], np.asarray(second)[drawn])
    taus = taus[~np.isnan(taus)]
    if not taus.size:
        return None
    low, high = np.quantile(taus, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation within groups, each around its own mean; None if no group has two values.

    Example:
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

    Example:
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
