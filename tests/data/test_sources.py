"""What the name of a source means: a path, a pattern or a data set of the hub."""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image

from nas.data import ImageSet, load_images
from nas.errors import InputError, NasError


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
            return DatasetDict({"train": _hub_rows([0, 1] * 4), "test": _hub_rows([1, 0], 150)})

        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
        monkeypatch.setattr("datasets.load_dataset", load_dataset)

        image_set = load_images("owner/name", resolution=32, seed=0)

        assert asked == [{"name": "owner/name", "revision": "abc"}]
        assert image_set.class_names == ("cat", "dog")
        assert (len(image_set.train_labels), image_set.val_labels.tolist()) == (8, [1, 0])

    @pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "the hub is away"])
    def test_data_set_of_the_hub_in_the_cache_is_asked_of_no_hub(
        self, monkeypatch: pytest.MonkeyPatch, offline: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked: list[str] = []

        def away(*arguments: str, **_: object) -> None:
            asked.append(arguments[1])
            raise ConnectionError("name or service not known")

        rows = {"train": _hub_rows([0, 1] * 4), "test": _hub_rows([1, 0], 150)}
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: DatasetDict(rows))
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
        first = load_images("someone/pets", resolution=32, seed=0)
        monkeypatch.setattr("datasets.load_dataset", away)
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", away)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        again = load_images("someone/pets", resolution=32, seed=0)

        assert first.contents == again.contents
        assert asked == []
        assert caplog.messages[0] == "someone/pets: split train is trained on, test is held out"
        assert re.fullmatch(
            r"someone/pets: revision abc as kept here \(to ask the hub for a newer one, remove .*/hub/\w{16}\); split "
            "train is trained on, test is held out",
            caplog.messages[1],
        )

    def test_a_newer_revision_is_asked_for_once_the_kept_one_is_removed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        revisions: list[str] = []

        def load_dataset(name: str, *, revision: str) -> DatasetDict:
            revisions.append(revision)
            return DatasetDict({"train": _hub_rows([0, 1] * 4)})

        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        for revision in ("abc", "def"):
            monkeypatch.setattr(
                "huggingface_hub.HfApi.dataset_info", lambda *_, at=revision, **__: SimpleNamespace(sha=at)
            )
            load_images("someone/pets", resolution=32, seed=0)
        (kept,) = (Path(os.environ["NAS_CACHE"]) / "hub").iterdir()
        kept.unlink()
        load_images("someone/pets", resolution=32, seed=0)

        assert revisions == ["abc", "def"]

    def test_a_data_set_that_is_not_kept_is_not_asked_of_a_hub_that_is_off(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: pytest.fail("asked"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

        with pytest.raises(InputError, match="not in the cache of the hub, which is not asked while HF_HUB_OFFLINE is"):
            load_images("someone/pets", resolution=32, seed=0)

    @pytest.mark.parametrize(
        ("names", "counts", "words"),
        [
            (
                ["train", "validation", "test"],
                (8, 8),
                "split train is trained on, validation is held out, test left",
            ),
            (["train", "test", "extra"], (8, 8), "split train is trained on, test is held out, extra left out"),
            (["extra", "test", "training"], (8, 8), "split training is trained on, test is held out, extra left out"),
            (
                ["train_small", "train", "val_v2"],
                (8, 8),
                "split train is trained on, val_v2 is held out, train_small ",
            ),
            (["all"], (6, 2), "split all is trained on, a tenth of it is held out"),
            (["test"], (6, 2), "split test is trained on, a tenth of it is held out"),
        ],
    )
    def test_splits_of_the_hub_go_by_the_words_of_folders(
        self,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        names: list[str],
        counts: tuple[int, int],
        words: str,
    ) -> None:
        rows = {name: _hub_rows([0, 1] * 4, 90 + 10 * index) for index, name in enumerate(names)}
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: DatasetDict(rows))

        image_set = load_images("someone/pets", resolution=32, seed=0)

        assert (len(image_set.train_labels), len(image_set.val_labels)) == counts
        assert caplog.messages[0].startswith(f"someone/pets: {words}")

    def test_splits_of_the_hub_without_training_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = {"validation": _hub_rows([0, 1] * 4), "test": _hub_rows([0, 1] * 4)}
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: DatasetDict(rows))

        with pytest.raises(InputError, match="its splits are validation, test, and none is named train; save the one"):
            load_images("someone/pets", resolution=32, seed=0)

    def test_a_row_of_the_hub_is_named_by_its_own_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = {"train": _hub_rows([0, 1] * 4), "test": _hub_rows([0, 1, -1], 200)}
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: DatasetDict(rows))

        with pytest.raises(InputError, match="row 2 of split test has no label"):
            load_images("someone/pets", resolution=32, seed=0)

    def test_a_disk_that_is_full_while_it_is_fetched_is_no_bad_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/part")
            except OSError as error:
                raise RuntimeError("An error occurred while generating the dataset") from error

        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="abc"))
        monkeypatch.setattr("datasets.load_dataset", fail)

        with pytest.raises(NasError, match=r"^/cache/part: No space left on device: make room, then") as caught:
            load_images("someone/pets", resolution=32, seed=0)
        assert caught.value.exit_code == 1

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
        with pytest.raises(InputError, match=r"nor a WebDataset shard; give a folder .*, or a \.parquet or \.tar file"):
            _load(folder / "cat" / "00.png")


def _load(source: Path, *, seed: int = 0, **options: object) -> ImageSet:
    return load_images(str(source), resolution=32, seed=seed, **options)


def _hub_rows(labels: list[int], shade: int = 90) -> Dataset:
    """Rows with the column names of CIFAR-100; of the two columns of classes, the finer one is the label."""
    features = Features(
        {
            "img": ImageFeature(),
            "fine_label": ClassLabel(names=["cat", "dog"]),
            "coarse_label": ClassLabel(names=["pet"]),
        }
    )
    images = [{"bytes": _png(0, shade + row), "path": None} for row in range(len(labels))]
    columns = {"img": images, "fine_label": labels, "coarse_label": [0] * len(labels)}
    return Dataset.from_dict(columns, features=features)


def _unreachable(*arguments: object, **options: object) -> None:
    raise ConnectionError("name or service not known")


def _png(channel: int, value: int) -> bytes:
    buffer = io.BytesIO()
    _picture(channel, value).save(buffer, "PNG")
    return buffer.getvalue()


def _picture(channel: int, value: int) -> Image.Image:
    pixels = np.zeros((36, 40, 3), dtype=np.uint8)
    pixels[..., channel] = value
    return Image.fromarray(pixels)


def test_what_is_neither_a_folder_nor_a_file_is_said() -> None:
    with pytest.raises(InputError, match="/dev/full: neither a folder nor a regular file"):
        load_images("/dev/full", resolution=32, seed=0)
