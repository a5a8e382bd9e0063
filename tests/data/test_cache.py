"""What is kept of a source: whole and of this source, or not at all."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import ImageSet, load_images
from nas.errors import InputError, NasError


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


def _load(source: Path, *, seed: int = 0, **options: object) -> ImageSet:
    return load_images(str(source), resolution=32, seed=seed, **options)


def _picture(channel: int, value: int) -> Image.Image:
    pixels = np.zeros((36, 40, 3), dtype=np.uint8)
    pixels[..., channel] = value
    return Image.fromarray(pixels)


def _unreachable(*arguments: object, **options: object) -> None:
    raise ConnectionError("name or service not known")


def _all(image_set: ImageSet) -> torch.Tensor:
    return torch.cat([image_set.train_images, image_set.val_images])


class TestRoom:
    """A full disk ends with the file and exit code 1, and leaves nothing that is taken as whole."""

    def test_a_write_of_a_part_goes_on(self, folder: Path, deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = [_load(folder), _load(deep)]
        write = os.pwrite
        monkeypatch.setattr("os.pwrite", lambda file, content, place: write(file, bytes(content[:1000]), place))

        for source, whole in zip((folder, deep), expected, strict=True):
            again = load_images(str(source), resolution=32, seed=0, train_limit=100)  # another key of the cache
            assert torch.equal(whole.train_images, again.train_images)

    @pytest.mark.parametrize("call", ["pwrite", "posix_fallocate", "fsync", "ftruncate"])
    def test_a_disk_that_is_full_is_said_and_later_it_goes_on(
        self, folder: Path, call: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr("nas.data.load.Survey.keep", lambda *_: None)
            patch.setattr(f"os.{call}", fail)
            with pytest.raises(NasError, match=r"/images(/\w+)?: No space left on device: make room, th") as caught:
                _load(folder)
            assert caught.value.exit_code == 1

        assert list((Path(os.environ["NAS_CACHE"]) / "images").iterdir()) == []
        assert len(_load(folder).train_labels) == 36

    def test_room_for_the_images_is_looked_for_first(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=40 * 3 * 32 * 32 - 1))

        with pytest.raises(NasError, match=r"/images: 0\.1 MiB are needed for the decoded images; make room") as caught:
            _load(folder)
        assert caught.value.exit_code == 1

    def test_room_for_deep_grey_is_looked_for_as_well(self, deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        free = iter([2**30, 6 * 4 * 32 * 32 - 1])
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=next(free)))

        with pytest.raises(NasError, match=r"/images: 0\.0 MiB are needed for the decoded images; make room"):
            _load(deep)

    @pytest.mark.parametrize("name", ["set.json", "train_images.npy", "train_labels.npy", "val_images.npy"])
    @pytest.mark.parametrize("content", [b"", b"{}", b"null", b'{"class_names": 3}', b"\x93NUMPY"])
    def test_what_is_not_whole_is_made_again(self, folder: Path, name: str, content: bytes) -> None:
        expected = _load(folder).train_images.clone()
        [kept] = (Path(os.environ["NAS_CACHE"]) / "images").glob("*")
        (kept / name).write_bytes(content)

        assert torch.equal(expected, _load(folder).train_images)

    def test_labels_of_another_number_of_images_are_made_again(self, folder: Path) -> None:
        expected = _load(folder).train_labels.clone()
        [kept] = (Path(os.environ["NAS_CACHE"]) / "images").glob("*")
        np.save(kept / "train_labels.npy", expected[:7].numpy())

        assert torch.equal(expected, _load(folder).train_labels)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Four deep grey pictures each of cold and hot things."""
    for name, level in (("cold", 12_000), ("hot", 40_000)):
        (tmp_path / "deep" / name).mkdir(parents=True)
        for index in range(4):
            values = np.random.default_rng(index).normal(level, 2000, (48, 48)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "deep" / name / f"{index}.tif")
    return tmp_path / "deep"
