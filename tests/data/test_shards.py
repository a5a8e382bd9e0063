"""WebDataset shards: tar files in which a sample is the members of one name, such as 0001.jpg and 0001.cls."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import DataSource, load_images
from nas.data.stream import open_pictures
from nas.errors import InputError

Paint = Callable[..., Image.Image]
COLOURS = ("cat", "dog", "cow")


@pytest.fixture
def shards(tmp_path: Path, picture: Paint) -> Path:
    """Two shards of training and one of validation, with class 10 before class 9 if they were sorted as text."""
    for split, number in (("train", 0), ("train", 1), ("validation", 0)):
        samples = {
            f"{split}/{number}{index:03}": {"jpg": _jpeg(picture, index, f"{split} {number}"), "cls": _code(index)}
            for index in range(12)
        }
        _pack(tmp_path / "shards" / f"{split}-{number:04}.tar", samples)
    return tmp_path / "shards"


class TestSources:
    @pytest.mark.parametrize("source", ["", "*.tar"], ids=["folder", "pattern"])
    def test_shards_are_read_with_their_splits(self, shards: Path, source: str) -> None:
        images = load_images(str(shards / source), resolution=16, seed=0)

        assert images.class_names == ("2", "9", "10")
        assert np.bincount(images.train_labels.numpy()).tolist() == [8, 8, 8]
        assert np.bincount(images.val_labels.numpy()).tolist() == [4, 4, 4]

    def test_a_picture_keeps_its_label(self, shards: Path) -> None:
        images = load_images(str(shards), resolution=16, seed=0)

        brightest = images.train_images.float().mean((2, 3)).argmax(1)
        # cat is red and has the code 9, dog is green and 10, cow is blue and 2
        assert [images.class_names[label] for label in images.train_labels] == [
            {0: "9", 1: "10", 2: "2"}[int(colour)] for colour in brightest
        ]

    def test_one_shard_holds_out_a_part_of_itself(self, shards: Path) -> None:
        images = load_images(str(shards / "train-0000.tar"), resolution=16, seed=0)

        assert (len(images.train_labels), len(images.val_labels)) == (9, 3)

    def test_pictures_are_streamed_in_any_order(self, shards: Path) -> None:
        pictures = pickle.loads(pickle.dumps(open_pictures(str(shards), seed=0).train))  # as for a worker

        assert len(pictures) == 24
        for position in (23, 0, 7):
            picture = pictures.picture(position)
            assert picture is not None
            assert int(np.asarray(picture).mean((0, 1)).argmax()) == (2, 0, 1)[pictures.label(position)]

    def test_other_names_of_labels_are_named(self, tmp_path: Path, picture: Paint) -> None:
        samples = {str(index): {"png": _png(picture, index), "txt": COLOURS[index % 3].encode()} for index in range(12)}
        _pack(tmp_path / "train.tar", samples)

        images = load_images(DataSource(name=str(tmp_path), label="txt"), resolution=16, seed=0)

        assert images.class_names == ("cat", "cow", "dog")

    def test_ranges_of_webdataset(self, shards: Path, refusal: Callable[[str], str]) -> None:
        images = load_images(str(shards / "train-{0000..0001}.tar"), resolution=16, seed=0)

        assert len(images.train_labels) + len(images.val_labels) == 24
        assert refusal(str(shards / "train-{0000..0002}.tar")).endswith(f"no file matches {shards}/train-0002.tar")
        assert "a range of more than 100,000 files" in refusal(str(shards / "train-{0..999999}.tar"))

    @pytest.mark.parametrize("source", ["", "*.tar", "train-0000.tar"])
    def test_links_to_files_of_any_name(self, shards: Path, source: str) -> None:
        for file in shards.iterdir():
            file.symlink_to(file.rename(shards.parent / f"blob-{file.stem}"))

        assert len(load_images(str(shards / source), resolution=16, seed=0).class_names) == 3

    def test_a_picture_beside_shards_is_left_out(self, shards: Path, caplog: pytest.LogCaptureFixture) -> None:
        (shards / "docs").mkdir()
        Image.new("RGB", (8, 8)).save(shards / "docs" / "preview.png")

        assert len(load_images(str(shards), resolution=16, seed=0).train_labels) == 24
        assert "1 picture beside the WebDataset shards left out" in caplog.text

    def test_names_are_not_patterns(self, shards: Path) -> None:
        odd = shards.parent / "a[1] *"
        shards.rename(odd)

        assert len(load_images(str(odd), resolution=16, seed=0).train_labels) == 24

    def test_a_new_shard_is_noticed(self, shards: Path) -> None:
        before = load_images(str(shards), resolution=16, seed=0)
        (shards / "train-0001.tar").unlink()

        after = load_images(str(shards), resolution=16, seed=0)

        assert (len(before.train_labels), len(after.train_labels)) == (24, 12)

    def test_shards_beside_class_folders_are_left_out(
        self, pets: Path, shards: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (shards / "train-0000.tar").rename(pets / "train-0000.tar")

        assert len(load_images(str(pets), resolution=16, seed=0).class_names) == 2
        assert "1 .tar left out" in caplog.text


class TestErrors:
    def test_a_folder_in_one_file(self, pets: Path, refusal: Callable[[str], str]) -> None:
        with tarfile.open(pets.parent / "pets.tar", "w") as archive:
            archive.add(pets, "pets")

        message = refusal(str(pets.parent / "pets.tar"))

        assert message == (
            f"{pets.parent}/pets.tar: its samples have no labels, only .png; if it is no WebDataset but a folder in "
            "one file, unpack it with tar -xf and give the folder"
        )

    @pytest.mark.parametrize("content", [b"no tar at all", b"\x1f\x8b half a gzip"], ids=["text", "gzip"])
    def test_what_is_no_tar_file(self, content: bytes, tmp_path: Path, refusal: Callable[[str], str]) -> None:
        (tmp_path / "train.tar").write_bytes(content)

        assert refusal(str(tmp_path)) == f"{tmp_path}: train.tar is no tar file that can be read; fetch it again"

    def test_a_tar_file_without_samples(self, shards: Path, refusal: Callable[[str], str]) -> None:
        _pack(shards / "validation-0000.tar", {})

        assert refusal(str(shards)).startswith(f"{shards}: validation-0000.tar holds no files; if it is no WebDataset")

    @pytest.mark.parametrize("more", [0, 300], ids=["between members", "in a header"])
    def test_half_a_download(self, more: int, shards: Path, picture: Paint, refusal: Callable[[str], str]) -> None:
        samples = {f"{index:02}": {"jpg": _jpeg(picture, index, ""), "cls": _code(index)} for index in range(12)}
        _pack(shards / "train-0001.tar", samples)
        with tarfile.open(shards / "train-0001.tar") as archive:
            end = archive.getmembers()[10].offset  # where a member begins
        content = (shards / "train-0001.tar").read_bytes()
        (shards / "train-0001.tar").write_bytes(content[: end + more])

        assert refusal(str(shards)) == (
            f"{shards}: train-0001.tar ends early, without the end of a tar file; fetch it again"
        )

    def test_half_a_tar_file(self, shards: Path, refusal: Callable[[str], str]) -> None:
        half = (shards / "train-0001.tar").read_bytes()[:3300]
        (shards / "train-0001.tar").write_bytes(half)

        assert refusal(str(shards)) == f"{shards}: train-0001.tar is no tar file that can be read; fetch it again"

    def test_a_split_without_labels_is_the_one_that_is_named(self, shards: Path, refusal: Callable[[str], str]) -> None:
        _pack(shards / "validation-0000.tar", {str(index): {"jpg": b"picture"} for index in range(3)})

        assert refusal(str(shards)).startswith(f"{shards}: validation-0000.tar: its samples have no labels, only .jpg;")

    def test_splits_with_other_pictures(self, shards: Path, picture: Paint, refusal: Callable[[str], str]) -> None:
        samples = {str(index): {"png": _png(picture, index), "cls": _code(index)} for index in range(6)}
        _pack(shards / "validation-0000.tar", samples)

        assert refusal(str(shards)) == f"{shards}: val has no column jpg, train has; give them the same columns"

    def test_names_in_cls(self, shards: Path, picture: Paint, refusal: Callable[[str], str]) -> None:
        _pack(shards / "train-0001.tar", {"0": {"jpg": _jpeg(picture, 0, ""), "cls": b"cat"}})

        assert refusal(str(shards)) == (
            f"{shards}: train-0001.tar: a .cls holds the number of a class, got 'cat'; write names into .txt, and give "
            "--option label=txt"
        )

    def test_a_sample_without_a_label_is_named(
        self, shards: Path, picture: Paint, refusal: Callable[[str], str]
    ) -> None:
        samples = {str(index): {"jpg": _jpeg(picture, index, ""), "cls": _code(index)} for index in range(9)}
        _pack(shards / "train-0001.tar", samples | {"late": {"jpg": _jpeg(picture, 0, "")}})

        assert "late in train-0001.tar has no label (1 such rows)" in refusal(str(shards))

    def test_a_dead_link(self, shards: Path, refusal: Callable[[str], str]) -> None:
        (shards / "train-0002.tar").symlink_to("nowhere")

        assert refusal(str(shards)).startswith(f"{shards}: dead links: train-0002.tar; remove them or restore")

    def test_an_empty_file(self, shards: Path, refusal: Callable[[str], str]) -> None:
        (shards / "train-0001.tar").write_bytes(b"")

        assert refusal(str(shards)) == f"{shards}: train-0001.tar is empty; fetch it again"

    def test_broken_pictures_are_named_by_key_and_shard(self, shards: Path, refusal: Callable[[str], str]) -> None:
        _pack(shards / "train-0001.tar", {"train/x": {"jpg": b"broken", "cls": b"9"}})

        assert "train/x in train-0001.tar" in refusal(str(shards))
        kept = load_images(DataSource(name=str(shards), skip_broken=True), resolution=16, seed=0)
        assert len(kept.train_labels) == 12

    def test_two_kinds_of_files_in_a_pattern(self, shards: Path, refusal: Callable[[str], str]) -> None:
        (shards / "validation.parquet").write_bytes(b"PAR1")

        message = refusal(str(shards / "*"))

        assert message == (
            f"{shards}/*: a pattern must match .parquet or .tar files only, but it matches validation.parquet"
        )


@pytest.fixture
def refusal() -> Callable[[str], str]:
    """What a source is refused with."""

    def refuse(source: str) -> str:
        with pytest.raises(InputError) as caught:
            load_images(source, resolution=16, seed=0)
        return str(caught.value)

    return refuse


def _code(index: int) -> bytes:
    return (b"9", b"10", b"2")[index % 3]


def _jpeg(picture: Paint, index: int, seed: str) -> bytes:
    return _encoded(picture(COLOURS[index % 3], f"{seed} {index}"), "JPEG")


def _png(picture: Paint, index: int) -> bytes:
    return _encoded(picture(COLOURS[index % 3], index), "PNG")


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def _pack(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, members in samples.items():
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
