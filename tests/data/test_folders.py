"""Which folders of a folder are the splits and the classes: one rule."""

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
Paint = Callable[..., Image.Image]


class TestClasses:
    def test_folders_inside_a_class_belong_to_it(self, tmp_path: Path, fill: Fill, shows: Shows) -> None:
        for name in ("cat", "dog"):
            for year in ("2023", "2024/spring"):
                fill(tmp_path / name / year, name)

        shows(_load(tmp_path), cat=8, dog=8)

    def test_folders_inside_the_classes_of_a_split_belong_to_them(self, split: Path, fill: Fill, shows: Shows) -> None:
        fill(split / "train" / "cat" / "images", "cat")  # as Tiny ImageNet has them
        fill(split / "val" / "cat" / "images", "cat", 1)
        fill(split / "val" / "dog", "dog", 2)

        image_set = _load(split)

        shows(image_set, cat=9, dog=6)
        assert len(image_set.val_labels) == 3

    def test_names_with_underscores_are_classes(self, pets: Path, fill: Fill, shows: Shows) -> None:
        fill(pets / "__background__", "cow")

        shows(_load(pets), __background__=4, cat=4, dog=4)

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_both_unicode_forms_of_a_name_are_one_class(self, pets: Path, form: str, fill: Fill, shows: Shows) -> None:
        fill(pets / "k\N{LATIN SMALL LETTER U WITH DIAERESIS}he", "cow", 2)
        fill(pets / unicodedata.normalize("NFD", "k\N{LATIN SMALL LETTER U WITH DIAERESIS}he"), "cow", 3)
        fill(pets / "cat " / "more", "cat", 1)

        image_set = _load(pets)

        shows(image_set, cat=5, dog=4, kühe=5)

    def test_both_unicode_forms_are_one_class_over_both_splits(self, split: Path, fill: Fill) -> None:
        fill(split / "train" / "k\N{LATIN SMALL LETTER U WITH DIAERESIS}he", "cow")
        fill(split / "val" / "ku\N{COMBINING DIAERESIS}he", "cow", 1)

        assert _load(split).class_names == ("cat", "dog", "kühe")

    def test_names_that_differ_in_capitals_are_two_classes_and_said(
        self, pets: Path, caplog: pytest.LogCaptureFixture, fill: Fill
    ) -> None:
        fill(pets / "Cat", "cat")

        assert _load(pets).class_names == ("Cat", "cat", "dog")
        assert "classes that differ only in capitals: Cat and cat" in caplog.text

    def test_a_class_without_a_picture_is_said(
        self, pets: Path, caplog: pytest.LogCaptureFixture, shows: Shows
    ) -> None:
        (pets / "cow").mkdir()

        shows(_load(pets), cat=4, dog=4)
        assert "no picture in cow" in caplog.text

    def test_the_folder_above_the_classes_is_refused_with_the_right_one(self, pets: Path) -> None:
        with pytest.raises(InputError, match=rf"if cat/, dog/ are the classes, give --data {pets}$"):
            _load(pets.parent)

    def test_upper_case_suffixes_are_pictures(self, tmp_path: Path, fill: Fill, shows: Shows) -> None:
        fill(tmp_path / "cat", "cat", suffix=".JPG")
        fill(tmp_path / "dog", "dog", suffix=".Jpeg")

        shows(_load(tmp_path), cat=4, dog=4)


