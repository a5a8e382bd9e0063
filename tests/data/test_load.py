from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from nas.data import ImageSet, load_images, training_batches, validation_batches
from nas.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images of each class: cats are red and dogs are green, and each image is brighter than the one before."""
    for name, channel in (("cat", 0), ("dog", 1)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(20):
            _picture(channel, 50 + 10 * index).save(tmp_path / "pets" / name / f"{index:02}.png")
    return tmp_path / "pets"


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
        with pytest.raises(InputError, match="all images are of one class"):
            _load(folder / "cat")

    def test_folder_without_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="neither images nor Parquet files in this folder"):
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


class TestNames:
    def test_misspelt_path_gets_the_nearest_one(self, folder: Path) -> None:
        with pytest.raises(InputError, match=r"petz/cat: no such file or folder; did you mean .*/pets\?$"):
            _load(folder.parent / "petz" / "cat")

    def test_unreachable_hub_is_said_in_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", _unreachable)

        with pytest.raises(InputError) as caught:
            load_images("owner/name", resolution=32, seed=0)

        message = str(caught.value)
        assert "owner/name: not a file or folder here (" in message
        assert message.endswith("and the hub could not be reached (name or service not known)")
        assert "\n" not in message

    def test_data_set_on_the_hub_is_read_at_its_revision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[dict[str, str]] = []

        def load_dataset(name: str, **options: str) -> DatasetDict:
            asked.append({"name": name, **options})
            return DatasetDict({"train": _hub_rows([0, 1] * 4), "test": _hub_rows([1, 0])})

        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
        monkeypatch.setattr("datasets.load_dataset", load_dataset)

        image_set = load_images("owner/name", resolution=32, seed=0)

        assert asked == [{"name": "owner/name", "revision": "abc"}]
        assert image_set.class_names == ("cat", "dog")
        assert (len(image_set.train_labels), image_set.val_labels.tolist()) == (8, [1, 0])

    @pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "the hub is away"])
    def test_data_set_of_the_hub_in_the_cache_needs_no_hub(
        self, monkeypatch: pytest.MonkeyPatch, offline: bool
    ) -> None:
        asked: list[str] = []

        def away(*arguments: str, **_: object) -> None:
            asked.append(arguments[1])
            raise ConnectionError("name or service not known")

        rows = {"train": _hub_rows([0, 1] * 4), "test": _hub_rows([1, 0])}
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: DatasetDict(rows))
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
        first = load_images("someone/pets", resolution=32, seed=0)
        monkeypatch.setattr("datasets.load_dataset", away)
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", away)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        again = load_images("someone/pets", resolution=32, seed=0)

        assert first.contents == again.contents
        assert asked == ([] if offline else ["someone/pets"])

    def test_revision_in_the_hubs_own_cache_is_known_offline(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        revisions: list[str] = []

        def load_dataset(name: str, *, revision: str) -> DatasetDict:
            revisions.append(revision)
            return DatasetDict({"train": _hub_rows([0, 1] * 4)})

        refs = tmp_path / "hub" / "datasets--someone--pets" / "refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text("abc")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        load_images("someone/pets", resolution=32, seed=0)

        assert revisions == ["abc"]

    def test_misspelt_word_is_not_asked_of_the_hub(self) -> None:
        with pytest.raises(InputError, match="not a name on the hub"):
            load_images("my data", resolution=32, seed=0)

    def test_file_of_another_kind_is_refused(self, folder: Path) -> None:
        with pytest.raises(InputError, match=r"not a Parquet file; give a folder of class folders or a \.parquet file"):
            _load(folder / "cat" / "00.png")


class TestDecoding:
    @pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1", "CMYK"])
    def test_every_mode_becomes_rgb(self, folder: Path, mode: str) -> None:
        suffix = "jpg" if mode == "CMYK" else "png"
        if mode == "I;16":
            grey = Image.fromarray(np.full((40, 40), 32768, dtype=np.uint16))
        else:
            grey = Image.new("L", (40, 40), 128).convert("RGB").convert(mode)
        grey.save(folder / "cat" / f"grey.{suffix}")

        images = _load(folder)

        found = torch.cat([images.train_images, images.val_images]).float().mean((2, 3))  # (N, 3)
        target = torch.tensor([255.0, 255.0, 255.0] if mode == "1" else [128.0, 128.0, 128.0])
        if mode == "1":  # dithered to black and white
            target = torch.tensor([127.5, 127.5, 127.5])
        assert (found - target).abs().amax(1).min() < 3

    def test_centre_of_the_short_side_is_kept(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            for index in range(2):
                wide = np.zeros((32, 96, 3), dtype=np.uint8)
                wide[:, 32:64] = 200
                wide[0, 40] = 210  # a set of one colour is refused
                Image.fromarray(wide).save(tmp_path / name / f"{index}.png")

        image_set = _load(tmp_path)

        assert image_set.train_images.float().mean() > 190

    def test_camera_orientation_is_followed(self, tmp_path: Path) -> None:
        upright = np.zeros((64, 64, 3), dtype=np.uint8)
        upright[:32] = 255
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            for index in range(2):
                exif = Image.Exif()
                exif[0x0112] = 3  # orientation: rotated by 180 degrees
                Image.fromarray(upright).save(tmp_path / name / f"{index}.jpg", exif=exif)

        image_set = _load(tmp_path)

        assert image_set.train_images[0, :, 20:].float().mean() > 240

    def test_statistics_are_those_of_the_training_images(self, folder: Path) -> None:
        image_set = _load(folder)

        pixels = image_set.train_images.double().div(255).transpose(0, 1).flatten(1)
        assert image_set.mean == pytest.approx(pixels.mean(1).tolist())
        assert image_set.std == pytest.approx(pixels.std(1, correction=0).tolist())


class TestCache:
    def test_second_load_does_not_read_the_source(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = _load(folder)
        monkeypatch.setattr("datasets.load_dataset", _unreachable)

        second = _load(folder)

        assert torch.equal(first.train_images, second.train_images)
        assert first.class_names == second.class_names
        assert (first.mean, first.std, first.description) == (second.mean, second.std, second.description)

    def test_changed_image_is_decoded_again(self, folder: Path) -> None:
        before = _load(folder)
        _picture(2, 255).save(folder / "cat" / "00.png")
        os.utime(folder / "cat" / "00.png", (time.time() + 10, time.time() + 10))

        after = _load(folder)

        assert not torch.equal(_all(before), _all(after))

    def test_damaged_cache_is_made_anew(self, folder: Path) -> None:
        before = _load(folder)
        [kept] = (Path(os.environ["NAS_CACHE"]) / "images").glob("*/train_images.npy")
        expected = before.train_images.clone()
        kept.write_bytes(kept.read_bytes()[:200])

        assert torch.equal(expected, _load(folder).train_images)

    def test_interrupted_decoding_leaves_nothing_behind(self, folder: Path) -> None:
        def interrupt(words: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _load(folder, progress=interrupt)

        assert list((Path(os.environ["NAS_CACHE"]) / "images").iterdir()) == []

    def test_cache_that_cannot_be_written_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NAS_CACHE", str(folder / "cat" / "00.png"))

        with pytest.raises(InputError, match=r"cannot keep decoded images there \(.+\); set NAS_CACHE"):
            _load(folder)

    def test_progress_ends_at_the_total(self, folder: Path) -> None:
        calls: list[tuple[str, int, int]] = []

        _load(folder, progress=lambda *call: calls.append(call))

        assert calls == [
            ("Reading images, to know them again", 40, 40),
            ("Decoding train images", 36, 36),
            ("Decoding val images", 4, 4),
        ]


class TestBatches:
    def test_every_image_is_seen_once_before_any_is_seen_again(self) -> None:
        image_set = _numbered(count=10)

        seen = torch.cat([labels for _, labels in training_batches(image_set, batch_size=4, steps=5, seed=0)])

        assert list(range(10)) == sorted(seen[:10].tolist()) == sorted(seen[10:].tolist())
        assert seen[:10].tolist() != seen[10:].tolist()

    def test_seed_repeats_images_and_augmentation(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=32, val_limit=8)

        first, again, other = (
            torch.cat([images for images, _ in training_batches(image_set, batch_size=8, steps=4, seed=seed)])
            for seed in (5, 5, 6)
        )

        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_batches_do_not_touch_the_global_generator(self) -> None:
        state = torch.random.get_rng_state()

        list(training_batches(_numbered(count=4), batch_size=2, steps=2, seed=0))

        assert torch.equal(state, torch.random.get_rng_state())

    def test_images_are_shifted_and_mirrored_each_on_its_own(self) -> None:
        """The slope of a horizontal ramp shows whether it was mirrored, and its middle shows how far it was shifted."""
        ramp = (torch.arange(32) * 4).to(torch.uint8).expand(64, 3, 32, 32).contiguous()
        image_set = _images(ramp)

        images, _ = next(training_batches(image_set, batch_size=64, steps=1, seed=0))

        row = images[:, 0, 16, :]  # (64, 32)
        mirrored = row[:, 20] < row[:, 12]
        middle = torch.where(mirrored, row[:, 15], row[:, 16]) * 255 / 4
        assert 16 < mirrored.sum() < 48
        assert {14, 15, 16, 17, 18} == set(middle.round().int().tolist())

    def test_border_is_reflected(self) -> None:
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        image[:, :, 2] = 255  # a shift by two puts the reflection of this column on the border
        image_set = _images(image.expand(64, 3, 32, 32).contiguous())

        images, _ = next(training_batches(image_set, batch_size=64, steps=1, seed=0))

        assert {1, 2} == set((images[:, 0, 16] > 0.5).sum(1).tolist())

    def test_batches_are_normalised_and_channels_last(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=128, val_limit=64)

        images, labels = next(training_batches(image_set, batch_size=128, steps=1, seed=0))

        assert images.shape == (128, 3, 32, 32)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.mean((0, 2, 3)).abs().max() < 0.05
        assert (images.std((0, 2, 3)) - 1).abs().max() < 0.05
        assert torch.int64 == labels.dtype

    def test_validation_images_come_once_in_order_unaugmented(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=16, val_limit=10)

        batches = list(validation_batches(image_set, batch_size=4))

        std, mean = (torch.tensor(values).view(3, 1, 1) for values in (image_set.std, image_set.mean))
        restored = (torch.cat([images for images, _ in batches]) * std + mean) * 255
        assert [len(labels) for _, labels in batches] == [4, 4, 2]
        assert torch.equal(image_set.val_images, restored.round().to(torch.uint8))
        assert torch.equal(image_set.val_labels, torch.cat([labels for _, labels in batches]))

    def test_constant_channel_stays_finite(self) -> None:
        images, _ = next(
            training_batches(_images(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)), batch_size=4, steps=1, seed=0)
        )

        assert math.isfinite(images.sum().item())


class TestSynthetic:
    def test_train_and_val_images_differ(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=64, val_limit=64)

        train, val = (
            {image.numpy().tobytes() for image in images} for images in (image_set.train_images, image_set.val_images)
        )
        assert not train & val

    def test_seeds_next_to_each_other_share_no_image(self) -> None:
        first, second = (
            load_images("synthetic", resolution=32, seed=seed, train_limit=32, val_limit=32) for seed in (0, 1)
        )

        assert not torch.equal(first.val_images, second.train_images)

    def test_set_moves_as_a_whole(self) -> None:
        image_set = load_images("synthetic", resolution=32, seed=0, train_limit=8, val_limit=8).to("meta")

        assert {"meta"} == {
            tensor.device.type
            for tensor in (image_set.train_images, image_set.train_labels, image_set.val_images, image_set.val_labels)
        }


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
    images = [{"bytes": _png(0, 90 + row), "path": f"{row}.png"} for row in range(len(labels))]
    if broken is not None:
        images[broken]["bytes"] = b"\x89PNG broken"
    features = Features({"image": ImageFeature(), "label": Value("int64")})
    rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
    rows.cast_column("label", ClassLabel(names=["cat", "dog"])).to_parquet(path)


def _hub_rows(labels: list[int]) -> Dataset:
    """Rows with the column names of CIFAR-100; of the two columns of classes, the finer one is the label."""
    features = Features(
        {
            "img": ImageFeature(),
            "fine_label": ClassLabel(names=["cat", "dog"]),
            "coarse_label": ClassLabel(names=["pet"]),
        }
    )
    images = [{"bytes": _png(0, 90 + row), "path": None} for row in range(len(labels))]
    columns = {"img": images, "fine_label": labels, "coarse_label": [0] * len(labels)}
    return Dataset.from_dict(columns, features=features)


def _numbered(*, count: int) -> ImageSet:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 3, 32, 32).contiguous()
    return _images(images)


def _images(images: torch.Tensor) -> ImageSet:
    return ImageSet(
        train_images=images,
        train_labels=torch.arange(len(images)),
        val_images=images,
        val_labels=torch.arange(len(images)),
        class_names=tuple(map(str, range(len(images)))),
        description="made here",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def _labels(image_set: ImageSet) -> list[int]:
    return torch.cat([image_set.train_labels, image_set.val_labels]).tolist()


def _all(image_set: ImageSet) -> torch.Tensor:
    return torch.cat([image_set.train_images, image_set.val_images])


def _unreachable(*arguments: object, **options: object) -> None:
    raise ConnectionError("name or service not known")
