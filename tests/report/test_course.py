"""How a search went: what of it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.report.course import agreements, choices, progress, rungs
from nas.search import SearchResult, hypervolume, score_of

KEPT = Path(__file__).parents[2] / "results"
GUIDED = SearchResult.load(KEPT / "tiny50-1.1ms")
SURVEY = SearchResult.load(KEPT / "survey-1.1ms")


def test_progress_ends_with_the_hypervolume_of_all_candidates() -> None:
    found = progress(GUIDED)
    points = [(one.latency_ms, score_of(one)) for one in GUIDED.scored]

    assert found is not None
    assert found.counts[-1] == len(GUIDED.scored)
    assert found.best[-1] == max(score for _, score in points)
    assert found.hypervolume[-1] == pytest.approx(hypervolume(points, latency_limit=1.1, score_floor=0.0))
    assert list(found.hypervolume) == sorted(found.hypervolume)


def test_a_survey_keeps_no_order_and_so_has_no_progress() -> None:
    assert progress(SURVEY) is None


def test_rungs_tell_how_many_networks_each_proxy_looked_at() -> None:
    assert [(one.proxy, one.networks) for one in rungs(GUIDED)] == [
        ("accuracy-table", 193),
        ("supernet", 117),
        ("short-training:standard", 4),
    ]
    assert [(one.proxy, one.networks, one.seconds) for one in rungs(SURVEY)] == [("accuracy-table", 20_000, None)]


def test_agreement_is_that_of_the_summary() -> None:
    (one,) = agreements(GUIDED)  # four settled networks are too few

    assert (one.proxy, len(one.names), round(one.tau, 2)) == ("accuracy-table", 120, 0.8)


def test_choices_are_ordered_by_their_rank_correlation_with_the_score() -> None:
    from scipy.stats import spearmanr

    found = choices(GUIDED.scored)
    strengths = [abs(one.score) for one in found]
    widths = [one.architecture.stages[2].channels for one in GUIDED.scored]
    expected = spearmanr(widths, [score_of(one) for one in GUIDED.scored]).statistic

    assert strengths == sorted(strengths, reverse=True)
    assert next(one.score for one in found if one.name == "stage 3 channels") == pytest.approx(expected)
    assert choices(GUIDED.scored[:5]) == []
