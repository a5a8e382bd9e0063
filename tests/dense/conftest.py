"""Eight drawn pictures with shapes, as a folder in COCO's format and as a folder of masks."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from nas.dense import Backbone, backbone
from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.modules.outside import has_operators
from tests.operators import TOOLS

SIZE = 96
COLOURS = {"square": (220, 60, 60), "disc": (60, 200, 80)}
CORNERS = 24  # of a polygon for a disc


@pytest.fixture(scope="session")
def operators() -> None:
    if not has_operators():
        if all(map(shutil.which, TOOLS)):
            pytest.fail("torchvision's operators do not load; tests/operators.py must know this version of it")
        pytest.skip(f"torchvision's operators do not load, and tests/operators.py needs {', '.join(TOOLS)}")


@pytest.fixture(scope="session")
def shapes() -> list[tuple[Image.Image, Image.Image, list[dict[str, Any]]]]:
    """Pictures, their masks, and their objects as COCO writes them."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(8):
        picture = Image.fromarray(random.integers(90, 130, (SIZE, SIZE, 3), dtype=np.uint8))
        mask = Image.new("L", (SIZE, SIZE))
        objects = []
        for label, (name, colour) in enumerate(COLOURS.items(), start=1):
            # One in the upper half, and one in the lower: they do not hide each other.
            radius = int(random.integers(16, 23))
            x = int(random.integers(radius + 2, SIZE - radius - 2))
            y = radius + 2 if label == 1 else SIZE - radius - 3
            polygon = _polygon(name, x, y, radius)
            for canvas, fill in ((picture, colour), (mask, label)):
                ImageDraw.Draw(canvas).polygon(polygon, fill=fill)
            xs, ys = polygon[::2], polygon[1::2]
            objects.append(
                {
                    "category_id": 10 * label,
                    "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                    "segmentation": [polygon],
                    "area": float((np.asarray(mask) == label).sum()),
                    "iscrowd": 0,
                }
            )
        drawn.append((picture, mask, objects))
    return drawn


def _polygon(name: str, x: int, y: int, radius: int) -> list[float]:
    if name == "square":
        return [x - radius, y - radius, x + radius, y - radius, x + radius, y + radius, x - radius, y + radius]
    angles = np.arange(CORNERS) * 2 * np.pi / CORNERS
    return [float(v) for angle in angles for v in (x + radius * np.cos(angle), y + radius * np.sin(angle))]


@pytest.fixture
def coco(tmp_path: Path, shapes: list[Any]) -> Path:
    """The pictures to learn from are those to judge by."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    content: dict[str, Any] = {
        "info": {"description": "drawn"},
        "categories": [{"id": 10 * label, "name": name} for label, name in enumerate(COLOURS, start=1)],
        "images": [],
        "annotations": [],
    }
    (folder / "pictures").mkdir()
    for number, (picture, _, objects) in enumerate(shapes):
        picture.save(folder / "pictures" / f"{number}.png")
        content["images"].append(
            {"id": 100 + number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE, "license": 1}
        )
        for one in objects:
            content["annotations"].append({"id": len(content["annotations"]), "image_id": 100 + number, **one})
    for split in ("train", "val"):
        (folder / split).symlink_to(folder / "pictures")
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def masks(tmp_path: Path, shapes: list[Any]) -> Path:
    """The pictures to learn from are those to judge by."""
    folder = tmp_path / "masks"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for number, (picture, mask, _) in enumerate(shapes):
            picture.save(folder / "images" / split / f"{number}.png")
            mask.save(folder / "masks" / split / f"{number}.png")
    (folder / "classes.txt").write_text("background\n" + "\n".join(COLOURS) + "\n")
    return folder


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    """A small network with attention in two stages."""
    conv = ConvSpec(kernel=3, expansion=2)
    unit = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)
    blocks = ((conv,), (conv,), (conv, unit, unit), (unit,))
    stages = tuple(StageSpec(channels=c, blocks=b) for c, b in zip((16, 24, 32, 48), blocks, strict=True))
    return Architecture(resolution=SIZE, num_classes=10, stages=stages)


@pytest.fixture
def body(architecture: Architecture) -> Iterator[Callable[..., Backbone]]:
    """Make a backbone with the same weights every time."""

    def make(**options: Any) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return backbone(architecture, **options)

    yield make


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers read was pickled, as where they are started by spawn or forkserver."""

    def loader(dataset: Any, **options: Any) -> Any:
        return torch.utils.data.DataLoader(pickle.loads(pickle.dumps(dataset)), **options)

    monkeypatch.setattr("nas.dense.stream.DataLoader", loader)
