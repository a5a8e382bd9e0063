"""Exported models: files in a temporary folder, one for each subject, written when a device first needs them."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from nas.errors import DeviceError, NasError
from nas.files import DISK_FULL
from nas.networks import Subject
from nas.scratch import ScratchFolder

__all__ = ["ModelFiles", "NotExported"]


class NotExported(Exception):  # noqa: N818 - the expected outcome of some jobs
    """A subject cannot be exported; the message is the failure of its job."""


def _ignore(name: str) -> None:
    """Do nothing about a removed file."""


class ModelFiles:
    """A cache of exported subjects. Each is written once, and kept while there is room.

    Args:
        export: converts a subject for the runtime. It returns the bytes of a file, or a folder, which is moved in.
        suffix: ending of the files.
        limit_bytes: when the files exceed this, the least recently used ones are removed.
        on_removal: called with the name of each removed file.
    """

    def __init__(
        self,
        export: Callable[[Subject], bytes | Path],
        *,
        suffix: str,
        limit_bytes: int = 4 << 30,
        on_removal: Callable[[str], None] = _ignore,
    ) -> None:
        self._export = export
        self._suffix = suffix
        self._limit_bytes = limit_bytes
        self._on_removal = on_removal
        self._folder = ScratchFolder("models")
        self._sizes: OrderedDict[str, int] = OrderedDict()  # name -> bytes, the least recently used first

    def path(self, subject: Subject) -> Path:
        """The file of a subject, which is exported if it is not there.

        Raises:
            NotExported: the exporter failed, for whatever reason.
            NasError: the disk is full.
            DeviceError: the disk cannot be written.
        """
        name = subject.key + self._suffix
        path = self._folder.path / name
        if name not in self._sizes:
            try:
                content = self._export(subject)
            except Exception as error:  # Exporters raise nothing narrower.
                words = str(error).strip() or type(error).__name__
                raise NotExported(f"cannot be exported: {words.splitlines()[0]}") from error
            if isinstance(content, Path):
                size = sum(file.stat().st_size for file in content.rglob("*"))
            else:
                size = len(content)
            while self._sizes and sum(self._sizes.values()) + size > self._limit_bytes:
                oldest, _ = self._sizes.popitem(last=False)
                self._remove(path.with_name(oldest))
                self._on_removal(oldest)
            try:
                if isinstance(content, Path):
                    shutil.move(content, path)
                else:
                    path.write_bytes(content)
            except OSError as error:  # Every further subject would fail the same way.
                words = (
                    f"{path.parent}: no model can be kept there ({error.strerror}); make room, or set TMPDIR to "
                    "another folder, then repeat the command to go on from here"
                )
                raise (NasError if error.errno in DISK_FULL else DeviceError)(words) from error
            self._sizes[name] = size
        self._sizes.move_to_end(name)
        return path

    def close(self) -> None:
        """Remove the folder."""
        self._folder.close()

    def _remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
