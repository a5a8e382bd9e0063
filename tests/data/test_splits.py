"""Which files of a source are trained on and which are held out, and that no image is in both."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nas.data import DataSource, ImageSet, load_images
from nas.errors import InputError

CLASSES = ("cat", "dog")
LABELS = [0, 1] * 6
NAMES = [CLASSES[label] for label in LABELS]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pets.parquet"


class TestShared:
    """A score on images that are trained on is too high, so they are counted, and refused where all are."""

    def test_validation_that_is_a_link_to_train_is_refused(self, split: Path) -> None:
        (split / "val").symlink_to(split / "train")

        with pytest.raises(InputError, match=r"all 8 validation images are training images as well, so a sc") as caught:
            _load(split)
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize("copy", [False, True])
    def test_a_parquet_file_that_is_train_and_validation_is_refused(self, tmp_path: Path, copy: bool) -> None:
        file = _write(tmp_path / "train.parquet", image=pa.array(_pngs()), label=LABELS)
        if copy:
            (tmp_path / "val.parquet").write_bytes(file.read_bytes())
        else:
            (tmp_path / "val.parquet").symlink_to(file)

        for source in (tmp_path, tmp_path / "*.parquet"):
            with pytest.raises(InputError, match=r"all 12 validation images are training images as well"):
                _load(source)

    @pytest.mark.parametrize("link", [False, True])
    def test_single_images_in_both_are_said(
        self, split: Path, fill: Callable[..., None], link: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        fill(split / "val" / "cat", "cat", 3)
        for index in range(2):
            (split / "val" / "cat" / f"again{index}.png").symlink_to(split / "train" / "cat" / f"{index}.png")
            if not link:
                content = (split / "val" / "cat" / f"again{index}.png").read_bytes()
                (split / "val" / "cat" / f"again{index}.png").unlink()
                (split / "val" / "cat" / f"again{index}.png").write_bytes(content)

        assert len(_load(split).val_labels) == 5
        assert caplog.messages == [f"{split}: 2 of 5 validation images are trained on as well, so scores are too high"]

    def test_images_without_bytes_are_not_the_same(self, split: Path, fill: Callable[..., None], caplog: Any) -> None:
        fill(split / "val" / "cat", "cat", 3)
        for folder in ("train", "val"):
            (split / folder / "cat" / "empty.png").write_bytes(b"")

        _load(split, skip_broken=True)

        assert caplog.messages == [f"{split}: 2 broken images left out"]

    def test_repeated_images_are_said_where_a_tenth_is_held_out(
        self, pets: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (pets / "cat" / "again.png").write_bytes((pets / "cat" / "0.png").read_bytes())
        (pets / "dog" / "wrong.png").symlink_to(pets / "cat" / "1.png")

        _load(pets)

        assert caplog.messages == [
            f"{pets}: 2 images repeated, so an image held out may be one trained on; 1 image in two classes"
        ]


class TestSplits:
    def test_a_validation_class_that_train_lacks_is_refused_by_name(self, tmp_path: Path) -> None:
        _write(tmp_path / "train.parquet", image=pa.array(_pngs()), label=NAMES)
        _write(tmp_path / "val.parquet", image=pa.array(_pngs(150)), label=[*NAMES[:-2], "cow", "owl"])

        with pytest.raises(InputError, match="validation has classes that train has no image of: cow, owl; give both"):
            _load(tmp_path)

    def test_a_validation_row_without_a_label_is_named(self, tmp_path: Path) -> None:
        _write(tmp_path / "train.parquet", image=pa.array(_pngs()), label=NAMES)
        _write(tmp_path / "val.parquet", image=pa.array(_pngs(150)), label=[*NAMES[:-1], None])

        with pytest.raises(InputError, match=r"row 11 of val\.parquet has no label"):
            _load(tmp_path)
        assert len(_load(tmp_path, skip_broken=True).val_labels) == 11

    def test_a_test_split_without_labels_is_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        _write(tmp_path / "train.parquet", image=pa.array(_pngs()), label=LABELS)
        _write(tmp_path / "test.parquet", image=pa.array(_pngs()), label=[-1] * 12)

        assert len(_load(tmp_path).val_labels) == 2
        assert caplog.messages == [f"{tmp_path}: 12 validation images without labels left out"]

    def test_splits_that_are_not_used_are_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for shade, name in ((100, "train"), (120, "validation"), (140, "test")):
            _write(tmp_path / f"{name}.parquet", image=pa.array(_pngs(shade)), label=LABELS)
        (tmp_path / "README.md").write_text("pets")

        assert len(_load(tmp_path).val_labels) == 12
        assert caplog.messages == [
            f"{tmp_path}: 1 .md left out; 1 Parquet file of test left out; validation is held out"
        ]

    @pytest.mark.parametrize("names", [("val",), ("test",), ("val", "test")])
    def test_a_folder_without_a_file_of_training_is_refused(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        for shade, name in enumerate(names):
            _write(tmp_path / f"{name}.parquet", image=pa.array(_pngs(100 + 20 * shade)), label=LABELS)

        with pytest.raises(
            InputError,
            match=rf"no Parquet file of training beside those of {', '.join(sorted(names))}; name one tr"
            r"ain, "
            rf"or give --data '{tmp_path}/(test|val)\.parquet' to use that alone",
        ):
            _load(tmp_path)

    def test_a_pattern_of_several_splits_without_training_is_refused(self, tmp_path: Path) -> None:
        for shade, name in ((100, "val"), (120, "test")):
            _write(tmp_path / f"{name}.parquet", image=pa.array(_pngs(shade)), label=LABELS)

        with pytest.raises(InputError, match="no Parquet file of training beside those of test, val"):
            _load(tmp_path / "*.parquet")

    @pytest.mark.parametrize("given", ["val-0.parquet", "val-*.parquet"])
    def test_files_of_validation_that_are_named_are_used_alone(
        self, tmp_path: Path, given: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        _write(tmp_path / "val-0.parquet", image=pa.array(_pngs()), label=LABELS)

        assert len(_load(tmp_path / given).val_labels) == 2
        assert caplog.messages == [
            f"{tmp_path / given}: no Parquet file of training: a tenth of val-0.parquet is held out"
        ]

    def test_the_name_of_a_file_says_its_split_before_its_folder_does(self, tmp_path: Path) -> None:
        (tmp_path / "test-data").mkdir()
        for shade, name in ((100, "train"), (120, "val")):
            _write(tmp_path / "test-data" / f"{name}.parquet", image=pa.array(_pngs(shade)), label=LABELS)

        assert len(_load(tmp_path).val_labels) == 12

    def test_a_second_link_to_a_file_is_not_read(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = _write(tmp_path / "a.parquet", image=pa.array(_pngs()), label=LABELS)
        (tmp_path / "b.parquet").symlink_to(file)

        for source in (tmp_path, tmp_path / "*.parquet"):
            image_set = _load(source)
            assert len(image_set.train_labels) + len(image_set.val_labels) == 12
            assert caplog.messages[-1] == f"{source}: 1 second link to a Parquet file left out"

    def test_a_dead_link_of_a_pattern_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "b.parquet").symlink_to(tmp_path / "nowhere.parquet")

        with pytest.raises(InputError, match=r"dead links: b\.parquet; remove them or restore what they link to"):
            _load(tmp_path / "*.parquet")

    def test_a_folder_and_a_pattern_are_the_same_images_in_the_same_order(self, tmp_path: Path) -> None:
        for shade, name in enumerate(("a/x", "a-b/x", "a", "\u00fc", "ua", "uz")):  # a slash sorts after a dash
            (tmp_path / name).parent.mkdir(exist_ok=True)
            _write(tmp_path / f"{name}.parquet", image=pa.array(_pngs(100 + 20 * shade)), label=LABELS)

        assert _load(tmp_path).contents == _load(tmp_path / "**/*.parquet").contents
        assert _load(tmp_path).contents == _load(tmp_path / "**").contents

    def test_a_file_of_no_split_beside_others_is_refused(self, tmp_path: Path) -> None:
        for name in ("train", "holdout"):
            _write(tmp_path / f"{name}.parquet", image=pa.array(_pngs()), label=LABELS)

        with pytest.raises(InputError, match=r"holdout\.parquet is of no split, other files are \(train\); rename it"):
            _load(tmp_path)

    def test_files_with_other_columns_or_classes_are_refused(self, tmp_path: Path) -> None:
        _write(tmp_path / "a.parquet", image=pa.array(_pngs()), label=LABELS)
        _write(tmp_path / "b.parquet", image=pa.array(_pngs()), kind=LABELS)

        with pytest.raises(InputError, match=r"b\.parquet has no column label, a\.parquet has; give them the same"):
            _load(tmp_path)
        _write(tmp_path / "b.parquet", image=pa.array(_pngs()), label=NAMES)
        with pytest.raises(InputError, match="labels in column label must be whole numbers or names, got both"):
            _load(tmp_path)

    def test_class_folders_beside_parquet_are_ambiguous(self, tmp_path: Path) -> None:
        _write(tmp_path / "train.parquet", image=pa.array(_pngs()), label=LABELS)
        for name in CLASSES:
            (tmp_path / name).mkdir()
            (tmp_path / name / "x.png").write_bytes(_png(0, 100))

        with pytest.raises(
            InputError, match=r"class folders of pictures and Parquet files; give --data '.*/\*\.parquet'"
        ):
            _load(tmp_path)
        _shows(_load(tmp_path / "*.parquet"), "0", "1")

    def test_a_pattern_over_folders_tells_splits_by_the_folders(self, tmp_path: Path) -> None:
        for shade, name in ((100, "train"), (120, "val")):
            (tmp_path / name).mkdir()
            _write(tmp_path / name / "x.parquet", image=pa.array(_pngs(shade)), label=LABELS)

        assert len(_load(tmp_path / "*" / "*.parquet").val_labels) == 12

    def test_a_damaged_page_is_one_line_that_names_the_file(self, file: Path) -> None:
        _write(file, image=pa.array(_pngs()), label=LABELS)
        content = bytearray(file.read_bytes())
        content[4:200] = bytes(196)
        file.write_bytes(content)

        with pytest.raises(
            InputError, match=r"pets\.parquet: not a readable Parquet file \(.+\); fetch it again"
        ) as caught:
            _load(file)
        assert "\n" not in str(caught.value)

    def test_a_table_without_rows_is_refused(self, file: Path) -> None:
        with pytest.raises(InputError, match="there are no images in it"):
            _load(_write(file, image=pa.array([], pa.binary()), label=pa.array([], pa.int64())))


def _load(source: Path, **options: object) -> ImageSet:
    return load_images(DataSource(name=str(source), **options), resolution=32, seed=0)


def _write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def _png(channel: int, value: int) -> bytes:
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[..., channel] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _pngs(shade: int = 100) -> list[bytes]:
    """Red cats and green dogs."""
    return [_png(label, shade + row) for row, label in enumerate(LABELS)]


def _shows(image_set: ImageSet, *names: str, count: int = 12) -> None:
    """Check the classes, and that each image has the colour of its class."""
    assert image_set.class_names == names
    images = [*image_set.train_images, *image_set.val_images]
    labels = image_set.train_labels.tolist() + image_set.val_labels.tolist()
    assert len(labels) == count
    assert [int(image.float().mean((1, 2)).argmax()) for image in images] == labels
