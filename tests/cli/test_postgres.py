"""A search over a real PostgreSQL server: resumed, cut off, and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from nas.search import SearchResult
from tests.postgres import Postgres

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]

SEARCH = ["search", "--budget-ms", "1.1", "--space", "tiny", "--proxy", "fake", "--out", "run"]
# The fake proxy made slow, and a storage that is asked again soon.
_SLOW = """
import time
import nas.proxies.fake as fake
import nas.search.patience as patience
score, patience.PAUSE_S = fake.FakeProxy.score, 0.05
def slow(self, architecture):
    time.sleep(0.1)
    return score(self, architecture)
fake.FakeProxy.score = slow
from nas.cli import main
main()
"""


def _wait_for(process: subprocess.Popen[str], folder: Path, *, candidates: int) -> None:
    """Wait until a search that runs in a folder has so many candidates."""
    path = folder / "run" / "candidates.jsonl"
    while process.poll() is None and not (path.exists() and path.read_text().count("\n") >= candidates):
        time.sleep(0.02)


def _trials(url: str) -> list[FrozenTrial]:
    """The trials of the study `run`."""
    storage = RDBStorage(url)
    try:
        return storage.get_all_trials(storage.get_study_id_from_name("run"))
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _is_whole(folder: Path, url: str, *, number: int) -> bool:
    """Whether results and study have the same candidates, so many, and none of them twice or half done."""
    candidates = [one.id for one in SearchResult.load(folder / "run").candidates if one.name is None]
    trials = [trial for trial in _trials(url) if trial.state != TrialState.PRUNED and "name" not in trial.user_attrs]
    return (
        len(set(candidates)) == len(candidates) == number
        and sorted(trial.user_attrs["id"] for trial in trials) == sorted(candidates)
        and all(trial.state == TrialState.COMPLETE for trial in trials)
    )


def test_a_search_is_kept_in_a_database_and_goes_on_from_there(
    nas: Nas, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    url = postgres.url(database)
    first = nas(*SEARCH, "--trials", "13", "--storage", url, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    begun = SearchResult.load(tmp_path / "run").candidates
    is_whole = _is_whole(tmp_path, url, number=13)
    resumed = nas(*SEARCH, "--trials", "16", "--storage", url, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr

    assert is_whole and _is_whole(tmp_path, url, number=16)
    assert SearchResult.load(tmp_path / "run").candidates[: len(begun)] == begun
    assert not (tmp_path / "run" / "study.journal").exists()
    kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "run").iterdir() if path.is_file())
    assert postgres.password not in kept + first.stderr + resumed.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["storage"] == url.replace(postgres.password, "***")


def test_a_server_that_is_away_for_a_while_loses_and_doubles_nothing(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    url = postgres.url(database)
    command = [sys.executable, "-c", _SLOW, *SEARCH, "--trials", "30", "--storage", url]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        _wait_for(process, tmp_path, candidates=4)
        postgres.stop()
        time.sleep(0.5)  # longer than a candidate takes
        still_runs = process.poll() is None
        postgres.start()
        _, words = process.communicate(timeout=60)

    assert still_runs and process.returncode == 0, words
    said = [line for line in words.splitlines() if line.startswith("--storage: ")]
    # None where the server was back before it was asked; two where it closed a connection that was not in use.
    assert len(said) <= 2, words
    assert all(line.endswith("; asking again for 60 s") for line in said)
    assert _is_whole(tmp_path, url, number=30)


@pytest.mark.parametrize(
    ("password", "name", "reason"),
    [("hunter2", "postgres", "password authentication failed"), ("", "nowhere", 'database "nowhere" does not exist')],
    ids=["wrong-password", "unknown-database"],
)
def test_a_database_that_refuses_is_named_in_one_line_without_its_password(
    nas: Nas, refused: Refused, postgres: Postgres, tmp_path: Path, password: str, name: str, reason: str
) -> None:
    url = postgres.url(name, password=password)
    done = nas(*SEARCH, "--trials", "13", "--storage", url, cwd=tmp_path)
    line = refused(done)

    assert done.returncode == 2
    assert line.startswith(f"error: --storage postgresql+psycopg://nas:***@127.0.0.1:{postgres.port}/{name}: cannot be")
    assert reason in line
    assert (password or postgres.password) not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_driver_is_named_with_the_extra_that_brings_it(
    nas: Nas, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "psycopg.py").write_text("raise ModuleNotFoundError('none here', name='psycopg')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"), prepend=os.pathsep)
    done = nas(*SEARCH, "--trials", "13", "--storage", "postgresql+psycopg://me:hunter2@127.0.0.1/db", cwd=tmp_path)

    assert done.returncode == 2
    assert "pip install 'nas[postgres]'" in refused(done)
    assert "hunter2" not in done.stderr
