"""What is in a folder is what is trained on: one rule for classes and splits, and a count of all that is left out."""

from __future__ import annotations

import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import DataSource, ImageSet, load_images
from nas.errors import InputError

COLOURS = {"cat": (200, 60, 60), "dog": (60, 200, 60), "cow": (60, 60, 200)}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Four red cats and four green dogs."""
    _fill(tmp_path / "pets" / "cat", "cat")
    _fill(tmp_path / "pets" / "dog", "dog")
    return tmp_path / "pets"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """The same, below train/."""
    _fill(tmp_path / "pets" / "train" / "cat", "cat")
    _fill(tmp_path / "pets" / "train" / "dog", "dog")
    return tmp_path / "pets"


class TestClasses:
    def test_folders_inside_a_class_belong_to_it(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            for year in ("2023", "2024/spring"):
                _fill(tmp_path / name / year, name)

        _shows(_load(tmp_path), cat=8, dog=8)

    def test_folders_inside_the_classes_of_a_split_belong_to_them(self, split: Path) -> None:
        _fill(split / "train" / "cat" / "images", "cat")  # as Tiny ImageNet has them
        _fill(split / "val" / "cat" / "images", "cat", 1)
        _fill(split / "val" / "dog", "dog", 2)

        image_set = _load(split)

        _shows(image_set, cat=9, dog=6)
        assert len(image_set.val_labels) == 3

    def test_names_with_underscores_are_classes(self, pets: Path) -> None:
        _fill(pets / "__background__", "cow")

        _shows(_load(pets), __background__=4, cat=4, dog=4)

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_both_unicode_forms_of_a_name_are_one_class(self, pets: Path, form: str) -> None:
        _fill(pets / "k\N{LATIN SMALL LETTER U WITH DIAERESIS}he", "cow", 2)
        _fill(pets / unicodedata.normalize("NFD", "k\N{LATIN SMALL LETTER U WITH DIAERESIS}he"), "cow", 3)
        _fill(pets / "cat " / "more", "cat", 1)

        image_set = _load(pets)

        _shows(image_set, cat=5, dog=4, kühe=5)

    def test_both_unicode_forms_are_one_class_over_both_splits(self, split: Path) -> None:
        _fill(split / "train" / "k\N{LATIN SMALL LETTER U WITH DIAERESIS}he", "cow")
        _fill(split / "val" / "ku\N{COMBINING DIAERESIS}he", "cow", 1)

        assert _load(split).class_names == ("cat", "dog", "kühe")

    def test_names_that_differ_in_capitals_are_two_classes_and_said(
        self, pets: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        _fill(pets / "Cat", "cat")

        assert _load(pets).class_names == ("Cat", "cat", "dog")
        assert "classes that differ only in capitals: Cat and cat" in caplog.text

    def test_a_class_without_a_picture_is_said(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        (pets / "cow").mkdir()

        _shows(_load(pets), cat=4, dog=4)
        assert "no picture in cow" in caplog.text

    def test_the_folder_above_the_classes_is_refused_with_the_right_one(self, pets: Path) -> None:
        with pytest.raises(InputError, match=rf"if cat/, dog/ are the classes, give --data {pets}$"):
            _load(pets.parent)

    def test_upper_case_suffixes_are_pictures(self, tmp_path: Path) -> None:
        _fill(tmp_path / "cat", "cat", suffix=".JPG")
        _fill(tmp_path / "dog", "dog", suffix=".Jpeg")

        _shows(_load(tmp_path), cat=4, dog=4)


class TestLinks:
    def test_links_to_folders_are_followed(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        for name in ("cat", "dog"):
            _fill(tmp_path / "store" / f"animal-{name}", name)
            (root / name).symlink_to(tmp_path / "store" / f"animal-{name}")

        _shows(_load(root), cat=4, dog=4)

    def test_links_to_files_are_followed(self, pets: Path) -> None:
        for name in ("cat", "dog"):
            (pets / name).rename(pets.parent / name)
            (pets / name).mkdir()
            for file in (pets.parent / name).iterdir():
                (pets / name / file.name).symlink_to(file)

        _shows(_load(pets), cat=4, dog=4)

    def test_the_root_may_be_a_link(self, pets: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(pets)

        _shows(_load(tmp_path / "link"), cat=4, dog=4)

    @pytest.mark.parametrize("target", ["../..", "..", ".", "../../pets/cat"])
    def test_loops_are_not_followed(self, pets: Path, target: str, caplog: pytest.LogCaptureFixture) -> None:
        (pets / "cat" / "loop").symlink_to(target)

        _shows(_load(pets), cat=4, dog=4)
        assert "1 behind a link to a folder above left out" in caplog.text

    def test_a_link_to_itself_is_a_dead_one(self, pets: Path) -> None:
        (pets / "cat" / "self").symlink_to(pets / "cat" / "self")

        with pytest.raises(InputError, match="dead links: cat/self"):
            _load(pets)

    def test_a_web_of_links_is_walked_once(self, pets: Path) -> None:
        """Each of eight folders links to all others: there are 110,000 ways through."""
        for one in range(8):
            _fill(pets / "cat" / str(one), "cat", 1)
            for other in range(8):
                if one != other:
                    (pets / "cat" / str(one) / f"to{other}").symlink_to(pets / "cat" / str(other))

        image_set = _load(pets)

        assert image_set.class_names == ("cat", "dog")
        assert len(_labels(image_set)) <= 8 + 8 * 8

    def test_a_dead_link_is_refused_or_counted(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        (pets / "cat" / "gone.png").symlink_to(pets / "nowhere.png")
        (pets / "cow").symlink_to(pets / "nowhere")

        with pytest.raises(InputError, match=r"dead links: cat/gone\.png, cow; remove them or restore") as caught:
            _load(pets)
        assert caught.value.exit_code == 2
        _shows(_load(pets, skip_broken=True), cat=4, dog=4)
        assert "2 behind a dead link left out" in caplog.text

    def test_a_dead_root_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "root").symlink_to(tmp_path / "nowhere")

        with pytest.raises(InputError, match="root: a link that leads nowhere"):
            _load(tmp_path / "root")


class TestLeftOut:
    def test_photos_that_cannot_be_read_are_counted_with_the_cure(
        self, pets: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("cat", "dog"):
            for index in range(3):
                (pets / name / f"IMG_{index}.HEIC").write_bytes(_HEIC)
        (pets / "cat" / "raw.nef").write_bytes(b"II*\0")

        _shows(_load(pets), cat=4, dog=4)

        assert caplog.messages == [
            f"{pets}: 6 .HEIC left out: pip install pillow-heif; 1 .nef left out: convert to PNG or JPEG"
        ]

    def test_nothing_but_photos_that_cannot_be_read_is_refused_with_the_cure(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "IMG_1.heic").write_bytes(_HEIC)

        with pytest.raises(InputError, match=r"no image in this folder that can be read; 2 \.heic left out: pip inst"):
            _load(tmp_path)

    def test_heic_behind_another_suffix_is_named(self, pets: Path) -> None:
        (pets / "cat" / "photo.jpg").write_bytes(_HEIC)

        with pytest.raises(InputError, match=r"cat/photo\.jpg: not an image .*\(it holds HEIC: pip install pillow-he"):
            _load(pets)

    def test_avif_is_read(self, pets: Path) -> None:
        _fill(pets / "cow", "cow", suffix=".avif")

        _shows(_load(pets), cat=4, cow=4, dog=4)

    def test_junk_is_counted_and_not_read(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        for folder in (pets, pets / "cat", pets / "dog"):
            (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
            (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
            (folder / "desktop.ini").write_text("[x]")
            (folder / ".ipynb_checkpoints").mkdir()
        (pets / "cat" / "._00.png").write_bytes(b"\0\5\x16\7")
        (pets / "__MACOSX" / "cat").mkdir(parents=True)
        (pets / "__MACOSX" / "cat" / "._00.png").write_bytes(b"\0\5\x16\7")
        _fill(pets / "cat" / "@eaDir", "dog", 1)  # thumbnails of a network disk
        _fill(pets / "cat" / ".trash", "dog", 1)

        _shows(_load(pets), cat=4, dog=4)

        assert caplog.messages == [f"{pets}: 13 hidden or junk left out"]

    def test_metadata_beside_class_folders_does_not_take_the_labels(
        self, pets: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (pets / "metadata.csv").write_text("file_name,caption\ncat/0.png,a cat\n")
        (pets / "cat" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a cat"}\n')
        (pets / "metadata.parquet").write_bytes(b"PAR1")

        _shows(_load(pets), cat=4, dog=4)

        assert "1 .csv, 1 .jsonl, 1 .parquet left out" in caplog.text.replace("1 .jsonl, 1 .csv", "1 .csv, 1 .jsonl")

    def test_other_files_are_counted_by_suffix_in_one_line(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ("a.txt", "b.TXT", "README", "x.a b[red]\n", *(f"z{n}.k{n}" for n in range(20))):
            (pets / "cat" / name).write_text("x")
        _fill(pets, "cat", 2)
        os.mkfifo(pets / "cat" / "pipe.png")

        _shows(_load(pets), cat=4, dog=4)

        (line,) = caplog.messages
        assert "2 .txt" in line
        assert "1 without a suffix" in line
        assert "of other kinds, 2 in no class folder, 1 of no regular file left out" in line
        assert "[red]" not in line
        assert "\n" not in line
        assert len(line) <= 400

    def test_what_is_left_out_is_said_from_the_cache_as_well_but_once(
        self, pets: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (pets / "cat" / "x.heic").write_bytes(_HEIC)

        for _ in range(3):
            _load(pets)
        assert len(caplog.messages) == 1
        (pets / "cat" / "y.heic").write_bytes(_HEIC)
        _load(pets)

        assert caplog.messages[1:] == [f"{pets}: 2 .heic left out: pip install pillow-heif"]

    def test_nothing_is_said_where_all_is_used(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        _load(pets)

        assert caplog.messages == []

    def test_names_that_are_not_utf8_are_refused_readably(self, pets: Path) -> None:
        (pets / "cat" / "0.png").rename(os.fsdecode(os.fsencode(pets / "cat") + b"/caf\xe9.png"))

        with pytest.raises(InputError, match=r"cat/caf\\xe9\.png: not a name in UTF-8; rename it, such as with convmv"):
            _load(pets)

    def test_folders_that_are_not_utf8_are_refused_and_other_files_are_counted(
        self, pets: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        Path(os.fsdecode(os.fsencode(pets / "cat") + b"/\xe9.t\xe9t")).write_text("x")
        _shows(_load(pets), cat=4, dog=4)
        assert "1 with an odd suffix left out" in caplog.text
        (pets / "dog").rename(os.fsdecode(os.fsencode(pets) + b"/d\xf6g"))

        with pytest.raises(InputError, match=r"d\\xf6g: not a name in UTF-8") as caught:
            _load(pets)
        str(caught.value).encode()


class TestValidation:
    def test_flat_validation_with_annotations_is_read(self, split: Path) -> None:
        """As Tiny ImageNet is downloaded, with a test set that has no labels."""
        _annotated(split, ["cat", "dog", "dog"])
        _fill(split / "test" / "images", "cow")

        image_set = _load(split)

        assert image_set.class_names == ("cat", "dog")
        assert [image_set.class_names[label] for label in image_set.val_labels] == ["cat", "dog", "dog"]
        _shows(image_set, cat=5, dog=6)

    def test_annotated_pictures_may_lie_beside_the_annotations(self, split: Path) -> None:
        _annotated(split, ["cat", "dog"])
        for picture in (split / "val" / "images").iterdir():
            picture.rename(split / "val" / picture.name)

        assert len(_load(split).val_labels) == 2

    def test_changed_annotations_are_read_again(self, split: Path) -> None:
        _annotated(split, ["cat", "dog"])
        before = _load(split).val_labels.tolist()
        (split / "val" / "val_annotations.txt").write_text("val_0.png\tdog\nval_1.png\tcat\n")

        assert _load(split).val_labels.tolist() == before[::-1]

    def test_class_folders_in_validation_come_before_annotations(self, split: Path) -> None:
        _fill(split / "val" / "cat", "cat", 2)
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
    def test_annotations_that_do_not_fit_are_named(self, split: Path, text: str | bytes, message: str) -> None:
        _annotated(split, ["cat", "dog"])
        (split / "val" / "val_annotations.txt").write_bytes(text if isinstance(text, bytes) else text.encode())

        with pytest.raises(InputError, match=message):
            _load(split)

    def test_pictures_without_annotation_are_counted(self, split: Path, caplog: pytest.LogCaptureFixture) -> None:
        _annotated(split, ["cat", "dog"])
        (split / "val" / "val_annotations.txt").write_text("val_0.png\tcat\n\n")

        assert _load(split).val_labels.tolist() == [0]
        assert "1 not named in val/val_annotations.txt left out" in caplog.text

    def test_flat_validation_is_refused_with_what_to_do(self, split: Path) -> None:
        _fill(split / "val", "cat", 3)

        with pytest.raises(InputError, match=r"3 pictures of val/ are in no class folder; move them into .* val/cat/"):
            _load(split)

    def test_validation_of_one_folder_that_is_no_class_is_refused_by_name(self, split: Path) -> None:
        _fill(split / "val" / "images", "cat")

        with pytest.raises(InputError, match="val/ has classes that train has no picture of: images; rename it to a"):
            _load(split)

    def test_misspelt_class_of_validation_gets_the_nearest(self, split: Path) -> None:
        _fill(split / "val" / "cat", "cat")
        _fill(split / "val" / "dogs", "dog")

        with pytest.raises(InputError, match=r"no picture of: dogs; rename it to dog$"):
            _load(split)

    @pytest.mark.parametrize("name", ["vali", "holdout", "my pictures"])
    def test_misnamed_validation_is_refused(self, split: Path, name: str) -> None:
        _fill(split / name / "cat", "cat")

        with pytest.raises(InputError, match=f"{name}/ beside train/ is not a name of a split"):
            _load(split)

    @pytest.mark.parametrize(
        ("train", "val"), [("training_set", "test_set"), ("Train", "VAL"), ("train2017", "val2017"), ("train", "dev-1")]
    )
    def test_splits_are_known_by_a_word_of_their_name(self, split: Path, train: str, val: str) -> None:
        (split / "train").rename(split / "x")
        (split / "x").rename(split / train)
        _fill(split / val / "cat", "cat", 3)

        image_set = _load(split)

        assert image_set.class_names == ("cat", "dog")
        assert (len(image_set.train_labels), len(image_set.val_labels)) == (8, 3)

    def test_flat_training_is_refused(self, tmp_path: Path) -> None:
        _fill(tmp_path / "train", "cat")
        _fill(tmp_path / "test", "dog")

        with pytest.raises(InputError, match=r"train/ holds pictures but no class folders; move them into folders"):
            _load(tmp_path)

    def test_validation_without_training_is_refused(self, tmp_path: Path) -> None:
        for name in ("val", "test"):
            _fill(tmp_path / name / "cat", "cat")
            _fill(tmp_path / name / "dog", "dog")

        with pytest.raises(InputError, match=rf"no pictures in train/; rename one, or give --data {tmp_path}/test "):
            _load(tmp_path)

    def test_test_pictures_without_labels_are_counted_and_a_tenth_is_held_out(
        self, split: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        _fill(split / "test", "cat", 3)

        assert _load(split).val_labels.tolist() == [0, 1]
        assert "3 in test/ left out" in caplog.text

    def test_the_split_that_is_not_used_is_counted(self, split: Path, caplog: pytest.LogCaptureFixture) -> None:
        _fill(split / "val" / "cat", "cat", 2)
        _fill(split / "test" / "cat", "cat", 3)
        _fill(split, "cat", 1)

        assert len(_load(split).val_labels) == 2
        assert "3 in test/, 1 in no class folder left out" in caplog.text.replace(
            "1 in no class folder, 3 in test/", "3 in test/, 1 in no class folder"
        )

    def test_two_folders_of_training_are_refused(self, split: Path) -> None:
        _fill(split / "train_extra" / "cat", "cat")

        with pytest.raises(InputError, match="both train/ and train_extra/ name training images"):
            _load(split)


class TestBroken:
    def test_all_broken_pictures_are_listed_at_once(self, pets: Path) -> None:
        for name in ("cat/0.png", "dog/1.png", "dog/3.png"):
            (pets / name).write_bytes((pets / name).read_bytes()[:60])

        with pytest.raises(InputError) as caught:
            _load(pets)

        message = str(caught.value)
        assert message.startswith(f"{pets}: 3 of 8 images cannot be read: cat/0.png, dog/1.png, dog/3.png (")
        assert message.endswith("); repair or remove them, or leave them out with --option skip_broken=true")

    def test_a_long_list_is_cut_and_counted(self, pets: Path) -> None:
        _fill(pets / "cat", "cat", 60)
        for picture in (pets / "cat").iterdir():
            picture.write_bytes(b"no")

        with pytest.raises(
            InputError, match=r"60 of 64 images cannot be read: (cat/\d+\.png, ){4}cat/\d+.png and 55 m"
        ):
            _load(pets)

    def test_broken_pictures_are_left_out_and_counted(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        expected = _load(pets)
        (pets / "cat" / "broken.png").write_bytes(b"no")
        (pets / "dog" / "empty.jpg").write_bytes(b"")

        image_set = _load(pets, skip_broken=True)
        again = _load(pets, skip_broken=True)

        assert caplog.messages == [f"{pets}: 2 broken images left out"]
        assert f"{pets}: 6 train and 2 val images of 2 classes at 32 px" == expected.description
        _shows(image_set, cat=4, dog=4)
        assert again.description == image_set.description

    def test_a_class_of_broken_pictures_is_too_few(self, pets: Path) -> None:
        for picture in (pets / "cat").iterdir():
            picture.write_bytes(b"no")

        with pytest.raises(InputError, match="without the broken images, train has too few left"):
            _load(pets, skip_broken=True)

    def test_a_damaged_exif_block_is_quiet(self, pets: Path, recwarn: pytest.WarningsRecorder) -> None:
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\xff\xff\xff\xf0"
        _picture("cat", 9).save(pets / "cat" / "camera.jpg", exif=exif)

        _shows(_load(pets), cat=5, dog=4)
        assert not recwarn.list


class TestContrast:
    @pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
    def test_levels_of_deep_grey_tell_classes(self, tmp_path: Path, kind: type) -> None:
        scale = 1 / 65_535 if kind is np.float32 else 1
        for name, level in (("cold", 12_000), ("hot", 40_000)):
            (tmp_path / name).mkdir()
            for index in range(4):
                values = np.random.default_rng(index).normal(level, 2000, (48, 48)) * scale
                Image.fromarray(values.astype(kind)).save(tmp_path / name / f"{index}.tif")

        image_set = _load(tmp_path)

        means = image_set.train_images.float().mean((1, 2, 3))
        for mean, label in zip(means.tolist(), image_set.train_labels.tolist(), strict=True):
            assert abs(mean - (47, 156)[label]) < 2
        assert image_set.train_images[0].float().std() > 3

    def test_deep_grey_beside_colours_is_on_the_same_scale(self, pets: Path) -> None:
        for index in range(4):
            (pets / "fog").mkdir(exist_ok=True)
            Image.fromarray(np.full((40, 40), 32_768, dtype=np.uint16)).save(pets / "fog" / f"{index}.png")

        image_set = _load(pets)

        fog = image_set.train_images[image_set.train_labels == image_set.class_names.index("fog")]
        assert fog.unique().tolist() == [128]

    def test_a_set_of_one_colour_is_refused(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            for index in range(3):
                Image.new("RGB", (40, 40), (9, 20, 255)).save(tmp_path / name / f"{index}.png")

        with pytest.raises(InputError, match=r"one and the same plain colour \(R, G, B 9, 20, 255 of 255\)"):
            _load(tmp_path)


def test_columns_are_refused_for_a_folder_and_for_synthetic_images(pets: Path) -> None:
    with pytest.raises(InputError, match=r"--option label=cls names a column of Parquet files .*pets is a folder of"):
        _load(pets, label="cls")
    with pytest.raises(InputError, match=r"--option image=jpg names a column .*; synthetic is drawn"):
        load_images(DataSource(name="synthetic", image="jpg"), resolution=32, seed=0)


_HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(300)


def _load(source: Path, **options: object) -> ImageSet:
    return load_images(DataSource(name=str(source), **options), resolution=32, seed=0)


def _picture(colour: str, seed: int) -> Image.Image:
    draw = random.Random(seed)
    return Image.new("RGB", (40, 40), tuple(level + draw.randrange(-20, 21) for level in COLOURS[colour]))


def _fill(folder: Path, colour: str, count: int = 4, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        _picture(colour, index).save(folder / f"{index}{suffix}")


def _annotated(split: Path, classes: list[str]) -> None:
    (split / "val" / "images").mkdir(parents=True)
    lines = []
    for index, name in enumerate(classes):
        _picture(name, 10 + index).save(split / "val" / "images" / f"val_{index}.png")
        lines.append(f"val_{index}.png\t{name}\t0\t32\t44\t62\n")
    (split / "val" / "val_annotations.txt").write_text("".join(lines))


def _labels(image_set: ImageSet) -> list[int]:
    return image_set.train_labels.tolist() + image_set.val_labels.tolist()


def _shows(image_set: ImageSet, **counts: int) -> None:
    """Check the number of images of each class, and that their colour is that of their class."""
    assert image_set.class_names == tuple(counts)
    labels = _labels(image_set)
    assert counts == {name: labels.count(index) for index, name in enumerate(image_set.class_names)}
    shown = {"kühe": "cow", "__background__": "cow"}
    for image, label in zip([*image_set.train_images, *image_set.val_images], labels, strict=True):
        name = image_set.class_names[label]
        assert int(image.float().mean((1, 2)).argmax()) == list(COLOURS).index(shown.get(name, name))
