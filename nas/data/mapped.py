"""Tables that `datasets` maps from disk: sets of the hub, WebDataset shards, and Parquet files in any order."""

from __future__ import annotations

import bisect
import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nas.data.rows import BLOCK, Content, Rows
from nas.data.tables import Column, Parquet, content, innermost, one_line
from nas.errors import InputError
from nas.files import DISK_FULL, unwritten

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Loaded", "load_mapped", "mapped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A split of a data set of the hub or of WebDataset shards, as `datasets` loaded it."""

    dataset: Dataset
    split: str

    @property
    def schema(self) -> Any:
        """The Arrow schema, with the metadata of `datasets`."""
        return self.dataset.features.arrow_schema

    def __len__(self) -> int:
        return len(self.dataset)

    def where(self, row: int) -> str:
        """The split and the row; of a sample in a shard, its key and the shard."""
        if {"__key__", "__url__"} <= set(self.dataset.column_names):
            sample = self.dataset.select_columns(["__key__", "__url__"])[row]
            return f"{sample['__key__']} in {PurePath(sample['__url__']).name}"
        return f"row {row} of split {self.split}"

    def values(self, column: str) -> list[Any]:
        """All values of a column, as Python's."""
        return list(self.dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist())

    def read(self, column: str, rows: npt.NDArray[np.int64]) -> Iterator[tuple[Any, Path]]:
        """Read some rows."""
        table = self.dataset.select_columns([column]).with_format("arrow")
        for start in range(0, len(rows), BLOCK):
            values = table[rows[start : start + BLOCK].tolist()][column].to_pylist()
            yield from ((value, Path.cwd()) for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mapped:
    """The images of Parquet files, mapped into memory by `datasets`: any row is read at once."""

    parquet: Parquet
    dataset: Dataset  # of the column alone
    name: str

    def where(self, row: int) -> str:
        return self.parquet.where(row)

    def read(self, rows: npt.NDArray[np.int64]) -> Iterator[Content]:
        for row in rows.tolist():
            file = self.parquet.files[bisect.bisect_right(self.parquet.starts, row) - 1]
            yield content(self.dataset[row : row + 1][self.name].to_pylist()[0], file.parent)


def mapped(rows: Rows) -> Rows:
    """The same rows, for reading in any order. `datasets` copies Parquet files into its cache for it, once.

    Raises:
        InputError: a file cannot be read.
    """
    images = rows.images
    if not (isinstance(images, Column) and isinstance(images.table, Parquet)):
        return rows
    table = images.table
    files = [glob.escape(str(file)) for file in table.files]
    loaded = load_mapped(
        "parquet",
        source=str(table.files[0]),
        cure="fetch it again",
        data_files=files,
        split="train",
        columns=[images.name],
    )
    return replace(rows, images=_Mapped(parquet=table, dataset=loaded.with_format("arrow"), name=images.name))


def load_mapped(path: str, *, source: str, cure: str, **options: Any) -> Any:
    """What `datasets.load_dataset` gives.

    Args:
        path: a name on the hub, or a format of files.
        source: what the user calls it.
        cure: what to do if it cannot be read; may be empty.
        options: of `load_dataset`.
    Raises:
        InputError: it cannot be read.
        NasError: the disk of the cache is full.
    """
    from datasets import config, load_dataset

    try:
        with _quiet_datasets():
            return load_dataset(path, **options)
    except Exception as error:  # `datasets` wraps its readers' errors in its own exceptions, several deep
        cause = innermost(error)
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            raise unwritten(Path(cause.filename or config.HF_DATASETS_CACHE), cause) from error
        words = f"{source}: `datasets` cannot read it ({one_line(error)})"
        raise InputError(f"{words}; {cure}" if cure else words) from error


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Hide the progress bars of `datasets` and the hub; the caller's `progress` reports instead."""
    import datasets
    from huggingface_hub import utils

    # For mypy: huggingface_hub exports these functions without listing them.
    hidden, hub_hidden = not datasets.is_progress_bar_enabled(), utils.are_progress_bars_disabled()  # type: ignore[attr-defined]
    datasets.disable_progress_bars()
    utils.disable_progress_bars()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()
        if not hub_hidden:
            utils.enable_progress_bars()  # type: ignore[attr-defined]
