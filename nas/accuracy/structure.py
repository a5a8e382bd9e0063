"""How an architecture is built, as named numbers: where do two networks differ, and what do labels reach?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.encoding import Encoding, Rows

__all__ = ["NUMBERS", "Ranges", "beyond", "differences", "numbers", "numbers_of_rows", "ranges", "structure"]

Ranges = Mapping[str, tuple[float, float]]

_KINDS = ("shma", "sha", "mha")
_COUNTS = ("convolution blocks", "attention units")
_OF_BLOCKS = (
    "kernel",
    "convolution expansion",
    "query reduction",
    "modulation",
    "attention expansion",
    "position kernel",
)
_OF_STAGE = (
    "log channels",
    *_COUNTS,
    "log blocks",
    *_OF_BLOCKS,
    "place of attention",  # mean position of the attention units, from 0 (first) to 1 (last)
    *_KINDS,
)
# Columns of `numbers`.
NUMBERS = (
    "stem kernel",
    "stem expansion",
    *(f"stage {stage} {name}" for stage in range(1, 5) for name in _OF_STAGE),
)


def structure(network: Architecture) -> dict[str, float | str]:
    """What a network is made of, stage by stage. What a stage lacks is absent.

    Blocks of one kind are alike within a stage of a search space; of others, the first counts.
    """
    facts: dict[str, float | str] = {
        "resolution": network.resolution,
        "stem kernel": network.stem.kernel,
        "stem expansion": network.stem.expansion,
        "downsample kernel": network.downsample.kernel,
    }
    for number, stage in enumerate(network.stages, start=1):
        where = f"stage {number}"
        convs = [block for block in stage.blocks if isinstance(block, ConvSpec)]
        units = [block for block in stage.blocks if isinstance(block, AttentionSpec)]
        facts |= {
            f"{where} channels": stage.channels,
            f"{where} convolution blocks": len(convs),
            f"{where} attention units": len(units),
        }
        if convs:
            facts |= {f"{where} kernel": convs[0].kernel, f"{where} convolution expansion": convs[0].expansion}
        if units:
            facts |= {
                f"{where} attention": units[0].attention,
                f"{where} query reduction": units[0].query_reduction,
                f"{where} modulation": units[0].modulation,
                f"{where} attention expansion": units[0].expansion,
                f"{where} position kernel": units[0].position_kernel,
                f"{where} place of attention": round(_place(stage), 2),
                f"{where} window": units[0].window,
                f"{where} heads": units[0].heads or 1,
            }
    return facts


def _place(stage: StageSpec) -> float:
    """Mean position of the attention units of a stage, from 0 (first) to 1 (last); the middle where there are none."""
    places = [place for place, block in enumerate(stage.blocks) if isinstance(block, AttentionSpec)]
    return sum(places) / len(places) / max(1, len(stage.blocks) - 1) if places else 0.5


def differences(network: Architecture, other: Architecture) -> list[str]:
    """Where a network differs from another one, such as `stage 1 channels 64 (48)`: its own number, and the other's."""
    mine, theirs = structure(network), structure(other)
    return [
        f"{name} {_word(mine.get(name))} ({_word(theirs.get(name))})"
        for name in {**mine, **theirs}
        if mine.get(name) != theirs.get(name)
    ]


def ranges(networks: Iterable[Architecture]) -> dict[str, tuple[float, float]]:
    """Smallest and largest number of each kind over some networks."""
    found: dict[str, tuple[float, float]] = {}
    for network in networks:
        for name, value in structure(network).items():
            if isinstance(value, int | float):
                low, high = found.get(name, (value, value))
                found[name] = (min(low, value), max(high, value))
    return found


def beyond(network: Architecture, known: Ranges) -> list[str]:
    """Numbers of a network outside the ranges of others, such as `stage 1 channels 64 (32 to 48)`."""
    return [
        f"{name} {value:g} ({known[name][0]:g}{f' to {known[name][1]:g}' if known[name][0] < known[name][1] else ''})"
        for name, value in structure(network).items()
        if isinstance(value, int | float) and name in known and not known[name][0] <= value <= known[name][1]
    ]


def _word(value: float | str | None) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:g}"


def numbers(networks: Sequence[Architecture]) -> npt.NDArray[np.float64]:
    """What networks are made of as numbers, (N, len(NUMBERS)). What a stage lacks is 0, its attention in the middle."""
    return np.asarray([_numbers(network) for network in networks], dtype=np.float64)


def _numbers(network: Architecture) -> list[float]:
    facts, row = structure(network), [float(network.stem.kernel), float(network.stem.expansion)]
    for number, stage in enumerate(network.stages, start=1):
        where, length = f"stage {number}", len(stage.blocks)
        row += [
            math.log(stage.channels),
            *(float(facts[f"{where} {name}"]) for name in _COUNTS),
            math.log(length),
            *(float(facts.get(f"{where} {name}", 0)) for name in _OF_BLOCKS),
            _place(stage),
            *(float(facts.get(f"{where} attention") == kind) for kind in _KINDS),
        ]
    return row


def numbers_of_rows(encoding: Encoding, rows: Rows) -> npt.NDArray[np.float64]:
    """The `numbers` of the networks of some rows, (N, len(NUMBERS)); 100,000 networks a second."""
    columns = [encoding.values(rows, "stem.kernel"), encoding.values(rows, "stem.expansion")]
    for stage in range(len(encoding.space.stages)):
        convs, units = (encoding.values(rows, f"{block}.depth", stage) for block in ("conv", "attention"))
        kind = encoding.at("attention.kind", stage)
        kinds = np.asarray(encoding.options[kind])[rows[:, kind]]
        columns += [
            np.log(encoding.values(rows, "channels", stage)),
            convs,
            units,
            np.log(convs + units),
            *((convs > 0) * encoding.values(rows, f"conv.{name}", stage) for name in ("kernel", "expansion")),
            *(
                (units > 0) * encoding.values(rows, f"attention.{name}", stage)
                for name in ("query_reduction", "modulation", "expansion", "position_kernel")
            ),
            encoding.place(rows, stage),
            *((units > 0) * (kinds == name) for name in _KINDS),
        ]
    return np.stack(columns, axis=1).astype(np.float64)
