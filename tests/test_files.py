from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from nas.errors import InputError, NasError
from nas.files import Record, append_record, drop_half_line, read_bytes, read_records, take_lock, write_beside


class Line(Record):
    number: int


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A disk on which nothing fits any more."""

    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    return monkeypatch


def test_a_full_disk_is_a_failure_that_names_the_file_and_leaves_what_was_there(
    tmp_path: Path, full: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "front.csv"
    path.write_text("before")
    with pytest.raises(NasError, match=rf"^{path}: No space left on device: make room, then go on") as caught:
        write_beside(path, b"after")

    assert caught.value.exit_code == 1
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("front.csv", "before")]


def test_a_line_that_did_not_fit_is_named_and_the_lines_before_it_go_on(
    tmp_path: Path, full: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "candidates.jsonl"
    path.write_text('{"number":1}\n{"num')
    with pytest.raises(NasError, match=rf"^{path}: No space left on device") as caught:
        append_record(path, Line(number=2))
    full.undo()
    path.write_text('{"number":1}\n{"num')
    drop_half_line(path)
    append_record(path, Line(number=2))

    assert caught.value.exit_code == 1
    assert read_records(path, Line) == [Line(number=1), Line(number=2)]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "taken"),
        (errno.EAGAIN, "in use"),
        (errno.EACCES, "in use"),  # as NFS says it
        (errno.ENOLCK, "unknown"),
        (errno.EOPNOTSUPP, "unknown"),
    ],
)
def test_the_system_says_whose_a_lock_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None, state: str
) -> None:
    def flock(handle: int, operation: int) -> None:
        if error is not None:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "lock"
    with path.open("w") as file:
        assert take_lock(file.fileno(), path, wait_s=0.05) == state
        path.unlink()
        assert take_lock(file.fileno(), path) == ("in use" if state == "in use" else "gone")
        path.touch()
        assert take_lock(file.fileno(), path) == ("in use" if state == "in use" else "gone")


def test_a_pipe_is_read_and_one_that_nobody_writes_to_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read, write = os.pipe()
    os.write(write, b"{}")
    os.close(write)

    assert read_bytes(tmp_path / "pipe") == b""
    assert read_bytes(Path(f"/dev/fd/{read}")) == b"{}"
    os.close(read)


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    for write in (lambda path: write_beside(path, b""), lambda path: append_record(path, Line(number=1))):
        with pytest.raises(InputError, match=r"none/file: cannot be written \(No such file or directory\)"):
            write(tmp_path / "none" / "file")
