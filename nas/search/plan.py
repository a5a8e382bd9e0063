"""The plan of a search, made before it starts: what the budget leaves of the space, and how long the search takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.errors import InputError, MissingLatencyError, NasError, visible
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace, random_choice
from nas.proxies import Proxy, ScoringFailed
from nas.search.budget import Budgets, check_budget, limited_ms
from nas.search.limits import Limits, Quantity
from nas.search.records import Spending

if TYPE_CHECKING:
    from nas.search.result import SearchResult

__all__ = [
    "SAMPLERS",
    "Plan",
    "check_sampler",
    "draw_inside",
    "duration",
    "plan_search",
    "random_inside",
    "references_inside",
    "seconds_with_screening",
]

# What may propose the networks of a search (sampler.py).
SAMPLERS = ("surrogate", "evolution", "tpe", "nsga2", "nsga3", "gp", "random")
_BAND = 0.2  # relative width of the band below the budget in which networks are compared
_BAND_DRAWS = 5_000
_ROOM = 10  # candidates that a longer time limit is proposed for


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search is going to do.

    Attributes:
        networks: size of the space.
        layers: number of distinct layers in it.
        inside: share of the space inside the largest budget and the limits, estimated from 1000 random networks.
        cheapest_ms: predicted latency of the cheapest network of the space.
        budgets: upper limits of the predicted latency.
        limits: further upper limits.
        objectives: quantities that the front shows besides the latency.
        origin: the source of the latencies, and how far they can be trusted.
        data: what the proxy scores on.
        trained_for: networks that the supernet was trained for, if a proxy uses one that was not trained for all.
        references: known networks inside the budget, by name.
        candidates: networks to score besides the references. None if only the time limit ends the search.
        done: how many of them are scored before it begins.
        screen: networks of similar latency of which one goes on to the next proxy.
        screens_s: estimated time of one score, by name of the screening proxy.
        last_s: estimated time of one score by the proxy that decides.
        each_s: estimated time of one candidate, screening included.
        seconds: estimated time of the search, at most the time limit.
        workers: processes that score at once.
    """

    networks: int
    layers: int
    inside: float
    cheapest_ms: float
    budgets: Budgets
    limits: Limits
    objectives: tuple[Quantity, ...]
    origin: str
    data: str
    trained_for: str | None
    references: dict[str, Architecture]
    candidates: int | None
    done: int
    screen: int
    screens_s: dict[str, float]
    last_s: float
    each_s: float
    seconds: float
    workers: int = 1

    def describe(self) -> list[str]:
        """The plan in words, one fact per line."""
        known = ", ".join(self.references) or "none"
        number = f"{self.candidates}" if self.candidates is not None else "as many as fit"
        if self.candidates is None and self.each_s:
            number += f", about {max(1, round(self.seconds / self.each_s) - len(self.references))}"
        if self.done:
            number += f", of which {self.done} are scored" if self.candidates is not None else f" beside {self.done}"
        return [
            f"space: {self.networks:.2e} networks of {self.layers} distinct layers; "
            f"{self.inside:.0%} of random ones run in {self.budgets.largest_ms:.3g} ms, the cheapest in "
            f"{self.cheapest_ms:.3f} ms",
            *self.budgets.describe(),
            *self.limits.describe(),
            *(f"objective: {one.meaning}, as low as possible" for one in self.objectives),
            f"latency: {self.origin}"
            + (f"; upper end at {self.budgets.confidence:.0%} inside the budget" if self.budgets.confidence else ""),
            f"data: {self.data}",
            *([f"supernet: trained for networks of {self.trained_for}"] if self.trained_for else []),
            f"candidates: {number}; for comparison {known}",
            *(
                f"screening: of networks of similar latency the best 1 in {self.screen} by {name} go on, about "
                f"{seconds:.1f} s each"
                for name, seconds in self.screens_s.items()
            ),
            f"time: about {duration(self.each_s)} each, {duration(self.seconds)} in all"
            + (f" if {self.workers} workers do not slow each other" if self.workers > 1 else ""),
        ]


