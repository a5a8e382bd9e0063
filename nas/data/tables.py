"""Tables of labelled images, such as Parquet files: their rows, in columns that are named or meant."""

from __future__ import annotations

import bisect
import errno
import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nas.data.columns import class_names, holds, image_column, label_column, plain_labels, refuse_other_columns
from nas.data.rows import BLOCK, Content, Found, Missing, Rows, said, unreadable
from nas.data.walk import stamp
from nas.errors import InputError

__all__ = ["Column", "Parquet", "content", "innermost", "one_line", "read_tables"]

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_FEWER = "it does not have as many rows as it says"


class Table(Protocol):
    """Rows with named columns."""

    @property
    def schema(self) -> Any:
        """The Arrow schema, with the metadata of `datasets`."""
        ...

    def __len__(self) -> int: ...

    def values(self, column: str) -> list[Any]:
        """All values of a column, as Python's."""
        ...

    def read(self, column: str, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Any, Path]]:
        """The values of some rows in ascending order, each with the folder that its paths are relative to."""
        ...

    def where(self, row: int) -> str:
        """Where the user finds a row."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parquet:
    """Parquet files, one below the other; the first row of each in the whole table."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    schema: Any

    @classmethod
    def open(cls, files: Sequence[Path]) -> Parquet:
        """Read the ends of the files, which say what columns and how many rows they have.

        Raises:
            InputError: a file is not Parquet, or has other columns than the first.
        """
        import pyarrow.parquet  # type: ignore[import-untyped]

        starts, schemas = [0], []
        for file in files:
            with _reading(file):
                found = pyarrow.parquet.read_metadata(file)
                schemas.append(found.schema.to_arrow_schema())
                schemas[-1].names  # noqa: B018 - may not be UTF-8
                if found.num_rows < 0:
                    raise ValueError(_FEWER)
            starts.append(starts[-1] + found.num_rows)
        for file, schema in zip(files, schemas, strict=True):
            refuse_other_columns(f"{file.name}", schema, files[0].name, schemas[0])
        return cls(files=tuple(files), starts=tuple(starts), schema=schemas[0])

    def __len__(self) -> int:
        return self.starts[-1]

    def where(self, row: int) -> str:
        """The file and the row within it, from 0."""
        file = bisect.bisect_right(self.starts, row) - 1
        return f"row {row - self.starts[file]} of {self.files[file].name}"

    def values(self, column: str) -> list[Any]:
        """All values of a column, as Python's."""
        import pyarrow.parquet

        values: list[Any] = []
        for file in self.files:
            with _reading(file), pyarrow.parquet.ParquetFile(file) as opened:
                found = opened.read(columns=[column]).column(column).to_pylist()
                if len(found) != opened.metadata.num_rows:
                    raise ValueError(_FEWER)
                values += found
        return values

    def read(self, column: str, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Any, Path]]:
        """Read some rows, in ascending order; row groups without any of them are not read."""
        import pyarrow.parquet

        for file, first in zip(self.files, self.starts, strict=False):
            with _reading(file), pyarrow.parquet.ParquetFile(file) as opened:
                for group in range(opened.num_row_groups):
                    after = first + opened.metadata.row_group(group).num_rows
                    if len(_between(rows, first, after)):
                        for batch in opened.iter_batches(BLOCK, row_groups=[group], columns=[column]):
                            taken = batch.column(column).take(_between(rows, first, first + len(batch)) - first)
                            yield from ((value, file.parent) for value in taken.to_pylist())
                            first += len(batch)
                        if first != after:
                            raise ValueError(_FEWER)
                    first = after

    def fingerprint(self, image: str) -> list[Any]:
        """What the decoded images depend on: these files, and those that rows without bytes name."""
        own = [[str(file), *stamp(file)] for file in self.files]
        return [*own, *([path, *stamp(path)] for path in self._outside(image) if _is_file(path))]

    def _outside(self, image: str) -> Iterator[str]:
        """Files that the rows name. Whether a row has bytes as well is not known without reading these."""
        import pyarrow.parquet

        kind = self.schema.field(image).type
        struct = hasattr(kind, "num_fields") and "path" in [kind.field(index).name for index in range(kind.num_fields)]
        if not struct and holds(self.schema, image) != "path":
            return
        column, listed = f"{image}.path" if struct else image, functools.cache(_names_in)
        for file in self.files:
            with _reading(file), pyarrow.parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(columns=[column]):
                    for value in batch.column(0).to_pylist():
                        named = _named(value, file.parent)
                        if isinstance(named, str):
                            folder, name = os.path.split(named)
                            if name in listed(folder):
                                yield named


