"""The stages of a search space: drawn from their options, told by the choices that lead to them, and recognised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from nas.networks.choices import StageChoices, arrange
from nas.networks.specs import AttentionSpec, ConvSpec, StageSpec

__all__ = ["KINDS", "Choose", "allows", "sample_stage", "stage_choices", "stages_of_one_block"]

T = TypeVar("T")
Block = ConvSpec | AttentionSpec


class Choose(Protocol):
    """Picks one of several options for a named parameter, as an Optuna trial or a random generator does."""

    def __call__(self, name: str, options: Sequence[T]) -> T:
        """One of `options`; `name` is unique within a network and means the same in every network."""
        ...


KINDS: dict[str, type[Block]] = {"C": ConvSpec, "A": AttentionSpec}


def stages_of_one_block(stage: StageChoices, widths: Sequence[int] | None = None) -> Iterator[StageSpec]:
    """The stage with each of its possible blocks alone; the layers of every longer stage are among their layers."""
    for channels in widths or stage.channels:
        for block in (*stage.conv.specs(), *stage.attention.specs(channels)):
            yield StageSpec(channels=channels, blocks=(block,))


def sample_stage(name: str, stage: StageChoices, choose: Choose) -> StageSpec:
    """One stage, from the answers of `choose`; `name` begins the names of its parameters."""
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
    return StageSpec(
        channels=channels, blocks=tuple(blocks[letter] for letter in arrange(convs, attentions, placement))
    )


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


def allows(choices: StageChoices, stage: StageSpec) -> bool:
    """Whether the options allow this stage."""
    if stage.channels not in choices.channels:
        return False
    allowed = {*choices.conv.specs(), *choices.attention.specs(stage.channels)}
    used = set(stage.blocks)
    order = _order(stage)
    # At most one block of each kind: a stage of the space repeats the same block.
    return used <= allowed and len(used) == len(set(order)) and order in choices.orders()
