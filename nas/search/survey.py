"""A search that trains nothing: tens of thousands of networks, looked at by latency table and accuracy table alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nas.accuracy import classifier_words
from nas.latency import LatencyTable
from nas.lock import LOCK_NAME, owned
from nas.networks import Architecture, SearchSpace
from nas.proxies import Proxy, Score
from nas.search.budget import Budgets, check_budget, limited_ms
from nas.search.evolution import Found, evolve
from nas.search.folder import ResultsFolder
from nas.search.plan import duration, references_inside
from nas.search.records import Candidate, Kind, run_of
from nas.search.result import SearchResult, order_of

__all__ = ["NETWORKS", "BatchProxy", "SurveyPlan", "look", "plan_survey", "run_survey"]

NETWORKS = 20_000
_TIMED = 100  # networks whose time is measured for the plan


@runtime_checkable
class BatchProxy(Proxy, Protocol):
    """A proxy that scores thousands of networks in seconds, without failures."""

    def score_all(self, architectures: Sequence[Architecture]) -> list[Score]:
        """The score of each network."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyPlan:
    """What a survey is going to do.

    Attributes:
        size: number of networks of the space.
        cheapest: the cheapest network of the space.
        cheapest_ms: its predicted latency, or with a confidence the upper end of its interval.
        budgets: upper limits of the predicted latency.
        origin: source of the latencies, and how far they can be trusted.
        trust: how far the scores can be trusted.
        classifier: that networks are judged as classifiers at another resolution, in words; empty if they are not.
        references: known networks inside the budget, by name.
        networks: number of networks to look at.
        seconds: estimated time.
    """

    size: int
    cheapest: Architecture
    cheapest_ms: float
    budgets: Budgets
    origin: str
    trust: str
    references: dict[str, Architecture]
    networks: int
    seconds: float
    classifier: str = ""

    def describe(self) -> list[str]:
        """The plan in words, one fact per line."""
        confidence = self.budgets.confidence
        limit = f"; upper end at {confidence:.0%} inside the budget" if confidence else ""
        return [
            f"space: {self.size:.2e} networks, the cheapest in {self.cheapest_ms:.3f} ms",
            f"latency: {self.origin}{limit}",
            f"accuracy: predicted ImageNet-1k top-1{self.classifier}; {self.trust}",
            *self.budgets.describe(),
            f"survey: {self.networks} networks inside {self.budgets.largest_ms:g} ms, nothing is trained; "
            f"for comparison {', '.join(self.references) or 'none'}",
            f"time: about {duration(self.seconds)}",
        ]


def plan_survey(
    space: SearchSpace,
    table: LatencyTable,
    proxy: BatchProxy,
    *,
    budget_ms: float | Sequence[float] | None,
    confidence: float | None = None,
    networks: int = NETWORKS,
    time_limit_s: float | None = None,
) -> SurveyPlan:
    """Plan a survey, and refuse one that cannot work.

    Raises:
        BudgetError, InputError, MissingLatencyError: as in `cheapest_inside`.
    """
    budgets, cheapest_ms = check_budget(space, table, budget_ms, confidence)
    largest_ms, cheapest = budgets.largest_ms, space.extreme(table.layer_ms)
    references = references_inside(space, table, budgets)
    networks = min(networks, space.count())
    start = time.perf_counter()
    evolve(
        space,
        lambda network: limited_ms(table, network, confidence),
        partial(_ranks, proxy),
        budget_ms=largest_ms,
        networks=min(_TIMED, networks),
        seed=0,
        begin_with=[cheapest],
    )
    seconds = (time.perf_counter() - start) / min(_TIMED, networks) * networks
    return SurveyPlan(
        size=space.count(),
        cheapest=cheapest,
        cheapest_ms=cheapest_ms,
        budgets=budgets,
        origin=f"{table.provenance.label}; {table.trust}",
        trust=str(proxy.settings().get("trust", "its errors are not known")),
        references=references,
        networks=networks,
        seconds=min(seconds, time_limit_s or seconds),
        classifier=classifier_words(space.resolution),
    )


