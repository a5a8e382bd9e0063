from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.accuracy import AccuracyTable
from nas.devices.fake import FakeDevice, Options
from nas.errors import InputError
from nas.latency import LatencyTable
from nas.latency.measure import build_table
from nas.latency.timing import TimingProtocol
from nas.networks import Architecture, SearchSpace
from nas.proxies import CIRCUMSTANCES, Score, ScoringFailed
from nas.proxies.accuracy_table import PredictedAccuracy
from nas.proxies.fake import FakeProxy
from nas.report import summary
from nas.report.words import markdown
from nas.search import (
    Candidate,
    GuidedPlan,
    Screening,
    SearchResult,
    SurveyPlan,
    plan_guided,
    plan_survey,
    run_guided,
    score_of,
)

TINY = SearchSpace.find("tiny")
ACCURACIES = AccuracyTable.find("iformer")[0]
REFERENCE = TINY.references["tiny_a"]
NAMES = {"space": "tiny", "table": "fake", "foretell": "accuracy-table", "scorer": "scorer", "settler": "settler"}
SURVEY_S = 5.0  # as the plan below has it, whatever the machine
SETTLED = 4  # the best three, and a reference
FILES = ("candidates.jsonl", "screened.jsonl", "settled.jsonl", "front.csv", "winner.json")


class Foretelling(PredictedAccuracy):
    """The accuracy table, which counts the networks that it was asked about. Its scores take no time.

    The network `doubted` may be worth nothing at all, so a survey ranks it last.
    """

    def __init__(self, *, doubted: str | None = None) -> None:
        super().__init__(table=ACCURACIES, name="iformer.imagenet")
        self.asked, self.doubted = 0, doubted

    def score_all(self, architectures: Sequence[Architecture]) -> list[Score]:
        self.asked += len(architectures)
        return [
            replace(
                score, seconds=0.0, details={**score.details, **({"low": -1e9} if network.id == self.doubted else {})}
            )
            for network, score in zip(architectures, super().score_all(architectures), strict=True)
        ]


