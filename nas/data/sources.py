"""Sources of images: what the user asks for, found on disk or on the hub."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.data.columns import image_column
from nas.data.folders import Folder, read_folder, refuse_dead_links
from nas.data.mapped import Loaded, load_mapped
from nas.data.rows import Found, counted, said
from nas.data.shards import Shards
from nas.data.splits import file_splits, hub_splits
from nas.data.tables import Parquet, one_line, read_tables
from nas.data.walk import TABLES, File, in_order, stamp, walk
from nas.errors import InputError
from nas.files import Record, cache_folder, digest_of, write_beside

__all__ = ["DataSource", "Source", "find_source"]

_SHOWN = 7  # characters of a revision
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_FILES = 100_000
_LEAST_CLASSES = 2  # folders of pictures beside which Parquet files are ambiguous


class DataSource(Record):
    """Where images come from, and how they are read there.

    Attributes:
        name: `synthetic`, a folder, a Parquet file or WebDataset shard (or a pattern such as `data/*.parquet`), or a
            name on the hub.
        image: column of the images in a table; without it, the one that is meant is looked for.
        label: column of the labels in a table.
        skip_broken: leave out images that cannot be read and rows without a label, and count them.
    """

    name: str
    image: str | None = None
    label: str | None = None
    skip_broken: bool = False

    def __str__(self) -> str:
        return self.name

    def refuse_columns(self, what: str) -> None:
        """Refuse the names of columns for a source that has none."""
        for option, column in (("image", self.image), ("label", self.label)):
            if column is not None:
                raise InputError(
                    f"--option {option}={column} names a column of Parquet files, shards or the hub; {self.name} is "
                    f"{what}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parquet:
    """Parquet files, as splits."""

    asked: DataSource
    splits: Mapping[str, Parquet]
    notes: tuple[str, ...]

    def fingerprint(self) -> list[Any]:
        parts = {
            split: table.fingerprint(image_column(table.schema, self.asked.name, self.asked.image))
            for split, table in self.splits.items()
        }
        return ["parquet", parts]

    def read(self) -> Found:
        asked = self.asked
        return read_tables(self.splits, asked.name, image=asked.image, label=asked.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hub:
    """A data set on the Hugging Face hub, at one revision."""

    asked: DataSource
    revision: str
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> list[Any]:
        return ["hub", self.asked.name, self.revision]

    def read(self) -> Found:
        asked = self.asked
        loaded = load_mapped(asked.name, source=asked.name, cure="; ".join(self.notes), revision=self.revision)
        taken, note = hub_splits(list(loaded), asked.name)
        tables = {split: Loaded(dataset=loaded[name], split=name) for split, name in taken.items()}
        found = read_tables(tables, asked.name, image=asked.image, label=asked.label)
        return replace(found, notes=note)


Source = Folder | _Parquet | _Hub | Shards


def find_source(asked: DataSource) -> Source:
    """Find a source: on disk first, then on the hub.

    Raises:
        InputError: there is no such source, or it holds no labelled images.
    """
    source = asked.name
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            raise InputError(
                f"{source}: neither a Parquet file nor a WebDataset shard; give a folder of class folders, or a "
                ".parquet or .tar file"
            )
        path = Path(os.path.abspath(path))  # noqa: PTH100 - the name that was given tells the split
        return _tables([_file(path, path.parent)], asked, alone=True)
    if path.is_dir():
        return _folder(path.resolve(), asked)
    if path.exists():
        raise InputError(f"{source}: neither a folder nor a regular file; give a folder of class folders")
    if path.is_symlink():
        raise InputError(f"{source}: a link that leads nowhere; restore what it links to")
    if any(character in source for character in "*?[") or _RANGE.search(source):
        matches = {pattern: glob.glob(pattern, recursive=True) for pattern in _expanded(str(path))}  # noqa: PTH207
        if lacking := [pattern for pattern, names in matches.items() if not names]:
            raise InputError(f"{source}: no file matches {'this pattern' if len(matches) == 1 else lacking[0]}")
        found = {os.path.abspath(name) for names in matches.values() for name in names}  # noqa: PTH100
        paths = [Path(name) for name in found if not os.path.isdir(name)]  # noqa: PTH112
        if not paths:
            raise InputError(f"{source}: no file matches this pattern")
        if dead := sorted(one.name for one in paths if not one.exists()):
            raise InputError(f"{source}: dead links: {said(dead)}; remove them or restore what they link to")
        common = os.path.commonpath([one.parent for one in paths])
        files = sorted((_file(one, Path(common)) for one in paths), key=in_order)
        kind = _suffix(files[0]) if _suffix(files[0]) in TABLES else ".parquet"
        if others := [file for file in files if _suffix(file) != kind]:
            raise InputError(
                f"{source}: a pattern must match .parquet or .tar files only, but it matches {others[0].parts[-1]}"
            )
        return _tables(files, asked, alone=True)
    if source.startswith((".", "~", os.sep)) or source.count("/") > 1 or path.suffix in TABLES or "\\" in source:
        raise InputError(f"{source}: no such file or folder; {_nearest(path)}")
    return _hub(asked, path)


def _file(path: Path, root: Path) -> File:
    """A file by the name that it has there; what it links to is where its rows' paths are relative to."""
    return File(path=str(path.resolve()), parts=path.relative_to(root).parts, stamp=stamp(path))


