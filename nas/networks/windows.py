"""Attention in windows: which units of a stage have them, and the layers that follow. No torch.

The rule of iFormer's networks at 512 px, section on downstream tasks: where a map is larger than the window, every
attention unit of the stage works in windows but the last one, which attends everywhere.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from nas.networks.architecture import Architecture, stage_layers, stage_size
from nas.networks.layers import AttentionLayer
from nas.networks.specs import AttentionSpec, ConvSpec, StageSpec

__all__ = ["Tiling", "in_windows", "tilings", "windowed"]


def in_windows(stage: StageSpec, window: int, size: int) -> StageSpec:
    """The stage with windows on every attention unit but the last, or on none if the map is not larger.

    Its weights have the same names and shapes.

    Args:
        stage: with any windows.
        window: their height and width; 0 for attention everywhere.
        size: height and width of the stage's map.
    """
    inside = 0 if window >= size else window
    last = max((place for place, block in enumerate(stage.blocks) if isinstance(block, AttentionSpec)), default=-1)
    blocks = tuple(
        block.model_copy(update={"window": 0 if place == last else inside})
        if isinstance(block, AttentionSpec)
        else block
        for place, block in enumerate(stage.blocks)
    )
    return StageSpec(channels=stage.channels, blocks=blocks)


def windowed(architecture: Architecture, window: int) -> Architecture:
    """The same network with the same windows in every stage; see `in_windows`.

    Args:
        architecture: with any windows.
        window: their height and width; 0 for attention everywhere.
    Raises:
        ValidationError: the window does not divide a map that is larger.
    """
    return Architecture(
        resolution=architecture.resolution,
        num_classes=architecture.num_classes,
        stem=architecture.stem,
        downsample=architecture.downsample,
        layer_scale=architecture.layer_scale,
        stages=tuple(
            in_windows(stage, window, stage_size(architecture.resolution, index))
            for index, stage in enumerate(architecture.stages)
        ),
    )


@dataclass(frozen=True, slots=True)
class Tiling:
    """What windows make of an attention unit, as in its layer: `window` is 0 for attention everywhere."""

    window: int = 0
    partitions: bool = False
    merges: bool = False

    def layer(self, unit: AttentionSpec, *, channels: int, size: int) -> AttentionLayer:
        """The layer of a unit without windows, under this tiling."""
        return AttentionLayer(
            channels=channels,
            spec=unit.model_copy(update={"window": self.window}) if self.window else unit,
            height=size,
            width=size,
            partitions=self.partitions,
            merges=self.merges,
        )


@lru_cache(maxsize=16384)
def tilings(order: str, window: int, size: int) -> Counter[Tiling]:
    """How many attention units of a stage have which tiling.

    Args:
        order: of blocks, such as `CCAAC` (C: convolution block, A: attention unit).
        window: of the stage; 0 for attention everywhere.
        size: height and width of the stage's map.

    Examples:
        >>> tilings("CAAAC", 16, 32)[Tiling(16, partitions=True)]
        1
    """
    if "A" not in order:
        return Counter()
    if not 0 < window < size:
        return Counter({Tiling(): order.count("A")})
    unit = AttentionSpec(attention="sha", query_reduction=1, modulation=1.0, expansion=1)
    blocks = tuple(unit if letter == "A" else ConvSpec(kernel=1, expansion=1) for letter in order)
    return Counter(
        Tiling(layer.spec.window, layer.partitions, layer.merges)
        for layer in stage_layers(in_windows(StageSpec(channels=1, blocks=blocks), window, size), size)
        if isinstance(layer, AttentionLayer)
    )
