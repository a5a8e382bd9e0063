"""Images for proxy training: read from anywhere, decoded once, handed out as augmented batches of tensors.

A source is the word `synthetic`, a folder of class folders, Parquet files in the Hugging Face image convention, or the
name of a data set on the Hugging Face hub. All but the first are read through `datasets`, decoded once and kept as
bytes under `$NAS_CACHE` (else `~/.cache/nas`), from where they are mapped into memory.

Example:
    >>> image_set = load_images("synthetic", resolution=32, seed=0, train_limit=64, val_limit=32)
    >>> image_set.description
    'synthetic, seed 0: 64 train and 32 val images of 20 classes at 32 px'
    >>> images, labels = next(training_batches(image_set, batch_size=16, steps=4, seed=0))
    >>> images.shape, images.dtype, labels.shape
    (torch.Size([16, 3, 32, 32]), torch.float32, torch.Size([16]))
"""

from __future__ import annotations

import bisect
import difflib
import functools
import glob
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import numpy.typing as npt

from nas.errors import InputError
from nas.synthetic import CLASS_NAMES, synthetic_images

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from PIL import Image

__all__ = ["ImageSet", "Progress", "load_images", "training_batches", "validation_batches"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and out of how many."""

SYNTHETIC_TRAIN, SYNTHETIC_VAL = 8192, 2048

_FORMAT = 1  # part of every cache key: raise it when the bytes in the cache change
_VAL_FRACTION = 0.1  # of a source that comes without a validation split
_BLOCK = 64  # images decoded by one thread at a time

_TRAIN_WORDS = ("train", "training")
_VAL_WORDS = ("val", "validation", "valid", "dev", "test", "testing", "eval")  # in order of preference
_ARRAYS = ("train_images", "train_labels", "val_images", "val_labels")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSet:
    """Images to train on and images held out, all of one size, as bytes.

    Attributes:
        train_images: (N, 3, H, H) uint8.
        train_labels: (N,) int64, indices into `class_names`.
        val_images: (M, 3, H, H) uint8, never trained on.
        val_labels: (M,) int64.
        class_names: one name a class.
        description: the source and what was taken from it, in words.
        mean: of each channel over the training images, in 0..1.
        std: likewise.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    val_images: torch.Tensor
    val_labels: torch.Tensor
    class_names: tuple[str, ...]
    description: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def resolution(self) -> int:
        """Height and width of every image in pixels."""
        return self.train_images.shape[-1]

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with all its tensors on `device`, where batches are then made."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            val_images=self.val_images.to(device),
            val_labels=self.val_labels.to(device),
        )


