"""What a network is built from, as in its JSON form: stem, downsampling, convolutions, attention units, stages."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from nas.files import Record

__all__ = [
    "MOST_BLOCKS",
    "AttentionSpec",
    "BlockSpec",
    "ConvSpec",
    "Count",
    "DownsampleSpec",
    "OddCount",
    "OddCountOrZero",
    "Ratio",
    "StageSpec",
    "StemSpec",
    "odd",
]


def odd(value: int) -> int:
    """Returns `value` if it is odd; a validator for kernels."""
    if value % 2 == 0:
        raise ValueError(f"must be odd, got {value}")
    return value


def _odd_or_zero(value: int) -> int:
    return odd(value) if value else value


MOST_BLOCKS = 400  # of a network; iFormer-H has 45
# The bound is far above any real network and keeps sums of products finite.
Count = Annotated[int, Field(strict=True, gt=0, le=2**20)]
# Rounded, so that networks with equal channels have equal ids.
Ratio = Annotated[float, Field(strict=True, gt=0, le=1024), AfterValidator(lambda value: round(value, 6))]
OddCount = Annotated[Count, AfterValidator(odd)]
OddCountOrZero = Annotated[int, Field(strict=True, ge=0, le=2**20), AfterValidator(_odd_or_zero)]


class StemSpec(Record):
    """Two strided convolutions and a projection, 3 x H x W to C x H/4 x W/4 (iFormer, section 3).

    The first convolution has C/2 channels. The second convolution has `expansion` times as many.
    """

    kernel: OddCount = 5
    expansion: Count = 4


class DownsampleSpec(Record):
    """The strided convolution before stages 2, 3 and 4; it halves height and width."""

    kernel: OddCount = 3


class ConvSpec(Record):
    """A convolution block: depthwise `kernel` x `kernel`, then 1x1 to `expansion` * C and back."""

    type: Literal["conv"] = "conv"
    kernel: OddCount
    expansion: Count


class AttentionSpec(Record):
    """An attention unit: position encoding, attention and feed-forward, each with its residual.

    Attributes:
        attention: `shma` (single head, sigmoid on values and gate), `sha` (single head, plain), `mha` (`heads` heads).
        query_reduction: R; queries and keys have C / R channels.
        modulation: m; values (and the gate of `shma`) have m * C channels.
        expansion: hidden channels of the feed-forward part, in multiples of C.
        position_kernel: kernel of the depthwise position encoding; 0 leaves it out.
        heads: number of heads, for `mha` only.
        window: attend inside `window` x `window` tiles of the map; 0 attends everywhere.
    """

    type: Literal["attention"] = "attention"
    attention: Literal["shma", "sha", "mha"]
    query_reduction: Count
    modulation: Ratio
    expansion: Count
    position_kernel: OddCountOrZero = 3
    heads: Count | None = None
    window: Annotated[int, Field(strict=True, ge=0, le=2**20)] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.heads is None) == (self.attention == "mha"):
            raise ValueError(f"heads goes with mha and only with it, got heads={self.heads} for {self.attention}")
        return self

    def value_channels(self, channels: int) -> int:
        """Channels of the values, and of the gate: m * C."""
        return round(self.modulation * channels)


BlockSpec = Annotated[ConvSpec | AttentionSpec, Field(discriminator="type")]


class StageSpec(Record):
    """Blocks at one resolution, all with the same number of channels."""

    channels: Count
    blocks: Annotated[tuple[BlockSpec, ...], Field(min_length=1)]

    @property
    def weights(self) -> int:
        """About how many weights the blocks have: those of the large convolutions."""
        total = 0
        for block in self.blocks:
            if isinstance(block, ConvSpec):
                total += self.channels * block.kernel**2 + 2 * self.channels**2 * block.expansion
            else:
                total += self.channels * (block.position_kernel**2 + 2 * self.channels * block.expansion)
                total += 3 * self.channels * block.value_channels(self.channels)
        return total

    @model_validator(mode="after")
    def _check(self) -> Self:
        for index, block in enumerate(self.blocks):
            if isinstance(block, AttentionSpec):
                _require_divisible(block, self.channels, f"blocks[{index}]")
        return self


def _require_divisible(spec: AttentionSpec, channels: int, where: str) -> None:
    if channels % spec.query_reduction:
        raise ValueError(f"{where}: query_reduction must divide {channels} channels, got {spec.query_reduction}")
    if abs(spec.modulation * channels - spec.value_channels(channels)) > 1e-3:
        raise ValueError(f"{where}: modulation times {channels} channels must be whole, got {spec.modulation}")
    widths = (channels // spec.query_reduction, spec.value_channels(channels))
    if spec.heads and any(width % spec.heads for width in widths):
        raise ValueError(
            f"{where}: heads must divide {widths[0]} query and {widths[1]} value channels, got {spec.heads}"
        )
