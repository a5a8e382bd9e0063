"""What the arguments of timm's iFormer can say: those of a network, and the options of a search space within them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, assert_never

from nas.errors import InputError
from nas.networks.architecture import Architecture, stage_size
from nas.networks.choices import (
    AttentionChoices,
    ConvChoices,
    DownsampleChoices,
    NetworkChoices,
    StageChoices,
    StemChoices,
)
from nas.networks.specs import AttentionSpec, ConvSpec, DownsampleSpec, StageSpec, StemSpec

__all__ = ["COMMON", "common_values", "timm_arguments", "timm_options", "why_not_timm", "with_value"]

# Options of stages that have one value in a whole network.
COMMON = ("conv.expansion", "attention.modulation", "attention.expansion")

_KERNEL, _KIND, _POSITION = 7, "shma", 3  # of every block


def timm_arguments(architecture: Architecture) -> dict[str, Any]:
    """The arguments with which `timm.models.iformer.IFormer` builds this network; `distillation` is left out.

    Raises:
        InputError: they cannot express it; the text names the first reason.
    """
    if architecture.stem != StemSpec():
        raise _inexpressible("stem", f"{StemSpec()}, got {architecture.stem}")
    if architecture.downsample != DownsampleSpec():
        raise _inexpressible("downsample", f"{DownsampleSpec()}, got {architecture.downsample}")
    stages = architecture.stages
    widths = [stage.channels for stage in stages]
    for index in range(1, len(stages)):
        if widths[index] == widths[index - 1]:
            raise _inexpressible(
                f"stages[{index}].channels",
                f"unlike the stage before (timm would not halve the map), got {widths[index]}",
            )
    for index, stage in enumerate(stages):
        for position, block in enumerate(stage.blocks):
            _check_timm_block(block, f"stages[{index}].blocks[{position}]")
        if stage.blocks != _late(stage):
            raise _inexpressible(
                f"stages[{index}].blocks", "in the order convolutions, attention units, one convolution"
            )
    convs = [block for stage in stages for block in stage.blocks if isinstance(block, ConvSpec)]
    units = [block for stage in stages for block in stage.blocks if isinstance(block, AttentionSpec)]
    modulation = _common("modulation", [block.modulation for block in units])
    return {
        "num_classes": architecture.num_classes,
        "dims": tuple(widths),
        "depths": tuple(sum(1 if isinstance(block, ConvSpec) else 3 for block in stage.blocks) for stage in stages),
        "attn_groups": tuple(len(_units(stage)) for stage in stages),
        "attn_head_dim_reduction": tuple(
            _common("query_reduction in a stage", [block.query_reduction for block in _units(stage)], default=0)
            for stage in stages
        ),
        "conv_ratio": _common("expansion of the convolution blocks", [block.expansion for block in convs]),
        "ffn_ratio": _common("expansion of the attention units", [block.expansion for block in units]),
        "attn_ratio": int(modulation) if modulation == int(modulation) else modulation,
        "layer_scale_init_value": architecture.layer_scale,
    }


def why_not_timm(architecture: Architecture) -> str:
    """Why timm's arguments cannot express a network; empty if they can."""
    try:
        timm_arguments(architecture)
    except InputError as error:
        return str(error)
    return ""


def timm_options(choices: NetworkChoices, resolutions: Sequence[int]) -> dict[str, Any]:
    """The options of a space that timm's arguments can say, as its fields `stem`, `downsample` and `stages`.

    Blocks that timm lacks are left out where their depth may be 0, and what `COMMON` names keeps the values that all
    stages share. The networks of these options still may differ in it, and have neighbouring stages of one width, which
    timm's may not. A stage whose map is larger than its window at any resolution keeps one attention unit at most: the
    last one attends everywhere.

    Args:
        choices: the space.
        resolutions: those of the space.
    Raises:
        InputError: no network is left; the text names the option that leaves none.
    """
    stages = [
        _stage(stage, f"stages[{index}]", size=stage_size(max(resolutions), index))
        for index, stage in enumerate(choices.stages)
    ]
    for name in COMMON:
        stages = _sharing(stages, *name.split("."))
    widths = _unlike([stage.channels for stage in stages])
    stages = [stage.model_copy(update={"channels": own}) for stage, own in zip(stages, widths, strict=True)]
    stem, down = StemSpec(), DownsampleSpec()
    return {
        "stem": StemChoices(
            kernel=_only(choices.stem.kernel, stem.kernel, "stem.kernel"),
            expansion=_only(choices.stem.expansion, stem.expansion, "stem.expansion"),
        ),
        "downsample": DownsampleChoices(kernel=_only(choices.downsample.kernel, down.kernel, "downsample.kernel")),
        "stages": tuple(stages),
    }


def common_values(stages: Sequence[StageChoices], name: str) -> tuple[Any, ...]:
    """The values of one of `COMMON`, in a space that fits timm; one value if no stage has such blocks."""
    part, option = name.split(".")
    having = [getattr(stage, part) for stage in stages if any(getattr(stage, part).depth)]
    return tuple(getattr(having[0], option)) if having else (None,)


def with_value(stages: Sequence[StageChoices], name: str, value: object) -> tuple[StageChoices, ...]:
    """The stages of a space that fits timm, with one value of one of `COMMON`."""
    part, option = name.split(".")
    return tuple(
        stage.model_copy(update={part: getattr(stage, part).model_copy(update={option: (value,)})})
        if any(getattr(stage, part).depth)
        else stage
        for stage in stages
    )


