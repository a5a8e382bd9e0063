from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from nas.devices.fake import FakeDevice, Options
from nas.errors import BudgetError, InputError, NasError
from nas.latency import LatencyTable
from nas.latency.measure import build_table
from nas.latency.timing import TimingProtocol
from nas.networks import Architecture, SearchSpace, random_choice
from nas.proxies import Score
from nas.proxies.fake import FakeProxy
from nas.search import Candidate, Limits, Screening, SearchResult, Spending, plan_search
from nas.search.folder import ResultsFolder
from nas.search.limits import QUANTITIES
from nas.search.parameters import as_parameters
from nas.search.progress import Progress
from nas.search.run import run_search

TINY = SearchSpace.find("tiny")
NAMES = {"space": "tiny", "table": "fake", "proxy": "fake"}


class Recording:
    """Scores like the fake proxy and lists the networks that it scored. May stop the search like Ctrl-C."""

    def __init__(
        self, *, failing: Collection[str] = (), interrupt_at: int | None = None, estimate_s: float = 0.0
    ) -> None:
        self.proxy = FakeProxy(failing=failing)
        self.scored: list[Architecture] = []
        self.interrupt_at = interrupt_at
        self.estimate_s = estimate_s

    def settings(self) -> dict[str, Any]:
        return FakeProxy().settings()

    def estimate_seconds(self, architecture: Architecture) -> float:
        return self.estimate_s

    def score(self, architecture: Architecture) -> Score:
        if len(self.scored) == self.interrupt_at:
            raise KeyboardInterrupt
        self.scored.append(architecture)
        return self.proxy.score(architecture)


class Cheap(Recording):
    """Gives other values than the fake proxy, on another scale, and reports one second for each score."""

    def score(self, architecture: Architecture) -> Score:
        score = super().score(architecture)
        return replace(score, value=self.value(architecture.id), seconds=1.0)

    @staticmethod
    def value(network_id: str) -> float:
        return -float(int(network_id, 16) % 1000)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    quick = TimingProtocol(duration_ms=0, minimum_runs=20)
    return build_table(
        TINY.layers, FakeDevice(Options(noise=0)), tmp_path_factory.mktemp("t") / "t.json", protocol=quick
    )


@pytest.fixture(scope="module")
def budget_ms(table: LatencyTable) -> float:
    """A budget that leaves out about half of the space, but not the reference."""
    return table.latency_ms(TINY.references["tiny_a"]) * 1.001


Search = Callable[..., SearchResult]


@pytest.fixture
def search(table: LatencyTable, budget_ms: float, tmp_path: Path) -> Search:
    def run(
        proxy: Any,
        *,
        screens: dict[str, Any] | None = None,
        screen: int = 4,
        trials: int | None = 12,
        time_limit_s: float | None = None,
        **options: Any,
    ) -> SearchResult:
        ends: dict[str, Any] = {"trials": trials, "time_limit_s": time_limit_s}
        plan = plan_search(TINY, table, proxy, screens=screens, screen=screen, budget_ms=budget_ms, **ends)
        arguments: dict[str, Any] = {"seed": 0, "out": tmp_path / "run", "names": NAMES, "time_limit_s": time_limit_s}
        return run_search(TINY, table, proxy, screens=screens, plan=plan, **arguments | options)

    return run


def test_over_budget_candidate_is_never_scored(search: Search, table: LatencyTable, budget_ms: float) -> None:
    proxy = Recording()
    seen: list[Progress] = []
    search(proxy, on_progress=seen.append, sampler="random")  # which knows nothing of latency

    assert max(table.latency_ms(network) for network in proxy.scored) <= budget_ms
    assert seen[-1].over_budget > 0
    assert seen[-1].proposed >= seen[-1].over_budget + 12


def test_equal_networks_are_scored_once(search: Search) -> None:
    proxy = Recording()
    result = search(proxy, trials=40)

    assert len({network.id for network in proxy.scored}) == len(proxy.scored)
    assert len(result.scored) == 40


def test_a_reference_inside_the_budget_is_scored_and_marked(search: Search) -> None:
    result = search(Recording())

    assert [reference.name for reference in result.references] == ["tiny_a"]
    assert result.winner is not None
    assert result.winner.kind == "searched"


