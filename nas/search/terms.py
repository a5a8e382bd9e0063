"""What all workers of a search must agree on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from nas.files import MOST
from nas.latency import LatencyTable
from nas.networks import Architecture
from nas.search.budget import Budgets, limited_ms
from nas.search.limits import Limits, Quantity
from nas.search.plan import Plan

__all__ = ["Terms", "terms_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all workers of a search must agree on.

    Attributes:
        budgets: upper limits of the predicted latency.
        limits: further upper limits.
        objectives: quantities that the front is to show besides the latency.
        wanted: candidates to score besides the references. None if only time ends the search.
        share: of networks of similar latency on a rung, the best 1/share go on to the next.
        references: known networks to score, by name.
    """

    budgets: Budgets
    limits: Limits = field(default_factory=Limits)
    objectives: tuple[Quantity, ...] = ()
    wanted: int | None
    share: int
    references: Mapping[str, Architecture]

    def over(self, table: LatencyTable, network: Architecture) -> float:
        """How far a network is over the largest budget in ms, or over a limit as a share of it; at most 0 inside."""
        over_ms = limited_ms(table, network, self.budgets.confidence) - self.budgets.largest_ms
        if not all(math.isfinite(one.value(network)) for one in self.objectives):
            return MOST  # A layer of it failed on a further device.
        return max(over_ms, self.limits.excess(network))

    def quantities(self, network: Architecture) -> dict[str, float]:
        """What is kept of a candidate besides its latency and its score, by name."""
        return self.limits.values(network) | {one.name: one.value(network) for one in self.objectives}


def terms_of(plan: Plan) -> Terms:
    """What all workers of a planned search must agree on."""
    return Terms(
        budgets=plan.budgets,
        limits=plan.limits,
        objectives=plan.objectives,
        wanted=plan.candidates,
        share=plan.screen,
        references=plan.references,
    )
