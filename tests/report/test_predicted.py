from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas.accuracy import WORDS
from nas.networks import Architecture, ConvSpec, SearchSpace, StageSpec
from nas.proxies import build_proxies
from nas.report import (
    accuracy_words,
    candidates_table,
    is_predicted,
    landmarks,
    published_words,
    summary,
    winners_table,
)
from nas.report.front import score_words_of
from nas.report.predicted import predicted_outcome, survey_steps
from nas.report.words import markdown
from nas.search import Candidate, ResultsFolder, Run, SearchResult, SpaceUsed, TableUsed

REFERENCES = SearchSpace.find("iformer").references
T, M, L = (REFERENCES[f"iformer_{size}"] for size in "tml")
# M with a first stage that is wider than any published one.
WIDE = M.model_copy(
    update={"stages": (StageSpec(channels=64, blocks=(ConvSpec(kernel=7, expansion=4),) * 2), *M.stages[1:])}
)

Survey = Callable[..., SearchResult]


def _candidate(network: Architecture, latency_ms: float, top1: float, low: float, high: float) -> Candidate:
    return Candidate(
        id=network.id,
        kind="searched",
        latency_ms=latency_ms,
        low_ms=0.9 * latency_ms,
        high_ms=1.1 * latency_ms,
        score=top1,
        seconds=0.0,
        details={"low": low, "high": high, "unit": "% top-1", "looked_at": 300},
        architecture=network,
    )


def _reference(name: str, latency_ms: float, top1: float, **published: float) -> Candidate:
    one = _candidate(REFERENCES[name], latency_ms, top1, top1 - 1, top1 + 1)
    return one.model_copy(update={"kind": "reference", "name": name, "details": one.details | published})


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    """Make the folder of a survey with these candidates."""
    (settings,) = (proxy.settings() for proxy in build_proxies("accuracy-table", data="", seed=0).values())

    def make(*candidates: Candidate, out: str = "survey", **changes: Any) -> SearchResult:
        run = Run(
            command="nas search --budget-ms 1.1",
            started="2026-01-01T00:00:00+00:00",
            versions={"python": "3.11"},
            space=SpaceUsed(name="iformer", digest="0", networks=10**15),
            table=TableUsed(name="iphone13.coreml.fp16", digest="0", origin="calibrated: iPhone 13", trust="3 % off"),
            budget_ms=1.1,
            proxy={"name": "accuracy-table", **settings} | changes,
            seed=0,
        )
        folder = ResultsFolder(tmp_path / out, run, resume=False)
        folder.replace_all(candidates)
        return folder.finish()

    return make


def _compared(result: SearchResult, name: str) -> str:
    (line,) = (line for line in predicted_outcome(result) if line.startswith(f"  compared with {name}, "))
    return line


def test_the_winner_is_compared_with_what_is_published_of_known_networks(survey: Survey) -> None:
    result = survey(
        _candidate(WIDE, 1.05, 81.0, 80.0, 82.0),
        _reference("iformer_m", 1.09, 80.1, published_top1=80.4, published_ms=1.10),
        _reference("iformer_t", 0.605, 74.0, published_top1=74.1, published_ms=0.60),
    )
    lines = predicted_outcome(result)

    assert lines[0] == (
        f"winner {WIDE.id}: 1.050 ms [0.945, 1.155] of 1.1 ms, predicted ImageNet top-1 81.0 % [80.0, 82.0]"
    )
    assert lines[1].startswith("  64-96-192-384: 2C | 2C | 9C 4A 1C | 2A; ")
    assert lines[2:4] == [  # the reference nearest to the budget first
        "  compared with iformer_m, 1.090 ms, published 80.4 % at 1.10 ms: the winner +0.6 points [-0.4, +1.6], "
        "not shown: the interval includes 0",
        "  compared with iformer_t, 0.605 ms, published 74.1 % at 0.60 ms: no network better than iformer_t found "
        "that is no slower",
    ]
    assert lines[4:6] == ["differs from iformer_m (its numbers in brackets):", "  stage 1: channels 64 (48)"]
    assert [*lines, *survey_steps(result)] == summary(result)
    assert markdown(result).endswith("\n".join(["```text", *survey_steps(result), "```", ""]))


def test_what_published_results_and_supernets_say_stands_below_the_winner(survey: Survey) -> None:
    winner = _candidate(WIDE, 1.05, 81.0, 80.0, 82.0)
    published = {"published": 80.9, "published low": 79.9, "published high": 81.9}
    trained = {"trained": 81.3, "trained low": 80.3, "trained high": 82.3}
    one, both = (
        predicted_outcome(survey(winner.model_copy(update={"details": winner.details | parts}), out=name))
        for name, parts in (("one", published), ("both", published | trained))
    )

    assert both[2] == (f"  by {WORDS['published']} 80.9 % [79.9, 81.9]; by {WORDS['trained']} 81.3 % [80.3, 82.3]")
    assert not any("80.9" in line for line in one)  # one part says what the first line says