class TestValidation:
    def test_flat_validation_is_refused_with_what_to_do(self, split: Path, fill: Fill) -> None:
        fill(split / "val", "cat", 3)

        with pytest.raises(InputError, match=r"3 pictures of val/ are in no class folder; move them into .* val/cat/"):
            _load(split)

    def test_validation_of_one_folder_that_is_no_class_is_refused_by_name(self, split: Path, fill: Fill) -> None:
        fill(split / "val" / "images", "cat")

        with pytest.raises(InputError, match="val/ has classes that train has no picture of: images; rename it to a"):
            _load(split)

    def test_misspelt_class_of_validation_gets_the_nearest(self, split: Path, fill: Fill) -> None:
        fill(split / "val" / "cat", "cat")
        fill(split / "val" / "dogs", "dog")

        with pytest.raises(InputError, match=r"no picture of: dogs; rename it to dog$"):
            _load(split)

    @pytest.mark.parametrize("name", ["vali", "holdout", "my pictures"])
    def test_misnamed_validation_is_refused(self, split: Path, name: str, fill: Fill) -> None:
        fill(split / name / "cat", "cat")

        with pytest.raises(InputError, match=f"{name}/ beside train/ is not a name of a split"):
            _load(split)

    @pytest.mark.parametrize(
        ("train", "val"), [("training_set", "test_set"), ("Train", "VAL"), ("train2017", "val2017"), ("train", "dev-1")]
    )
    def test_splits_are_known_by_a_word_of_their_name(self, split: Path, train: str, val: str, fill: Fill) -> None:
        (split / "train").rename(split / "x")
        (split / "x").rename(split / train)
        fill(split / val / "cat", "cat", 3)

        image_set = _load(split)

        assert image_set.class_names == ("cat", "dog")
        assert (len(image_set.train_labels), len(image_set.val_labels)) == (8, 3)

    def test_flat_training_is_refused(self, tmp_path: Path, fill: Fill) -> None:
        fill(tmp_path / "train", "cat")
        fill(tmp_path / "test", "dog")

        with pytest.raises(InputError, match=r"train/ holds pictures but no class folders; move them into folders"):
            _load(tmp_path)

    @pytest.mark.parametrize(
        ("names", "words"),
        [((), "$"), (("metadata.csv", "labels.tsv"), "; labels in labels.tsv, metadata.csv are not read$")],
    )
    def test_pictures_without_class_folders_are_refused_with_the_reason(
        self, tmp_path: Path, fill: Fill, names: tuple[str, ...], words: str
    ) -> None:
        fill(tmp_path, "cat")
        for name in names:
            (tmp_path / name).write_text("file_name,label\n0.png,cat\n")

        with pytest.raises(InputError, match=f"its 4 pictures are in no class folder; give the folder .*/{words}"):
            _load(tmp_path)

    def test_validation_without_training_is_refused(self, tmp_path: Path, fill: Fill) -> None:
        for name in ("val", "test"):
            fill(tmp_path / name / "cat", "cat")
            fill(tmp_path / name / "dog", "dog")

        with pytest.raises(InputError, match=rf"no pictures in train/; rename one, or give --data {tmp_path}/test "):
            _load(tmp_path)

    def test_test_pictures_without_labels_are_counted_and_a_tenth_is_held_out(
        self, split: Path, caplog: pytest.LogCaptureFixture, fill: Fill
    ) -> None:
        fill(split / "test", "cat", 3)

        assert _load(split).val_labels.tolist() == [0, 1]
        assert "3 in test/ left out" in caplog.text

    def test_the_split_that_is_not_used_is_counted(
        self, split: Path, caplog: pytest.LogCaptureFixture, fill: Fill
    ) -> None:
        fill(split / "val" / "cat", "cat", 2)
        fill(split / "test" / "cat", "cat", 3)
        fill(split, "cat", 1)

        assert len(_load(split).val_labels) == 2
        assert "3 in test/, 1 in no class folder left out" in caplog.text.replace(
            "1 in no class folder, 3 in test/", "3 in test/, 1 in no class folder"
        )

    def test_two_folders_of_training_are_refused(self, split: Path, fill: Fill) -> None:
        fill(split / "train_extra" / "cat", "cat")

        with pytest.raises(InputError, match="both train/ and train_extra/ name training images"):
            _load(split)


def test_columns_are_refused_for_a_folder_and_for_synthetic_images(pets: Path) -> None:
    with pytest.raises(InputError, match=r"--option label=cls names a column of Parquet files, .*pets is a folder of"):
        _load(pets, label="cls")
    with pytest.raises(InputError, match=r"--option image=jpg names a column .*; synthetic is drawn"):
        load_images(DataSource(name="synthetic", image="jpg"), resolution=32, seed=0)


def _load(source: Path, **options: object) -> ImageSet:
    return load_images(DataSource(name=str(source), **options), resolution=32, seed=0)
