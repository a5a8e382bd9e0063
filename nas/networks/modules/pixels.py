"""A network that classifies pixels: its four stages, and a decoder so light that the stages make the difference.

A supernet for segmentation is made of these (nas/training/supernet.py). The network that a user trains in the end has a
feature pyramid and a larger decoder (nas/dense/segmentation.py).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nas.networks.architecture import Architecture
from nas.networks.modules.blocks import ConvNorm
from nas.networks.modules.network import Network, build_model

__all__ = ["PixelNetwork", "build_pixel_model"]

_INNER = 64  # channels of the decoder


class LightDecoder(nn.Module):
    """Maps at strides 4 to 32 to logits (B, classes, H/4, W/4): each is projected, all are added, a layer classifies.

    Args:
        channels: of the four maps.
        num_classes: number of classes.
    """

    def __init__(self, *, channels: list[int], num_classes: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(ConvNorm(inputs=width, outputs=_INNER) for width in channels)
        self.classify = nn.Linear(_INNER, num_classes)  # A matrix of classes is none for Muon; AdamW trains it.
        nn.init.trunc_normal_(self.classify.weight, std=0.02)
        nn.init.zeros_(self.classify.bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Logits at the size of the first map."""
        first, *others = (scale(x) for scale, x in zip(self.scales, maps, strict=True))
        for x in others:
            first = first + F.interpolate(x, first.shape[2:], mode="bilinear")
        logits: Tensor = self.classify(F.relu(first).permute(0, 2, 3, 1))
        return logits.permute(0, 3, 1, 2)


class PixelNetwork(Network):
    """A network of the iFormer family below a `LightDecoder`: (B, 3, H, W) to (B, classes, H/4, W/4)."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the pixels."""
        return self.layers[-1](self.features(images))  # type: ignore[no-any-return]


def build_pixel_model(architecture: Architecture) -> PixelNetwork:
    """A network to train that classifies pixels; its classes are those of the architecture.

    Examples:
        >>> import torch
        >>> from nas.networks.architecture import ConvSpec, StageSpec
        >>> stages = tuple(StageSpec(channels=c, blocks=(ConvSpec(kernel=3, expansion=2),)) for c in (8, 8, 16, 16))
        >>> network = build_pixel_model(Architecture(resolution=64, num_classes=10, stages=stages))
        >>> network(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10, 16, 16])
    """
    *body, _ = build_model(architecture).layers
    channels = [stage.channels for stage in architecture.stages]
    decoder = LightDecoder(channels=channels, num_classes=architecture.num_classes)
    return PixelNetwork(architecture=architecture, layers=[*body, decoder])
