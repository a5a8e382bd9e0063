"""The labels of a flat folder of validation: val_annotations.txt, as Tiny ImageNet has it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nas.data import DataSource, ImageSet, load_images
from nas.errors import InputError

Fill = Callable[..., None]
Shows = Callable[..., None]
Annotated = Callable[[Path, list[str]], None]


@pytest.fixture
def annotated(picture: Callable[..., Image.Image]) -> Annotated:
    """Put pictures of these classes into val/images/ and their annotations beside that."""

    def annotate(split: Path, classes: list[str]) -> None:
        (split / "val" / "images").mkdir(parents=True)
        lines = []
        for index, name in enumerate(classes):
            picture(name, 10 + index).save(split / "val" / "images" / f"val_{index}.png")
            lines.append(f"val_{index}.png\t{name}\t0\t32\t44\t62\n")
        (split / "val" / "val_annotations.txt").write_text("".join(lines))

    return annotate


def test_flat_validation_with_annotations_is_read(split: Path, fill: Fill, shows: Shows, annotated: Annotated) -> None:
    """As Tiny ImageNet is downloaded, with a test set that has no labels."""
    annotated(split, ["cat", "dog", "dog"])
    fill(split / "test" / "images", "cow")

    image_set = _load(split)

    assert image_set.class_names == ("cat", "dog")
    assert [image_set.class_names[label] for label in image_set.val_labels] == ["cat", "dog", "dog"]
    shows(image_set, cat=5, dog=6)


def test_annotated_pictures_may_lie_beside_the_annotations(split: Path, annotated: Annotated) -> None:
    annotated(split, ["cat", "dog"])
    for picture in (split / "val" / "images").iterdir():
        picture.rename(split / "val" / picture.name)

    assert len(_load(split).val_labels) == 2


def test_changed_annotations_are_read_again(split: Path, annotated: Annotated) -> None:
    annotated(split, ["cat", "dog"])
    before = _load(split).val_labels.tolist()
    (split / "val" / "val_annotations.txt").write_text("val_0.png\tdog\nval_1.png\tcat\n")

    assert _load(split).val_labels.tolist() == before[::-1]


def test_class_folders_in_validation_come_before_annotations(split: Path, fill: Fill) -> None:
    fill(split / "val" / "cat", "cat", 2)
    (split / "val" / "val_annotations.txt").write_text("0.png\tdog\n")

    assert _load(split).val_labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val_0.png\tcow\nval_1.png\tcat\n", "val/ has classes that train has no picture of: cow; rename it to"),
        ("val_0.png cat\n", r"val_annotations\.txt, line 1: must be FILE<tab>CLASS"),
        ("val_0.png\tcat\nval_0.png\tdog\n", "line 2: val_0.png has another class in a line above"),
        ("other.png\tcat\n", r"names none of the 2 pictures of val/"),
        (b"\xff\xfe\x00", r"val_annotations\.txt cannot be read \(not UTF-8\)"),
    ],
)
def test_annotations_that_do_not_fit_are_named(
    split: Path, text: str | bytes, message: str, annotated: Annotated
) -> None:
    annotated(split, ["cat", "dog"])
    (split / "val" / "val_annotations.txt").write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(InputError, match=message):
        _load(split)


def test_pictures_without_annotation_are_counted(
    split: Path, caplog: pytest.LogCaptureFixture, annotated: Annotated
) -> None:
    annotated(split, ["cat", "dog"])
    (split / "val" / "val_annotations.txt").write_text("val_0.png\tcat\n\n")

    assert _load(split).val_labels.tolist() == [0]
    assert "1 not named in val/val_annotations.txt left out" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "a/0.png\tcat\nb/0.png\tdog\n",
        "b/0.png\tdog\r\na/0.png\tcat\r\n",
        "\ufeffa/0.png\tcat\rb/0.png\tdog",
        "./a/0.png \tcat \n b/0.png\tdog\t3\t4\n\n",
        "val/a/0.png\tcat\nval/b/0.png\tdog\n",
        "/data/tiny/val/a/0.png\tcat\n/data/tiny/val/b/0.png\tdog\n",
        "val\\a\\0.png\tcat\nval\\b\\0.png\tdog\n",
    ],
)
def test_pictures_of_one_name_are_told_by_their_folders(split: Path, fill: Fill, text: str) -> None:
    for name, colour in (("a", "cat"), ("b", "dog")):
        fill(split / "val" / name, colour, 1)
    (split / "val" / "val_annotations.txt").write_bytes(text.encode())

    assert _load(split).val_labels.tolist() == [0, 1]


def test_an_annotation_is_of_no_other_picture_of_its_name(
    split: Path, fill: Fill, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        fill(split / "val" / name, "cat", 1)
    (split / "val" / "val_annotations.txt").write_text("a/0.png\tdog\n")

    assert _load(split).val_labels.tolist() == [1]
    assert "1 not named in val/val_annotations.txt left out" in caplog.text


def test_the_picture_beside_the_annotations_comes_before_one_of_its_name_below(split: Path, fill: Fill) -> None:
    fill(split / "val", "cat", 1)
    fill(split / "val" / "images", "dog", 1)
    (split / "val" / "val_annotations.txt").write_text("0.png\tdog\n")

    assert _load(split).val_labels.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.png\tcat\n", r"0\.png may be val/a/0\.png or val/b/0\.png; name it by its path below val/$"),
        (
            "x/a/0.png\tcat\ny/a/0.png\tdog\n",
            r"y/a/0\.png and x/a/0\.png may both be val/a/0\.png; name it by its path",
        ),
        ("x/0.png\tcat\ny/0.png\tdog\n", r"names none of the 2 pictures of val/$"),
        ("\tcat\n", "line 1: must be FILE<tab>CLASS"),
        ("0.png\t\tcat\n", "line 1: must be FILE<tab>CLASS"),
    ],
)
def test_annotations_that_may_mean_several_are_refused(split: Path, fill: Fill, text: str, message: str) -> None:
    for name in ("a", "b"):
        fill(split / "val" / name, "cat", 1)
    (split / "val" / "val_annotations.txt").write_text(text)

    with pytest.raises(InputError, match=message):
        _load(split)


@pytest.mark.parametrize("name", ["a b.png", "cafe\u0301.png", "x\u2028y.png", "#1.png", "a\x0bb.png"])
def test_odd_names_are_found(split: Path, picture: Callable[..., Image.Image], name: str) -> None:
    (split / "val" / "images").mkdir(parents=True)
    picture("dog", 7).save(split / "val" / "images" / name)
    written = unicodedata.normalize("NFC", name)
    (split / "val" / "val_annotations.txt").write_text(f"{written}\tdog\n", encoding="utf-8")

    assert _load(split).val_labels.tolist() == [1]


def _load(source: Path, **options: object) -> ImageSet:
    return load_images(DataSource(name=str(source), **options), resolution=32, seed=0)


def test_a_split_under_another_name_is_matched_by_what_lies_below_it(split: Path, fill: Fill) -> None:
    fill(split / "val" / "a", "cat", 1)
    fill(split / "val" / "b", "dog", 1)
    (split / "val" / "val_annotations.txt").write_text("validation/b/0.png\tdog\nvalidation/a/0.png\tcat\n")

    assert _load(split).val_labels.tolist() == [0, 1]
