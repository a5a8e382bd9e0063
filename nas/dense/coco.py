"""A folder in COCO's format: pictures, and JSON files that name the objects in them, as polygons or run lengths.

::

    FOLDER/annotations/instances_train2017.json     FOLDER/train2017/*.jpg
    FOLDER/annotations/instances_val2017.json       FOLDER/val2017/*.jpg

The pictures of train.json are in train/, images/train/, images/ or beside annotations/. Without a file for validation a
tenth of the pictures is held out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, ValidationError

from nas.dense.outlines import Outline, Polygons, RunLengths
from nas.dense.picture import shown
from nas.errors import InputError, visible
from nas.files import Record
from nas.training.randomness import seed_of

__all__ = ["CocoFolder", "Instance", "Pictured"]

_HELD_OUT = 10  # one picture in so many, without a file for validation
_VAL, _TRAIN = re.compile(r"(?:^|[_.-])val", re.IGNORECASE), re.compile(r"(?:^|[_.-])train", re.IGNORECASE)
_MOST_PIXELS = 2**28  # of a picture; Pillow takes no more either
_Number = Annotated[float, Field(ge=-1e6, le=1e6)]
_Side = Annotated[int, Field(gt=0, le=2**16)]


class _Part(Record):
    """Part of an annotation file. Such files hold more than is read here, such as licences and captions."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Image(_Part):
    id: int
    file_name: str = Field(min_length=1, max_length=4096)
    width: _Side
    height: _Side


class _Runs(_Part):
    size: tuple[_Side, _Side]
    counts: str | list[int]


class _Annotation(_Part):
    image_id: int
    category_id: int
    bbox: tuple[_Number, _Number, _Number, _Number]
    segmentation: list[list[_Number]] | _Runs
    area: Annotated[float, Field(ge=0)] | None = None
    iscrowd: int = Field(0, ge=0, le=1)


class _Category(_Part):
    id: int
    name: str