def _stage(stage: StageChoices, where: str, *, size: int) -> StageChoices:
    """The options of a stage with blocks as timm has them, in timm's order, on a map of `size` at most."""
    conv, units = stage.conv, stage.attention
    if units.window:
        depths = tuple(depth for depth in units.depth if depth <= 1) if units.window < size else units.depth
        if not depths:
            raise _nothing(f"{where}.attention.window", "0")
        units = units.model_copy(update={"window": 0, "depth": depths})
    if any(conv.depth):
        if _KERNEL in conv.kernel:
            conv = conv.model_copy(update={"kernel": (_KERNEL,)})
        else:
            conv = ConvChoices(depth=_none(conv.depth, f"{where}.conv.kernel", _KERNEL))
    if any(units.depth):
        if _KIND not in units.kind:
            units = AttentionChoices(depth=_none(units.depth, f"{where}.attention.kind", _KIND))
        elif _POSITION not in units.position_kernel:
            units = AttentionChoices(depth=_none(units.depth, f"{where}.attention.position_kernel", _POSITION))
        else:
            heads = units.head_channels[:1]  # of `mha` alone
            own = {"kind": (_KIND,), "position_kernel": (_POSITION,), "head_channels": heads}
            units = units.model_copy(update=own)
    if any(conv.depth) and any(units.depth):
        _only(stage.placement, "late", f"{where}.placement")
    return _with_a_block(where, stage, conv, units)


def _sharing(stages: Sequence[StageChoices], part: str, option: str) -> list[StageChoices]:
    """The stages with those values of an option alone that all stages with such blocks share."""
    where = f"stages[].{part}.{option}"
    having = [getattr(stage, part) for stage in stages if any(getattr(stage, part).depth)]
    shared: tuple[Any, ...] | None = None
    for choices in sorted(having, key=lambda choices: 0 in choices.depth):  # those that cannot be left out first
        values = getattr(choices, option)
        both = values if shared is None else tuple(value for value in shared if value in values)
        if both:
            shared = both
        elif 0 not in choices.depth:
            raise _nothing(where, "a value that all stages share")
    found = []
    for index, stage in enumerate(stages):
        choices = getattr(stage, part)
        if any(choices.depth):
            fits = set(shared or ()) <= set(getattr(choices, option))
            own = choices.model_copy(update={option: shared}) if fits else type(choices)(depth=(0,))
            both = {"conv": stage.conv, "attention": stage.attention} | {part: own}
            stage = _with_a_block(f"stages[{index}]", stage, both["conv"], both["attention"])
        found.append(stage)
    return found


def _unlike(widths: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The widths of stages without those that a neighbour must have."""
    found = list(widths)
    pairs = [(one, one + step) for one in range(len(found)) for step in (-1, 1) if 0 <= one + step < len(found)]
    for _ in found:  # What is left alone may leave another width alone.
        for one, other in pairs:
            if len(found[one]) == 1:
                found[other] = tuple(width for width in found[other] if width not in found[one])
                if not found[other]:
                    raise _nothing(f"stages[{other}].channels", f"other widths than {list(found[one])}")
    return found


def _with_a_block(where: str, stage: StageChoices, conv: ConvChoices, units: AttentionChoices) -> StageChoices:
    """A stage with these options of blocks, in timm's order.

    Raises:
        InputError: they leave it no block.
    """
    if not any(units.depth):  # A stage without blocks is none.
        depths = tuple(depth for depth in conv.depth if depth)
        if not depths:
            raise _nothing(where, "a block that timm has")
        conv = conv.model_copy(update={"depth": depths})
    return stage.model_copy(update={"conv": conv, "attention": units, "placement": ("late",)})


V = TypeVar("V")


def _only(options: Sequence[V], value: V, where: str) -> tuple[V]:
    """The one option that timm has.

    Raises:
        InputError: it is none of them.
    """
    if value not in options:
        raise _nothing(where, f"{value}")
    return (value,)


def _none(depths: Sequence[int], where: str, value: object) -> tuple[int]:
    """The depth of blocks that timm lacks.

    Raises:
        InputError: there must be some.
    """
    if 0 not in depths:
        raise _nothing(where, f"{value}")
    return (0,)


def _nothing(where: str, needed: str) -> InputError:
    return InputError(f"timm's iFormer can say no network of this space: {where} must allow {needed}")


def _check_timm_block(block: ConvSpec | AttentionSpec, where: str) -> None:
    match block:
        case ConvSpec():
            fields: dict[str, object] = {"kernel": _KERNEL}
        case AttentionSpec():
            fields = {"attention": _KIND, "position_kernel": _POSITION, "window": 0}
        case _:
            assert_never(block)
    for field, needed in fields.items():
        if getattr(block, field) != needed:
            raise _inexpressible(f"{where}.{field}", f"{needed}, got {getattr(block, field)}")


def _units(stage: StageSpec) -> list[AttentionSpec]:
    return [block for block in stage.blocks if isinstance(block, AttentionSpec)]


def _late(stage: StageSpec) -> tuple[ConvSpec | AttentionSpec, ...]:
    """The blocks of a stage in timm's order: all convolution blocks but the last, attention units, the last block."""
    convs = [block for block in stage.blocks if isinstance(block, ConvSpec)]
    return (*convs[:-1], *_units(stage), *convs[-1:])


T = TypeVar("T", int, float)


def _common(what: str, values: list[T], *, default: T = 1) -> T:
    """The single value of all; `default` if there are no values, in which case it has no effect."""
    if len(set(values)) > 1:
        raise _inexpressible(what, f"one value, got {', '.join(f'{value:g}' for value in sorted(set(values)))}")
    return values[0] if values else default


def _inexpressible(what: str, rule: str) -> InputError:
    return InputError(f"timm's iFormer cannot express this network: {what} must be {rule}")
