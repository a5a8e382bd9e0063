"""The forms of a network that are exported: logits, or the maps of its stages; in float32 or float16."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nas.errors import NasError
from nas.networks.modules import Network, fuse

__all__ = ["LOGITS", "MAPS", "Precision", "compared", "deployed", "example", "original"]

Precision = Literal["fp16", "fp32"]

LOGITS = ("logits",)
MAPS = ("stride4", "stride8", "stride16", "stride32")


class _Outputs(nn.Module):
    """A network with a tuple of outputs: logits (B, classes), or four maps (B, C, H, W)."""

    def __init__(self, network: Network, *, features: bool) -> None:
        super().__init__()
        self.network = network
        self.features = features
        if features:
            network.layers = network.layers[:-1]  # the classifier, whose weights no map needs

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.features(images)) if self.features else (self.network(images),)


class _InHalf(nn.Module):
    """A module that computes in float16, from and to float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.half()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.float() for output in self.module(images.half()))


def deployed(network: Network, *, features: bool = False, half: bool = False) -> nn.Module:
    """The folded network, from (B, 3, resolution, resolution) in float32 to a tuple of outputs in float32.

    Args:
        network: in training form; it is not changed.
        features: the maps at strides 4 to 32 in place of logits.
        half: weights and arithmetic in float16.
    """
    folded = fuse(network)
    assert isinstance(folded, Network)
    module: nn.Module = _Outputs(folded, features=features)
    return (_InHalf(module) if half else module).eval()


def original(network: Network, *, features: bool = False) -> nn.Module:
    """The network as it was trained, with the same outputs, to compare with."""
    return _Outputs(copy.deepcopy(network), features=features).eval()


def example(network: Network, batch: int) -> Tensor:
    """Normal noise of the network's input size, the same on every call."""
    size = network.architecture.resolution
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def compared(path: Path, runtime: str, pairs: Iterable[tuple[Any, Any]], *, bound: float) -> str:
    """How far the outputs of a file in some runtime are from those of torch, in words.

    Args:
        path: the file.
        runtime: what ran it.
        pairs: arrays of the runtime and of torch, for each output.
        bound: largest difference, relative to the largest output of torch.
    Raises:
        NasError: they are further apart.
    """
    least = np.finfo(np.float32).tiny
    # np.max keeps a NaN, which is no output of a network.
    worst = np.max([np.abs(found - expected).max() / max(np.abs(expected).max(), least) for found, expected in pairs])
    words = f"{runtime} and torch differ by {worst:.1e} of the largest output at most"
    if not worst <= bound:
        raise NasError(f"{path.name}: {words}, above {bound:.0e}: it is not written; please report this network")
    return f"{path.name}: {words} (bound {bound:.0e})"
