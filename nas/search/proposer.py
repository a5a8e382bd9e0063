"""What to score next: networks inside the budget of which the scores so far expect the most.

A Gaussian process (surrogate.py) learns from all scores. An evolution over networks inside the budget then looks for
those with the greatest expected improvement over the best; with several levels of latency, over the best inside each of
them, so that one search learns for all. As latency is known, no network over the budget is ever looked at; where few
networks fit, they are found from the cheapest one by small changes.

What a network costs besides latency, such as its weights, is known as well. Where the front shows such costs, every
second proposal improves the front of latency inside limits of these that are drawn for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nas.latency import LatencyTable
from nas.networks.encoding import Encoding, Rows
from nas.search.limits import Quantity
from nas.search.mutation import ROUNDING, Inside, Mask, children, distinct
from nas.search.surrogate import Features, Surrogate, log_improvement_of_front

__all__ = ["Proposer", "SurrogateProposer", "proposer_by_table"]

Floats = npt.NDArray[np.float64]
Row = npt.NDArray[np.int16]

_FIRST = 10  # networks that are drawn before anything is learnt
_GROWTH = 1.15  # sizes and lengths are learnt anew when the scores have grown by this factor
_MOST_LEARNT = 200  # scores from which sizes and lengths are learnt
_MOST_KNOWN = 400  # scores that the process knows at once
_GENERATIONS, _CHILDREN, _PARENTS, _RANDOM, _BEST = 8, 200, 25, 200, 10
_LEAST = 2  # parents, and best networks, of a level at least, however many levels there are
_TOGETHER = 4  # proposals of one evolution
_APART = 2  # choices in which these differ from each other at least
_ASIDE = 0.25  # share of proposals that aim below a single level, so that the front is known as well
_DRAWN_AT = 3  # levels that random networks are drawn for
_LIMITED = 0.5  # share of proposals inside limits of further costs; the others may cost more than all that are known
_FRONT = 24  # levels that these look at


class Proposer(Protocol):
    """Proposes networks, and learns from the scores that are known."""

    def propose(self, known: Rows, scores: Floats, *, closed: Rows, number: int = 1) -> Rows:
        """The networks to score next, none of them known or closed; fewer than `number` only if no more fit.

        Args:
            known: networks with a score, (N, columns), in the order in which they were proposed.
            scores: (N,); higher is better.
            closed: networks not to propose: they failed, or are being scored now, (M, columns).
            number: of networks.
        """
        ...


class SurrogateProposer:
    """Proposes where a Gaussian process expects the greatest improvement.

    Args:
        inside: the networks that may be proposed.
        levels_ms: latencies that matter, ascending: the aim is the best network inside each. The last is the budget.
            For a whole front, many that are evenly spaced in their logarithm.
        costs: of rows besides the latency, each above 0; the front shows them as well.
        aside: with a single level and no such costs, let some proposals aim below it, so that the front below is known
            as well.
        seed: random seed.
    """

    def __init__(
        self,
        inside: Inside,
        *,
        levels_ms: Sequence[float],
        costs: Sequence[Callable[[Rows], Floats]] = (),
        aside: bool = True,
        seed: int,
    ) -> None:
        self._inside, self._encoding = inside, inside.encoding
        self._levels_ms = np.asarray(levels_ms, dtype=np.float64) * ROUNDING
        self._aside, self._costs = aside and len(levels_ms) == 1 and not costs, costs
        self._random = np.random.default_rng(seed)
        self._features = Features(inside.encoding, [inside.latency_ms, *inside.sizes])
        self._surrogate: Surrogate | None = None
        self._learnt = 0

    def propose(self, known: Rows, scores: Floats, *, closed: Rows, number: int = 1) -> Rows:
        """See `Proposer`."""
        taken = {row.tobytes() for row in (*known, *closed)}
        if len(known) < _FIRST:
            return self._rows(self._first(np.concatenate([known, closed]), taken, number))
        self._learn(known, scores)
        found: list[Row] = []
        while len(found) < number:
            wanted = min(_TOGETHER, number - len(found))
            new = self._best_of(known, *self._aim(known), taken, wanted)
            # Where the best are taken, any other inside the budget will do.
            new = new or _new(self._inside.draw(_RANDOM + len(taken), self._random), taken, wanted)
            if not new:
                break
            found += new
        return self._rows(found)

    def _aim(self, known: Rows) -> tuple[Inside, Floats]:
        """What to improve next: the best network inside some limits, at some levels."""
        inside = self._inside
        low_ms = float(inside.latency_ms(inside.start).min())
        if self._costs and self._random.random() < _LIMITED:
            return self._limited(known), np.geomspace(low_ms, max(low_ms, inside.budget_ms), _FRONT)
        if self._aside and self._random.random() < _ASIDE:
            drawn_ms = float(np.exp(self._random.uniform(np.log(low_ms), np.log(inside.budget_ms))))
            return inside, np.asarray([max(low_ms, drawn_ms)])
        return inside, self._levels_ms

    def _limited(self, known: Rows) -> Inside:
        """The networks inside limits of the further costs, drawn between the least and the greatest that are known."""
        inside, costs = self._inside, self._costs
        rows = np.concatenate([inside.start, known[inside(known)]])
        limits = []
        for cost in costs:
            values = cost(rows)
            values = np.log(values[np.isfinite(values)])
            limits.append(float(np.exp(self._random.uniform(values.min(), values.max()))) * ROUNDING)

        def allowed(rows: Rows) -> npt.NDArray[np.bool_]:
            kept = np.ones(len(rows), dtype=bool)
            for cost, limit in zip(costs, limits, strict=True):
                kept &= cost(rows) <= limit
            if inside.allowed is not None and kept.any():
                kept[kept] = inside.allowed(rows[kept])
            return kept

        return replace(inside, allowed=allowed)

    def _first(self, seen: Rows, taken: set[bytes], number: int) -> list[Row]:
        """Networks to begin with: random ones; for several levels spread over the latencies, the cheapest first."""
        if len(self._levels_ms) == 1:
            return _new(self._inside.draw(_RANDOM + len(taken), self._random), taken, number)
        found: list[Row] = []
        while len(found) < number:
            drawn = _drawn(self._inside, self._levels_ms, _RANDOM + len(taken), self._random)
            rows = np.concatenate([self._inside.start, drawn])
            rows = rows[[row.tobytes() not in taken for row in rows]]
            if not len(rows):
                break
            logarithms, far = np.log(self._inside.latency_ms(rows)), 0
            if len(seen):
                apart = np.abs(logarithms[:, None] - np.log(self._inside.latency_ms(seen)))
                far = int(np.argmax(apart.min(axis=1)))
            taken.add(rows[far].tobytes())
            found.append(rows[far])
            seen = np.concatenate([seen, rows[far][None]])
        return found

    def _learn(self, known: Rows, scores: Floats) -> None:
        """Foretell from these scores from now on."""
        standard = (scores - scores.mean()) / max(scores.std(), 1e-12)
        features = self._features(known)
        surrogate = self._surrogate or Surrogate(features.shape[1])
        self._surrogate = surrogate
        if len(known) >= _GROWTH * self._learnt:
            some = self._some(standard, _MOST_LEARNT)
            surrogate.fit(features[some], standard[some])
            self._learnt = len(known)
        some = self._some(standard, _MOST_KNOWN)
        surrogate.know(features[some], standard[some])

    def _expected(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean and deviation of the scores of any rows."""
        assert self._surrogate is not None
        return self._surrogate.predict(self._features(rows))

    def _some(self, scores: Floats, most: int) -> npt.NDArray[np.int64]:
        """All networks, or of too many the best half and random others."""
        if len(scores) <= most:
            return np.arange(len(scores))
        order = np.argsort(-scores)
        return np.concatenate([order[: most // 2], self._random.permutation(order[most // 2 :])[: most // 2]])

    def _best_of(self, known: Rows, within: Inside, levels_ms: Floats, taken: set[bytes], number: int) -> list[Row]:
        """New networks that promise the most inside some levels."""
        known = known[within(known, levels_ms[-1])]
        rows = np.concatenate([known, _drawn(within, levels_ms, _RANDOM, self._random)])
        if not len(rows):
            return []
        latency_ms = self._inside.latency_ms(rows)
        mean, deviation = self._expected(rows)
        best = _best(latency_ms, mean, levels_ms, known=len(known))
        of_known = _leaders(mean[: len(known)], latency_ms[: len(known), None] <= levels_ms, _BEST)
        kept = np.r_[of_known, len(known) : len(rows)]
        pool = _Pool(rows[kept], latency_ms[kept], mean[kept], deviation[kept])
        for _ in range(_GENERATIONS):
            # A band lies between two levels. Without parents in each, the level with the most to gain would take all.
            gains = pool.gains(best, levels_ms)
            bands = np.searchsorted(levels_ms, pool.latency_ms)[:, None] == np.arange(len(levels_ms))
            pool = pool.some(_leaders(gains, bands, _PARENTS))
            offspring = children(self._encoding, pool.rows, _CHILDREN, self._random)
            offspring = distinct(offspring[within(offspring, levels_ms[-1])])
            if len(offspring):
                pool = pool.with_more(offspring, self._inside.latency_ms(offspring), *self._expected(offspring))
        new: list[Row] = []
        while len(new) < number:
            order = np.argsort(-pool.gains(best, levels_ms))
            chosen = next((at for at in order if _is_new(pool.rows[at], taken, new)), None)
            if chosen is None:
                break
            taken.add(pool.rows[chosen].tobytes())
            new.append(pool.rows[chosen])
            if len(levels_ms) > 1:  # The next one had better aim elsewhere: this one is taken to score as foretold.
                best = np.where(pool.latency_ms[chosen] <= levels_ms, np.maximum(best, pool.mean[chosen]), best)
        return new

    def _rows(self, rows: Sequence[Row]) -> Rows:
        return np.stack(rows) if rows else np.zeros((0, len(self._encoding.columns)), dtype=np.int16)


@dataclass(frozen=True, slots=True)
class _Pool:
    """The networks of an evolution, with what is expected of them."""

    rows: Rows
    latency_ms: Floats
    mean: Floats
    deviation: Floats

    def gains(self, best: Floats, levels_ms: Floats) -> Floats:
        return log_improvement_of_front(self.mean, self.deviation, best, self.latency_ms[:, None] <= levels_ms)

    def some(self, at: npt.NDArray[np.int64]) -> _Pool:
        return _Pool(self.rows[at], self.latency_ms[at], self.mean[at], self.deviation[at])

    def with_more(self, rows: Rows, latency_ms: Floats, mean: Floats, deviation: Floats) -> _Pool:
        return _Pool(
            np.concatenate([self.rows, rows]),
            np.append(self.latency_ms, latency_ms),
            np.append(self.mean, mean),
            np.append(self.deviation, deviation),
        )


def _drawn(inside: Inside, levels_ms: Floats, number: int, random: np.random.Generator) -> Rows:
    """Random rows inside some levels, of each of a few levels as many."""
    few = min(_DRAWN_AT, len(levels_ms))
    some = levels_ms[np.linspace(len(levels_ms), 0, few, endpoint=False).round().astype(int) - 1]
    each = number // few
    return np.concatenate([inside.draw(each, random, level_ms)[:each] for level_ms in some])


def _best(latency_ms: Floats, mean: Floats, levels_ms: Floats, *, known: int) -> Floats:
    """The best mean inside each level, (L,): of the first `known` networks, or else of all, or else the lowest mean."""
    best = np.empty(len(levels_ms))
    for at, level_ms in enumerate(levels_ms):
        inside = latency_ms <= level_ms
        scored = mean[:known][inside[:known]]
        others = mean[inside] if inside.any() else mean[[mean.argmin()]]
        best[at] = (scored if len(scored) else others).max()
    return best


def _leaders(values: Floats, groups: npt.NDArray[np.bool_], number: int) -> npt.NDArray[np.int64]:
    """Where the greatest values of each group (N, groups) are, the greatest first; of all groups about `number`."""
    order = np.argsort(-values)
    groups = groups[order]
    most = max(_LEAST, number // groups.shape[1])
    leaders: npt.NDArray[np.int64] = order[(groups & (np.cumsum(groups, axis=0) <= most)).any(axis=1)]
    return leaders


def _is_new(row: Row, taken: set[bytes], others: Sequence[Row]) -> bool:
    """Whether a row is not taken, and not close to any other."""
    return row.tobytes() not in taken and all((row != other).sum() >= _APART for other in others)


def _new(rows: Rows, taken: set[bytes], number: int) -> list[Row]:
    """The first rows that are not taken, and not close to each other; they are taken then."""
    new: list[Row] = []
    for row in rows:
        if len(new) == number:
            break
        if _is_new(row, taken, new):
            taken.add(row.tobytes())
            new.append(row)
    return new


def proposer_by_table(
    encoding: Encoding,
    table: LatencyTable,
    *,
    levels_ms: Sequence[float],
    confidence: float | None = None,
    allowed: Mask | None = None,
    objectives: Sequence[Quantity] = (),
    aside: bool = True,
    seed: int,
) -> SurrogateProposer:
    """A proposer of networks that a latency table allows.

    Args:
        encoding: of the space.
        table: predicts the latency; it must cover the space.
        levels_ms: see `SurrogateProposer`.
        confidence: see `Inside.by_table`.
        allowed: which rows keep to limits besides latency.
        objectives: what the front shows besides latency and score.
        aside: see `SurrogateProposer`.
        seed: random seed.
    Raises:
        BudgetError: no network inside all limits was found.
    """
    inside = Inside.by_table(encoding, table, levels_ms=levels_ms, confidence=confidence, allowed=allowed)
    costs = [one.of_rows(encoding) for one in objectives]
    if objectives:  # The network with the least of each is where few keep a limit that is drawn for it.
        least = encoding.encode([one.least(encoding.space) for one in objectives])
        inside = replace(inside, start=distinct(np.concatenate([inside.start, least[inside(least)]])))
    return SurrogateProposer(inside, levels_ms=levels_ms, costs=costs, aside=aside, seed=seed)