def duration(seconds: float) -> str:
    """An estimated time in words.

    Examples:
        >>> duration(24.3), duration(170), duration(2150), duration(9000)
        ('24 s', '2.8 min', '36 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.{int(minutes < 10)}f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def check_sampler(name: str) -> None:
    """Refuse a sampler that there is not.

    Raises:
        InputError: the name is none of `SAMPLERS`.
    """
    if name not in SAMPLERS:
        raise InputError(f"--sampler must be one of {', '.join(SAMPLERS)}, got {visible(name)}")


def plan_search(
    space: SearchSpace,
    table: LatencyTable,
    proxy: Proxy,
    *,
    screens: Mapping[str, Proxy] | None = None,
    screen: int = 8,
    budget_ms: float | Sequence[float] | None,
    confidence: float | None = None,
    limits: Limits | None = None,
    objectives: Sequence[Quantity] = (),
    trials: int | None,
    time_limit_s: float | None,
    workers: int = 1,
    before: SearchResult | None = None,
) -> Plan:
    """Plan a search, and refuse one that cannot work.

    Args:
        space: the networks to choose from.
        table: predicts their latency.
        proxy: scores them.
        screens: screening proxies by name, in order.
        screen: networks of similar latency of which one goes on to the next proxy.
        budget_ms: one budget, or several. None for the whole front up to the slowest reference of the space.
        confidence: coverage of the interval whose upper end the budgets limit.
        limits: further upper limits.
        objectives: quantities that the front is to show besides the latency.
        trials: candidates to score besides the references.
        time_limit_s: when the search ends in any case.
        workers: processes that score at once, as fast together as each of them alone would be: on one GPU or core they
            are slower.
        before: the run to go on with. Its candidates count, and what its scores took is not estimated again.
    Raises:
        BudgetError: the cheapest network of the space is over a budget.
        InputError: a budget is not a positive number, of fewer than two networks one would go on, or neither trials
            nor a time limit end the search, or the time limit is too short for a single candidate.
        MissingLatencyError: the table, or one of an objective or a limit, does not cover the space.
        NasError: the proxy cannot score any of the networks tried.
    """
    if trials is None and time_limit_s is None:
        raise InputError("a search needs an end: give --trials, --time-limit or both")
    if screen < 2:
        raise InputError(f"--screen must be at least 2 networks for each one passed on, got {screen}")
    budgets, cheapest_ms = check_budget(space, table, budget_ms, confidence)
    largest_ms, limits = budgets.largest_ms, limits or Limits()
    limits.check(space)
    for objective in objectives:
        objective.check(space)
    choose = random_choice(seed=0)
    sampled = [space.sample(choose) for _ in range(1000)]
    inside = [network for network in sampled if limited_ms(table, network, confidence) <= largest_ms]
    inside = [network for network in inside if limits.excess(network) <= 0]
    references = references_inside(space, table, budgets)
    timed = [*references.values(), *inside[:3]] or [space.extreme(table.layer_ms)]
    settings = [one.settings() for one in (*(screens or {}).values(), proxy)]
    spending: tuple[Spending, ...] = before.spending if before else ()
    spent_s = {one.proxy: one.seconds / one.networks for one in spending if one.networks}
    # What is over a budget that was lowered by a resume does not count.
    known = [one for one in before.candidates if one.latency_ms <= largest_ms] if before else []
    done = sum(one.kind == "searched" for one in known)
    compared = {one.id for one in known if one.kind == "reference"}

    def seconds_of(name: str, own: Proxy) -> float:
        return spent_s[name] if name in spent_s else _estimate(own, timed)

    screens_s = {name: seconds_of(name, cheap) for name, cheap in (screens or {}).items()}
    last_s = seconds_of(spending[-1].proxy if spending else "", proxy)
    _check_time(sum(screens_s.values()) + last_s, time_limit_s)
    each_s = seconds_with_screening([*screens_s.values(), last_s], screen=screen)
    left = sum(network.id not in compared for network in references.values())
    references_s = left * (last_s + sum(screens_s.values()))
    total_s = (references_s + each_s * max(0, trials - done)) / workers if trials is not None else float("inf")
    return Plan(
        networks=space.count(),
        layers=len(space.layers),
        inside=len(inside) / len(sampled),
        cheapest_ms=cheapest_ms,
        budgets=budgets,
        limits=limits,
        objectives=tuple(objectives),
        origin=f"{table.provenance.label}; {table.trust}",
        data=str(settings[-1].get("data", "none")),
        trained_for=next((own["trained_for"] for own in settings if "trained_for" in own), None),
        references=references,
        candidates=trials,
        done=done,
        screen=screen,
        screens_s=screens_s,
        last_s=last_s,
        each_s=each_s,
        workers=workers,
        seconds=min(total_s, time_limit_s if time_limit_s is not None else float("inf")),
    )


def _check_time(least_s: float, time_limit_s: float | None) -> None:
    """Refuse a time limit that ends the search before it has a result.

    Args:
        least_s: estimated time of one network by all proxies.
        time_limit_s: of the search.
    Raises:
        InputError: the limit is shorter.
    """
    if time_limit_s is not None and least_s > time_limit_s:
        raise InputError(
            f"the time limit of {duration(time_limit_s)} is too short: one candidate takes about {duration(least_s)} "
            f"here; allow {duration(_ROOM * least_s)} or more (--time-limit {_ROOM * least_s / 60:.0f}m), or choose a "
            "proxy that takes less, such as accuracy-table"
        )


def _estimate(proxy: Proxy, networks: Sequence[Architecture]) -> float:
    """Mean estimated time over the networks that the proxy can score."""
    estimates, failure = [], None
    for network in networks:
        try:
            estimates.append(proxy.estimate_seconds(network))
        except ScoringFailed as error:
            failure = error
    if not estimates:
        raise NasError(f"none of the networks tried can be scored: {failure}") from failure
    return sum(estimates) / len(estimates)


def seconds_with_screening(rungs_s: Sequence[float], *, screen: int) -> float:
    """Time of a candidate on the last rung, with the screening before it.

    Args:
        rungs_s: time of one score by each proxy, the cheapest first.
        screen: networks of which one goes on to the next proxy.
    """
    return math.fsum(seconds * screen**number for number, seconds in enumerate(reversed(rungs_s)))


def random_inside(
    space: SearchSpace, table: LatencyTable, budget_ms: float, confidence: float | None = None, *, networks: int = 24
) -> tuple[Architecture, ...]:
    """Random networks of the band below a budget; the same ones in every call. Fewer where few are found.

    If the band is nearly empty, networks from below it are taken as well.
    """

    def drawn(low_ms: float, high_ms: float) -> dict[str, Architecture]:
        return draw_inside(
            space,
            lambda network: limited_ms(table, network, confidence),
            (low_ms, high_ms),
            networks,
            seed=0,
            draws=_BAND_DRAWS,
        )

    edge_ms = (1 - _BAND) * budget_ms
    found = drawn(edge_ms, budget_ms)
    if len(found) < networks:
        found |= drawn(0.0, edge_ms)
    return tuple([*found.values()][:networks])


def draw_inside(
    space: SearchSpace,
    latency_ms: Callable[[Architecture], float | None],
    band_ms: tuple[float, float],
    number: int,
    *,
    seed: int,
    draws: int,
) -> dict[str, Architecture]:
    """Distinct random networks with a latency in a band, ends included, by id; fewer if `draws` do not find as many.

    Args:
        space: the space to draw from.
        latency_ms: latency of a network; None if it is unknown.
        band_ms: the band.
        number: networks to draw.
        seed: random seed.
        draws: networks to look at.
    """
    choose, found = random_choice(seed=seed), dict[str, Architecture]()
    for _ in range(draws):
        if len(found) == number:
            break
        network = space.sample(choose)
        known = latency_ms(network)
        if known is not None and band_ms[0] <= known <= band_ms[1]:
            found[network.id] = network
    return found


def references_inside(space: SearchSpace, table: LatencyTable, budgets: Budgets) -> dict[str, Architecture]:
    """The references of a space that are inside the largest budget, by name."""
    return {
        name: network
        for name, network in space.references.items()
        if _known_ms(table, network, budgets.confidence) <= budgets.largest_ms
    }


def _known_ms(table: LatencyTable, network: Architecture, confidence: float | None) -> float:
    """The lower of the predicted and the published latency: one of them inside the budget is enough for a reference.

    Infinite for a network that the table does not cover.
    """
    try:
        predicted = limited_ms(table, network, confidence)
    except MissingLatencyError:  # A reference may lie outside the space, and so outside a table that was measured.
        return math.inf
    published = table.published.get(network.id)
    return min(predicted, published.latency_ms) if published else predicted
