from __future__ import annotations

import numpy as np
import pytest

from nas.errors import BudgetError
from nas.latency import LatencyTable
from nas.networks import SearchSpace, operations
from nas.networks.encoding import Encoding
from nas.search.limits import QUANTITIES
from nas.search.mutation import Inside, children, distinct
from nas.search.proposer import SurrogateProposer, proposer_by_table

SPACE = SearchSpace.find("iformer")
TABLE, _ = LatencyTable.find("iphone13")
ENCODING = Encoding(SPACE)
CHEAPEST = ENCODING.encode([SPACE.extreme(TABLE.layer_ms)])
_layers_ms = ENCODING.sums(lambda layer, _: TABLE.layer_ms(layer))
OVERHEAD_MS = TABLE.latency_ms(ENCODING.decode(CHEAPEST[0])) - float(_layers_ms(CHEAPEST)[0])
NONE = CHEAPEST[:0]
PARAMS = QUANTITIES["params"].of_rows(ENCODING)


def latency_ms(rows):
    return _layers_ms(rows) + OVERHEAD_MS


def wide_and_deep(rows):
    """A score with a known best direction: wide first stages, deep third stage, no attention at the end."""
    width = np.log(ENCODING.values(rows, "channels", 0)) + np.log(ENCODING.values(rows, "channels", 1))
    return width + np.log(ENCODING.values(rows, "conv.depth", 2)) - 0.3 * ENCODING.values(rows, "attention.depth", 3)


def slow_and_wide(rows):
    """A score with something to gain at every latency."""
    return np.log(latency_ms(rows)) + 0.1 * wide_and_deep(rows)


def proposer(*levels_ms, seed=0, **options):
    inside = Inside(encoding=ENCODING, latency_ms=latency_ms, budget_ms=levels_ms[-1], start=CHEAPEST)
    return SurrogateProposer(inside, levels_ms=levels_ms, seed=seed, **options)


def searched(own, number, score=wide_and_deep):
    known, scores = NONE, np.zeros(0)
    while len(known) < number:
        new = own.propose(known, scores, closed=NONE)
        known, scores = np.concatenate([known, new]), np.append(scores, score(new))
    return known, scores


def random_inside(budget_ms, number):
    rows = ENCODING.draw(20_000, np.random.default_rng(1))
    return rows[latency_ms(rows) <= budget_ms][:number]


def test_no_proposal_is_over_the_budget_or_comes_twice():
    known, _ = searched(proposer(0.7), 30)

    assert (latency_ms(known) <= 0.7).all()
    assert len(known) == len({row.tobytes() for row in known})


def test_it_finds_better_networks_than_chance():
    _, scores = searched(proposer(0.9), 40)
    by_chance = wide_and_deep(random_inside(0.9, 400))

    assert scores.max() > by_chance.max()


@pytest.mark.parametrize("levels_ms", [(0.5,), (0.4, 0.5)])
def test_a_search_goes_on_at_a_budget_below_all_that_is_known(levels_ms):
    known = random_inside(1.6, 200)
    known = known[latency_ms(known) > 0.9][:40]
    new = proposer(*levels_ms).propose(known, wide_and_deep(known), closed=NONE, number=5)

    assert len(new) == 5
    assert (latency_ms(new) <= 0.5 * (1 + 1e-6)).all()
    assert wide_and_deep(new).max() > wide_and_deep(CHEAPEST).max()


def test_closed_networks_are_not_proposed():
    known, scores = searched(proposer(0.9), 12)
    first = proposer(0.9, seed=1).propose(known, scores, closed=NONE, number=3)
    others = proposer(0.9, seed=1).propose(known, scores, closed=first, number=3)

    assert not {row.tobytes() for row in first} & {row.tobytes() for row in others}


def test_several_proposals_differ_in_more_than_one_choice():
    known, scores = searched(proposer(0.9), 15)
    new = proposer(0.9).propose(known, scores, closed=NONE, number=4)

    assert len(new) == 4
    assert min((one != other).sum() for i, one in enumerate(new) for other in new[:i]) > 1


def test_the_same_seed_proposes_the_same():
    first, _ = searched(proposer(0.9, seed=3), 14)
    again, _ = searched(proposer(0.9, seed=3), 14)
    other, _ = searched(proposer(0.9, seed=4), 14)

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_as_many_networks_as_asked_for_are_found_right_above_the_cheapest():
    budget_ms = 1.01 * float(latency_ms(CHEAPEST)[0])
    known, _ = searched(proposer(budget_ms), 25)

    assert len(known) == 25
    assert (latency_ms(known) <= budget_ms).all()