@pytest.mark.parametrize(
    ("published", "verdict"),
    [
        (79.9, "+1.1 points [+0.1, +2.1], better"),
        (80.1, "+0.9 points [-0.1, +1.9], not shown: the interval includes 0"),
        (81.9, "-0.9 points [-1.9, +0.1], not shown: the interval includes 0"),
        (82.1, "-1.1 points [-2.1, -0.1], worse; no network better than iformer_m found that is no slower"),
    ],
)
def test_a_verdict_needs_the_published_accuracy_outside_the_interval(
    published: float, verdict: str, survey: Survey
) -> None:
    winner = _candidate(WIDE, 1.05, 81.0, 80.0, 82.0)
    result = survey(winner, _reference("iformer_m", 1.09, 75.0, published_top1=published))

    assert _compared(result, "iformer_m") == (
        f"  compared with iformer_m, 1.090 ms, published {published:.1f} %: the winner {verdict}"
    )


def test_a_reference_is_compared_with_the_front_at_its_own_latency(survey: Survey) -> None:
    fast = _candidate(L, 0.60, 76.0, 75.0, 77.0)
    result = survey(_candidate(WIDE, 1.05, 81.0, 80.0, 82.0), fast, _reference("iformer_t", 0.605, 74.0))

    assert _compared(result, "iformer_t") == (
        f"  compared with iformer_t, 0.605 ms, published 74.1 %: {fast.id}, no slower, +1.9 points [+0.9, +2.9], better"
    )


def test_a_published_accuracy_is_known_without_a_latency_table_that_has_it(survey: Survey) -> None:
    result = survey(_candidate(WIDE, 1.05, 81.0, 80.0, 82.0), _reference("iformer_m", 1.09, 79.5))

    assert _compared(result, "iformer_m").startswith(
        "  compared with iformer_m, 1.090 ms, published 80.4 %: the winner +0.6 "
    )


def test_a_reference_without_published_accuracy_has_its_own_interval(survey: Survey) -> None:
    unknown = _reference("iformer_m", 1.09, 79.5).model_copy(update={"name": "mine"})
    result = survey(_candidate(WIDE, 1.05, 81.0, 80.0, 82.0), unknown)

    assert _compared(result, "mine") == (
        "  compared with mine, 1.090 ms, predicted 79.5 % [78.5, 80.5]: the winner +1.5 points [+0.1, +2.9], better"
    )


def test_what_no_published_network_supports_is_named(survey: Survey) -> None:
    lines = predicted_outcome(survey(_candidate(WIDE, 1.05, 81.0, 80.0, 82.0)))

    assert lines[2:4] == [
        "outside the range of the published networks of the family (in brackets), so less certain:",
        "  stage 1: channels 64 (32 to 48)",
    ]


def test_a_winner_within_the_published_ones_is_said_to_be(survey: Survey) -> None:
    lines = predicted_outcome(survey(_candidate(M, 1.09, 80.0, 79.4, 80.8), _reference("iformer_m", 1.09, 80.0)))

    assert lines[lines.index("differs from iformer_m (its numbers in brackets):") + 1] == "  in nothing"
    assert "within the range of the published networks of the family" in lines


def test_without_its_accuracy_table_a_run_can_still_be_read(survey: Survey) -> None:
    result = survey(_candidate(WIDE, 1.05, 81.0, 80.0, 82.0), accuracy_table="moved")

    assert "the published networks of the family" not in "\n".join(predicted_outcome(result))


def test_a_summary_says_that_nothing_was_measured_and_what_comes_next(survey: Survey) -> None:
    result = survey(_candidate(WIDE, 1.05, 81.0, 80.0, 82.0), _candidate(T, 0.6, 74.0, 73.0, 75.0))
    words = "\n".join(predicted_outcome(result))

    assert "  nas search --budget-ms 1.1 --data IMAGES" in survey_steps(result)
    assert f"300 networks evaluated, 2 on the front; files in {result.path}" in words
    assert "predicted latency: iphone13.coreml.fp16, calibrated: iPhone 13; 3 % off" in words
    assert (
        f"predicted ImageNet top-1: by an accuracy table; nothing was trained or measured "
        f"({result.run.proxy['trust']}); networks are ordered by the lower end of the 90 % interval"
    ) in words


@pytest.mark.parametrize("out", ["survey", "it's 1.1 ms"])
def test_the_winner_is_trained_from_the_results_folder(out: str, survey: Survey) -> None:
    result = survey(_candidate(WIDE, 1.05, 81.0, 80.0, 82.0), out=out)
    *_, purpose, command = survey_steps(result)

    assert purpose == "train the winner in full:"
    assert ["nas", "train", str(result.path), "--data", "IMAGES"] == shlex.split(command)


def test_what_comes_next_asks_the_same_question(survey: Survey) -> None:
    result = survey(_candidate(WIDE, 0.99, 81.0, 80.0, 82.0))
    table = result.run.table.model_copy(update={"name": "my phone.onnxruntime"})
    space = result.run.space.model_copy(update={"name": "my spaces/small.toml", "must_fit": "timm"})
    run = result.run.model_copy(update={"space": space, "table": table, "confidence": 0.9})
    steps = survey_steps(SearchResult(path=result.path, run=run, candidates=result.candidates))

    assert (
        "  nas search --budget-ms 1.1 --space 'my spaces/small.toml' --table 'my phone.onnxruntime' --confidence 0.9 "
        "--must-fit timm --data IMAGES"
    ) in steps


