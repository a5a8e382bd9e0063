from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from nas.accuracy.fit import fit_trained
from nas.accuracy.structure import NUMBERS, numbers
from nas.accuracy.trained import Line, SupernetUsed, Trained
from nas.networks import Architecture, SearchSpace, count, random_choice

SPACE = SearchSpace.find("iformer")
REFERENCES = [SPACE.references[f"iformer_{size}"] for size in "tsml"]
TOP1 = (74.1, 78.8, 80.4, 81.9)


def _score(network: Architecture) -> float:
    """What these supernets see: depth and the attention of stage 3, and no more."""
    blocks = network.stages[2].blocks
    return float(np.log(count(network).params)) + 0.05 * len(blocks)


@pytest.fixture(scope="module")
def networks() -> list[Architecture]:
    choose = random_choice(seed=0)
    return [*REFERENCES, *(SPACE.sample(choose) for _ in range(80))]


@pytest.fixture(scope="module")
def trained(networks: list[Architecture]) -> Trained:
    """Two supernets with scores on scales of their own; the second has not scored the last network."""
    scores = {
        _supernet(0): {network.id: _score(network) for network in networks},
        _supernet(1): {network.id: 50 + 7 * _score(network) for network in networks[:-1]},
    }
    family = {
        f"iformer_{size}": (network.id, top1) for size, network, top1 in zip("tsml", REFERENCES, TOP1, strict=True)
    }
    latencies_ms = [1.0 + 0.01 * number for number in range(len(networks))]
    return fit_trained(networks, scores, latencies_ms=latencies_ms, family=family)


def _supernet(seed: int) -> SupernetUsed:
    return SupernetUsed(name=f"s{seed}", data="synthetic", resolution=64, seed=seed, images=100, networks=0)


def test_scores_are_averaged_in_standard_deviations(trained: Trained, networks: list[Architecture]) -> None:
    values = np.asarray([_score(network) for network in networks[:-1]])
    scores = [row.score for row in trained.rows]

    assert [network.id for network in networks[:-1]] == [row.id for row in trained.rows]
    np.testing.assert_allclose((values - values.mean()) / values.std(), scores, atol=1e-4)
    assert [one.networks for one in trained.supernets] == [83, 83]
    assert trained.numbers == NUMBERS


def test_scores_of_new_networks_are_foretold(trained: Trained) -> None:
    choose = random_choice(seed=1)
    new = [SPACE.sample(choose) for _ in range(40)]
    percent, reach = trained.predict(numbers(new))

    assert np.corrcoef(percent, [_score(network) for network in new])[0, 1] > 0.95
    assert trained.foretelling.rank_correlation > 0.9
    assert reach.min() > 0


def test_a_prediction_does_not_depend_on_its_place_among_others(trained: Trained) -> None:
    choose = random_choice(seed=1)
    new = numbers([SPACE.sample(choose) for _ in range(10)])
    forwards, backwards = trained.predict(new), trained.predict(new[::-1])

    np.testing.assert_allclose(forwards[0], backwards[0][::-1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(forwards[1], backwards[1][::-1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(forwards[0][3], trained.predict(new[3:4])[0][0], rtol=0, atol=1e-9)


def test_the_line_turns_scores_of_the_family_into_percent(trained: Trained) -> None:
    scores = [trained.family[f"iformer_{size}"] for size in "tsml"]
    slope, offset = np.polyfit(scores, TOP1, 1)

    assert trained.line.slope == pytest.approx(slope)
    assert trained.line.offset == pytest.approx(offset)
    assert slope > 0


def test_a_line_leaves_what_it_does_not_explain() -> None:
    exact = Line.through(np.asarray([0.0, 1.0, 2.0]), np.asarray([70.0, 72.0, 74.0]))
    loose = Line.through(np.asarray([-1.0, 0.0, 1.0, 0.0]), np.asarray([70.0, 71.0, 70.0, 69.0]))

    assert (exact.offset, exact.slope, exact.rest) == pytest.approx((70.0, 2.0, 0.0))
    assert (loose.offset, loose.slope, loose.rest) == pytest.approx((70.0, 0.0, 1.0))  # 2 squared points, 2 left over


def test_a_line_through_few_points_is_sure_of_little_and_less_away_from_them() -> None:
    """The 90 % prediction interval of a regression line, as textbooks have it."""
    scores = np.asarray([-1.0, 0.0, 1.0, 0.0])
    line = Line.through(scores, np.asarray([70.0, 71.0, 70.0, 69.0]))
    quantile = t.ppf(0.95, 4 - 2)

    assert (line.points, line.centre, line.spread) == (4, 0.0, 2.0)
    assert [quantile * math.sqrt(1 + 1 / 4), quantile * math.sqrt(1 + 1 / 4 + 1.15**2 / 2)] == pytest.approx(
        line.reach(np.asarray([0.0, 1.15]))
    )


def test_a_line_says_nothing_beyond_its_points_but_for_a_tenth_of_their_range() -> None:
    line = Line.through(np.asarray([-1.0, 0.0, 1.0, 0.0]), np.asarray([70.0, 71.0, 70.0, 69.0]))
    scores = np.asarray([-1.25, -1.15, 1.15, 1.25])

    assert (line.lowest, line.highest) == (-1.0, 1.0)
    assert np.isfinite(line.reach(scores)).tolist() == [False, True, True, False]
    assert np.isfinite(Trained.percent(scores, np.full(4, 0.1), line)[1]).tolist() == [False, True, True, False]


def test_intervals_hold_what_the_line_and_the_score_leave() -> None:
    line = Line(offset=70.0, slope=2.0, rest=3.0, points=12, centre=0.0, spread=4.0, lowest=-1.0, highest=1.0)
    percent, reach = Trained.percent(np.asarray([1.0, 1.0]), np.asarray([0.0, 2.0]), line)
    alone = line.reach(np.asarray(1.0)).item()

    assert percent.tolist() == [72.0, 72.0]
    assert [alone, math.hypot(alone, 1.6449 * 2.0 * 2.0)] == pytest.approx(reach)
