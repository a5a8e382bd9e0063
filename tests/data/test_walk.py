"""What is in a folder is what is trained on: links are followed, and all that is left out is counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nas.data import DataSource, ImageSet, load_images
from nas.errors import InputError

Fill = Callable[..., None]
Shows = Callable[..., None]
Paint = Callable[..., Image.Image]

_HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(300)


class TestLinks:
    def test_links_to_folders_are_followed(self, tmp_path: Path, fill: Fill, shows: Shows) -> None:
        root = tmp_path / "root"
        root.mkdir()
        for name in ("cat", "dog"):
            fill(tmp_path / "store" / f"animal-{name}", name)
            (root / name).symlink_to(tmp_path / "store" / f"animal-{name}")

        shows(_load(root), cat=4, dog=4)

    def test_links_to_files_are_followed(self, pets: Path, shows: Shows) -> None:
        for name in ("cat", "dog"):
            (pets / name).rename(pets.parent / name)
            (pets / name).mkdir()
            for file in (pets.parent / name).iterdir():
                (pets / name / file.name).symlink_to(file)

        shows(_load(pets), cat=4, dog=4)

    def test_the_root_may_be_a_link(self, pets: Path, tmp_path: Path, shows: Shows) -> None:
        (tmp_path / "link").symlink_to(pets)

        shows(_load(tmp_path / "link"), cat=4, dog=4)

    @pytest.mark.parametrize("target", ["../..", "..", ".", "../../pets/cat"])
    def test_loops_are_not_followed(
        self, pets: Path, target: str, caplog: pytest.LogCaptureFixture, shows: Shows
    ) -> None:
        (pets / "cat" / "loop").symlink_to(target)

        shows(_load(pets), cat=4, dog=4)
        assert "1 behind a link to a folder above left out" in caplog.text

    def test_a_link_to_itself_is_a_dead_one(self, pets: Path) -> None:
        (pets / "cat" / "self").symlink_to(pets / "cat" / "self")

        with pytest.raises(InputError, match="dead links: cat/self"):
            _load(pets)

    def test_a_web_of_links_is_walked_once(self, pets: Path, fill: Fill) -> None:
        """Each of eight folders links to all others: there are 110,000 ways through."""
        for one in range(8):
            fill(pets / "cat" / str(one), "cat", 1)
            for other in range(8):
                if one != other:
                    (pets / "cat" / str(one) / f"to{other}").symlink_to(pets / "cat" / str(other))

        image_set = _load(pets)

        assert image_set.class_names == ("cat", "dog")
        assert len(_labels(image_set)) == 8 + 8

    @pytest.mark.parametrize("depth", [1, 2])
    def test_a_second_link_to_a_folder_of_a_class_is_not_read(
        self, pets: Path, depth: int, fill: Fill, caplog: pytest.LogCaptureFixture, shows: Shows
    ) -> None:
        store = pets.parent / "store"
        fill(store / "deep", "cat", 3)
        for name in ("a", "b"):
            (pets / "cat" / name).symlink_to(store if depth == 2 else store / "deep")

        shows(_load(pets), cat=7, dog=4)
        assert "3 behind a second link to a folder left out" in caplog.text

    def test_a_dead_link_is_refused_or_counted(
        self, pets: Path, caplog: pytest.LogCaptureFixture, shows: Shows
    ) -> None:
        (pets / "cat" / "gone.png").symlink_to(pets / "nowhere.png")
        (pets / "cow").symlink_to(pets / "nowhere")

        with pytest.raises(InputError, match=r"dead links: cat/gone\.png, cow; remove them or restore") as caught:
            _load(pets)
        assert caught.value.exit_code == 2
        shows(_load(pets, skip_broken=True), cat=4, dog=4)
        assert "2 behind a dead link left out" in caplog.text

    def test_a_dead_root_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "root").symlink_to(tmp_path / "nowhere")

        with pytest.raises(InputError, match="root: a link that leads nowhere"):
            _load(tmp_path / "root")


class TestLeftOut:
    def test_photos_that_cannot_be_read_are_counted_with_the_cure(
        self, pets: Path, caplog: pytest.LogCaptureFixture, shows: Shows
    ) -> None:
        for name in ("cat", "dog"):
            for index in range(3):
                (pets / name / f"IMG_{index}.HEIC").write_bytes(_HEIC)
        (pets / "cat" / "raw.nef").write_bytes(b"II*\0")

        shows(_load(pets), cat=4, dog=4)

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

    def test_avif_is_read(self, pets: Path, fill: Fill, shows: Shows) -> None:
        fill(pets / "cow", "cow", suffix=".avif")

        shows(_load(pets), cat=4, cow=4, dog=4)

    def test_junk_is_counted_and_not_read(
        self, pets: Path, caplog: pytest.LogCaptureFixture, fill: Fill, shows: Shows
    ) -> None:
        for folder in (pets, pets / "cat", pets / "dog"):
            (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
            (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
            (folder / "desktop.ini").write_text("[x]")
            (folder / ".ipynb_checkpoints").mkdir()
        (pets / "cat" / "._00.png").write_bytes(b"\0\5\x16\7")
        (pets / "__MACOSX" / "cat").mkdir(parents=True)
        (pets / "__MACOSX" / "cat" / "._00.png").write_bytes(b"\0\5\x16\7")
        fill(pets / "cat" / "@eaDir", "dog", 1)  # thumbnails of a network disk
        fill(pets / "cat" / ".trash", "dog", 1)

        shows(_load(pets), cat=4, dog=4)

        assert caplog.messages == [f"{pets}: 13 hidden or junk left out"]

    def test_metadata_beside_class_folders_does_not_take_the_labels(
        self, pets: Path, caplog: pytest.LogCaptureFixture, shows: Shows
    ) -> None:
        (pets / "metadata.csv").write_text("file_name,caption\ncat/0.png,a cat\n")
        (pets / "cat" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a cat"}\n')
        (pets / "metadata.parquet").write_bytes(b"PAR1")

        shows(_load(pets), cat=4, dog=4)

        assert "1 .csv, 1 .jsonl, 1 .parquet left out" in caplog.text.replace("1 .jsonl, 1 .csv", "1 .csv, 1 .jsonl")

    def test_other_files_are_counted_by_suffix_in_one_line(
        self, pets: Path, caplog: pytest.LogCaptureFixture, fill: Fill, shows: Shows
    ) -> None:
        for name in ("a.txt", "b.TXT", "README", "x.a b[red]\n", *(f"z{n}.k{n}" for n in range(20))):
            (pets / "cat" / name).write_text("x")
        fill(pets, "cat", 2)
        os.mkfifo(pets / "cat" / "pipe.png")

        shows(_load(pets), cat=4, dog=4)

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
        self, pets: Path, caplog: pytest.LogCaptureFixture, shows: Shows
    ) -> None:
        Path(os.fsdecode(os.fsencode(pets / "cat") + b"/\xe9.t\xe9t")).write_text("x")
        shows(_load(pets), cat=4, dog=4)
        assert "1 with an odd suffix left out" in caplog.text
        (pets / "dog").rename(os.fsdecode(os.fsencode(pets) + b"/d\xf6g"))

        with pytest.raises(InputError, match=r"d\\xf6g: not a name in UTF-8") as caught:
            _load(pets)
        str(caught.value).encode()


def _load(source: Path, **options: object) -> ImageSet:
    return load_images(DataSource(name=str(source), **options), resolution=32, seed=0)


def _labels(image_set: ImageSet) -> list[int]:
    return image_set.train_labels.tolist() + image_set.val_labels.tolist()
