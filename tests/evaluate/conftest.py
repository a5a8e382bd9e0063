"""A small network that looks trained, images of its three classes, and the same network in every form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nas.evaluate.subject import Subject
from nas.export import Card, onnx
from nas.export import torch as folder_format
from nas.networks import SearchSpace
from nas.networks.modules import Network
from nas.networks.modules.blocks import Head
from nas.training.recipe import calibrate_norms, seeded_network
from tests.evaluate.pictures import CLASSES, NORMALISATION, SIDE, draw_picture


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def network() -> Network:
    """Three classes at 64 px, each of which is the answer for some pictures."""
    architecture = SearchSpace.find("tiny").references["tiny_a"].at(num_classes=3, resolution=SIDE)
    built = seeded_network(architecture, seed=0)
    pictures = [np.asarray(draw_picture(SIDE, SIDE, seed=seed)) for seed in range(40)]
    images = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255 - 0.4) / 0.25
    calibrate_norms(built, [images], precision="fp32")  # else all pictures have nearly the same outputs
    head = built.layers[-1]
    assert isinstance(head, Head)
    linear = head.classifiers[0].linear
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        scale = 2 / built(images).std(0)
        linear.weight *= scale[:, None]
        linear.bias.sub_(built(images).mean(0))
    return built.eval()


@pytest.fixture(scope="session")
def card(network: Network) -> Card:
    return Card.of(network, class_names=CLASSES, normalisation=NORMALISATION, weights="of a test")


@pytest.fixture(scope="session")
def exported(network: Network, card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network as net.torch and as net.onnx, which takes any number of images."""
    out = tmp_path_factory.mktemp("exported")
    folder_format.export(network, out / "net.torch", card=card)
    onnx.export(network, out / "net.onnx", card=card, options=onnx.Options(batch="dynamic"))
    return out


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training and ten validation images of each class, of many shapes, in PNG."""
    root = tmp_path_factory.mktemp("data") / "zoo"
    for split, count in (("train", 5), ("val", 10)):
        for place, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                draw_picture(90 + 7 * index, 80, seed=100 * place + index + len(split)).save(
                    root / split / name / f"{index}.png"
                )
    return root


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    return draw_picture


@pytest.fixture
def subject() -> Callable[..., Subject]:
    """Make a subject of a function from pixels to outputs."""

    def make(run: Callable[[np.ndarray], np.ndarray], outputs: int, **known: object) -> Subject:
        usual = {"class_names": CLASSES, "resolution": 32, "takes_pixels": True}
        return Subject(
            **(usual | known),  # type: ignore[arg-type]
            name="stub",
            form="torch",
            weights="none",
            precision="fp32",
            runtime="a test",
            outputs=outputs,
            run=run,
        )

    return make
