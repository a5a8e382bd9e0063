"""How much the trained part of a table counts, and what it says about rows of the family that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np
import pytest

from nas.accuracy import AccuracyTable
from nas.accuracy.fit import errors_of, fit_trained, weigh
from nas.accuracy.trained import Line, SupernetUsed, Trained
from nas.networks import SearchSpace, count, random_choice

SPACE = SearchSpace.find("iformer")
AXIS = "each axis of the family left out"


@pytest.fixture(scope="module")
def top1(table: AccuracyTable) -> dict[str, float]:
    """Published accuracies of the rows of the family."""
    return {row.name: row.top1 for row in table.published.rows if row.family == table.origin.family}


@pytest.fixture(scope="module")
def trained(maker: ModuleType) -> Trained:
    """A supernet that sees no more than the number of parameters, of the published networks and of thirty others."""
    choose = random_choice(seed=0)
    points = {point.name: (point.architecture(), point.top1) for point in maker.own_points()}
    networks = [*(network for network, _ in points.values()), *(SPACE.sample(choose) for _ in range(30))]
    supernet = SupernetUsed(name="s", data="synthetic", resolution=64, seed=0, images=100, networks=0)
    return fit_trained(
        networks,
        {supernet: {network.id: float(np.log(count(network).params)) for network in networks}},
        latencies_ms=[1.0] * len(networks),
        family={name: (network.id, top1) for name, (network, top1) in points.items()},
    )


def _with_scores(table: AccuracyTable, trained: Trained, scores: Mapping[str, float]) -> AccuracyTable:
    """The table with other scores of the published networks, and the line through them."""
    top1 = {row.name: row.top1 for row in table.published.rows}
    line = Line.through(np.asarray(list(scores.values())), np.asarray([top1[name] for name in scores]))
    own = trained.model_copy(update={"family": dict(scores), "line": line})
    return table.model_copy(update={"trained": own, "weight": 0.0})


def _noise(names: Mapping[str, float], seed: int) -> dict[str, float]:
    return dict(zip(names, np.random.default_rng(seed).normal(size=len(names)).tolist(), strict=True))


def _nearly_exact(top1: Mapping[str, float]) -> dict[str, float]:
    """Scores on a line through the accuracies, but for three hundredths of a point."""
    return {name: (top1[name] - 70) / 3 + 0.01 * own for name, own in _noise(top1, 0).items()}


def _squares(table: AccuracyTable, axes: Mapping[str, str], top1: Mapping[str, float]) -> float:
    return sum((one.top1 - top1[name]) ** 2 for name, one in table.left_out(axes).items())


def test_a_supernet_that_knows_the_accuracies_decides(
    table: AccuracyTable, trained: Trained, top1: dict[str, float], maker: ModuleType
) -> None:
    weighed = weigh(_with_scores(table, trained, _nearly_exact(top1)), maker.AXES)
    found = weighed.left_out(maker.AXES)

    assert weighed.chance == 0
    assert weighed.weight > 0
    assert weighed.errors[AXIS].networks == len(top1)
    assert weighed.errors[AXIS].mean < 0.5 * errors_of(table.model_copy(update={"trained": None}), maker.AXES).mean
    both = [one for one in found.values() if "trained" in one.parts]
    assert len(both) > len(top1) / 2
    for one in both:
        assert one.top1 == pytest.approx(one.parts["trained"].top1, abs=0.1)


@pytest.mark.parametrize("seed", range(6))
def test_a_supernet_that_knows_nothing_counts_little_and_makes_nothing_worse(
    table: AccuracyTable, trained: Trained, top1: dict[str, float], maker: ModuleType, seed: int
) -> None:
    """Not always nothing: one noise in ten foretells the rows better than nine of its own orders do."""
    alone = table.model_copy(update={"trained": None})
    weighed = weigh(_with_scores(table, trained, _noise(top1, seed)), maker.AXES)

    assert weighed.chance is not None
    assert weighed.weight <= (0.5 if weighed.chance < 0.1 else 0.0)
    assert _squares(weighed, maker.AXES, top1) <= 1.03 * _squares(alone, maker.AXES, top1)
    both = [one for one in weighed.left_out(maker.AXES).values() if "trained" in one.parts]
    assert len(both) > len(top1) / 2
    for one in both:
        published, other = one.parts["published"], one.parts["trained"]
        assert abs(one.top1 - published.top1) <= 0.25 * abs(other.top1 - published.top1)


@pytest.mark.parametrize("seed", range(3))
def test_scores_in_random_order_do_not_count(
    table: AccuracyTable, trained: Trained, top1: dict[str, float], maker: ModuleType, seed: int
) -> None:
    """A little weight would help by itself: the line through them is nearly the mean of the other rows."""
    scores = np.random.default_rng(seed).permutation(list(_nearly_exact(top1).values())).tolist()
    disordered = _with_scores(table, trained, dict(zip(top1, scores, strict=True)))
    weighed = weigh(disordered, maker.AXES)
    alone = table.model_copy(update={"trained": None}).left_out(maker.AXES)

    assert weighed.weight == 0.0
    assert weighed.chance is not None
    assert weighed.chance >= 0.1
    assert {name: one.top1 for name, one in alone.items()} == {
        name: one.top1 for name, one in weighed.left_out(maker.AXES).items()
    }
    with_weight = _squares(disordered.model_copy(update={"weight": 0.25}), maker.AXES, top1)
    assert with_weight < _squares(disordered, maker.AXES, top1)


def test_a_table_without_a_supernet_is_weighed_as_well(table: AccuracyTable, maker: ModuleType) -> None:
    alone = weigh(table.model_copy(update={"trained": None, "weight": 0.5, "errors": {}}), maker.AXES)

    assert (alone.weight, alone.chance) == (0.0, None)
    assert set(alone.errors) == {"each row of the family left out", AXIS}
    assert alone.errors[AXIS] == errors_of(table.model_copy(update={"trained": None}), maker.AXES)


def test_a_row_that_is_left_out_does_not_pull_the_line(
    table: AccuracyTable, trained: Trained, top1: dict[str, float]
) -> None:
    """All scores lie on a line, except that of M: the others foretell it as if it lay there, too."""
    pulled = _with_scores(table, trained, _nearly_exact(top1) | {"iformer_m": 2.0})
    found = {name: one.parts.get("trained") for name, one in pulled.left_out({name: name for name in top1}).items()}
    m, s = found["iformer_m"], found["iformer_s"]

    assert m is not None
    assert s is not None
    assert m.top1 == pytest.approx(70 + 3 * 2.0, abs=0.1)
    assert m.high - m.low < 1
    assert s.top1 != pytest.approx(top1["iformer_s"], abs=0.3)  # M pulls the lines of the others
    assert s.high - s.low > 3


def test_a_whole_group_that_is_left_out_does_not_pull_the_line(
    table: AccuracyTable, trained: Trained, top1: dict[str, float]
) -> None:
    astray = {"iformer_m": 2.0, "iformer_s": 3.5}
    pulled = _with_scores(table, trained, _nearly_exact(top1) | astray)
    together = pulled.left_out({name: "size" if name in astray else name for name in top1})
    alone = pulled.left_out({name: name for name in top1})

    for name, score in astray.items():
        sure, doubtful = together[name].parts["trained"], alone[name].parts["trained"]
        assert sure.top1 == pytest.approx(70 + 3 * score, abs=0.1)
        assert sure.high - sure.low < 0.5 * (doubtful.high - doubtful.low)  # the other one is off their line


def test_a_row_whose_score_is_beyond_the_others_is_foretold_by_publications_alone(
    table: AccuracyTable, trained: Trained, top1: dict[str, float]
) -> None:
    exact = _with_scores(table, trained, _nearly_exact(top1)).model_copy(update={"weight": 1.0})
    found = exact.left_out({name: name for name in top1})
    alone = table.model_copy(update={"trained": None}).left_out({name: name for name in top1})

    assert "trained" not in found["iformer_t"].parts  # 74.1 %, three points below the next
    assert found["iformer_t"] == alone["iformer_t"]
    assert "trained" in found["iformer_s"].parts


def test_a_row_that_no_supernet_scored_is_foretold_by_publications_alone(
    table: AccuracyTable, trained: Trained, top1: dict[str, float]
) -> None:
    scores = {name: score for name, score in _nearly_exact(top1).items() if name != "ladder_bn"}
    weighed = _with_scores(table, trained, scores).model_copy(update={"weight": 0.5})
    found = weighed.left_out({name: name for name in top1})
    alone = table.model_copy(update={"trained": None}).left_out({name: name for name in top1})
    ends = sorted(part.top1 for part in found["ladder_sha"].parts.values())

    assert found["ladder_bn"] == alone["ladder_bn"]
    assert ends[0] < found["ladder_sha"].top1 < ends[1]
    assert set(found) == set(top1)
