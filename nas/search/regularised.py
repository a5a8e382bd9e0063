"""Regularised evolution: the next network is a change of the best of a few young ones.

Real et al., Regularized Evolution for Image Classifier Architecture Search (AAAI 2019), with mutations of the
architecture that keep to the limits. What is alive follows from the order of the scores, so nothing needs to be kept
between two proposals, and a resumed search goes on as if it had not stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nas.latency import LatencyTable
from nas.networks.encoding import Encoding, Rows
from nas.search.limits import Quantity
from nas.search.mutation import Inside, Mask, children

__all__ = ["RegularisedEvolution", "evolution_by_table"]

Floats = npt.NDArray[np.float64]
Row = npt.NDArray[np.int16]

_POPULATION, _TOURNAMENT = 20, 5
_CHILDREN = 50  # of a parent; the first that is new and inside the limits is proposed
_TRIES = 5  # parents, until any network inside the limits will do


class RegularisedEvolution:
    """Proposes changes of good young networks; a `Proposer`.

    Args:
        inside: the networks that may be proposed.
        seed: random seed.
    """

    def __init__(self, inside: Inside, *, seed: int) -> None:
        self._inside, self._encoding = inside, inside.encoding
        self._random = np.random.default_rng(seed)

    def propose(self, known: Rows, scores: Floats, *, closed: Rows, number: int = 1) -> Rows:
        """The networks to score next; see `Proposer.propose`."""
        taken = {row.tobytes() for row in (*known, *closed)}
        young = np.flatnonzero(self._inside(known))[-_POPULATION:] if len(known) else np.zeros(0, dtype=np.int64)
        found: list[Row] = []
        while len(found) < number:
            row = self._changed(known[young], scores[young], taken) if len(young) == _POPULATION else None
            row = self._any(taken) if row is None else row
            if row is None:
                break
            taken.add(row.tobytes())
            found.append(row)
        return np.stack(found) if found else np.zeros((0, len(self._encoding.columns)), dtype=np.int16)

    def _changed(self, alive: Rows, scores: Floats, taken: set[bytes]) -> Row | None:
        for _ in range(_TRIES):
            chosen = self._random.choice(len(alive), _TOURNAMENT, replace=False)
            parent = alive[chosen[np.argmax(scores[chosen])]]
            offspring = children(self._encoding, parent[None], _CHILDREN, self._random)
            row = _first_new(offspring[self._inside(offspring)], taken)
            if row is not None:
                return row
        return None

    def _any(self, taken: set[bytes]) -> Row | None:
        return _first_new(self._inside.draw(len(taken) + 1, self._random), taken)


def _first_new(rows: Rows, taken: set[bytes]) -> Row | None:
    return next((row for row in rows if row.tobytes() not in taken), None)


def evolution_by_table(
    encoding: Encoding,
    table: LatencyTable,
    *,
    levels_ms: Sequence[float],
    confidence: float | None = None,
    allowed: Mask | None = None,
    objectives: Sequence[Quantity] = (),  # noqa: ARG001
    seed: int,
) -> RegularisedEvolution:
    """Regularised evolution among networks that a latency table allows.

    Args:
        encoding: of the space.
        table: predicts the latency; it must cover the space.
        levels_ms: ascending; only the last, the budget, counts: evolution by a score has no aim below it.
        confidence: see `Inside.by_table`.
        allowed: which rows keep to limits besides latency.
        objectives: not aimed at either.
        seed: random seed.
    Raises:
        BudgetError: no network inside all limits was found.
    """
    inside = Inside.by_table(encoding, table, levels_ms=levels_ms, confidence=confidence, allowed=allowed)
    return RegularisedEvolution(inside, seed=seed)
