"""What a search space file may contain: the options of stem, stages, convolution blocks and attention units."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Annotated, Any, Literal, Self, assert_never

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from nas.files import Record
from nas.networks.specs import MOST_BLOCKS, AttentionSpec, ConvSpec, Count, OddCount, OddCountOrZero, Ratio

__all__ = [
    "AttentionChoices",
    "ConvChoices",
    "DownsampleChoices",
    "NetworkChoices",
    "Placement",
    "ReferenceChoices",
    "StageChoices",
    "StemChoices",
    "Wholes",
    "arrange",
]

Placement = Literal["late", "end", "interleaved", "start"]


_MOST = 1000  # options of one parameter
# What takes some seconds to list. The space iformer has 864, 870 and 112,475.
_MOST_WIDTHS, _MOST_DIFFERENT, _MOST_ORDERED = 20_000, 10_000, 500_000


def _as_list(value: object) -> object:
    options = value if isinstance(value, list | tuple) else [value]
    if len(options) > _MOST:  # before a message is made about each of a million
        raise ValueError(f"{_MOST} options at most, got {len(options)}")
    return options


_WholeOrZero = Annotated[int, Field(strict=True, ge=0, le=1024)]
Wholes = Annotated[tuple[Count, ...], BeforeValidator(_as_list), Field(min_length=1)]
_Odds = Annotated[tuple[OddCount, ...], BeforeValidator(_as_list), Field(min_length=1)]
_OddsOrZero = Annotated[tuple[OddCountOrZero, ...], BeforeValidator(_as_list), Field(min_length=1)]
_WholesOrZero = Annotated[tuple[_WholeOrZero, ...], BeforeValidator(_as_list), Field(min_length=1)]
_Ratios = Annotated[tuple[Ratio, ...], BeforeValidator(_as_list), Field(min_length=1)]
_Kinds = Annotated[tuple[Literal["shma", "sha", "mha"], ...], BeforeValidator(_as_list), Field(min_length=1)]
_Placements = Annotated[tuple[Placement, ...], BeforeValidator(_as_list), Field(min_length=1)]


class _Choices(Record):
    """A table of the file; a field with options is a tuple of them, in the order written."""

    @model_validator(mode="after")
    def _options_differ(self) -> Self:
        for name, value in self:
            if isinstance(value, tuple) and not isinstance(value[0], Record) and len(set(value)) < len(value):
                raise ValueError(f"{name}: options must differ, got {list(value)}")
        return self


class StemChoices(_Choices):
    """Options of the stem."""

    kernel: _Odds = (5,)
    expansion: Wholes = (4,)


class DownsampleChoices(_Choices):
    """Options of the strided convolutions between stages."""

    kernel: _Odds = (3,)


class ConvChoices(_Choices):
    """Options of the convolution blocks of a stage; all blocks share one kernel and one expansion."""

    depth: _WholesOrZero = (0,)
    kernel: _Odds = (7,)
    expansion: Wholes = (4,)

    @property
    def most_specs(self) -> int:
        """Number of `specs`, at most, without building any."""
        return len(self.kernel) * len(self.expansion)

    def specs(self) -> Iterator[ConvSpec]:
        """Every convolution block that the stage can contain."""
        if any(self.depth):
            for kernel, expansion in product(self.kernel, self.expansion):
                yield ConvSpec(kernel=kernel, expansion=expansion)


class AttentionChoices(_Choices):
    """Options of the attention units of a stage; all units share one choice.

    Attributes:
        head_channels: channels per head, for `mha` only; a stage of C channels has C / head_channels heads.
        window: height and width of the windows that all units but the last of a stage work in, where the map is larger;
            0 for attention everywhere. It is no choice.
    """

    depth: _WholesOrZero = (0,)
    kind: _Kinds = ("shma",)
    query_reduction: Wholes = (1,)
    modulation: _Ratios = (1.0,)
    expansion: Wholes = (4,)
    position_kernel: _OddsOrZero = (3,)
    head_channels: Wholes = (32,)
    window: Annotated[int, Field(strict=True, ge=0, le=2**20)] = 0

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `window` where there is none: files from before that field are compared with what is written."""
        fields: dict[str, Any] = handler(self)
        return fields if self.window else {name: value for name, value in fields.items() if name != "window"}

    @property
    def most_specs(self) -> int:
        """Number of `specs` at one width, at most, without building any."""
        options = (self.query_reduction, self.modulation, self.expansion, self.position_kernel, self.head_channels)
        return len(self.kind) * prod(map(len, options))

    def specs(self, channels: int) -> Iterator[AttentionSpec]:
        """Every attention unit that the stage can contain at this width, without its window."""
        if not any(self.depth):
            return
        for kind in self.kind:
            for head_channels in self.head_channels if kind == "mha" else self.head_channels[:1]:
                for reduction, modulation, expansion, position in product(
                    self.query_reduction, self.modulation, self.expansion, self.position_kernel
                ):
                    yield AttentionSpec(
                        attention=kind,
                        query_reduction=reduction,
                        modulation=modulation,
                        expansion=expansion,
                        position_kernel=position,
                        heads=channels // head_channels if kind == "mha" else None,
                    )


