"""What a validation comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.report import validation_sections
from nas.report.verdict import verdict
from nas.validate import Validation
from nas.validate.agreement import Lead
from nas.validate.earlier import completed

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def kept() -> Validation:
    return completed(Validation.load(RESULTS / "validation"))


def test_a_verdict_comes_first_and_the_circumstances_last(kept: Validation) -> None:
    titles = [section.title for section in validation_sections(kept)]

    assert (titles[0], titles[-1]) == ("Verdict", "What this is")


def test_a_verdict_says_how_far_latency_score_and_search_can_be_trusted(kept: Validation) -> None:
    latency, score, search = verdict(kept)

    assert latency == (
        "Latency: trust a prediction to about 4%, at worst 9% (against 17 published latencies, each predicted without "
        "itself: mean error 3.7%, worst 8.8%, Kendall's tau 0.95)"
    )
    assert score.startswith(
        "Score: the order of networks by supernet agrees with that by published ImageNet top-1 (Kendall's tau 0.91 over"
        " 11 published networks, 95 % interval 0.68 to 1.00), but is not shown to be better than the order by "
        "published latency (0.82); other proxies: short-training:standard 0.91, "
    )
    assert search.startswith(
        "Search: the network found is no worse than the published one of the same budget in 4 of 4 budgets (3 better, 1"
        " within noise), by supernet under seeds that the searches did not use; by other proxies: "
    )
    assert search.endswith(". Nothing found was trained in full, or timed as a whole")


def test_a_verdict_on_an_accuracy_table_names_where_the_front_leaves_the_published_accuracies() -> None:
    _, accuracy, survey = verdict(completed(Validation.load(RESULTS / "accuracy")))

    assert accuracy.startswith("Accuracy: trust a predicted ImageNet top-1 to about 0.4 points near the published ")
    assert "0.35 points off in the mean, 0.69 at worst, Kendall's tau 0.86; 12 of 12 inside" in accuracy
    assert survey == (
        "Survey: at the latency of each variant, the best of 20000 networks is predicted as accurate as iformer_s, "
        "iformer_m and iformer_l is published, within the 90 % interval, but more accurate than iformer_t is published,"
        " by more than the interval; nothing found was trained"
    )


@pytest.mark.parametrize(
    ("low", "is_better", "words"),
    [
        (-0.1, False, "is not shown to agree with that by published ImageNet top-1"),
        (0.5, True, "and is better than the order by depth (0.70)"),
    ],
)
def test_an_agreement_and_a_lead_are_claimed_only_if_the_intervals_show_them(
    low: float, is_better: bool, words: str, kept: Validation
) -> None:
    lead = Lead(ranker="depth", difference=0.2, low=0.1 if is_better else -0.1, high=0.4)
    ranks = kept.proxies[0].all_rows.model_copy(update={"low": low, "lead": lead, "rankers": {"depth": 0.7}})
    part = kept.proxies[0].model_copy(update={"all_rows": ranks})

    assert words in verdict(kept.model_copy(update={"proxies": (part,)}))[1]


def test_what_is_not_finished_comes_first(kept: Validation) -> None:
    first, *_ = verdict(kept.model_copy(update={"unfinished": {"proxy supernet": "3 of 36 scores are there"}}))

    assert first == "Not finished, so what follows may change: proxy supernet: 3 of 36 scores are there"
