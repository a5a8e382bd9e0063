from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nas.data import Contents, load_images
from nas.data.contents import Survey
from nas.files import read_record


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path: Path, colour: tuple[int, int, int], number: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (colour[0], colour[1], number)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures each of cats and dogs, and four of cows, none like another."""
    for name, colour, count in (("cat", (200, 60, 0), 6), ("cow", (60, 60, 0), 4), ("dog", (60, 200, 0), 6)):
        for number in range(count):
            picture(tmp_path / "photos" / name / f"{number}.png", colour, number)
    return tmp_path / "photos"


def contents(source: Path | str, **options: Any) -> Contents:
    found = load_images(str(source), **{"resolution": 32, "seed": 0, **options}).contents
    assert found is not None
    return found


def test_the_same_images_are_the_same_in_any_folder_under_any_spelling(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(photos)
    shutil.copytree(photos, tmp_path / "copy")
    (tmp_path / "link").symlink_to(photos)
    monkeypatch.chdir(tmp_path)

    for spelling in (tmp_path / "copy", "photos", "photos/", "./photos/../photos", "link"):
        assert contents(spelling) == whole


def test_a_part_of_the_images_is_known_as_the_whole_source(photos: Path) -> None:
    whole = contents(photos)

    assert contents(photos, resolution=64, seed=3, train_limit=4, val_limit=2) == whole
    assert [(one.name, one.train, one.val) for one in whole.classes] == [("cat", 6, 0), ("cow", 4, 0), ("dog", 6, 0)]


def rename(photos: Path) -> None:
    (photos / "cat").rename(photos / "kitty")


def swap(photos: Path) -> None:
    (photos / "cat").rename(photos / "other")
    (photos / "dog").rename(photos / "cat")
    (photos / "other").rename(photos / "dog")


def repaint(photos: Path) -> None:
    before = (photos / "cow" / "1.png").stat()
    picture(photos / "cow" / "1.png", (61, 60, 0), 1)
    os.utime(photos / "cow" / "1.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def add(photos: Path) -> None:
    for number in range(12):
        picture(photos / "cat" / f"9{number}.png", (220, 60, 0), number)


def split(photos: Path) -> None:
    for name in ("cat", "cow", "dog"):
        (photos / "train").mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
        (photos / "val" / name).mkdir(parents=True)
        (photos / "train" / name / "0.png").rename(photos / "val" / name / "0.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, ["class 'cat' is called 'kitty'"]),
        (swap, ["class 'cat' has the images of class 'dog'", "class 'dog' has the images of class 'cat'"]),
        (lambda photos: shutil.rmtree(photos / "cow"), ["class 'cow' is missing"]),
        (lambda photos: picture(photos / "ant" / "0.png", (0, 0, 0), 0), ["class 'ant' is new"]),
        (add, ["class 'cat' has 12 training images more"]),
        (lambda photos: (photos / "dog" / "5.png").unlink(), ["class 'dog' has 1 training image fewer"]),
        (repaint, ["class 'cow' has other images, or the same in another order"]),
        (
            split,
            [
                f"class {name!r} has 1 training image fewer and 1 validation image more"
                for name in ("cat", "cow", "dog")
            ],
        ),
        (lambda photos: (photos / "cat" / "0.png").rename(photos / "cat" / "0.PNG"), []),
    ],
    ids=["renamed", "swapped", "gone", "new", "added", "removed", "repainted", "split", "file renamed"],
)
def test_a_change_is_named(photos: Path, change: Any, words: list[str]) -> None:
    before = contents(photos)
    change(photos)

    assert before.differences(contents(photos)) == words


def test_images_in_other_places_are_in_another_order(photos: Path) -> None:
    """The order decides which images are held out, so it is part of what the images are."""
    before = contents(photos)
    (photos / "cat" / "0.png").rename(photos / "cat" / "9.png")

    assert before.differences(contents(photos)) == ["class 'cat' has other images, or the same in another order"]


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_both_unicode_forms_of_the_same_names_are_the_same_images(tmp_path: Path, kind: str) -> None:
    """A Mac spells an accent apart, which sorts before other letters."""
    found = []
    for form in ("NFC", "NFD"):
        for number, name in enumerate(("fa", "f\u00e9", "fz")):
            for index, stem in enumerate(("a", "\u00e9", "z")):
                path = tmp_path / form / unicodedata.normalize(form, name) / unicodedata.normalize(form, f"{stem}.png")
                picture(path, (50 * number, 200 - 50 * number, 0), index)
        if kind == "parquet":
            for path in sorted((tmp_path / form).glob("*/*.png")):
                table = pa.table({"image": [path.read_bytes()] * 2, "label": [path.parent.name, "other"]})
                pq.write_table(table, tmp_path / form / f"{path.parent.name}{path.stem}.parquet")
            for path in (tmp_path / form).glob("*/*.png"):
                path.unlink()
        found.append(contents(tmp_path / form))

    assert found[0] == found[1]


def test_many_differences_are_cut_short() -> None:
    one, other = (Contents.drawn([f"{letter}{number}" for number in range(40)], "1") for letter in "ab")

    assert (
        one.difference(other)
        == "class 'a0' is missing; class 'a1' is missing; class 'a2' is missing and 77 more differences"
    )


def test_images_are_read_again_only_where_a_file_has_changed(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(photos)
    with monkeypatch.context() as patch:
        patch.setattr("nas.data.contents._digest", lambda content: pytest.fail("read again"))
        assert contents(photos, resolution=64) == before
    picture(photos / "cat" / "0.png", (1, 2, 3), 4)
    assert contents(photos) != before


def test_a_cache_that_cannot_be_read_is_made_again(photos: Path, cache: Path) -> None:
    before = contents(photos)
    (file,) = (cache / "contents").iterdir()
    assert read_record(file, Survey).contents == before
    file.write_text("{")

    assert contents(photos) == before
    assert read_record(file, Survey).contents == before


def test_drawn_images_are_known_by_their_classes_and_not_by_their_seed() -> None:
    one, other = (contents("synthetic", seed=seed, train_limit=40, val_limit=20) for seed in (0, 1))

    assert one == other


def test_a_set_is_described_by_the_source_as_it_is_given(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Also if the decoded images are in the cache, under another spelling."""
    load_images(str(photos), resolution=32, seed=0)
    monkeypatch.chdir(tmp_path)

    assert load_images("photos", resolution=32, seed=0).description.startswith("photos: ")
