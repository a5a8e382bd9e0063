from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas import lock as locks
from nas.errors import InputError, NasError
from nas.lock import LOCK_NAME, beside, owned, refuse_if_owned

HOLD = """
import sys, time
from pathlib import Path
from nas.lock import owned
folder = Path(sys.argv[1])
with owned(folder, folder / "nas.lock"):
    print("mine", flush=True)
    time.sleep(60)
"""


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def take(folder: Path) -> str:
    """Own the folder for a moment; what its lock file says meanwhile."""
    with owned(folder, folder / LOCK_NAME):
        return (folder / LOCK_NAME).read_text()


def write_lock(folder: Path, **changes: object) -> None:
    """A lock file as this process leaves it, but for the changes."""
    owner = locks._this_process().model_copy(update=changes)
    folder.mkdir(exist_ok=True)
    (folder / LOCK_NAME).write_text(owner.model_dump_json())


def test_a_folder_that_another_process_owns_is_refused_naming_host_and_process(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        words = rf"{tmp_path} is in use by process {process.pid} on {re.escape(socket.gethostname())}, since 2\d{{3}}-"
        with pytest.raises(InputError, match=words):
            take(tmp_path)
        with pytest.raises(InputError, match=words):
            refuse_if_owned(tmp_path, tmp_path / LOCK_NAME)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, number: int) -> None:
    with other_process(tmp_path) as process:
        process.send_signal(number)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and a zombie still
        refuse_if_owned(tmp_path, tmp_path / LOCK_NAME)

        assert f'"process":{os.getpid()}' in take(tmp_path)
    assert not (tmp_path / LOCK_NAME).exists()


def test_a_stopped_process_still_owns_its_folder(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(InputError, match=f"in use by process {process.pid}"):
            take(tmp_path)


def test_the_folder_is_free_again_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    take(tmp_path)
    with pytest.raises(KeyboardInterrupt), owned(tmp_path, tmp_path / LOCK_NAME):
        raise KeyboardInterrupt
    take(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_process_does_not_get_what_it_owns_a_second_time(tmp_path: Path) -> None:
    with owned(tmp_path, tmp_path / LOCK_NAME), pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        take(tmp_path)


def test_another_host_is_never_taken_over_in_silence(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", process=1)
    with pytest.raises(InputError, match=rf"process 1 on elsewhere, .*gone, remove {tmp_path / LOCK_NAME}$"):
        take(tmp_path)
    (tmp_path / LOCK_NAME).unlink()
    take(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"process": 2**22 + 1}, {"process": 1, "began": "another time"}, {"process": os.getppid(), "began": ""}],
    ids=["no such process", "another process of this id", "unknown begin"],
)
def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path: Path, changes: dict[str, object]) -> None:
    write_lock(tmp_path, **changes)

    take(tmp_path)


@pytest.mark.parametrize("locks_of_the_system", ["unknown", "taken"])
def test_where_the_disk_knows_no_locks_the_process_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks_of_the_system: str
) -> None:
    monkeypatch.setattr(locks, "take_lock", lambda *_, **__: locks_of_the_system)
    with other_process(tmp_path) as process:
        with pytest.raises(InputError, match=f"in use by process {process.pid}"):
            take(tmp_path)
        process.kill()
        process.wait()
        take(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b'{"host": 1}'])
def test_a_broken_lock_file_is_nobodys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_NAME).write_bytes(content)

    take(tmp_path)


def test_folders_are_made_and_those_that_stay_empty_are_removed(tmp_path: Path) -> None:
    take(tmp_path / "results" / "empty")
    assert not (tmp_path / "results").exists()
    with owned(tmp_path / "results" / "run", tmp_path / "results" / "run" / LOCK_NAME):
        (tmp_path / "results" / "run" / "run.json").touch()

    assert [path.name for path in (tmp_path / "results" / "run").iterdir()] == ["run.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"{tmp_path / 'file'}: cannot be written \(Not a directory\)"):
        take(tmp_path / "file")
    (tmp_path / LOCK_NAME).mkdir()
    with pytest.raises(InputError, match=rf"{tmp_path}: cannot be written \(Is a directory\)"):
        take(tmp_path)


def test_a_full_disk_does_not_keep_a_process_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert take(tmp_path) == ""


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, 1, "make room, then go on as after an interruption"),
        (errno.EDQUOT, 1, "make room, then go on as after an interruption"),
        (errno.EIO, 1, "look at its disk, then go on as after an interruption"),
        (errno.EROFS, 2, "cannot be written (Read-only file system)"),
    ],
)
def test_a_folder_that_a_full_disk_does_not_make_is_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(NasError) as caught:
        take(tmp_path / "run")

    assert caught.value.exit_code == code
    assert str(caught.value).startswith(f"{tmp_path / 'run'}: ")
    assert str(caught.value).endswith(words)


def test_a_file_has_its_lock_beside_it(tmp_path: Path) -> None:
    table = tmp_path / "phone.json"
    with owned(table, beside(table)):
        assert [path.name for path in tmp_path.iterdir()] == ["phone.json.lock"]


def test_of_many_processes_one_at_a_time_gets_the_folder(tmp_path: Path) -> None:
    """Each that gets it adds one to a number; none is lost, though locks are removed and made all the time."""
    number = tmp_path / "number"
    number.write_text("0")
    program = """
import sys, time
from pathlib import Path
from nas.errors import InputError
from nas.lock import owned
folder, got = Path(sys.argv[1]), 0
while got < 10:
    try:
        with owned(folder, folder / "nas.lock"):
            value = int((folder / "number").read_text())
            (folder / "number").write_text(str(value + 1))
        got += 1
    except InputError:
        time.sleep(0.001)
"""
    processes = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]

    assert number.read_text() == "30"
