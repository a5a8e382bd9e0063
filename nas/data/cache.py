"""The cache of decoded images: rows are decoded once into a folder of arrays, which later runs memory-map."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.data.image_set import ImageSet, channel_statistics
from nas.data.pictures import decode, grey_range, quiet_pillow, to_bytes
from nas.data.rows import Content, Missing, Progress, Rows, counted, file_bytes, in_blocks, said
from nas.errors import InputError, NasError
from nas.files import unwritten

__all__ = ["FORMAT", "described", "read_cache", "write_cache"]

FORMAT = 4  # part of every cache key; increase it when the bytes in the cache change
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
        train, val = arrays["train_images"], arrays["val_images"]
        if [len(train), len(val)] != [len(arrays["train_labels"]), len(arrays["val_labels"])]:
            return None
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
        return image_set, [*words["notes"]]
    except (OSError, EOFError, ValueError, TypeError, LookupError):  # whatever was left there, it is made again
        return None


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
        InputError: images cannot be read, too few are left, or all are one and the same colour.
        NasError: the disk is full.
    """
    _refuse_full(folder.parent, 3 * resolution**2 * sum(len(rows.labels) for rows in splits.values()))
    with _writing(folder):
        scratch.mkdir()
    decoded = {
        name: _Decoded(rows=rows, file=scratch / f"{name}_images.npy", resolution=resolution)
        for name, rows in splits.items()
    }
    with quiet_pillow():
        for name, split in decoded.items():
            split.decode(f"Decoding {name} images", progress)
    _refuse_broken(list(decoded.values()), source, skip_broken=skip_broken)
    _refuse_too_few(decoded, words["class_names"], source)
    ends = [pair for split in decoded.values() for pair in split.deep.values()]
    black, white = grey_range(*zip(*ends, strict=True)) if ends else (0.0, 1.0)
    with _writing(folder):
        for name, split in decoded.items():
            split.scale_deep(black, white)
            split.drop_broken()
            labels = io.BytesIO()  # numpy does not say why it could not write to a file
            np.save(labels, split.labels, allow_pickle=False)
            (scratch / f"{name}_labels.npy").write_bytes(labels.getvalue())
    mean, std = channel_statistics(np.load(decoded["train"].file, mmap_mode="r"))
    if max(std) < _LEAST_STD:
        shown = ", ".join(f"{255 * value:.0f}" for value in mean)
        raise InputError(
            f"{source}: all training images are one and the same plain colour (R, G, B {shown} of 255), so nothing "
            "tells the classes apart; look at the files"
        )
    broken = sum(len(split.broken) for split in decoded.values())
    notes = [*words["notes"], *([f"{counted(broken, 'broken image')} left out"] if broken else [])]
    with _writing(folder):
        (scratch / "set.json").write_text(json.dumps({**words, "notes": notes, "mean": mean, "std": std}))
        for file in scratch.iterdir():  # else the name may outlive a power cut, and the content not
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        if read_cache(folder, source) is not None:  # Another process wrote the same images first.
            return
        shutil.rmtree(folder, ignore_errors=True)  # a cache that could not be read
        try:
            scratch.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process wrote the same images first
                raise


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Say which file cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise unwritten(file, error) from error


def _refuse_full(disk: Path, size_bytes: int) -> None:
    if shutil.disk_usage(disk).free < size_bytes:
        raise NasError(
            f"{disk}: {_in_words(size_bytes)} are needed for the decoded images; "
            "make room, or set NAS_CACHE to a folder on a larger disk"
        )


def _in_words(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.1f} MiB"