class StageChoices(_Choices):
    """Options of one stage: its width, its convolution blocks, its attention units and their placement."""

    channels: Wholes
    conv: ConvChoices = ConvChoices()
    attention: AttentionChoices = AttentionChoices()
    placement: _Placements = ("late",)

    @model_validator(mode="after")
    def _never_empty(self) -> Self:
        if 0 in self.conv.depth and not any(self.attention.depth):
            raise ValueError("conv.depth and attention.depth may both be 0: a stage needs a block")
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if "mha" in self.attention.kind and any(self.attention.depth):
            for channels, each in product(self.channels, self.attention.head_channels):
                if channels % each:
                    raise ValueError(f"attention.head_channels: {each} does not divide channels {channels}")
        return self

    @property
    def most_orders(self) -> int:
        """Number of `orders`, at most, without making any."""
        return len(self.conv.depth) * len(self.attention.depth) * len(self.placement)

    @property
    def most_blocks(self) -> int:
        """Blocks of the longest stage."""
        return max(self.conv.depth) + max(self.attention.depth)

    def orders(self) -> Iterator[str]:
        """Every distinct order of blocks, such as `CCAAC` (C: convolution block, A: attention unit)."""
        combinations = product(self.conv.depth, self.attention.depth, self.placement)
        yield from dict.fromkeys(arrange(*combination) for combination in combinations if any(combination[:2]))

    def count(self) -> int:
        """Number of distinct stages over all widths."""
        return len(self.channels) * sum(self.counts().values())

    def counts(self) -> dict[tuple[bool, bool], int]:
        """Number of distinct stages of one width, by whether they have convolution blocks, and attention units."""
        convs = sum(1 for _ in self.conv.specs())
        units = sum(1 for _ in self.attention.specs(self.channels[0]))
        found: dict[tuple[bool, bool], int] = {}
        for order in self.orders():
            has = "C" in order, "A" in order
            found[has] = found.get(has, 0) + (convs if has[0] else 1) * (units if has[1] else 1)
        return found


def arrange(convs: int, attentions: int, placement: Placement) -> str:
    """The order of blocks in a stage (C: convolution block, A: attention unit).

    Examples:
        >>> [arrange(4, 2, placement) for placement in ("late", "end", "interleaved", "start")]
        ['CCCAAC', 'CCCCAA', 'CCACCA', 'AACCCC']
    """
    match placement:
        case "late":
            return "C" * (convs - 1) + "A" * attentions + "C" * min(convs, 1)
        case "end":
            return "C" * convs + "A" * attentions
        case "interleaved":
            # Each unit follows its even share of the convolution blocks.
            shares = [convs * (i + 1) // attentions - convs * i // attentions for i in range(attentions)]
            return "".join("C" * share + "A" for share in shares) or "C" * convs
        case "start":
            return "A" * attentions + "C" * convs
        case _:
            assert_never(placement)


class NetworkChoices(_Choices):
    """The fields that a space and a reference share.

    Attributes:
        layer_scale: initial value of the layer-scale factors; 0 for networks without these factors.
    """

    stem: StemChoices = StemChoices()
    downsample: DownsampleChoices = DownsampleChoices()
    layer_scale: Annotated[float, Field(ge=0)] = 0.0
    stages: Annotated[tuple[StageChoices, ...], Field(min_length=4, max_length=4)]

    def too_large(self, *, resolutions: int) -> str | None:
        """What of the networks cannot be listed in some seconds, in words; None if all can. Nothing is built for it.

        Args:
            resolutions: number of resolutions.
        """
        common = resolutions * prod(map(len, (self.stem.kernel, self.stem.expansion, self.downsample.kernel)))
        each = [(resolutions * len(stage.channels), stage) for stage in self.stages]
        listed = (
            ("blocks in the longest network", sum(stage.most_blocks for stage in self.stages), MOST_BLOCKS),
            (
                "combinations of channels, resolution, stem and downsampling",
                common * prod(len(stage.channels) for stage in self.stages),
                _MOST_WIDTHS,
            ),
            (
                "different blocks",
                sum(number * (stage.conv.most_specs + stage.attention.most_specs) for number, stage in each),
                _MOST_DIFFERENT,
            ),
            (
                "blocks in all stages that differ in order",
                sum(number * stage.most_orders * stage.most_blocks for number, stage in each),
                _MOST_ORDERED,
            ),
        )
        for what, number, most in listed:
            if number > most:
                return f"{number:,} {what}, {most:,} at most: leave options out"
        return None


class ReferenceChoices(NetworkChoices):
    """A known network, written like a space in which every option is fixed."""
