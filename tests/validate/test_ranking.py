from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.validate.ranking import (
    bootstrap_interval,
    deviation_by_chance,
    deviation_within_seeds,
    kendall_tau_b,
    lead_interval,
    pooled_deviation,
)


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3], [10, 30, 20], 1 / 3),
        ([1, 1, 2], [1, 2, 3], 2 / 6**0.5),  # a tie in the first ranking: 2 / sqrt(2 * 3) pairs
    ],
)
def test_tau_b_is_that_of_the_formula(first: list[float], second: list[float], tau: float) -> None:
    assert float(kendall_tau_b(first, second)) == pytest.approx(tau)


def test_tau_b_agrees_with_scipy_where_there_are_ties() -> None:
    draw = random.Random(0)
    for _ in range(20):
        first, second = ([draw.randrange(4) for _ in range(9)] for _ in range(2))

        assert float(kendall_tau_b(first, second)) == pytest.approx(kendalltau(first, second).statistic)


def test_tau_b_of_ties_alone_is_not_a_number() -> None:
    assert str(kendall_tau_b([1, 1], [1, 2])) == "nan"


def test_the_deviation_is_pooled_by_degrees_of_freedom() -> None:
    # Sums of squares 2 and 14/3 over 1 and 2 degrees of freedom. A group of one value has none.
    assert pooled_deviation([[1.0, 3.0], [4.0, 5.0, 7.0, 4.0][:3], [9.0]]) == pytest.approx(((2 + 14 / 3) / 3) ** 0.5)
    assert pooled_deviation([[1.0], [2.0]]) is None
    assert pooled_deviation([]) is None


def test_the_bootstrap_interval_repeats_and_covers_what_it_is_drawn_from() -> None:
    first, second = list(range(12)), [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10]
    interval = bootstrap_interval(first, second)

    assert interval == bootstrap_interval(first, second)
    assert interval is not None
    assert 0 < interval[0] < float(kendall_tau_b(first, second)) < interval[1] <= 1
    assert bootstrap_interval(first, first) == (1.0, 1.0)
    assert bootstrap_interval([1, 2], [1, 2]) is None
    assert bootstrap_interval([1, 1, 1], [1, 2, 3]) is None


def test_the_lead_is_paired_over_the_same_networks() -> None:
    truth = list(range(12))
    shuffled = [3, 0, 1, 6, 2, 4, 5, 10, 7, 8, 11, 9]

    assert lead_interval(shuffled, [shuffled], truth) == (0.0, 0.0)
    assert bootstrap_interval(shuffled, truth) != (0.0, 0.0)


def test_the_best_ranking_is_chosen_again_in_every_resample() -> None:
    # Each of the others is right about one half of the networks, so which of them is best depends on the resample.
    truth = list(range(12))
    others = [[0, 1, 2, 3, 4, 5, 7, 6, 9, 8, 11, 10], [1, 0, 3, 2, 5, 4, 6, 7, 8, 9, 10, 11]]
    both = lead_interval(truth, others, truth)
    alone = [lead_interval(truth, [other], truth) for other in others]
    assert both is not None

    for single in alone:
        assert single is not None
        assert both[0] <= single[0]
        assert both[1] < single[1]


def test_a_lead_above_one_ranking_is_not_a_lead_above_the_best() -> None:
    truth, first = list(range(12)), [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10]
    worst, best = truth[::-1], truth
    above, below = lead_interval(first, [worst], truth), lead_interval(first, [worst, best], truth)
    assert above is not None and below is not None

    assert above[0] > 1.0
    assert below[1] <= 0.0
    assert lead_interval([1, 2], [[1, 2]], [1, 2]) is None
    assert lead_interval([1, 1, 1], [[1, 2, 3]], [1, 2, 3]) is None


def test_a_ranking_of_ties_alone_does_not_hide_the_others() -> None:
    truth = list(range(8))

    assert lead_interval(truth, [[1] * 8, truth], truth) == (0.0, 0.0)


@pytest.mark.parametrize("n", [2, 7, 11, 40])
def test_without_ties_the_spread_by_chance_is_that_of_the_formula(n: int) -> None:
    assert deviation_by_chance(range(n)) == pytest.approx((2 * (2 * n + 5) / (9 * n * (n - 1))) ** 0.5)


def test_the_spread_by_chance_is_that_of_random_orders() -> None:
    truth = [74.1, 77.1, 78.8, 78.8, 79.1, 79.4, 79.8, 80.2, 80.4, 80.4, 81.9]  # the eleven networks of a supernet
    generator = np.random.default_rng(0)
    orders = generator.permuted(np.tile(np.arange(11), (20000, 1)), axis=1)
    taus = kendall_tau_b(orders, np.tile(truth, (20000, 1)))

    assert deviation_by_chance(truth) == pytest.approx(float(taus.std()), rel=0.02)
    assert round(deviation_by_chance(truth) or 0.0, 2) == 0.24
    assert deviation_by_chance([1.0, 1.0]) is None
    assert deviation_by_chance([]) is None


def test_the_deviation_within_seeds_is_what_no_seed_does_to_all() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.5, (400, 3))
    scores = noise + generator.normal(0, 9, (400, 1)) + np.array([0.0, 70.0, -30.0])

    deviation = deviation_within_seeds(dict(enumerate(row)) for row in scores)

    assert deviation == pytest.approx(0.5, rel=0.1)


def test_a_network_without_every_seed_does_not_count() -> None:
    complete = [{0: 1.0, 1: 2.5}, {0: 5.0, 1: 6.0}]

    assert deviation_within_seeds([*complete, {0: 100.0}]) == deviation_within_seeds(complete) == pytest.approx(0.25)
    assert deviation_within_seeds(complete[:1]) is None
    assert deviation_within_seeds([{0: 1.0}, {0: 2.0}]) is None


def test_two_long_rankings_agree_as_two_short_ones_do() -> None:
    random = np.random.default_rng(0)
    first = random.integers(0, 40, 1200)
    second = first + random.integers(0, 60, 1200)  # ties in both
    pairs = np.sign(first[:, None] - first), np.sign(second[:, None] - second)
    expected = (pairs[0] * pairs[1]).sum() / np.sqrt(np.abs(pairs[0]).sum() * np.abs(pairs[1]).sum())

    assert kendall_tau_b(first, second) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(kendall_tau_b(first, np.zeros(1200)))