def test_a_space_that_is_used_up_has_no_further_proposal():
    budget_ms = float(latency_ms(CHEAPEST)[0])  # Only the cheapest is inside.
    none = proposer(budget_ms).propose(NONE, np.zeros(0), closed=CHEAPEST)

    assert len(none) == 0


def test_some_proposals_aim_below_the_budget():
    known, _ = searched(proposer(1.5), 60)

    assert 5 <= (latency_ms(known[10:]) < 1.2).sum() <= 40


def test_no_proposal_aims_below_the_budget_if_none_is_to():
    known, _ = searched(proposer(1.5, aside=False), 40)

    assert (latency_ms(known[10:]) < 1.2).sum() <= 3


def test_several_levels_begin_with_the_cheapest_and_spread_over_the_latencies():
    first = proposer(0.6, 0.85, 1.1).propose(NONE, np.zeros(0), closed=NONE, number=10)
    found_ms = np.sort(latency_ms(first))

    assert np.array_equal(first[0], CHEAPEST[0])
    assert found_ms[-1] > 1.0
    assert (found_ms[1:] / found_ms[:-1]).max() < 1.35


def test_one_search_finds_good_networks_inside_each_of_several_levels():
    levels_ms = (0.5, 0.7, 0.95)
    known, scores = searched(proposer(*levels_ms), 50)
    found_ms = latency_ms(known)

    assert (found_ms <= levels_ms[-1] * (1 + 1e-6)).all()
    for level_ms in levels_ms:
        by_chance = wide_and_deep(random_inside(level_ms, 100))
        assert scores[found_ms <= level_ms].max() > by_chance.max()


def test_a_whole_front_is_searched_over_its_range():
    low_ms = float(latency_ms(CHEAPEST)[0])
    own = proposer(*np.geomspace(low_ms, 1.2, 24))
    known, scores = searched(own, 40, slow_and_wide)
    shares = np.histogram(np.log(latency_ms(known[10:])), bins=np.log(np.geomspace(low_ms * 0.999, 1.2, 4)))[0]

    assert shares.min() >= 3
    by_chance = random_inside(1.2, 200)
    assert scores.max() > slow_and_wide(by_chance).max()


def test_proposals_made_together_for_several_levels_aim_at_different_ones():
    levels_ms = np.geomspace(0.4, 1.2, 24)
    known, scores = searched(proposer(*levels_ms), 20, slow_and_wide)
    new = proposer(*levels_ms).propose(known, scores, closed=NONE, number=4)

    assert len(new) == 4
    assert latency_ms(new).max() > 1.2 * latency_ms(new).min()


@pytest.mark.parametrize("levels_ms", [(0.9,), (0.6, 0.9)])
def test_a_limit_besides_latency_holds_for_all_proposals(levels_ms):
    def allowed(rows):  # The cheapest network has the narrowest first stage, so it is not.
        return (rows[:, ENCODING.at("channels", 0)] > 0) & (rows[:, ENCODING.at("channels", 3)] == 0)

    own = proposer_by_table(ENCODING, TABLE, levels_ms=levels_ms, allowed=allowed, seed=0)
    known, _ = searched(own, 25)

    assert not allowed(CHEAPEST).any()
    assert allowed(known).all()
    assert (latency_ms(known) <= 0.9 * (1 + 1e-6)).all()
    assert len({row.tobytes() for row in known}) == 25


def test_a_network_inside_tight_limits_is_found_on_the_way_to_the_smallest():
    sizes = Inside.by_table(ENCODING, TABLE, levels_ms=[0.6]).sizes[0]
    smallest = SPACE.extreme(lambda layer: sum(operation.weights for operation in operations(layer)))
    least = float(sizes(ENCODING.encode([smallest]))[0])

    def allowed(rows):  # few networks, and not the smallest
        return (sizes(rows) <= 1.1 * least) & (rows[:, ENCODING.at("channels", 1)] > 0)

    inside = Inside.by_table(ENCODING, TABLE, levels_ms=[0.6], allowed=allowed)

    assert inside(inside.start).all()
    assert len(inside.draw(30, np.random.default_rng(0))) >= 30


