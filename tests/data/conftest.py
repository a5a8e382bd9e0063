"""Every test of images has a cache of its own, and hears what is left out even if a test before it did."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import ImageSet, load

COLOURS = {"cat": (200, 60, 60), "dog": (60, 200, 60), "cow": (60, 60, 200)}
SHOWN = {"kühe": "cow", "__background__": "cow"}  # the colour of other classes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path_factory.mktemp("cache")))
    load._say.cache_clear()


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images of each class: cats are red and dogs are green, and each image is brighter than the one before."""
    for name, channel in (("cat", 0), ("dog", 1)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(20):
            pixels = np.zeros((36, 40, 3), dtype=np.uint8)
            pixels[..., channel] = 50 + 10 * index
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{index:02}.png")
    return tmp_path / "pets"


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """Paint a picture in the colour of a class."""
    return _picture


@pytest.fixture
def fill() -> Callable[..., None]:
    """Fill a folder with pictures in the colour of a class."""
    return _fill


@pytest.fixture
def shows() -> Callable[..., None]:
    """Check the number of images of each class, and that their colour is that of their class."""
    return _shows


def _picture(colour: str, seed: object) -> Image.Image:
    draw = random.Random(f"{colour} {seed}")
    return Image.new("RGB", (40, 40), tuple(level + draw.randrange(-20, 21) for level in COLOURS[colour]))


def _fill(folder: Path, colour: str, count: int = 4, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        _picture(colour, f"{folder.parent.name}/{folder.name}/{index}").save(folder / f"{index}{suffix}")


def _shows(image_set: ImageSet, **counts: int) -> None:
    assert image_set.class_names == tuple(counts)
    labels = image_set.train_labels.tolist() + image_set.val_labels.tolist()
    assert counts == {name: labels.count(index) for index, name in enumerate(image_set.class_names)}
    for image, label in zip([*image_set.train_images, *image_set.val_images], labels, strict=True):
        name = image_set.class_names[label]
        assert int(image.float().mean((1, 2)).argmax()) == list(COLOURS).index(SHOWN.get(name, name))
