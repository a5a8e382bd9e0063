from __future__ import annotations

import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from nas.data import ImageSet, load_images
from nas.errors import InputError


class TestFolder:
    def test_class_folders_become_classes(self, folder: Path) -> None:
        image_set = _load(folder)

        assert image_set.class_names == ("cat", "dog")
        for image, label in zip(image_set.train_images, image_set.train_labels, strict=True):
            assert int(label) == int(image.float().mean((1, 2)).argmax())

    def test_a_tenth_of_every_class_is_held_out_where_there_is_no_split(self, folder: Path) -> None:
        image_set = _load(folder)

        assert image_set.train_labels.bincount().tolist() == [18, 18]
        assert image_set.val_labels.bincount().tolist() == [2, 2]
        brightness = torch.cat([image_set.train_images, image_set.val_images]).amax((1, 2, 3))
        assert len(set(zip(brightness.tolist(), _labels(image_set), strict=True))) == 40

    def test_the_seed_chooses_what_is_held_out(self, folder: Path) -> None:
        first, again, other = (_load(folder, seed=seed) for seed in (0, 0, 1))

        assert torch.equal(first.val_images, again.val_images)
        assert not torch.equal(first.val_images, other.val_images)

    def test_what_a_supernet_saw_is_not_held_out_under_another_seed(self, folder: Path) -> None:
        trained_on, scored_on = _load(folder, seed=0), _load(folder, seed=1, split_seed=0)

        assert torch.equal(trained_on.val_images, scored_on.val_images)
        assert not torch.equal(trained_on.val_images, _load(folder, seed=1).val_images)

    def test_one_image_a_class_is_refused(self, folder: Path) -> None:
        for picture in folder.glob("*/*.png"):
            if picture.stem != "00":
                picture.unlink()

        with pytest.raises(InputError, match="every class has one image only: none can be held out to score on"):
            _load(folder)

    @pytest.mark.parametrize("word", ["val", "validation", "test"])
    def test_the_folder_named_for_validation_is_held_out(self, folder: Path, word: str) -> None:
        root = _split_folder(folder, word)

        image_set = _load(root)

        assert (len(image_set.train_labels), len(image_set.val_labels)) == (38, 2)
        assert image_set.val_labels.tolist() == [0, 1]

    def test_a_class_may_be_called_train(self, folder: Path) -> None:
        (folder / "cat").rename(folder / "train")

        assert _load(folder).class_names == ("dog", "train")

    def test_other_files_and_odd_names_do_not_disturb(self, folder: Path) -> None:
        (folder / "cat" / "notes.txt").write_text("not an image")
        (folder / "README.md").write_text("pets")
        odd = folder.rename(folder.with_name("my [1] pets * ü"))

        assert len(_labels(_load(odd))) == 40

    def test_limits_keep_classes_even(self, folder: Path) -> None:
        image_set = _load(folder, train_limit=10, val_limit=2)

        assert image_set.train_labels.bincount().tolist() == [5, 5]
        assert image_set.val_labels.bincount().tolist() == [1, 1]

    def test_description_counts_what_was_taken(self, folder: Path) -> None:
        expected = f"{folder}: 36 train and 4 val images of 2 classes at 32 px"

        assert expected == _load(folder).description

    def test_corrupt_image_is_named(self, folder: Path) -> None:
        broken = folder / "cat" / "07.png"
        broken.write_bytes(broken.read_bytes()[:60])

        with pytest.raises(
            InputError, match=r"pets/cat/07\.png: not an image that can be read \(.+\); repair or remove it, or leave"
        ):
            _load(folder)

    def test_text_in_the_name_of_an_image_is_named(self, folder: Path) -> None:
        (folder / "dog" / "page.jpg").write_text("<html>")

        with pytest.raises(InputError, match=r"dog/page\.jpg: not an image"):
            _load(folder)

    def test_single_class_is_refused(self, folder: Path) -> None:
        with pytest.raises(InputError, match="its 20 pictures are in no class folder; give the folder above the"):
            _load(folder / "cat")

    def test_folder_without_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="neither images nor Parquet files nor shards in this folder"):
            _load(tmp_path)


