"""A folder of pictures and masks: PNG files whose pixels are the indices of classes.

::

    FOLDER/images/train/a.jpg  FOLDER/masks/train/a.png     or images/ and masks/ alone: a tenth is held out
    FOLDER/images/val/b.jpg    FOLDER/masks/val/b.png       FOLDER/classes.txt: a name a line, if there is one
    FOLDER/images/training, images/validation, annotations/training, annotations/validation: ADE20K

Pixels of 255 are neither learnt nor counted. In ADE20K's layout, with a folder `annotations`, nor are pixels of 0, and
class 1 is the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from nas.data import UNKNOWN
from nas.data.pictures import picture_suffixes
from nas.dense.picture import read_picture, shown
from nas.errors import InputError, visible
from nas.files import read_text
from nas.training.randomness import seed_of

__all__ = ["MaskFolder", "Masked"]

_HELD_OUT = 10  # one picture in so many, without a folder for validation
_SPLITS = (("train", "val"), ("training", "validation"), ("train", "validation"))
_ADE_NAMES, _PLAIN_NAMES = "objectInfo150.txt", "classes.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """A picture and its mask.

    Attributes:
        path: of the picture.
        mask_path: of the mask, a PNG file.
        from_one: the mask counts classes from 1, and 0 is unknown.
    """

    path: Path
    mask_path: Path
    from_one: bool

    def mask(self) -> npt.NDArray[np.uint8]:
        """The class of every pixel (H, W); `UNKNOWN` where it is not known.

        Raises:
            InputError: it cannot be read, or has colours and no indices.
        """
        try:
            with Image.open(self.mask_path) as opened:
                if opened.mode not in ("L", "P"):
                    raise InputError(
                        f"{shown(self.mask_path)}: has pixels of the mode {opened.mode}, a mask has one index of 8 "
                        "bits: save it in grey (L) or with a palette (P)"
                    )
                values: npt.NDArray[np.uint8] = np.asarray(opened, dtype=np.uint8)
        except InputError:
            raise
        except Exception as error:  # as in read_picture
            reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{shown(self.mask_path)}: cannot be read ({visible(reason, limit=150)})") from error
        return np.where(values == UNKNOWN, values, values - np.uint8(1)) if self.from_one else values  # 0 becomes 255

    def both(self, classes: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The pixels (3, H, W), and the class of each (H, W).

        Raises:
            InputError: one cannot be read, they differ in size, or the mask has an index of no class.
        """
        mask = self.mask()
        known = mask[mask != UNKNOWN]
        if known.size and known.max() >= classes:
            shift = int(self.from_one)
            raise InputError(
                f"{shown(self.mask_path)}: has the index {known.max() + shift}, and there are {classes} classes, "
                f"{shift} to {classes - 1 + shift}"
            )
        height, width = mask.shape
        return read_picture(self.path, size=(height, width)), mask


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFolder:
    """Pictures with masks, to learn from and to judge by.

    Attributes:
        path: the folder.
        class_names: in the order of the indices.
        train: to learn from.
        val: held out.
    """

    path: Path
    class_names: tuple[str, ...]
    train: tuple[Masked, ...]
    val: tuple[Masked, ...]

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        seed: int = 0,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Self:
        """Find the pictures and masks of a folder. Without names of the classes all masks are read, to count them.

        Args:
            folder: with the folders `images`, and `masks` or `annotations`.
            seed: of which pictures are held out, if no folder says it.
            progress: called with what is done, how many masks are read, and how many there are.
        Raises:
            InputError: a folder or file is missing, or a mask is none.
        """
        masks = next((folder / name for name in ("masks", "annotations") if (folder / name).is_dir()), None)
        if masks is None or not (folder / "images").is_dir():
            raise InputError(f"{shown(folder)}: must have the folders images and masks (or annotations, as ADE20K has)")
        names = next((pair for pair in _SPLITS if all((folder / "images" / name).is_dir() for name in pair)), None)
        from_one = masks.name == "annotations"
        train = _pairs(folder / "images" / (names[0] if names else ""), masks / (names[0] if names else ""), from_one)
        if names:
            val = _pairs(folder / "images" / names[1], masks / names[1], from_one)
        else:
            order = np.random.default_rng(seed_of(seed, len(train))).permutation(len(train))
            held = set(order[: max(1, len(train) // _HELD_OUT)].tolist())
            val = tuple(one for index, one in enumerate(train) if index in held)
            train = tuple(one for index, one in enumerate(train) if index not in held)
        if not train or not val:
            raise InputError(f"{shown(folder)}: needs a picture to train on and one to judge by")
        classes = _names(folder) or _counted((*train, *val), progress)
        return cls(path=folder, class_names=classes, train=train, val=val)


def _pairs(images: Path, masks: Path, from_one: bool) -> tuple[Masked, ...]:
    """The pictures of a folder with their masks, in the order of their names."""
    suffixes = picture_suffixes()
    if not masks.is_dir():
        raise InputError(f"{shown(masks)}: is no folder; it must have the masks of {shown(images)}")
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    found = [Masked(path=path, mask_path=masks / f"{path.stem}.png", from_one=from_one) for path in paths]
    if missing := [one for one in found if not one.mask_path.is_file()]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{shown(missing[0].mask_path)}: is not there; it is the mask of {missing[0].path.name}{more}")
    return tuple(found)


def _names(folder: Path) -> tuple[str, ...]:
    """The names of the classes that the folder says, or none."""
    if (folder / _PLAIN_NAMES).is_file():
        return tuple(line.strip() for line in read_text(folder / _PLAIN_NAMES).splitlines() if line.strip())
    if (folder / _ADE_NAMES).is_file():  # tab-separated, with a heading; the name is last
        rows = read_text(folder / _ADE_NAMES).splitlines()[1:]
        return tuple(row.split("\t")[-1].split(",")[0].strip() for row in rows if row.strip())
    return ()


def _counted(pairs: Sequence[Masked], progress: Callable[[str, int, int], None] | None) -> tuple[str, ...]:
    highest = -1
    for done, pair in enumerate(pairs, start=1):
        values = pair.mask()
        known = values[values != UNKNOWN]
        highest = max(highest, int(known.max()) if known.size else -1)
        if progress is not None:
            progress("reading masks", done, len(pairs))
    if highest < 1:
        raise InputError(f"{shown(pairs[0].mask_path.parent)}: the masks have fewer than two classes")
    return tuple(str(index) for index in range(highest + 1))
