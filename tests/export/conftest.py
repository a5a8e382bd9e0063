"""A small trained network; and Core ML packages on any platform (interpreter.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.modules import Network, build_model
from tests.export.interpreter import CoremlProgram


@pytest.fixture(scope="session")
def coreml_program() -> Callable[[Path], CoremlProgram]:
    """Read a package."""
    return CoremlProgram


@pytest.fixture(scope="session")
def small_network(trained: Callable[[nn.Module], Network]) -> Callable[[int], Network]:
    """Make a trained network at 64 px, with convolutions and attention, for some number of classes."""

    def make(num_classes: int) -> Network:
        conv = ConvSpec(kernel=3, expansion=2)
        shma = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)
        blocks = ((conv,), (conv,), (conv, shma), (shma,))
        stages = tuple(StageSpec(channels=c, blocks=b) for c, b in zip((8, 16, 24, 32), blocks, strict=True))
        return trained(build_model(Architecture(resolution=64, num_classes=num_classes, stages=stages)))

    return make