class TestParquet:
    def test_splits_are_told_by_file_names(self, tmp_path: Path) -> None:
        _write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", labels=[0, 1, 1])
        _write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", labels=[0, 0])
        _write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", labels=[1, 0])
        _write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", labels=[-1, -1])

        image_set = _load(tmp_path)

        assert image_set.class_names == ("cat", "dog")
        assert image_set.train_labels.tolist() == [0, 1, 1, 0, 0]
        assert image_set.val_labels.tolist() == [1, 0]

    def test_a_test_split_without_labels_is_not_used(self, tmp_path: Path) -> None:
        _write_parquet(tmp_path / "train.parquet", labels=[0, 1] * 10)
        _write_parquet(tmp_path / "test.parquet", labels=[-1, -1])

        image_set = _load(tmp_path)

        assert (len(image_set.train_labels), sorted(image_set.val_labels.tolist())) == (18, [0, 1])

    def test_one_file_and_patterns_are_read(self, tmp_path: Path) -> None:
        _write_parquet(tmp_path / "a.parquet", labels=[0, 1] * 5)
        _write_parquet(tmp_path / "b.parquet", labels=[0, 1] * 5)

        assert len(_labels(_load(tmp_path / "a.parquet"))) == 10
        assert len(_labels(_load(tmp_path / "*.parquet"))) == 20

    def test_images_and_labels_without_metadata_are_recognised(self, tmp_path: Path) -> None:
        images = [{"bytes": _png(0, 90 + row), "path": None} for row in range(4)]
        table = pa.table({"img": images, "target": ["oak", "fir", "oak", "fir"]})
        pq.write_table(table, tmp_path / "trees.parquet")

        image_set = _load(tmp_path / "trees.parquet")

        assert image_set.class_names == ("fir", "oak")
        assert sorted(_labels(image_set)) == [0, 0, 1, 1]

    def test_corrupt_image_is_named_by_file_and_row(self, tmp_path: Path) -> None:
        _write_parquet(tmp_path / "train-0.parquet", labels=[0, 1, 0])
        _write_parquet(tmp_path / "train-1.parquet", labels=[0, 1, 0], broken=1)
        _write_parquet(tmp_path / "val.parquet", labels=[0, 1, 0])

        with pytest.raises(InputError, match=r"row 1 of train-1\.parquet: not an image that can be read"):
            _load(tmp_path)

    def test_row_without_a_label_is_named(self, tmp_path: Path) -> None:
        _write_parquet(tmp_path / "train.parquet", labels=[0, 1, -1])

        with pytest.raises(InputError, match=r"row 2 of train\.parquet has no label \(1 such rows\)"):
            _load(tmp_path)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (
                {"picture": [1, 2], "label": [0, 1]},
                r"one column of images is needed, found none among columns picture \(int64\), label \(int64\); --",
            ),
            (
                {"image": [b"", b""], "kind": [0, 1]},
                "a column of labels is needed, called label, .*; found columns image, kind",
            ),
            (
                {"image": [b"", b""], "label": [0.5, 1.5]},
                "labels in column label must be whole numbers or names, got float",
            ),
        ],
    )
    def test_missing_columns_are_named_with_those_there_are(self, tmp_path: Path, columns: dict, message: str) -> None:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")

        with pytest.raises(InputError, match=message):
            _load(tmp_path / "x.parquet")

    def test_file_that_is_not_parquet_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "train.parquet").write_text("no")

        with pytest.raises(InputError, match=r"train\.parquet: not a readable Parquet file \(.+\); fetch it again"):
            _load(tmp_path)


def test_importing_the_module_loads_neither_torch_nor_datasets() -> None:
    code = "import sys, nas.data; sys.exit(bool({'torch', 'datasets', 'PIL'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _load(source: Path, *, seed: int = 0, **options: object) -> ImageSet:
    return load_images(str(source), resolution=32, seed=seed, **options)


def _picture(channel: int, value: int) -> Image.Image:
    pixels = np.zeros((36, 40, 3), dtype=np.uint8)
    pixels[..., channel] = value
    return Image.fromarray(pixels)


def _png(channel: int, value: int) -> bytes:
    buffer = io.BytesIO()
    _picture(channel, value).save(buffer, "PNG")
    return buffer.getvalue()


def _split_folder(folder: Path, word: str) -> Path:
    """Move the images below train/, except the first image of each class, which goes below the folder `word`."""
    root = folder.with_name("split")
    (root / word).mkdir(parents=True)
    for name in ("cat", "dog"):
        (root / word / name).mkdir()
        (folder / name / "00.png").rename(root / word / name / "00.png")
    folder.rename(root / "train")
    return root


def _write_parquet(path: Path, *, labels: list[int], broken: int | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    shade = zlib.crc32(path.name.encode()) % 150  # no two files have the same images
    images = [{"bytes": _png(0, 90 + shade + row), "path": f"{row}.png"} for row in range(len(labels))]
    if broken is not None:
        images[broken]["bytes"] = b"\x89PNG broken"
    features = Features({"image": ImageFeature(), "label": Value("int64")})
    rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
    rows.cast_column("label", ClassLabel(names=["cat", "dog"])).to_parquet(path)


def _labels(image_set: ImageSet) -> list[int]:
    return torch.cat([image_set.train_labels, image_set.val_labels]).tolist()