class _File(_Part):
    images: list[_Image] = Field(min_length=1)
    annotations: list[_Annotation]
    categories: list[_Category] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An object in a picture.

    Attributes:
        box: left, top, right and bottom, in pixels.
        label: from 1, in the order of the class names; 0 is the background.
        outline: its mask.
        area: in pixels; by it COCO tells small objects from large ones.
        is_crowd: many objects in one mask, which are neither learnt nor counted.
    """

    box: tuple[float, float, float, float]
    label: int
    outline: Outline
    area: float
    is_crowd: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """A picture and the objects in it."""

    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...]

    @property
    def learnt(self) -> list[Instance]:
        """The objects that are learnt: no crowds, and none whose box has less than a pixel inside the picture."""
        found = []
        for one in self.instances:
            left, top, right, bottom = (
                min(max(value, 0.0), float(limit))
                for value, limit in zip(one.box, (self.width, self.height) * 2, strict=True)
            )
            if not one.is_crowd and right - left >= 1 and bottom - top >= 1:
                found.append(replace(one, box=(left, top, right, bottom)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoFolder:
    """Pictures with objects, to learn from and to judge by.

    Attributes:
        path: the folder.
        class_names: of the labels, from 1.
        train: pictures with at least one object that can be learnt.
        val: all held-out pictures.
        left_out: objects without a mask, such as polygons of two points.
    """

    path: Path
    class_names: tuple[str, ...]
    train: tuple[Pictured, ...]
    val: tuple[Pictured, ...]
    left_out: int

    @classmethod
    def read(cls, folder: Path, *, seed: int = 0) -> Self:
        """Read the annotation files of a folder; its pictures are only looked for.

        Args:
            folder: with a folder `annotations` in it.
            seed: of which pictures are held out, if no file says it.
        Raises:
            InputError: a file is missing, is not in COCO's format, or names something that is not there.
        """
        train_file, val_file = _files(folder)
        train, names, left_out = _pictures(folder, train_file)
        if val_file is None:
            order = np.random.default_rng(seed_of(seed, len(train))).permutation(len(train))
            held = set(order[: max(1, len(train) // _HELD_OUT)].tolist())
            val = tuple(one for index, one in enumerate(train) if index in held)
            train = tuple(one for index, one in enumerate(train) if index not in held)
        else:
            val, val_names, more = _pictures(folder, val_file)
            left_out += more
            if val_names != names:
                raise InputError(f"{shown(val_file)}: categories: are not those of {train_file.name}")
        train = tuple(one for one in train if one.learnt)
        if not train or not any(one.instances for one in val):
            part = "train on" if not train else "judge by"
            raise InputError(f"{shown(folder)}: has no picture with an object to {part}")
        return cls(path=folder, class_names=names, train=train, val=val, left_out=left_out)


def _files(folder: Path) -> tuple[Path, Path | None]:
    """The annotation files for training and for validation, if there is one."""
    found = sorted((folder / "annotations").glob("*.json"))
    if not found:
        raise InputError(f"{shown(folder)}: has no annotations/*.json in COCO's format")
    instances = [path for path in found if path.name.startswith("instances")] or found
    val = [path for path in instances if _VAL.search(path.stem)]
    train = [path for path in instances if _TRAIN.search(path.stem)]
    if not train and not val and len(instances) == 1:
        return instances[0], None
    if len(train) == 1 and len(val) <= 1:
        return train[0], val[0] if val else None
    names = ", ".join(visible(path.name, limit=60) for path in instances[:4])
    raise InputError(
        f"{shown(folder / 'annotations')}: one file must have train in its name, and one val; found {names}"
    )


def _pictures(folder: Path, file: Path) -> tuple[tuple[Pictured, ...], tuple[str, ...], int]:
    """The pictures of an annotation file, the names of its classes, and the number of objects that are left out."""
    where = shown(file)
    try:
        content = _File.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise InputError.from_validation(where, error) from error
    root = _root(folder, file, content.images)
    labels = {one.id: label for label, one in enumerate(content.categories, start=1)}
    images = {one.id: one for one in content.images}
    for what, known, given in (("categories", labels, content.categories), ("images", images, content.images)):
        if len(known) < len(given):
            raise InputError(f"{where}: {what}: two of them have one id")
    instances: dict[int, list[Instance]] = {one.id: [] for one in content.images}
    left_out = 0
    for index, one in enumerate(content.annotations):
        place = f"{where}: annotations[{index}]"
        if one.image_id not in images:
            raise InputError(f"{place}.image_id: no image has the id {one.image_id}")
        if one.category_id not in labels:
            raise InputError(f"{place}.category_id: no category has the id {one.category_id}")
        image = images[one.image_id]
        outline = _outline(one, (image.height, image.width), f"{place}.segmentation")
        if outline is None:
            left_out += 1
            continue
        x, y, width, height = one.bbox
        instances[one.image_id].append(
            Instance(
                box=(x, y, x + width, y + height),
                label=labels[one.category_id],
                outline=outline,
                area=width * height if one.area is None else one.area,
                is_crowd=bool(one.iscrowd),
            )
        )
    pictures = tuple(
        Pictured(path=root / one.file_name, height=one.height, width=one.width, instances=tuple(instances[one.id]))
        for one in content.images
    )
    missing = [picture.path for picture in pictures if not _is_there(picture.path, where)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{where}: images: {shown(missing[0])} is not there{more}")
    return pictures, tuple(one.name for one in content.categories), left_out


def _root(folder: Path, file: Path, images: Sequence[_Image]) -> Path:
    """The folder that has the pictures of an annotation file. No name may lead out of it."""
    for index, one in enumerate(images):
        inside = PurePosixPath(one.file_name.replace("\\", "/"))
        leads_out = inside.is_absolute() or ".." in inside.parts or "\0" in one.file_name
        if leads_out or not inside.name or ":" in inside.parts[0]:  # "." has no name
            place, name = f"{shown(file)}: images[{index}].file_name", visible(one.file_name)
            raise InputError(f"{place}: must name a file inside its folder, got {name!r}")
        if one.height * one.width > _MOST_PIXELS:
            raise InputError(f"{shown(file)}: images[{index}]: has more pixels than are read")
    split = re.sub(r"^(instances|annotations?)[_.-]", "", file.stem)
    plain = "val" if _VAL.search(file.stem) else "train"
    places = [f"{part}{name}" for name in dict.fromkeys((split, plain)) for part in ("", "images/")]
    for place in (*places, "images", "."):
        if _is_there(folder / place / images[0].file_name, shown(file)):
            return folder / place
    first = visible(images[0].file_name, limit=100)
    raise InputError(f"{shown(folder)}: {first} of {file.name} is neither in {', '.join(places)}, images nor beside")


def _is_there(path: Path, where: str) -> bool:
    """Whether a file is there.

    Raises:
        InputError: it cannot be said, as its name is too long or a folder is closed.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise InputError(f"{where}: images: {shown(path)} cannot be read ({error.strerror})") from error


def _outline(one: _Annotation, size: tuple[int, int], where: str) -> Outline | None:
    """The mask of an object; None if it has none.

    Raises:
        InputError: it breaks a rule of the format.
    """
    try:
        if isinstance(one.segmentation, _Runs):
            if one.segmentation.size != size:
                raise ValueError(f"size must be {list(size)} as of the image, got {list(one.segmentation.size)}")
            return RunLengths.of(one.segmentation.counts, size)
        polygons: list[npt.NDArray[np.float32]] = []
        for index, part in enumerate(one.segmentation):
            if len(part) % 2:
                raise ValueError(f"[{index}] must have pairs of x and y, got {len(part)} numbers")
            if len(part) >= 6:
                polygons.append(np.asarray(part, dtype=np.float32))
        return Polygons(parts=tuple(polygons), size=size) if polygons else None
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
