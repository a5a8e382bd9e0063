"""The files of a folder, links followed: pictures, files of tables, and a count of all that is left out, by reason."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath
from stat import S_ISREG
from unicodedata import normalize

from nas.data.pictures import CURES, picture_suffixes
from nas.data.rows import said, unreadable
from nas.errors import InputError

__all__ = ["ANNOTATIONS", "TABLES", "File", "Listing", "in_order", "stamp", "walk"]

ANNOTATIONS = "val_annotations.txt"  # Tiny ImageNet's labels of a flat val/
TABLES = {".parquet": "Parquet file", ".tar": "WebDataset shard"}  # files of many pictures with their labels
_JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"})
_DEAD = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # of a link, such as one to itself
_KINDS_SAID = 6
_LONGEST_SUFFIX = 10

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that was found.

    Attributes:
        path: where it is.
        parts: the names of its folders below the root, and its own.
        stamp: size in bytes and time of the last change in ns.
        folder: device and number of the folder that it is in, the same by any link; None if nobody asks.
    """

    path: str
    parts: Parts
    stamp: tuple[int, int]
    folder: tuple[int, int] | None = None


@dataclass(slots=True, kw_only=True)
class Listing:
    """What a walk found.

    Attributes:
        pictures: files with a suffix that Pillow reads, in the order of their names.
        tables: files with a suffix of `TABLES`, in the same order.
        folders: every folder, as its names below the root.
        annotations: folders that hold `ANNOTATIONS`.
        dead: links that lead nowhere, below the root.
        suffixes: how many other files have each suffix.
        reasons: how many files are left out for any other reason, in words.
    """

    pictures: list[File] = field(default_factory=list)
    tables: list[File] = field(default_factory=list)
    folders: set[Parts] = field(default_factory=set)
    annotations: set[Parts] = field(default_factory=set)
    dead: list[str] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    _spelt: dict[str, str] = field(default_factory=dict)

    def count_suffix(self, name: str, number: int = 1) -> None:
        """Count a file as left out for its suffix."""
        suffix = PurePath(name).suffix
        plain = 1 < len(suffix) <= _LONGEST_SUFFIX and suffix[1:].isalnum() and suffix.isascii()
        shown = suffix if plain else "with an odd suffix" if suffix else "without a suffix"
        self.suffixes[self._spelt.setdefault(shown.lower(), shown)] += number

    def left_out(self) -> list[str]:
        """What is left out, in words: first what has a cure."""
        cured = [(suffix, number) for suffix, number in self.suffixes.most_common() if suffix.lower() in CURES]
        words = [f"{number} {suffix} left out: {CURES[suffix.lower()]}" for suffix, number in cured]
        others = [(suffix, number) for suffix, number in self.suffixes.most_common() if suffix.lower() not in CURES]
        plain = [f"{number} {suffix}" for suffix, number in others[:_KINDS_SAID]]
        if rest := sum(number for _, number in others[_KINDS_SAID:]):
            plain.append(f"{rest} of other kinds")
        plain += [f"{number} {reason}" for reason, number in sorted(self.reasons.items()) if number]
        return words + ([f"{', '.join(plain)} left out"] if plain else [])


def stamp(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns: as long as they stay, the content is taken to stay."""
    status = os.stat(path)  # noqa: PTH116 - called for millions of files
    return status.st_size, status.st_mtime_ns


def walk(root: str) -> Listing:
    """List a folder. Links to files and folders are followed, but none back to a folder above.

    Hidden files, and those that file managers, archives and cameras leave behind, are counted and not read.

    Raises:
        InputError: a folder cannot be read, or the name of a picture or folder is not UTF-8.
    """
    listing, suffixes = Listing(), picture_suffixes()
    odd: list[str] = []
    visited: set[tuple[Parts, tuple[int, int]]] = set()
    waiting: list[tuple[str, Parts, frozenset[tuple[int, int]]]] = [(root, (), frozenset())]
    while waiting:
        folder, parts, above = waiting.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{_readable(folder)}: the folder cannot be read ({error.strerror})") from error
        here = status.st_dev, status.st_ino
        if here in above:
            listing.reasons["behind a link to a folder above"] += 1
            continue
        # A ring of links would be read once for each path. What two links of a class lead to is told in folders.py.
        if len(parts) > 1 and (parts[:2], here) in visited:
            listing.reasons["behind a second link to a folder"] += 1
            continue
        visited.add((parts[:2], here))
        listing.folders.add(parts)
        for entry in entries:
            name, below = entry.name, (*parts, entry.name)
            if _is_folder(entry):
                if _is_junk(name, _JUNK_FOLDERS):
                    listing.reasons["hidden or junk"] += _files_below(entry.path)
                elif not _is_utf8(name):
                    odd.append("/".join(below))
                else:
                    waiting.append((entry.path, below, above | {here}))
            elif _is_junk(name, _JUNK_FILES):
                listing.reasons["hidden or junk"] += 1
            elif (kind := PurePath(name).suffix.lower()) not in suffixes and kind not in TABLES:
                _add_other(listing, entry, below)
            elif not _is_utf8(name):
                odd.append("/".join(below))
            else:
                files = listing.tables if kind in TABLES else listing.pictures
                _add_file(listing, entry, below, files, here)
    if odd:
        raise InputError(
            f"{root}: {said([_readable(name) for name in sorted(odd)])}: not a name in UTF-8; rename it, such as with "
            "convmv -f latin1 -t utf8 -r --notest"
        )
    for files in (listing.pictures, listing.tables):
        files.sort(key=in_order)
    return listing


def in_order(file: File) -> tuple[list[str], Parts]:
    """Sorts files by their names in one spelling: a copy on a disk that spells them otherwise has the same order."""
    return [normalize("NFC", part) for part in file.parts], file.parts


def _add_file(
    listing: Listing, entry: os.DirEntry[str], below: Parts, files: list[File], folder: tuple[int, int]
) -> None:
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno not in _DEAD:
            raise unreadable(entry.path, error) from error
        listing.dead.append("/".join(below))
        return
    if S_ISREG(status.st_mode):
        files.append(File(path=entry.path, parts=below, stamp=(status.st_size, status.st_mtime_ns), folder=folder))
    else:
        listing.reasons["of no regular file"] += 1  # a pipe would be waited for


def _add_other(listing: Listing, entry: os.DirEntry[str], below: Parts) -> None:
    if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - it may have been a folder of a class
        listing.dead.append(_readable("/".join(below)))
    elif entry.name == ANNOTATIONS:
        listing.annotations.add(below[:-1])
    else:
        listing.count_suffix(entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno not in _DEAD:  # it may be the folder of a class
            raise unreadable(entry.path, error) from error
        return False


def _is_junk(name: str, junk: Iterable[str]) -> bool:
    return name.startswith(".") or name.lower() in junk


def _files_below(folder: str) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # the file system's bytes that are not UTF-8 are lone surrogates in Python
        return False
    return True


def _readable(name: str) -> str:
    r"""A name with the bytes that are not UTF-8 as \xe9."""
    return os.fsencode(name).decode(errors="backslashreplace")
