"""A search with several worker processes, as a user types it: some are killed, some join, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import optuna
import pytest

from nas.networks import SearchSpace
from nas.search import SearchResult
from nas.search.storage import open_storage
from tests.postgres import Postgres

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

# Says who scores what in the file `scores`, whose lines are whole: one write each. The reference is left out: the plan
# of a search scores it as well.
SLOW = """
import os
import time

def say(what, network):
    with open("scores", "ab", buffering=0) as file:
        file.write(f"{what} {os.getpid()} {network.id}\\n".encode())

def score(network):
    if network.id != REFERENCE:
        say("begin", network)
        time.sleep(PAUSE)
        say("end", network)
    return int(network.id, 16) % 1000 / 1000
"""
LIMIT_S = 100.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `nas`, with a session of its own; whatever still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {"NAS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", "from nas.cli import main; main()", *arguments],
            cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield begin
    for process in processes:
        for one in session(process.pid):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def slow(folder: Path, *, pause_s: float) -> tuple[str, ...]:
    """The command of a search by a slow file."""
    reference = SearchSpace.find("tiny").references["tiny_a"].id
    (folder / "slow.py").write_text(SLOW.replace("PAUSE", f"{pause_s}").replace("REFERENCE", f"{reference!r}"))
    return ("search", "--space", "tiny", "--budget-ms", "1.1", "--proxy", "./slow.py", "--out", "run")


def session(number: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its = path.read_text().rpartition(")")[2].split()[:4]
            if its == str(number) and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < LIMIT_S
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        time.sleep(0.01)


def scores(folder: Path) -> list[tuple[str, int, str]]:
    """What the slow file said: `begin` or `end`, process, and network."""
    path = folder / "scores"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(what, int(process), network) for what, process, network in lines]


def scoring(folder: Path) -> dict[int, str]:
    """The networks that are being scored, by process."""
    now: dict[int, str] = {}
    for what, process, network in scores(folder):
        if what == "begin":
            now[process] = network
        else:
            now.pop(process)
    return now


def kill_one(folder: Path) -> tuple[int, str]:
    """End a process in the middle of a score: its number and its network."""
    while True:
        process, network = next(iter(scoring(folder).items()))
        os.kill(process, signal.SIGSTOP)
        if scoring(folder).get(process) == network:  # It has not ended the score since the file was read.
            os.kill(process, signal.SIGKILL)
            return process, network
        os.kill(process, signal.SIGCONT)


def ended(folder: Path) -> Counter[str]:
    return Counter(network for what, _, network in scores(folder) if what == "end")


def check_whole(folder: Path, *, number: int) -> None:
    """So many candidates are kept, none of them twice, and the reference besides, each of a trial of its own."""
    candidates = SearchResult.load(folder / "run").candidates

    assert Counter(one.kind for one in candidates) == {"searched": number, "reference": 1}
    assert len({one.id for one in candidates if one.kind == "searched"}) == number
    assert len({one.trial for one in candidates}) == number + 1


def test_search_goes_on_to_its_end_when_a_worker_is_killed_in_the_middle_of_a_score(
    start: Start, tmp_path: Path
) -> None:
    search = start(*slow(tmp_path, pause_s=0.3), "--workers", "3", "--trials", "8")
    until(lambda: len(ended(tmp_path)) >= 2 and len(scoring(tmp_path)) == 3, search)
    _, network = kill_one(tmp_path)
    _, said = search.communicate(timeout=LIMIT_S)

    assert search.returncode == 0, said
    check_whole(tmp_path, number=8)
    lost = [line for line in said.splitlines() if "is lost" in line]
    assert len(lost) == 1 and lost[0].endswith(" is lost: ended by SIGKILL; others take up its candidate"), said
    assert set(ended(tmp_path).values()) == {1}
    begun = Counter(one for what, _, one in scores(tmp_path) if what == "begin")
    assert {one for one, times in begun.items() if times > 1} == {network}
    assert len({worker for _, worker, _ in scores(tmp_path)}) == 3
    assert session(search.pid) == []


def test_four_workers_over_postgresql_lose_nothing_when_one_is_killed_and_the_server_restarts(
    start: Start, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    url = postgres.url(database)
    search = start(*slow(tmp_path, pause_s=0.4), "--workers", "4", "--trials", "10", "--storage", url)
    until(lambda: len(ended(tmp_path)) >= 2 and len(scoring(tmp_path)) == 4, search)
    process, network = kill_one(tmp_path)
    postgres.stop()
    until(lambda: set(scoring(tmp_path)) == {process}, search)  # The other three have results to tell.
    time.sleep(0.5)  # They find nobody to tell them to.
    postgres.start()
    _, said = search.communicate(timeout=LIMIT_S)

    assert search.returncode == 0, said
    check_whole(tmp_path, number=10)
    assert set(ended(tmp_path).values()) == {1}
    begun = Counter(one for what, _, one in scores(tmp_path) if what == "begin")
    assert {one for one, times in begun.items() if times > 1} == {network}
    assert len([line for line in said.splitlines() if "is lost" in line]) == 1, said
    assert session(search.pid) == []


def test_workers_of_a_killed_search_end_and_it_goes_on_with_a_worker_that_joins(start: Start, tmp_path: Path) -> None:
    command = slow(tmp_path, pause_s=0.3)
    search = start(*command, "--workers", "2", "--trials", "1000")
    until(lambda: len(ended(tmp_path)) >= 4 and len(scoring(tmp_path)) == 2, search)
    search.kill()
    begin = time.monotonic()
    until(lambda: not session(search.pid))
    took_s, before = time.monotonic() - begin, ended(tmp_path)
    number = len(before) + 4
    resumed = start(*command, "--resume", "--trials", str(number))
    worker = start("worker", "--storage", "run/study.journal", "--study", "run", "--proxy", "./slow.py")
    _, said = resumed.communicate(timeout=LIMIT_S)
    _, worker_said = worker.communicate(timeout=LIMIT_S)

    assert took_s < 10  # On an idle machine under a second.
    assert resumed.returncode == 0, said
    assert worker.returncode == 0, worker_said
    check_whole(tmp_path, number=number)
    assert set(ended(tmp_path).values()) == {1}
    assert worker_said.strip().splitlines()[-1].startswith("ended: the search is done; this worker did "), worker_said


def test_ctrl_c_answers_soon_and_leaves_no_process_and_no_job(start: Start, tmp_path: Path) -> None:
    search = start(*slow(tmp_path, pause_s=60), "--workers", "2", "--trials", "12")
    until(lambda: len(scoring(tmp_path)) == 2, search)
    search.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, said = search.communicate(timeout=LIMIT_S)
    took_s = time.monotonic() - begin

    assert search.returncode == 130, said
    assert took_s < 10  # Alone on a machine about 1 s.
    assert session(search.pid) == []
    study = optuna.load_study(study_name="run", storage=open_storage(tmp_path / "run" / "study.journal"))
    searched = [one for one in study.trials if one.user_attrs["kind"] == "searched"]
    assert [one.state.name for one in searched] == ["FAIL"] * 2
    assert [one.user_attrs["worker"] for one in searched] == ["", ""]  # Put back, so no attempt counts as lost.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--study", "run"), "--storage is missing: an Optuna storage URL, or the study.journal of a results folder"),
        (
            ("--study", "run", "--storage", "nowhere.journal"),
            "--storage nowhere.journal: no such file; give a URL, or the study.journal of a results folder",
        ),
        (("--study", "run", "--storage", "sqlite:///nowhere.db"), "--storage sqlite:///nowhere.db: no such file"),
        (("--study", "run", "--storage", "nothing://x"), "--storage nothing://x: cannot be used ("),
        (
            ("--study", "other", "--storage", "run/study.journal"),
            "--study other: --storage has no such study; it is the name of the results folder",
        ),
        (
            ("--study", "run", "--storage", "run/study.journal"),
            "the study 'run' has no instructions for workers: begin it with nas search --storage",
        ),
        (("--storage", "run/study.journal"), "Missing option '--study'"),
    ],
    ids=["no storage", "no journal", "no file", "no such kind", "other study", "no instructions", "no study"],
)
def test_worker_without_a_search_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    from nas.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORAGE", raising=False)
    Path("run").mkdir()
    optuna.create_study(storage=open_storage(Path("run/study.journal")), study_name="run", direction="maximize")
    monkeypatch.setattr(sys, "argv", ["nas", "worker", *arguments])
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(SystemExit) as ending:
        sys.exit(main())
    for name, handler in handlers.items():
        signal.signal(name, handler)
    *_, last = capsys.readouterr().err.strip().splitlines()

    assert ending.value.code == 2
    assert words in last
    assert not list(tmp_path.glob("*.db"))
