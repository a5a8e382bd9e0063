from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.errors import BudgetError, InputError
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace
from nas.proxies import Score, build_proxies
from nas.report.words import markdown
from nas.search import BatchProxy, Budgets, SearchResult, SurveyPlan, plan_survey, run_survey
from nas.search.result import rank_of

SPACE = SearchSpace.find("iformer")
TINY = SearchSpace.find("tiny")
TABLE = LatencyTable.find("iphone13")[0]
NAMES = {"space": "iformer", "table": "iphone13.coreml.fp16", "proxy": "accuracy-table"}
BUDGET_MS = 1.1


class _Reversed:
    """Promises more for wider networks, in an interval that grows faster still."""

    def __init__(self) -> None:
        self.scored: list[Architecture] = []

    def settings(self) -> dict[str, Any]:
        return {"proxy": "reversed"}

    def estimate_seconds(self, architecture: Architecture) -> float:
        return 0.0

    def score(self, architecture: Architecture) -> Score:
        return self.score_all([architecture])[0]

    def score_all(self, architectures: Sequence[Architecture]) -> list[Score]:
        self.scored += architectures
        return [self._score(network) for network in architectures]

    @staticmethod
    def _score(network: Architecture) -> Score:
        width = float(sum(stage.channels for stage in network.stages))
        return Score(value=width, seconds=0.0, details={"low": -width, "high": 3 * width})


@pytest.fixture(scope="module")
def proxy() -> BatchProxy:
    (built,) = build_proxies("accuracy-table", data="synthetic", seed=0).values()
    assert isinstance(built, BatchProxy)
    return built


def _plan(proxy: BatchProxy, **changes: Any) -> SurveyPlan:
    return plan_survey(SPACE, TABLE, proxy, **{"budget_ms": BUDGET_MS, "networks": 300} | changes)


def _run(proxy: BatchProxy, plan: SurveyPlan, out: Path, **changes: Any) -> SearchResult:
    options: dict[str, Any] = {"seed": 0, "names": NAMES, "command": ["nas", "search", "--budget-ms", "1.1"]}
    return run_survey(SPACE, TABLE, proxy, plan=plan, out=out, **options | changes)


@pytest.fixture(scope="module")
def plan(proxy: BatchProxy) -> SurveyPlan:
    return _plan(proxy)