def _names_in(folder: str) -> frozenset[str]:
    """The names in a folder; none in one that cannot be read. Faster than to look for each of a million files."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208
    except (OSError, ValueError):
        return frozenset()


def _between(rows: npt.NDArray[np.int64], first: int, after: int) -> npt.NDArray[np.int64]:
    return rows[np.searchsorted(rows, first) : np.searchsorted(rows, after)]


class _reading:  # noqa: N801 - used like a function
    """Turn what pyarrow raises on a damaged file into one line that names it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        try:
            size = self._file.stat().st_size
        except OSError as error:
            raise unreadable(str(self._file), error) from error
        if size == 0:
            raise InputError(f"{self._file}: the file is empty; fetch it again")

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of the disk; EINVAL is of a size
            raise unreadable(str(self._file), error) from error
        # ArrowException, OSError, UnicodeDecodeError, ... from whatever the file holds
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise InputError(
                f"{self._file}: not a readable Parquet file ({one_line(error)}); fetch it again"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The images of a table."""

    table: Table
    name: str

    def where(self, row: int) -> str:
        """Where the user finds an image."""
        return self.table.where(row)

    def read(self, rows: npt.NDArray[np.int64]) -> Iterator[Content]:
        """Read the images of these rows, which are in ascending order."""
        for value, folder in self.table.read(self.name, rows):
            yield content(value, folder)


def _named(value: Any, folder: Path) -> bytes | str | None:
    """The bytes or else the path of a row's picture; a relative path begins beside the file of the table."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return None if "\0" in value else str(folder / value)
    return value or None


def content(value: Any, folder: Path) -> Content:
    """A row's picture. One whose file cannot be looked at now is taken to be there: to read it will say why."""
    named = _named(value, folder)
    if not isinstance(named, str):
        return named or Missing()
    try:
        is_regular = S_ISREG(os.stat(named).st_mode)  # noqa: PTH116 - called for millions of files
    except OSError as error:
        return Missing(why=f"no file {named}") if error.errno in _NO_FILE else named
    return named if is_regular else Missing(why=f"no regular file {named}")


def read_tables(tables: Mapping[str, Table], source: str, *, image: str | None, label: str | None) -> Found:
    """The rows of tables with their labels, by the columns named or those that are meant.

    Raises:
        InputError: a column is missing, or does not hold pictures or labels.
    """
    first, *others = tables.values()
    for split, other in zip(list(tables)[1:], others, strict=True):
        refuse_other_columns(f"{source}: {split}", other.schema, "train", first.schema)
    image = image_column(first.schema, source, image)
    label = label_column(first.schema, source, label)
    _refuse_text(first, image, source)
    where = f"{source}: labels in column {label}"
    names = class_names(first.schema, label)
    if repeated := [name for name, number in Counter(names).items() if number > 1]:
        raise InputError(f"{where}: the file names {said(repeated)} twice among its classes; give each its own name")
    plain = {
        split: plain_labels(table.values(label), where, None if names is None else len(names))
        for split, table in tables.items()
    }
    codes: dict[Any, int] = {code: code for code in range(len(names or ()))}
    if names is None:
        known: set[Any] = {value for column in plain.values() for value in column if value is not None}
        if len({type(value) for value in known}) > 1:
            raise InputError(f"{where} must be whole numbers or names, got both")
        names = [str(value) for value in sorted(known)]
        codes = {value: code for code, value in enumerate(sorted(known))}
    rows = {
        split: Rows(
            images=Column(table=table, name=image),
            labels=np.array([codes.get(value, -1) for value in plain[split]], dtype=np.int64),
            index=np.arange(len(plain[split])),
        )
        for split, table in tables.items()
    }
    return Found(splits=rows, class_names=names)


def _refuse_text(table: Table, column: str, source: str) -> None:
    """Refuse a column of text in which no row names a file, such as pictures in base64."""
    if holds(table.schema, column) != "path":
        return
    rows = np.arange(min(BLOCK, len(table)))
    texts = [str(folder / value) for value, folder in table.read(column, rows) if isinstance(value, str)]
    if texts and not any(_is_file(text) for text in texts):
        raise InputError(
            f"{source}: column {column} holds text that names no file beside it, such as base64; store the bytes of "
            "the picture files, or paths"
        )


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return False


def one_line(error: BaseException) -> str:
    """The first line of the innermost cause's message, or the name of its class."""
    error = innermost(error)
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def innermost(error: BaseException) -> BaseException:
    """What an error comes from in the end."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