def _expanded(pattern: str) -> list[str]:
    """The patterns that one with WebDataset's ranges stands for, such as `train-{0000..0146}.tar`."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(last) - int(first) >= _MOST_FILES:
        raise InputError(f"{pattern}: a range of more than {_MOST_FILES:,} files")
    before, after = pattern[: match.start()], pattern[match.end() :]
    numbers = range(int(first), int(last) + 1)
    return [name for number in numbers for name in _expanded(f"{before}{number:0{len(first)}}{after}")]


def _folder(root: Path, asked: DataSource) -> Source:
    listing = walk(str(root))
    tables = [file for file in listing.tables if file.parts[-1].lower() != "metadata.parquet"]
    is_parquet = any(_suffix(file) == ".parquet" for file in tables)
    data = [file for file in tables if not is_parquet or _suffix(file) == ".parquet"]
    used = set(data)
    for file in listing.tables:
        if file not in used:
            listing.count_suffix(file.parts[-1])
    # The archive that pictures came in lies beside them more often than pictures beside shards.
    depth = 1 if is_parquet else None
    folders = {file.parts[:-1][:depth] for file in listing.pictures if len(file.parts) > 1}
    if data and len(folders) < _LEAST_CLASSES:
        refuse_dead_links(listing, asked.name, skip_broken=asked.skip_broken, suffixes=tuple(TABLES))
        # Pictures beside the tables are those that rows name, or belong to a README.
        notes = [f"{counted(len(listing.pictures), 'picture')} beside the {TABLES[_suffix(data[0])]}s left out"]
        if is_parquet:
            notes = [f"{notes[0]} unless a row names it"]
        return _tables(data, asked, listing.left_out() + (notes if listing.pictures else []))
    if data and is_parquet:
        raise InputError(
            f"{asked.name}: it holds class folders of pictures and Parquet files; give --data "
            f"'{Path(data[0].path).parent}/*.parquet' for these, or move them away"
        )
    for file in data:
        listing.count_suffix(file.parts[-1])
    asked.refuse_columns("a folder of pictures")
    return read_folder(listing, root, asked.name, skip_broken=asked.skip_broken)


def _tables(
    files: Sequence[File], asked: DataSource, notes: Sequence[str] = (), *, alone: bool = False
) -> _Parquet | Shards:
    """Files of one of the kinds of `TABLES`, sorted into splits."""
    for file in files:
        if file.stamp[0] == 0:
            raise InputError(f"{asked.name}: {file.parts[-1]} is empty; fetch it again")
    kind = _suffix(files[0])
    splits, unused = file_splits(files, asked.name, kind=TABLES[kind], alone=alone)
    if kind == ".tar":
        words = (*notes, *unused)
        return Shards(source=asked.name, splits=splits, image=asked.image, label=asked.label, notes=words)
    tables = {split: Parquet.open(paths) for split, paths in splits.items()}
    return _Parquet(asked=asked, splits=tables, notes=(*notes, *unused))


def _suffix(file: File) -> str:
    return Path(file.parts[-1]).suffix.lower()  # by its name there: a link may lead to a file without one


def _hub(asked: DataSource, path: Path) -> _Hub:
    name = asked.name
    absent = f"{name}: not a file or folder here ({_nearest(path)})"
    try:
        from huggingface_hub import HfApi, constants, errors
    except ImportError as error:
        raise InputError(f"{absent}, and data sets of the hub need pip install 'nas[data]'") from error
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII):
        raise InputError(f"{absent}, and not a name on the hub")
    if (kept := _kept_revision(name)) is not None:
        # The same images as last time, and without a network. Whoever wants those of today says so.
        # The hub's own file may name another one tomorrow.
        write_beside(_revision_file(name, keeps="revisions of data sets"), kept.encode())
        files = " and ".join(str(file) for file in _revision_files(name) if file.exists())
        note = f"revision {kept[:_SHOWN]} as kept here (to ask the hub for a newer one, remove {files})"
        return _Hub(asked=asked, revision=kept, notes=(note,))
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{absent}, and not in the cache of the hub, which is not asked while HF_HUB_OFFLINE is set")
    try:
        revision = str(HfApi().dataset_info(name, timeout=10).sha)
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(f"{absent}, and the hub has no data set of this name that is open to you") from error
    except Exception as error:  # the exceptions depend on the hub's HTTP library
        raise InputError(f"{absent}, and the hub could not be reached ({one_line(error)})") from error
    write_beside(_revision_file(name, keeps="revisions of data sets"), revision.encode())
    return _Hub(asked=asked, revision=revision)


def _kept_revision(name: str) -> str | None:
    """The revision of a data set that was used last; None if none was used here."""
    for file in _revision_files(name):
        with suppress(OSError, UnicodeDecodeError):
            if revision := file.read_text().strip():
                return revision
    return None


def _revision_files(name: str) -> tuple[Path, Path]:
    """What names the revision that was used: a file of this project, else one of the hub's cache."""
    return _revision_file(name), _hub_cache() / f"datasets--{name.replace('/', '--')}" / "refs" / "main"


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _revision_file(name: str, *, keeps: str | None = None) -> Path:
    return cache_folder("hub", keeps=keeps) / digest_of(name)


def _nearest(path: Path) -> str:
    """Name the first part of the path that does not exist, or suggest the existing name that is most similar to it."""
    path = Path.cwd() / path
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    names = sorted(entry.name for entry in missing.parent.iterdir()) if missing.parent.is_dir() else []
    if close := difflib.get_close_matches(missing.name, names, n=1):
        return f"did you mean {missing.parent / close[0]}?"
    return f"{missing.parent} has no {missing.name}"
