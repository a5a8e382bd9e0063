"""The cache of decoded images: rows are decoded once into a folder of arrays, which later runs memory-map."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nas.data.image_set import ImageSet, channel_statistics
from nas.data.sources import Progress, Rows, one_line
from nas.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FORMAT", "read_cache", "write_cache"]

FORMAT = 1  # part of every cache key; increase it when the bytes in the cache change
_BLOCK = 64  # images decoded by one thread at a time
_ARRAYS = ("train_images", "train_labels", "val_images", "val_labels")


def read_cache(folder: Path) -> ImageSet | None:
    """The cached image set; None if it is missing or incomplete, so that the caller decodes the images again."""
    import torch

    try:
        words = json.loads((folder / "set.json").read_bytes())
        # Copy on write: mapped like "r", but writable, as torch requires.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in _ARRAYS}
    except (OSError, ValueError):
        return None
    return ImageSet(
        train_images=torch.from_numpy(arrays["train_images"]),
        train_labels=torch.from_numpy(arrays["train_labels"]),
        val_images=torch.from_numpy(arrays["val_images"]),
        val_labels=torch.from_numpy(arrays["val_labels"]),
        class_names=tuple(words["class_names"]),
        description=words["description"],
        mean=tuple(words["mean"]),
        std=tuple(words["std"]),
    )


def write_cache(
    folder: Path,
    scratch: Path,
    train: Rows,
    val: Rows,
    words: Mapping[str, Any],
    resolution: int,
    progress: Progress | None,
) -> None:
    """Decode into `scratch`, then move it to `folder` in one step, so that a killed run leaves no partial cache."""
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
            mean, std = channel_statistics(images)
    (scratch / "set.json").write_text(json.dumps({**words, "mean": mean, "std": std}))
    shutil.rmtree(folder, ignore_errors=True)  # a cache that could not be read
    with suppress(OSError):  # another process was faster and wrote the same images
        scratch.rename(folder)


def _decode_all(rows: Rows, out: npt.NDArray[np.uint8], what: str, progress: Progress | None) -> None:
    """Decode on all cores; threads are enough, because Pillow releases the GIL while it decodes and scales."""

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
    """One image as (3, resolution, resolution): the centre square, rotated upright as its EXIF data says, in RGB."""
    from PIL import Image, ImageOps

    content, path = stored["bytes"], stored["path"]
    try:
        with Image.open(io.BytesIO(content) if content is not None else path) as opened:
            # For large JPEG files, skip detail that scaling removes anyway.
            opened.draft("RGB", (2 * resolution, 2 * resolution))
            image = _to_rgb(ImageOps.exif_transpose(opened))
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, zlib.error, ...
        place = path if content is None and path else where
        raise InputError(f"{place}: not an image that can be read ({one_line(error)}); repair or remove it") from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(square).transpose(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16-bit grey; convert() would clip it to white
        image = image.point(lambda value: value / 256).convert("L")
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # as the warning of convert("RGB") recommends
    return image.convert("RGB")
