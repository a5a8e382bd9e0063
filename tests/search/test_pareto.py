from __future__ import annotations

from nas.search import hypervolume, undominated

Point = tuple[float, float]


def front(points: list[Point]) -> list[Point]:
    return undominated(points, latency=lambda point: point[0], score=lambda point: point[1])


def test_dominated_points_are_left_out_and_the_fastest_comes_first() -> None:
    points = [(3.0, 0.7), (1.0, 0.5), (2.0, 0.5), (2.5, 0.4), (4.0, 0.7)]

    assert front(points) == [(1.0, 0.5), (3.0, 0.7)]


def test_of_equal_latencies_the_better_score_stays() -> None:
    assert front([(1.0, 0.5), (1.0, 0.6)]) == [(1.0, 0.6)]


def test_nothing_has_an_empty_front() -> None:
    assert front([]) == []


def test_hypervolume_counts_each_area_once() -> None:
    points = [(1.0, 0.5), (3.0, 0.7), (2.0, 0.4)]

    assert hypervolume(points, latency_limit=4.0, score_floor=0.0) == 3 * 0.5 + 1 * 0.2


def test_points_beyond_the_limits_add_nothing() -> None:
    assert hypervolume([(5.0, 0.9), (1.0, 0.1)], latency_limit=4.0, score_floor=0.2) == 0.0
