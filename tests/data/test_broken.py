"""Pictures that cannot be read: listed at once, or left out and counted."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nas.data import DataSource, ImageSet, load, load_images
from nas.errors import InputError, NasError

Fill = Callable[..., None]
Shows = Callable[..., None]
Paint = Callable[..., Image.Image]


class TestBroken:
    def test_all_broken_pictures_are_listed_at_once(self, pets: Path) -> None:
        for name in ("cat/0.png", "dog/1.png", "dog/3.png"):
            (pets / name).write_bytes((pets / name).read_bytes()[:60])

        with pytest.raises(InputError) as caught:
            _load(pets)

        message = str(caught.value)
        assert message.startswith(f"{pets}: 3 of 8 images cannot be read: cat/0.png, dog/1.png, dog/3.png (")
        assert message.endswith("); repair or remove them, or leave them out with --option skip_broken=true")

    def test_a_long_list_is_cut_and_counted(self, pets: Path, fill: Fill) -> None:
        fill(pets / "cat", "cat", 60)
        for picture in (pets / "cat").iterdir():
            picture.write_bytes(b"no")

        with pytest.raises(
            InputError, match=r"60 of 64 images cannot be read: (cat/\d+\.png, ){4}cat/\d+.png and 55 m"
        ):
            _load(pets)

    def test_broken_pictures_are_left_out_and_counted(
        self, pets: Path, caplog: pytest.LogCaptureFixture, shows: Shows
    ) -> None:
        expected = _load(pets)
        (pets / "cat" / "broken.png").write_bytes(b"no")
        (pets / "dog" / "empty.jpg").write_bytes(b"")

        image_set = _load(pets, skip_broken=True)
        again = _load(pets, skip_broken=True)

        assert caplog.messages == [f"{pets}: 2 broken images left out"]
        assert f"{pets}: 6 train and 2 val images of 2 classes at 32 px" == expected.description
        shows(image_set, cat=4, dog=4)
        assert again.description == image_set.description

    def test_a_class_of_broken_pictures_is_named(self, pets: Path) -> None:
        for picture in (pets / "cat").iterdir():
            picture.write_bytes(b"no")

        with pytest.raises(InputError, match=r"without the broken images, train has none left of cat; repair some of"):
            _load(pets, skip_broken=True)

    def test_a_validation_class_without_a_training_picture_left_is_named(self, split: Path, fill: Fill) -> None:
        for name, colour in (("cat", "cat"), ("dog", "dog"), ("cow", "cow")):
            fill(split / "train" / name, colour)
            fill(split / "val" / name, colour, 2)
        for picture in (split / "train" / "cow").iterdir():
            picture.write_bytes(b"no")

        with pytest.raises(InputError, match=r"train has none left of cow; repair some of them, or take the c"):
            _load(split, skip_broken=True)

    def test_validation_without_a_picture_left_is_named(self, split: Path, fill: Fill) -> None:
        fill(split / "val" / "cat", "cat", 2)
        for picture in (split / "val" / "cat").iterdir():
            picture.write_bytes(b"no")

        with pytest.raises(InputError, match="without the broken images, val has none left; repair some of them"):
            _load(split, skip_broken=True)

    def test_a_validation_class_may_lose_its_pictures(self, split: Path, fill: Fill) -> None:
        for name in ("cat", "dog"):
            fill(split / "val" / name, name, 2)
        for picture in (split / "val" / "dog").iterdir():
            picture.write_bytes(b"no")

        assert _load(split, skip_broken=True).val_labels.tolist() == [0, 0]

    def test_a_damaged_exif_block_is_quiet(
        self, pets: Path, recwarn: pytest.WarningsRecorder, shows: Shows, picture: Paint
    ) -> None:
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\xff\xff\xff\xf0"
        picture("cat", 9).save(pets / "cat" / "camera.jpg", exif=exif)

        shows(_load(pets), cat=5, dog=4)
        assert not recwarn.list


class TestUnreadable:
    """A file that cannot be opened for a moment says nothing of its picture, so nothing of it is kept."""

    @pytest.mark.parametrize("skip_broken", [False, True])
    @pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ENOENT])
    @pytest.mark.parametrize("kind", ["folder", "paths"])
    def test_it_is_named_and_nothing_of_it_is_kept(
        self, pets: Path, monkeypatch: pytest.MonkeyPatch, code: int, skip_broken: bool, kind: str
    ) -> None:
        source = pets
        if kind == "paths":
            source = pets / "pets.parquet"
            paths = sorted(str(path.relative_to(pets)) for path in pets.glob("*/*.png"))
            pq.write_table(pa.table({"image": paths, "label": [path[:3] for path in paths]}), source)
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", _failing("0.png", code))
            with pytest.raises(InputError, match=rf"0\.png: cannot be read \({os.strerror(code)}\); look at its disk"):
                _load(source, skip_broken=skip_broken)

        assert len(_load(source, skip_broken=skip_broken).train_labels) == 6

    def test_it_is_named_where_its_digest_is_known(self, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _load(pets, skip_broken=True)
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", _failing("0.png", errno.EIO))
            with pytest.raises(InputError, match=r"0\.png: cannot be read \(Input/output error\)"):
                load_images(DataSource(name=str(pets), skip_broken=True), resolution=64, seed=0)

        found = load_images(DataSource(name=str(pets), skip_broken=True), resolution=64, seed=0)
        assert len(found.train_labels) == 6

    @pytest.mark.parametrize("name", ["0.png", "cat"])
    @pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
    def test_what_cannot_be_looked_at_is_no_dead_link(
        self, pets: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
    ) -> None:
        """Else a class whose disk is away for a moment would be left out."""

        class Entry:
            def __init__(self, entry: os.DirEntry[str]) -> None:
                self.name, self.path, self.is_symlink, self._entry = entry.name, entry.path, entry.is_symlink, entry

            def is_dir(self) -> bool:
                return self._entry.is_dir() if self.name != name else self._fail()

            def stat(self) -> os.stat_result:
                return self._entry.stat() if self.name != name else self._fail()

            def _fail(self) -> Any:
                raise OSError(code, os.strerror(code), self.path)

        scan = os.scandir
        monkeypatch.setattr("nas.data.walk.os.scandir", lambda folder: [Entry(entry) for entry in scan(folder)])

        with pytest.raises(InputError, match=rf"{name}: cannot be read \({os.strerror(code)}\); look at its disk"):
            _load(pets, skip_broken=True)

    def test_a_table_that_cannot_be_read_now_is_not_called_damaged(
        self, pets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        pq.write_table(pa.table({"image": [b"x"], "label": [1]}), pets.parent / "x.parquet")
        monkeypatch.setattr("pyarrow.parquet.read_metadata", fail)

        with pytest.raises(InputError, match=r"x\.parquet: cannot be read \(Input/output error\); look at its disk"):
            _load(pets.parent / "x.parquet")

    def test_too_little_memory_says_nothing_of_the_picture(self, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr("PIL.Image.Image.load", fail)

        with pytest.raises(NasError, match=r"\.png: not enough memory to decode it; end other programs") as caught:
            _load(pets, skip_broken=True)
        assert caught.value.exit_code == 1

    def test_a_file_of_a_row_that_goes_while_it_is_read_is_not_kept_as_missing(
        self, pets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = pets / "pets.parquet"
        paths = sorted(str(path.relative_to(pets)) for path in pets.glob("*/*.png"))
        pq.write_table(pa.table({"image": paths, "label": [path[:3] for path in paths]}), source)
        first = pets / "cat" / "0.png"
        content, status = first.read_bytes(), first.stat()

        with monkeypatch.context() as patch:
            survey = load._survey
            patch.setattr("nas.data.load._survey", lambda *asked: (survey(*asked), first.unlink())[0])
            with pytest.raises(InputError, match="files have changed while they were read; repeat this when they rest"):
                _load(source, skip_broken=True)
        first.write_bytes(content)
        os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))

        assert len(_load(source, skip_broken=True).train_labels) == 6

    def test_a_pipe_named_by_a_row_is_not_waited_for(self, pets: Path) -> None:
        os.mkfifo(pets / "pipe.png")
        paths = [*sorted(str(path.relative_to(pets)) for path in pets.glob("*/*.png")), "pipe.png"]
        pq.write_table(pa.table({"image": paths, "label": [*["cat", "dog"] * 4, "cat"]}), pets / "pets.parquet")

        with pytest.raises(InputError, match=r"row 8 of pets\.parquet: not an image .*\(no regular file .*pipe\.png\)"):
            _load(pets / "pets.parquet")

    def test_another_reader_tries_broken_pictures_again(self, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (pets / "cat" / "photo.jpg").write_bytes(b"no")
        before = _load(pets, skip_broken=True)
        monkeypatch.setattr("nas.data.load.picture_readers", lambda: ["another"])
        monkeypatch.setattr("nas.data.cache.decode", lambda _, size: np.eye(size, dtype=np.uint8)[None].repeat(3, 0))

        assert len(_load(pets, skip_broken=True).train_labels) > len(before.train_labels)


def _failing(name: str, code: int) -> Callable[..., Any]:
    """`open` of a disk that has trouble with one file."""

    def failing(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).endswith(f"cat/{name}"):
            raise OSError(code, os.strerror(code), file)
        return io.open(file, *arguments, **options)  # noqa: UP020 - the one that is not replaced

    return failing


def _load(source: Path, **options: object) -> ImageSet:
    return load_images(DataSource(name=str(source), **options), resolution=32, seed=0)
