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
from nas.data.folders import Folder, read_folder
from nas.data.mapped import Hub, load
from nas.data.rows import Found, counted, said
from nas.data.splits import file_splits, hub_splits
from nas.data.tables import Parquet, one_line, read_tables
from nas.data.walk import TABLES, File, in_order, stamp, walk
from nas.errors import InputError
from nas.files import Record, cache_folder, digest_of, write_beside

__all__ = ["DataSource", "Source", "find_source"]

_SHOWN = 7  # characters of a revision
_UNPACK = "if it is no WebDataset but a folder in one file, unpack it with tar -xf and give the folder"
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
                    f"--option {option}={column} names a column of Parquet files or of the hub; {self.name} is {what}"
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
        loaded = load(asked.name, *self.notes, source=asked.name, revision=self.revision)
        taken, note = hub_splits(list(loaded), asked.name)
        tables = {split: Hub(dataset=loaded[name], split=name) for split, name in taken.items()}
        found = read_tables(tables, asked.name, image=asked.image, label=asked.label)
        return replace(found, notes=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shards:
    """WebDataset shards, as splits. `datasets` copies them into its cache, once, and maps that into memory."""

    asked: DataSource
    splits: Mapping[str, Sequence[Path]]
    notes: tuple[str, ...]

    def fingerprint(self) -> list[Any]:
        return [
            "webdataset",
            {split: [[str(path), *stamp(path)] for path in paths] for split, paths in self.splits.items()},
        ]

    def read(self) -> Found:
        asked = self.asked
        files = {split: [glob.escape(str(path)) for path in paths] for split, paths in self.splits.items()}
        loaded = load("webdataset", _UNPACK, source=asked.name, data_files=files)
        tables = {split: Hub(dataset=loaded[split], split=split) for split in files}
        columns = [name for name in tables["train"].schema.names if not name.startswith("__")]
        if len(columns) == 1:
            raise InputError(f"{asked.name}: its samples have no labels, only .{columns[0]}; {_UNPACK}")
        return read_tables(tables, asked.name, image=asked.image, label=asked.label)


Source = Folder | _Parquet | _Hub | _Shards


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
                f"{source}: not a Parquet file; give a folder of class folders, or a .parquet or .tar file"
            )
        path = Path(os.path.abspath(path))  # noqa: PTH100 - the name that was given tells the split
        return _tables([_file(path, path.parent)], asked, alone=True)
    if path.is_dir():
        return _folder(path.resolve(), asked)
    if path.exists():
        raise InputError(f"{source}: neither a folder nor a regular file; give a folder of class folders")
    if path.is_symlink():
        raise InputError(f"{source}: a link that leads nowhere; restore what it links to")
    if any(character in source for character in "*?["):
        found = {os.path.abspath(name) for name in glob.glob(str(path), recursive=True)}  # noqa: PTH100, PTH207
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
                f"{source}: a pattern must match {TABLES[kind]}s only, but it matches {others[0].parts[-1]}"
            )
        return _tables(files, asked, alone=True)
    if source.startswith((".", "~", os.sep)) or source.count("/") > 1 or path.suffix in TABLES or "\\" in source:
        raise InputError(f"{source}: no such file or folder; {_nearest(path)}")
    return _hub(asked, path)


def _file(path: Path, root: Path) -> File:
    """A file by the name that it has there; what it links to is where its rows' paths are relative to."""
    return File(path=str(path.resolve()), parts=path.relative_to(root).parts, stamp=stamp(path))


def _folder(root: Path, asked: DataSource) -> Source:
    listing = walk(str(root))
    parquet = [file for file in listing.tables if _suffix(file) == ".parquet"]
    data = [file for file in parquet if file.parts[-1].lower() != "metadata.parquet"]
    shards = [file for file in listing.tables if _suffix(file) == ".tar"]
    if shards and not data and not listing.pictures:
        return _tables(shards, asked, listing.left_out())
    classes = {file.parts[0] for file in listing.pictures if len(file.parts) > 1}
    for file in shards if data else listing.tables:
        listing.count_suffix(file.parts[-1])
    if data and len(classes) < _LEAST_CLASSES:
        # Pictures beside the tables are those that rows name, or belong to a README.
        notes = [f"{counted(len(listing.pictures), 'picture')} beside the Parquet files left out unless a row names it"]
        return _tables(data, asked, listing.left_out() + (notes if listing.pictures else []))
    if data:
        raise InputError(
            f"{asked.name}: it holds class folders of pictures and Parquet files; give --data "
            f"'{Path(data[0].path).parent}/*.parquet' for these, or move them away"
        )
    asked.refuse_columns("a folder of pictures")
    return read_folder(listing, root, asked.name, skip_broken=asked.skip_broken)


def _tables(
    files: Sequence[File], asked: DataSource, notes: Sequence[str] = (), *, alone: bool = False
) -> _Parquet | _Shards:
    """Files of one of the kinds of `TABLES`, sorted into splits."""
    for file in files:
        if file.stamp[0] == 0:
            raise InputError(f"{asked.name}: {file.parts[-1]} is empty; fetch it again")
    kind = _suffix(files[0])
    splits, unused = file_splits(files, asked.name, kind=TABLES[kind], alone=alone)
    if kind == ".tar":
        return _Shards(asked=asked, splits=splits, notes=(*notes, *unused))
    tables = {split: Parquet.open(paths) for split, paths in splits.items()}
    return _Parquet(asked=asked, splits=tables, notes=(*notes, *unused))


def _suffix(file: File) -> str:
    return Path(file.path).suffix.lower()


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