class Recording:
    """Scores like the fake proxy, and lists the networks that it scored."""

    def __init__(
        self,
        *,
        estimate_s: float = 0.0,
        failing: Collection[str] = (),
        weight: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.scored: list[str] = []
        self.estimate_s, self.failing, self.weight, self.own = estimate_s, failing, weight, settings or {}

    def settings(self) -> dict[str, Any]:
        return {"proxy": "recording", "data": "made up", "device": "cpu", "threads": 1, **self.own}

    def estimate_seconds(self, architecture: Architecture) -> float:
        return self.estimate_s

    def value(self, architecture: Architecture) -> float:
        return FakeProxy().score(architecture).value

    def score(self, architecture: Architecture) -> Score:
        self.scored.append(architecture.id)
        if architecture.id in self.failing:
            raise ScoringFailed("it diverged")
        weights = None if self.weight is None else {"weight": torch.tensor([self.weight])}
        return Score(value=self.value(architecture), seconds=0.5, details={}, weights=weights)


class Contrary(Recording):
    """Prefers what the fake proxy likes least."""

    def value(self, architecture: Architecture) -> float:
        return -super().value(architecture)


class Loyal(Recording):
    """Prefers the reference to everything else."""

    def value(self, architecture: Architecture) -> float:
        return 9.0 if architecture.id == REFERENCE.id else super().value(architecture)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    quick = TimingProtocol(duration_ms=0, minimum_runs=20)
    return build_table(
        TINY.layers, FakeDevice(Options(noise=0)), tmp_path_factory.mktemp("t") / "t.json", protocol=quick
    )


@pytest.fixture(scope="module")
def survey(table: LatencyTable) -> SurveyPlan:
    """Sixty networks, of those that are no slower than the reference."""
    budget_ms = table.latency_ms(REFERENCE) * 1.001
    return replace(plan_survey(TINY, table, Foretelling(), budget_ms=budget_ms, networks=60), seconds=SURVEY_S)


@pytest.fixture(scope="module")
def plan(survey: SurveyPlan) -> GuidedPlan:
    """Ten networks to score, and four to settle."""
    return plan_guided(survey, Recording(), Contrary(), trials=10, time_limit_s=None)


Run = Callable[..., SearchResult]


@pytest.fixture
def run(table: LatencyTable, plan: GuidedPlan, tmp_path: Path) -> Run:
    def run_one(
        *,
        foretell: Foretelling | None = None,
        scorer: Recording | None = None,
        settler: Recording | None = None,
        out: str = "run",
        **options: Any,
    ) -> SearchResult:
        arguments: dict[str, Any] = {"plan": plan, "seed": 0, "names": NAMES, "command": ["nas", "search"]}
        return run_guided(
            TINY,
            table,
            foretell or Foretelling(),
            scorer or Recording(),
            settler or Contrary(),
            out=tmp_path / out,
            **arguments | options,
        )

    return run_one


class StopAfter:
    """Stops like Ctrl-C after some calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


# The plan


def test_without_a_limit_120_networks_are_scored_and_four_settled(survey: SurveyPlan) -> None:
    plan = plan_guided(survey, Recording(estimate_s=2.0), Recording(estimate_s=30.0), trials=None, time_limit_s=None)

    assert (plan.scored, plan.score_s, plan.settled, plan.settle_s) == (120, 2.0, 4, 30.0)
    assert plan.seconds == SURVEY_S + 120 * 2.0 + 4 * 30.0


@pytest.mark.parametrize(
    ("time_limit_s", "scored", "settled"),
    [
        (SURVEY_S + 1000, 120, 4),
        (SURVEY_S + 100, 30, 4),  # 40 s for settling, 60 s for scores
        (SURVEY_S + 50, 15, 2),  # half of the time, not more, is for settling
        (SURVEY_S + 30, 15, 0),  # one network alone decides nothing
        (SURVEY_S + 10, 5, 0),
        (SURVEY_S - 1, 1, 0),
    ],
)
def test_the_time_that_the_survey_leaves_is_divided(
    survey: SurveyPlan, time_limit_s: float, scored: int, settled: int
) -> None:
    scorer, settler = Recording(estimate_s=2.0), Recording(estimate_s=10.0)
    plan = plan_guided(survey, scorer, settler, trials=None, time_limit_s=time_limit_s)

    assert (plan.scored, plan.settled) == (scored, settled)


def test_trials_are_scored_if_the_time_allows(survey: SurveyPlan) -> None:
    scorer, settler = Recording(estimate_s=2.0), Recording(estimate_s=10.0)
    plans = [
        plan_guided(survey, scorer, settler, trials=trials, time_limit_s=limit_s)
        for trials, limit_s in ((7, None), (200, None), (7, SURVEY_S + 1000), (7, SURVEY_S + 10))
    ]

    assert [(plan.scored, plan.settled) for plan in plans] == [(8, 4), (201, 4), (8, 4), (5, 0)]  # with the reference


def test_a_plan_says_what_will_be_done_and_how_long_it_takes(survey: SurveyPlan) -> None:
    scorer, settler = Recording(estimate_s=1.5), Recording(estimate_s=60.0)
    long, short = (
        plan_guided(survey, scorer, settler, trials=None, time_limit_s=limit_s).describe()
        for limit_s in (None, SURVEY_S + 30)
    )

    assert long == [
        f"survey: 60 networks inside {survey.budgets.largest_ms:g} ms by tables alone, about 5 s",
        "scoring: 120 networks, the best of every latency, by the supernet, about 3.0 min",
        "settling: the best 3 and a reference are trained from the supernet, about 4.0 min",
    ]
    assert short[1:] == [
        "scoring: 20 networks, the best of every latency, by the supernet, about 30 s",
        "settling: left out, there is no time for it",
    ]


# The run


def test_the_survey_proposes_and_the_scorer_scores_the_best_of_it(run: Run, plan: GuidedPlan) -> None:
    scorer = Recording()
    result = run(scorer=scorer)
    shortlist = [one for one in result.screenings if one.kind == "searched"]
    known = [one for one in result.screenings if one.kind == "reference"]
    proposed = {one.id for one in shortlist}

    assert len(shortlist) == len(proposed) > plan.scored
    assert [one.id for one in known] == [REFERENCE.id]
    assert {"accuracy-table"} == {one.proxy for one in result.screenings}
    assert all(one.value is not None and float(one.details["low"]) < one.value for one in result.screenings)
    assert scorer.scored == [REFERENCE.id, *(one.id for one in shortlist if one.id != REFERENCE.id)][: plan.scored]
    assert [one.name for one in result.references] == ["tiny_a"]
    assert {one.id for one in result.scored} <= proposed
    assert [one.id for one in result.candidates if one.id != REFERENCE.id] == scorer.scored[1:]


def test_the_shortlist_takes_turns_between_the_budget_and_faster_networks(run: Run, plan: GuidedPlan) -> None:
    budget_ms = plan.survey.budgets.largest_ms
    result = run(foretell=(foretell := Foretelling()))
    shortlist = [one for one in result.screenings if one.kind == "searched"]
    latencies = {one.id: one.latency_ms for one in result.candidates}
    first = [latencies[one.id] >= 0.92 * budget_ms for one in shortlist[:6]]
    near = [float(one.details["low"]) for one in shortlist[:6:2]]

    assert first == [True, False, True, False, True, False]
    assert sorted(near, reverse=True) == near  # best first, by the lower end
    assert max(latencies.values()) <= budget_ms
    assert foretell.asked == 60 + len(result.screenings)  # no network of the survey is asked about twice for it


def test_the_best_by_score_and_the_reference_are_settled_and_the_settler_decides(run: Run) -> None:
    settler = Contrary()
    result = run(settler=settler, foretell=Foretelling(doubted=REFERENCE.id))
    best = sorted(result.scored, key=score_of, reverse=True)[: SETTLED - 1]
    by_settler = sorted(best, key=score_of)  # Contrary

    assert settler.scored == [best[0].id, REFERENCE.id, *(c.id for c in best[1:])]
    assert list(result.settled) == settler.scored
    assert [one.kind for one in result.settled.values()] == ["searched", "reference", "searched", "searched"]
    assert {"settler"} == {one.proxy for one in result.settled.values()}
    assert result.winner == by_settler[0] != best[0]
    assert result.winner.latency_ms <= result.run.budget_ms
    assert Architecture.load(result.path / "winner.json") == result.winner.architecture


def test_a_reference_that_is_settled_best_does_not_win(run: Run) -> None:
    result = run(settler=Loyal(), foretell=Foretelling(doubted=REFERENCE.id))
    best = max(result.settled.values(), key=lambda one: one.value or 0.0)

    assert best.id == REFERENCE.id
    assert result.winner is not None
    assert result.winner.id in set(result.settled) - {REFERENCE.id}


def test_a_reference_that_the_survey_found_as_well_is_settled_once(run: Run, survey: SurveyPlan) -> None:
    every = plan_guided(survey, Recording(), Recording(), trials=60, time_limit_s=None)
    settler = Recording()
    result = run(scorer=Loyal(), settler=settler, plan=every)

    assert [c.kind for c in result.candidates if c.id == REFERENCE.id] == ["reference", "searched"]
    assert settler.scored[0] == REFERENCE.id
    assert len(set(settler.scored)) == len(settler.scored) == 3


def test_the_winner_leaves_with_the_weights_of_its_settling(run: Run) -> None:
    from safetensors.torch import load_file

    result = run(scorer=Recording(weight=1.0), settler=Contrary(weight=2.0))

    assert result.winner is not None
    assert load_file(result.path / "winner.safetensors")["weight"].item() == 2.0
    kept = {path.stem for path in (result.path / "weights").iterdir()}
    assert set(result.settled) <= kept
    assert len(kept) <= len(result.settled) + 1  # the best by score is among the settled


def test_without_settling_the_score_decides(run: Run, plan: GuidedPlan) -> None:
    settler = Contrary()
    result = run(settler=settler, plan=replace(plan, settled=0))

    assert settler.scored == []
    assert not (result.path / "settled.jsonl").exists()
    assert result.winner == max(result.scored, key=score_of)


def test_where_there_is_no_settler_the_scores_decide(table: LatencyTable, survey: SurveyPlan, tmp_path: Path) -> None:
    scorer = Recording(estimate_s=1.0)
    plan = plan_guided(survey, scorer, None, trials=6, time_limit_s=None)
    names = {name: own for name, own in NAMES.items() if name != "settler"}
    result = run_guided(TINY, table, Foretelling(), scorer, None, plan=plan, seed=0, out=tmp_path / "run", names=names)

    assert plan.describe()[-1] == "the scores of the supernet decide"
    assert (plan.settled, plan.seconds) == (0, pytest.approx(survey.seconds + plan.scored))
    assert result.winner is not None
    assert score_of(result.winner) == max(map(score_of, result.scored))
    assert "settles" not in result.run.proxy
    assert result.settled == {}


def test_every_step_is_reported(run: Run, plan: GuidedPlan) -> None:
    surveyed: list[tuple[int, int]] = []
    scored: list[Candidate] = []
    settled: list[tuple[Candidate, Screening]] = []
    result = run(
        on_survey=lambda done, total: surveyed.append((done, total)),
        on_candidate=scored.append,
        on_settled=lambda candidate, screening: settled.append((candidate, screening)),
    )

    assert surveyed[-1] == (60, 60)
    assert tuple(scored) == result.candidates
    assert [screening for _, screening in settled] == list(result.settled.values())
    assert [candidate.id for candidate, _ in settled] == list(result.settled)


def test_a_summary_says_what_settled_it_and_how_far_the_steps_agree(run: Run) -> None:
    words = "\n".join(summary(run()))

    assert "settled by settler from the supernet: " in words
    assert "the winner is the best searched one of these, by the score " in words
    assert re.search(
        r"rank correlation \(Kendall's tau\): accuracy-table and the score -?[01]\.\d\d over 11 networks", words
    )
    assert "the score and settler" not in words  # four networks are too few to say so


# Failures and time


def test_a_network_that_cannot_be_scored_is_kept_as_failed_and_the_search_goes_on(run: Run, plan: GuidedPlan) -> None:
    third = run(out="before").candidates[2]
    result = run(scorer=Recording(failing={third.id}))
    (failed,) = (c for c in result.candidates if c.failure)

    assert (failed.id, failed.score, failed.failure) == (third.id, None, "it diverged")
    assert len({c.id for c in result.candidates}) == plan.scored
    assert third.id not in result.settled
    assert result.winner is not None


def test_a_network_that_cannot_be_settled_does_not_win(run: Run) -> None:
    winner = run(out="before").winner
    assert winner is not None
    result = run(settler=Contrary(failing={winner.id}))

    assert (result.settled[winner.id].value, result.settled[winner.id].failure) == (None, "it diverged")
    assert result.winner is not None
    assert result.winner.id in set(result.settled) - {winner.id}


def test_when_time_is_up_one_network_beside_the_reference_has_a_score(run: Run) -> None:
    result = run(time_limit_s=1e-9)

    assert [c.kind for c in result.candidates] == ["reference", "searched"]
    assert result.winner is not None
    assert set(result.settled) == {c.id for c in result.candidates}


def test_time_that_runs_out_while_settling_ends_it_after_two(
    run: Run, plan: GuidedPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Contrary):
        def score(self, architecture: Architecture) -> Score:
            clock[0] += 100.0
            return replace(super().score(architecture), seconds=100.0)

    clock = [0.0]
    monkeypatch.setattr("nas.search.guided.time.monotonic", lambda: clock[0])
    settlers = Slow(), Slow(), Slow()
    for number, (settler, limit_s) in enumerate(zip(settlers, (150.0, 350.0, 450.0), strict=True)):
        clock[0] = 0.0
        run(settler=settler, time_limit_s=limit_s, out=f"run {number}")

    assert [len(settler.scored) for settler in settlers] == [2, 3, 4]


def test_as_few_trials_as_there_are_references_leave_room_for_a_candidate(run: Run, survey: SurveyPlan) -> None:
    plan = plan_guided(survey, Recording(), Recording(), trials=1, time_limit_s=None)

    assert run(plan=plan).winner is not None


# Stopped and resumed


@pytest.fixture
def unstopped(run: Run) -> SearchResult:
    return run(out="unstopped")


def _same_files(one: Path, other: Path) -> None:
    """The same in all files; run.json has another time."""
    assert {name: (one / name).read_text() for name in FILES} == {name: (other / name).read_text() for name in FILES}
    runs = [json.loads((path / "run.json").read_text()) for path in (one, other)]
    assert {key: value for key, value in runs[0].items() if key != "started"} == {
        key: value for key, value in runs[1].items() if key != "started"
    }


@pytest.mark.parametrize("scores", [1, 2, 6])
def test_a_run_that_was_stopped_while_scoring_ends_like_one_that_was_not(
    run: Run, unstopped: SearchResult, scores: int, tmp_path: Path
) -> None:
    first, second = Recording(), Recording()
    with pytest.raises(KeyboardInterrupt):
        run(scorer=first, on_candidate=StopAfter(scores))
    left = SearchResult.load(tmp_path / "run")
    assert len(left.screenings) > len(left.candidates) == len(first.scored) == scores
    assert (left.path / "front.csv").exists()
    foretell = Foretelling()
    result = run(scorer=second, foretell=foretell, resume=True)

    assert foretell.asked == 0
    assert first.scored + second.scored == list(dict.fromkeys(first.scored + second.scored))
    _same_files(unstopped.path, result.path)


@pytest.mark.parametrize("settled", [1, 3])
def test_a_run_that_was_stopped_while_settling_ends_like_one_that_was_not(
    run: Run, unstopped: SearchResult, settled: int, tmp_path: Path
) -> None:
    first, second, scorer = Contrary(), Contrary(), Recording()
    with pytest.raises(KeyboardInterrupt):
        run(settler=first, on_settled=StopAfter(settled))
    left = SearchResult.load(tmp_path / "run")
    assert list(left.settled) == first.scored
    assert len(first.scored) == settled
    assert left.winner is not None
    assert left.winner.id in left.settled
    result = run(scorer=scorer, settler=second, resume=True)

    assert scorer.scored == []
    assert first.scored + second.scored == list(unstopped.settled)
    _same_files(unstopped.path, result.path)


def test_a_run_that_was_stopped_in_its_survey_begins_with_another(
    run: Run, unstopped: SearchResult, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(on_survey=StopAfter(2))
    left = SearchResult.load(tmp_path / "run")
    assert (left.screenings, left.candidates) == ((), ())
    result = run(resume=True)

    _same_files(unstopped.path, result.path)


def test_a_finished_run_has_nothing_left_to_do(run: Run) -> None:
    first = run()
    foretell, scorer, settler = Foretelling(), Recording(), Contrary()
    again = run(foretell=foretell, scorer=scorer, settler=settler, resume=True)

    assert (foretell.asked, scorer.scored, settler.scored) == (0, [], [])
    assert first.candidates == again.candidates
    assert first.winner == again.winner


def test_a_run_goes_on_on_another_machine_but_not_with_another_seed_or_settler(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(on_candidate=StopAfter(2))
    with pytest.raises(InputError, match=r"holds a run already: go on with it \(--resume\)"):
        run()
    with pytest.raises(InputError, match=r"was begun with another seed \(0, not 1\): repeat its options"):
        run(seed=1, resume=True)
    with pytest.raises(InputError, match=r"was begun with another settling images \(None, not 8192\)"):
        run(settler=Contrary(settings={"images": 8192}), resume=True)
    elsewhere = {"device": "cuda", "threads": 8, "torch": "9.9", "precision": "bf16"}
    result = run(scorer=Recording(settings=elsewhere), settler=Contrary(settings=elsewhere), resume=True)

    assert set(elsewhere) == set(CIRCUMSTANCES)
    assert len(result.settled) == SETTLED


def test_run_json_names_every_step_and_no_circumstances_of_the_settler(run: Run, survey: SurveyPlan) -> None:
    elsewhere = {"device": "cuda", "threads": 8, "torch": "9.9", "precision": "bf16", "images": 8192}
    document = json.loads((run(settler=Contrary(settings=elsewhere)).path / "run.json").read_text())
    proxy = document["proxy"]

    assert (document["budget_ms"], document["seed"], document["space"]["name"]) == (
        survey.budgets.largest_ms,
        0,
        "tiny",
    )
    assert (proxy["name"], proxy["proxy"], proxy["device"]) == ("scorer", "recording", "cpu")
    assert [(one["name"], one["accuracy_table"]) for one in proxy["screens"]] == [
        ("accuracy-table", "iformer.imagenet")
    ]
    assert proxy["settles"] == {"name": "settler", "proxy": "recording", "data": "made up", "images": 8192}


def test_a_run_that_goes_on_with_other_budgets_has_them_in_its_files(run: Run, survey: SurveyPlan) -> None:
    first = run()
    lower_ms = sorted(one.latency_ms for one in first.scored)[len(first.scored) // 2]
    budgets = replace(survey.budgets, limits_ms=(0.99 * lower_ms, lower_ms))
    other = plan_guided(replace(survey, budgets=budgets), Recording(), Contrary(), trials=10, time_limit_s=None)
    again = run(plan=other, resume=True)

    assert again.run.budgets == budgets.limits_ms
    assert again.run.command == first.run.command
    assert again.winner is not None
    assert again.winner.latency_ms <= lower_ms
    assert Architecture.load(again.path / "winner.json") == again.winner.architecture
    assert f"| budget | {budgets.limits_ms[0]:g} ms and {lower_ms:g} ms |" in markdown(again)
    assert {one.id for one in first.candidates} <= {one.id for one in again.candidates}  # nothing is forgotten


def test_a_run_that_was_stopped_in_a_survey_of_other_budgets_scores_nothing_over_them(
    run: Run, survey: SurveyPlan
) -> None:
    first, scorer = run(), Recording()
    lower_ms = sorted(one.latency_ms for one in first.scored)[len(first.scored) // 2]
    budgets = replace(survey.budgets, limits_ms=(lower_ms,))
    other = plan_guided(replace(survey, budgets=budgets), Recording(), Contrary(), trials=14, time_limit_s=None)
    with pytest.raises(KeyboardInterrupt):
        run(plan=other, resume=True, on_survey=StopAfter(1))
    again = run(plan=other, resume=True, scorer=scorer)

    assert scorer.scored
    assert all(one.latency_ms <= lower_ms for one in again.candidates if one.id in scorer.scored)