@dataclass(slots=True, kw_only=True)
class _Decoded:
    """The images of a split: decoded to a file, beside those that are deep grey or broken.

    They are written at their place and not through a map of the file: a full disk would kill the process there.

    Attributes:
        rows: the split.
        file: .npy file of the images, (N, 3, H, H) bytes.
        resolution: H.
        start: position in `file` of the first image.
        broken: why an image cannot be read, by its position in `rows`.
        deep: least and greatest value of an image of deep grey, by its position. Its pixels are kept in `floats`.
    """

    rows: Rows
    file: Path
    resolution: int
    start: int = 0
    broken: dict[int, str] = field(default_factory=dict)
    deep: dict[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of an image."""
        return 3 * self.resolution**2

    @property
    def floats(self) -> Path:
        """File of the pixels of deep grey, (N, H, H) floats; only what is written takes room."""
        return self.file.with_suffix(".floats")

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The labels of the images that are not broken."""
        return np.delete(self.rows.labels, list(self.broken))

    def decode(self, what: str, progress: Progress | None) -> None:
        """Decode on all cores: Pillow releases the GIL while it decodes and scales."""
        count = len(self.rows.labels)
        with _writing(self.file.parents[2]):
            self._write_header(count)
            with self.file.open("r+b") as file:
                _take_room(file.fileno(), self.start + count * self.size)
            self.floats.touch()
        with self.file.open("r+b") as file, self.floats.open("r+b") as floats:

            def decode_block(start: int, block: list[Content]) -> int:
                for position, content in enumerate(block, start):
                    self._decode_one(position, content, file.fileno(), floats.fileno())
                return len(block)

            done = 0
            for number in in_blocks(self.rows, decode_block):
                done += number
                if progress:
                    progress(what, done, count)

    def _write_header(self, count: int) -> None:
        """Write what numpy says of an array at its start, which has the same length for every count."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            shape = (count, 3, self.resolution, self.resolution)
            np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            self.start = file.tell()

    def _decode_one(self, position: int, content: Content, file: int, floats: int) -> None:
        try:
            if isinstance(content, Missing):
                raise ValueError(content.why)
            image = decode(file_bytes(content) if isinstance(content, str) else content, self.resolution)
        except ValueError as error:
            self.broken[position] = str(error)
            return
        except MemoryError as error:  # no word on the image
            raise NasError(
                f"{self.rows.where(position)}: not enough memory to decode it; end other programs"
            ) from error
        with _writing(self.file.parents[2]):
            if image.dtype == np.uint8:
                _write(file, image.tobytes(), self.start + position * self.size)
            else:
                if not self.deep:  # where one is deep, most are
                    _refuse_full(self.file.parents[2], len(self.rows.labels) * image.nbytes)
                self.deep[position] = float(image.min()), float(image.max())
                _write(floats, image.tobytes(), position * image.nbytes)

    def scale_deep(self, black: float, white: float) -> None:
        """Turn deep grey into bytes."""
        with self.file.open("r+b") as file, self.floats.open("rb") as floats:
            for position in sorted(self.deep):
                size = 4 * self.resolution**2
                values = np.frombuffer(os.pread(floats.fileno(), size, position * size), dtype=np.float32)
                content = np.tile(to_bytes(values, black, white), 3).tobytes()
                _write(file.fileno(), content, self.start + position * self.size)
        self.floats.unlink()

    def drop_broken(self) -> None:
        """Leave broken images out of the file."""
        kept = np.delete(np.arange(len(self.rows.labels)), list(self.broken))
        with self.file.open("r+b") as file:
            for place, position in enumerate(kept.tolist()):
                if place != position:
                    image = os.pread(file.fileno(), self.size, self.start + position * self.size)
                    _write(file.fileno(), image, self.start + place * self.size)
            file.truncate(self.start + len(kept) * self.size)
        self._write_header(len(kept))


def _take_room(file: int, size: int) -> None:
    """Make a file of this size, with its room on the disk where the system can: better to fail before the work."""
    os.ftruncate(file, size)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def _write(file: int, content: bytes, position: int) -> None:
    """Write all of the content: the system may take a part of it, such as before a disk is full."""
    rest = memoryview(content)
    while rest:
        done = os.pwrite(file, rest, position)
        rest, position = rest[done:], position + done


def _refuse_too_few(decoded: Mapping[str, _Decoded], class_names: Sequence[str], source: str) -> None:
    """Refuse what is left without the broken images where a class of train, or all that is held out, is gone."""
    train = decoded["train"]
    if gone := np.setdiff1d(train.rows.labels, train.labels).tolist():
        names = said([class_names[code] for code in gone])
        raise InputError(
            f"{source}: without the broken images, train has none left of {names}; repair some of them, or take the "
            "class away"
        )
    for name, split in decoded.items():
        if not len(split.labels):
            raise InputError(f"{source}: without the broken images, {name} has none left; repair some of them")


def _refuse_broken(splits: list[_Decoded], source: str, *, skip_broken: bool) -> None:
    broken = sorted(
        (split.rows.where(position), reason) for split in splits for position, reason in split.broken.items()
    )
    if not broken or skip_broken:
        return
    cure = "or leave {} out with --option skip_broken=true"
    if len(broken) == 1:
        (where, reason) = broken[0]
        if reason == Missing().why:
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
