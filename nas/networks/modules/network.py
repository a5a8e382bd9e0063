"""How an architecture becomes a torch module: whole networks, and the single layers that a latency table times."""

from __future__ import annotations

import math
from typing import assert_never

import torch
from torch import Tensor, nn

from nas.networks.architecture import Architecture, Subject
from nas.networks.layers import AttentionLayer, ConvLayer, DownsampleLayer, HeadLayer, Layer, Stack, StemLayer
from nas.networks.modules.attention import AttentionUnit
from nas.networks.modules.blocks import ConvBlock, ConvNorm, Head, Stem
from nas.networks.modules.fuse import fuse

__all__ = ["Network", "build_deployed", "build_layer", "build_model", "example_input", "example_shape"]

# The fractional part of the golden ratio: its multiples modulo 1 fill [0, 1) evenly.
_GOLDEN = 0.6180339887498949


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
        """Logits, (B, num_classes); with distillation, the average of both classifiers."""
        return self.layers[-1](self.features(images)[-1])  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> list[Tensor]:
        """The outputs of the four stages: (B, C, H, W) at strides 4, 8, 16 and 32, for images of any size."""
        x = images
        stages = []
        # A trace of the older ONNX exporter has the architecture's resolution, and would take sizes for tensors.
        fixed = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        size = (0, 0)
        for layer, ends_stage in zip(self.layers, self._ends_stage, strict=False):
            if isinstance(layer, AttentionUnit) and layer.window and not fixed:
                size = (x.shape[2], x.shape[3]) if layer.partitions else size
                x = layer(x, size)
            else:
                x = layer(x)
            if ends_stage:
                stages.append(x)
        return stages

    def head_logits(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of each classifier: first for the labels; with distillation, then for the teacher."""
        head = self.layers[-1]
        assert isinstance(head, Head)
        return head.logits(self.features(images)[-1])


def build_model(architecture: Architecture, *, drop_path: float = 0.0, distillation: bool = False) -> Network:
    """A network to train, with batch norms that are not folded.

    Weights are drawn from torch's generator (truncated normal, std 0.02).

    Args:
        architecture: what to build.
        drop_path: stochastic depth rate of the last block, in [0, 1); it rises linearly from 0 at the first block.
        distillation: add a second classifier that learns from a teacher.

    Examples:
        >>> import torch
        >>> from nas.networks.architecture import ConvSpec, StageSpec
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
    """One layer to train; options that do not apply to the layer are ignored.

    Args:
        layer: what to build.
        layer_scale: initial scale of the residual branches; 0 leaves the scale out.
        drop_path: stochastic depth rate of the residual branches, in [0, 1).
        distillation: add a second classifier in the head.
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


def build_deployed(subject: Subject) -> nn.Module:
    """What a device times: the deployed form with random weights, the same on every call.

    Weights have variance 1 / fan-in. Every branch then affects the output, so a comparison of outputs detects a missing
    branch.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        match subject:
            case Architecture():
                module: nn.Module = build_model(subject)
            case Stack():
                module = nn.Sequential(*(build_layer(subject.layer) for _ in range(subject.count)))
            case _:
                module = build_layer(subject)
        module = fuse(module)
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return module


def example_shape(subject: Subject) -> tuple[int, ...]:
    """Shape of an input at batch 1: a map, or the windows of a map for a unit that receives windows."""
    match subject:
        case Architecture():
            return (1, 3, subject.resolution, subject.resolution)
        case Stack():
            return example_shape(subject.layer)
        case StemLayer():
            return (1, 3, subject.height, subject.width)
        case DownsampleLayer():
            return (1, subject.in_channels, subject.height, subject.width)
        case AttentionLayer() if subject.spec.window and not subject.partitions:
            window = subject.spec.window
            return (subject.height * subject.width // window**2, subject.channels, window, window)
        case ConvLayer() | AttentionLayer() | HeadLayer():
            return (1, subject.channels, subject.height, subject.width)
        case _:
            assert_never(subject)


def example_input(subject: Subject) -> Tensor:
    """An input at batch 1 in [0, 1): element i is the fractional part of i times the golden ratio.

    Every runner computes the same numbers from the shape alone, in any language with double precision.
    """
    shape = example_shape(subject)
    values = torch.arange(math.prod(shape), dtype=torch.float64) * _GOLDEN % 1
    return values.to(torch.float32).reshape(shape)


def _depth(layer: Layer) -> int:
    """Number of blocks in a layer, for stochastic depth; an attention unit counts as three, as in the authors' code."""
    match layer:
        case ConvLayer():
            return 1
        case AttentionLayer():
            return 3
        case StemLayer() | DownsampleLayer() | HeadLayer():
            return 0
        case _:
            assert_never(layer)
