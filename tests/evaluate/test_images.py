"""The images that are evaluated: which of a source, read as for training, and never all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.data import DataSource, load_images
from nas.data.pictures import framed
from nas.data.protocol import Protocol
from nas.data.rows import BLOCK
from nas.errors import InputError
from nas.evaluate.images import Chosen, choose_images

PROTOCOL = Protocol(resolution=32, crop=1.0)


def choose(folder: Path | str, split: str = "val", limit: int | None = None, *, seed: int = 0, **asked: bool) -> Chosen:
    return choose_images(DataSource(name=str(folder), **asked), split=split, limit=limit, seed=seed)


def places(chosen: Chosen) -> list[str]:
    return [chosen.rows.where(position) for position in range(len(chosen.rows.labels))]


def pixels(chosen: Chosen, size: int = 7) -> np.ndarray:
    return np.concatenate([squares for squares, _ in chosen.batches(PROTOCOL, size)])


@pytest.fixture
def plain(zoo: Path, tmp_path: Path) -> Path:
    """The classes without splits."""
    (tmp_path / "plain").mkdir()
    for name in ("cat", "cow", "dog"):
        (tmp_path / "plain" / name).symlink_to(zoo / "val" / name)
    return tmp_path / "plain"


def test_split_is_that_of_the_source(zoo: Path) -> None:
    val, train = choose(zoo), choose(zoo, "train")

    assert (len(val.rows.labels), len(train.rows.labels), val.split, train.split) == (30, 15, "val", "train")
    assert all("/val/" in where for where in places(val))
    assert all("/train/" in where for where in places(train))
    assert val.class_names == ("cat", "cow", "dog")


@pytest.mark.parametrize("seed", [0, 3])
def test_tenth_is_the_one_that_a_training_with_this_seed_holds_out(plain: Path, seed: int) -> None:
    held = load_images(str(plain), resolution=32, seed=9, split_seed=seed)

    val, train = choose(plain, seed=seed), choose(plain, "train", seed=seed)

    assert (len(val.rows.labels), len(train.rows.labels)) == (3, 27)
    # The middle of the picture as it is, and of the scaled one, may be half a pixel apart.
    assert np.abs(pixels(val).astype(int) - held.val_images.numpy()).mean((1, 2, 3)).max() < 5
    assert val.split == f"the tenth that a training with seed {seed} holds out"
    assert val.notes[-1] == f"no split of its own: {val.split} of it; --split all takes every image"


def test_all_images_of_a_source_without_splits(plain: Path, zoo: Path) -> None:
    assert len(choose(plain, "all").rows.labels) == 30
    with pytest.raises(InputError, match=r"zoo: has the splits train and val: --split all is for data without splits"):
        choose(zoo, "all")


def test_a_folder_or_file_that_is_called_val_is_that_split(zoo: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": path.read_bytes(), "path": None} for path in sorted(zoo.glob("val/*/*.png"))]}
    table = datasets.Dataset.from_dict(rows | {"label": [place // 10 for place in range(30)]})
    table.to_parquet(tmp_path / "val-00000.parquet")

    folder, file = choose(zoo / "val"), choose(tmp_path / "val-00000.parquet")

    assert (len(folder.rows.labels), folder.split, folder.notes) == (30, "val", ())
    assert (len(file.rows.labels), file.split, file.notes) == (30, "val", ())
    np.testing.assert_array_equal(pixels(folder), pixels(file))


def test_limit_is_spread_over_the_classes(zoo: Path) -> None:
    assert np.bincount(choose(zoo, limit=7).rows.labels).tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])
    assert np.bincount(choose(zoo / "val", limit=6).rows.labels).tolist() == [2, 2, 2]


def test_batches_hold_every_image_once_in_its_order(zoo: Path) -> None:
    chosen = choose(zoo)

    batches = list(chosen.batches(PROTOCOL, 7))

    assert [len(squares) for squares, _ in batches] == [7, 7, 7, 7, 2]
    assert np.concatenate([positions for _, positions in batches]).tolist() == list(range(30))
    assert batches[0][0].shape == (7, 3, 32, 32)
    assert batches[0][0].dtype == np.uint8


def test_images_are_decoded_no_faster_than_they_are_used(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Callable[..., Image.Image]
) -> None:
    """Memory does not grow with the number of images: some blocks at most wait to be used."""
    (tmp_path / "many").mkdir()
    picture(40, 40, seed=0).save(tmp_path / "0.png")
    for name in ("a", "b"):
        (tmp_path / "many" / name).mkdir()
        for index in range(1000):
            (tmp_path / "many" / name / f"{index}.png").hardlink_to(tmp_path / "0.png")
    decoded = []

    def counting(*given: Any) -> Any:
        decoded.append(1)
        return framed(*given)

    monkeypatch.setattr("nas.evaluate.images.framed", counting)
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    batches = choose(tmp_path / "many", "all").batches(PROTOCOL, 32)
    next(batches)

    assert len(decoded) <= (2 * 2 + 1) * BLOCK
    batches.close()  # type: ignore[attr-defined]  # a generator


class TestBroken:
    @pytest.fixture
    def broken(self, zoo: Path, tmp_path: Path, picture: Callable[..., Image.Image]) -> Path:
        for name in ("cat", "dog"):
            (tmp_path / "val" / name).mkdir(parents=True)
            for index in range(3):
                picture(40, 40, seed=index).save(tmp_path / "val" / name / f"{index}.png")
        (tmp_path / "val" / "cat" / "1.png").write_bytes(b"no picture")
        return tmp_path / "val"

    def test_it_is_refused_by_its_place(self, broken: Path) -> None:
        with pytest.raises(InputError) as refused:
            list(choose(broken).batches(PROTOCOL, 4))

        assert str(refused.value) == (
            f"{broken}/cat/1.png: not an image that can be read (no picture format that Pillow knows); repair or "
            "remove it, or leave all such images out with --option skip_broken=true"
        )

    def test_it_is_left_out_and_counted(self, broken: Path) -> None:
        chosen = choose(broken, skip_broken=True)

        positions = np.concatenate([places for _, places in chosen.batches(PROTOCOL, 4)])

        assert positions.tolist() == [0, 2, 3, 4, 5]
        assert chosen.broken == {1: "no picture format that Pillow knows"}

    def test_nothing_that_can_be_read_is_refused(self, broken: Path) -> None:
        for path in broken.rglob("*.png"):
            path.write_bytes(b"")

        with pytest.raises(InputError, match="val: none of its 6 images can be read"):
            list(choose(broken, skip_broken=True).batches(PROTOCOL, 4))


def test_deep_grey_has_the_range_of_all_images_as_in_training(tmp_path: Path) -> None:
    for split, low in (("train", 12_000), ("val", 14_000)):
        for name, level in (("cold", low), ("hot", 40_000)):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(3):
                values = np.random.default_rng(index).normal(level, 2000, (32, 32))
                Image.fromarray(values.astype(np.uint16)).save(tmp_path / split / name / f"{index}.tif")
    trained = load_images(str(tmp_path), resolution=32, seed=0)

    found = pixels(choose(tmp_path))

    np.testing.assert_array_equal(found, trained.val_images.numpy())


@pytest.mark.parametrize(
    ("data", "split", "says"),
    [
        ("synthetic", "val", "--data synthetic: its images are drawn and no file"),
        ("zoo", "test", "--split must be one of val, train, all, got 'test'"),
        ("./nowhere", "val", "./nowhere: no such file or folder"),
    ],
)
def test_bad_input_is_refused(data: str, split: str, says: str, zoo: Path) -> None:
    with pytest.raises(InputError) as refused:
        choose(zoo if data == "zoo" else data, split)

    assert str(refused.value).startswith(says)
