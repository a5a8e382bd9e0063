import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.dense.coco import CocoFolder
from nas.dense.outlines import encoded
from nas.dense.picture import read_picture
from nas.errors import InputError


def edited(folder: Path, change: Callable[[dict[str, Any]], object], split: str = "train") -> None:
    path = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        CocoFolder.read(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{folder}/annotations/instances_train.json: ").replace(str(folder), "FOLDER")


class TestReading:
    def test_pictures_and_objects_are_those_of_the_file(self, coco: Path, shapes: list[Any]) -> None:
        found = CocoFolder.read(coco)

        assert found.class_names == ("square", "disc")
        assert (len(found.train), len(found.val), found.left_out) == (8, 8, 0)
        for picture, (image, mask, objects) in zip(found.train, shapes, strict=True):
            assert np.array_equal(np.asarray(image).transpose(2, 0, 1), read_picture(picture.path, size=(96, 96)))
            assert [one.label for one in picture.instances] == [1, 2]
            for one, written in zip(picture.instances, objects, strict=True):
                x, y, width, height = written["bbox"]
                assert (x, y, x + width, y + height) == one.box
                drawn = np.asarray(mask) == one.label
                both, either = (drawn & (one.outline.mask() > 0)).sum(), (drawn | (one.outline.mask() > 0)).sum()
                assert both / either > 0.85  # Pillow draws the last row and column as well

    @pytest.mark.parametrize("place", ["train2017", "images/train2017", "images/train", "images", "."])
    def test_where_the_pictures_may_be(self, place: str, coco: Path) -> None:
        (coco / "train").unlink()
        (coco / "annotations" / "instances_train.json").rename(coco / "annotations" / "instances_train2017.json")
        (coco / place).mkdir(parents=True, exist_ok=True)
        for path in (coco / "pictures").iterdir():
            (coco / place / path.name).symlink_to(path)

        assert {coco / place} == {one.path.parent for one in CocoFolder.read(coco).train}

    def test_without_a_file_for_validation_a_tenth_is_held_out(self, coco: Path) -> None:
        (coco / "annotations" / "instances_val.json").unlink()

        found = CocoFolder.read(coco)

        assert (len(found.train), len(found.val)) == (7, 1)
        assert {one.path for one in found.train}.isdisjoint(one.path for one in found.val)
        held = [CocoFolder.read(coco, seed=seed).val[0].path for seed in (0, *range(9))]
        assert held[0] == held[1] == found.val[0].path
        assert len(set(held)) > 1

    def test_run_lengths_are_masks_as_well(self, coco: Path, shapes: list[Any]) -> None:
        mask = (np.asarray(shapes[0][1]) == 1).astype(np.uint8)
        code = encoded(mask)
        runs = {"size": code["size"], "counts": code["counts"].decode()}
        edited(coco, lambda content: content["annotations"][0].update(segmentation=runs))

        assert np.array_equal(mask, CocoFolder.read(coco).train[0].instances[0].outline.mask())

    def test_crowds_are_not_learnt_but_known(self, coco: Path) -> None:
        edited(coco, lambda content: content["annotations"][0].update(iscrowd=1))

        picture = CocoFolder.read(coco).train[0]

        assert [one.is_crowd for one in picture.instances] == [True, False]
        assert [one.label for one in picture.learnt] == [2]

    def test_boxes_end_with_the_picture(self, coco: Path) -> None:
        edited(coco, lambda content: content["annotations"][0].update(bbox=[-5, 80, 20, 200]))
        edited(coco, lambda content: content["annotations"][1].update(bbox=[96.5, 0, 5, 5]))

        assert [one.box for one in CocoFolder.read(coco).train[0].learnt] == [(0, 80, 15, 96)]

    def test_pictures_without_objects_are_not_learnt_from(self, coco: Path) -> None:
        edited(coco, lambda content: content.update(annotations=content["annotations"][2:]))

        assert len(CocoFolder.read(coco).train) == 7

    def test_objects_without_a_mask_are_counted(self, coco: Path) -> None:
        edited(coco, lambda content: content["annotations"][0].update(segmentation=[[1, 1, 2, 2]]))

        found = CocoFolder.read(coco)

        assert found.left_out == 1
        assert len(found.train[0].instances) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c.pop("images"), "images: missing"),
            (lambda c: c["images"][2].update(width="wide"), "images[2].width"),
            (lambda c: c["annotations"][5].pop("bbox"), "annotations[5].bbox"),
            (lambda c: c["annotations"][5].update(bbox=[1, 2, 3]), "annotations[5].bbox"),
            (lambda c: c["annotations"][1].update(image_id=7), "annotations[1].image_id: no image has the id 7"),
            (
                lambda c: c["annotations"][1].update(category_id=7),
                "annotations[1].category_id: no category has the id 7",
            ),
            (
                lambda c: c["annotations"][3].update(segmentation=[[1, 2, 3, 4, 5]]),
                "annotations[3].segmentation: [0] must have pairs of x and y, got 5 numbers",
            ),
            (
                lambda c: c["annotations"][3].update(segmentation={"size": [5, 5], "counts": [25]}),
                "annotations[3].segmentation: size must be [96, 96] as of the image, got [5, 5]",
            ),
            (
                lambda c: c["annotations"][3].update(segmentation={"size": [96, 96], "counts": [9217]}),
                "annotations[3].segmentation: counts must be run lengths inside the picture",
            ),
            (
                lambda c: c["annotations"][3].update(segmentation={"size": [96, 96], "counts": [10**30]}),
                "annotations[3].segmentation: counts must be run lengths inside the picture",
            ),
            (lambda c: c["images"][1].update(id=100), "images: two of them have one id"),
            (lambda c: c["categories"][1].update(id=10), "categories: two of them have one id"),
            (lambda c: c["images"][1].update(file_name="9.png"), "images: FOLDER/train/9.png is not there"),
            (lambda c: c.update(annotations=[]), "FOLDER: has no picture with an object to train on"),
        ],
    )
    def test_the_place_in_the_file_is_named(
        self, change: Callable[[dict[str, Any]], object], message: str, coco: Path
    ) -> None:
        edited(coco, change)

        assert message in refusal(coco)

    @pytest.mark.parametrize(
        "name", ["/etc/passwd", "../val/1.png", "a/../../b.png", "..\\val\\1.png", "C:\\a.png", "a\0.png", ".", "./"]
    )
    def test_no_name_leads_out_of_the_folder(self, name: str, coco: Path) -> None:
        edited(coco, lambda content: content["images"][3].update(file_name=name))

        assert "images[3].file_name: must name a file inside its folder, got " in refusal(coco)

    @pytest.mark.parametrize("index", [0, 3])
    def test_a_name_that_is_too_long(self, index: int, coco: Path) -> None:
        edited(coco, lambda content: content["images"][index].update(file_name="a" * 300 + ".png"))

        message = refusal(coco)

        assert message.startswith("images: ") and message.endswith("aaa.png cannot be read (File name too long)")

    def test_no_json(self, coco: Path) -> None:
        (coco / "annotations" / "instances_train.json").write_text("[")

        assert refusal(coco).startswith("Invalid JSON")

    def test_no_annotations(self, tmp_path: Path) -> None:
        assert refusal(tmp_path) == "FOLDER: has no annotations/*.json in COCO's format"

    def test_files_of_unknown_splits(self, coco: Path) -> None:
        for old, new in (("train", "a"), ("val", "b")):
            (coco / "annotations" / f"instances_{old}.json").rename(coco / "annotations" / f"{new}.json")

        assert refusal(coco) == (
            "FOLDER/annotations: one file must have train in its name, and one val; found a.json, b.json"
        )

    def test_other_classes_to_judge_by(self, coco: Path) -> None:
        edited(coco, lambda content: content["categories"][0].update(name="box"), split="val")

        message = "FOLDER/annotations/instances_val.json: categories: are not those of instances_train.json"
        assert message == refusal(coco)

    def test_a_picture_of_another_size(self, coco: Path) -> None:
        Image.new("RGB", (20, 30)).save(coco / "pictures" / "0.png")

        with pytest.raises(InputError, match=r"has 30 x 20 pixels .height x width., its annotations are of 96 x 96"):
            read_picture(coco / "train" / "0.png", size=(96, 96))


def test_a_picture_is_turned_only_if_its_annotations_are(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)

    stored, turned = read_picture(tmp_path / "a.png", size=(20, 30)), read_picture(tmp_path / "a.png", size=(30, 20))

    assert np.array_equal(np.asarray(image).transpose(2, 0, 1), stored)
    assert np.array_equal(np.rot90(stored, -1, (1, 2)), turned)
