"""How a module is prepared for deployment: a copy in which everything that can be folded is folded."""

from __future__ import annotations

import copy

import torch
from torch import nn

from nas.networks.modules.blocks import Foldable

__all__ = ["fuse"]


def fuse(module: nn.Module) -> nn.Module:
    """The deployed form of a network or of one layer: a copy in eval mode with equal outputs, without gradients.

    Batch norms are folded into the convolutions and the classifier. The residual of a position encoding and the layer
    scales are folded into kernels. Two classifiers become one. Each block defines its own folding (`fused`) in
    `nas.networks.modules.blocks`.

    Examples:
        >>> from nas.networks.architecture import ConvLayer
        >>> from nas.networks.modules import build_layer
        >>> block = build_layer(ConvLayer(channels=8, kernel=3, expansion=2, height=4, width=4))
        >>> [type(part).__name__ for part in fuse(block).branch]
        ['Conv2d', 'Conv2d', 'GELU', 'Conv2d']
    """
    with torch.no_grad():
        deployed = _fused(copy.deepcopy(module).eval())
    return deployed.requires_grad_(False)


def _fused(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _fused(child))
    return module.fused() if isinstance(module, Foldable) else module
