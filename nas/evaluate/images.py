"""The images that a network is evaluated on: a split of a source, decoded on all cores and never all in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas.data import DataSource
from nas.data.pictures import decode, framed, grey_range, to_bytes
from nas.data.protocol import Protocol
from nas.data.rows import Content, Found, Missing, Rows, choose_rows, counted, file_bytes, in_blocks, labelled, limited
from nas.data.sources import find_source
from nas.data.splits import VAL_WORDS, split_word
from nas.errors import InputError, NasError

__all__ = ["SPLITS", "Chosen", "choose_images"]

SPLITS = ("val", "train", "all")
_HELD_OUT = "is held out"  # what a source says of images without a split


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The images of a source that are used.

    Attributes:
        source: what the user calls it.
        split: which images, in words.
        rows: where they are, with their labels.
        class_names: one name per label.
        skip_broken: leave out what cannot be read.
        notes: what is left out, in words.
        broken: why an image cannot be read, by its position in `rows`; filled while they are read.
    """

    source: str
    split: str
    rows: Rows
    class_names: tuple[str, ...]
    skip_broken: bool
    notes: tuple[str, ...]
    found: Found
    broken: dict[int, str] = field(default_factory=dict)

    def batches(self, protocol: Protocol, size: int) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
        """Images (B, 3, H, H) in bytes with their positions in `rows`, `size` at once and the rest at the end.

        Raises:
            InputError: an image cannot be read and is not to be left out, or all are.
            NasError: there is too little memory for one.
        """
        deep: tuple[float, float] | None = None
        squares: list[npt.NDArray[np.uint8]] = []
        places: list[int] = []

        def decoded(start: int, block: list[Content]) -> list[npt.NDArray[np.uint8] | npt.NDArray[np.float32] | str]:
            return [self._decoded(start + index, content, protocol) for index, content in enumerate(block)]

        position = 0
        for block in in_blocks(self.rows, decoded):
            for square in block:
                if isinstance(square, str):
                    self._leave_out(position, square)
                else:
                    if square.dtype != np.uint8:  # of deep grey: the range of all pictures says what black and white is
                        deep = deep or _deep_range(self.found, protocol.resolution)
                        square = np.tile(to_bytes(square.astype(np.float32, copy=False), *deep), (3, 1, 1))
                    squares.append(square.astype(np.uint8, copy=False))
                    places.append(position)
                position += 1
                if len(squares) == size:
                    yield np.stack(squares), np.array(places)
                    squares, places = [], []
        if squares:
            yield np.stack(squares), np.array(places)
        if len(self.broken) == position:
            raise InputError(f"{self.source}: none of its {counted(position, 'image')} can be read")

    def _decoded(
        self, position: int, content: Content, protocol: Protocol
    ) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32] | str:
        """The pixels of an image, or why it cannot be read."""
        try:
            return framed(_bytes(content), protocol.frame)
        except ValueError as error:
            return str(error)
        except MemoryError as error:
            where = self.rows.where(position)
            raise NasError(f"{where}: not enough memory to decode it; end other programs") from error

    def _leave_out(self, position: int, why: str) -> None:
        if not self.skip_broken:
            raise InputError(
                f"{self.rows.where(position)}: not an image that can be read ({why}); repair or remove it, or leave "
                "all such images out with --option skip_broken=true"
            )
        self.broken[position] = why


def choose_images(asked: DataSource, *, split: str, limit: int | None, seed: int) -> Chosen:
    """Find a source, and choose the images of it.

    Args:
        asked: the source.
        split: `val`, `train`, or `all` of a source without splits. A source without a validation split has the tenth
            that a training with `seed` holds out; but all of it is `val` if its own name says so, such as imagenet/val.
        limit: most images, spread evenly over the classes.
        seed: of the training that held a tenth out.
    Raises:
        InputError: there is no such source or split, or a row has no label.
    """
    source = asked.name
    if source == "synthetic":
        raise InputError("--data synthetic: its images are drawn and no file; give images, such as a folder of classes")
    if split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}, got {split!r}")
    origin = find_source(asked)
    found = origin.read()
    notes = [*origin.notes, *found.notes]
    has_val = "val" in found.splits and bool((found.splits["val"].labels >= 0).any())
    if split == "all" and has_val:
        raise InputError(f"{source}: has the splits train and val: --split all is for data without splits; name one")
    is_val = split == "val" and not has_val and split_word(Path(source).name) in VAL_WORDS
    if split == "all" or is_val:
        rows = limited(_whole(found, source, notes, skip_broken=asked.skip_broken), limit, 0)
        notes = [note for note in notes if not note.endswith(_HELD_OUT)]
        words = "val" if is_val else "all images"
    else:
        train, val, more = choose_rows(
            found,
            source,
            seed=0,
            split_seed=seed,
            train_limit=limit,
            val_limit=limit,
            skip_broken=asked.skip_broken,
        )
        rows = train if split == "train" else val
        notes += more
        tenth = "the tenth" if split == "val" else "all but the tenth"
        words = split if has_val else f"{tenth} that a training with seed {seed} holds out"
        if not has_val:
            notes.append(f"no split of its own: {words} of it; --split all takes every image")
    return Chosen(
        source=source,
        split=words,
        rows=rows,
        class_names=tuple(found.class_names),
        skip_broken=asked.skip_broken,
        notes=tuple(notes),
        found=found,
    )


def _whole(found: Found, source: str, notes: list[str], *, skip_broken: bool) -> Rows:
    rows = found.splits["train"]
    if not len(rows.labels):
        raise InputError(f"{source}: there are no images in it")
    return labelled(rows, source, notes, skip_broken=skip_broken)


def _deep_range(found: Found, resolution: int) -> tuple[float, float]:
    """The values of a source's deep grey pictures that become black and white: all are read for that, as in training.

    Raises:
        InputError: a file cannot be read now.
    """

    def ends(_: int, block: list[Content]) -> list[tuple[float, float]]:
        pairs = []
        for content in block:
            try:
                square = decode(_bytes(content), resolution)
            except ValueError:  # is said where it is used
                continue
            if square.dtype != np.uint8:
                pairs.append((float(square.min()), float(square.max())))
        return pairs

    pairs: Sequence[tuple[float, float]] = [
        pair for rows in found.splits.values() for block in in_blocks(rows, ends) for pair in block
    ]
    return grey_range(*zip(*pairs, strict=True))


def _bytes(content: Content) -> bytes:
    """The bytes of an image.

    Raises:
        InputError: its file is gone or cannot be read now.
        ValueError: there is none, or it is too large.
    """
    if isinstance(content, Missing):
        raise ValueError(content.why)
    return file_bytes(content) if isinstance(content, str) else content