def test_limits_that_no_network_keeps_are_one_clear_line():
    with pytest.raises(
        BudgetError, match=r"^no network .* in 0\.9 ms .* other limits, among [\d,]+: raise the budget or a limit$"
    ):
        proposer_by_table(ENCODING, TABLE, levels_ms=[0.9], allowed=lambda rows: np.zeros(len(rows), bool), seed=0)


def test_with_a_confidence_the_cheapest_is_inside_the_level_of_its_own_interval():
    network = ENCODING.decode(CHEAPEST[0])
    upper_ms = TABLE.upper_ms(network, 0.9)
    inside = Inside.by_table(ENCODING, TABLE, levels_ms=[upper_ms, 1.2], confidence=0.9)

    assert inside(CHEAPEST, upper_ms * (1 + 1e-6)).all()
    assert inside.latency_ms(CHEAPEST)[0] > 1.05 * TABLE.latency_ms(network)


@pytest.mark.parametrize(
    "score", [lambda rows: np.ones(len(rows)), lambda rows: -np.log(latency_ms(rows))], ids=["equal", "without noise"]
)
def test_scores_without_noise_are_no_failure(score):
    own, known, scores = proposer(0.9), NONE, np.zeros(0)
    while len(known) < 160:
        new = own.propose(known, scores, closed=NONE, number=10)
        known, scores = np.concatenate([known, new]), np.append(scores, score(new))

    assert len(known) == len({row.tobytes() for row in known})


def test_few_networks_that_fit_are_all_found_whatever_is_aimed_at():
    fastest = np.sort(latency_ms(distinct(children(ENCODING, CHEAPEST, 4000, np.random.default_rng(0)))))
    known, _ = searched(proposer(float(fastest[20])), 20)

    assert len(known) == 20


def test_a_space_of_one_network_has_that_network():
    alone = SPACE.model_copy(
        update={
            "stem": SPACE.stem.model_copy(update={"kernel": (3,), "expansion": (2,)}),
            "stages": SearchSpace.find("iformer").reference["iformer_m"].stages,
        }
    )
    encoding = Encoding(alone)
    inside = Inside(
        encoding=encoding,
        latency_ms=lambda rows: np.ones(len(rows)),
        budget_ms=2.0,
        start=encoding.draw(1, np.random.default_rng(0)),
    )

    for levels_ms in ([2.0], [1.0, 2.0]):
        own = SurrogateProposer(inside, levels_ms=levels_ms, seed=0)
        assert len(own.propose(NONE, np.zeros(0), closed=NONE, number=3)) == 1


def test_children_are_near_a_parent_and_never_the_parent_where_choices_matter():
    parents = ENCODING.draw(5, np.random.default_rng(0))
    offspring = children(ENCODING, parents, 400, np.random.default_rng(1))
    changes = (offspring[:, None] != parents).sum(axis=2).min(axis=1)

    assert np.array_equal(offspring, ENCODING.canonical(offspring.copy()))
    assert np.median(changes) == pytest.approx(2, abs=1)
    assert changes.max() < 20


def test_distinct_rows_are_each_there_once():
    rows = ENCODING.draw(50, np.random.default_rng(0))

    assert {row.tobytes() for row in rows} == {row.tobytes() for row in distinct(np.concatenate([rows, rows]))}
    assert len(distinct(np.concatenate([rows, rows]))) == 50


def test_with_an_objective_some_proposals_cost_less_and_none_is_over_a_limit():
    def cheapest_of_learnt(**options):
        known, _ = searched(proposer_by_table(ENCODING, TABLE, levels_ms=[1.1], seed=0, **options), 22, slow_and_wide)
        return PARAMS(known[10:])

    plain, lowered = cheapest_of_learnt(), cheapest_of_learnt(objectives=[QUANTITIES["params"]])
    limited = cheapest_of_learnt(objectives=[QUANTITIES["params"]], allowed=lambda rows: PARAMS(rows) <= 8e6)

    assert np.quantile(lowered, 0.25) < np.quantile(plain, 0.25)
    assert limited.max() <= 8e6


def test_an_objective_that_no_known_network_differs_in_is_no_failure():
    memory = QUANTITIES["memory"]
    own = proposer_by_table(ENCODING, TABLE, levels_ms=[0.36], objectives=[memory, QUANTITIES["macs"]], seed=0)
    known, _ = searched(own, 20)

    assert len({row.tobytes() for row in known}) == 20
