"""The parts of a network as torch modules, each with its own folding for deployment (`fused`).

Every convolution is followed by a batch norm and has no bias of its own; GELU is the activation (iFormer, section 3).

    B batch, C channels, H W height and width
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from nas.networks.modules.depthwise import depthwise, is_slow

__all__ = [
    "ConvBlock",
    "ConvNorm",
    "Foldable",
    "Head",
    "NormLinear",
    "PositionEncoding",
    "Residual",
    "Stem",
    "feed_forward",
    "residual_norms",
]


@runtime_checkable
class Foldable(Protocol):
    """A module that has a cheaper equivalent for deployment."""

    def fused(self) -> nn.Module:
        """The deployed form; the method may change the module itself.

        Only called on a copy in eval mode, whose children are already in deployed form.
        """
        ...


class ConvNorm(nn.Module):
    """A convolution and its batch norm, (B, C_in, H, W) to (B, C_out, H / stride, W / stride).

    Args:
        inputs: C_in.
        outputs: C_out.
        kernel: odd; the padding keeps the size.
        stride: step of the kernel.
        groups: `inputs` for a depthwise convolution.
    """

    def __init__(self, *, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, then normalise."""
        quick = self.training and is_slow(self.conv, x)
        return self.norm(depthwise(x, self.conv.weight) if quick else self.conv(x))  # type: ignore[no-any-return]

    def fused(self) -> nn.Conv2d:
        """One convolution with a bias."""
        gain, shift = _affine(self.norm)
        return _with_weights(self.conv, weight=self.conv.weight * gain[:, None, None, None], bias=shift)


