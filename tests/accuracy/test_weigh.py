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


def test_a_supernet_that_knows_the_accuracies_has_all_the_weight(
    table: AccuracyTable, trained: Trained, top1: dict[str, float], maker: ModuleType
) -> None:
    exact = weigh(_with_scores(table, trained, {name: (value - 78) / 2 for name, value in top1.items()}), maker.AXES)

    assert exact.weight == 1.0
    assert exact.errors[AXIS].mean == pytest.approx(0, abs=1e-9)
    assert exact.errors[AXIS].networks == len(top1)


def test_a_supernet_that_knows_nothing_has_little_weight(
    table: AccuracyTable, trained: Trained, top1: dict[str, float], maker: ModuleType
) -> None:
    """Not always none: the line through noise is nearly the mean of the other rows, and a little of that may help."""
    weights = [weigh(_with_scores(table, trained, _noise(top1, seed)), maker.AXES).weight for seed in range(8)]

    assert max(weights) <= 0.25


def test_a_supernet_that_is_far_off_has_no_weight(
    table: AccuracyTable, trained: Trained, top1: dict[str, float], maker: ModuleType
) -> None:
    wrong = weigh(_with_scores(table, trained, _noise(top1, 0) | {"iformer_t": 1000.0}), maker.AXES)
    alone = table.model_copy(update={"trained": None})

    assert wrong.weight == 0.0
    assert wrong.errors[AXIS] == errors_of(alone, maker.AXES)


def test_a_table_without_a_supernet_is_weighed_as_well(table: AccuracyTable, maker: ModuleType) -> None:
    alone = weigh(table.model_copy(update={"trained": None, "weight": 0.5, "errors": {}}), maker.AXES)

    assert alone.weight == 0.0
    assert set(alone.errors) == {"each row of the family left out", AXIS}
    assert alone.trust


def test_a_row_that_is_left_out_does_not_pull_the_line(
    table: AccuracyTable, trained: Trained, top1: dict[str, float]
) -> None:
    """All scores lie on a line, except that of M: the others foretell it as if it lay there, too."""
    scores = {name: (value - 70) / 3 for name, value in top1.items()} | {"iformer_m": 9.0}
    pulled = _with_scores(table, trained, scores)
    found = {name: one.parts["trained"] for name, one in pulled.left_out({name: name for name in top1}).items()}

    assert found["iformer_m"].top1 == pytest.approx(70 + 3 * 9.0)
    assert found["iformer_m"].high - found["iformer_m"].low == pytest.approx(0, abs=1e-6)
    assert abs(found["iformer_l"].top1 - top1["iformer_l"]) > 0.1  # M pulls the lines of the others
    assert found["iformer_l"].low < found["iformer_l"].top1 < found["iformer_l"].high


def test_a_whole_group_that_is_left_out_does_not_pull_the_line(
    table: AccuracyTable, trained: Trained, top1: dict[str, float]
) -> None:
    astray = {"iformer_m": 9.0, "iformer_l": -9.0}
    pulled = _with_scores(table, trained, {name: (value - 70) / 3 for name, value in top1.items()} | astray)
    together = pulled.left_out({name: "size" if name in astray else name for name in top1})
    alone = pulled.left_out({name: name for name in top1})

    for name, score in astray.items():
        assert together[name].parts["trained"].top1 == pytest.approx(70 + 3 * score)
        assert alone[name].parts["trained"].top1 != pytest.approx(70 + 3 * score, abs=1.0)


def test_a_row_that_no_supernet_scored_is_foretold_by_publications_alone(
    table: AccuracyTable, trained: Trained, top1: dict[str, float]
) -> None:
    scores = {name: value for name, value in _noise(top1, 0).items() if name != "ladder_bn"}
    weighed = _with_scores(table, trained, scores).model_copy(update={"weight": 0.5})
    found = weighed.left_out({name: name for name in top1})

    assert {name for name, one in found.items() if "trained" not in one.parts} == {"ladder_bn"}
    assert found["ladder_bn"].top1 == found["ladder_bn"].parts["published"].top1
    assert found["ladder_sha"].top1 == pytest.approx(
        (found["ladder_sha"].parts["published"].top1 + found["ladder_sha"].parts["trained"].top1) / 2
    )
    assert set(found) == set(top1)
