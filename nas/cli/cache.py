"""`nas cache`: what nas keeps to save time, and how to remove it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli import options
from nas.cli.terminal import print_data, print_json, print_table, say
from nas.errors import InputError

__all__ = ["app", "parts_document", "size_words"]

app = typer.Typer(help="What is kept to save time: decoded images, supernets, labels.", no_args_is_help=True)


@app.command("show")
def cache_show(as_json: options.Json = False) -> None:
    """Show where the cache is, and how large its parts are. The variable NAS_CACHE chooses another folder.

    --json: {"folder", "parts": [{"part", "about", "files" (their number), "bytes"}]}

    Example: nas cache show
    """
    from nas.files import cache_folder

    folder, parts = cache_folder("."), parts_document()
    if as_json:
        print_json({"folder": str(folder), "parts": parts})
        return
    print_data(str(folder))
    print_table(
        ("part", "size", "files", "what"),
        [(one["part"], size_words(one["bytes"]), str(one["files"]), one["about"]) for one in parts],
    )


@app.command("clear")
def cache_clear(
    part: Annotated[str | None, typer.Argument(help="A part, such as images.", show_default="all parts")] = None,
) -> None:
    """Remove what is kept. It is made again when it is needed; a supernet takes its training time again.

    What another process is training or reading under a lock is left.

    Example: nas cache clear images
    """
    from nas.files import CACHE_PARTS, cache_folder

    if part is not None and part not in CACHE_PARTS:
        raise InputError(f"{part}: no part of the cache; there are {', '.join(CACHE_PARTS)}")
    for name in CACHE_PARTS if part is None else [part]:
        folder = cache_folder(name)
        files, size_bytes = _size(folder)
        if not files:
            continue
        if (lock := _lock_in_use(folder)) is not None:
            say(f"{name}: {lock} is in use by another process; left")
            continue
        shutil.rmtree(folder)
        print_data(f"{folder}: removed, {size_words(size_bytes)}")


def parts_document() -> list[dict[str, Any]]:
    """Name, size and meaning of each part of the cache."""
    from nas.files import CACHE_PARTS, cache_folder

    found = []
    for part, about in CACHE_PARTS.items():
        files, size_bytes = _size(cache_folder(part))
        found.append({"part": part, "about": about, "files": files, "bytes": size_bytes})
    return found


def size_words(size_bytes: int) -> str:
    """A size for people, in powers of 1000."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _size(folder: Path) -> tuple[int, int]:
    """Number and bytes of the files in a folder."""
    files = size_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # Another process removed it.
                size_bytes += os.lstat(Path(parent) / name).st_size
                files += 1
    return files, size_bytes


def _lock_in_use(folder: Path) -> Path | None:
    """A lock in a folder that another process holds."""
    from nas.files import take_lock

    for lock in folder.rglob("*.lock"):
        with suppress(OSError):
            handle = os.open(lock, os.O_RDWR)
            try:
                if take_lock(handle, lock) == "in use":
                    return lock
            finally:
                os.close(handle)
    return None
