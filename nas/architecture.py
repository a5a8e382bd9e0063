"""What a network is: frozen specs, the geometry walk over its layers, its id and its JSON form. No torch.

Example:
    >>> from nas.architecture import Architecture, ConvSpec, StageSpec
    >>> conv = ConvSpec(kernel=7, expansion=4)
    >>> network = Architecture(stages=tuple(StageSpec(channels=c, blocks=(conv,)) for c in (48, 96, 192, 384)))
    >>> [layer.key for layer in network.layers()][:3]
    ['stem-c48-k5-e4-224x224', 'conv-c48-k7-e4-56x56', 'downsample-c48-c96-k3-56x56']
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, assert_never

from pydantic import AfterValidator, Field, ValidationError, model_validator

from nas.errors import InputError
from nas.files import Record

__all__ = [
    "Architecture",
    "AttentionLayer",
    "AttentionSpec",
    "ConvLayer",
    "ConvSpec",
    "Count",
    "DownsampleLayer",
    "DownsampleSpec",
    "HeadLayer",
    "Layer",
    "OddCount",
    "OddCountOrZero",
    "Ratio",
    "Stack",
    "StageSpec",
    "StemLayer",
    "StemSpec",
    "Subject",
    "odd",
    "stage_layers",
    "stage_size",
]


def odd(value: int) -> int:
    """The value itself, where it is odd; a validator of kernels."""
    if value % 2 == 0:
        raise ValueError(f"must be odd, got {value}")
    return value


def _odd_or_zero(value: int) -> int:
    return odd(value) if value else value


# The bound is far above any network, and keeps sums of products finite.
Count = Annotated[int, Field(strict=True, gt=0, le=2**20)]
# Rounded, so that networks with equal channels have equal ids.
Ratio = Annotated[float, Field(strict=True, gt=0, le=1024), AfterValidator(lambda value: round(value, 6))]
OddCount = Annotated[Count, AfterValidator(odd)]
OddCountOrZero = Annotated[int, Field(strict=True, ge=0, le=2**20), AfterValidator(_odd_or_zero)]


class StemSpec(Record):
    """Two strided convolutions and a projection, 3 x H x W to C x H/4 x W/4 (iFormer, section 3).

    The first convolution has C/2 channels, the second `expansion` times as many.
    """

    kernel: OddCount = 5
    expansion: Count = 4


class DownsampleSpec(Record):
    """The strided convolution in front of stages 2, 3 and 4; halves height and width."""

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

    @model_validator(mode="after")
    def _check(self) -> Self:
        for index, block in enumerate(self.blocks):
            if isinstance(block, AttentionSpec):
                _require_divisible(block, self.channels, f"blocks[{index}]")
        return self


class Architecture(Record):
    """A network of the iFormer family: a stem, four stages at strides 4, 8, 16 and 32, and a classifier.

    Attributes:
        resolution: height and width of the input image in pixels, divisible by 32.
        num_classes: outputs of the classifier.
        layer_scale: initial value of a learnt factor per channel on every attention, feed-forward and convolution
            branch; 0 leaves it out. It folds away for deployment (iFormer-H trains with 1e-6).
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    resolution: Count = 224
    num_classes: Count = 1000
    stem: StemSpec = StemSpec()
    downsample: DownsampleSpec = DownsampleSpec()
    layer_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    stages: Annotated[tuple[StageSpec, ...], Field(min_length=4, max_length=4)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resolution % 32:
            raise ValueError(f"resolution must be divisible by 32, got {self.resolution}")
        if self.stages[0].channels % 2:
            raise ValueError(
                f"stages[0].channels must be even (the stem starts with half), got {self.stages[0].channels}"
            )
        for index, stage in enumerate(self.stages):
            size = stage_size(self.resolution, index)
            for block in stage.blocks:
                if isinstance(block, AttentionSpec) and block.window and (size % block.window or size == block.window):
                    raise ValueError(
                        f"stages[{index}]: window must divide the {size}x{size} map and be smaller "
                        f"(0 attends everywhere), got {block.window}"
                    )
        return self

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON: equal networks, equal ids."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """Name of the whole network where single layers have their keys."""
        return f"network-{self.id}"

    @property
    def summary(self) -> str:
        """Widths and blocks in one line, C for convolution blocks and A for attention units.

        For example `48-96-192-384: 2C | 2C | 9C 4A 1C | 2A`.
        """
        widths = "-".join(str(stage.channels) for stage in self.stages)
        return f"{widths}: {' | '.join(_runs(stage) for stage in self.stages)}"

    def layers(self) -> Iterator[Layer]:
        """The layers in the order they run, each with the channels and the size of its input.

        This is the only geometry walk: building, profiling, latency look-up and counting all follow it.
        """
        size = self.resolution
        channels = self.stages[0].channels
        yield StemLayer(
            channels=channels, kernel=self.stem.kernel, expansion=self.stem.expansion, height=size, width=size
        )
        for index, stage in enumerate(self.stages):
            if index:
                yield DownsampleLayer(
                    in_channels=channels,
                    channels=stage.channels,
                    kernel=self.downsample.kernel,
                    height=size,
                    width=size,
                )
            size = stage_size(self.resolution, index)
            channels = stage.channels
            yield from stage_layers(stage, size)
        yield HeadLayer(channels=channels, num_classes=self.num_classes, height=size, width=size)

    def at(self, *, resolution: int | None = None, num_classes: int | None = None) -> Architecture:
        """The same network for other images or classes; a window that no longer fits its map becomes global."""
        resolution = resolution or self.resolution
        stages = []
        for index, stage in enumerate(self.stages):
            size = stage_size(resolution, index)
            blocks = tuple(
                block.model_copy(update={"window": 0})
                if isinstance(block, AttentionSpec) and block.window and (size % block.window or size <= block.window)
                else block
                for block in stage.blocks
            )
            stages.append(StageSpec(channels=stage.channels, blocks=blocks))
        return Architecture(
            resolution=resolution,
            num_classes=num_classes or self.num_classes,
            stem=self.stem,
            downsample=self.downsample,
            layer_scale=self.layer_scale,
            stages=tuple(stages),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the published JSON form; keys that do not apply are absent."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if not self.layer_scale:
            del data["layer_scale"]
        for stage in data["stages"]:
            for block in stage["blocks"]:
                if not block.get("window"):
                    block.pop("window", None)
        return data

    def to_json(self) -> str:
        """The published JSON form, one block a line."""
        data = self.to_dict()
        stages = []
        for stage in data.pop("stages"):
            blocks = ",\n   ".join(json.dumps(block) for block in stage["blocks"])
            stages.append(f'  {{"channels": {stage["channels"]}, "blocks": [\n   {blocks}]}}')
        head = ",\n ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
        return f'{{{head},\n "stages": [\n' + ",\n".join(stages) + "]}\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "architecture") -> Architecture:
        """Read the published JSON form.

        Args:
            text: one JSON document.
            where: what to call it in an error, usually its path.
        Raises:
            InputError: not JSON, an unknown or missing key, or a value against a rule.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError.from_validation(where, error) from error

    @classmethod
    def load(cls, path: Path) -> Architecture:
        """Read an architecture file.

        Raises:
            InputError: the file cannot be read, or does not hold an architecture.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        return cls.from_json(text, where=str(path))


def stage_size(resolution: int, index: int) -> int:
    """Height and width of the maps in stage `index` (0 to 3)."""
    return resolution // (4 << index)


def stage_layers(stage: StageSpec, size: int) -> Iterator[Layer]:
    """The layers of one stage on maps of `size` x `size`: the part of the geometry walk inside a stage."""
    for position, block in enumerate(stage.blocks):
        match block:
            case ConvSpec():
                yield ConvLayer(
                    channels=stage.channels, kernel=block.kernel, expansion=block.expansion, height=size, width=size
                )
            case AttentionSpec():
                yield AttentionLayer(
                    channels=stage.channels,
                    spec=block,
                    height=size,
                    width=size,
                    partitions=block.window > 0 and _window(stage.blocks, position - 1) != block.window,
                    merges=block.window > 0 and _window(stage.blocks, position + 1) != block.window,
                )
            case _:
                assert_never(block)


@dataclass(frozen=True, slots=True, kw_only=True)
class StemLayer:
    """3 x height x width to channels x height/4 x width/4."""

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
    """in_channels x height x width to channels x height/2 x width/2."""

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

    With windows, neighbouring units share one tiling: the first `partitions` the map into windows, the last `merges`
    them again (iFormer, section on downstream tasks); the units between see only windows.
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
    """`count` layers of one kind in a row, each with its own weights; only for layers that keep the shape of a map."""

    layer: ConvLayer | AttentionLayer
    count: int

    @property
    def key(self) -> str:
        """Name of the stack."""
        return f"{self.layer.key}-times{self.count}"


# What a device can time.
Subject = Layer | Stack | Architecture


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


def _window(blocks: tuple[ConvSpec | AttentionSpec, ...], position: int) -> int:
    """Window of the block at `position`, 0 for a convolution block or beyond either end."""
    block = blocks[position] if 0 <= position < len(blocks) else None
    return block.window if isinstance(block, AttentionSpec) else 0


def _runs(stage: StageSpec) -> str:
    letters = ["C" if isinstance(block, ConvSpec) else "A" for block in stage.blocks]
    runs: list[list[str]] = []
    for letter in letters:
        if runs and runs[-1][0] == letter:
            runs[-1].append(letter)
        else:
            runs.append([letter])
    return " ".join(f"{len(run)}{run[0]}" for run in runs)
