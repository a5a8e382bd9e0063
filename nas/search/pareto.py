"""The Pareto front in latency, score and further costs, and the hypervolume of that in latency and score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

__all__ = ["hypervolume", "undominated"]

T = TypeVar("T")


def undominated(
    items: Iterable[T],
    *,
    latency: Callable[[T], float],
    score: Callable[[T], float],
    costs: Sequence[Callable[[T], float]] = (),
) -> list[T]:
    """The items that no other item dominates in latency (lower is better), score (higher is better) and further costs.

    An item dominates another if it is no worse in any of them and better in one. Of items that are equal in all, the
    first is kept.

    Args:
        items: the items.
        latency: of an item.
        score: of an item.
        costs: of an item; lower is better. Each is asked for once an item.
    Returns:
        The front, fastest first; of equal latencies the best score first.

    Examples:
        >>> undominated([(1.0, 0.5), (2.0, 0.4), (3.0, 0.7)], latency=lambda p: p[0], score=lambda p: p[1])
        [(1.0, 0.5), (3.0, 0.7)]
        >>> networks = [(1.0, 0.5, 9e6), (2.0, 0.4, 3e6), (3.0, 0.4, 4e6)]  # with parameters
        >>> undominated(networks, latency=lambda p: p[0], score=lambda p: p[1], costs=[lambda p: p[2]])
        [(1.0, 0.5, 9000000.0), (2.0, 0.4, 3000000.0)]
    """
    if costs:
        return _undominated_in_all(list(items), [latency, lambda item: -score(item), *costs])
    front: list[T] = []
    for item in sorted(items, key=lambda item: (latency(item), -score(item))):
        if not front or score(item) > score(front[-1]):
            front.append(item)
    return front


def _undominated_in_all(items: Sequence[T], costs: Sequence[Callable[[T], float]]) -> list[T]:
    values = np.asarray([[cost(item) for cost in costs] for item in items], dtype=np.float64).reshape(-1, len(costs))
    front: list[int] = []
    known = np.empty_like(values)  # those of the front, in its first rows
    # In this order only an earlier item can dominate. lexsort takes the last key first, and keeps the order of equals.
    for at in np.lexsort(values.T[::-1]):
        if not (known[: len(front)] <= values[at]).all(axis=1).any():
            known[len(front)] = values[at]
            front.append(int(at))
    return [items[at] for at in front]


def hypervolume(points: Sequence[tuple[float, float]], *, latency_limit: float, score_floor: float) -> float:
    """Area that the front of some (latency, score) points dominates, up to `latency_limit` and above `score_floor`.

    Examples:
        >>> hypervolume([(1.0, 0.5), (3.0, 0.7)], latency_limit=4.0, score_floor=0.0)
        1.7
    """
    inside = [point for point in points if point[0] < latency_limit and point[1] > score_floor]
    front = undominated(inside, latency=lambda point: point[0], score=lambda point: point[1])
    area, floor = 0.0, score_floor
    for latency, score in front:
        area += (latency_limit - latency) * (score - floor)
        floor = score
    return area
