"""However a command ends: one line, its exit code, no traceback unless asked for, and no password."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nas import errors
from nas.cli import main
from nas.cli.guard import guarded

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]
FAST = ["--space", "tiny", "--proxy", "fake", "--trials", "1"]


def _raise(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.InputError("own.toml: kernel must be odd"), 2, "own.toml: kernel must be odd"),
        (errors.BudgetError("the cheapest is 0.2 ms"), 4, "the cheapest is 0.2 ms"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/run.json"),
            1,
            "out/run.json: No space left on device: ",
        ),
        (OSError(errno.EACCES, "Permission denied", b"a\nb"), 1, r"a\nb: Permission denied: change its permissions"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.csv"), 2, "x.csv: No such file or directory"),
        (MemoryError(), 1, "not enough memory: end other programs"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), 1, "not enough memory"),
        (UnicodeEncodeError("utf-8", "caf\udce9.jpg", 3, 4, "surrogates"), 2, r"caf\udce9.jpg: not valid UTF-8"),
        (KeyError("settles"), 1, "this is a bug in nas, please report it: 'settles' (KeyError); the same command with"),
        (RecursionError("maximum recursion depth exceeded"), 1, "this is a bug in nas"),
        (ValueError("x\x1b[31m\nsecond" + "y" * 9000), 1, r"this is a bug in nas, please report it: x\x1b[31m (Value"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    ended = guarded(_raise(error), [], show_traceback=False)
    said = capsys.readouterr().err

    assert ended == code
    assert said.startswith(f"error: {line}")
    assert said.endswith("\n")
    assert said[:-1].isprintable()
    assert len(said) <= 401


def test_ctrl_c_says_that_all_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(_raise(KeyboardInterrupt()), [], show_traceback=False) == 130
    assert capsys.readouterr().err == "interrupted; everything finished so far is saved\n"


def test_ctrl_c_before_anything_is_finished_says_what_the_command_knows(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = KeyboardInterrupt("nothing is scored yet: the same command begins again")

    assert guarded(_raise(stopped), [], show_traceback=False) == 130
    assert capsys.readouterr().err == "interrupted; nothing is scored yet: the same command begins again\n"


LONG_STEP = """
import hashlib, sys
from nas.cli import guard
guard._ANSWER_S = 0.2
print("begun", flush=True)
# As a step of torch does, this lets other threads run and no signal through.
sys.exit(guard.guarded(lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[1])), [], show_traceback=False))
"""


@pytest.mark.parametrize(("rounds", "times"), [(4_000_000, 1), (1_000_000_000, 2)])
def test_ctrl_c_is_answered_in_a_long_step_and_the_second_ends_it(rounds: int, times: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_STEP, str(rounds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.1)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, words = process.communicate(timeout=20)

    assert process.returncode == 130
    assert words == (
        "stopping once the step that runs now is done; Ctrl-C again ends it at once\n"
        "interrupted; everything finished so far is saved\n"
    )


def test_traceback_shows_where_and_no_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_STORAGE", "postgresql://me:fromthere@host/db")
    error = ValueError("cannot reach postgresql://me:hunter2@host/db as me with hunter2 or fromthere")
    guarded(_raise(error), ["--storage", "postgresql://me:hunter2@host/db"], show_traceback=True)
    said = capsys.readouterr().err

    assert "Traceback (most recent call last)" in said
    assert "in run" in said
    assert "hunter2" not in said
    assert "fromthere" not in said
    assert "postgresql://me:***@host/db" in said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["search", "--budget-ms", "abc"], "error: --budget-ms must be a number of milliseconds, or several such as"),
        (["search", "--bugdet-ms", "1"], "error: No such option: --bugdet-ms"),
        (["serach"], "error: No such command 'serach'"),
        (["table", "calibrate", "x.csv"], "error: Missing option '--out'; see nas table calibrate --help"),
        (["search", "--budget-ms", "1", "--seed", "-1"], "error: Invalid value for '--seed'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_option_gets_one_line(nas: Nas, tmp_path: Path, arguments: list[str], line: str) -> None:
    done = nas(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_a_name_from_outside_cannot_write_to_the_terminal(nas: Nas, tmp_path: Path) -> None:
    name = "a\x1b[2Jb\n\u202e[bold]" + "c" * 120 + ".json"
    (tmp_path / name).write_text("{")
    for arguments in (
        ["latency", f"./{name}"],
        ["latency", "iformer_m", "--table", f"./{name}"],
        ["latency", name[:9]],
    ):
        done = nas(*arguments, cwd=tmp_path)

        assert done.returncode == 2
        assert r"a\x1b[2Jb\n" in done.stderr
        assert done.stderr.endswith("\n")
        assert done.stderr[:-1].isprintable()
        assert len(done.stderr) <= 401


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'from nas.cli import main; main()' latency iformer_m | head -n 1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)

    assert done.stdout.startswith("iformer_m")
    assert done.stderr == ""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_broken_pipe_that_is_not_the_output_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    read, write = os.pipe()
    with open(write, "w") as pipe, monkeypatch.context() as patched:  # noqa: PTH123 - a handle
        patched.setattr(sys, stream, pipe)
        ended = guarded(_raise(BrokenPipeError(errno.EPIPE, "Broken pipe")), [], show_traceback=False)
        os.close(read)
        without_reader = guarded(_raise(BrokenPipeError(errno.EPIPE, "Broken pipe")), [], show_traceback=False)

    assert (ended, without_reader) == (1, 1)
    line = "error: Broken pipe: a program or a connection that nas talks to has ended; repeat the command\n"
    assert capsys.readouterr().err == (line if stream == "stdout" else "")


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-"])
def test_the_exit_code_stays_where_the_words_cannot_be_written(where: str) -> None:
    nas = f"{sys.executable} -c 'from nas.cli import main; main()'"

    assert subprocess.run(f"{nas} latency no-such {where}", shell=True).returncode == 2
    assert subprocess.run(f"{nas} latency iformer_m >/dev/full {where}", shell=True).returncode == 1
    assert subprocess.run(f"{nas} latency iformer_m <&- >&- {where}", shell=True).returncode == 0


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'from nas.cli import main; main()' latency iformer_m >/dev/full"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr == "error: output: No space left on device: make room, then repeat the command\n"


def test_a_full_disk_does_not_hide_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        with errors.finishing(_raise(errors.NasError("run/front.csv: No space left on device: make room"))):
            raise KeyboardInterrupt

    assert guarded(run, [], show_traceback=False) == 130
    assert capsys.readouterr().err == (
        "run/front.csv: No space left on device: make room\ninterrupted; everything finished so far is saved\n"
    )


@pytest.mark.parametrize(
    "content", [b"not a database, but a longer text than its header" * 99, b"SQLite format 3\0" * 400]
)
def test_a_storage_that_is_another_file_is_named(nas: Nas, refused: Refused, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.db").write_bytes(content)
    done = nas("search", "--budget-ms", "1.1", *FAST, "--storage", "sqlite:///study.db", cwd=tmp_path)

    assert done.returncode == 2
    assert refused(done).startswith("error: --storage sqlite:///study.db: cannot be used (")
    assert not (tmp_path / "results").exists()


def test_a_storage_with_other_tables_is_named(nas: Nas, refused: Refused, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "study.db") as other:
        other.execute("create table studies (photo text)")
    done = nas("search", "--budget-ms", "1.1", *FAST, "--storage", "sqlite:///study.db", cwd=tmp_path)

    assert done.returncode == 2
    assert refused(done).startswith("error: --storage sqlite:///study.db: cannot be used (")


def test_a_damaged_journal_is_named_and_the_cure_works(nas: Nas, refused: Refused, tmp_path: Path) -> None:
    begun = ["search", "--budget-ms", "1.1", "--space", "tiny", "--proxy", "fake", "--out", "run"]
    nas(*begun, "--trials", "1", cwd=tmp_path)
    journal = tmp_path / "run" / "study.journal"
    journal.write_bytes(journal.read_bytes().replace(b'"trial_id"', b'"tr\xff\x1b[2J"'))
    damaged = nas(*begun, "--trials", "2", "--resume", cwd=tmp_path)
    journal.unlink()
    cured = nas(*begun, "--trials", "2", "--resume", cwd=tmp_path)

    assert damaged.returncode == 2
    assert refused(damaged).startswith("error: run/study.journal: damaged, or of another program (")
    assert "remove it, then --resume goes on" in damaged.stderr
    assert damaged.stderr.replace("\n", "").isprintable()
    assert cured.returncode == 0


def test_a_password_is_kept_nowhere(nas: Nas, refused: Refused, tmp_path: Path) -> None:
    """The storage is SQLite, which takes no password but ignores one in the query of a file's URI."""
    url = "sqlite:///file:study.db?uri=true&password=hunter2"
    search = ["search", "--budget-ms", "1.1", *FAST, "--out", "run"]
    done = nas(*search, "--storage", url, cwd=tmp_path)
    kept = json.loads((tmp_path / "run" / "run.json").read_text())
    again = [argument.replace("***", "hunter2") for argument in search]
    resumed = nas(*again, "--resume", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert kept["storage"] == url.replace("hunter2", "***")
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "study.db":
            assert b"hunter2" not in path.read_bytes(), path
    assert resumed.returncode == 2
    assert "has no password in it: set NAS_STORAGE to the whole URL" in refused(resumed)
    assert "hunter2" not in done.stderr + done.stdout + resumed.stderr


def test_a_storage_comes_from_the_environment(nas: Nas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very command of run.json goes on where NAS_STORAGE has the password; what the line says comes first."""
    url = "sqlite:///file:study.db?uri=true&password=hunter2"
    masked = url.replace("hunter2", "***")
    search = ["search", "--budget-ms", "1.1", *FAST, "--out", "run"]
    monkeypatch.setenv("NAS_STORAGE", url)
    done = nas(*search, cwd=tmp_path)
    resumed = nas(*search, "--resume", "--storage", masked, cwd=tmp_path)
    other = nas(*search[:-1], "other", "--storage", "sqlite:///other.db", cwd=tmp_path)

    assert [one.returncode for one in (done, resumed, other)] == [0, 0, 0], resumed.stderr
    assert (tmp_path / "study.db").exists()
    assert (tmp_path / "other.db").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["storage"] == masked
    assert not (tmp_path / "run" / "study.journal").exists()


def test_a_run_goes_on_in_its_own_study_and_in_no_other(
    nas: Nas, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study elsewhere would be empty: the search would begin anew, beside the scores of the first."""
    search = ["search", "--budget-ms", "1.1", *FAST, "--out"]
    nas(*search, "journal", cwd=tmp_path)
    nas(*search, "database", "--storage", "sqlite:///study.db", cwd=tmp_path)
    other = "sqlite:///file:other.db?uri=true&password=hunter2"
    given = nas(*search, "journal", "--resume", "--storage", other, cwd=tmp_path)
    monkeypatch.setenv("NAS_STORAGE", other)
    found = [nas(*search, out, "--resume", cwd=tmp_path) for out in ("journal", "database")]
    same = nas(*search, "database", "--resume", "--storage", "sqlite:///study.db", cwd=tmp_path)

    shown = other.replace("hunter2", "***")
    assert [done.returncode for done in (given, *found, same)] == [2, 2, 2, 0]
    assert refused(given) == (
        f"error: --storage is {shown}, but the study of this run is in the journal of its results folder: leave "
        "--storage out, or choose another --out"
    )
    assert refused(found[0]).startswith(f"error: NAS_STORAGE is {shown}, but the study of this run is in the journal ")
    assert refused(found[1]).startswith(f"error: NAS_STORAGE is {shown}, but the study of this run is in sqlite:///st")
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql+nodriver://me:hunter 2word@127.0.0.1/db",
        "postgresql+nodriver://me:hunter/2#wo?rd%@127.0.0.1/db",
        "postgresql+nodriver://me:p@hunter2word@127.0.0.1/db",
        "nodriver://127.0.0.1/db?sslpassword=hunter 2word",
        "nodriver://127.0.0.1/db?options=-c%20password%3Dhunter2word",
        "host=127.0.0.1 password='hunter 2word'",
        "sqlite:////no/such/folder/study.db?password=hunter2word",
    ],
)
def test_no_kind_of_password_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, storage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    for given in (["--storage", storage], [f"--storage={storage}"], ["--storage", *storage.split()], []):
        monkeypatch.setenv("NAS_STORAGE", "" if given else storage)
        monkeypatch.setattr(sys, "argv", ["nas", "search", "--budget-ms", "1", *FAST, *given, "--traceback"])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()

        assert ended.value.code == 2
        assert "hunter" not in said.err + said.out
        assert "2word" not in said.err + said.out