def test_the_search_ends_when_the_space_is_exhausted(search: Search, table: LatencyTable, budget_ms: float) -> None:
    choose = random_choice(seed=0)
    networks = {network.id: network for network in (TINY.sample(choose) for _ in range(6000))}
    inside = {key for key, network in networks.items() if table.latency_ms(network) <= budget_ms}
    result = search(Recording(), trials=1000, sampler="random")

    assert {candidate.id for candidate in result.scored} == inside


def test_the_same_seed_finds_the_same_networks(search: Search, tmp_path: Path) -> None:
    first = search(Recording(), out=tmp_path / "a")
    second = search(Recording(), out=tmp_path / "b")
    other = search(Recording(), out=tmp_path / "c", seed=1)

    assert [c.id for c in first.candidates] == [c.id for c in second.candidates]
    assert [c.id for c in first.candidates] != [c.id for c in other.candidates]


def test_the_sampler_learns_from_the_scores(tmp_path: Path) -> None:
    space, iphone = SearchSpace.find("iformer"), LatencyTable.find("iphone13")[0]
    plan = plan_search(space, iphone, FakeProxy(), budget_ms=1.1, trials=40, time_limit_s=None)
    result = run_search(space, iphone, FakeProxy(), plan=plan, seed=1, out=tmp_path / "run", names=NAMES)
    scores = [candidate.score for candidate in result.scored if candidate.score is not None]

    assert sum(scores[-10:]) > sum(scores[:10])


def test_a_failed_candidate_is_kept_with_its_reason_and_the_search_goes_on(search: Search, tmp_path: Path) -> None:
    first = search(Recording(), out=tmp_path / "a")
    doomed = first.scored[3].id
    result = search(Recording(failing=[doomed]), out=tmp_path / "b")
    failed = [candidate for candidate in result.candidates if candidate.failure]

    assert [(candidate.id, candidate.score) for candidate in failed] == [(doomed, None)]
    assert failed[0].failure == f"{doomed} was asked to fail"
    assert len(result.scored) == 11


def test_ctrl_c_keeps_what_is_finished_and_resume_goes_on(search: Search, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(Recording(interrupt_at=6))
    kept = SearchResult.load(tmp_path / "run").candidates
    assert len(kept) == 6
    assert (tmp_path / "run" / "front.csv").exists()

    proxy = Recording()
    result = search(proxy, resume=True)

    assert result.candidates[:6] == kept
    assert len(result.scored) == 12
    assert not {network.id for network in proxy.scored} & {candidate.id for candidate in kept}


def test_resume_with_other_settings_is_refused(search: Search) -> None:
    search(Recording(), trials=2)
    with pytest.raises(InputError, match=r"was begun with another seed \(0, not 7\)"):
        search(Recording(), trials=4, resume=True, seed=7)


def test_no_candidate_is_begun_that_would_outlast_the_time_limit(search: Search) -> None:
    class Slow(Recording):
        def score(self, architecture: Architecture) -> Score:
            time.sleep(0.2)
            return super().score(architecture)

    result = search(Slow(), trials=None, time_limit_s=1.0)

    assert 1 <= len(result.scored) <= 4


def test_a_time_limit_shorter_than_the_references_still_gives_a_winner(search: Search) -> None:
    class Slow(Recording):
        def score(self, architecture: Architecture) -> Score:
            time.sleep(0.2)
            return super().score(architecture)

    seen: list[Progress] = []
    result = search(Slow(), trials=None, time_limit_s=0.1, on_progress=seen.append)

    assert result.winner is not None
    assert result.references == ()
    assert seen[-1].ended == "the time limit"


def test_half_a_line_in_the_journal_does_not_stop_a_resume(search: Search, tmp_path: Path) -> None:
    search(Recording(), trials=4)
    journal = tmp_path / "run" / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-30])
    result = search(Recording(), trials=6, resume=True)

    assert len(result.scored) == 6


