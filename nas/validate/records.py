"""The records of validation.json, from one latency row to the whole validation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nas.data import Contents
from nas.files import Milliseconds, Record, read_record
from nas.latency import Agreement
from nas.search import TableUsed
from nas.validate.accuracy import AccuracyPart
from nas.validate.agreement import RankAgreement, ScoredNetwork
from nas.validate.widths import WidthPart

__all__ = [
    "CLEAR",
    "EPOCHS",
    "LADDER",
    "RESOLUTION",
    "Gap",
    "Hypervolumes",
    "LatencyPart",
    "LatencyRow",
    "Noise",
    "Opinion",
    "ProxyPair",
    "ProxyPart",
    "RecoveryPart",
    "SearchPart",
    "Validation",
    "VariantPart",
]

# Proxies are compared on rows of one recipe and one resolution, so that accuracy depends on the network alone.
EPOCHS = 300
RESOLUTION = 224
LADDER = ("iformer_t", "iformer_s", "iformer_m", "iformer_l")
CLEAR = 2.0  # standard deviations


class LatencyRow(Record):
    """A published latency beside the prediction of the table.

    Attributes:
        timed: `network`, or `backbone` if the classifier was left out.
        predicted_ms: None if the table cannot predict it; `skipped` has the reason.
        error: predicted / published - 1.
        left_out_ms: prediction of the table's model fitted without this row. None if it is not fitted to this row.
        source: where the latency is published.
    """

    name: str
    resolution: int
    timed: Literal["network", "backbone"]
    published_ms: Milliseconds
    predicted_ms: Milliseconds | None = None
    error: float | None = None
    left_out_ms: float | None = None
    skipped: str | None = None
    source: str


class LatencyPart(Record):
    """How predicted latencies agree with published ones.

    Attributes:
        agreement: of all predictions. None for fewer than two.
        unseen: the same, with every fitted row predicted from the other rows.
    """

    rows: tuple[LatencyRow, ...]
    agreement: Agreement | None = None
    unseen: Agreement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Standard deviation over seeds of one score by a proxy, pooled over the published rows.

    Attributes:
        deviation: None for one seed.
        within_seeds: the same without the effect that a seed has on all networks alike.
    """

    deviation: float | None
    within_seeds: float | None = None


class Gap(Record):
    """How far the score of one network is above the score of another, and how their latencies differ.

    Attributes:
        network: name of the one network.
        other: name of the other network.
        score: difference of their mean scores, over the compared seeds that both have.
        deviations: the same in standard deviations of one score. None if these are unknown or 0.
        within_seeds: the same in deviations within seeds. A gap is made of differences under one seed, so the effect
            that a seed has on all networks alike cancels.
        latency_ms: difference of their predicted latencies. None if the table cannot predict one of them.
        verdict: `better` or `worse` beyond two standard deviations of one score. None if these are unknown.
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
        """Compare two networks over some seeds. Without a seed that both have, the gap has no score."""
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
        settings: settings of the first seed.
        circumstances: where the scores were computed.
        wanted: number of scores that are asked for.
        failed: number of failed scores.
        deviation: standard deviation over seeds of one score, pooled over the rows. None for one seed.
        one_set_of_weights: whether all seeds use trained weights from one file. Neither deviation then has the noise of
            that training.
        within_seeds: the same without the effect that a seed has on all rows alike: the noise in the order of networks
            under one seed.
        all_rows: agreement over all rows.
        near_rows: agreement over the rows of nearly the same published latency.
        ladder: S over T, M over S, L over M.
        seconds: total time of the scores of the rows.
        widths: what the widths of the stages say of the scores of random networks. None if these were not asked for.
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
    widths: WidthPart | None = None

    @property
    def noise(self) -> Noise:
        """Noise of one score."""
        return Noise(deviation=self.deviation, within_seeds=self.within_seeds)


class ProxyPair(Record):
    """How well the order of one proxy predicts the order of another: whether it can screen for it, or replace it.

    Attributes:
        networks: number of published rows with a score by both.
        tau: Kendall's tau-b of the mean scores. None if it is not defined.
        near_networks: number of these rows of nearly the same published latency.
        near_tau: tau over these rows.
    """

    proxy: str
    other: str
    networks: int
    tau: float | None = None
    near_networks: int
    near_tau: float | None = None


class Opinion(Record):
    """The verdict of another proxy, which did not choose the winner of a search, on that winner.

    Attributes:
        proxy: name of the proxy.
        gap: the winner over the variant, in standard deviations of this proxy. Only seeds that the search did not use
            count, because both proxies may use the same weights of one seed.
    """

    proxy: str
    gap: Gap


class SearchPart(Record):
    """A search inside a budget, and its winner beside the published variant of that budget.

    Attributes:
        complete: whether the search is finished.
        networks: number of candidates with a score.
        failed: number of candidates without a score.
        found: id of the winner, by its score under the seed of the search.
        variant: the published variant with the largest published latency inside the budget.
        gap: the winner over the variant.
        opinions: of the other proxies, on the same two networks.
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
        rival: id of the found network that is no slower and has the best score under the seed of the search.
        gap: the rival over the variant.
        on_front: False if the rival is better by more than two standard deviations, else True. None while unknown.
        matched: False if the rival is worse by more than two standard deviations, or if no found network is as fast;
            else True. None while unknown.
    """

    variant: str
    rival: str | None = None
    gap: Gap | None = None
    on_front: bool | None = None
    matched: bool | None = None


class Hypervolumes(Record):
    """Hypervolume of the found and of the published front, in score times ms. `scores` says which scores count."""

    scores: str
    found: float
    published: float


class RecoveryPart(Record):
    """What searches find beside the published variants, under the same proxy.

    Attributes:
        search_seed: seed of the searches.
        seeds: seeds whose scores are compared: all other seeds if there are any, because `search_seed` favours found
            networks.
        deviation: standard deviation over seeds of one score.
        score_floor: lower limit of the hypervolumes: the score of guessing, or 0 if that is unknown.
        latency_limit_ms: upper limit of the hypervolumes: the slowest budget.
        networks: all compared networks: published variants, winners and rivals.
        front: Pareto front of all searches together: id, predicted latency, and score under the seed of the search.
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
    """A validation, as far as it has come.

    Attributes:
        command: the command line.
        date: when this was written, ISO 8601, UTC.
        seconds: time of this run of the command, without parts that earlier runs computed.
        versions: of this package, of Python, and of the libraries that affect the result.
        data: what the proxies score on, as asked for.
        contents: all images of the source that the proxies use. None if they use none, in a validation of an earlier
            version, or if there is no source.
        unfinished: what is missing, by part. Empty at the end.
        left_out: published rows that proxies are not compared on, each with the reason.
        pairs: every proxy beside every later proxy.
        accuracy: what an accuracy table predicts, if it was asked for.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    command: str
    date: str
    seconds: float
    versions: dict[str, str]
    data: str
    contents: Contents | None = None
    space: str
    table: TableUsed
    seeds: tuple[int, ...]
    unfinished: dict[str, str]
    latency: LatencyPart
    left_out: dict[str, str]
    proxies: tuple[ProxyPart, ...]
    pairs: tuple[ProxyPair, ...] = ()
    recovery: RecoveryPart | None = None
    accuracy: AccuracyPart | None = None

    @classmethod
    def load(cls, folder: Path | str) -> Validation:
        """Read validation.json of a folder.

        Raises:
            InputError: there is no such file, or it is broken.
        """
        return read_record(Path(folder) / "validation.json", cls)
