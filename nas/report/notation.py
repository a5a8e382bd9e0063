"""How networks are written in a line: their size, their blocks, where they differ from others, what predicts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.networks import Counts

__all__ = ["BLOCKS", "PLACE", "amounts", "by_stage", "size_words", "table_words"]

BLOCKS = (
    "blocks: widths of the four stages: blocks of each stage in order, C a convolution block, A an attention unit; "
    "networks with equal blocks differ in kernels, expansions or attention, which their JSON form has"
)
_WHERE = re.compile(r"(stem|downsample|stage \d) (.*)")
PLACE = "place of attention: mean position of the attention units in their stage, from 0, first, to 1, last"


def size_words(counts: Counts, *, digits: int = 2) -> str:
    """Parameters and multiply-adds of a network, in units in which a small one is not 0.

    Examples:
        >>> from nas.networks import Counts
        >>> size_words(Counts(params=8_879_128, macs=1_640_000_000, memory_bytes=0), digits=3)
        '8.879 M parameters, 1.640 GMACs'
    """
    (params_header, macs_header), [(params, macs)] = amounts([counts.params], [counts.macs], digits=digits)
    return f"{params} {params_header[-1]} parameters, {macs} {macs_header}"


def amounts(
    params: Sequence[int], macs: Sequence[int], *, digits: int = 2
) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    """Parameters and multiply-adds of some networks as columns of a table, in the unit that fits the smallest.

    Args:
        params: of each network.
        macs: of each network.
        digits: decimals.
    Returns:
        The two headers, and a pair of cells for each network.

    Examples:
        >>> amounts([64_000, 9_000_000], [2_306_000, 1_640_000_000])
        (('params, k', 'MMACs'), [('64.00', '2.31'), ('9000.00', '1640.00')])
    """
    in_millions, in_giga = min(params, default=0) >= 1e5, min(macs, default=0) >= 1e8
    header = ("params, M" if in_millions else "params, k", "GMACs" if in_giga else "MMACs")
    units = (1e6 if in_millions else 1e3, 1e9 if in_giga else 1e6)
    return header, [
        (f"{p / units[0]:.{digits}f}", f"{m / units[1]:.{digits}f}") for p, m in zip(params, macs, strict=True)
    ]


def table_words(name: str, origin: str, trust: str) -> str:
    """Which table predicts latencies, and how far it can be trusted.

    Args:
        name: of the latency table.
        origin: where its numbers come from.
        trust: its errors; empty if they are not known.
    """
    return f"predicted latency: {name}, {origin}; {trust or 'see the table for its errors'}"


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