def test_a_survey_without_a_winner_says_so(survey: Survey) -> None:
    result = survey(_candidate(L, 1.6, 81.8, 81.0, 82.6))

    assert summary(result) == [f"{result.path}: no network inside 1.1 ms was found"]


def test_only_scores_of_an_accuracy_table_are_predicted_accuracies(survey: Survey, result: SearchResult) -> None:
    assert is_predicted(survey(_candidate(M, 1.09, 80.0, 79.4, 80.8)))
    assert not is_predicted(result)
    assert survey_steps(result) == []
    assert "ImageNet" not in "\n".join(summary(result))


def test_accuracies_have_one_decimal_and_their_interval() -> None:
    predicted = _candidate(M, 1.09, 80.04, 79.36, 80.78)

    assert accuracy_words(predicted) == "80.0 % [79.4, 80.8]"
    assert published_words(predicted) == ""
    assert published_words(_reference("iformer_m", 1.09, 80.0, published_ms=1.1)) == "1.10 ms"
    assert published_words(_reference("iformer_m", 1.09, 80.0, published_top1=80.4)) == "80.4 %"
    assert published_words(_reference("iformer_m", 1.09, 80.0, published_top1=80.4, published_ms=1.1)) == (
        "80.4 % at 1.10 ms"
    )


def test_landmarks_of_a_front_are_some_percent_apart_and_include_its_end() -> None:
    latencies = [0.50, 0.51, 0.53, 0.54, 0.60, 0.601, 0.602]
    front = [_candidate(M, latency_ms, 80.0, 79.0, 81.0) for latency_ms in latencies]

    assert [one.latency_ms for one in landmarks(front)] == [0.50, 0.53, 0.60, 0.602]
    assert [one.latency_ms for one in landmarks(front[:1])] == [0.50]
    assert landmarks([]) == []


def test_what_comes_next_asks_for_all_budgets_or_the_whole_front(survey: Survey) -> None:
    result = survey(_candidate(WIDE, 1.05, 81.0, 80.0, 82.0))

    def words(**asked: Any) -> str:
        run = result.run.model_copy(update=asked)
        return "\n".join(survey_steps(SearchResult(path=result.path, run=run, candidates=result.candidates)))

    assert "  nas search --budget-ms 0.6,1.1 --data IMAGES" in words(budgets_ms=(0.6, 1.1))
    assert "  nas search --data IMAGES" in words(whole_front=True)


def test_the_winner_of_each_budget_is_compared_with_what_is_published(survey: Survey) -> None:
    result = survey(
        _candidate(WIDE, 1.05, 81.0, 80.0, 82.0),
        _reference("iformer_t", 0.605, 74.0, published_top1=74.1, published_ms=0.60),
    )
    run = result.run.model_copy(update={"budgets_ms": (0.61, 1.1)})
    header, rows = winners_table(SearchResult(path=result.path, run=run, candidates=result.candidates))

    assert header[3] == "predicted top-1 [90 %]"
    assert rows[0][:2] == ("0.61 ms", "none yet")
    assert rows[1][3:] == ("81.0 % [80.0, 82.0]", "iformer_t, 0.605 ms, published 74.1 % at 0.60 ms")


def test_accuracies_of_backbones_are_said_to_be_those_of_classifiers(survey: Survey) -> None:
    backbones = SearchSpace.find("iformer-512").references
    found = _candidate(backbones["iformer_m_512"], 1.0, 80.4, 80.0, 80.8)
    known = _candidate(backbones["iformer_l_512"], 1.05, 81.9, 81.0, 82.0).model_copy(
        update={"kind": "reference", "name": "iformer_l_512"}
    )
    known = known.model_copy(update={"details": known.details | {"published_ms": 1.08}})
    result = survey(found, known)
    lines = predicted_outcome(result)

    assert lines[0].endswith("of 1.1 ms, predicted ImageNet top-1 as a classifier at 224 px 80.4 % [80.0, 80.8]")
    assert "compared with iformer_l_512, 1.050 ms, published 1.08 ms, predicted 81.9 % [81.0, 82.0]: " in lines[2]
    assert lines[-1].startswith("predicted ImageNet top-1 as a classifier at 224 px: by an accuracy table")
    assert candidates_table(result, result.candidates)[0][3] == "predicted top-1 as a classifier at 224 px [90 %]"
    assert score_words_of(result) == "ImageNet top-1 as a classifier at 224 px, %"
    assert survey_steps(result) == [
        "train the winner as a classifier at 224 px:",
        f"  nas train {result.path} --data IMAGES --resolution 224",
        "go on with its weights, for detection or segmentation:",
        f"  nas train {result.path} --data FOLDER --task segment --from {result.path}/trained/winner",
    ]
    assert not any("image" in line for line in lines)  # 512 px are not outside the range of classifiers