def run_survey(
    space: SearchSpace,
    table: LatencyTable,
    proxy: BatchProxy,
    *,
    plan: SurveyPlan,
    seed: int,
    out: Path,
    names: dict[str, str],
    time_limit_s: float | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Look at the plan's networks, and keep the best of every band of latency in a results folder.

    The whole survey is one step: it takes a minute or two, and one that was stopped begins again.

    Args:
        space: the networks to choose from.
        table: predicts the latency.
        proxy: scores the networks inside the budget.
        plan: from `plan_survey()` with the same arguments; contains the budget.
        seed: random seed of the evolution.
        out: the results folder.
        names: names of `space`, `table` and `proxy`, for run.json.
        time_limit_s: look at no further networks after this many seconds.
        resume: do it again in a folder that has a run of the same settings, for example with more networks.
        command: the command line, for run.json.
        on_progress: called with the number of networks looked at, and the number to look at.
    Raises:
        InputError: the folder has a run, and `resume` is not set; it belongs to another run; or another process works
            on it.
    """
    run = run_of(
        space,
        table,
        proxy,
        budgets=plan.budgets,
        seed=seed,
        names=names,
        command=command,
    )
    with owned(out, out / LOCK_NAME):
        folder = ResultsFolder(out, run, resume=resume)
        found, looked_at = look(
            space, table, proxy, plan=plan, seed=seed, time_limit_s=time_limit_s, on_progress=on_progress
        )
        searched = [one.network for one in found]
        known = list(plan.references.items())
        scores = proxy.score_all([*searched, *(network for _, network in known)])
        same: dict[str, Any] = {"looked_at": looked_at, "coverage": plan.budgets.confidence}
        candidates = [
            _candidate(table, network, score, kind="searched", **same)
            for network, score in zip(searched, scores[: len(searched)], strict=True)
        ]
        candidates += [
            _candidate(table, network, score, kind="reference", name=name, **same)
            for (name, network), score in zip(known, scores[len(searched) :], strict=True)
        ]
        folder.replace_all(candidates)
        return folder.finish()


def look(
    space: SearchSpace,
    table: LatencyTable,
    proxy: BatchProxy,
    *,
    plan: SurveyPlan,
    seed: int,
    time_limit_s: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Found], int]:
    """Look at the plan's networks.

    Returns:
        The best networks of every band of latency, fastest first; and how many were looked at.
    """
    started, looked_at = time.monotonic(), 0

    def progress(done: int, total: int) -> None:
        nonlocal looked_at
        looked_at = done
        if on_progress:
            on_progress(done, total)

    found = evolve(
        space,
        lambda network: limited_ms(table, network, plan.budgets.confidence),
        partial(_ranks, proxy),
        budget_ms=plan.budgets.largest_ms,
        networks=plan.networks,
        seed=seed,
        begin_with=[plan.cheapest, *(network for network in plan.references.values() if network in space)],
        is_late=lambda: time_limit_s is not None and time.monotonic() - started > time_limit_s,
        on_progress=progress,
    )
    return found, looked_at


def _candidate(
    table: LatencyTable,
    network: Architecture,
    score: Score,
    *,
    kind: Kind,
    looked_at: int,
    coverage: float | None,
    name: str | None = None,
) -> Candidate:
    latency = table.latency(network, coverage=coverage)
    details = {**score.details, "looked_at": looked_at}
    if kind == "reference" and (published := table.published.get(network.id)):
        details["published_ms"] = published.latency_ms
        if published.top1 is not None:
            details["published_top1"] = published.top1
    return Candidate.of(
        network, latency, kind=kind, name=name, score=score.value, seconds=score.seconds, details=details
    )


def _ranks(proxy: BatchProxy, networks: Sequence[Architecture]) -> list[float]:
    return [order_of(score.value, score.details) for score in proxy.score_all(networks)]
