"""The stages of a search space: drawn from their options, told by the choices that lead to them, and recognised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from nas.networks.architecture import stage_layers
from nas.networks.choices import StageChoices, arrange
from nas.networks.layers import Layer
from nas.networks.specs import AttentionSpec, ConvSpec, StageSpec
from nas.networks.windows import Tiling, in_windows, tilings

__all__ = [
    "Choose",
    "allows",
    "extreme_stage",
    "layers_of_blocks",
    "sample_stage",
    "stage_choices",
    "stages_of_one_block",
]

T = TypeVar("T")
Block = ConvSpec | AttentionSpec


class Choose(Protocol):
    """Picks one of several options for a named parameter, as an Optuna trial or a random generator does."""

    def __call__(self, name: str, options: Sequence[T]) -> T:
        """One of `options`; `name` is unique within a network and means the same in every network."""
        ...


def stages_of_one_block(stage: StageChoices, widths: Sequence[int] | None = None) -> Iterator[StageSpec]:
    """The stage with each of its possible blocks alone."""
    for channels in widths or stage.channels:
        for block in (*stage.conv.specs(), *stage.attention.specs(channels)):
            yield StageSpec(channels=channels, blocks=(block,))


def layers_of_blocks(stage: StageChoices, size: int) -> Iterator[Layer]:
    """Every distinct layer of the blocks of the stage, on a map of this size."""
    tiled = {tiling for order in stage.orders() for tiling in tilings(order, stage.attention.window, size)}
    for alone in stages_of_one_block(stage):
        (block,) = alone.blocks
        if isinstance(block, ConvSpec):
            yield from stage_layers(alone, size)
        else:
            yield from (tiling.layer(block, channels=alone.channels, size=size) for tiling in tiled)


def extreme_stage(
    stage: StageChoices,
    size: int,
    *,
    channels: int,
    costs: Callable[[Layer], float],
    combine: Callable[[Iterable[float]], float],
    sign: float,
) -> tuple[float, StageSpec]:
    """The stage of this width that costs least, and its cost.

    Args:
        stage: the options.
        size: height and width of its map.
        channels: one of its widths.
        costs: cost of a layer.
        combine: makes the cost of a stage from those of its layers, `sum` or `max`.
        sign: -1 for the most expensive stage.
    """
    convs = {
        spec: costs(layer)
        for spec in stage.conv.specs()
        for layer in stage_layers(StageSpec(channels=channels, blocks=(spec,)), size)
    }
    units = list(stage.attention.specs(channels))
    # Of orders with the same layers, one.
    orders = {
        (order.count("C"), frozenset(tilings(order, stage.attention.window, size).items())): order
        for order in stage.orders()
    }
    of_units = {
        tiling: [costs(tiling.layer(unit, channels=channels, size=size)) for unit in units]
        for tiling in {tiling for _, tiled in orders for tiling, _ in tiled}
    }

    def of_all(unit: int, tiled: Iterable[tuple[Tiling, int]]) -> list[float]:
        return [of_units[tiling][unit] for tiling, number in tiled for _ in range(number)]

    # Costs add up, or the greatest counts: the best block is the best alone, of units with the same tilings.
    conv = min(convs, key=lambda spec: sign * convs[spec], default=None)
    best_unit = {
        tiled: min(range(len(units)), key=lambda unit: sign * combine(of_all(unit, tiled)))
        for tiled in {tiled for _, tiled in orders if tiled}
    }
    found = []
    for (number, tiled), order in orders.items():
        each = [convs[conv]] * number if conv else []
        blocks: dict[str, Block] = {"C": conv} if conv else {}
        if tiled:
            each += of_all(best_unit[tiled], tiled)
            blocks["A"] = units[best_unit[tiled]]
        found.append((combine(each), blocks, order))
    cost, blocks, order = min(found, key=lambda one: sign * one[0])
    spec = StageSpec(channels=channels, blocks=tuple(blocks[letter] for letter in order))
    return cost, in_windows(spec, stage.attention.window, size)


def sample_stage(name: str, stage: StageChoices, choose: Choose, *, size: int) -> StageSpec:
    """One stage on a map of `size`, from the answers of `choose`; `name` begins the names of its parameters."""
    channels = choose(f"{name}.channels", stage.channels)
    convs = choose(f"{name}.conv.depth", stage.conv.depth)
    depths = stage.attention.depth
    if convs:
        attentions = choose(f"{name}.attention.depth", depths)
    else:  # The stage must not be empty, so the options differ and the parameter has its own name.
        attentions = choose(f"{name}.attention.depth_without_conv", tuple(depth for depth in depths if depth))
    placement = stage.placement[0]
    if convs and attentions:
        placement = choose(f"{name}.placement", stage.placement)
    blocks: dict[str, Block] = {}
    if convs:
        blocks["C"] = ConvSpec(
            kernel=choose(f"{name}.conv.kernel", stage.conv.kernel),
            expansion=choose(f"{name}.conv.expansion", stage.conv.expansion),
        )
    if attentions:
        options = stage.attention
        kind = choose(f"{name}.attention.kind", options.kind)
        heads = channels // choose(f"{name}.attention.head_channels", options.head_channels) if kind == "mha" else None
        blocks["A"] = AttentionSpec(
            attention=kind,
            query_reduction=choose(f"{name}.attention.query_reduction", options.query_reduction),
            modulation=choose(f"{name}.attention.modulation", options.modulation),
            expansion=choose(f"{name}.attention.expansion", options.expansion),
            position_kernel=choose(f"{name}.attention.position_kernel", options.position_kernel),
            heads=heads,
        )
    order = arrange(convs, attentions, placement)
    drawn = StageSpec(channels=channels, blocks=tuple(blocks[letter] for letter in order))
    return in_windows(drawn, stage.attention.window, size) if stage.attention.window else drawn


def stage_choices(choices: StageChoices, stage: StageSpec) -> dict[str, object]:
    """The answers with which `sample_stage` returns this stage, and some that it does not ask for."""
    order = _order(stage)
    convs, attentions = order.count("C"), order.count("A")
    answers: dict[str, object] = {
        "channels": stage.channels,
        "conv.depth": convs,
        "attention.depth": attentions,
        "attention.depth_without_conv": attentions,
        "placement": next(p for p in choices.placement if arrange(convs, attentions, p) == order),
    }
    for block in set(stage.blocks):
        if isinstance(block, ConvSpec):
            answers |= {"conv.kernel": block.kernel, "conv.expansion": block.expansion}
        else:
            answers |= {
                "attention.kind": block.attention,
                "attention.head_channels": stage.channels // block.heads if block.heads else None,
                "attention.query_reduction": block.query_reduction,
                "attention.modulation": block.modulation,
                "attention.expansion": block.expansion,
                "attention.position_kernel": block.position_kernel,
            }
    return answers


def _order(stage: StageSpec) -> str:
    return "".join("C" if isinstance(block, ConvSpec) else "A" for block in stage.blocks)


def allows(choices: StageChoices, stage: StageSpec, *, size: int) -> bool:
    """Whether the options allow this stage on a map of `size`."""
    if stage.channels not in choices.channels or in_windows(stage, choices.attention.window, size) != stage:
        return False
    stage = in_windows(stage, 0, size)
    allowed = {*choices.conv.specs(), *choices.attention.specs(stage.channels)}
    used = set(stage.blocks)
    order = _order(stage)
    # At most one block of each kind: a stage of the space repeats the same block.
    return used <= allowed and len(used) == len(set(order)) and order in choices.orders()
