from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import UNKNOWN, fingerprint
from nas.dense.mask_set import mask_set
from nas.dense.masks import MaskFolder
from nas.errors import InputError


def test_every_picture_becomes_a_square_with_its_mask(masks: Path) -> None:
    folder = MaskFolder.read(masks)
    told: list[tuple[str, int, int]] = []

    found = mask_set(folder, resolution=32, seed=0, progress=lambda *at: told.append(at))

    assert found.train_images.shape == (8, 3, 32, 32)
    assert found.train_labels.shape == found.val_labels.shape == (8, 32, 32)
    assert found.train_labels.dtype == torch.uint8
    assert found.class_names == ("background", "square", "disc")
    assert found.has_masks
    assert told[-1] == ("reading val pictures", 8, 8)
    assert found.description.endswith("8 train and 8 val pictures with masks of 3 classes, squares of 32 px")
    # Squares are red, discs are green: the masks lie where their pictures say.
    red, green = found.val_images[:, 0].int(), found.val_images[:, 1].int()
    assert ((red - green > 80) == (found.val_labels == 1)).float().mean() > 0.97
    assert ((green - red > 80) == (found.val_labels == 2)).float().mean() > 0.97


def test_the_long_side_is_cut_in_the_middle_to_judge_and_anywhere_to_train(masks: Path) -> None:
    """In every column of these pictures, the grey tells where it is."""
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None], 50, axis=0)
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            for path in (masks / kind / split).iterdir():
                Image.fromarray(ramp // 100 if kind == "masks" else ramp).save(path)

    first, again, other = (mask_set(MaskFolder.read(masks), resolution=50, seed=seed) for seed in (0, 0, 1))

    assert {int(picture[0, 0, 0]) for picture in first.val_images} == {75}
    begins = [int(picture[0, 0, 0]) for picture in first.train_images]
    assert len(set(begins)) > 4
    assert torch.equal(first.val_labels[0], torch.arange(75, 125).ge(100).to(torch.uint8).expand(50, 50))
    assert all(
        torch.equal(mask, (picture[0] >= 100).to(torch.uint8))
        for mask, picture in zip(first.train_labels, first.train_images, strict=True)
    )
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_limits_take_other_pictures_by_another_seed(masks: Path) -> None:
    folder = MaskFolder.read(masks)

    one, other = (mask_set(folder, resolution=32, seed=seed, train_limit=3, val_limit=2) for seed in (0, 1))

    assert (len(one.train_images), len(one.val_images)) == (3, 2)
    assert not torch.equal(one.train_images, other.train_images)


def test_pictures_of_which_nothing_is_known_are_left_out(masks: Path) -> None:
    paths = sorted((masks / "masks" / "train").iterdir())
    for path in paths[:3]:
        Image.new("L", (96, 96), UNKNOWN).save(path)

    point = Image.new("L", (96, 96), UNKNOWN)
    point.putpixel((0, 0), 1)  # which no batch has
    point.save(paths[3])

    assert len(mask_set(MaskFolder.read(masks), resolution=96, seed=0).train_images) == 4

    for path in paths:
        Image.new("L", (96, 96), UNKNOWN).save(path)
    with pytest.raises(InputError, match="no pixel of the train masks has a known class"):
        mask_set(MaskFolder.read(masks), resolution=32, seed=0)


def test_a_mask_of_no_class_is_named(masks: Path) -> None:
    path = masks / "masks" / "val" / "3.png"
    Image.new("L", (96, 96), 7).save(path)

    with pytest.raises(InputError, match=r"3.png: has the index 7, and there are 3 classes, 0 to 2"):
        mask_set(MaskFolder.read(masks), resolution=32, seed=0)
