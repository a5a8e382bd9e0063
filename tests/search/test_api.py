from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.errors import BudgetError, InputError, NasError
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace
from nas.proxies import Score, ScoringFailed, build_proxies
from nas.proxies.fake import FakeProxy
from nas.search import SearchResult
from nas.search.api import search

TINY = SearchSpace.find("tiny")
IPHONE, _ = LatencyTable.find("iphone13")


def blocks(network: Architecture) -> int:
    return sum(len(stage.blocks) for stage in network.stages)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _search(**further: Any) -> SearchResult:
    return search("tiny", "iphone13", **({"budget_ms": 0.7, "trials": 4} | further))


def _searched(result: SearchResult) -> list[float | None]:
    return [one.score for one in result.candidates if one.kind == "searched"]


class TestPackage:
    def test_it_is_a_function(self) -> None:
        result = nas.search("tiny", "iphone13", budget_ms=0.7, score=blocks, trials=2)

        assert result.winner is not None
        assert inspect.signature(search) == inspect.signature(nas.search)

    @pytest.mark.parametrize(
        "first",
        ["pass", "import nas.search.run", "from nas.search import Candidate", "from nas import search", "nas.search"],
    )
    def test_it_is_a_function_whatever_was_imported_before(self, first: str) -> None:
        code = (
            f"import nas\n{first}\n"
            "try:\n nas.search('tiny', budget_ms=0.7, score=3)\n"
            "except nas.errors.InputError as error: print(error)\n"
            "import nas.search.plan\nprint(nas.search.plan.SAMPLERS[-1], nas.search.Candidate.__name__)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout.splitlines()[0].startswith("score must be a function of one network")
        assert done.stdout.splitlines()[1:] == ["random Candidate"]

    def test_it_costs_nothing_before_it_is_used(self) -> None:
        heavy = "{'torch', 'optuna', 'pydantic'} & set(sys.modules)"
        code = f"import sys, nas\nprint({heavy})\ndir(nas), nas.search\nprint({heavy})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout.splitlines() == ["set()", "{'pydantic'}"]

    def test_it_is_found(self) -> None:
        assert "search" in dir(nas)
        assert "nas.search(" in (nas.search.__doc__ or "")


class TestScore:
    def test_function_scores_what_is_inside_the_budget(self) -> None:
        result = _search(score=lambda network: -blocks(network))

        assert [-blocks(one.architecture) for one in result.candidates] == [one.score for one in result.candidates]
        assert all(one.latency_ms <= 0.7 for one in result.candidates)
        assert len(_searched(result)) == 4
        assert result.winner is not None
        assert result.run.proxy["name"] == "<lambda>"
        assert result.run.proxy["function"].endswith("<lambda>")

    def test_no_network_is_scored_twice(self) -> None:
        seen = []
        _search(score=lambda network: seen.append(network.id) or 1.0)

        assert len(set(seen)) == len(seen)

    def test_failed_candidates_are_kept_with_their_reason(self) -> None:
        def score(network: Architecture) -> float:
            if blocks(network) % 2:
                raise ScoringFailed("odd")
            return float("nan") if blocks(network) == 8 else 1.0

        result = _search(score=score, trials=8)

        reasons = {one.failure for one in result.candidates if one.score is None}
        assert {"odd"} <= reasons <= {"odd", "score is nan, which is no finite number"}

    def test_an_error_ends_the_search_and_a_mended_function_goes_on(self, folder: Path) -> None:
        seen: list[str] = []

        def make(*, broken: bool) -> Any:
            def score(network: Architecture) -> float:
                if broken and len(seen) == 3:
                    raise KeyError("blocks")
                seen.append(network.id)
                return blocks(network)

            return score

        with pytest.raises(
            NasError, match=r"test_api.py, line \d+, in score: KeyError: 'blocks', for network "
        ) as caught:
            _search(score=make(broken=True), out="run")
        assert isinstance(caught.value.__cause__, KeyError)
        assert len(SearchResult.load(folder / "run").candidates) == 3
        result = _search(score=make(broken=False), out="run", resume=True)

        assert len(_searched(result)) == 4
        assert len(seen) <= len(set(seen)) + 1  # A plan scores one network to measure the time.

    def test_a_resume_plans_by_the_recorded_times_and_scores_nothing_for_that(self) -> None:
        scored: list[str] = []

        def score(network: Architecture) -> Score:
            scored.append(network.id)
            return Score(value=blocks(network), seconds=90.0, details={})

        first = _search(score=score, out="run")
        said: list[str] = []
        again = _search(score=score, out="run", resume=True, trials=6, say=said.append)
        new = {one.id for one in again.scored} - {one.id for one in first.scored}

        assert len(scored) == len(set(scored)) == len(again.candidates)
        assert set(scored[len(first.candidates) :]) == new
        assert any(line.startswith("time: about 90 s each") for line in said)

    def test_another_function_is_refused_on_resume(self) -> None:
        _search(score=blocks, out="run")

        with pytest.raises(InputError, match=r"run was begun with another proxy name \(blocks, not <lambda>\)"):
            _search(score=lambda network: 1, out="run", resume=True)

    def test_score_with_details_is_kept(self) -> None:
        result = _search(score=lambda network: Score(value=1.0, seconds=2.0, details={"blocks": blocks(network)}))

        assert [blocks(one.architecture) for one in result.candidates] == [
            one.details["blocks"] for one in result.candidates
        ]

    def test_accuracy_table_may_screen_for_it(self) -> None:
        result = _search(score=blocks, screens="accuracy-table", screen=2, trials=3)

        assert result.run.screens == ["accuracy-table"]
        assert len(_searched(result)) == 3
        assert len(result.screenings) >= 6


class TestProxy:
    def test_without_any_the_tables_decide(self) -> None:
        result = _search(trials=50)

        assert result.run.proxy["name"] == "accuracy-table"
        assert {one.details["looked_at"] for one in result.candidates} == {50}

    def test_proxy_by_name_has_options_and_data(self) -> None:
        result = _search(proxy="zero-cost:params,fake", screen=2, options={"measure": "params"}, data="nowhere")

        assert [result.run.proxy["name"], *result.run.screens] == ["fake", "zero-cost:params"]
        assert result.run.proxy["data"] == "nowhere"

    def test_panel_is_compared_on_random_networks_of_the_band(self) -> None:
        result = _search(proxy="fake+zero-cost:params", trials=2)

        assert result.run.proxy["band_networks"] == 24

    def test_own_file(self, folder: Path) -> None:
        (folder / "mine.py").write_text("def score(network): return len(network.stages)\n")

        assert set(_searched(_search(proxy="./mine.py"))) == {4.0}

    def test_proxy_may_be_an_object(self) -> None:
        scored = _search(proxy=FakeProxy(seed=3))
        (table,) = build_proxies("accuracy-table", data="", seed=0).values()
        surveyed = _search(proxy=table, trials=20)

        assert [one.run.proxy["name"] for one in (scored, surveyed)] == ["fake", "accuracy-table"]
        assert scored.run.proxy["seed"] == 3
        assert surveyed.candidates[0].details["looked_at"] == 20


class TestArguments:
    def test_space_and_table_may_be_objects_or_paths(self, folder: Path) -> None:
        IPHONE.save(folder / "own.json")
        by_name = _search(score=blocks, out="a")
        by_path = search(TINY, folder / "own.json", budget_ms=0.7, score=blocks, trials=4, out="b")
        by_object = search(space=TINY, table=IPHONE, budget_ms=0.7, score=blocks, trials=4, out="c")

        found = [[one.id for one in result.candidates] for result in (by_name, by_path, by_object)]
        assert [found[0]] * 3 == found
        assert by_name.run.digest == by_path.run.digest == by_object.run.digest

    def test_folder_is_a_new_one_or_with_resume_the_last(self, folder: Path) -> None:
        paths = [_search(score=blocks).path for _ in range(2)]
        more = _search(score=blocks, resume=True, trials=6)

        assert [path.name for path in paths] == ["tiny-0.7ms", "tiny-0.7ms-2"]
        assert more.path == paths[1]
        assert len(_searched(more)) == 6

    @pytest.mark.parametrize(
        ("given", "budgets"), [([0.7, 0.6], (0.6, 0.7)), ("0.6,0.7", (0.6, 0.7)), (1, (1.0,)), ("0.7", (0.7,))]
    )
    def test_budgets_may_be_several(self, given: Any, budgets: tuple[float, ...]) -> None:
        assert budgets == _search(score=blocks, budget_ms=given, trials=2).run.budgets

    def test_without_a_budget_the_whole_front_is_looked_for(self) -> None:
        result = _search(score=blocks, budget_ms=None)

        assert result.run.whole_front
        assert result.path.name == "tiny-front"

    def test_resume_without_a_budget_keeps_it(self) -> None:
        _search(score=blocks, out="run")

        assert _search(score=blocks, budget_ms=None, out="run", resume=True).run.budgets == (0.7,)

    def test_limits_and_objectives_reach_the_search(self) -> None:
        result = _search(score=blocks, limits=["params=2M"], objectives=["macs"])

        assert result.run.limits == {"params": 2e6}
        assert {"params", "macs"} == set(result.candidates[0].quantities)

    def test_plan_and_progress_are_told(self) -> None:
        lines: list[str] = []
        reports: list[Any] = []
        result = _search(score=blocks, say=lines.append, on_progress=reports.append)

        assert lines[0].startswith("space: ")
        assert f"results: {result.path}" in lines
        assert reports[-1].ended == "all candidates are scored"

    def test_run_tells_how_it_was_called(self) -> None:
        assert (
            _search(score=blocks).run.command
            == "nas.search space=tiny table=iphone13.coreml.fp16 proxy=blocks budget_ms=0.7 trials=4 seed=0"
        )

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"score": blocks, "proxy": "fake"}, "score and proxy: give one of them"),
            ({"score": 3}, "score must be a function of one network, score.network., got an int"),
            ({"score": blocks, "data": "x"}, "data is for proxies that are named"),
            ({"proxy": FakeProxy(), "options": {"a": "b"}}, "options is for proxies that are named"),
            ({"data": "x"}, "data needs a proxy that uses it, such as proxy='short-training'"),
            ({"score": blocks, "trials": 0}, "trials must be 1 at least, got 0"),
            ({"score": blocks, "time_limit_s": 0}, "time_limit_s must be a positive number of seconds, got 0"),
            ({"score": blocks, "budget_ms": "fast"}, "must be a number of milliseconds"),
            ({"score": blocks, "budget_ms": [None]}, "budget_ms must be a number of milliseconds, or several"),
            ({"score": blocks, "budget_ms": ()}, "budget_ms has no budget in it"),
            ({"score": blocks, "sampler": "best"}, "sampler must be one of"),
            ({"score": blocks, "limits": ["params"]}, "limits"),
            ({"score": blocks, "resume": True}, "holds no run to go on with"),
            ({"sampler": "tpe"}, "sampler is for searches by score or by a proxy that trains"),
            ({"proxy": "fke"}, "no proxy named 'fke'"),
            ({"proxy": FakeProxy(), "screens": "fake"}, "screens and proxy: fake twice"),
        ],
    )
    def test_what_cannot_be_is_refused(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            _search(**given)
        assert not Path("results").exists()

    def test_budget_that_nothing_meets_is_an_error_of_its_own(self) -> None:
        with pytest.raises(BudgetError, match=r"no network of the space runs in 0\.001 ms"):
            _search(score=blocks, budget_ms=0.001)
