from __future__ import annotations

import math
import operator

import numpy as np
import pytest

from nas.search import hypervolume, undominated

Point = tuple[float, float]


def front(points: list[Point]) -> list[Point]:
    return undominated(points, latency=lambda point: point[0], score=lambda point: point[1])


def test_dominated_points_are_left_out_and_the_fastest_comes_first() -> None:
    points = [(3.0, 0.7), (1.0, 0.5), (2.0, 0.5), (2.5, 0.4), (4.0, 0.7)]

    assert front(points) == [(1.0, 0.5), (3.0, 0.7)]


def test_of_equal_latencies_the_better_score_stays() -> None:
    assert front([(1.0, 0.5), (1.0, 0.6)]) == [(1.0, 0.6)]


def front_of(points: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    costs = [lambda point, at=at: point[at] for at in range(2, len(points[0]))]
    return undominated(points, latency=lambda point: point[0], score=lambda point: point[1], costs=costs)


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    no_worse = one[0] <= other[0] and one[1] >= other[1] and all(map(operator.le, one[2:], other[2:]))
    return no_worse and one != other


@pytest.mark.parametrize("number_of_costs", [1, 2, 3])
@pytest.mark.parametrize("levels", [3, 1000])
def test_with_further_costs_it_is_every_point_that_no_other_dominates(number_of_costs: int, levels: int) -> None:
    random = np.random.default_rng(levels + number_of_costs)
    points = [tuple(map(float, one)) for one in random.integers(0, levels, (150, 2 + number_of_costs))]
    kept = {one for one in points if not any(dominates(other, one) for other in points)}
    found = front_of(points)

    assert kept == set(found)
    assert len(kept) == len(found)
    assert [one[0] for one in found] == sorted(one[0] for one in found)


def test_a_cost_that_says_nothing_leaves_the_front_as_it_is() -> None:
    random = np.random.default_rng(0)
    points = [tuple(map(float, one)) for one in random.integers(0, 20, (80, 2))]

    assert front(points) == [one[:2] for one in front_of([(*one, 7.0) for one in points])]


def test_of_points_equal_in_all_the_first_is_kept() -> None:
    items = [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    kept = undominated(items, latency=lambda one: one[1], score=lambda one: one[1], costs=[lambda one: one[1]])

    assert kept == [("a", 1.0)]


def test_a_network_of_infinite_cost_is_no_match_for_one_of_finite_cost() -> None:
    assert front_of([(1.0, 0.5, math.inf), (1.0, 0.5, 3.0)]) == [(1.0, 0.5, 3.0)]


def test_nothing_has_no_front_with_further_costs_either() -> None:
    none: list[Point] = []

    assert undominated(none, latency=lambda p: p[0], score=lambda p: p[1], costs=[lambda p: p[0]]) == []


def test_nothing_has_an_empty_front() -> None:
    assert front([]) == []


def test_hypervolume_counts_each_area_once() -> None:
    points = [(1.0, 0.5), (3.0, 0.7), (2.0, 0.4)]

    assert hypervolume(points, latency_limit=4.0, score_floor=0.0) == 3 * 0.5 + 1 * 0.2


def test_points_beyond_the_limits_add_nothing() -> None:
    assert hypervolume([(5.0, 0.9), (1.0, 0.1)], latency_limit=4.0, score_floor=0.2) == 0.0
