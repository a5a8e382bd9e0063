"""Networks there and back: what is written computes what was built, for known networks and random ones of the space.

`NAS_ROUND_TRIPS=50` tries 50 random networks of the iFormer space in all formats, and T, S, M and L at two sizes; it
takes a quarter of an hour of one core. Without it the networks are those of the tiny space.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import nas
from nas.export import coreml as coreml_format
from nas.export import onnx as onnx_format
from nas.export import torch as torch_format
from nas.networks import Architecture, SearchSpace
from nas.networks.modules import Network, build_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:Function _TORCH_OPS_REGISTRY:DeprecationWarning", "ignore:Implicitly cleaning up:ResourceWarning"
)

TRIPS = int(os.environ.get("NAS_ROUND_TRIPS", "0"))
FORMATS = ("onnx", "coreml", "torch")


def noise(network: Network) -> torch.Tensor:
    size = network.architecture.resolution
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(5))


def apart(mine: Any, theirs: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float(np.abs(np.asarray(mine) - theirs.numpy()).max() / theirs.abs().max())


def there_and_back(network: Network, kind: str, folder: Path, coreml_program: Callable[[Path], Any]) -> float:
    """Export a network: how far what runs the file is from torch."""
    x = noise(network)
    with torch.no_grad():
        expected = network(x)
    if kind == "onnx":
        (path,) = onnx_format.export(network, folder / "a.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return apart(session.run(None, {"image": x.numpy()})[0], expected)
    if kind == "coreml":
        options = coreml_format.Options(precision="fp32")
        (path,) = coreml_format.export(network, folder / "a.mlpackage", options=options)
        return apart(coreml_program(path)(x)["logits"], expected)
    path, *_ = torch_format.export(network, folder / "a.torch")
    with torch.no_grad():
        return apart(nas.load(path)(x), expected)


def random_network(number: int) -> Architecture:
    chosen = random.Random(number)
    network = SearchSpace.find("iformer" if TRIPS else "tiny").sample(lambda name, options: chosen.choice(options))
    return network.at(resolution=64, num_classes=10)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("number", range(TRIPS or 1))
def test_random_networks_of_the_space(
    number: int,
    kind: str,
    trained: Callable[[nn.Module], Network],
    tmp_path: Path,
    coreml_program: Callable[[Path], Any],
    record_property: Callable[[str, object], None],
) -> None:
    network = trained(build_model(random_network(number)))

    difference = there_and_back(network, kind, tmp_path, coreml_program)

    record_property("difference", difference)
    assert difference < 1e-4


SIZES = [("t", 224, "onnx")]
if TRIPS:
    SIZES = [(name, size, kind) for name in "tsml" for size in (224, 288) for kind in FORMATS]


@pytest.mark.parametrize(("name", "size", "kind"), SIZES)
def test_published_networks(
    name: str,
    size: int,
    kind: str,
    references: dict[str, Architecture],
    trained: Callable[[nn.Module], Network],
    tmp_path: Path,
    coreml_program: Callable[[Path], Any],
    record_property: Callable[[str, object], None],
) -> None:
    network = trained(build_model(references[name].at(resolution=size)))

    difference = there_and_back(network, kind, tmp_path, coreml_program)

    record_property("difference", difference)
    assert difference < 1e-4


@pytest.mark.parametrize("strict", [True, False])
# torch 2.13 copies a deprecated type of its own, which warns.
@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
def test_torch_export_takes_a_network(strict: bool, trained: Callable[..., Network]) -> None:
    """What the exporters of other runtimes begin with, such as ExecuTorch's and LiteRT's."""
    network = trained(build_model(random_network(0)))

    program = torch.export.export(network, (noise(network),), strict=strict)

    with torch.no_grad():
        torch.testing.assert_close(program.module()(noise(network)), network(noise(network)), rtol=1e-5, atol=1e-5)


def test_published_weights_come_back_from_timm_names(
    references: dict[str, Architecture], trained: Callable[[nn.Module], Network], timm: ModuleType, tmp_path: Path
) -> None:
    from nas.networks.modules import load_model

    network = trained(build_model(references["t"].at(resolution=64)))
    path, _ = nas.export(network, "timm", out=tmp_path / "t.safetensors")

    again = load_model(network.architecture, path).eval()

    with torch.no_grad():
        torch.testing.assert_close(again(noise(network)), network(noise(network)), rtol=0, atol=0)
    assert len(load_file(path)) == len(network.state_dict())
