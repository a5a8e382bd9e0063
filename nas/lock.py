"""Who writes to a folder or a file: one process at a time, by a lock file that says who it is.

On one host the system holds the lock (flock) and takes it from a process that ends, however it ends. The content of
the lock file is for people, and for where the system's lock does not reach: another host that shares the disk.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from nas.errors import InputError
from nas.files import DISK_FULL, Lock, Record, take_lock, unwritten

__all__ = ["LOCK_NAME", "beside", "owned", "refuse_if_owned"]

LOCK_NAME = "nas.lock"  # in a folder
_LOOKED_AT_S = 0.08  # A process that only looks has the lock for a moment.
_ENDED = ("Z", "X")  # states of a process that has ended, while its parent has not asked for its exit code


class _Owner(Record):
    """The content of a lock file: a process.

    Attributes:
        host: name of its host.
        process: its id there.
        began: when the process began, in the words of that system; another process of the same id began at another
            time. Empty if the system does not say.
        since: when it took the lock, ISO 8601, UTC.
    """

    host: str
    process: int
    began: str
    since: str

    @property
    def words(self) -> str:
        """The process in words."""
        return f"process {self.process} on {self.host}, since {self.since}"


def beside(path: Path) -> Path:
    """The lock file of a single file."""
    return path.with_name(f"{path.name}.lock")


@contextmanager
def owned(what: Path, lock: Path) -> Iterator[None]:
    """Own a folder or a file while the block runs: no other process that asks for it gets it.

    The lock of a process that is gone is taken over. A lock of another host is not, because nothing here can tell
    whether that process still runs. A folder to own is made if it does not exist. The lock file is removed at the end,
    and so is a folder that was made and stayed empty.

    Args:
        what: the folder or file, for messages.
        lock: the lock file: `LOCK_NAME` in a folder, or `beside` a file.
    Raises:
        InputError: another process owns it, or the lock file cannot be written.
        NasError: the disk is full.
    """
    made = [folder for folder in (what, *what.parents) if not folder.exists()] if lock.parent == what else []
    try:
        if made:
            what.mkdir(parents=True, exist_ok=True)
        handle = _taken(what, lock)
    except OSError as error:
        raise unwritten(what, error) from error
    try:
        yield
    finally:
        # Removed before it is let go: who waits for it sees that it is gone, and makes another.
        with suppress(OSError):
            # Someone may have removed it by hand, and another process made its own.
            if os.path.samestat(os.fstat(handle), lock.stat()):
                lock.unlink()
        os.close(handle)
        with suppress(OSError):  # The folder is in use, as it should be.
            for folder in made:
                folder.rmdir()


def refuse_if_owned(what: Path, lock: Path) -> None:
    """Refuse a folder or a file that another process owns, before a long preparation. It may be taken afterwards.

    Raises:
        InputError: another process owns it.
    """
    try:
        handle = os.open(lock, os.O_RDWR)
    except OSError:
        return  # No lock, or none that can be read: `owned` says so.
    try:
        _refuse_other(what, lock, take_lock(handle, lock, wait_s=_LOOKED_AT_S))
    finally:
        os.close(handle)


def _taken(what: Path, lock: Path) -> int:
    """The open lock file, locked and with this process as its content."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            state = take_lock(handle, lock, wait_s=_LOOKED_AT_S)
            if state != "gone":
                _refuse_other(what, lock, state)
                _write(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # Its owner ended in the meantime, and removed it.


def _write(handle: int) -> None:
    """Say in the lock file that this process owns it. On a full disk the system's lock alone holds."""
    content = _this_process().model_dump_json().encode() + b"\n"
    os.ftruncate(handle, 0)
    try:
        os.pwrite(handle, content, 0)
        os.fsync(handle)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise


def _refuse_other(what: Path, lock: Path, state: Lock) -> None:
    """Refuse if the content of the lock file, or the system's lock, says that another process owns it."""
    owner = _owner(lock)
    if state == "in use":
        words = owner.words if owner else "another process"
        raise InputError(f"{what} is in use by {words}: wait for its end, or end it")
    if owner is None:
        return  # New, or cut off by a full disk: nobody has it.
    if owner.host != socket.gethostname():
        raise InputError(
            f"{what} is in use by {owner.words}: wait for its end there; if that process is gone, remove {lock}"
        )
    if owner.process != os.getpid() and owner.began and owner.began == _began(owner.process):
        # The disk knows no locks, or keeps them to itself.
        raise InputError(f"{what} is in use by {owner.words}: wait for its end, or end it")


def _owner(lock: Path) -> _Owner | None:
    try:
        return _Owner.model_validate_json(lock.read_bytes())
    except (OSError, ValidationError):
        return None


def _this_process() -> _Owner:
    return _Owner(
        host=socket.gethostname(),
        process=os.getpid(),
        began=_began(os.getpid()),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _began(process: int) -> str:
    """When a process began, in the words of this system; empty if there is no such process."""
    try:
        # The name of the program, in parentheses, may hold anything. After it come the state, and 19 fields later the
        # time since boot.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        if fields[0] in _ENDED:
            return ""
        return f"{fields[19]} after boot {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:  # macOS
        done = subprocess.run(
            ["/bin/ps", "-o", "state=", "-o", "lstart=", "-p", str(process)],
            capture_output=True,
            text=True,
            env={"LC_ALL": "C"},
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    state, _, began = done.stdout.strip().partition(" ")
    return "" if state.startswith(_ENDED) else began.strip()
