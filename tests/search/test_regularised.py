from __future__ import annotations

import numpy as np
import pytest

from nas.latency import LatencyTable
from nas.networks import SearchSpace
from nas.networks.encoding import Encoding
from nas.search.mutation import Inside
from nas.search.regularised import RegularisedEvolution, evolution_by_table

SPACE = SearchSpace.find("iformer")
TABLE, _ = LatencyTable.find("iphone13")
ENCODING = Encoding(SPACE)
NONE = np.zeros((0, len(ENCODING.columns)), dtype=np.int16)


def inside(budget_ms):
    return Inside.by_table(ENCODING, TABLE, levels_ms=[budget_ms])


def width(rows):
    return sum(np.log(ENCODING.values(rows, "channels", stage)) for stage in range(4))


def searched(limits, number, seed=0, known=NONE):
    own, scores = RegularisedEvolution(limits, seed=seed), width(known) if len(known) else np.zeros(0)
    while len(known) < number:
        new = own.propose(known, scores, closed=NONE)
        known, scores = np.concatenate([known, new]), np.append(scores, width(new))
    return known, scores


def test_it_finds_better_networks_than_chance_inside_the_budget():
    limits = inside(0.8)
    known, scores = searched(limits, 120)

    assert limits(known).all()
    assert len({row.tobytes() for row in known}) == 120
    assert scores[60:].mean() > scores[:20].mean()
    assert scores.max() > width(limits.draw(300, np.random.default_rng(1))).max()


def test_proposals_are_changes_of_the_latest_twenty():
    known, scores = searched(inside(0.9), 60)
    new = RegularisedEvolution(inside(0.9), seed=5).propose(known, scores, closed=NONE, number=10)
    changes = (new[:, None] != known[-20:]).sum(axis=2).min(axis=1)

    assert 1 <= np.median(changes) <= 4


def test_the_best_of_the_old_is_forgotten():
    limits = inside(0.9)
    known = limits.draw(40, np.random.default_rng(0))[:40]
    scores = np.zeros(40)
    scores[3] = 10.0
    new = RegularisedEvolution(limits, seed=0).propose(known, scores, closed=NONE, number=20)
    nearest = (new[:, None] != known).sum(axis=2).argmin(axis=1)

    assert (nearest >= 20).all()


def test_networks_over_the_budget_that_are_known_have_no_children():
    known = inside(1.6).draw(60, np.random.default_rng(0))[:60]
    limits = inside(0.5)
    new = RegularisedEvolution(limits, seed=0).propose(known, np.arange(60.0), closed=NONE, number=5)

    assert limits(new).all()


def test_closed_networks_are_not_proposed_and_a_space_that_is_used_up_has_no_more():
    cheapest = ENCODING.encode([SPACE.extreme(TABLE.layer_ms)])
    own = RegularisedEvolution(inside(TABLE.latency_ms(ENCODING.decode(cheapest[0]))), seed=0)

    assert np.array_equal(own.propose(NONE, np.zeros(0), closed=NONE, number=3), cheapest)
    assert len(own.propose(NONE, np.zeros(0), closed=cheapest)) == 0


def test_a_resumed_search_depends_on_the_scores_alone():
    known, scores = searched(inside(0.9), 30)
    first = RegularisedEvolution(inside(0.9), seed=7).propose(known, scores, closed=NONE)
    again = RegularisedEvolution(inside(0.9), seed=7).propose(known, scores, closed=NONE)

    assert np.array_equal(first, again)


@pytest.mark.parametrize("levels_ms", [[0.35], [0.35, 0.4]])
def test_other_limits_and_the_last_level_hold(levels_ms):
    def allowed(rows):
        return rows[:, ENCODING.at("stem.kernel")] > 0

    own = evolution_by_table(ENCODING, TABLE, levels_ms=levels_ms, allowed=allowed, seed=0)
    new = own.propose(NONE, np.zeros(0), closed=NONE, number=30)

    assert allowed(new).all()
    assert (inside(levels_ms[-1]).latency_ms(new) <= levels_ms[-1] * (1 + 1e-6)).all()
