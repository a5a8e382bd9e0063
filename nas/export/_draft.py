"""How an exported file or folder appears: written and checked in a temporary folder beside its place, then renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.errors import InputError
from nas.files import unwritten
from nas.scratch import ScratchFolder

__all__ = ["drafted"]


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Where to write: what is there at the end of the block takes the place of `path`, after an error nothing does.

    Raises:
        InputError: `path` cannot be written.
        NasError: the disk is full.
    """
    try:
        folder = ScratchFolder("export", within=path.parent)
    except OSError as error:
        raise unwritten(path, error) from error
    with folder:
        draft = folder.path / path.name
        yield draft
        if path.is_dir() and not draft.is_dir():
            raise InputError(f"{path}: is a folder; name a file to write")
        try:
            if path.is_dir():  # A folder cannot be renamed over another. The old one is deleted with `folder`.
                path.replace(folder.path / "old")
            draft.replace(path)
        except OSError as error:
            raise unwritten(path, error) from error
