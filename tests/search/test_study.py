"""The study of a search, and what becomes of a search when its storage is locked, away or damaged."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError, PendingRollbackError, ProgrammingError

import nas.search.patience
import nas.search.study
from nas.errors import InputError, NasError
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace
from nas.proxies import Score
from nas.proxies.fake import FakeProxy
from nas.search import SearchResult, plan_search
from nas.search.run import run_search
from nas.search.storage import Patience, refuse_no_file

T = TypeVar("T")
TINY = SearchSpace.find("tiny")
TABLE, _ = LatencyTable.find("iphone13")
NAMES = {"space": "tiny", "table": "iphone13", "proxy": "fake"}


class Disturbed:
    """Scores like the fake proxy, and does something before its third score."""

    def __init__(self, disturb: Callable[[], object]) -> None:
        self.proxy, self.disturb, self.scores = FakeProxy(), disturb, 0

    def settings(self) -> dict[str, Any]:
        return self.proxy.settings()

    def estimate_seconds(self, architecture: Architecture) -> float:
        return 0.0

    def score(self, architecture: Architecture) -> Score:
        self.scores += 1
        if self.scores == 3:
            self.disturb()
        return self.proxy.score(architecture)


Search = Callable[..., SearchResult]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    def run(proxy: Any, *, trials: int = 5, **options: Any) -> SearchResult:
        plan = plan_search(TINY, TABLE, proxy, budget_ms=1.1, trials=trials, time_limit_s=None)
        return run_search(TINY, TABLE, proxy, plan=plan, seed=0, out=tmp_path / "run", names=NAMES, **options)

    return run


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, sqlite3.Connection]:
    """A storage that waits 0.01 s for a lock, and a connection that may lock it; a search asks it for half a second."""
    monkeypatch.setattr(nas.search.patience, "PATIENCE_S", 0.5)
    monkeypatch.setattr(nas.search.patience, "PAUSE_S", 0.01)
    return f"sqlite:///{tmp_path}/studies.db?timeout=0.01", sqlite3.connect(tmp_path / "studies.db")


def test_a_storage_that_is_locked_for_a_while_is_asked_again_with_one_line(
    search: Search, locked: tuple[str, sqlite3.Connection], tmp_path: Path
) -> None:
    storage, connection = locked
    said: list[str] = []

    def free(line: str) -> None:
        said.append(line)
        connection.rollback()

    result = search(Disturbed(lambda: connection.execute("BEGIN EXCLUSIVE")), trials=5, storage=storage, say=free)
    connection.close()

    assert said == ["--storage: database is locked; asking again for 0 s"]
    assert len(result.scored) == 5


def test_a_storage_that_stays_locked_ends_the_search_in_order_and_it_goes_on_later(
    search: Search, locked: tuple[str, sqlite3.Connection], tmp_path: Path
) -> None:
    storage, connection = locked
    with pytest.raises(NasError, match=r"^--storage: database is locked, for 0 s; .* go on with --resume") as caught:
        search(Disturbed(lambda: connection.execute("BEGIN EXCLUSIVE")), trials=5, storage=storage)
    begun = SearchResult.load(tmp_path / "run")
    connection.rollback()
    connection.close()
    resumed = search(FakeProxy(), trials=5, storage=storage, resume=True)

    assert caught.value.exit_code == 1
    assert len(begun.candidates) == 3
    assert (tmp_path / "run" / "front.csv").exists()
    assert not (tmp_path / "run" / "nas.lock").exists()
    assert resumed.candidates[:3] == begun.candidates
    assert len({candidate.id for candidate in resumed.scored}) == len(resumed.scored) == 5


def test_a_storage_that_is_locked_at_the_start_is_waited_for(
    search: Search, locked: tuple[str, sqlite3.Connection]
) -> None:
    storage, connection = locked
    connection.execute("BEGIN EXCLUSIVE")

    assert len(search(FakeProxy(), trials=3, storage=storage, say=lambda line: connection.rollback()).scored) == 3
    connection.close()


def _away(words: str) -> Exception:
    """What Optuna raises when a database says this."""
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = OperationalError("SELECT 1", {}, Exception(words))
    return error


def _broken_in_between() -> Exception:
    """What Optuna raises when a connection broke in the middle of a transaction."""
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = PendingRollbackError("Can't reconnect until invalid transaction is rolled back.", code="8s2b")
    return error


class Answering(Patience):
    """Gets these errors from its storage, one a question, before answers."""

    errors: ClassVar[list[Exception]] = []

    def ask(self, question: Callable[[], T], **kwargs: Any) -> T:
        def answer() -> T:
            if self.errors:
                raise self.errors.pop(0)
            return question()

        return super().ask(answer, **kwargs)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """The errors that storages answer with first; nobody waits long."""
    monkeypatch.setattr(nas.search.patience, "PATIENCE_S", 0.2)
    monkeypatch.setattr(nas.search.patience, "PAUSE_S", 0.01)
    monkeypatch.setattr(nas.search.study, "Patience", Answering)
    monkeypatch.setattr(Answering, "errors", errors := [])
    return errors


def test_a_database_that_is_away_is_waited_for_by_a_run_that_knew_it_and_else_refused_at_once(
    search: Search, answers: list[Exception], tmp_path: Path
) -> None:
    storage, said = f"sqlite:///{tmp_path}/studies.db", list[str]()
    answers.append(_away("connection refused"))
    with pytest.raises(InputError, match=r"^--storage sqlite:///.*: cannot be used \(connection refused\)$"):
        search(FakeProxy(), trials=2, storage=storage)
    answers.append(_away("the database system is starting up"))
    search(FakeProxy(), trials=2, storage=storage, say=said.append)
    answers.extend([_away("connection refused"), ConnectionResetError("reset by peer"), _broken_in_between()])
    resumed = search(FakeProxy(), trials=3, storage=storage, resume=True, say=said.append)
    answers.append(_away('password authentication failed for user "me"'))
    with pytest.raises(InputError, match=r"cannot be used \(password authentication failed"):
        search(FakeProxy(), trials=4, storage=storage, resume=True)

    assert said == [
        "--storage: the database system is starting up; asking again for 0 s",
        "--storage: connection refused; asking again for 0 s",
    ]
    assert len(resumed.scored) == 3


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ProgrammingError("SELECT 1", {}, Exception("permission denied for table x")), "permission denied for table x"),
        (_away("no such table: studies"), "no such table: studies"),
        (KeyError("Record does not exist."), "'Record does not exist.'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_database_refuses_while_a_search_runs_is_said_in_its_own_words(
    search: Search, answers: list[Exception], tmp_path: Path, error: Exception, words: str
) -> None:
    with pytest.raises(NasError) as caught:
        search(Disturbed(lambda: answers.append(error)), trials=5, storage=f"sqlite:///{tmp_path}/studies.db")

    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        f"--storage sqlite:///{tmp_path}/studies.db: {words}; everything finished so far is saved: go on with --resume"
    )
    assert (tmp_path / "run" / "front.csv").exists()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            RuntimeError("did not possess lock"),
            1,
            "did not possess lock (RuntimeError); everything finished so far is ",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device: mend that, then go on with "),
        (TypeError("unsupported"), 2, "cannot be used (TypeError: unsupported): remove it, then --resume goes on"),
    ],
)
def test_only_a_journal_that_cannot_be_read_is_called_damaged(
    search: Search, answers: list[Exception], tmp_path: Path, error: Exception, code: int, words: str
) -> None:
    with pytest.raises(NasError) as caught:
        search(Disturbed(lambda: answers.append(error)), trials=5)
    journal = tmp_path / "run" / "study.journal"
    journal.write_bytes(journal.read_bytes().replace(b'"op_code"', b'"op"'))
    with pytest.raises(InputError, match=r"study.journal: damaged, or of another program \(KeyError"):
        search(FakeProxy(), trials=5, resume=True)

    assert caught.value.exit_code == code
    assert str(caught.value).startswith(f"{journal}: {words}")


def test_a_trial_that_describes_no_network_is_called_damaged(search: Search, tmp_path: Path) -> None:
    search(FakeProxy(), trials=3)
    journal = tmp_path / "run" / "study.journal"
    content = re.sub(rb'"stages\[0\].channels": ?\d+', b'"stages[0].channels":1e30', journal.read_bytes())
    journal.write_bytes(content)

    with pytest.raises(InputError, match=r"study.journal: .* remove it, then --resume goes on"):
        search(FakeProxy(), trials=5, resume=True)


@pytest.mark.parametrize(
    ("pattern", "odd", "words"),
    [
        (rb'"rung": ?0', b'"rung":"0"', "trial 0, rung: Input should be a valid integer"),
        (rb'"rung": ?0', b'"rung":-1', "trial 0, rung: Input should be greater than or equal to 0"),
        (rb'"seconds":', b'"second":', "trial 0, seconds: Field required"),
        (rb'"score": ?[0-9.e-]+', b'"score":"best"', "trial 0, score: Input should be a valid number"),
        (rb'"kind": ?"searched"', b'"kind":"found"', ", kind: Input should be 'searched' or 'reference'"),
    ],
)
def test_a_trial_that_says_something_odd_is_named(
    search: Search, tmp_path: Path, pattern: bytes, odd: bytes, words: str
) -> None:
    search(FakeProxy(), trials=3)
    journal = tmp_path / "run" / "study.journal"
    journal.write_bytes(re.sub(pattern, odd, journal.read_bytes()))

    with pytest.raises(InputError, match=re.escape(words) + r".*\): remove it, then --resume goes on"):
        search(FakeProxy(), trials=5, resume=True)


def test_only_the_path_of_an_sqlite_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///file:study.db?uri=true", "sqlite://", "postgresql://host/db"):
        refuse_no_file(url)
    with pytest.raises(InputError, match=r"^--storage sqlite:///none\.db\?password=\*\*\*: no such file$"):
        refuse_no_file("sqlite:///none.db?password=hunter2")