def test_a_reference_that_the_sampler_finds_keeps_its_weights(tmp_path: Path, table: LatencyTable) -> None:
    class Trained(FakeProxy):
        __slots__ = ()

        def score(self, architecture: Architecture) -> Score:
            import torch

            # The reference has the best score.
            best = architecture == TINY.references["tiny_a"]
            return replace(FakeProxy.score(self, architecture), value=float(best), weights={"w": torch.ones(1)})

    proxy = Trained()
    plan = plan_search(TINY, table, proxy, budget_ms=1e6, trials=1000, time_limit_s=None)
    result = run_search(TINY, table, proxy, plan=plan, seed=0, out=tmp_path / "run", names=NAMES, sampler="random")

    assert len(result.scored) == TINY.count()
    assert result.winner is not None
    assert result.winner.id == TINY.references["tiny_a"].id
    assert (tmp_path / "run" / "winner.safetensors").exists()


def test_a_storage_holds_one_study_a_run(search: Search, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db"
    first = search(Recording(), trials=3, storage=storage, out=tmp_path / "a" / "run")
    resumed = search(Recording(), trials=5, storage=storage, out=tmp_path / "a" / "run", resume=True)
    with pytest.raises(InputError, match="--storage has a study 'run' already"):
        search(Recording(), trials=3, storage=storage, out=tmp_path / "b" / "run")

    assert resumed.candidates[: len(first.candidates)] == first.candidates
    assert not (tmp_path / "b").exists()


def test_a_storage_that_cannot_be_used_is_refused_before_anything_is_written(search: Search, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--storage nonsense://x: cannot be used"):
        search(Recording(), storage="nonsense://x")

    assert not (tmp_path / "run").exists()


def test_a_full_disk_at_the_end_does_not_hide_ctrl_c(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: ResultsFolder) -> SearchResult:
        raise NasError("front.csv: No space left on device")

    monkeypatch.setattr(ResultsFolder, "finish", full)
    with pytest.raises(KeyboardInterrupt) as caught:
        search(Recording(interrupt_at=2))

    assert caught.value.__notes__ == ["front.csv: No space left on device"]


def test_a_second_search_on_the_folder_is_refused_and_the_first_goes_on(search: Search, tmp_path: Path) -> None:
    refused: list[str] = []

    def again(progress: Progress) -> None:
        with pytest.raises(InputError) as caught:
            search(Recording(), trials=3, resume=True)
        refused.append(str(caught.value))

    result = search(Recording(), trials=3, on_progress=again)

    assert len(result.scored) == 3
    assert f"{tmp_path / 'run'} is in use by process {os.getpid()} on {socket.gethostname()}, since " in refused[0]
    assert not (tmp_path / "run" / "nas.lock").exists()


def test_a_budget_below_the_cheapest_network_is_refused_with_its_latency(table: LatencyTable) -> None:
    cheapest = table.latency_ms(TINY.extreme(table.layer_ms))
    with pytest.raises(BudgetError) as caught:
        plan_search(TINY, table, FakeProxy(), budget_ms=cheapest * 0.99, trials=1, time_limit_s=None)

    assert f"the cheapest is predicted at {cheapest:.3f} ms" in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_budget_just_above_the_cheapest_network_is_met(table: LatencyTable, tmp_path: Path) -> None:
    cheapest = table.latency_ms(TINY.extreme(table.layer_ms))
    plan = plan_search(TINY, table, FakeProxy(), budget_ms=cheapest * 1.0001, trials=1, time_limit_s=None)
    result = run_search(TINY, table, FakeProxy(), plan=plan, seed=0, out=tmp_path / "run", names=NAMES)

    assert result.winner is not None
    assert result.winner.latency_ms <= cheapest * 1.0001


@pytest.mark.parametrize("budget_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_time_is_refused(table: LatencyTable, budget_ms: float) -> None:
    with pytest.raises(InputError, match="--budget-ms must be a positive number"):
        plan_search(TINY, table, FakeProxy(), budget_ms=budget_ms, trials=1, time_limit_s=None)


def test_the_plan_tells_space_table_data_and_candidates(table: LatencyTable, budget_ms: float) -> None:
    plan = plan_search(TINY, table, FakeProxy(), budget_ms=budget_ms, trials=3, time_limit_s=None)
    text = "\n".join(plan.describe())

    assert "2.24e+02 networks of 17 distinct layers" in text
    assert table.provenance.label in text
    assert table.trust in text
    assert "data: synthetic" in text
    assert "candidates: 3; for comparison tiny_a" in text


def test_run_json_has_what_a_repetition_needs(search: Search, tmp_path: Path, table: LatencyTable) -> None:
    search(Recording(), trials=1, command=["nas", "search", "--out", "a b"])
    run = json.loads((tmp_path / "run" / "run.json").read_text())

    assert run["command"] == "nas search --out 'a b'"
    assert run["table"]["digest"] == table.digest()
    assert run["seed"] == 0
    assert {"nas", "python", "torch", "optuna"} <= set(run["versions"])


def test_a_limit_and_an_objective_of_a_resume_hold_for_all_that_is_known(
    table: LatencyTable, budget_ms: float, tmp_path: Path
) -> None:
    def run(trials: int, **asked: Any) -> SearchResult:
        plan = plan_search(TINY, table, FakeProxy(), budget_ms=budget_ms, trials=trials, time_limit_s=None, **asked)
        return run_search(
            TINY, table, FakeProxy(), plan=plan, seed=0, out=tmp_path / "run", names=NAMES, resume=bool(asked)
        )

    def params(candidate: Candidate) -> float:
        return QUANTITIES["params"].value(candidate.architecture)

    first = run(8)
    most = sorted(map(params, first.scored))[3]
    again = run(8, limits=Limits.parse([f"params={most}"]), objectives=[QUANTITIES["memory"]])

    assert not any(one.quantities for one in first.candidates)
    assert [one.id for one in again.candidates] == [one.id for one in first.candidates]
    assert all(one.quantities.keys() == {"params", "memory"} for one in again.candidates)
    assert [one.quantities["params"] for one in again.candidates] == list(map(params, again.candidates))
    assert (again.run.limits, again.run.objectives) == ({"params": most}, ("memory",))
    assert max(map(params, again.front)) <= most
    assert again.winner is not None and params(again.winner) <= most
    assert again.front_csv().splitlines()[0].endswith("params,macs,memory_bytes,network")


def screened(result: SearchResult, proxy: str) -> list[Screening]:
    """Screenings of the sampler's proposals by one proxy."""
    return [one for one in result.screenings if one.proxy == proxy and one.kind == "searched"]


def value(screening: Screening) -> float:
    assert screening.value is not None
    return screening.value


class TestScreening:
    def test_of_networks_of_similar_latency_the_best_goes_on(
        self, search: Search, table: LatencyTable, budget_ms: float
    ) -> None:
        cheap, dear = Cheap(), Recording()
        result = search(dear, screens={"cheap": cheap}, trials=5)
        values = {one.id: value(one) for one in screened(result, "cheap")}
        times = {one.id: table.latency_ms(one.architecture) for one in screened(result, "cheap")}

        assert len(result.scored) == 5
        for candidate in result.scored:
            similar = [other for other in values if 1 / 1.1 <= times[other] / times[candidate.id] <= 1.1]
            assert len(similar) >= 4
            assert values[candidate.id] >= sorted(values[other] for other in similar)[len(similar) // 2]
        assert len(cheap.scored) == len(values) + 1  # + 1: the reference
        assert len(values) >= 5 * 3
        assert len({network.id for network in cheap.scored}) == len(cheap.scored)
        assert len(dear.scored) == 5 + 1
        assert max(table.latency_ms(network) for network in cheap.scored) <= budget_ms

    def test_the_last_proxy_alone_decides(self, search: Search) -> None:
        result = search(Recording(), screens={"cheap": Cheap()}, trials=5)

        assert [FakeProxy().score(c.architecture).value for c in result.candidates] == [
            c.score for c in result.candidates
        ]
        assert result.winner is not None
        assert max(candidate.score or 0 for candidate in result.scored) == result.winner.score
        assert {candidate.id for candidate in result.front} <= {candidate.id for candidate in result.scored}

    def test_of_three_proxies_each_passes_on_to_the_next(self, search: Search) -> None:
        first, second, last = Cheap(), Recording(), Cheap()
        result = search(last, screens={"first": first, "second": second}, screen=3, trials=2)
        on = [{one.id for one in screened(result, name)} for name in ("first", "second")]

        assert {candidate.id for candidate in result.scored} < on[1] < on[0]
        assert len(on[0]) >= 2 * len(on[1]) >= 4 * 2
        assert (len(first.scored), len(second.scored), len(last.scored)) == (len(on[0]) + 1, len(on[1]) + 1, 3)

    def test_references_are_scored_by_all_and_compete_with_none(self, search: Search) -> None:
        result = search(Recording(), screens={"cheap": Cheap()}, trials=3)
        (reference,) = result.references

        assert {"cheap": Cheap.value(reference.id)} == result.screened[reference.id]
        assert reference.id not in {one.id for one in result.screenings if one.kind == "searched"}
        assert reference.id == TINY.references["tiny_a"].id

    @pytest.mark.parametrize(("in_screening", "at"), [(True, 2), (True, 9), (False, 0), (False, 3)])
    def test_a_stopped_search_goes_on_where_it_was(
        self, search: Search, tmp_path: Path, in_screening: bool, at: int
    ) -> None:
        cheap, dear = (Cheap(interrupt_at=at), Recording()) if in_screening else (Cheap(), Recording(interrupt_at=at))
        with pytest.raises(KeyboardInterrupt):
            search(dear, screens={"cheap": cheap}, trials=5)
        kept = SearchResult.load(tmp_path / "run")
        more, better = Cheap(), Recording()
        result = search(better, screens={"cheap": more}, trials=5, resume=True)
        seen = [network.id for network in cheap.scored + more.scored]

        assert result.screenings[: len(kept.screenings)] == kept.screenings
        assert result.candidates[: len(kept.candidates)] == kept.candidates
        assert len(set(seen)) == len(seen) == len(screened(result, "cheap")) + 1
        assert len(dear.scored + better.scored) == len(result.scored) + 1 == 5 + 1

    @pytest.mark.parametrize("interrupt_at", [None, 3])
    def test_optuna_is_told_the_scores_of_the_last_proxy_and_no_others(
        self, search: Search, tmp_path: Path, interrupt_at: int | None
    ) -> None:
        if interrupt_at:
            with pytest.raises(KeyboardInterrupt):
                search(Recording(interrupt_at=interrupt_at), screens={"cheap": Cheap()}, trials=5)
        result = search(Recording(), screens={"cheap": Cheap()}, trials=5, resume=interrupt_at is not None)
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "run" / "study.journal")))
        study = optuna.load_study(study_name="run", storage=storage)
        told = {trial.number: trial.value for trial in study.trials if trial.value is not None}

        decided = {candidate.score for candidate in (*result.scored, *result.references)}
        assert decided == set(told.values())  # also for repeated networks
        assert {candidate.trial: candidate.score for candidate in result.scored}.items() <= told.items()
        assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))

    def test_a_run_without_its_journal_goes_on(self, search: Search, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            search(Recording(), screens={"cheap": Cheap(interrupt_at=7)}, trials=3)
        (tmp_path / "run" / "study.journal").unlink()
        result = search(Recording(), screens={"cheap": Cheap()}, trials=3, resume=True)

        assert len(result.scored) == 3

    def test_an_exhausted_space_passes_on_the_best_of_what_is_left(self, search: Search) -> None:
        cheap, dear = Cheap(), Recording()
        result = search(dear, screens={"cheap": cheap}, screen=30, trials=40)
        every = screened(result, "cheap")

        assert len(result.scored) == 40  # more than one in thirty
        assert max(every, key=value).id in {candidate.id for candidate in result.scored}
        # The sampler proposed the reference, too. No proxy scored it again.
        assert TINY.references["tiny_a"].id in {one.id for one in every}
        assert {network.id for network in cheap.scored} == {one.id for one in every}
        assert len({network.id for network in cheap.scored}) == len(cheap.scored)

    def test_what_the_cheap_proxy_cannot_score_does_not_go_on(self, search: Search, tmp_path: Path) -> None:
        first = search(Recording(), screens={"cheap": Cheap()}, trials=2, out=tmp_path / "a")
        doomed = first.scored[1].id
        result = search(Recording(), screens={"cheap": Cheap(failing=[doomed])}, trials=2, out=tmp_path / "b")
        failed = [one for one in result.screenings if one.failure]

        assert [(doomed, None, f"{doomed} was asked to fail")] == [(one.id, one.value, one.failure) for one in failed]
        assert doomed not in {candidate.id for candidate in result.scored}
        assert len(result.scored) == 2

    def test_a_cheap_proxy_that_scores_nothing_stops_no_search(self, search: Search) -> None:
        choose = random_choice(seed=0)
        every = {TINY.sample(choose).id for _ in range(6000)}
        result = search(Recording(), screens={"cheap": Cheap(failing=every)}, trials=2)

        assert len(result.scored) == 2
        assert result.screened == {}

    def test_nothing_is_screened_that_would_outlast_the_time_limit(self, search: Search) -> None:
        class Slow(Cheap):
            def score(self, architecture: Architecture) -> Score:
                time.sleep(0.05)
                return replace(super().score(architecture), seconds=0.05)

        seen: list[Progress] = []
        screens = {"cheap": Slow()}
        result = search(Recording(), screens=screens, trials=None, time_limit_s=0.9, on_progress=seen.append)

        assert 1 <= len(result.scored) <= 4
        assert seen[-1].ended == "the time limit"
        assert seen[-1].rungs[0].scored == len(screened(result, "cheap")) <= 18

    @pytest.mark.parametrize(("trials", "time_limit_s"), [(1, None), (3, None), (None, 0.5)])
    def test_two_budgets_of_similar_latency_have_a_winner_each(
        self, table: LatencyTable, budget_ms: float, tmp_path: Path, trials: int | None, time_limit_s: float | None
    ) -> None:
        class Slowest(Recording):
            def score(self, architecture: Architecture) -> Score:
                time.sleep(0.03 if trials is None else 0.0)
                return replace(super().score(architecture), value=table.latency_ms(architecture))

        proxy, screens, budgets_ms = Slowest(), {"cheap": Slowest()}, (0.97 * budget_ms, budget_ms)
        plan = plan_search(
            TINY, table, proxy,
            screens=screens, screen=8, budget_ms=budgets_ms, trials=trials, time_limit_s=time_limit_s,
        )  # fmt: skip
        result = run_search(
            TINY, table, proxy,
            screens=screens, plan=plan, seed=0, out=tmp_path / "run", names=NAMES, time_limit_s=time_limit_s,
        )  # fmt: skip

        assert all(result.winners.values())
        assert trials is None or len(result.scored) == trials

    def test_the_plan_counts_every_score(self, table: LatencyTable, budget_ms: float) -> None:
        screens = {"first": Recording(estimate_s=0.5), "second": Recording(estimate_s=2)}
        last = Recording(estimate_s=30)
        ends: dict[str, Any] = {"budget_ms": budget_ms, "trials": 3, "time_limit_s": None}
        plan = plan_search(TINY, table, last, screens=screens, screen=4, **ends)
        text = "\n".join(plan.describe())

        assert plan.each_s == 30 + 4 * 2 + 16 * 0.5
        assert plan.seconds == 3 * plan.each_s + (30 + 2 + 0.5)
        assert "screening: of networks of similar latency the best 1 in 4 by first go on, about 0.5 s each" in text
        assert "screening: of networks of similar latency the best 1 in 4 by second go on, about 2.0 s each" in text
        assert "time: about 46 s each, 2.8 min in all" in text

    def test_a_round_of_one_is_refused(self, search: Search) -> None:
        with pytest.raises(InputError, match="--screen must be at least 2 networks for each one passed on, got 1"):
            search(Recording(), screens={"cheap": Cheap()}, screen=1)

    def test_resume_with_other_screening_is_refused(self, search: Search) -> None:
        search(Recording(), screens={"cheap": Cheap()}, trials=1)
        with pytest.raises(InputError, match=r"was begun with another proxy screen \(4, not 5\)"):
            search(Recording(), screens={"cheap": Cheap()}, screen=5, resume=True)
        with pytest.raises(InputError, match=r"another screen 1 name \(cheap, not other\)"):
            search(Recording(), screens={"other": Cheap()}, resume=True)
        with pytest.raises(
            InputError, match=r"another proxy screen \(4, not None\), screen 1 name \(cheap, not None\)"
        ):
            search(Recording(), resume=True)

    def test_what_each_proxy_took_is_summed_without_references(self, search: Search) -> None:
        first, last = search(Recording(), screens={"cheap": Cheap()}, trials=3).spending

        assert (first.proxy, first.seconds) == ("cheap", first.networks)
        assert first.networks >= 9
        assert Spending(proxy="fake", networks=3, seconds=0.0) == last

    def test_a_single_proxy_screens_nothing(self, search: Search, tmp_path: Path) -> None:
        result = search(Recording(), trials=3)

        assert not (tmp_path / "run" / "screened.jsonl").exists()
        assert {"name", *FakeProxy().settings()} == set(result.run.proxy)
        assert [(effort.proxy, effort.networks) for effort in result.spending] == [("fake", 3)]


def test_a_single_proxy_asks_and_tells_optuna_nothing_more_than_it_needs(
    search: Search, table: LatencyTable, budget_ms: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, group=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    scores: dict[str, float] = {}
    while len(scores) < 20:
        trial = study.ask()

        def choose(name: str, options: Sequence[Any], trial: optuna.Trial = trial) -> Any:
            if all(isinstance(option, int | float) for option in options):
                return options[trial.suggest_int(name, 0, len(options) - 1)]
            return trial.suggest_categorical(name, options)

        network = TINY.sample(choose)
        over_ms = table.latency_ms(network) - budget_ms
        trial.set_constraint("latency_ms_over_budget", over_ms)
        if over_ms > 0:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            scores[network.id] = FakeProxy().score(network).value
            study.tell(trial, scores[network.id])
            if len(scores) == 1:  # The reference is scored after the first candidate, and learnt from.
                reference = TINY.references["tiny_a"]
                parameters, distributions = as_parameters(TINY, reference)
                value = FakeProxy().score(reference).value
                study.add_trial(
                    optuna.trial.create_trial(
                        params=parameters,
                        distributions=distributions,
                        value=value,
                        constraints={"latency_ms_over_budget": table.latency_ms(reference) - budget_ms},
                    )
                )

    assert list(scores) == [candidate.id for candidate in search(Recording(), trials=20, sampler="tpe").scored]


@pytest.mark.parametrize("with_screening", [False, True] if "NAS_KILLS" in os.environ else [True])
def test_a_killed_search_loses_no_finished_candidate(tmp_path: Path, with_screening: bool) -> None:
    """The search gets SIGKILL at several moments. Each time the resumed run keeps every finished candidate."""
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from nas.latency import LatencyTable
        from nas.networks import SearchSpace
        from nas.proxies.fake import FakeProxy
        from nas.search import plan_search
        from nas.search.run import run_search

        class Slow(FakeProxy):
            __slots__ = ()
            def score(self, architecture):
                time.sleep(0.03)
                return FakeProxy.score(self, architecture)

        space, table, proxy = SearchSpace.find("tiny"), LatencyTable.load(Path(sys.argv[1])), Slow()
        screens = {"cheap": Slow(seed=1)} if sys.argv[3] == "True" else None
        plan = plan_search(space, table, proxy, screens=screens, screen=3, budget_ms=1e6, trials=30, time_limit_s=None)
        run_search(space, table, proxy, screens=screens, plan=plan, seed=0, out=Path(sys.argv[2]),
                   resume=Path(sys.argv[2]).exists(),
                   names={"space": "tiny", "table": "t", "proxy": "fake"})
    """)
    quick = TimingProtocol(duration_ms=0, minimum_runs=20)
    build_table(TINY.layers, FakeDevice(Options(noise=0)), tmp_path / "t.json", protocol=quick)
    out = tmp_path / "run"
    command = [sys.executable, "-c", script, str(tmp_path / "t.json"), str(out), str(with_screening)]
    before: list[str] = []
    for extra in (0.0, 0.2, 0.35):
        process = subprocess.Popen(command)
        while process.poll() is None and len(lines(out)) < len(before) + 3:
            time.sleep(0.01)
        time.sleep(extra)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        now = lines(out)
        assert now[: len(before)] == before
        assert len(now) >= len(before) + 3
        before = now
    subprocess.run(command, check=True)
    result = SearchResult.load(out)

    assert lines(out)[: len(before)] == before
    assert len(result.scored) == 30
    ids = [candidate.id for candidate in result.scored]
    assert len(set(ids)) == len(ids)
    found = [one.id for one in result.screenings if one.kind == "searched"]
    assert len(set(found)) == len(found)
    assert len(found) >= (60 if with_screening else 0)
    assert not with_screening or set(ids) <= set(found)


def lines(out: Path) -> list[str]:
    path = out / "candidates.jsonl"
    text = path.read_text() if path.exists() else ""
    return text.split("\n")[:-1]
