"""How networks are written in a line: their size, their blocks, and where they differ from others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.networks import Counts

__all__ = ["BLOCKS", "PLACE", "amounts", "by_stage", "macs_words", "size_words"]

BLOCKS = (
    "blocks: widths of the four stages: blocks of each stage in order, C a convolution block, A an attention unit; "
    "networks with equal blocks differ in kernels, expansions or attention, which their JSON form has"
)
_WHERE = re.compile(r"(stem|downsample|stage \d) (.*)")
PLACE = "place of attention: mean position of the attention units in their stage, from 0, first, to 1, last"


def size_words(counts: Counts) -> str:
    """Parameters and multiply-adds of a network."""
    params = f"{counts.params / 1e6:.2f} M" if counts.params >= 1e5 else f"{counts.params / 1e3:.2f} k"
    return f"{params} parameters, {macs_words(counts.macs)}"


def macs_words(macs: int) -> str:
    """Multiply-adds in a unit in which small networks are not 0.

    Examples:
        >>> macs_words(1_640_000_000), macs_words(2_306_000)
        ('1.64 GMACs', '2.31 MMACs')
    """
    return f"{macs / 1e9:.2f} GMACs" if macs >= 1e8 else f"{macs / 1e6:.2f} MMACs"


def amounts(params: Sequence[int], macs: Sequence[int]) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    """Parameters and multiply-adds of some networks as columns of a table, in the unit that fits the smallest.

    Returns:
        The two headers, and a pair of cells for each network.

    Examples:
        >>> amounts([64_000, 9_000_000], [2_306_000, 1_640_000_000])
        (('params, k', 'MMACs'), [('64.00', '2.31'), ('9000.00', '1640.00')])
    """
    in_millions, in_giga = min(params, default=0) >= 1e5, min(macs, default=0) >= 1e8
    header = ("params, M" if in_millions else "params, k", "GMACs" if in_giga else "MMACs")
    units = (1e6 if in_millions else 1e3, 1e9 if in_giga else 1e6)
    return header, [(f"{p / units[0]:.2f}", f"{m / units[1]:.2f}") for p, m in zip(params, macs, strict=True)]


def by_stage(parts: Iterable[str]) -> list[str]:
    """Numbers of a network in lines, one for each part of it.

    Args:
        parts: as `nas.accuracy.differences` and `beyond` give them.
    Examples:
        >>> by_stage(["stem kernel 3 (5)", "stage 1 channels 64 (48)", "stage 1 kernel 5 (7)"])
        ['  stem: kernel 3 (5)', '  stage 1: channels 64 (48), kernel 5 (7)']
    """
    found: dict[str, list[str]] = {}
    for part in parts:
        match = _WHERE.fullmatch(part)
        where, number = match.groups() if match else ("image", part)
        found.setdefault(where, []).append(number)
    return [f"  {where}: {', '.join(numbers)}" for where, numbers in found.items()]
