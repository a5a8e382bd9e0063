"""What a network is: a stem, four stages and a classifier; its layers and their shapes, its id and JSON form. No torch.

Examples:
    >>> from nas.networks import Architecture, ConvSpec, StageSpec
    >>> conv = ConvSpec(kernel=7, expansion=4)
    >>> network = Architecture(stages=tuple(StageSpec(channels=c, blocks=(conv,)) for c in (48, 96, 192, 384)))
    >>> [layer.key for layer in network.layers()][:3]
    ['stem-c48-k5-e4-224x224', 'conv-c48-k7-e4-56x56', 'downsample-c48-c96-k3-56x56']
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, assert_never

from pydantic import Field, ValidationError, model_validator

from nas.errors import InputError
from nas.files import Record, read_bytes
from nas.networks.layers import AttentionLayer, ConvLayer, DownsampleLayer, HeadLayer, Layer, Stack, StemLayer
from nas.networks.specs import MOST_BLOCKS, AttentionSpec, ConvSpec, Count, DownsampleSpec, StageSpec, StemSpec

__all__ = ["Architecture", "Subject", "stage_layers", "stage_size"]


# Far above any network of the family (iFormer-H has 10^8 weights). A typing error must not fill the memory.
_MOST_PIXELS = 4096
_MOST_WEIGHTS = 10**9


class Architecture(Record):
    """A network of the iFormer family: a stem, four stages at strides 4, 8, 16 and 32, and a classifier.

    Attributes:
        resolution: height and width of the input image in pixels, divisible by 32.
        num_classes: outputs of the classifier.
        layer_scale: initial value of a learnt factor per channel on every attention, feed-forward and convolution
            branch; 0 leaves the factor out. Deployment folds it away. iFormer-H trains with 1e-6.
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
        if self.resolution > _MOST_PIXELS:
            raise ValueError(f"resolution must be {_MOST_PIXELS} at most, got {self.resolution}")
        if (blocks := sum(len(stage.blocks) for stage in self.stages)) > MOST_BLOCKS:
            raise ValueError(f"a network has {MOST_BLOCKS} blocks at most, got {blocks}")
        if (weights := sum(stage.weights for stage in self.stages)) > _MOST_WEIGHTS:
            raise ValueError(f"a network has {_MOST_WEIGHTS:.0e} weights at most, got {weights:.1e}")
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
        """First twelve hexadecimal digits of the canonical JSON's SHA-256; equal networks have equal ids."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """Name of the whole network, for the places where a single layer has its `key`."""
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

        Shapes are derived here and in `stage_layers` only. Building, profiling, latency lookup and counting all follow
        this order.
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
        """The same network at another resolution or number of classes.

        If the window of an attention unit no longer fits the map, the unit attends everywhere.
        """
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
        """The published JSON form, one block per line."""
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
            where: name of the document in error messages, usually its path.
        Raises:
            InputError: the text is not JSON, has an unknown or missing key, or a value that breaks a rule.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError.from_validation(where, error) from error

    @classmethod
    def load(cls, path: Path | str) -> Architecture:
        """Read an architecture file.

        Raises:
            InputError: the file cannot be read, or does not hold an architecture.
        """
        return cls.from_json(read_bytes(Path(path)), where=str(path))


def stage_size(resolution: int, index: int) -> int:
    """Height and width of the feature maps in stage `index` (0 to 3)."""
    return resolution // (4 << index)


def stage_layers(stage: StageSpec, size: int) -> Iterator[Layer]:
    """The layers of one stage on feature maps of `size` x `size`; `Architecture.layers` uses it for each stage."""
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


# What a device can time.
Subject = Layer | Stack | Architecture


def _window(blocks: tuple[ConvSpec | AttentionSpec, ...], position: int) -> int:
    """Window of the block at `position`; 0 for a convolution block or a position outside the stage."""
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