@pytest.fixture(scope="module")
def survey(proxy: BatchProxy, plan: SurveyPlan, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return _run(proxy, plan, tmp_path_factory.mktemp("survey") / "run")


def test_the_best_of_every_band_and_the_references_are_kept(survey: SearchResult, plan: SurveyPlan) -> None:
    searched, references = survey.scored, survey.references

    assert len(searched) + len(references) == len(survey.candidates)
    assert [one.name for one in references] == ["iformer_t", "iformer_s", "iformer_m"]
    assert all(one.architecture in SPACE for one in searched)
    assert max(one.latency_ms for one in searched) <= BUDGET_MS
    assert min(one.latency_ms for one in searched) < 1.1 * plan.cheapest_ms
    assert sorted(one.latency_ms for one in searched) == [one.latency_ms for one in searched]
    assert {300} == {one.details["looked_at"] for one in survey.candidates}
    assert SearchResult.load(survey.path).candidates == survey.candidates


def test_every_candidate_has_what_the_tables_say(survey: SearchResult, proxy: BatchProxy) -> None:
    for one in (*survey.scored[:3], *survey.references):
        score, latency = proxy.score(one.architecture), TABLE.latency(one.architecture)
        low, high = float(one.details["low"]), float(one.details["high"])

        assert pytest.approx((score.details["low"], score.value, score.details["high"])) == (low, one.score, high)
        assert low < score.value < high
        assert (latency.latency_ms, latency.low_ms, latency.high_ms) == (one.latency_ms, one.low_ms, one.high_ms)


def test_references_have_what_is_published_of_them(survey: SearchResult) -> None:
    assert {one.name: (one.details["published_ms"], one.details["published_top1"]) for one in survey.references} == {
        "iformer_t": (0.60, 74.1),
        "iformer_s": (0.85, 78.8),
        "iformer_m": (1.10, 80.4),
    }
    assert all("published_top1" not in one.details for one in survey.scored)


def test_the_front_rises_and_the_winner_is_its_end(survey: SearchResult) -> None:
    front = survey.front
    latencies, ranks = [one.latency_ms for one in front], [rank_of(one) for one in front]

    assert len(front) > 10
    assert sorted(set(latencies)) == latencies
    assert sorted(set(ranks)) == ranks
    assert survey.winner == front[-1]
    assert survey.winner.latency_ms <= BUDGET_MS
    assert rank_of(survey.winner) == survey.winner.details["low"] == max(map(rank_of, survey.scored))


def test_the_folder_has_the_settings_the_front_and_the_winner(survey: SearchResult) -> None:
    run = json.loads((survey.path / "run.json").read_text())
    proxy = run["proxy"]

    assert (run["budget_ms"], run["seed"], run["confidence"]) == (BUDGET_MS, 0, None)
    assert run["command"] == "nas search --budget-ms 1.1"
    assert {"name": "iformer", "digest": SPACE.digest, "networks": SPACE.count(), "must_fit": None} == run["space"]
    assert (run["table"]["name"], run["table"]["digest"]) == ("iphone13.coreml.fp16", TABLE.digest())
    assert (proxy["name"], proxy["proxy"], proxy["accuracy_table"]) == (
        "accuracy-table",
        "accuracy-table",
        "iformer.imagenet",
    )
    assert survey.winner is not None
    assert Architecture.load(survey.path / "winner.json") == survey.winner.architecture
    assert len((survey.path / "front.csv").read_text().splitlines()) == 1 + len(survey.front)
    assert not list((survey.path / "weights").iterdir())


def test_the_same_seed_finds_the_same_networks_and_another_does_not(
    survey: SearchResult, proxy: BatchProxy, plan: SurveyPlan, tmp_path: Path
) -> None:
    ids = [one.id for one in survey.candidates]

    assert ids == [one.id for one in _run(proxy, plan, tmp_path / "again").candidates]
    assert ids != [one.id for one in _run(proxy, plan, tmp_path / "other", seed=1).candidates]


def test_a_resumed_survey_takes_the_place_of_the_first(proxy: BatchProxy, plan: SurveyPlan, tmp_path: Path) -> None:
    first = _run(proxy, replace(plan, networks=40), tmp_path / "run")
    with pytest.raises(InputError, match=r"holds a run already: go on with it \(--resume\)"):
        _run(proxy, plan, tmp_path / "run")
    second = _run(proxy, plan, tmp_path / "run", resume=True)

    assert {40} == {one.details["looked_at"] for one in first.candidates}
    assert {300} == {one.details["looked_at"] for one in second.candidates}
    assert len({one.id for one in second.scored}) == len(second.scored)
    assert len(second.references) == 3
    assert second.winner is not None
    assert Architecture.load(tmp_path / "run" / "winner.json") == second.winner.architecture


def test_a_survey_of_another_seed_does_not_go_on_and_one_of_another_budget_does(
    proxy: BatchProxy, plan: SurveyPlan, tmp_path: Path
) -> None:
    few = replace(plan, networks=40)
    kept = _run(proxy, few, tmp_path / "run").candidates

    with pytest.raises(InputError, match=r"was begun with another seed \(0, not 1\): repeat its options"):
        _run(proxy, few, tmp_path / "run", seed=1, resume=True)
    assert SearchResult.load(tmp_path / "run").candidates == kept
    lower = _run(proxy, replace(few, budgets=Budgets(limits_ms=(0.7, 0.9))), tmp_path / "run", resume=True)
    assert (lower.run.budget_ms, lower.run.budgets) == (0.9, (0.7, 0.9))
    assert "| budget | 0.7 ms and 0.9 ms |" in markdown(lower)
    assert max(one.latency_ms for one in lower.scored) <= 0.9


def test_the_lower_end_of_an_interval_decides(tmp_path: Path) -> None:
    proxy = _Reversed()  # the widest network has the best score, and the narrowest the best lower end
    plan = _plan(proxy, networks=600)
    proxy.scored.clear()  # the plan has scored some to measure the time
    result = _run(proxy, plan, tmp_path / "run")
    kept = [one.score for one in result.scored if one.score is not None]
    looked_at = [proxy.score(network).value for network in {network.id: network for network in proxy.scored}.values()]

    assert len(kept) < len(looked_at) == 600
    assert result.winner is not None
    assert result.winner.score == min(kept) == min(looked_at)
    assert np.mean(kept) < np.mean(looked_at)  # so it is in every band
    assert max(map(TABLE.latency_ms, proxy.scored)) <= BUDGET_MS  # over the budget nothing is scored


def test_with_a_confidence_the_upper_end_is_inside_the_budget(proxy: BatchProxy, tmp_path: Path) -> None:
    plan = _plan(proxy, confidence=0.9, networks=60)
    result = _run(proxy, plan, tmp_path / "run")

    assert max(one.high_ms for one in result.scored) <= BUDGET_MS
    assert result.run.confidence == 0.9
    assert plan.cheapest_ms > TABLE.latency_ms(plan.cheapest)
    assert "upper end at 90% inside the budget" in "\n".join(plan.describe())


def test_time_that_is_up_ends_a_survey(proxy: BatchProxy, plan: SurveyPlan, tmp_path: Path) -> None:
    result = _run(proxy, plan, tmp_path / "run", time_limit_s=1e-9)

    assert {4} == {one.details["looked_at"] for one in result.candidates}  # the cheapest and the references
    assert result.winner is not None


def test_every_network_of_a_small_space_is_looked_at_and_no_more(proxy: BatchProxy, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    plan = plan_survey(TINY, TABLE, proxy, budget_ms=5.0)
    result = run_survey(
        TINY,
        TABLE,
        proxy,
        plan=replace(plan, networks=40),
        seed=0,
        out=tmp_path / "run",
        names=NAMES,
        on_progress=lambda done, total: progress.append((done, total)),
    )

    assert plan.networks == TINY.count() == 224
    assert progress[-1] == (40, 40)
    assert [one.name for one in result.references] == ["tiny_a"]
    assert "published_top1" not in result.references[0].details


def test_a_plan_says_what_will_be_done(plan: SurveyPlan) -> None:
    space, latency, accuracy, survey, seconds = plan.describe()

    assert space == f"space: 8.71e+15 networks, the cheapest in {plan.cheapest_ms:.3f} ms"
    assert latency == f"latency: {TABLE.provenance.label}; {TABLE.trust}"
    assert accuracy.startswith(
        "accuracy: predicted ImageNet-1k top-1; 0.4 points off in the mean over 12 published networks"
    )
    assert survey == (
        "survey: 300 networks inside 1.1 ms, nothing is trained; for comparison iformer_t, iformer_s, iformer_m"
    )
    backbones = replace(plan, classifier=" as a classifier at 224 px").describe()[2]
    assert backbones.startswith("accuracy: predicted ImageNet-1k top-1 as a classifier at 224 px; 0.4 points off")
    assert plan.seconds > 0
    assert seconds == f"time: about {plan.seconds:.0f} s"


def test_a_plan_takes_the_time_of_a_hundred_networks_for_that_of_all(
    proxy: BatchProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([5.0, 7.0])
    times = SimpleNamespace(perf_counter=lambda: next(clock), monotonic=time.monotonic)
    monkeypatch.setattr("nas.search.survey.time", times)

    assert _plan(proxy, networks=300).seconds == 6.0


def test_a_plan_is_limited_by_its_time(proxy: BatchProxy, plan: SurveyPlan) -> None:
    assert _plan(proxy, networks=10**6, time_limit_s=5.0).seconds == 5.0
    assert _plan(proxy, networks=10**6).seconds > 10 * plan.seconds


def test_references_are_inside_the_budget_by_prediction_or_publication(proxy: BatchProxy) -> None:
    def names(budget_ms: float) -> list[str]:
        return list(_plan(proxy, budget_ms=budget_ms).references)

    predicted_ms = TABLE.latency_ms(SPACE.references["iformer_t"])

    assert predicted_ms > 0.601  # published with 0.60 ms
    assert names(0.601) == ["iformer_t"]
    assert names(0.599) == []


@pytest.mark.parametrize(
    ("budget_ms", "error", "message"),
    [
        (0.1, BudgetError, r"no network of the space runs in 0\.1 ms: the cheapest is predicted at 0\.34"),
        (-1.0, InputError, r"must be a positive number of milliseconds, 1e\+09 at most, got -1"),
        (float("nan"), InputError, r"must be a positive number of milliseconds, 1e\+09 at most, got nan"),
        (1e308, InputError, r"must be a positive number of milliseconds, 1e\+09 at most, got 1e\+308"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused(
    budget_ms: float, error: type[Exception], message: str, proxy: BatchProxy
) -> None:
    with pytest.raises(error, match=message):
        _plan(proxy, budget_ms=budget_ms)


def test_proxies_that_train_are_not_for_a_survey() -> None:
    built = build_proxies("accuracy-table,fake", data="synthetic", seed=0)

    assert {name: isinstance(proxy, BatchProxy) for name, proxy in built.items()} == {
        "accuracy-table": True,
        "fake": False,
    }
