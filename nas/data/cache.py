"""The cache of decoded images: rows are decoded once into a folder of arrays, which later runs memory-map."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.data.image_set import ImageSet, channel_statistics
from nas.data.pictures import decode, grey_range, quiet_pillow, to_bytes
from nas.data.rows import BLOCK, Content, Progress, Rows, counted, in_blocks, said
from nas.errors import InputError

__all__ = ["FORMAT", "described", "read_cache", "write_cache"]

FORMAT = 2  # part of every cache key; increase it when the bytes in the cache change
_NO_IMAGE = "no image"
_REASONS = 4  # said of broken images
_LEAST_STD = 1e-6  # below what a single bit in the largest of sets gives
_ARRAYS = ("train_images", "train_labels", "val_images", "val_labels")


def described(source: str, train: int, val: int, classes: int, resolution: int) -> str:
    """A set of images in words."""
    return f"{source}: {train} train and {val} val images of {classes} classes at {resolution} px"


def read_cache(folder: Path, source: str) -> tuple[ImageSet, list[str]] | None:
    """The cached image set, described as of `source`, and what was left out of it, in words.

    None if it is missing or incomplete, so that the caller decodes the images again.
    """
    import torch

    try:
        words = json.loads((folder / "set.json").read_bytes())
        # Copy on write: mapped like "r", but writable, as torch requires.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in _ARRAYS}
    except (OSError, ValueError):
        return None
    train, val = arrays["train_images"], arrays["val_images"]
    image_set = ImageSet(
        train_images=torch.from_numpy(train),
        train_labels=torch.from_numpy(arrays["train_labels"]),
        val_images=torch.from_numpy(val),
        val_labels=torch.from_numpy(arrays["val_labels"]),
        class_names=tuple(words["class_names"]),
        description=described(source, len(train), len(val), len(words["class_names"]), train.shape[-1]),
        mean=tuple(words["mean"]),
        std=tuple(words["std"]),
    )
    return image_set, words["notes"]


def write_cache(
    folder: Path,
    scratch: Path,
    splits: Mapping[str, Rows],
    words: Mapping[str, Any],
    *,
    source: str,
    resolution: int,
    skip_broken: bool,
    progress: Progress | None,
) -> None:
    """Decode into `scratch`, then move it to `folder` in one step, so that a killed run leaves no partial cache.

    Its set.json has `words`, to whose `notes` broken images are added.

    Raises:
        InputError: images cannot be read, none is left, or all are one and the same colour; or the disk is full.
    """
    size_bytes = 3 * resolution**2 * sum(len(rows.labels) for rows in splits.values())
    if shutil.disk_usage(folder.parent).free < size_bytes:
        raise InputError(
            f"{folder.parent}: {size_bytes / 2**30:.1f} GiB are needed for the decoded images; "
            "make room, or set NAS_CACHE to a folder on a larger disk"
        )
    scratch.mkdir()
    decoded = {
        name: _Decoded(rows=rows, file=scratch / f"{name}_images.npy", resolution=resolution)
        for name, rows in splits.items()
    }
    with quiet_pillow():
        for name, split in decoded.items():
            split.decode(f"Decoding {name} images", progress)
    _refuse_broken(list(decoded.values()), source, skip_broken=skip_broken)
    ends = [pair for split in decoded.values() for pair in split.deep.values()]
    black, white = grey_range(*zip(*ends, strict=True)) if ends else (0.0, 1.0)
    for name, split in decoded.items():
        split.scale_deep(black, white)
        labels = split.drop_broken()
        if not len(labels) or (name == "train" and len(np.unique(labels)) < 2):
            raise InputError(f"{source}: without the broken images, {name} has too few left; repair some of them")
        np.save(scratch / f"{name}_labels.npy", labels, allow_pickle=False)
    mean, std = channel_statistics(np.load(decoded["train"].file, mmap_mode="r"))
    if max(std) < _LEAST_STD:
        shown = ", ".join(f"{255 * value:.0f}" for value in mean)
        raise InputError(
            f"{source}: all training images are one and the same plain colour (R, G, B {shown} of 255), so nothing "
            "tells the classes apart; look at the files"
        )
    broken = sum(len(split.broken) for split in decoded.values())
    notes = [*words["notes"], *([f"{counted(broken, 'broken image')} left out"] if broken else [])]
    (scratch / "set.json").write_text(json.dumps({**words, "notes": notes, "mean": mean, "std": std}))
    shutil.rmtree(folder, ignore_errors=True)  # a cache that could not be read
    with suppress(OSError):  # another process was faster and wrote the same images
        scratch.rename(folder)


@dataclass(slots=True, kw_only=True)
class _Decoded:
    """The images of a split: decoded to a file, beside those that are deep grey or broken.

    Attributes:
        rows: the split.
        file: .npy file of the images, (N, 3, H, H) bytes.
        resolution: H.
        broken: why an image cannot be read, by its position in `rows`.
        deep: least and greatest value of an image of deep grey, by its position. Its pixels are kept in `floats`.
    """

    rows: Rows
    file: Path
    resolution: int
    broken: dict[int, str] = field(default_factory=dict)
    deep: dict[int, tuple[float, float]] = field(default_factory=dict)

    def decode(self, what: str, progress: Progress | None) -> None:
        """Decode on all cores: Pillow releases the GIL while it decodes and scales."""
        count = len(self.rows.labels)
        images = _created(self.file, (count, 3, self.resolution, self.resolution))
        with self.floats.open("wb", buffering=0) as floats:

            def decode_block(start: int, block: list[Content]) -> int:
                for position, content in enumerate(block, start):
                    self._decode_one(position, content, images, floats.fileno())
                return len(block)

            done = 0
            for number in in_blocks(self.rows, decode_block):
                done += number
                if progress:
                    progress(what, done, count)
        images.flush()

    def _decode_one(self, position: int, content: Content, images: npt.NDArray[np.uint8], floats: int) -> None:
        try:
            if not content:
                raise ValueError(_NO_IMAGE)
            image = decode(content, self.resolution)
        except ValueError as error:
            self.broken[position] = str(error)
            return
        if image.dtype == np.uint8:
            images[position] = image
        else:
            self.deep[position] = float(image.min()), float(image.max())
            os.pwrite(floats, image.tobytes(), position * image.nbytes)

    @property
    def floats(self) -> Path:
        """File of the pixels of deep grey, (N, H, H) floats; only what is written takes room."""
        return self.file.with_suffix(".floats")

    def scale_deep(self, black: float, white: float) -> None:
        """Turn deep grey into bytes."""
        shape = (self.resolution, self.resolution)
        images = np.load(self.file, mmap_mode="r+", allow_pickle=False)
        with self.floats.open("rb") as floats:
            for position in sorted(self.deep):
                size = 4 * shape[0] * shape[1]
                values = np.frombuffer(os.pread(floats.fileno(), size, position * size), dtype=np.float32)
                images[position] = to_bytes(values.reshape(shape), black, white)
        images.flush()
        self.floats.unlink()

    def drop_broken(self) -> npt.NDArray[np.int64]:
        """Leave broken images out of the file; return the labels of the others."""
        if not self.broken:
            return self.rows.labels
        kept = np.setdiff1d(np.arange(len(self.rows.labels)), list(self.broken))
        whole = np.load(self.file, mmap_mode="r", allow_pickle=False)
        shorter = self.file.with_suffix(".shorter")
        images = _created(shorter, (len(kept), *whole.shape[1:]))
        for start in range(0, len(kept), BLOCK):
            images[start : start + BLOCK] = whole[kept[start : start + BLOCK]]
        images.flush()
        shorter.replace(self.file)
        return self.rows.take(kept).labels


def _created(file: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """A new array in a file, with its room on the disk: a full disk would kill the process at a later write."""
    array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        file, mode="w+", dtype=np.uint8, shape=shape
    )
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return array


def _refuse_broken(splits: list[_Decoded], source: str, *, skip_broken: bool) -> None:
    broken = sorted(
        (split.rows.where(position), reason) for split in splits for position, reason in split.broken.items()
    )
    if not broken or skip_broken:
        return
    cure = "or leave {} out with --option skip_broken=true"
    if len(broken) == 1:
        (where, reason) = broken[0]
        if reason == _NO_IMAGE:
            raise InputError(f"{where} has no image; fetch it again, {cure.format('it')}")
        raise InputError(f"{where}: not an image that can be read ({reason}); repair or remove it, {cure.format('it')}")
    count = sum(len(split.rows.labels) for split in splits)
    # Each reason once, with the images that it is true of.
    reasons: dict[str, list[str]] = {}
    for where, reason in broken:
        reasons.setdefault(reason, []).append(where.removeprefix(f"{Path(source).resolve()}{os.sep}"))
    shown = "; ".join(f"{said(places)} ({reason})" for reason, places in list(reasons.items())[:_REASONS])
    raise InputError(
        f"{source}: {len(broken)} of {count} images cannot be read: {shown}; repair or remove them, "
        f"{cure.format('them')}"
    )
