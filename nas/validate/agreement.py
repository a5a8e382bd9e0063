"""How the order of networks by a proxy agrees with published accuracy, beside rankings that need no proxy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from nas.files import Record
from nas.validate.ranking import bootstrap_interval, deviation_by_chance, kendall_tau_b, lead_interval

__all__ = ["NEAR_MS", "RANKERS", "Lead", "RankAgreement", "ScoredNetwork", "SeedScore", "defined", "rank_agreement"]

NEAR_MS = (0.95, 1.20)


class SeedScore(Record):
    """The score of one network under one seed, or why there is none."""

    seed: int
    value: float | None = None
    failure: str | None = None
    seconds: float


class ScoredNetwork(Record):
    """A network with its scores by one proxy.

    Attributes:
        depth: number of convolutions and linear layers. None in a file of an earlier version, like `log_weights`.
        log_weights: sum of the logarithms of their numbers of weights.
        published_ms: published latency.
        top1: published ImageNet accuracy in %.
        latency_ms: predicted latency. None if the table cannot predict it.
        scores: finished scores, by seed.
        mean: mean over the seeds with a score.
        deviation: standard deviation over the same seeds. None for fewer than two.
    """

    name: str
    id: str
    summary: str
    params: int
    macs: int
    depth: int | None = None
    log_weights: float | None = None
    published_ms: float | None = None
    top1: float | None = None
    latency_ms: float | None = None
    scores: tuple[SeedScore, ...]
    mean: float | None = None
    deviation: float | None = None

    @property
    def is_near(self) -> bool:
        """Whether the published latency is in the narrow band, where latency itself says little of accuracy."""
        return NEAR_MS[0] <= (self.published_ms or 0) <= NEAR_MS[1]

    def values(self, seeds: Sequence[int] | None = None) -> dict[int, float]:
        """Scores by seed without failed ones; only those of `seeds`, if given."""
        return {s.seed: s.value for s in self.scores if s.value is not None and (seeds is None or s.seed in seeds)}


Ranking = Callable[[ScoredNetwork], float | None]

# Rankings that need no proxy. A proxy is worth its time only where it does better than the best of these.
RANKERS: Mapping[str, Ranking] = MappingProxyType(
    {
        "params": lambda row: row.params,
        "macs": lambda row: row.macs,
        "published latency": lambda row: row.published_ms,
        "depth": lambda row: row.depth,
        "sum of log weights": lambda row: row.log_weights,
    }
)


class Lead(Record):
    """How far the tau of a proxy is above the tau of the best ranking that needs no proxy, over the same networks.

    Attributes:
        ranker: name of that ranking: the one with the highest tau over these networks.
        difference: tau of the proxy less its tau.
        low: lower end of a 95 % interval (paired bootstrap over networks, which chooses the best ranking again in every
            resample: `lead_interval`). None for fewer than three networks.
        high: upper end.
    """

    ranker: str
    difference: float
    low: float | None = None
    high: float | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the proxy is better than the ranking by more than the choice of networks explains."""
        return self.low is not None and self.low > 0


class RankAgreement(Record):
    """Kendall's tau-b against published accuracy, over the networks that have a score.

    Attributes:
        networks: number of these networks.
        tau: of the mean score over seeds. None if it is not defined.
        by_chance: standard deviation of the tau of a random order of as many networks. None if it is not defined, and
            in a file of an earlier version.
        seeds: tau of each single seed.
        low: lower end of a 95 % interval (percentile bootstrap over networks). It is wide, because the networks are
            few.
        high: upper end.
        rankers: tau of rankings that need no proxy, over the same networks.
        lead: tau beside the best of these. None if one of both is not defined, and in a file of an earlier version.
    """

    networks: int
    tau: float | None = None
    by_chance: float | None = None
    seeds: dict[int, float]
    low: float | None = None
    high: float | None = None
    rankers: dict[str, float]
    lead: Lead | None = None


def rank_agreement(rows: Sequence[ScoredNetwork], seeds: Sequence[int]) -> RankAgreement:
    """How the scores of some published networks agree with their accuracies.

    A ranking without a value for one of the networks with a score is left out, so that all are over the same ones.
    """
    scored = [row for row in rows if row.mean is not None and row.top1 is not None]
    top1 = [row.top1 for row in scored if row.top1 is not None]
    means = [row.mean for row in scored if row.mean is not None]
    tau = _tau(scored, lambda row: row.mean)
    values = {name: found for name, ranker in RANKERS.items() if (found := _complete(map(ranker, scored))) is not None}
    rankers = {name: at for name, found in values.items() if (at := defined(kendall_tau_b(found, top1))) is not None}
    by_seed = {seed: _tau(rows, partial(_seed_value, seed=seed)) for seed in seeds}
    low, high = bootstrap_interval(means, top1) or (None, None)
    lead = None
    if tau is not None and rankers:
        best = max(rankers, key=rankers.__getitem__)
        ends = lead_interval(means, [values[name] for name in rankers], top1) or (None, None)
        lead = Lead(ranker=best, difference=tau - rankers[best], low=ends[0], high=ends[1])
    return RankAgreement(
        networks=len(scored),
        tau=tau,
        by_chance=deviation_by_chance(top1),
        seeds={seed: at for seed, at in by_seed.items() if at is not None},
        low=low,
        high=high,
        rankers=rankers,
        lead=lead,
    )


def defined(tau: npt.NDArray[np.float64]) -> float | None:
    """A tau as a number; None if one side is all ties."""
    return None if math.isnan(tau) else float(tau)


def _complete(values: Iterable[float | None]) -> list[float] | None:
    """The values, or None if one is missing."""
    found = list(values)
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else None


def _seed_value(row: ScoredNetwork, *, seed: int) -> float | None:
    return row.values().get(seed)


def _tau(rows: Iterable[ScoredNetwork], ranking: Ranking) -> float | None:
    """Tau of a ranking against published accuracy, over the rows that have both."""
    pairs = [(value, row.top1) for row in rows if (value := ranking(row)) is not None and row.top1 is not None]
    return defined(kendall_tau_b([value for value, _ in pairs], [top1 for _, top1 in pairs]))