@pytest.mark.parametrize("columns", [20, 400])
def test_a_table_in_a_pipe_is_one_whole_line_a_row(nas: Nas, tmp_path: Path, columns: int) -> None:
    folder = tmp_path / "latency_tables"
    folder.mkdir()
    broken = "name " + "x" * 150
    (folder / f"{broken}.json").write_text("{")
    lines = nas("table", "list", cwd=tmp_path, columns=columns).stdout.splitlines()
    shipped = json.loads(nas("table", "list", "--json", cwd=tmp_path).stdout)["tables"]

    assert len(lines) == 1 + len(shipped)
    for line, table in zip(sorted(lines[1:]), sorted(shipped, key=lambda one: one["table"]), strict=True):
        assert table["table"] in line
        assert line.endswith("-") if "error" in table else line.endswith(table["trust"])


def test_facts_are_printed_as_json_too(nas: Nas, tmp_path: Path) -> None:
    devices = json.loads(nas("devices", "--json", cwd=tmp_path).stdout)["devices"]
    table = json.loads(nas("table", "show", "iphone13", "--json", cwd=tmp_path).stdout)
    by_name = {device["name"]: device for device in devices}

    assert {"name", "available", "about", "reason", "options"} == set(devices[0])
    assert by_name["fake"]["available"] is True
    assert by_name["fake"]["reason"] is None
    assert table["table"] == "iphone13.coreml.fp16"
    assert table["provenance"]["source"] == "calibrated"
    assert set(table) == {
        *("table", "file", "provenance", "interval", "trust", "layers", "call_ms", "correction", "check", "model")
    }
