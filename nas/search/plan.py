"""The plan of a search, made before it starts: what the budget leaves of the space, and how long the search takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nas.errors import BudgetError, InputError, MissingLatencyError, NasError, visible
from nas.files import MOST
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace, random_choice
from nas.proxies import Proxy, ScoringFailed

__all__ = [
    "SAMPLERS",
    "Plan",
    "cheapest_inside",
    "check_budget",
    "check_milliseconds",
    "check_sampler",
    "draw_inside",
    "duration",
    "known_ms",
    "limited_ms",
    "plan_search",
    "random_inside",
    "seconds_with_screening",
]

# What may propose the networks of a search (sampler.py).
SAMPLERS = ("surrogate", "tpe", "nsga2", "gp", "random")
_BAND = 0.2  # relative width of the band below the budget in which networks are compared
_BAND_DRAWS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search is going to do.

    Attributes:
        networks: size of the space.
        layers: number of distinct layers in it.
        inside: share of the space inside the budget, estimated from 1000 random networks.
        cheapest_ms: predicted latency of the cheapest network of the space.
        budget_ms: upper limit of the predicted latency.
        confidence: if given, the budget limits the upper end of an interval of this coverage instead of the prediction.
        origin: the source of the latencies, and how far they can be trusted.
        data: what the proxy scores on.
        trained_for: networks that the supernet was trained for, if a proxy uses one that was not trained for all.
        references: known networks inside the budget, by name.
        candidates: networks to score besides the references. None if only the time limit ends the search.
        screen: networks in a round of screening, of which one is passed on.
        screens_s: estimated time of one score, by name of the screening proxy.
        each_s: estimated time of one candidate, screening included.
        seconds: estimated time of the search, at most the time limit.
    """

    networks: int
    layers: int
    inside: float
    cheapest_ms: float
    budget_ms: float
    confidence: float | None
    origin: str
    data: str
    trained_for: str | None
    references: dict[str, Architecture]
    candidates: int | None
    screen: int
    screens_s: dict[str, float]
    each_s: float
    seconds: float

    def describe(self) -> list[str]:
        """The plan in words, one fact per line."""
        known = ", ".join(self.references) or "none"
        number = f"{self.candidates}" if self.candidates is not None else "as many as fit"
        if self.candidates is None and self.each_s:
            number += f", about {max(1, round(self.seconds / self.each_s) - len(self.references))}"
        return [
            f"space: {self.networks:.2e} networks of {self.layers} distinct layers; "
            f"{self.inside:.0%} of random ones run in {self.budget_ms:g} ms, the cheapest in {self.cheapest_ms:.3f} ms",
            f"latency: {self.origin}"
            + (f"; upper end at {self.confidence:.0%} inside the budget" if self.confidence else ""),
            f"data: {self.data}",
            *([f"supernet: trained for networks of {self.trained_for}"] if self.trained_for else []),
            f"candidates: {number}; for comparison {known}",
            *(
                f"screening: the best of every {self.screen} networks by {name}, about {seconds:.1f} s each, goes on"
                for name, seconds in self.screens_s.items()
            ),
            f"time: about {duration(self.each_s)} each, {duration(self.seconds)} in all",
        ]


def duration(seconds: float) -> str:
    """An estimated time in words.

    Example:
        >>> duration(24.3), duration(170), duration(2150), duration(9000)
        ('24 s', '2.8 min', '36 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.{int(minutes < 10)}f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def check_budget(space: SearchSpace, table: LatencyTable, budget_ms: float, confidence: float | None = None) -> float:
    """Latency of the cheapest network of the space in ms. The exceptions are those of `cheapest_inside`."""
    return cheapest_inside(space, table, budget_ms, confidence)[1]


def check_milliseconds(budget_ms: float) -> None:
    """Refuse a budget that is no time.

    Raises:
        InputError: it is not a positive number, or longer than any time in a table.
    """
    if not 0 < budget_ms <= MOST:
        raise InputError(f"--budget-ms must be a positive number of milliseconds, {MOST:g} at most, got {budget_ms:g}")


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
    budget_ms: float,
    confidence: float | None = None,
    trials: int | None,
    time_limit_s: float | None,
) -> Plan:
    """Plan a search, and refuse one that cannot work.

    Raises:
        BudgetError: the cheapest network of the space is over the budget.
        InputError: the budget is not a positive number, a round of screening has fewer than two networks, or neither
            trials nor a time limit end the search.
        MissingLatencyError: the table does not cover the space.
        NasError: the proxy cannot score any of the networks tried.
    """
    if trials is None and time_limit_s is None:
        raise InputError("a search needs an end: give --trials, --time-limit or both")
    if screen < 2:
        raise InputError(f"--screen must be at least 2 networks for each one passed on, got {screen}")
    cheapest_ms = check_budget(space, table, budget_ms, confidence)
    choose = random_choice(seed=0)
    sampled = [space.sample(choose) for _ in range(1000)]
    inside = [network for network in sampled if limited_ms(table, network, confidence) <= budget_ms]
    references = {
        name: network for name, network in space.references.items() if known_ms(table, network, confidence) <= budget_ms
    }
    timed = [*references.values(), *inside[:3]] or [space.extreme(table.layer_ms)]
    settings = [one.settings() for one in (*(screens or {}).values(), proxy)]
    screens_s = {name: _estimate(cheap, timed) for name, cheap in (screens or {}).items()}
    last_s = _estimate(proxy, timed)
    each_s = seconds_with_screening(last_s, list(screens_s.values()), screen=screen)
    references_s = len(references) * (last_s + sum(screens_s.values()))
    total_s = references_s + each_s * trials if trials is not None else float("inf")
    return Plan(
        networks=space.count(),
        layers=len(space.layers),
        inside=len(inside) / len(sampled),
        cheapest_ms=cheapest_ms,
        budget_ms=budget_ms,
        confidence=confidence,
        origin=f"{table.provenance.label}; {table.trust}",
        data=str(settings[-1].get("data", "none")),
        trained_for=next((own["trained_for"] for own in settings if "trained_for" in own), None),
        references=references,
        candidates=trials,
        screen=screen,
        screens_s=screens_s,
        each_s=each_s,
        seconds=min(total_s, time_limit_s if time_limit_s is not None else float("inf")),
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


def seconds_with_screening(
    last_s: float, screens_s: Sequence[float], *, screen: int, begun: Sequence[int] = ()
) -> float:
    """Time until the next candidate has its score, with the screening that is still missing before it.

    Args:
        last_s: time of one score by the last proxy.
        screens_s: time of one score by each screening proxy.
        screen: networks in a round of screening.
        begun: networks that the open round of each screening proxy already has.
    """
    total_s, missing = last_s, 1
    for stage in reversed(range(len(screens_s))):
        missing = max(0, missing * screen - (begun[stage] if begun else 0))
        total_s += missing * screens_s[stage]
    return total_s


def limited_ms(table: LatencyTable, network: Architecture, confidence: float | None) -> float:
    """The latency that a budget limits: the prediction, or with a confidence the upper end of its interval."""
    return table.latency_ms(network) if confidence is None else table.upper_ms(network, confidence)


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


def known_ms(table: LatencyTable, network: Architecture, confidence: float | None) -> float:
    """The lower of the predicted and the published latency: one of them inside the budget is enough for a reference.

    Infinite for a network that the table does not cover.
    """
    try:
        predicted = limited_ms(table, network, confidence)
    except MissingLatencyError:  # A reference may lie outside the space, and so outside a table that was measured.
        return math.inf
    published = table.published.get(network.id)
    return min(predicted, published.latency_ms) if published else predicted
