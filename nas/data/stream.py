"""Pictures of a source in any order, decoded when they are asked for: what a full training reads, in flat memory.

Folders are read file by file; data sets of the hub, Parquet files and WebDataset shards are mapped from disk by
`datasets`, which keeps its own copy of such files in its cache.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nas.data.folders import Files
from nas.data.load import SYNTHETIC_TRAIN, SYNTHETIC_VAL
from nas.data.mapped import mapped
from nas.data.pictures import framed, grey_range, to_bytes
from nas.data.rows import Content, Missing, Rows, choose_rows, counted, file_bytes
from nas.data.sources import DataSource, find_source
from nas.data.synthetic import CLASS_NAMES, synthetic_images
from nas.errors import InputError
from nas.files import digest_of

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PictureSet", "Pictures", "open_pictures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """One split of a source.

    Attributes:
        source: as the user gave it.
        rows: where the pictures are, and their labels.
        skip_broken: a picture that cannot be read is None, instead of an error.
    """

    source: str
    rows: Rows
    skip_broken: bool

    def __len__(self) -> int:
        return len(self.rows.labels)

    def label(self, position: int) -> int:
        """The class of a picture."""
        return int(self.rows.labels[position])

    def picture(self, position: int, *, least: int | None = None) -> Image.Image | None:
        """A whole picture, upright, in RGB; None for one that cannot be read, with `skip_broken`.

        Args:
            position: in this split.
            least: a JPEG of larger sides may be read with fewer pixels, down to this. None to read every pixel.
        Raises:
            InputError: it cannot be read.
        """
        from PIL import Image

        content = next(self.rows.images.read(self.rows.index[position : position + 1]))
        try:
            if isinstance(content, Missing):
                raise ValueError(content.why)
            pixels = framed(
                file_bytes(content) if isinstance(content, str) else content,
                lambda image: image,
                least=least,
            )
        except ValueError as error:
            if self.skip_broken:
                return None
            raise InputError(
                f"{self.source}: {self.rows.where(position)} cannot be read ({error}); remove it, or give --option "
                "skip_broken=true"
            ) from error
        if pixels.dtype == np.uint8:
            return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        grey = to_bytes(pixels, *grey_range([float(pixels.min())], [float(pixels.max())]))  # type: ignore[arg-type]
        return Image.fromarray(grey).convert("RGB")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSet:
    """A source: pictures to train on, and held-out pictures.

    Attributes:
        train: to train on.
        val: held out.
        class_names: in the order of the labels.
        description: in words.
        fingerprint: digest of the classes and the labels, in order; the pictures themselves are not read for it.
        notes: what is left out.
    """

    train: Pictures
    val: Pictures
    class_names: tuple[str, ...]
    description: str
    fingerprint: str
    notes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def open_pictures(source: str | DataSource, *, seed: int, synthetic_resolution: int = 64) -> PictureSet:
    """Find a source and its splits, without decoding a picture.

    If there is no validation split with labels, a tenth of every class is held out, chosen by `seed`.

    Args:
        source: `synthetic`, a folder, Parquet files, WebDataset shards or a name on the hub.
        seed: of what is held out, and of synthetic pictures.
        synthetic_resolution: of synthetic pictures, in pixels.
    Raises:
        InputError: there is no such source, or it is no set of labelled pictures.
    """
    asked = source if isinstance(source, DataSource) else DataSource(name=source)
    if asked.name == "synthetic":
        asked.refuse_columns("drawn")
        rows, names, notes = _drawn(seed, synthetic_resolution), list(CLASS_NAMES), list[str]()
    else:
        origin = find_source(asked)
        found = origin.read()
        train, val, words = choose_rows(
            found,
            asked.name,
            seed=seed,
            split_seed=seed,
            train_limit=None,
            val_limit=None,
            skip_broken=asked.skip_broken,
        )
        _refuse_the_same(train, val, asked.name)
        rows, names = {"train": mapped(train), "val": mapped(val)}, list(found.class_names)
        notes = [*origin.notes, *found.notes, *words]
    labels = {split: part.labels.tolist() for split, part in rows.items()}
    counts = f"{len(labels['train']):,} training and {counted(len(labels['val']), 'held-out picture')}"
    splits = {
        split: Pictures(source=asked.name, rows=part, skip_broken=asked.skip_broken) for split, part in rows.items()
    }
    return PictureSet(
        train=splits["train"],
        val=splits["val"],
        class_names=tuple(names),
        description=f"{asked.name}: {counts} of {len(names)} classes",
        fingerprint=digest_of(json.dumps([names, labels])),
        notes=tuple(notes),
    )


def _refuse_the_same(train: Rows, val: Rows, source: str) -> None:
    """Refuse to judge by what is trained on, where val/ leads to the folders of train/.

    Copies are not looked for: that takes as long as to read every picture, as a search does.
    """
    if not (isinstance(train.images, Files) and isinstance(val.images, Files) and train.images is not val.images):
        return
    learnt, judged = (
        {os.path.realpath(folder) for folder in {os.path.dirname(path) for path in images.paths}}  # noqa: PTH120
        for images in (train.images, val.images)
    )
    if judged <= learnt:
        raise InputError(
            f"{source}: the held-out pictures are those that are trained on, so figures on them say nothing; give "
            "others for validation, or take these away to hold out a tenth of train"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """Synthetic pictures, as if they were files."""

    pictures: npt.NDArray[np.uint8]  # (N, 3, H, H)

    def where(self, row: int) -> str:
        return f"synthetic picture {row}"

    def read(self, rows: npt.NDArray[np.int64]) -> Iterator[Content]:
        from PIL import Image

        for row in rows.tolist():
            file = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(self.pictures[row].transpose(1, 2, 0))).save(file, "PNG")
            yield file.getvalue()


def _drawn(seed: int, resolution: int) -> dict[str, Rows]:
    rows = {}
    for stream, (split, count) in enumerate((("train", SYNTHETIC_TRAIN), ("val", SYNTHETIC_VAL))):
        pictures, labels = synthetic_images(count=count, resolution=resolution, seed=2 * seed + stream)
        rows[split] = Rows(images=_Drawn(pictures=pictures), labels=labels, index=np.arange(count))
    return rows
