"""Rows of labelled images before they are decoded, and which of them are trained on and held out."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from nas.errors import InputError

__all__ = [
    "BLOCK",
    "Content",
    "Found",
    "Images",
    "Missing",
    "Progress",
    "Rows",
    "choose_rows",
    "class_name",
    "counted",
    "file_bytes",
    "in_blocks",
    "labelled",
    "limited",
    "said",
    "unreadable",
]

T = TypeVar("T")
BLOCK = 64  # images that one thread takes at a time

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and out of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A row without an image, and why."""

    why: str = "no image"


Content = bytes | str | Missing
"""The bytes of an image file, the path of one that is there, or why there is none."""

_MOST_BYTES = 512 * 2**20  # of an image file; what Pillow takes for safe is 360 MB without any compression
_VAL_FRACTION = 0.1  # held out of a source without a validation split


def file_bytes(path: str) -> bytes:
    """The bytes of an image file.

    Raises:
        InputError: it is gone, or cannot be read now. That says nothing of the image, so nothing of it may be kept.
        ValueError: no image that nas reads is as large.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path may have bytes that are no text
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES >> 20} MiB; scale it down")
    return content


def unreadable(path: str, error: OSError) -> InputError:
    """The error for a file that was found, and then could not be read."""
    return InputError(
        f"{path}: cannot be read ({error.strerror}); look at its disk and its permissions, then repeat this"
    )


class Images(Protocol):
    """Where images are: files, or rows of tables."""

    def where(self, row: int) -> str:
        """Where the user finds an image."""
        ...

    def read(self, rows: npt.NDArray[np.int64]) -> Iterator[Content]:
        """Read the images of these rows, which are in ascending order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One split before decoding.

    Attributes:
        images: where they are.
        labels: one class index per row that is used; -1 if the row has no label.
        index: the rows of `images` that are used, one for each element of `labels`.
    """

    images: Images
    labels: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]

    def take(self, chosen: npt.NDArray[np.int64]) -> Rows:
        """Keep only the chosen rows, given by their positions in `labels`."""
        return replace(self, labels=self.labels[chosen], index=self.index[chosen])

    def where(self, position: int) -> str:
        """Where the user finds the row at this position in `labels`."""
        return self.images.where(int(self.index[position]))


def in_blocks(rows: Rows, work: Callable[[int, list[Content]], T]) -> Iterator[T]:
    """What `work` makes of each block of a split's images, in order, on all cores.

    Threads are enough for work that releases the GIL. `work` gets the position of a block's first image, and the block.
    """
    contents, workers = rows.images.read(rows.index), os.cpu_count() or 1
    positions = itertools.count(step=BLOCK)
    blocks = zip(positions, iter(lambda: list(itertools.islice(contents, BLOCK)), []), strict=False)
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            # Blocks are read no faster than they are worked on: the bytes of all images may not fit in memory.
            for start, block in itertools.islice(blocks, 2 * workers - len(waiting)):
                waiting.append(pool.submit(work, start, block))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a source holds.

    Attributes:
        splits: `train` and, if the source has one, `val`.
        class_names: one name per class.
        notes: what is taken and left out, in words, where that is known only from reading the source.
    """

    splits: Mapping[str, Rows]
    class_names: Sequence[str]
    notes: Sequence[str] = ()


def class_name(written: str) -> str:
    """One spelling of a name: Unicode's composed form, without white space around it.

    Examples:
        >>> class_name("cafe\N{COMBINING ACUTE ACCENT} ") == "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
        True
    """
    return unicodedata.normalize("NFC", written).strip()


def counted(number: int, what: str) -> str:
    """A number of things, such as `1 row` and `2 rows`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def said(names: Sequence[str], most: int = 5) -> str:
    """Some names in words: all of a few, else the first and how many more there are.

    Examples:
        >>> said([f"{number}.png" for number in range(60)])
        '0.png, 1.png, 2.png, 3.png, 4.png and 55 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def choose_rows(
    found: Found,
    source: str,
    *,
    seed: int,
    split_seed: int,
    train_limit: int | None,
    val_limit: int | None,
    skip_broken: bool,
) -> tuple[Rows, Rows, list[str]]:
    """Choose the rows to train on and the rows to hold out; say in words what else is left out.

    Raises:
        InputError: a row has no label, there are fewer than two classes, a validation class has no training image, or
            no image can be held out.
    """
    train, val = found.splits["train"], found.splits.get("val")
    notes: list[str] = []
    if not len(train.labels):
        raise InputError(f"{source}: there are no images in it")
    if val is not None and not (val.labels >= 0).any():  # test splits are often published without labels
        notes += [f"{counted(len(val.labels), 'validation image')} without labels left out"] if len(val.labels) else []
        val = None
    train = labelled(train, source, notes, skip_broken=skip_broken)
    val = val and labelled(val, source, notes, skip_broken=skip_broken)
    if len(np.unique(train.labels)) < 2:
        raise InputError(
            f"{source}: all images are of one class; class folders or a column of labels must tell two or more"
        )
    if val is None:
        rank = _rank_in_class(train.labels, split_seed)
        sizes = np.bincount(train.labels)[train.labels]
        held = rank < np.where(sizes > 1, np.maximum(1, np.round(sizes * _VAL_FRACTION)), 0)
        if not held.any():
            raise InputError(f"{source}: every class has one image only: none can be held out to score on; add images")
        train, val = train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
    elif lacking := [found.class_names[label] for label in np.setdiff1d(val.labels, train.labels).tolist()]:
        raise InputError(
            f"{source}: validation has classes that train has no image of: {said(lacking)}; give both splits the same "
            "names of classes"
        )
    return limited(train, train_limit, seed), limited(val, val_limit, seed), notes


def labelled(rows: Rows, source: str, notes: list[str], *, skip_broken: bool) -> Rows:
    """The rows that have a label; what is left out is added to `notes` in words.

    Raises:
        InputError: a row has none, and broken ones are not left out.
    """
    missing = np.flatnonzero(rows.labels < 0)
    if not len(missing):
        return rows
    if not skip_broken:
        raise InputError(
            f"{source}: {rows.where(int(missing[0]))} has no label ({len(missing)} such rows); remove these rows, or "
            "leave them out with --option skip_broken=true"
        )
    notes.append(f"{counted(len(missing), 'row')} without a label left out")
    return rows.take(np.flatnonzero(rows.labels >= 0))


def limited(rows: Rows, limit: int | None, seed: int) -> Rows:
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
