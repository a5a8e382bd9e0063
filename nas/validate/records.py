"""What a validation says: the records of validation.json, from a latency row to the whole."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nas.files import Record, read_record
from nas.latency import Agreement
from nas.search import TableUsed

__all__ = [
    "CLEAR",
    "EPOCHS",
    "LADDER",
    "NEAR_MS",
    "RESOLUTION",
    "Gap",
    "Hypervolumes",
    "LatencyPart",
    "LatencyRow",
    "Noise",
    "Opinion",
    "ProxyPair",
    "ProxyPart",
    "RankAgreement",
    "RecoveryPart",
    "ScoredNetwork",
    "SearchPart",
    "SeedScore",
    "Validation",
    "VariantPart",
]

# The rows that proxies are compared on: one recipe, one resolution, so that the accuracy tells of the network alone.
EPOCHS = 300
RESOLUTION = 224
NEAR_MS = (0.95, 1.20)
LADDER = ("iformer_t", "iformer_s", "iformer_m", "iformer_l")
CLEAR = 2.0  # standard deviations


class LatencyRow(Record):
    """A published latency beside the table's.

    Attributes:
        timed: `network`, or `backbone` where the classifier was left out.
        predicted_ms: None where the table cannot say, for the reason in `skipped`.
        error: predicted / published - 1.
        left_out_ms: predicted by the table's model fitted without this row; None where it was not fitted to it.
        source: where the latency is printed.
    """

    name: str
    resolution: int
    timed: Literal["network", "backbone"]
    published_ms: float
    predicted_ms: float | None = None
    error: float | None = None
    left_out_ms: float | None = None
    skipped: str | None = None
    source: str


class LatencyPart(Record):
    """How predicted latencies agree with published ones.

    Attributes:
        agreement: of all predictions; None for fewer than two.
        unseen: the same, rows that the table was fitted to being predicted from the others.
    """

    rows: tuple[LatencyRow, ...]
    agreement: Agreement | None = None
    unseen: Agreement | None = None


class SeedScore(Record):
    """A score of one network under one seed, or why there is none."""

    seed: int
    value: float | None = None
    failure: str | None = None
    seconds: float


class ScoredNetwork(Record):
    """A network with its scores by one proxy.

    Attributes:
        published_ms: published latency.
        top1: published ImageNet accuracy, %.
        latency_ms: predicted latency; None where the table cannot say.
        scores: those that are finished, by seed.
        mean: over the seeds that gave a score.
        deviation: standard deviation over them; None for fewer than two.
    """

    name: str
    id: str
    summary: str
    params: int
    macs: int
    published_ms: float | None = None
    top1: float | None = None
    latency_ms: float | None = None
    scores: tuple[SeedScore, ...]
    mean: float | None = None
    deviation: float | None = None

    def values(self, seeds: Sequence[int] | None = None) -> dict[int, float]:
        """Scores by seed, failed ones left out; of `seeds` only, if given."""
        return {s.seed: s.value for s in self.scores if s.value is not None and (seeds is None or s.seed in seeds)}


class RankAgreement(Record):
    """Kendall's tau-b against published accuracy, over the networks that have a score.

    Attributes:
        networks: how many these are.
        tau: of the mean score over seeds; None where it is not defined.
        seeds: of the scores of each single seed.
        low: lower end of a 95 % interval, a percentile bootstrap over networks; wide, for there are few.
        high: upper end.
        rankers: of rankings that need no proxy, over the same networks.
    """

    networks: int
    tau: float | None = None
    seeds: dict[int, float]
    low: float | None = None
    high: float | None = None
    rankers: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Standard deviation over seeds of one score by a proxy, pooled over the published rows.

    Attributes:
        deviation: None for one seed.
        within_seeds: apart from what a seed does to all networks alike.
    """

    deviation: float | None
    within_seeds: float | None = None


class Gap(Record):
    """How far the score of one network lies above that of another, and what it costs.

    Attributes:
        network: name of the one.
        other: name of the other.
        score: difference of their mean scores, over the compared seeds that both have.
        deviations: the same in standard deviations of one score; None where these are unknown or 0.
        within_seeds: the same in deviations within seeds, likewise: a gap is of differences under one seed, in which
            what a seed does to all networks alike cancels.
        latency_ms: predicted latency of the one minus that of the other; None where the table cannot say.
        verdict: `better` or `worse` beyond two standard deviations of one score; None where these are unknown.
    """

    network: str
    other: str
    score: float | None = None
    deviations: float | None = None
    within_seeds: float | None = None
    latency_ms: float | None = None
    verdict: Literal["better", "within noise", "worse"] | None = None

    @classmethod
    def between(cls, network: ScoredNetwork, other: ScoredNetwork, *, noise: Noise, seeds: Sequence[int]) -> Gap:
        """Compare two networks over some seeds; without a seed that both have there is no score."""
        latency_ms = None
        if network.latency_ms is not None and other.latency_ms is not None:
            latency_ms = network.latency_ms - other.latency_ms
        same: dict[str, Any] = {"network": network.name, "other": other.name, "latency_ms": latency_ms}
        ours, theirs = network.values(seeds), other.values(seeds)
        both = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        if not both:
            return cls(**same)
        score, deviation = statistics.fmean(both), noise.deviation
        if deviation is None:
            return cls(**same, score=score)
        return cls(
            **same,
            score=score,
            deviations=score / deviation if deviation else None,
            within_seeds=score / noise.within_seeds if noise.within_seeds else None,
            verdict="within noise" if abs(score) <= CLEAR * deviation else "better" if score > 0 else "worse",
        )


