"""What to score next: networks inside the budget of which the scores so far expect the most.

A Gaussian process (surrogate.py) learns from all scores. An evolution over networks inside the budget then looks for
those with the greatest expected improvement over the best. As latency is known, no network over the budget is ever
looked at; where few networks fit, they are found from the cheapest one by small changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from nas.latency import LatencyTable
from nas.networks import Layer, operations
from nas.networks.encoding import Encoding, Rows
from nas.search.mutation import children, distinct
from nas.search.surrogate import Features, Surrogate, log_improvement

__all__ = ["Proposer", "proposer_by_table"]

Floats = npt.NDArray[np.float64]

_FIRST = 10  # networks that are drawn before anything is learnt
_GROWTH = 1.15  # sizes and lengths are learnt anew when the scores have grown by this factor
_MOST_LEARNT = 200  # scores from which sizes and lengths are learnt
_MOST_KNOWN = 400  # scores that the process knows at once
_GENERATIONS, _CHILDREN, _PARENTS, _RANDOM, _BEST = 8, 200, 25, 200, 10
_TOGETHER = 4  # proposals of one evolution
_APART = 2  # choices in which these differ from each other at least
_ASIDE = 0.25  # share of proposals that aim below the budget, so that the front is known as well
_IN_VAIN = 3  # times that changes find no further network: then there seem to be no more
_CHECKED = 100  # random networks whose intervals are looked at


class Proposer:
    """Proposes networks, and learns from their scores.

    Args:
        encoding: of the space.
        latency_ms: of rows.
        budget_ms: upper limit of the latency.
        cheapest: rows that are inside the budget, one at least.
        sizes: see `Features`.
        seed: random seed.
    """

    def __init__(
        self,
        encoding: Encoding,
        latency_ms: Callable[[Rows], Floats],
        *,
        budget_ms: float,
        cheapest: Rows,
        sizes: Sequence[Callable[[Rows], Floats]] = (),
        seed: int,
    ) -> None:
        self._encoding, self._latency_ms = encoding, latency_ms
        self._budget_ms, self._cheapest = budget_ms, cheapest
        self._random = np.random.default_rng(seed)
        self._features = Features(encoding, [latency_ms, *sizes])
        self._surrogate: Surrogate | None = None
        self._learnt = 0

    def propose(self, known: Rows, scores: Floats, *, closed: Rows, number: int = 1) -> Rows:
        """The networks to score next, none of them known or closed; fewer than `number` only if no more fit.

        Args:
            known: networks with a score, (N, columns).
            scores: (N,); higher is better.
            closed: networks not to propose: they failed, or are being scored now, (M, columns).
            number: of networks.
        """
        taken = {row.tobytes() for row in (*known, *closed)}
        if len(known) < _FIRST:
            return self._rows(self._new(self._inside(_RANDOM + len(taken), self._budget_ms), taken, number))
        expected = self._learn(known, scores)
        found: list[npt.NDArray[np.int16]] = []
        while len(found) < number:
            wanted, budget_ms = min(_TOGETHER, number - len(found)), self._aim()
            new = self._new(self._best_of(known, expected, budget_ms), taken, wanted)
            # Where the best are taken, any other inside the budget will do.
            new = new or self._new(self._inside(_RANDOM + len(taken), self._budget_ms), taken, wanted)
            if not new:
                break
            found += new
        return self._rows(found)

    def _aim(self) -> float:
        """The budget to look inside of; at times a lower one."""
        budget_ms = self._budget_ms
        if self._random.random() >= _ASIDE:
            return budget_ms
        low_ms = float(self._latency_ms(self._cheapest).min())
        return max(low_ms, float(np.exp(self._random.uniform(np.log(low_ms), np.log(budget_ms)))))

    def _learn(self, known: Rows, scores: Floats) -> Callable[[Rows], tuple[Floats, Floats]]:
        """Mean and deviation of the scores of any rows."""
        centre, scale = scores.mean(), max(scores.std(), 1e-12)
        standard = (scores - centre) / scale
        features = self._features(known)
        surrogate = self._surrogate or Surrogate(features.shape[1])
        self._surrogate = surrogate
        if len(known) >= _GROWTH * self._learnt:
            some = self._some(standard, _MOST_LEARNT)
            surrogate.fit(features[some], standard[some])
            self._learnt = len(known)
        some = self._some(standard, _MOST_KNOWN)
        surrogate.know(features[some], standard[some])
        return lambda rows: surrogate.predict(self._features(rows))

    def _some(self, scores: Floats, most: int) -> npt.NDArray[np.int64]:
        """All networks, or of too many the best half and random others."""
        if len(scores) <= most:
            return np.arange(len(scores))
        order = np.argsort(-scores)
        return np.concatenate([order[: most // 2], self._random.permutation(order[most // 2 :])[: most // 2]])

    def _best_of(self, known: Rows, expected: Callable[[Rows], tuple[Floats, Floats]], budget_ms: float) -> Rows:
        """Rows inside a budget, the greatest expected improvement first."""
        inside = known[self._latency_ms(known) <= budget_ms]
        pool = self._inside(_RANDOM, budget_ms)[:_RANDOM]
        mean, deviation = expected(np.concatenate([inside, pool]))
        best = float(mean[: len(inside)].max() if len(inside) else mean.max())
        kept = np.r_[np.argsort(-mean[: len(inside)])[:_BEST], len(inside) : len(mean)]
        pool, gains = np.concatenate([inside, pool])[kept], log_improvement(mean[kept], deviation[kept], best)
        for _ in range(_GENERATIONS):
            order = np.argsort(-gains)[:_PARENTS]
            pool, gains = pool[order], gains[order]
            offspring = children(self._encoding, pool, _CHILDREN, self._random)
            offspring = distinct(offspring[self._latency_ms(offspring) <= budget_ms])
            if len(offspring):
                pool = np.concatenate([pool, offspring])
                gains = np.concatenate([gains, log_improvement(*expected(offspring), best)])
        return pool[np.argsort(-gains)]

    def _inside(self, number: int, budget_ms: float) -> Rows:
        """Random different rows inside a budget; where few fit, all that small changes find."""
        drawn = self._encoding.draw(max(1000, 4 * number), self._random)
        rows = distinct(np.concatenate([self._cheapest, drawn]))
        rows = rows[self._latency_ms(rows) <= budget_ms]
        in_vain = 0
        while len(rows) < number and in_vain < _IN_VAIN:
            offspring = children(self._encoding, rows if len(rows) else self._cheapest, 4 * number, self._random)
            more = distinct(np.concatenate([rows, offspring[self._latency_ms(offspring) <= budget_ms]]))
            in_vain = 0 if len(more) > len(rows) else in_vain + 1
            rows = more
        self._random.shuffle(rows)
        return rows

    @staticmethod
    def _new(rows: Rows, taken: set[bytes], number: int) -> list[npt.NDArray[np.int16]]:
        """The first rows that are not taken, and not close to each other; they are taken then."""
        new: list[npt.NDArray[np.int16]] = []
        for row in rows:
            if len(new) == number:
                break
            if row.tobytes() not in taken and all((row != other).sum() >= _APART for other in new):
                taken.add(row.tobytes())
                new.append(row)
        return new

    def _rows(self, rows: Sequence[npt.NDArray[np.int16]]) -> Rows:
        return np.stack(rows) if rows else np.zeros((0, len(self._encoding.columns)), dtype=np.int16)


def proposer_by_table(
    encoding: Encoding, table: LatencyTable, *, budget_ms: float, confidence: float | None = None, seed: int
) -> Proposer:
    """A proposer of networks that a latency table allows.

    Args:
        encoding: of the space.
        table: predicts the latency; it must cover the space.
        budget_ms: upper limit of the prediction, or with a confidence of the upper end of its interval.
        confidence: coverage of that interval. The upper end is taken to be as far above any prediction as it is at most
            above those of some random networks, so a rare proposal may be over the budget by a little.
        seed: random seed.
    """
    cheapest = encoding.space.extreme(table.layer_ms)
    row = encoding.encode([cheapest])
    layers_ms = encoding.sums(lambda layer, _: table.layer_ms(layer))
    beside_ms = table.latency_ms(cheapest) - float(layers_ms(row)[0])
    factor = 1.0
    if confidence is not None:
        drawn = encoding.draw(_CHECKED, np.random.default_rng(0))
        networks = [cheapest, *(encoding.decode(one) for one in drawn[np.isfinite(layers_ms(drawn))])]
        factor = max(table.upper_ms(network, confidence) / table.latency_ms(network) for network in networks)
        # The cheapest network is inside the budget whatever the factor says.
        factor = min(factor, budget_ms / table.latency_ms(cheapest))

    def size(what: str) -> Callable[[Rows], Floats]:
        def of_layer(layer: Layer, _: int) -> float:
            return float(sum(getattr(operation, what) for operation in operations(layer)))

        return encoding.sums(of_layer)

    return Proposer(
        encoding,
        lambda rows: factor * (layers_ms(rows) + beside_ms),
        budget_ms=budget_ms * (1 + 1e-9),  # The sum of a row differs from that of its network in the last digits.
        cheapest=row,
        sizes=[size("weights"), size("macs")],
        seed=seed,
    )