def load_images(
    source: str,
    *,
    resolution: int,
    seed: int,
    train_limit: int | None = None,
    val_limit: int | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Read, decode and cache the images of `source`.

    The validation split is the source's own where it has one with labels (validation before test); else a tenth of
    every class, chosen by `seed`. Images are scaled to a short side of `resolution` and cropped to its centre; grey
    ones become RGB. 25,000 JPEG files of 64 px take about 10 s on two cores, and 0.1 s when they come from the cache.

    Args:
        source: `synthetic`, a folder, a Parquet file (or a pattern such as `data/*.parquet`), or a name on the hub.
        resolution: height and width in pixels.
        seed: chooses the split and the images kept under a limit, and draws the synthetic ones.
        train_limit: at most so many training images, evenly over the classes.
        val_limit: likewise of the validation images.
        progress: told how far decoding is.

    Raises:
        InputError: there is nothing at `source`, it is not a set of labelled images, or an image is corrupt.
    """
    if source == "synthetic":
        return _synthetic(resolution, seed, train_limit or SYNTHETIC_TRAIN, val_limit or SYNTHETIC_VAL, progress)
    origin = _find(source)
    key = json.dumps([_FORMAT, origin.fingerprint(), resolution, seed, train_limit, val_limit])
    folder = _cache_folder() / hashlib.sha256(key.encode()).hexdigest()[:16]
    cached = _read_cache(folder)
    if cached is None:
        with _quiet_datasets(), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".reading-") as scratch:
            rows, class_names = _read_rows(origin, source, Path(scratch))
            train, val = _choose(rows, source, seed, train_limit, val_limit)
            counts = _counts(len(train.labels), len(val.labels), len(class_names), resolution)
            words = {"class_names": class_names, "description": f"{source}: {counts}"}
            _write_cache(folder, Path(scratch) / "decoded", train, val, words, resolution, progress)
        cached = _read_cache(folder)
        if cached is None:
            raise InputError(f"{folder}: the images just written there cannot be read; is the disk full?")
    return cached


def training_batches(
    image_set: ImageSet, *, batch_size: int, steps: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield exactly `steps` batches of shuffled, shifted and mirrored training images, normalised, with their labels.

    Every image is seen once before any is seen again. Each is shifted by up to a sixteenth of its size either way
    (reflected at the border) and mirrored every other time, on its own, on whichever device the set is on. Images are
    float32 (B, 3, H, H) in channels_last; the same seed gives the same batches on every device.
    """
    import torch

    # B batch, S resolution
    images, labels = image_set.train_images, image_set.train_labels
    device, size, reach = images.device, image_set.resolution, max(1, image_set.resolution // 16)
    random = torch.Generator().manual_seed(seed)
    passes = -(-steps * batch_size // len(images))
    # Drawn on the CPU at once for the whole run: the same on every device, and no copy or wait inside the loop.
    order = torch.cat([torch.randperm(len(images), generator=random) for _ in range(passes)]).to(device)
    count = steps * batch_size
    shifts = torch.randint(-reach, reach + 1, (2, count), generator=random).to(device)
    mirrored = (torch.rand(count, generator=random) < 0.5).to(device)
    normalise = _Normalise(image_set)
    pixels = torch.arange(size, device=device)
    for start in range(0, count, batch_size):
        batch = slice(start, start + batch_size)
        index = order[batch]
        rows = _reflect(pixels + shifts[0, batch, None], size)  # (B, S)
        columns = _reflect(pixels + shifts[1, batch, None], size)  # (B, S)
        columns = torch.where(mirrored[batch, None], columns.flip(1), columns)
        # Indices around a slice put the slice last: (B, S, S, 3), which seen as (B, 3, S, S) is channels_last.
        taken = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        yield normalise(taken), labels[index]


def validation_batches(image_set: ImageSet, *, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the validation images once, in order, normalised and in channels_last, with their labels."""
    import torch

    normalise = _Normalise(image_set)
    for start in range(0, len(image_set.val_labels), batch_size):
        batch = slice(start, start + batch_size)
        images = image_set.val_images[batch].contiguous(memory_format=torch.channels_last)
        yield normalise(images), image_set.val_labels[batch]


class _Normalise:
    """Bytes to floats of mean 0 and standard deviation 1 over the training set, per channel."""

    def __init__(self, image_set: ImageSet) -> None:
        import torch

        device = image_set.train_images.device
        std = torch.tensor(image_set.std, device=device).clamp(min=1 / 255)  # a channel may be constant
        self._scale = (1 / (255 * std)).view(1, 3, 1, 1)
        self._offset = (-torch.tensor(image_set.mean, device=device) / std).view(1, 3, 1, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mul_(self._scale).add_(self._offset)


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """-1 -> 1, -2 -> 2, size -> size - 2, ...: mirror positions at the border pixels."""
    index = index.abs()
    return (size - 1) - ((size - 1) - index).abs()


def _synthetic(resolution: int, seed: int, train: int, val: int, progress: Progress | None) -> ImageSet:
    import torch

    # One seed gives one stream of pictures; validation takes its own, so a larger training set never reaches into it.
    drawn: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = {}
    for stream, (split, count) in enumerate((("train", train), ("val", val))):
        if progress:
            progress(f"Drawing synthetic {split} images", 0, count)
        drawn[split] = synthetic_images(count=count, resolution=resolution, seed=2 * seed + stream)
        if progress:
            progress(f"Drawing synthetic {split} images", count, count)
    (train_images, train_labels), (val_images, val_labels) = drawn["train"], drawn["val"]
    mean, std = _statistics(train_images)
    return ImageSet(
        train_images=torch.from_numpy(train_images),
        train_labels=torch.from_numpy(train_labels),
        val_images=torch.from_numpy(val_images),
        val_labels=torch.from_numpy(val_labels),
        class_names=CLASS_NAMES,
        description=f"synthetic, seed {seed}: {_counts(train, val, len(CLASS_NAMES), resolution)}",
        mean=mean,
        std=std,
    )


def _counts(train: int, val: int, classes: int, resolution: int) -> str:
    return f"{train} train and {val} val images of {classes} classes at {resolution} px"


def _statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel in 0..1, from exact counts of each value."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(images), 1024):
        for channel in range(3):
            counts[channel] += np.bincount(images[start : start + 1024, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    std = np.sqrt(np.maximum(counts @ values**2 / counts.sum(axis=1) - mean**2, 0))
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


# ---- where images come from ----


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
    """Parquet files, each in the split that its path names."""

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


_Origin = _Folder | _Parquet | _Hub


def _find(source: str) -> _Origin:
    """What `source` is: looked for on disk first, then on the hub."""
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


def _folder(root: Path, source: str) -> _Origin:
    files = sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names if name[0] != ".")
    if parquet := [file for file in files if file.suffix == ".parquet"]:
        return _parquet(parquet, root, source)
    suffixes = _image_suffixes()
    images = tuple(file for file in files if file.suffix.lower() in suffixes)
    if not images:
        raise InputError(
            f"{source}: neither images nor Parquet files in this folder; expected class folders such as cat/ and dog/"
        )
    # A class may be called "train": a split holds folders, a class holds images.
    by_name = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir() and _has_folders(entry)}
    train = next((by_name[word] for word in _TRAIN_WORDS if word in by_name), None)
    val = next((by_name[word] for word in _VAL_WORDS if word in by_name), None)
    if train is None:
        return _Folder(root=root, train=root, val=None, files=images)
    return _Folder(root=root, train=train, val=val, files=images)


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in folder.iterdir())


def _parquet(files: Sequence[Path], root: Path, source: str) -> _Parquet:
    """Sort files into splits by the first word of their path below `root` that names one."""
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
    except Exception as error:  # whatever the HTTP library of the day raises
        raise InputError(f"{absent}, and the hub could not be reached ({_one_line(error)})") from error
    return _Hub(name=name, revision=str(revision))


def _nearest(path: Path) -> str:
    """How far the path goes, and what is there that is spelt most like it."""
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


# ---- rows and labels ----


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """One split before decoding.

    Attributes:
        images: one column `image` of bytes or paths.
        labels: a class index a row, -1 where there is none.
        where: names row i of `images` as its owner would find it.
        index: the rows of `images` that are used, one for each of `labels`.
    """

    images: Dataset
    labels: npt.NDArray[np.int64]
    where: Callable[[int], str]
    index: npt.NDArray[np.int64]

    def take(self, chosen: npt.NDArray[np.int64]) -> _Rows:
        return replace(self, labels=self.labels[chosen], index=self.index[chosen])


def _read_rows(origin: _Origin, source: str, scratch: Path) -> tuple[dict[str, _Rows], list[str]]:
    """The splits `train` and (where there is one) `val`, and the names of their classes."""
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
    except Exception as error:  # `datasets` wraps what its readers raise in classes of its own, several deep
        raise InputError(f"{source}: `datasets` cannot read it ({_one_line(error)})") from error
    return _with_labels(splits, source, where)


def _with_labels(
    splits: Mapping[str, Dataset], source: str, where: Mapping[str, Callable[[int], str]]
) -> tuple[dict[str, _Rows], list[str]]:
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
        rows[split] = _Rows(
            images=images.cast_column("image", datasets.Image(decode=False)),
            labels=labels,
            where=where.get(split, functools.partial("row {1} of split {0}".format, split)),
            index=np.arange(len(labels)),
        )
    return rows, class_names


def _image_column(features: Mapping[str, Any], source: str) -> str:
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    # Files written without the `huggingface` metadata: a struct of bytes and path, or plain bytes.
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
    """Names a row of the concatenated files as its file and the row within it."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    starts = [0]
    for file in files:
        try:
            starts.append(starts[-1] + pyarrow.parquet.read_metadata(file).num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{file}: not a readable Parquet file ({_one_line(error)}); fetch it again") from error

    def where(row: int) -> str:
        file = bisect.bisect_right(starts, row) - 1
        return f"row {row - starts[file]} of {files[file].name}"

    return where


def _choose(
    rows: Mapping[str, _Rows], source: str, seed: int, train_limit: int | None, val_limit: int | None
) -> tuple[_Rows, _Rows]:
    """What to train on and what to hold out."""
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
        rank = _rank_in_class(train.labels, seed)
        sizes = np.bincount(train.labels)[train.labels]
        held = rank < np.where(sizes > 1, np.maximum(1, np.round(sizes * _VAL_FRACTION)), 0)
        train, val = train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
    return _limit(train, train_limit, seed), _limit(val, val_limit, seed)


def _limit(rows: _Rows, limit: int | None, seed: int) -> _Rows:
    """At most `limit` rows, as even over the classes as they come, in their order."""
    rank = _rank_in_class(rows.labels, seed)
    return rows.take(np.sort(np.argsort(rank, kind="stable")[:limit]))


def _rank_in_class(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Each row's place in a random order of its class, from 0; the same for a seed on every machine."""
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    return rank


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """No progress bars of `datasets` and the hub; the caller's `progress` tells."""
    import datasets
    from huggingface_hub import utils

    # mypy: the hub's package exports these without listing them.
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


def _one_line(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ---- decoding and the cache ----


def _cache_folder() -> Path:
    named = os.environ.get("NAS_CACHE")
    folder = (Path(named).expanduser() if named else Path.home() / ".cache" / "nas") / "images"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot keep decoded images there ({error.strerror}); set NAS_CACHE to another folder"
        ) from error
    return folder


def _read_cache(folder: Path) -> ImageSet | None:
    """What is in the cache; nothing when it is not there or not whole, and then it is decoded anew."""
    import torch

    try:
        words = json.loads((folder / "set.json").read_bytes())
        # Copy on write: mapped like "r", and writable, which torch insists on.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in _ARRAYS}
    except (OSError, ValueError):
        return None
    return ImageSet(
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
        class_names=tuple(words["class_names"]),
        description=words["description"],
        mean=tuple(words["mean"]),
        std=tuple(words["std"]),
    )


def _write_cache(
    folder: Path,
    scratch: Path,
    train: _Rows,
    val: _Rows,
    words: Mapping[str, Any],
    resolution: int,
    progress: Progress | None,
) -> None:
    """Decode into `scratch`, then move it to `folder` in one step: a killed run leaves nothing half done there."""
    size_bytes = 3 * resolution**2 * (len(train.labels) + len(val.labels))
    if shutil.disk_usage(folder.parent).free < size_bytes:
        raise InputError(
            f"{folder.parent}: {size_bytes / 2**30:.1f} GiB are needed for the decoded images; "
            "make room, or set NAS_CACHE to a folder on a larger disk"
        )
    scratch.mkdir()
    for name, rows in (("train", train), ("val", val)):
        np.save(scratch / f"{name}_labels.npy", rows.labels, allow_pickle=False)
        shape = (len(rows.labels), 3, resolution, resolution)
        file = scratch / f"{name}_images.npy"
        images = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)  # type: ignore[no-untyped-call]
        _decode_all(rows, images, f"Decoding {name} images", progress)
        images.flush()
        if name == "train":
            mean, std = _statistics(images)
    (scratch / "set.json").write_text(json.dumps({**words, "mean": mean, "std": std}))
    shutil.rmtree(folder, ignore_errors=True)  # one that could not be read
    with suppress(OSError):  # another process was faster, with the same images
        scratch.rename(folder)


def _decode_all(rows: _Rows, out: npt.NDArray[np.uint8], what: str, progress: Progress | None) -> None:
    """Decode on all cores. Threads do: Pillow lets go of the interpreter while it decodes and scales."""

    def decode_block(start: int) -> int:
        index = rows.index[start : start + _BLOCK].tolist()
        for offset, (row, stored) in enumerate(zip(index, rows.images[index]["image"], strict=True)):
            out[start + offset] = _decode(stored, rows.where(row), out.shape[-1])
        return len(index)

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        done = 0
        for count in pool.map(decode_block, range(0, len(out), _BLOCK)):
            done += count
            if progress:
                progress(what, done, len(out))
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(stored: Mapping[str, Any], where: str, resolution: int) -> npt.NDArray[np.uint8]:
    """One image as (3, resolution, resolution): its centre square, upright, in RGB."""
    from PIL import Image, ImageOps

    content, path = stored["bytes"], stored["path"]
    try:
        with Image.open(io.BytesIO(content) if content is not None else path) as opened:
            opened.draft(
                "RGB", (2 * resolution, 2 * resolution)
            )  # large JPEG files: skip the detail that scaling drops
            image = _to_rgb(ImageOps.exif_transpose(opened))
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, zlib.error, ...
        place = path if content is None and path else where
        raise InputError(f"{place}: not an image that can be read ({_one_line(error)}); repair or remove it") from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(square).transpose(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16-bit grey, which convert() would clip to white
        image = image.point(lambda value: value / 256).convert("L")
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # what convert("RGB") asks for in a warning
    return image.convert("RGB")
