"""The layers of a network: the units of a latency table, each with its channels and its height and width."""

from __future__ import annotations

from dataclasses import dataclass

from nas.networks.specs import AttentionSpec

__all__ = ["AttentionLayer", "ConvLayer", "DownsampleLayer", "HeadLayer", "Layer", "Stack", "StemLayer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StemLayer:
    """The stem, 3 x height x width to channels x height/4 x width/4."""

    channels: int
    kernel: int
    expansion: int
    height: int
    width: int

    @property
    def key(self) -> str:
        """Name of the layer in a latency table."""
        return f"stem-c{self.channels}-k{self.kernel}-e{self.expansion}-{self.height}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownsampleLayer:
    """A strided convolution, in_channels x height x width to channels x height/2 x width/2."""

    in_channels: int
    channels: int
    kernel: int
    height: int
    width: int

    @property
    def key(self) -> str:
        """Name of the layer in a latency table."""
        return f"downsample-c{self.in_channels}-c{self.channels}-k{self.kernel}-{self.height}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvLayer:
    """A convolution block at channels x height x width."""

    channels: int
    kernel: int
    expansion: int
    height: int
    width: int

    @property
    def key(self) -> str:
        """Name of the layer in a latency table."""
        return f"conv-c{self.channels}-k{self.kernel}-e{self.expansion}-{self.height}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayer:
    """An attention unit at channels x height x width.

    Neighbouring units with the same window share one tiling. The first unit partitions the map into windows
    (`partitions`) and the last unit merges the windows again (`merges`). The units between see only windows (iFormer,
    section on downstream tasks).
    """

    channels: int
    spec: AttentionSpec
    height: int
    width: int
    partitions: bool = False
    merges: bool = False

    @property
    def key(self) -> str:
        """Name of the layer in a latency table."""
        spec = self.spec
        parts = [
            f"attention-c{self.channels}-{spec.attention}-r{spec.query_reduction}-m{spec.modulation:g}",
            f"e{spec.expansion}-p{spec.position_kernel}",
        ]
        if spec.heads:
            parts.append(f"h{spec.heads}")
        if spec.window:
            parts.append(f"w{spec.window}{'p' if self.partitions else ''}{'m' if self.merges else ''}")
        return "-".join([*parts, f"{self.height}x{self.width}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLayer:
    """Global average pool and classifier: channels x height x width to num_classes."""

    channels: int
    num_classes: int
    height: int
    width: int

    @property
    def key(self) -> str:
        """Name of the layer in a latency table."""
        return f"head-c{self.channels}-n{self.num_classes}-{self.height}x{self.width}"


Layer = StemLayer | DownsampleLayer | ConvLayer | AttentionLayer | HeadLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """`count` equal layers in a row, each with its own weights; only for layers that keep the shape of a map."""

    layer: ConvLayer | AttentionLayer
    count: int

    @property
    def key(self) -> str:
        """Name of the stack."""
        return f"{self.layer.key}-times{self.count}"
