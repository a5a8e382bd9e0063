"""How much of a proxy's score the widths of the four stages explain, over random networks of nearly the same latency.

A search keeps asking for whatever a score rewards. If a linear function of the widths explains most of it, the search
finds the widest networks of a budget, whether they are accurate or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from nas.errors import InputError
from nas.files import Record
from nas.networks import Architecture, SearchSpace
from nas.search import draw_inside

__all__ = ["FEWEST", "BandNetwork", "WidthPart", "draw_networks", "variance_shares", "width_part"]

_STAGES = 4
FEWEST = _STAGES + 2  # a mean and four slopes fit any five scores exactly
_DRAWS_EACH = 50  # of random networks of the iFormer space, one in three is predicted at 0.95 to 1.20 ms
_SEED = 0


class BandNetwork(Record):
    """A random network of the band with its score by one proxy. `value` is None if the proxy failed."""

    id: str
    widths: tuple[int, ...]
    latency_ms: float
    value: float | None = None


class WidthPart(Record):
    """What a linear regression of the scores on the four stage widths explains.

    Attributes:
        seed: the scores are those of this seed alone, as in a search.
        asked: number of networks that were asked for.
        drawn: number of networks of the band among the random networks drawn. None is scored if they are too few.
        networks: those of them that are finished, with their scores.
        failed: number of failed scores.
        r2: share of the variance of the scores that the widths explain, from 0 to 1. None if it is not defined: too few
            scores, equal scores, or equal widths.
        adjusted: the same less what is expected by chance; about 0 if the widths explain nothing.
        by_chance: expected `r2` of scores that have nothing to do with the widths: number of widths that vary / (number
            of scores - 1).
        shares: part of `r2` that each stage explains. They add up to it.
        seconds: total time of the scores.
    """

    seed: int
    asked: int
    drawn: int
    networks: tuple[BandNetwork, ...]
    failed: int
    r2: float | None = None
    adjusted: float | None = None
    by_chance: float | None = None
    shares: tuple[float, ...] = ()
    seconds: float


def draw_networks(
    space: SearchSpace,
    latency_ms: Callable[[Architecture], float | None],
    band_ms: tuple[float, float],
    number: int,
) -> dict[str, Architecture]:
    """Distinct random networks of a space with a predicted latency in a band, by id, always the same ones.

    There are fewer than `number` if 50 draws for each do not find as many: the band may lie outside the space.

    Args:
        space: the space to draw from.
        latency_ms: predicted latency; None if it is unknown.
        band_ms: the band, ends included.
        number: networks to draw, 0 for none.
    Raises:
        InputError: `number` is too small for a regression on four widths.
    """
    if number and number < FEWEST:
        raise InputError(
            f"--band-networks must be at least {FEWEST}, to fit a mean and {_STAGES} widths, or 0 to leave them out, "
            f"got {number}"
        )
    return draw_inside(space, latency_ms, band_ms, number, seed=_SEED, draws=_DRAWS_EACH * number)


def width_part(networks: Sequence[BandNetwork], *, seed: int, asked: int, drawn: int, seconds: float) -> WidthPart:
    """The regression over the finished networks."""
    scored = [(network.widths, network.value) for network in networks if network.value is not None]
    failed = len(networks) - len(scored)
    part = WidthPart(
        seed=seed, asked=asked, drawn=drawn, networks=tuple(networks), failed=failed, seconds=round(seconds, 3)
    )
    if len(scored) < FEWEST:
        return part
    widths = np.array([own for own, _ in scored], dtype=np.float64)
    shares = variance_shares(widths, np.array([value for _, value in scored]))
    if shares is None:
        return part
    r2, n, slopes = math.fsum(shares), len(scored), int(np.linalg.matrix_rank(widths - widths.mean(0)))
    adjusted = 1 - (1 - r2) * (n - 1) / (n - 1 - slopes)
    fit = {"r2": r2, "adjusted": adjusted, "by_chance": slopes / (n - 1), "shares": shares}
    return part.model_copy(update=fit)


def variance_shares(columns: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> tuple[float, ...] | None:
    """How the R^2 of a linear regression of the values on all columns divides among the columns.

    The share of a column is what it adds to R^2, as a mean over all orders in which columns may be added (Lindeman,
    Merenda and Gold, 1980). So a share is never negative, and columns that vary together divide what they explain: wide
    stages of one network leave less time for the others.

    Args:
        columns: (n, p).
        values: (n,).
    Returns:
        One share a column; they add up to R^2. None if all values are equal, or no column varies.
    """
    spread = columns.std(0)
    if not spread.any() or np.ptp(values) == 0:
        return None
    scaled = (columns - columns.mean(0)) / np.where(spread > 0, spread, 1.0)  # one scale, so that the rank is clear
    centred = values - values.mean()
    total = float(centred @ centred)

    def explained(chosen: Collection[int]) -> float:
        part = scaled[:, sorted(chosen)]
        residual = centred - part @ np.linalg.lstsq(part, centred)[0]
        return 1 - float(residual @ residual) / total

    every = range(columns.shape[1])
    known = {chosen: explained(chosen) for size in range(len(every) + 1) for chosen in combinations(every, size)}

    def share(column: int) -> float:
        rest = [other for other in every if other != column]
        steps = [before for size in range(len(every)) for before in combinations(rest, size)]
        added = [known[tuple(sorted((*before, column)))] - known[before] for before in steps]
        # A step stands in 1 of p * C(p - 1, size) of all orders.
        return math.fsum(
            gain / (len(every) * math.comb(len(rest), len(before))) for gain, before in zip(added, steps, strict=True)
        )

    return tuple(share(column) for column in every)
