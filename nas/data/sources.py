"""Sources of images: folders, Parquet files and the hub, read as rows of undecoded images with their labels."""

from __future__ import annotations

import bisect
import difflib
import functools
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import numpy.typing as npt

from nas.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Progress", "Rows", "Source", "choose_rows", "find_source", "one_line", "quiet_datasets", "read_rows"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and out of how many."""

_VAL_FRACTION = 0.1  # held out of a source without a validation split
_TRAIN_WORDS = ("train", "training")
_VAL_WORDS = ("val", "validation", "valid", "dev", "test", "testing", "eval")  # in order of preference
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """A folder whose class folders hold image files, under `train/`, `val/`, ... or directly."""

    root: Path
    train: Path
    val: Path | None
    files: tuple[Path, ...]

    def fingerprint(self) -> list[Any]:
        return ["folder", str(self.root), *map(_stamp, self.files)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parquet:
    """Parquet files; the path of a file names its split."""

    train: tuple[Path, ...]
    val: tuple[Path, ...]

    def fingerprint(self) -> list[Any]:
        return ["parquet", *map(_stamp, self.train), "val", *map(_stamp, self.val)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hub:
    """A data set on the Hugging Face hub, at one revision."""

    name: str
    revision: str

    def fingerprint(self) -> list[Any]:
        return ["hub", self.name, self.revision]


Source = _Folder | _Parquet | _Hub


def find_source(source: str) -> Source:
    """Find `source`: on disk first, then on the hub."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix != ".parquet":
            raise InputError(f"{source}: not a Parquet file; give a folder of class folders or a .parquet file")
        return _parquet([path.resolve()], path.resolve().parent, source)
    if path.is_dir():
        return _folder(path.resolve(), source)
    if any(character in source for character in "*?["):
        files = [Path(found).resolve() for found in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        if not files:
            raise InputError(f"{source}: no file matches this pattern")
        if others := [file for file in files if file.suffix != ".parquet"]:
            raise InputError(f"{source}: a pattern must match Parquet files only, but it matches {others[0].name}")
        return _parquet(files, files[0].parent, source)
    if source.startswith((".", "~", os.sep)) or source.count("/") > 1 or path.suffix == ".parquet" or "\\" in source:
        raise InputError(f"{source}: no such file or folder; {_nearest(path)}")
    return _hub(source, path)


def _folder(root: Path, source: str) -> Source:
    files = sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names if name[0] != ".")
    if parquet := [file for file in files if file.suffix == ".parquet"]:
        return _parquet(parquet, root, source)
    suffixes = _image_suffixes()
    images = tuple(file for file in files if file.suffix.lower() in suffixes)
    if not images:
        raise InputError(
            f"{source}: neither images nor Parquet files in this folder; expected class folders such as cat/ and dog/"
        )
    # A class may be called "train". A split contains folders; a class contains images.
    by_name = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir() and _has_folders(entry)}
    train = next((by_name[word] for word in _TRAIN_WORDS if word in by_name), None)
    val = next((by_name[word] for word in _VAL_WORDS if word in by_name), None)
    if train is None:
        return _Folder(root=root, train=root, val=None, files=images)
    return _Folder(root=root, train=train, val=val, files=images)


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in folder.iterdir())


def _parquet(files: Sequence[Path], root: Path, source: str) -> _Parquet:
    """Sort files into splits by the first word of their path below `root` that names a split."""
    by_word: dict[str, list[Path]] = {}
    for file in files:
        if file.stat().st_size == 0:
            raise InputError(f"{source}: {file.name} is empty; fetch it again")
        words = re.split(r"[^a-z]+", str(file.relative_to(root)).lower())
        word = next((word for word in words if word in _TRAIN_WORDS + _VAL_WORDS), "train")
        by_word.setdefault("train" if word in _TRAIN_WORDS else word, []).append(file)
    train = by_word.pop("train", [])
    val = next((by_word.pop(word) for word in _VAL_WORDS if word in by_word), [])
    if not train:
        train, val = val, []
    return _Parquet(train=tuple(train), val=tuple(val))


def _hub(name: str, path: Path) -> _Hub:
    from huggingface_hub import HfApi, errors

    absent = f"{name}: not a file or folder here ({_nearest(path)})"
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII):
        raise InputError(f"{absent}, and not a name on the hub")
    try:
        revision = HfApi().dataset_info(name, timeout=10).sha
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(f"{absent}, and the hub has no data set of this name that is open to you") from error
    except Exception as error:  # the exceptions depend on the hub's HTTP library
        raise InputError(f"{absent}, and the hub could not be reached ({one_line(error)})") from error
    return _Hub(name=name, revision=str(revision))


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


def _stamp(file: Path) -> list[Any]:
    status = file.stat()
    return [str(file), status.st_size, status.st_mtime_ns]


def _image_suffixes() -> frozenset[str]:
    from PIL import Image

    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One split before decoding.

    Attributes:
        images: a table with one column `image` of bytes or paths.
        labels: one class index per row that is used; -1 if the row has no label.
        where: returns where the user finds row i of `images`, for error messages.
        index: the rows of `images` that are used, one for each element of `labels`.
    """

    images: Dataset
    labels: npt.NDArray[np.int64]
    where: Callable[[int], str]
    index: npt.NDArray[np.int64]

    def take(self, chosen: npt.NDArray[np.int64]) -> Rows:
        """Keep only the chosen rows, given by their positions in `labels`."""
        return replace(self, labels=self.labels[chosen], index=self.index[chosen])


def read_rows(origin: Source, source: str, scratch: Path) -> tuple[dict[str, Rows], list[str]]:
    """Read the split `train` and, if there is one, `val`; return them and their class names."""
    from datasets import load_dataset

    where: dict[str, Callable[[int], str]] = {}
    try:
        match origin:
            case _Folder():
                folders = {"train": origin.train} | ({"val": origin.val} if origin.val else {})
                patterns = {split: glob.escape(str(folder)) + "/**" for split, folder in folders.items()}
                loaded = load_dataset("imagefolder", data_files=patterns, drop_labels=False, cache_dir=str(scratch))
                splits = {split: loaded[split] for split in folders}
            case _Parquet():
                files = {"train": origin.train} | ({"val": origin.val} if origin.val else {})
                where = {split: _parquet_rows(paths) for split, paths in files.items()}
                escaped = {split: [glob.escape(str(path)) for path in paths] for split, paths in files.items()}
                loaded = load_dataset("parquet", data_files=escaped, cache_dir=str(scratch))
                splits = {split: loaded[split] for split in files}
            case _Hub():
                loaded = load_dataset(origin.name, revision=origin.revision)
                names = [next((word for word in words if word in loaded), None) for words in (_TRAIN_WORDS, _VAL_WORDS)]
                train, val = names[0] or next(iter(loaded)), names[1]
                splits = {"train": loaded[train]} | ({"val": loaded[val]} if val and val != train else {})
            case _:
                assert_never(origin)
    except InputError:
        raise
    except Exception as error:  # `datasets` wraps its readers' errors in its own exceptions, several deep
        raise InputError(f"{source}: `datasets` cannot read it ({one_line(error)})") from error
    return _with_labels(splits, source, where)


def _with_labels(
    splits: Mapping[str, Dataset], source: str, where: Mapping[str, Callable[[int], str]]
) -> tuple[dict[str, Rows], list[str]]:
    import datasets

    features = splits["train"].features
    image = _image_column(features, source)
    label = _label_column(features, source)
    values = {split: list(rows[label]) for split, rows in splits.items()}
    if isinstance(features[label], datasets.ClassLabel):
        class_names = list(features[label].names)
        codes: dict[Any, int] = {code: code for code in range(len(class_names))}
    else:
        found = {value for column in values.values() for value in column if value is not None}
        if others := {type(value).__name__ for value in found} - {"int", "str"}:
            raise InputError(f"{source}: labels in column {label} must be whole numbers or names, got {min(others)}")
        known = sorted(value for value in found if isinstance(value, str) or value >= 0)
        class_names = [str(value) for value in known]
        codes = {value: code for code, value in enumerate(known)}
    rows = {}
    for split, table in splits.items():
        images = table.select_columns([image])
        if image != "image":
            images = images.rename_column(image, "image")
        labels = np.array([codes.get(value, -1) for value in values[split]], dtype=np.int64)
        rows[split] = Rows(
            images=images.cast_column("image", datasets.Image(decode=False)),
            labels=labels,
            where=where.get(split, functools.partial("row {1} of split {0}".format, split)),
            index=np.arange(len(labels)),
        )
    return rows, class_names


def _image_column(features: Mapping[str, Any], source: str) -> str:
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    # Files without the `huggingface` metadata have a struct of bytes and path, or plain bytes.
    images = images or [
        name
        for name, kind in features.items()
        if (isinstance(kind, Mapping) and "bytes" in kind) or getattr(kind, "dtype", None) in ("binary", "large_binary")
    ]
    named = [name for name in ("image", "img") if name in images]
    if not images or (len(images) > 1 and not named):
        what = f"several ({', '.join(images)}) and none called image" if images else "none"
        raise InputError(f"{source}: one column of images is needed, found {what} among columns {', '.join(features)}")
    return (named or images)[0]


def _label_column(features: Mapping[str, Any], source: str) -> str:
    import datasets

    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [name for name in _LABEL_COLUMNS if name in features]
    if not named and len(classes) != 1:
        raise InputError(
            f"{source}: a column of labels is needed, called {', '.join(_LABEL_COLUMNS[:-1])} or {_LABEL_COLUMNS[-1]}; "
            f"found columns {', '.join(features)}"
        )
    return next((name for name in named if name in classes), (named or classes)[0])


def _parquet_rows(files: Sequence[Path]) -> Callable[[int], str]:
    """A function that names a row of the concatenated files by its file and the row within that file."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    starts = [0]
    for file in files:
        try:
            starts.append(starts[-1] + pyarrow.parquet.read_metadata(file).num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{file}: not a readable Parquet file ({one_line(error)}); fetch it again") from error

    def where(row: int) -> str:
        file = bisect.bisect_right(starts, row) - 1
        return f"row {row - starts[file]} of {files[file].name}"

    return where


def choose_rows(
    rows: Mapping[str, Rows],
    source: str,
    seed: int,
    split_seed: int,
    train_limit: int | None,
    val_limit: int | None,
) -> tuple[Rows, Rows]:
    """Choose the rows to train on and the rows to hold out."""
    train, val = rows["train"], rows.get("val")
    if not len(train.labels):
        raise InputError(f"{source}: there are no images in it")
    if missing := np.flatnonzero(train.labels < 0).tolist():
        raise InputError(
            f"{source}: {train.where(missing[0])} has no label ({len(missing)} such rows); remove these rows"
        )
    if len(np.unique(train.labels)) < 2:
        raise InputError(
            f"{source}: all images are of one class; class folders or a column of labels must tell two or more"
        )
    if val is not None and (not len(val.labels) or (val.labels < 0).any()):
        val = None  # test splits are often published without labels
    if val is None:
        rank = _rank_in_class(train.labels, split_seed)
        sizes = np.bincount(train.labels)[train.labels]
        held = rank < np.where(sizes > 1, np.maximum(1, np.round(sizes * _VAL_FRACTION)), 0)
        if not held.any():
            raise InputError(f"{source}: every class has one image only: none can be held out to score on; add images")
        train, val = train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
    return _limit(train, train_limit, seed), _limit(val, val_limit, seed)


def _limit(rows: Rows, limit: int | None, seed: int) -> Rows:
    """At most `limit` rows, spread over the classes as evenly as possible, in their original order."""
    rank = _rank_in_class(rows.labels, seed)
    return rows.take(np.sort(np.argsort(rank, kind="stable")[:limit]))


def _rank_in_class(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Rank of each row, from 0, in a random order of its class; a seed gives the same ranks on every machine."""
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    return rank


@contextmanager
def quiet_datasets() -> Iterator[None]:
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


def one_line(error: BaseException) -> str:
    """The first line of the innermost cause's message, or the name of its class."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