class ProxyPart(Record):
    """How a proxy orders the published networks.

    Attributes:
        settings: of the first seed.
        circumstances: where the scores were computed.
        wanted: scores there are to be.
        failed: scores that failed.
        deviation: standard deviation over seeds of one score, pooled over the rows; None for one seed.
        one_set_of_weights: all seeds take trained weights from one file, whose noise is then in neither deviation.
        within_seeds: the same apart from what a seed does to all rows alike: noise in the order under one seed.
        all_rows: every row.
        near_rows: those of nearly one published latency.
        ladder: S over T, M over S, L over M.
        seconds: of all scores of the rows.
    """

    proxy: str
    settings: dict[str, Any]
    circumstances: tuple[dict[str, Any], ...]
    rows: tuple[ScoredNetwork, ...]
    wanted: int
    failed: int
    deviation: float | None = None
    within_seeds: float | None = None
    one_set_of_weights: bool = False
    all_rows: RankAgreement
    near_rows: RankAgreement
    ladder: tuple[Gap, ...]
    seconds: float

    @property
    def noise(self) -> Noise:
        """Of one score."""
        return Noise(deviation=self.deviation, within_seeds=self.within_seeds)


class ProxyPair(Record):
    """How well the order by one proxy foretells that by another: whether it can screen for it, or stop before it.

    Attributes:
        networks: published rows with a score by both.
        tau: Kendall's tau-b of the mean scores; None where it is not defined.
        near_networks: those of nearly one published latency.
        near_tau: over these.
    """

    proxy: str
    other: str
    networks: int
    tau: float | None = None
    near_networks: int
    near_tau: float | None = None


class Opinion(Record):
    """What another proxy, which did not choose the winner of a search, says of it.

    Attributes:
        proxy: its name.
        gap: the winner over the variant, in standard deviations of this proxy; over the seeds that the search did not
            choose by, for weights of that seed may be behind both proxies.
    """

    proxy: str
    gap: Gap


class SearchPart(Record):
    """A search inside a budget, and what it found beside the published variant of that budget.

    Attributes:
        complete: whether it came to its end.
        networks: candidates with a score.
        failed: candidates without.
        found: id of the winner, by its score under the seed of the search.
        variant: the known network with the largest published latency inside the budget.
        gap: the winner over the variant.
        opinions: of the other proxies, of the same two networks.
    """

    budget_ms: float
    trials: int | None = None
    time_limit_s: float | None = None
    complete: bool
    networks: int = 0
    failed: int = 0
    found: str | None = None
    variant: str | None = None
    gap: Gap | None = None
    opinions: tuple[Opinion, ...] = ()


class VariantPart(Record):
    """Whether a published variant lies on the found front, within noise.

    Attributes:
        rival: id of the found network with the best score, under the seed of the search, that is no slower.
        gap: the rival over the variant.
        on_front: the rival is not better by more than two standard deviations; None while that is unknown.
        matched: the rival is not worse by more than two; likewise.
    """

    variant: str
    rival: str | None = None
    gap: Gap | None = None
    on_front: bool | None = None
    matched: bool | None = None


class Hypervolumes(Record):
    """Area below the found and the published front, score times ms, by scores as `scores` says."""

    scores: str
    found: float
    published: float


class RecoveryPart(Record):
    """What searches find beside the published variants, under the same proxy.

    Attributes:
        search_seed: under which the networks were found.
        seeds: over which scores are compared: all others, where there are any; `search_seed` alone favours the found.
        deviation: standard deviation over seeds of one score.
        score_floor: of the hypervolumes: the score of chance, or 0 where that is unknown.
        latency_limit_ms: of the hypervolumes: the slowest budget.
        networks: all that are compared: the published variants, the winners and the rivals.
        front: id, predicted latency and score under the seed of the search of what all searches found together.
    """

    proxy: str
    search_seed: int
    seeds: tuple[int, ...]
    deviation: float | None = None
    score_floor: float
    latency_limit_ms: float
    networks: tuple[ScoredNetwork, ...]
    searches: tuple[SearchPart, ...]
    variants: tuple[VariantPart, ...]
    hypervolumes: tuple[Hypervolumes, ...]
    front: tuple[tuple[str, float, float], ...]


class Validation(Record):
    """A validation as far as it has come.

    Attributes:
        command: the command line.
        date: when this was written, ISO 8601, UTC.
        seconds: what this run of the command took; parts kept from earlier runs are not in it.
        versions: of this package, Python and the libraries that shape the result.
        data: what the proxies score on, as asked for.
        unfinished: what is still to come, by part; empty at the end.
        left_out: published rows that proxies are not compared on, each with the reason.
        pairs: every proxy beside every later one.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    command: str
    date: str
    seconds: float
    versions: dict[str, str]
    data: str
    space: str
    table: TableUsed
    seeds: tuple[int, ...]
    unfinished: dict[str, str]
    latency: LatencyPart
    left_out: dict[str, str]
    proxies: tuple[ProxyPart, ...]
    pairs: tuple[ProxyPair, ...] = ()
    recovery: RecoveryPart | None = None

    @classmethod
    def load(cls, folder: Path) -> Validation:
        """Read validation.json of a folder.

        Raises:
            InputError: there is none, or it is broken.
        """
        return read_record(folder / "validation.json", cls)