class NormLinear(nn.Module):
    """A batch norm and a linear layer, (B, C) to (B, classes)."""

    def __init__(self, *, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.linear = nn.Linear(inputs, outputs)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, then classify."""
        return self.linear(self.norm(x))  # type: ignore[no-any-return]

    def fused(self) -> nn.Linear:
        """One linear layer."""
        gain, shift = _affine(self.norm)
        linear = self.linear
        linear.bias = nn.Parameter(linear.bias + linear.weight @ shift)
        linear.weight = nn.Parameter(linear.weight * gain)
        return linear


class Residual(nn.Module):
    """x + scale * branch(x).

    In training, each sample skips the branch with probability `drop_path` (stochastic depth, arXiv:1603.09382). Inside
    a windowed unit the samples are windows.

    Args:
        branch: modules in order, the last one a `ConvNorm` to `channels`.
        channels: C.
        layer_scale: initial scale of each channel; 0 leaves the scale out.
        drop_path: in [0, 1).
    """

    scale: nn.Parameter | None

    def __init__(self, *branch: nn.Module, channels: int, layer_scale: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.drop_path = drop_path
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), layer_scale)) if layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        change: Tensor = self.branch(x)  # (B, C, H, W)
        if self.scale is not None:
            change = change * self.scale
        if self.training and self.drop_path:
            kept = change.new_empty(len(change), 1, 1, 1).bernoulli_(1 - self.drop_path)
            change = change * kept / (1 - self.drop_path)
        return x + change

    def fused(self) -> Self:
        """The same sum, with the scale folded into the last convolution of the branch."""
        if self.scale is not None:
            last = self.branch[-1]
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            bias = last.bias * self.scale.flatten()
            _with_weights(last, weight=last.weight * self.scale.view(-1, 1, 1, 1), bias=bias)
            self.scale = None
        return self


class Stem(nn.Module):
    """Two strided convolutions and a projection, (B, 3, H, W) to (B, C, H/4, W/4).

    Args:
        channels: C, even.
        kernel: of both strided convolutions.
        expansion: channels of the second convolution, in multiples of C/2, the channels of the first.
    """

    def __init__(self, *, channels: int, kernel: int, expansion: int) -> None:
        super().__init__()
        half = channels // 2
        self.first = ConvNorm(inputs=3, outputs=half, kernel=kernel, stride=2)
        self.second = ConvNorm(inputs=half, outputs=expansion * half, kernel=kernel, stride=2)
        self.project = ConvNorm(inputs=expansion * half, outputs=channels)
        self.activation = nn.GELU()

    def forward(self, images: Tensor) -> Tensor:
        """Images to the first feature map."""
        x = self.activation(self.first(images))  # (B, C/2, H/2, W/2)
        x = self.activation(self.second(x))  # (B, expansion * C/2, H/4, W/4)
        return self.project(x)  # type: ignore[no-any-return]


class ConvBlock(Residual):
    """x + PW2(GELU(PW1(DW(x)))), (B, C, H, W) to itself."""

    def __init__(
        self, *, channels: int, kernel: int, expansion: int, layer_scale: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__(
            ConvNorm(inputs=channels, outputs=channels, kernel=kernel, groups=channels),
            *feed_forward(channels=channels, expansion=expansion),
            channels=channels,
            layer_scale=layer_scale,
            drop_path=drop_path,
        )


class PositionEncoding(nn.Module):
    """x + DW(x), a conditional position encoding (arXiv:2102.10882), (B, C, H, W) to itself."""

    def __init__(self, *, channels: int, kernel: int) -> None:
        super().__init__()
        self.encode = ConvNorm(inputs=channels, outputs=channels, kernel=kernel, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the encoding."""
        return x + self.encode(x)  # type: ignore[no-any-return]

    def fused(self) -> nn.Module:
        """One depthwise convolution: adding x means adding 1 to the middle of its kernel."""
        conv = self.encode
        assert isinstance(conv, nn.Conv2d)
        middle = conv.kernel_size[0] // 2
        conv.weight[:, :, middle, middle] += 1
        return conv


class Head(nn.Module):
    """Global average pool and classifier, (B, C, H, W) to (B, classes).

    Args:
        channels: C.
        num_classes: outputs.
        distillation: add a second classifier that learns from a teacher's labels; `forward` averages both logits.
    """

    def __init__(self, *, channels: int, num_classes: int, distillation: bool = False) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(
            NormLinear(inputs=channels, outputs=num_classes) for _ in range(2 if distillation else 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, averaged over the classifiers."""
        first, *others = self.logits(x)
        return sum(others, first) / (1 + len(others)) if others else first

    def logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of each classifier: first for the labels; with distillation, then for the teacher."""
        x = x.mean((2, 3))  # (B, C)
        return tuple(classifier(x) for classifier in self.classifiers)

    def fused(self) -> Self:
        """One linear layer after the pool: the average of linear layers is a linear layer."""
        layers = [layer for layer in self.classifiers if isinstance(layer, nn.Linear)]
        layers[0].weight = nn.Parameter(torch.stack([layer.weight for layer in layers]).mean(0))
        layers[0].bias = nn.Parameter(torch.stack([layer.bias for layer in layers]).mean(0))
        self.classifiers = nn.ModuleList(layers[:1])
        return self


def feed_forward(*, channels: int, expansion: int) -> tuple[nn.Module, ...]:
    """1x1 to `expansion` * C, GELU, 1x1 back to C."""
    hidden = expansion * channels
    return (
        ConvNorm(inputs=channels, outputs=hidden),
        nn.GELU(),
        ConvNorm(inputs=hidden, outputs=channels),
    )


def residual_norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    """The batch norm that ends each residual branch, position encodings included, in the order they run.

    With the weights of these norms at zero, every block starts as the identity. Short training needs this
    (arXiv:1706.02677, section 5.1).
    """
    for module in network.modules():
        match module:
            case Residual():
                last = module.branch[-1]
            case PositionEncoding():
                last = module.encode
            case _:
                continue
        if isinstance(last, ConvNorm):
            yield last.norm


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Gain and shift of a batch norm in eval mode: gain * x + shift."""
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return gain, norm.bias - norm.running_mean * gain


def _with_weights(conv: nn.Conv2d, *, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    return conv
