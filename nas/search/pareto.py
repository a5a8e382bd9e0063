"""The Pareto front in latency and score, and its hypervolume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

__all__ = ["hypervolume", "undominated"]

T = TypeVar("T")


def undominated(items: Iterable[T], *, latency: Callable[[T], float], score: Callable[[T], float]) -> list[T]:
    """The items that no other item dominates in latency (lower is better) and score (higher is better), fastest first.

    Of items that are equal in both, the first is kept.

    Example:
        >>> undominated([(1.0, 0.5), (2.0, 0.4), (3.0, 0.7)], latency=lambda p: p[0], score=lambda p: p[1])
        [(1.0, 0.5), (3.0, 0.7)]
    """
    front: list[T] = []
    for item in sorted(items, key=lambda item: (latency(item), -score(item))):
        if not front or score(item) > score(front[-1]):
            front.append(item)
    return front


def hypervolume(points: Sequence[tuple[float, float]], *, latency_limit: float, score_floor: float) -> float:
    """Area that the front of some (latency, score) points dominates, up to `latency_limit` and above `score_floor`.

    Example:
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
