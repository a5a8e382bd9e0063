"""A detector and a segmenter trained over a network: the folder, what goes on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

import nas
from nas.dense.recipe import SegmentationRecipe
from nas.dense.trained import load
from nas.errors import InputError
from nas.search.dense import train_dense
from nas.training.course import Step
from nas.training.record import read_training

RECIPE = """
resolution = 64
[optimisation]
epochs = 2
batch_size = 2
drops = []
warmup_epochs = 0
[model]
"""
DETECT = """short = 64
long = 64
channels = 8
box_channels = 16
proposals = 8
anchor_samples = 8
box_samples = 8
"""
SEGMENT = """steps = 2
crop = 64
short = 64
long = 64
channels = 8
decoder = 8
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures with a square in each, for both tasks, and a recipe for each."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in ("coco/annotations", "coco/images", "masks/images", "masks/masks"):
        (folder / name).mkdir(parents=True)
    content: dict[str, Any] = {"categories": [{"id": 1, "name": "square"}], "images": [], "annotations": []}
    for number in range(4):
        picture = Image.fromarray(random.integers(90, 130, (64, 64, 3), dtype=np.uint8))
        mask = Image.new("L", (64, 64))
        for canvas, fill in ((picture, (220, 60, 60)), (mask, 1)):
            ImageDraw.Draw(canvas).rectangle((10, 12, 39, 41), fill=fill)
        picture.save(folder / "coco" / "images" / f"{number}.png")
        picture.save(folder / "masks" / "images" / f"{number}.png")
        mask.save(folder / "masks" / "masks" / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        box = [10, 12, 30, 30]
        corners = [[10, 12, 40, 12, 40, 42, 10, 42]]
        content["annotations"].append(
            {"id": number + 1, "image_id": number, "category_id": 1, "bbox": box, "segmentation": corners}
        )
    for split, count in (("train", 4), ("val", 1)):
        part = content | {name: content[name][:count] for name in ("images", "annotations")}
        (folder / "coco" / "annotations" / f"{split}.json").write_text(json.dumps(part))
    (folder / "detect.toml").write_text(RECIPE + DETECT)
    (folder / "segment.toml").write_text(RECIPE + SEGMENT)
    return folder


def trained(folder: Path, task: str, out: Path, **options: Any) -> Path:
    data = folder / {"detect": "coco", "segment": "masks"}[task]
    recipe = folder / f"{task}.toml"
    return train_dense("tiny_a", data, task=task, out=out, recipe=recipe, workers=0, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["detect", "segment"])
def task(request: pytest.FixtureRequest) -> str:
    if request.param == "detect":
        from nas.networks.modules.outside import has_operators

        if not has_operators():
            pytest.skip("torchvision's operators do not load; see tests/operators.py")
    return str(request.param)


@pytest.fixture(scope="module")
def whole(task: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a training, and what was said."""
    said: list[str] = []
    return trained(folder, task, tmp_path_factory.mktemp("whole") / "out", say=said.append), said


def test_a_folder_holds_all_that_is_needed_again(task: str, whole: tuple[Path, list[str]]) -> None:
    out, said = whole

    found = read_training(out)
    assert found is not None
    record, history = found
    assert (record.task, record.start, len(history)) == (task, "random", 2)
    assert "begins: 2 epochs of 2 steps with 2 images, from random weights, on cpu in fp32" in said[0]
    module: Any = load(out, weights="last.safetensors")
    assert module.class_names == {"detect": ("square",), "segment": ("0", "1")}[task]
    kept = load_file(out / "last.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in module.state_dict().items())
    body = nas.backbone("tiny_a", weights=out / "best.safetensors").eval()
    image = torch.rand(1, 3, 64, 64)
    best: Any = load(out)
    own = best.backbone.body if task == "detect" else best.backbone
    assert all(torch.equal(a, b) for a, b in zip(own(image).values(), body(image).values(), strict=True))


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    task: str, whole: tuple[Path, list[str]], folder: Path, tmp_path: Path
) -> None:
    def stop(step: Step) -> None:
        if step.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(folder, task, tmp_path / "parts", on_step=stop)
    parts = trained(folder, task, tmp_path / "parts")

    first, second = load_file(whole[0] / "last.safetensors"), load_file(parts / "last.safetensors")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_it_begins_with_the_weights_of_a_network(folder: Path, tmp_path: Path) -> None:
    path, *_ = nas.export("tiny_a", "torch", out=tmp_path / "a.torch")
    recipe = tmp_path / "r.toml"
    recipe.write_text((RECIPE + SEGMENT).replace("epochs = 2", "epochs = 1\nrate = 1e-12"))

    out = train_dense(path, folder / "masks", task="segment", out=tmp_path / "out", recipe=recipe, workers=0)

    name = "layers.0.first.conv.weight"
    kept = load_file(out / "last.safetensors")[f"backbone.network.{name}"]
    torch.testing.assert_close(kept, nas.load(path).state_dict()[name])
    found = read_training(out)
    assert found is not None and found[0].start == "those of a"


class TestErrors:
    def test_another_training_in_the_folder(self, task: str, whole: tuple[Path, list[str]], folder: Path) -> None:
        with pytest.raises(InputError, match=r"holds another training \(other .*seed\)"):
            trained(folder, task, whole[0], seed=1)

    def test_no_folder_of_data(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            train_dense("tiny_a", "cifar10", task="segment", out=tmp_path / "out")

        assert str(caught.value) == "cifar10: is no folder; --task segment reads images and annotations from one"

    def test_a_recipe_and_epochs(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="the recipe says epochs and batch_size itself"):
            train_dense("tiny_a", folder, task="segment", out=tmp_path / "out", recipe=SegmentationRecipe(), epochs=2)

    def test_the_winner_of_no_run(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="are of a run: give a results folder"):
            trained(folder, "segment", tmp_path / "out", start="winner")

    def test_a_folder_of_no_dense_training(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds no training of detection or segmentation"):
            load(tmp_path)
