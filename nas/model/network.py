"""From an architecture to a torch module: whole networks, and the single layers that a latency table times."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor, nn

from nas.architecture import (
    Architecture,
    AttentionLayer,
    ConvLayer,
    DownsampleLayer,
    HeadLayer,
    Layer,
    StemLayer,
)
from nas.model.blocks import AttentionUnit, ConvBlock, ConvNorm, Head, Stem

__all__ = ["Network", "build_layer", "build_model", "example_input"]


class Network(nn.Module):
    """A network of the iFormer family, (B, 3, resolution, resolution) to (B, num_classes).

    Args:
        architecture: what is built.
        layers: one module for each layer of the architecture, in the same order.
    """

    def __init__(self, *, architecture: Architecture, layers: list[nn.Module]) -> None:
        super().__init__()
        self.architecture = architecture
        self.layers = nn.ModuleList(layers)
        following = list(architecture.layers())[1:]
        self._ends_stage = [isinstance(layer, DownsampleLayer | HeadLayer) for layer in following]

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes); with distillation the average of both classifiers."""
        return self.layers[-1](self.features(images)[-1])  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> list[Tensor]:
        """The outputs of the four stages: (B, C, H, W) at strides 4, 8, 16 and 32."""
        x = images
        stages = []
        for layer, ends_stage in zip(self.layers, self._ends_stage, strict=False):
            x = layer(x)
            if ends_stage:
                stages.append(x)
        return stages

    def head_logits(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of each classifier: of the labels, then with distillation of the teacher."""
        head = self.layers[-1]
        assert isinstance(head, Head)
        return head.logits(self.features(images)[-1])


def build_model(architecture: Architecture, *, drop_path: float = 0.0, distillation: bool = False) -> Network:
    """A network to train: batch norms apart, weights drawn from torch's generator (truncated normal, std 0.02).

    Args:
        architecture: what to build.
        drop_path: stochastic depth of the last block, in [0, 1); it rises linearly from 0 at the first.
        distillation: a second classifier that learns from a teacher.

    Example:
        >>> import torch
        >>> from nas.architecture import ConvSpec, StageSpec
        >>> stages = tuple(StageSpec(channels=c, blocks=(ConvSpec(kernel=3, expansion=2),)) for c in (8, 8, 16, 16))
        >>> network = build_model(Architecture(resolution=64, num_classes=10, stages=stages))
        >>> network(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    layers = list(architecture.layers())
    depths = [_depth(layer) for layer in layers]
    modules = []
    for position, layer in enumerate(layers):
        # Position of the layer's last block among all blocks, counted from 0.
        rate = drop_path * (sum(depths[: position + 1]) - 1) / max(sum(depths) - 1, 1) if depths[position] else 0.0
        modules.append(
            build_layer(layer, layer_scale=architecture.layer_scale, drop_path=rate, distillation=distillation)
        )
    return Network(architecture=architecture, layers=modules)


def build_layer(
    layer: Layer, *, layer_scale: float = 0.0, drop_path: float = 0.0, distillation: bool = False
) -> nn.Module:
    """One layer to train; options that it has no use for are passed over.

    Args:
        layer: what to build.
        layer_scale: initial scale of the residual branches; 0 leaves the scale out.
        drop_path: stochastic depth of the residual branches, in [0, 1).
        distillation: a second classifier in the head.
    """
    match layer:
        case StemLayer():
            return Stem(channels=layer.channels, kernel=layer.kernel, expansion=layer.expansion)
        case DownsampleLayer():
            return ConvNorm(inputs=layer.in_channels, outputs=layer.channels, kernel=layer.kernel, stride=2)
        case ConvLayer():
            return ConvBlock(
                channels=layer.channels,
                kernel=layer.kernel,
                expansion=layer.expansion,
                layer_scale=layer_scale,
                drop_path=drop_path,
            )
        case AttentionLayer():
            return AttentionUnit(layer=layer, layer_scale=layer_scale, drop_path=drop_path)
        case HeadLayer():
            return Head(channels=layer.channels, num_classes=layer.num_classes, distillation=distillation)
        case _:
            assert_never(layer)


def example_input(layer: Layer) -> Tensor:
    """An input of a layer at batch 1, uniform in [0, 1) and the same on every call.

    It is a map, or for an attention unit in the middle of a windowed run the windows of a map.
    """
    match layer:
        case StemLayer():
            shape: tuple[int, ...] = (1, 3, layer.height, layer.width)
        case DownsampleLayer():
            shape = (1, layer.in_channels, layer.height, layer.width)
        case AttentionLayer() if layer.spec.window and not layer.partitions:
            window = layer.spec.window
            shape = (layer.height * layer.width // window**2, layer.channels, window, window)
        case ConvLayer() | AttentionLayer() | HeadLayer():
            shape = (1, layer.channels, layer.height, layer.width)
        case _:
            assert_never(layer)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _depth(layer: Layer) -> int:
    """Blocks of a layer for stochastic depth; an attention unit counts as three, as in the authors' code."""
    match layer:
        case ConvLayer():
            return 1
        case AttentionLayer():
            return 3
        case StemLayer() | DownsampleLayer() | HeadLayer():
            return 0
        case _:
            assert_never(layer)
