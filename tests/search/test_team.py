"""Worker processes that a search starts on its machine; here they are small programs, or none at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import nas.search.run
import nas.search.team
from nas.errors import NasError
from nas.latency import LatencyTable
from nas.networks import SearchSpace
from nas.proxies.fake import FakeProxy
from nas.search import SearchResult, plan_search
from nas.search.progress import Progress
from nas.search.run import run_search
from nas.search.shared import Sharing, run_worker
from nas.search.team import Team

TINY = SearchSpace.find("tiny")
TABLE, _ = LatencyTable.find("iphone13")


Start = Callable[..., Team]


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a program as workers; they are stopped at the end."""
    begun: list[Team] = []

    def start(program: str, *, number: int = 2) -> Team:
        monkeypatch.setattr(nas.search.team, "_START", program)
        storage, arguments = "sqlite://user:secret@host/x", ["--proxy", "fake"]
        begun.append(Team(number, storage, "run", arguments=arguments, logs=tmp_path / "workers"))
        return begun[-1]

    yield start
    for one in begun:
        one.stop()


def until_ended(team: Team) -> None:
    begin = time.monotonic()
    while team.is_alive:
        assert time.monotonic() - begin < 60
        time.sleep(0.01)


def search(out: Path, *, trials: int = 4, **options: Any) -> SearchResult:
    proxy = FakeProxy()
    sharing = Sharing(proxies="fake", options={}, data=None, tables={}, url=None, workers=2)
    return run_search(
        TINY, TABLE, proxy, plan=plan_search(TINY, TABLE, proxy, budget_ms=1.1, trials=trials, time_limit_s=None),
        seed=0, out=out, names={"space": "tiny", "table": "iphone13", "proxy": "fake"}, sharing=sharing, **options,
    )  # fmt: skip


def test_workers_that_fail_are_told_once_with_their_last_line(team: Start) -> None:
    failing = team("import sys; sys.exit('loading\\nerror: no GPU')")
    until_ended(failing)

    assert failing.has_failed
    assert failing.lost() == dict.fromkeys(failing.names, "error: no GPU")
    assert failing.lost() == {}
    assert len(set(failing.names)) == 2


def test_workers_that_end_in_order_are_not_lost(team: Start) -> None:
    ending = team("pass")
    until_ended(ending)

    assert (ending.lost(), ending.has_failed) == ({}, False)


def test_worker_that_a_signal_ends_is_told_by_its_name(team: Start) -> None:
    killed = team("import os; print('scoring x', flush=True); os.kill(os.getpid(), 9)", number=1)
    until_ended(killed)

    assert list(killed.lost().values()) == ["ended by SIGKILL"]


def test_storage_is_in_the_environment_where_others_do_not_see_its_password(tmp_path: Path, team: Start) -> None:
    program = "import os, sys; print(os.environ['NAS_STORAGE'], sys.argv[1:])"
    told = team(program, number=1)
    until_ended(told)
    (name,) = told.names

    assert (tmp_path / "workers" / f"{name}.log").read_text() == (
        f"sqlite://user:secret@host/x ['worker', '--study', 'run', '--name', '{name}', '--with-parent', '--proxy', "
        "'fake']\n"
    )


def test_worker_that_does_not_end_by_itself_is_killed_soon(monkeypatch: pytest.MonkeyPatch, team: Start) -> None:
    monkeypatch.setattr(nas.search.team, "_POLITE_S", 0.2)
    stuck = team("import time; time.sleep(100)")
    begin = time.monotonic()
    stuck.stop()

    assert not stuck.is_alive
    assert time.monotonic() - begin < 20


def test_worker_ends_with_its_parent_also_where_ctrl_c_is_ignored_and_it_sleeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, team: Start
) -> None:
    program = (
        "import signal, threading, time\n"
        "from nas.cli.terminal import end_like_ctrl_c\n"
        "from nas.cli.worker import _end_with_parent\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "end_like_ctrl_c()\n"
        "try:\n    threading.Thread(target=_end_with_parent, daemon=True).start()\n    time.sleep(100)\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    monkeypatch.setattr(nas.search.team, "_POLITE_S", 30.0)
    sleeping = team(program, number=1)
    begin = time.monotonic()
    sleeping.stop()

    assert time.monotonic() - begin < 20
    assert next((tmp_path / "workers").iterdir()).read_text() == "interrupted\n"


def test_search_whose_workers_all_fail_says_so_and_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nas.search.team, "_START", "import sys; sys.exit('error: no GPU')")
    said: list[str] = []
    with pytest.raises(NasError) as caught:
        search(tmp_path / "run", say=said.append)

    assert str(caught.value) == f"all workers have ended, see {tmp_path}/run/workers; --resume starts new ones"
    assert [line.partition(" is lost: ")[2] for line in said] == ["error: no GPU; others take up its candidate"] * 2


def test_search_whose_workers_end_while_it_looks_sees_what_they_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AtOnce:
        """Does all the work the moment that it is looked at."""

        has_failed = False

        def __init__(self, number: int, storage: str, study: str, *, arguments: Sequence[str], logs: Path) -> None:
            self.storage, self.study = Path(storage), study

        @property
        def is_alive(self) -> bool:
            run_worker(self.storage, self.study, say=lambda line: None)
            return False

        def lost(self) -> dict[str, str]:
            return {}

        def stop(self) -> None:
            pass

    monkeypatch.setattr(nas.search.run, "Team", AtOnce)
    seen: list[Progress] = []
    result = search(tmp_path / "run", on_progress=seen.append)

    assert len(result.scored) == 4
    assert seen[-1].ended == "all candidates are scored"
