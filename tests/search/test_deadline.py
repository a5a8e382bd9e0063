"""A time limit that holds inside the scoring of a candidate, with a proxy that reports its steps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from nas.errors import InputError
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace
from nas.proxies import OutOfTime, Score
from nas.proxies.fake import FakeProxy
from nas.search import SearchResult, plan_search
from nas.search.deadline import Deadline
from nas.search.progress import Progress
from nas.search.run import run_search

TINY = SearchSpace.find("tiny")
NAMES = {"space": "tiny", "table": "iphone13", "proxy": "stepping"}


class Stepping:
    """Scores in steps, and reports each. The candidate of the given number never ends by itself."""

    def __init__(self, deadline: Deadline, *, endless: int | None = None, estimate_s: float = 0.0) -> None:
        self._deadline, self._endless, self._estimate_s = deadline, endless, estimate_s
        self.begun: list[str] = []

    def settings(self) -> dict[str, Any]:
        return FakeProxy().settings()

    def estimate_seconds(self, architecture: Architecture) -> float:
        return self._estimate_s

    def score(self, architecture: Architecture) -> Score:
        self.begun.append(architecture.id)
        step = 0
        while step < 3 or len(self.begun) - 1 == self._endless:
            step += 1
            self._deadline("step", step, 3)
        return FakeProxy().score(architecture)


def searched(
    out: Path, proxy: Stepping, deadline: Deadline, seen: list[Progress], *, time_limit_s: float | None, **options: Any
) -> SearchResult:
    table, _ = LatencyTable.find("iphone13")
    plan = plan_search(TINY, table, proxy, budget_ms=1.0, trials=4, time_limit_s=time_limit_s)
    return run_search(
        TINY, table, proxy,
        plan=plan, seed=0, out=out, names=NAMES, time_limit_s=time_limit_s, deadline=deadline,
        on_progress=seen.append, **options,
    )  # fmt: skip


def quiet_deadline() -> Deadline:
    return Deadline(lambda what, done, total: None)


@pytest.mark.parametrize("endless", [0, 2])
def test_a_candidate_is_stopped_by_the_time_limit_and_scored_anew_by_a_resume(tmp_path: Path, endless: int) -> None:
    deadline, seen = quiet_deadline(), list[Progress]()
    stopped = Stepping(deadline, endless=endless)
    result = searched(tmp_path / "run", stopped, deadline, seen, time_limit_s=0.4)

    assert len(result.candidates) == endless
    assert all(one.failure is None for one in result.candidates)
    assert seen[-1].ended == ("the time limit; what was being scored has no result yet, and begins again with --resume")

    resumed = Stepping(deadline)
    result = searched(tmp_path / "run", resumed, deadline, seen, time_limit_s=None, resume=True)

    assert resumed.begun[0] == stopped.begun[-1]
    assert sum(one.kind == "searched" for one in result.candidates) == 4
    assert all(one.failure is None for one in result.candidates)


def test_nothing_is_stopped_after_the_search(tmp_path: Path) -> None:
    deadline = quiet_deadline()
    searched(tmp_path / "run", Stepping(deadline), deadline, [], time_limit_s=0.5)
    time.sleep(0.5)
    deadline("step", 1, 3)  # raises nothing


def test_a_deadline_shows_what_is_reported_and_then_ends_it() -> None:
    shown: list[tuple[str, int, int]] = []
    deadline = Deadline(lambda *reported: shown.append(reported))
    deadline("step", 1, 3)
    deadline.set(time.monotonic() - 1)
    with pytest.raises(OutOfTime):
        deadline("step", 2, 3)

    assert shown == [("step", 1, 3), ("step", 2, 3)]


def test_a_limit_that_is_too_short_for_one_candidate_is_refused_before_the_start() -> None:
    table, _ = LatencyTable.find("iphone13")
    proxy = Stepping(quiet_deadline(), estimate_s=516.0)
    with pytest.raises(InputError) as refused:
        plan_search(TINY, table, proxy, budget_ms=1.0, trials=None, time_limit_s=120.0)

    assert str(refused.value) == (
        "the time limit of 2.0 min is too short: one candidate takes about 8.6 min here; allow 86 min or more "
        "(--time-limit 86m), or choose a proxy that takes less, such as accuracy-table"
    )
