"""What is claimed of a proxy beside rankings that need none."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from nas.validate.agreement import RANKERS, Lead, ScoredNetwork, SeedScore, rank_agreement

TOP1 = [70.0 + number for number in range(12)]


def rows(scores: Sequence[float | None], **counts: Sequence[Any]) -> list[ScoredNetwork]:
    """Networks of rising accuracy; the counts that are not given say nothing of it."""
    noise = [random.Random(number).randrange(10**6) for number in range(len(scores))]
    own = {"params": noise, "macs": noise, "published_ms": noise, "depth": noise, "log_weights": noise} | counts
    return [
        ScoredNetwork(
            name=str(number),
            id=str(number),
            summary="",
            top1=TOP1[number],
            mean=score,
            scores=() if score is None else (SeedScore(seed=0, value=score, seconds=1.0),),
            **{name: values[number] for name, values in own.items()},
        )
        for number, score in enumerate(scores)
    ]


def test_a_proxy_with_the_order_of_a_baseline_is_not_shown_to_be_better_than_it() -> None:
    agreement = rank_agreement(rows(TOP1, depth=range(12)), [0])
    assert agreement.lead is not None

    assert agreement.tau == pytest.approx(1.0)
    assert agreement.lead.ranker == "depth"
    assert agreement.lead.difference == pytest.approx(0.0)
    assert not agreement.lead.is_shown


def test_a_proxy_far_above_all_baselines_is_shown_to_be_better_than_the_best() -> None:
    reversed_order = list(range(12, 0, -1))
    agreement = rank_agreement(rows(TOP1, params=reversed_order), [0])
    assert agreement.lead is not None

    best = max(agreement.rankers, key=lambda name: agreement.rankers[name])
    assert agreement.rankers["params"] == pytest.approx(-1.0)
    assert agreement.lead.ranker == best != "params"
    assert agreement.lead.difference == pytest.approx(1.0 - agreement.rankers[best])
    assert agreement.lead.is_shown


def test_a_small_lead_over_few_networks_is_not_shown() -> None:
    swapped = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10]
    agreement = rank_agreement(rows([value + 0.5 * (value == 1) for value in TOP1], macs=swapped), [0])
    assert agreement.lead is not None and agreement.lead.low is not None

    assert agreement.lead.ranker == "macs"
    assert agreement.lead.difference > 0.1
    assert agreement.lead.low <= 0
    assert not agreement.lead.is_shown


@pytest.mark.parametrize(("low", "shown"), [(0.01, True), (0.0, False), (-0.1, False), (None, False)])
def test_only_an_interval_above_zero_shows_it(low: float | None, shown: bool) -> None:
    assert Lead(ranker="depth", difference=0.2, low=low, high=0.4).is_shown == shown


def test_rankings_are_compared_over_the_networks_that_have_a_score() -> None:
    scores: list[float | None] = list(TOP1)
    scores[11] = None
    depths = [*range(11), -1]  # wrong about the network without a score only
    agreement = rank_agreement(rows(scores, depth=depths), [0])

    assert agreement.networks == 11
    assert agreement.rankers["depth"] == pytest.approx(1.0)
    assert agreement.by_chance == pytest.approx(0.2335, abs=1e-4)


def test_a_ranking_that_lacks_a_value_is_left_out() -> None:
    agreement = rank_agreement(rows(TOP1, depth=[*range(11), None]), [0])
    assert agreement.lead is not None

    assert set(agreement.rankers) == set(RANKERS) - {"depth"}
    assert agreement.lead.ranker != "depth"


def test_without_scores_nothing_is_claimed() -> None:
    agreement = rank_agreement(rows([None, None]), [0])

    assert (agreement.networks, agreement.tau, agreement.by_chance, agreement.lead) == (0, None, None, None)
