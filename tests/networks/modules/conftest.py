"""A small network with its weights, and what reading them from a file gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.errors import InputError
from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.modules import Network, build_model, load_model, to_timm

Weights = dict[str, Tensor]

_CONV = ConvSpec(kernel=7, expansion=1)
_SHMA = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=1)
_STAGES = tuple(StageSpec(channels=c, blocks=(b,)) for c, b in ((8, _CONV), (12, _CONV), (8, _SHMA), (16, _CONV)))
_NETWORK = Architecture(resolution=32, num_classes=10, stages=_STAGES)


def _built(seed: int) -> Network:
    """A network whose weights and statistics all differ from their initial values."""
    network = build_model(_NETWORK)
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1, generator=generator)
    return network


def _refusal(path: Path, architecture: Architecture = _NETWORK, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_model(architecture, path, **options)
    message = str(caught.value)
    assert message.isprintable() and len(message) <= 400
    return message.removeprefix(f"{path}: ")


@pytest.fixture(scope="session")
def plain_network() -> Architecture:
    return _NETWORK


@pytest.fixture(scope="session")
def weights() -> Weights:
    """Weights under timm's names."""
    return to_timm(_built(seed=0))[0]


@pytest.fixture(scope="session")
def averaged() -> Weights:
    """Others."""
    return to_timm(_built(seed=1))[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model_best.pth.tar"


@pytest.fixture(scope="session")
def loaded() -> Callable[..., Weights]:
    """Load the network from a file; return its weights under timm's names."""
    return lambda path, **options: to_timm(load_model(_NETWORK, path, **options))[0]


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str]:
    """Try to load the network from a file; return the line that refuses it, without the path."""
    return _refusal


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Weights, Weights], None]:
    def check(expected: Weights, actual: Weights) -> None:
        assert expected.keys() == actual.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, actual[name]), name

    return check
