"""The steps of every evolution over rows of a space: changed copies of networks, and which are inside the limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nas.errors import BudgetError
from nas.latency import LatencyTable
from nas.networks import Layer, operations
from nas.networks.encoding import Encoding, Rows

__all__ = ["ROUNDING", "Inside", "Mask", "children", "distinct"]

Floats = npt.NDArray[np.float64]
Mask = Callable[[Rows], npt.NDArray[np.bool_]]

ROUNDING = 1 + 1e-9  # of limits: the sum of a row differs from that of its network in the last digits
_CROSSED_SHARE = 0.25  # of the children: these take stages from a second parent
_CHANGES = 2.0  # choices that differ between parent and child, on average, those of no use included
_NEARBY_SHARE = 0.7  # of the changes: these go one option up or down
_IN_VAIN = 3  # times that changes find no further network: then there seem to be no more
_CHECKED = 100  # random networks whose intervals are looked at
_GENERATIONS, _DRAWN, _KEPT = 40, 5000, 200  # of the evolution that looks for a network inside all limits


def children(encoding: Encoding, parents: Rows, number: int, random: np.random.Generator) -> Rows:
    """Networks that differ from a parent in few choices, or take whole stages from another parent, (number, columns).

    Args:
        encoding: of the space.
        parents: rows to choose from, each as likely as any other.
        number: of children; some may be equal.
        random: draws.
    """
    rows = parents[random.integers(0, len(parents), number)].copy()
    others = parents[random.integers(0, len(parents), number)]
    crossed = random.random(number) < _CROSSED_SHARE
    for stage in range(len(encoding.space.stages)):
        taken = np.ix_(crossed & (random.random(number) < 0.5), np.r_[encoding.of_stage(stage)])
        rows[taken] = others[taken]
    free = np.flatnonzero(encoding.sizes > 1)
    if not len(free):  # a space of one network
        return rows
    changed = np.zeros(rows.shape, dtype=bool)
    changed[:, free] = random.random((number, len(free))) < _CHANGES / len(free)
    same = np.flatnonzero(~changed.any(axis=1) & ~crossed)  # A child that is its parent would be of no use.
    changed[same, free[random.integers(0, len(free), len(same))]] = True
    nearby = np.clip(rows + random.choice([-1, 1], rows.shape), 0, encoding.sizes - 1)
    anywhere = random.integers(0, encoding.sizes, rows.shape)
    stepped = np.where(random.random(rows.shape) < _NEARBY_SHARE, nearby, anywhere)
    return encoding.canonical(np.where(changed, stepped, rows).astype(np.int16))


def distinct(rows: Rows) -> Rows:
    """The different rows, in a fixed order."""
    # Ten times as fast as np.unique over an axis. That two rows have the same sum is as likely as 1 in 2^62.
    factors = np.random.default_rng(0).integers(2**62, size=rows.shape[1], dtype=np.int64)
    _, first = np.unique(rows.astype(np.int64) @ factors, return_index=True)
    return rows[first]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """The networks of a space that keep to a latency and to other limits.

    Attributes:
        encoding: of the space.
        latency_ms: of rows.
        budget_ms: upper limit of the latency.
        start: rows inside all limits, one at least; where few networks fit, changes of these find the others.
        allowed: which rows keep to the other limits; all of them by default.
        sizes: numbers of a network that also tell it, such as weights, each of rows.
    """

    encoding: Encoding
    latency_ms: Callable[[Rows], Floats]
    budget_ms: float
    start: Rows
    allowed: Mask | None = None
    sizes: tuple[Callable[[Rows], Floats], ...] = ()

    def __call__(self, rows: Rows, limit_ms: float | None = None) -> npt.NDArray[np.bool_]:
        """Which rows are inside all limits, (N,), with `limit_ms` in place of the budget."""
        inside = self.latency_ms(rows) <= (self.budget_ms if limit_ms is None else limit_ms)
        if self.allowed is not None and inside.any():
            inside[inside] = self.allowed(rows[inside])
        return inside

    def draw(self, number: int, random: np.random.Generator, limit_ms: float | None = None) -> Rows:
        """Random different rows inside the limits, some more than `number`; where few fit, all that changes find.

        Args:
            number: of rows.
            random: draws.
            limit_ms: in place of the budget.
        """
        rows = distinct(np.concatenate([self.start, self.encoding.draw(max(1000, 4 * number), random)]))
        rows = rows[self(rows, limit_ms)]
        in_vain = 0
        while len(rows) < number and in_vain < _IN_VAIN:
            offspring = children(self.encoding, rows if len(rows) else self.start, 4 * number, random)
            more = distinct(np.concatenate([rows, offspring[self(offspring, limit_ms)]]))
            in_vain = 0 if len(more) > len(rows) else in_vain + 1
            rows = more
        random.shuffle(rows)
        return rows

    @classmethod
    def by_table(
        cls,
        encoding: Encoding,
        table: LatencyTable,
        *,
        levels_ms: Sequence[float],
        confidence: float | None = None,
        allowed: Mask | None = None,
    ) -> Inside:
        """The networks whose latency by a table is inside the last of some levels.

        Args:
            encoding: of the space.
            table: predicts the latency; it must cover the space.
            levels_ms: limits of the prediction, ascending, or with a confidence of the upper end of its interval.
            confidence: coverage of that interval. The upper end is taken to be as far above any prediction as it is at
                most above those of some random networks, so a rare proposal may be over the budget by a little.
            allowed: which rows keep to other limits.
        Raises:
            BudgetError: no network inside all limits was found.
        """
        cheapest = encoding.space.extreme(table.layer_ms)
        layers_ms = encoding.sums(lambda layer, _: table.layer_ms(layer))
        first = encoding.encode([cheapest])
        beside_ms = table.latency_ms(cheapest) - float(layers_ms(first)[0])
        factor = 1.0
        if confidence is not None:
            drawn = encoding.draw(_CHECKED, np.random.default_rng(0))
            networks = [cheapest, *(encoding.decode(one) for one in drawn[np.isfinite(layers_ms(drawn))])]
            factor = max(table.upper_ms(network, confidence) / table.latency_ms(network) for network in networks)
            # The cheapest network is inside the first level that its own interval is inside of, whatever the factor.
            upper_ms = table.upper_ms(cheapest, confidence)
            reached = next((level for level in levels_ms if upper_ms <= level * ROUNDING), levels_ms[-1])
            factor = min(factor, reached / table.latency_ms(cheapest))
        found = cls(
            encoding=encoding,
            latency_ms=lambda rows: factor * (layers_ms(rows) + beside_ms),
            budget_ms=levels_ms[-1] * ROUNDING,
            start=first,
            allowed=allowed,
            sizes=(encoding.sums(lambda layer, _: _weights(layer)), encoding.sums(lambda layer, _: _macs(layer))),
        )
        if found(first).all():
            return found
        least = [encoding.space.extreme(_weights), encoding.space.extreme(_macs)]
        return replace(found, start=_any_inside(found, np.concatenate([first, encoding.encode(least)])))


def _weights(layer: Layer) -> float:
    return float(sum(operation.weights for operation in operations(layer)))


def _macs(layer: Layer) -> float:
    return float(sum(operation.macs for operation in operations(layer)))


def _any_inside(inside: Inside, seeds: Rows) -> Rows:
    """A network inside all limits, the fastest that is found: by an evolution towards ever smaller networks.

    The limits only say yes or no. So networks are kept that are small by one mixture of latency and sizes or another,
    with as many random ones, and every network on the way is asked about.

    Raises:
        BudgetError: none was found.
    """
    encoding, random = inside.encoding, np.random.default_rng(0)
    rows = distinct(np.concatenate([seeds, encoding.draw(_DRAWN, random)]))
    looked_at = 0
    for _ in range(_GENERATIONS):
        looked_at += len(rows)
        found = rows[inside(rows)]
        if len(found):
            return found[[np.argmin(inside.latency_ms(found))]]
        logarithms = np.log([inside.latency_ms(rows), *(size(rows) for size in inside.sizes)]).T
        # Each network that is kept is the best of a few by a mixture of its own.
        mixtures = random.dirichlet(np.ones(logarithms.shape[1]), _KEPT)
        drawn = random.integers(0, len(rows), (_KEPT, 50))
        at = np.einsum("kdf,kf->kd", logarithms[drawn], mixtures).argmin(axis=1)
        kept = np.concatenate([seeds, rows[drawn[np.arange(_KEPT), at]], rows[drawn[:, 0]]])
        rows = distinct(children(encoding, kept, _DRAWN, random))
    raise BudgetError(
        f"no network of the space was found that runs in {inside.budget_ms:.4g} ms and keeps to the other limits, "
        f"among {looked_at:,}: raise the budget or a limit"
    )
