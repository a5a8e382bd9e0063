"""An evolution over architectures, inside a latency budget, for scores that cost next to nothing.

The range from the cheapest network to the budget is divided into bands of latency, and each band keeps its best
networks. Parents come from all bands alike, so the whole front grows, and not only its end. Children differ from their
parents in few choices, or take whole stages from another network. One that is over the budget is dropped before
anything else is computed.

Quality diversity with a grid of one dimension: MAP-Elites (Mouret and Clune, arXiv:1504.04909).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nas.networks import Architecture, SearchSpace, random_choice

__all__ = ["Found", "evolve"]

T = TypeVar("T")

_BANDS = 48  # in a factor of ten
_ELITES = 8  # networks that a band keeps
_GENERATION = 250  # networks between two selections
_RANDOM_SHARE = 0.1  # of a generation; the rest are children
_DIGITS = 6  # of a rank
_CROSSED_SHARE = 0.25  # of the children: these take stages from a second parent
_CHANGES = 1.5  # choices that differ between parent and child, on average
_NEARBY_SHARE = 0.7  # of the changed numbers: these go one option up or down


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A network that was looked at: its latency, and the number that it was ranked by."""

    network: Architecture
    latency_ms: float
    rank: float


def evolve(
    space: SearchSpace,
    latency_ms: Callable[[Architecture], float],
    rank: Callable[[Sequence[Architecture]], Sequence[float]],
    *,
    budget_ms: float,
    networks: int,
    seed: int,
    begin_with: Sequence[Architecture] = (),
    is_late: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Found]:
    """Look at `networks` different networks inside the budget, or at all that there seem to be.

    Args:
        space: the networks to look at.
        latency_ms: predicts the latency of a network.
        rank: a number for each network; higher is better. Called with many networks at once.
        budget_ms: upper limit of the latency.
        networks: how many to look at.
        seed: random seed.
        begin_with: networks to look at first; those over the budget are left out. At least one should be inside.
        is_late: asked between generations; ends the evolution.
        on_progress: called with the number of networks looked at so far, and `networks`.
    Returns:
        The best networks of each band of latency, fastest first.

    Takes about a millisecond a network with a latency table and an accuracy table.
    """
    bands = _Bands(budget_ms=budget_ms)
    seen: set[str] = set()
    draw = random.Random(seed)
    sample = random_choice(seed=seed)

    def fresh(candidates: Iterator[Architecture], wanted: int) -> list[tuple[Architecture, float]]:
        found: list[tuple[Architecture, float]] = []
        for tries, network in enumerate(candidates):
            if len(found) == wanted or tries == 20 * wanted:
                break
            latency = latency_ms(network)
            if latency <= budget_ms and network.id not in seen:
                seen.add(network.id)
                found.append((network, latency))
        return found

    def look_at(found: Sequence[tuple[Architecture, float]]) -> None:
        ranks = rank([network for network, _ in found]) if found else []
        for (network, latency), value in zip(found, ranks, strict=True):
            # Sums of floats differ in the last digits with the number of threads; the same seed must not.
            bands.add(Found(network=network, latency_ms=latency, rank=round(value, _DIGITS)))
        if on_progress:
            on_progress(min(len(seen), networks), networks)

    def children() -> Iterator[Architecture]:
        while True:
            yield _child(space, bands.parent(draw), bands.parent(draw), draw)

    look_at(fresh(iter(begin_with), len(begin_with)))
    while len(seen) < networks and not is_late():
        before, wanted = len(seen), min(_GENERATION, networks - len(seen))
        randoms = math.ceil(_RANDOM_SHARE * wanted)
        found = fresh((space.sample(sample) for _ in range(randoms)), randoms)
        if bands.occupied:
            found += fresh(children(), wanted - len(found))
        look_at(found)
        if len(seen) == before:
            break
    return bands.best()


class _Bands:
    """The best networks of each band of latency. Bands are equally wide in the logarithm."""

    def __init__(self, *, budget_ms: float) -> None:
        self._budget_ms = budget_ms
        self._kept: dict[int, dict[str, Found]] = {}

    @property
    def occupied(self) -> bool:
        """Whether any band has a network."""
        return bool(self._kept)

    def add(self, found: Found) -> None:
        """Keep a network if it is among the best of its band. Of those with equal widths and blocks, one stays."""
        below = math.log(self._budget_ms / found.latency_ms) / math.log(10)
        band = self._kept.setdefault(int(below * _BANDS), {})
        summary = found.network.summary
        if summary not in band or _goodness(found) > _goodness(band[summary]):
            band[summary] = found
            if len(band) > _ELITES:
                del band[min(band, key=lambda one: _goodness(band[one]))]

    def parent(self, draw: random.Random) -> Architecture:
        """One of the kept networks; every band is as likely as every other."""
        band = self._kept[draw.choice(list(self._kept))]
        return band[draw.choice(list(band))].network

    def best(self) -> list[Found]:
        """All kept networks, fastest first."""
        return sorted((one for band in self._kept.values() for one in band.values()), key=lambda one: one.latency_ms)


def _goodness(found: Found) -> tuple[float, float]:
    return found.rank, -found.latency_ms


def _child(space: SearchSpace, parent: Architecture, other: Architecture, draw: random.Random) -> Architecture:
    """A network that differs from its parent in a few choices; sometimes with whole stages of another network."""
    answers = space.choices(parent)
    if draw.random() < _CROSSED_SHARE:
        taken = tuple(f"stages[{index}]." for index in range(len(space.stages)) if draw.random() < 0.5)
        answers |= {name: answer for name, answer in space.choices(other).items() if name.startswith(taken)}
    chance = _CHANGES / len(answers)

    def choose(name: str, options: Sequence[T]) -> T:
        known = answers.get(name)
        if known not in options:
            return draw.choice(options)
        at = options.index(known)
        if draw.random() >= chance:
            return options[at]
        if isinstance(known, int | float) and draw.random() < _NEARBY_SHARE:
            return options[max(0, min(len(options) - 1, at + draw.choice((-1, 1))))]
        return draw.choice(options)

    return space.sample(choose)
