"""A folder of pictures and masks as a set of small squares, for a supernet of segmentation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from nas.data import UNKNOWN, ImageSet, Progress
from nas.data.image_set import channel_statistics, middle_pixels
from nas.dense.masks import Masked, MaskFolder
from nas.dense.picture import shown
from nas.errors import InputError
from nas.training.randomness import seed_of

__all__ = ["mask_set"]

_MOST_TRAIN, _MOST_VAL = 20_000, 2_048
_Square = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def mask_set(
    folder: MaskFolder,
    *,
    resolution: int,
    seed: int,
    train_limit: int = _MOST_TRAIN,
    val_limit: int = _MOST_VAL,
    progress: Progress | None = None,
) -> ImageSet:
    """One square of every picture, with its mask: the short side is scaled to `resolution`, the long side is cut.

    Squares to train on are cut at random places, which `seed` draws; those to judge by in the middle. A square without
    a known pixel, of those that batches have, is left out.

    Args:
        folder: what `MaskFolder.read` found.
        resolution: height and width of the squares, in pixels.
        seed: of the places, and of the pictures that are taken of more than the limits.
        train_limit: pictures to train on, at most.
        val_limit: pictures to judge by, at most.
        progress: called after every picture.
    Raises:
        InputError: a picture or mask cannot be read, or no pixel of a split is known.
    """
    sets, labels = {}, {}
    for number, (name, pictures, most) in enumerate(
        (("train", folder.train, train_limit), ("val", folder.val, val_limit))
    ):
        random = np.random.default_rng(seed_of(seed, number))
        taken = sorted(random.permutation(len(pictures))[:most].tolist())
        places = random.random(len(taken)) if name == "train" else np.full(len(taken), 0.5)
        chosen = [pictures[index] for index in taken]
        sets[name], labels[name] = _squares(chosen, places.tolist(), folder, resolution, name, progress)
    mean, std = channel_statistics(sets["train"].numpy())
    counts = f"{len(sets['train'])} train and {len(sets['val'])} val pictures"
    classes = f"{len(folder.class_names)} classes"
    return ImageSet(
        train_images=sets["train"],
        train_labels=labels["train"],
        val_images=sets["val"],
        val_labels=labels["val"],
        class_names=folder.class_names,
        description=f"{folder.path}: {counts} with masks of {classes}, squares of {resolution} px",
        mean=mean,
        std=std,
    )


def _squares(
    pictures: Sequence[Masked],
    places: Sequence[float],
    folder: MaskFolder,
    resolution: int,
    split: str,
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    classes, found = len(folder.class_names), []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # Pillow decodes and scales without Python's lock.
        squares = pool.map(lambda one, place: _square(one, classes, resolution, place), pictures, places)
        for done, square in enumerate(squares, start=1):
            if (middle_pixels(torch.tensor(square[1])[None]) != UNKNOWN).any():
                found.append(square)
            if progress is not None:
                progress(f"reading {split} pictures", done, len(pictures))
    if not found:
        raise InputError(f"{shown(folder.path)}: no pixel of the {split} masks has a known class")
    return tuple(torch.from_numpy(np.stack(parts)) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def _square(pair: Masked, classes: int, resolution: int, place: float) -> _Square:
    """A picture (3, S, S) and its mask (S, S), cut at `place` in [0, 1) of what its long side has more."""
    picture, mask = pair.both(classes)
    height, width = mask.shape
    side = min(height, width)
    top, left = (int(place * (length - side + 1)) for length in (height, width))
    box, size = (left, top, left + side, top + side), (resolution, resolution)
    image = Image.fromarray(picture.transpose(1, 2, 0)).resize(size, Image.Resampling.BILINEAR, box=box)
    small = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST, box=box)
    return np.asarray(image).transpose(2, 0, 1), np.asarray(small)
