from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.data import UNKNOWN
from nas.dense.masks import MaskFolder
from nas.errors import InputError


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        found = MaskFolder.read(folder)
        for pair in (*found.train, *found.val):
            pair.both(3)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder), "FOLDER")


def test_pictures_and_masks_are_pairs_by_name(masks: Path, shapes: list[Any]) -> None:
    found = MaskFolder.read(masks)

    assert found.class_names == ("background", "square", "disc")
    assert (len(found.train), len(found.val)) == (8, 8)
    for pair, (picture, mask, _) in zip(found.train, shapes, strict=True):
        assert np.array_equal(np.asarray(mask), pair.mask())
        assert np.array_equal(np.asarray(picture).transpose(2, 0, 1), pair.both(3)[0])


def test_without_names_the_masks_are_counted(masks: Path) -> None:
    (masks / "classes.txt").unlink()
    seen: list[tuple[str, int, int]] = []

    found = MaskFolder.read(masks, progress=lambda *at: seen.append(at))

    assert found.class_names == ("0", "1", "2")
    assert seen[-1] == ("reading masks", 16, 16)


def test_without_splits_a_tenth_is_held_out(masks: Path) -> None:
    for kind in ("images", "masks"):
        for path in (masks / kind / "train").iterdir():
            path.rename(masks / kind / path.name)
        (masks / kind / "train").rmdir()
        (masks / kind / "val").rename(masks / f"other-{kind}")

    found = MaskFolder.read(masks)

    assert (len(found.train), len(found.val)) == (7, 1)
    assert {one.path for one in found.train}.isdisjoint(one.path for one in found.val)


@pytest.fixture
def ade(masks: Path) -> Path:
    """ADE20K's layout: classes from 1, and 0 is unknown."""
    (masks / "masks").rename(masks / "annotations")
    for kind in ("images", "annotations"):
        (masks / kind / "train").rename(masks / kind / "training")
        (masks / kind / "val").rename(masks / kind / "validation")
    (masks / "classes.txt").unlink()
    names = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.2\t5\t5\t0\tsquare, box\n2\t0.1\t5\t5\t0\tdisc\n"
    (masks / "objectInfo150.txt").write_text(names)
    return masks


def test_ade20k(ade: Path, shapes: list[Any]) -> None:
    found = MaskFolder.read(ade)

    expected = np.asarray(shapes[0][1])
    assert found.class_names == ("square", "disc")
    assert np.array_equal(np.where(expected == 0, UNKNOWN, expected - 1), found.train[0].mask())


def test_unknown_pixels_of_ade20k_stay_unknown(ade: Path) -> None:
    pair = MaskFolder.read(ade).train[0]
    Image.new("L", (96, 96), UNKNOWN).save(pair.mask_path)

    assert (pair.mask() == UNKNOWN).all()


def test_palettes_are_indices(masks: Path) -> None:
    pair = MaskFolder.read(masks).train[0]
    expected = pair.mask()
    image = Image.fromarray(expected)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(pair.mask_path)

    with Image.open(pair.mask_path) as opened:
        assert opened.mode == "P"
    assert np.array_equal(expected, pair.mask())


class TestErrors:
    def test_no_folders(self, tmp_path: Path) -> None:
        expected = "FOLDER: must have the folders images and masks (or annotations, as ADE20K has)"
        assert expected == refusal(tmp_path)

    def test_a_missing_mask(self, masks: Path) -> None:
        for number in (3, 5):
            (masks / "masks" / "train" / f"{number}.png").unlink()

        assert refusal(masks) == "FOLDER/masks/train/3.png: is not there; it is the mask of 3.png (and 1 more)"

    def test_colours(self, masks: Path) -> None:
        Image.new("RGB", (96, 96)).save(masks / "masks" / "val" / "2.png")

        assert refusal(masks) == (
            "FOLDER/masks/val/2.png: has pixels of the mode RGB, a mask has one index of 8 bits: save it in grey (L) "
            "or with a palette (P)"
        )

    def test_another_size(self, masks: Path) -> None:
        Image.new("L", (96, 90)).save(masks / "masks" / "val" / "2.png")

        assert "has 96 x 96 pixels (height x width), its annotations are of 90 x 96" in refusal(masks)

    def test_a_damaged_mask(self, masks: Path) -> None:
        path = masks / "masks" / "train" / "0.png"
        path.write_bytes(path.read_bytes()[:80])

        assert refusal(masks).startswith("FOLDER/masks/train/0.png: cannot be read (")

    def test_one_class(self, masks: Path) -> None:
        (masks / "classes.txt").unlink()
        for path in masks.glob("masks/*/*.png"):
            Image.new("L", (96, 96)).save(path)

        assert refusal(masks) == "FOLDER/masks/train: the masks have fewer than two classes"

    def test_no_pictures(self, masks: Path) -> None:
        for path in masks.glob("*/val/*.png"):
            path.unlink()

        assert refusal(masks) == "FOLDER: needs a picture to train on and one to judge by"
