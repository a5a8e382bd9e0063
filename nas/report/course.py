"""How a search went: the best score and the hypervolume as candidates came in, rungs, choices, agreement of proxies."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.accuracy.structure import NUMBERS, numbers
from nas.report.predicted import is_predicted
from nas.search import Candidate, SearchResult, hypervolume, score_of
from nas.validate.ranking import kendall_tau_b

__all__ = ["FEWEST", "Agreement", "Choice", "Progress", "Rung", "agreements", "choices", "progress", "rungs"]

FEWEST = 8  # networks, for an agreement in order to say anything
_CHOICES = 12  # of a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Values after each candidate that changed them, and after the last one.

    Attributes:
        counts: numbers of scored candidates.
        best: best score inside the largest budget so far.
        hypervolume: score times ms, up to the largest budget and above score 0.
    """

    counts: Sequence[int]
    best: Sequence[float]
    hypervolume: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """What one proxy of a search looked at. The time of a survey is not kept."""

    proxy: str
    networks: int
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Spearman's rank correlation of a choice with the score, and with the latency."""

    name: str
    score: float
    latency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Values of one proxy beside the score, network by network, and Kendall's tau-b of their order."""

    proxy: str
    names: Sequence[str]
    values: Sequence[float]
    scores: Sequence[float]
    tau: float


def progress(result: SearchResult) -> Progress | None:
    """Best score and hypervolume over the candidates. None for a survey: it keeps no order, only the front."""
    limit_ms = result.run.budget_ms
    inside = [
        (count, one)
        for count, one in enumerate(result.scored, start=1)
        if result.run.limited_ms(one) <= limit_ms and result.run.allows(one)
    ]
    if is_predicted(result) or not inside:
        return None
    counts, best, volumes = [], [], []
    highest, front = -np.inf, _Front(limit_ms)
    for count, one in inside:
        score = score_of(one)
        if front.take(one.latency_ms, score) or score > highest:
            highest = max(highest, score)
            counts.append(count)
            best.append(float(highest))
            volumes.append(front.volume)
    return Progress(counts=[*counts, len(result.scored)], best=[*best, best[-1]], hypervolume=[*volumes, volumes[-1]])


class _Front:
    """A Pareto front that grows point by point, and its hypervolume up to a latency and above score 0."""

    def __init__(self, limit_ms: float) -> None:
        self._limit_ms = limit_ms
        self._latencies: list[float] = []  # ascending, and so are the scores
        self._scores: list[float] = []
        self.volume = 0.0

    def take(self, latency_ms: float, score: float) -> bool:
        """Add a point. Returns whether it is on the front."""
        at = bisect_left(self._latencies, latency_ms)
        equal = at < len(self._latencies) and self._latencies[at] == latency_ms and self._scores[at] >= score
        if equal or (at and self._scores[at - 1] >= score):
            return False
        end = at + bisect_left(self._scores[at:], score)
        end += end < len(self._scores) and self._scores[end] == score
        self._latencies[at:end], self._scores[at:end] = [latency_ms], [score]
        points = list(zip(self._latencies, self._scores, strict=True))
        self.volume = hypervolume(points, latency_limit=self._limit_ms, score_floor=0.0)
        return True


def rungs(result: SearchResult) -> list[Rung]:
    """The proxies of a search, cheapest first, with what each looked at; the last comparison is one of them."""
    found = [Rung(proxy=one.proxy, networks=one.networks, seconds=one.seconds) for one in result.spending]
    if is_predicted(result) and result.scored:
        looked_at = int(result.scored[0].details.get("looked_at", found[-1].networks))
        found[-1] = Rung(proxy=found[-1].proxy, networks=looked_at, seconds=None)
    if result.settled:
        seconds = sum(one.seconds for one in result.settled.values())
        found.append(Rung(proxy=result.settles, networks=len(result.settled), seconds=seconds))
    return found


def choices(candidates: Sequence[Candidate]) -> list[Choice]:
    """The choices whose order goes most with that of the score, strongest first; none for too few candidates.

    A choice is a number of one stage, such as its width. Choices go together, so this shows no causes.
    """
    if len(candidates) < FEWEST:
        return []
    made_of = numbers([one.architecture for one in candidates])
    varied = [column for column in range(made_of.shape[1]) if np.ptp(made_of[:, column]) > 0]
    scores = _ranks(np.asarray([score_of(one) for one in candidates]))
    latencies = _ranks(np.asarray([one.latency_ms for one in candidates]))
    if np.ptp(scores) == 0:
        return []
    ranks = {NUMBERS[column]: _ranks(made_of[:, column]) for column in varied}
    found = [
        Choice(
            name=name.replace("log channels", "channels").replace("log blocks", "blocks"),
            score=_correlation(own, scores),
            latency=_correlation(own, latencies),
        )
        for name, own in ranks.items()
    ]
    return sorted(found, key=lambda one: -abs(one.score))[:_CHOICES]


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks of numbers; equal ones share the mean of theirs."""
    # Loading scipy.stats for its rankdata takes longer than all ranks of a page.
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[places], dtype=np.float64)


def _correlation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) and np.ptp(other) else 0.0


def agreements(result: SearchResult) -> list[Agreement]:
    """Each other proxy of a search beside the score, over the networks that have both; none over too few."""
    scores = {one.id: score_of(one) for one in (*result.scored, *result.references)}
    labels = {one.id: one.label for one in result.candidates}
    values = {
        name: {network: own[name] for network, own in result.screened.items() if name in own}
        for name in result.run.screens
    }
    if result.settled:
        values[result.settles] = result.settled_values
    found = []
    for proxy, own in values.items():
        shared = [network for network in scores if network in own]
        if len(shared) >= FEWEST:
            theirs, ours = [own[network] for network in shared], [scores[network] for network in shared]
            names = [labels[network] for network in shared]
            found.append(Agreement(proxy=proxy, names=names, values=theirs, scores=ours, tau=_tau(theirs, ours)))
    return found


def _tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b; 0 if either side is all ties."""
    return float(np.nan_to_num(kendall_tau_b(one, other)))
