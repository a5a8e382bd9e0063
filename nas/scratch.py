"""Temporary folders that a killed process does not leave for ever: the next one to make such a folder removes them.

Each is locked while its process lives. The system takes the lock from a process that ends, however it ends, and an
unlocked folder is nobody's.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["ScratchFolder", "sweep"]

_PREFIX = ".nas-scratch-"


class ScratchFolder:
    """A new temporary folder of this process. It is removed at the end of a `with` block, by `close`, or at exit.

    Folders that killed processes left beside it are removed first.

    Args:
        name: what it is for; part of its name.
        within: an existing folder to make it in; by default the user's own part of the system's temporary folder.
    Attributes:
        path: the folder.
    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, name: str, *, within: Path | None = None) -> None:
        from nas.files import take_lock

        sweep(within)
        while True:
            try:
                self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-", dir=within or _own_part()))
            except FileNotFoundError:
                if within is not None:
                    raise
                continue  # Another process had the last folder in the user's own part, and removed both.
            handle = os.open(self.path, os.O_RDONLY)
            if take_lock(handle, self.path, wait_s=math.inf) != "gone":  # Another process may have swept it before.
                break
            os.close(handle)
        self._finish = weakref.finalize(self, _remove, self.path, handle)

    def close(self) -> None:
        """Remove the folder with all that is in it. What cannot be removed is left."""
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def sweep(parent: Path | None = None) -> None:
    """Remove the temporary folders that killed processes left in a folder; by default, in the user's own part."""
    try:
        left = [entry.path for entry in os.scandir(parent or _own_path()) if entry.name.startswith(_PREFIX)]
    except OSError:
        return
    if left:  # At every start of a command, which is quicker without pydantic.
        from nas.files import take_lock
    for path in left:
        with suppress(OSError):  # Somebody else sweeps it.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if take_lock(handle, Path(path)) == "taken":
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def _remove(path: Path, handle: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(handle)
    if path.parent == _own_path():
        with suppress(OSError):  # There are others in it.
            path.parent.rmdir()


def _own_path() -> Path:
    return Path(tempfile.gettempdir()) / f"nas-{os.getuid()}"


def _own_part() -> Path:
    """This user's folder in the system's temporary folder; that folder itself if somebody else was there first."""
    path = _own_path()
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return path if is_ours else path.parent
