from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import pytest

from nas.networks import Architecture, SearchSpace, count, random_choice
from nas.search.evolution import _BANDS, Found, evolve

TINY = SearchSpace.find("tiny")
BUDGET_MS = 1.2  # of 0.78 to 1.93 in the tiny space, with the latencies of this file

# Eight networks: two widths of three stages.
EIGHT = SearchSpace.model_validate(
    {
        "schema": 1,
        "resolution": 32,
        "num_classes": 2,
        "stem": {"kernel": 3, "expansion": 2},
        "stages": [
            {"channels": [8, 16] if stage < 3 else 32, "conv": {"depth": 1, "kernel": 3, "expansion": 2}}
            for stage in range(4)
        ],
    }
)


@lru_cache(maxsize=4096)
def _latency_ms(network: Architecture) -> float:
    return count(network).macs / 1e6


class _Ranking:
    """Ranks networks by their number of parameters, and remembers them."""

    def __init__(self) -> None:
        self.seen: list[Architecture] = []

    def __call__(self, networks: Sequence[Architecture]) -> list[float]:
        self.seen += networks
        return [self.of(network) for network in networks]

    @staticmethod
    def of(network: Architecture) -> float:
        return float(count(network).params)


@pytest.fixture
def ranking() -> _Ranking:
    return _Ranking()


def _evolve(ranking: _Ranking, *, networks: int = 60, seed: int = 0, budget_ms: float = BUDGET_MS) -> list[Found]:
    return evolve(TINY, _latency_ms, ranking, budget_ms=budget_ms, networks=networks, seed=seed)


def _band(latency_ms: float) -> int:
    """Bands are equally wide in the logarithm and end at the budget."""
    return int(_BANDS * math.log10(BUDGET_MS / latency_ms))


def test_over_budget_network_is_never_ranked(ranking: _Ranking) -> None:
    looked_up: list[float] = []

    def latency_ms(network: Architecture) -> float:
        looked_up.append(_latency_ms(network))
        return looked_up[-1]

    found = evolve(TINY, latency_ms, ranking, budget_ms=BUDGET_MS, networks=60, seed=0)

    assert max(looked_up) > BUDGET_MS
    assert max(map(_latency_ms, ranking.seen)) <= BUDGET_MS
    assert max(one.latency_ms for one in found) <= BUDGET_MS


def test_networks_are_of_the_space_and_ranked_once(ranking: _Ranking) -> None:
    _evolve(ranking)

    assert len(ranking.seen) == 60
    assert len({network.id for network in ranking.seen}) == 60
    assert all(network in TINY for network in ranking.seen)


def test_the_best_of_every_band_come_back_fastest_first(ranking: _Ranking) -> None:
    found = _evolve(ranking)
    best = {
        band: max(map(ranking.of, networks))
        for band, networks in itertools.groupby(
            sorted(ranking.seen, key=_latency_ms), key=lambda network: _band(_latency_ms(network))
        )
    }
    returned = {
        band: max(one.rank for one in inside)
        for band, inside in itertools.groupby(found, key=lambda one: _band(one.latency_ms))
    }

    assert len(best) > 2
    assert best == returned
    assert sorted(one.latency_ms for one in found) == [one.latency_ms for one in found]
    assert len(found) < len(ranking.seen)  # not all that were looked at
    assert len({(_band(one.latency_ms), one.network.summary) for one in found}) == len(found)  # all of another kind
    for one in found:
        assert (_latency_ms(one.network), ranking.of(one.network)) == (one.latency_ms, one.rank)


def test_a_seed_repeats_the_evolution_and_another_does_not() -> None:
    first, again, other = _Ranking(), _Ranking(), _Ranking()

    assert _evolve(first) == _evolve(again)
    assert first.seen == again.seen
    _evolve(other, seed=1)
    assert first.seen != other.seen


def test_it_ends_when_every_network_has_been_seen(ranking: _Ranking) -> None:
    progress: list[tuple[int, int]] = []
    found = evolve(
        EIGHT,
        _latency_ms,
        ranking,
        budget_ms=100.0,
        networks=40,
        seed=0,
        on_progress=lambda done, total: progress.append((done, total)),
    )

    assert EIGHT.count() == len(ranking.seen) == 8
    assert progress[-1] == (8, 40)
    assert max(map(ranking.of, ranking.seen)) == max(one.rank for one in found)


def test_it_ends_between_generations_when_it_is_late(ranking: _Ranking) -> None:
    cheapest = EIGHT.extreme(lambda layer: layer.height * layer.key.count("8"))
    found = evolve(
        EIGHT,
        _latency_ms,
        ranking,
        budget_ms=100.0,
        networks=40,
        seed=0,
        begin_with=[cheapest],
        is_late=lambda: True,
    )

    assert [cheapest] == [one.network for one in found] == ranking.seen  # what it began with is looked at in any case


def test_it_asks_whether_it_is_late_before_every_generation(ranking: _Ranking) -> None:
    late, seen = iter([False, False, True]), []
    evolve(
        TINY,
        _latency_ms,
        ranking,
        budget_ms=2.0,
        networks=200,
        seed=0,
        is_late=lambda: next(late),
        on_progress=lambda done, total: seen.append(done),
    )

    assert len(seen) == 3  # what it began with, which is nothing here, and two generations
    assert 0 == seen[0] < seen[1] < seen[2] < 200


def test_the_band_of_the_cheapest_network_is_kept(ranking: _Ranking) -> None:
    """By this ranking, every other network is better than the cheapest."""
    cheapest = min((TINY.sample(random_choice(seed)) for seed in range(400)), key=_latency_ms)
    found = evolve(TINY, _latency_ms, ranking, budget_ms=BUDGET_MS, networks=60, seed=0, begin_with=[cheapest])

    assert ranking.seen[0] == cheapest
    assert found[0].latency_ms == min(map(_latency_ms, ranking.seen))
    assert _band(found[0].latency_ms) == _band(_latency_ms(cheapest))


def test_a_network_over_the_budget_is_no_beginning(ranking: _Ranking) -> None:
    networks = sorted((TINY.sample(random_choice(seed)) for seed in range(50)), key=_latency_ms)
    evolve(
        TINY,
        _latency_ms,
        ranking,
        budget_ms=BUDGET_MS,
        networks=60,
        seed=0,
        begin_with=[networks[-1], networks[0], networks[0]],
        is_late=lambda: True,
    )

    assert _latency_ms(networks[-1]) > BUDGET_MS
    assert [networks[0]] == ranking.seen


def test_nothing_inside_the_budget_is_nothing_found(ranking: _Ranking) -> None:
    assert _evolve(ranking, budget_ms=0.1) == []
    assert ranking.seen == []


def test_generations_climb_where_random_networks_do_not() -> None:
    """The rank is the number of choices that a network shares with a hidden one."""
    space, networks = SearchSpace.find("iformer"), 2500
    hidden = space.choices(space.sample(random_choice(seed=5)))

    def shared(network: Architecture) -> int:
        return sum(hidden.get(name) == answer for name, answer in space.choices(network).items())

    def rank(networks: Sequence[Architecture]) -> list[int]:
        return [shared(network) for network in networks]

    choose = random_choice(seed=0)
    found = evolve(space, lambda network: 1.0, rank, budget_ms=1.0, networks=networks, seed=0)

    assert len(hidden) == 44
    assert max(one.rank for one in found) >= 3 + max(shared(space.sample(choose)) for _ in range(networks))
