"""The latency budgets of a search: one, several, or the whole front up to the slowest known network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import BudgetError, InputError
from nas.files import MOST
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace

__all__ = ["Budgets", "cheapest_inside", "check_budget", "check_milliseconds", "limited_ms", "read_budgets"]

_LEVELS = 24  # latencies between the cheapest network and the end of a whole front


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Upper limits of the predicted latency.

    Attributes:
        limits_ms: the budgets, ascending. No network above the last is scored.
        whole_front: the best network of every latency up to the last is looked for.
        confidence: if given, a budget limits the upper end of an interval of this coverage instead of the prediction.
    """

    limits_ms: tuple[float, ...]
    whole_front: bool = False
    confidence: float | None = None

    @property
    def largest_ms(self) -> float:
        """The budget that no network may exceed."""
        return self.limits_ms[-1]

    def levels_ms(self, cheapest_ms: float) -> tuple[float, ...]:
        """The latencies at which the best network is looked for, ascending, given that of the cheapest network."""
        if not self.whole_front or cheapest_ms >= self.largest_ms:
            return self.limits_ms
        step = math.log(self.largest_ms / cheapest_ms) / (_LEVELS - 1)
        return (*(cheapest_ms * math.exp(step * level) for level in range(_LEVELS - 1)), self.largest_ms)

    def describe(self) -> list[str]:
        """The budgets in words, in a line if there is more than one."""
        if self.whole_front:
            return [f"budget: none; the best network of every latency up to {self.largest_ms:.3g} ms is looked for"]
        limits = " and ".join(f"{limit:g} ms" for limit in self.limits_ms)
        return [f"budget: {limits}, each with a winner"] if len(self.limits_ms) > 1 else []


def read_budgets(text: str | None) -> tuple[float, ...] | None:
    """The value of --budget-ms: a number of milliseconds, or several with commas between them; None if there is none.

    Raises:
        InputError: one is no number of milliseconds.

    Examples:
        >>> read_budgets("1.1, 0.6")
        (0.6, 1.1)
    """
    if text is None:
        return None
    budgets = []
    for part in text.split(","):
        try:
            budget_ms = float(part)
        except ValueError:
            raise InputError(
                f"--budget-ms must be a number of milliseconds, or several such as 0.6,0.85,1.1, got {text!r}"
            ) from None
        check_milliseconds(budget_ms)
        budgets.append(budget_ms)
    return tuple(sorted(set(budgets)))


def check_milliseconds(budget_ms: float) -> None:
    """Refuse a budget that is no time.

    Raises:
        InputError: it is not a positive number, or longer than any time in a table.
    """
    if not 0 < budget_ms <= MOST:
        raise InputError(f"--budget-ms must be a positive number of milliseconds, {MOST:g} at most, got {budget_ms:g}")


def check_budget(
    space: SearchSpace,
    table: LatencyTable,
    budget_ms: float | Sequence[float] | None,
    confidence: float | None = None,
) -> tuple[Budgets, float]:
    """The budgets of a search, and the latency of the cheapest network of the space in ms.

    Args:
        space: the networks to choose from.
        table: predicts their latency.
        budget_ms: one budget, or several. None for the whole front up to the slowest reference of the space.
        confidence: coverage of the interval whose upper end the budgets limit.
    Raises:
        BudgetError: the cheapest network is over a budget.
        InputError: a budget is not a positive number, or the table has no interval of this coverage.
        MissingLatencyError: the table does not cover the space.
    """
    if budget_ms is None:
        cheapest_ms = limited_ms(table, space.extreme(table.layer_ms), confidence)
        limits: tuple[float, ...] = (max(cheapest_ms, _slowest_ms(space, table, confidence)),)
        return Budgets(limits_ms=limits, whole_front=True, confidence=confidence), cheapest_ms
    limits = (float(budget_ms),) if isinstance(budget_ms, int | float) else tuple(sorted(set(map(float, budget_ms))))
    for limit_ms in limits:
        check_milliseconds(limit_ms)
    _, cheapest_ms = cheapest_inside(space, table, limits[0], confidence)
    return Budgets(limits_ms=limits, confidence=confidence), cheapest_ms


def _slowest_ms(space: SearchSpace, table: LatencyTable, confidence: float | None) -> float:
    """Latency of the slowest reference inside the space; where there is none, of the slowest network of the space."""
    known = [network for network in space.references.values() if network in space]
    networks = known or [space.extreme(table.layer_ms, dearest=True)]
    return max(limited_ms(table, network, confidence) for network in networks)


def cheapest_inside(
    space: SearchSpace, table: LatencyTable, budget_ms: float, confidence: float | None = None
) -> tuple[Architecture, float]:
    """The cheapest network of the space, and its latency in ms. With a confidence, the upper end of its interval.

    Raises:
        BudgetError: the cheapest network is over the budget.
        InputError: the budget is not a positive number, or the table has no interval of this coverage.
        MissingLatencyError: the table does not cover the space.
    """
    check_milliseconds(budget_ms)
    cheapest = space.extreme(table.layer_ms)
    cheapest_ms = limited_ms(table, cheapest, confidence)
    if cheapest_ms > budget_ms:
        raise BudgetError(
            f"no network of the space runs in {budget_ms:g} ms: the cheapest is predicted at {cheapest_ms:.3f} ms; "
            "raise --budget-ms, or widen the space downwards"
        )
    return cheapest, cheapest_ms


def limited_ms(table: LatencyTable, network: Architecture, confidence: float | None) -> float:
    """The latency that a budget limits: the prediction, or with a confidence the upper end of its interval."""
    return table.latency_ms(network) if confidence is None else table.upper_ms(network, confidence)
