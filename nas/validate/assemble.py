"""From kept scores and searches to a validation: its latency part, its proxy parts and its recovery part."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from nas.errors import MissingLatencyError
from nas.latency import Agreement, LatencyTable
from nas.latency.published import PublishedPoint
from nas.networks import HeadLayer
from nas.search import CIRCUMSTANCES, TableUsed, versions
from nas.validate.ranking import bootstrap_interval, deviation_within_seeds, kendall_tau_b, pooled_deviation
from nas.validate.records import (
    LADDER,
    NEAR_MS,
    Gap,
    LatencyPart,
    LatencyRow,
    Noise,
    ProxyPair,
    ProxyPart,
    RankAgreement,
    ScoredNetwork,
    Validation,
)
from nas.validate.recovery import Findings, recovery_part
from nas.validate.request import Request, unlike
from nas.validate.scores import KeptScores, names_its_seed, scored_network

__all__ = ["assemble", "latency_part"]


def assemble(findings: Findings, latency: LatencyPart, *, seconds: float) -> Validation:
    """The validation, as far as it has come.

    Args:
        findings: what the searches have found, with the request and the scores.
        latency: from `latency_part`.
        seconds: time of this run of the command so far.
    """
    request = findings.request
    proxies = tuple(_proxy_part(request, findings.scores, name) for name in request.proxies)
    recovery = None
    unfinished = {
        f"proxy {part.proxy}": f"{there} of {part.wanted} scores are there"
        for part in proxies
        if (there := sum(len(row.scores) for row in part.rows)) < part.wanted
    }
    if request.budgets_ms:
        recovery = recovery_part(findings, {part.proxy: part.noise for part in proxies})
        if open_ := sum(not search.complete for search in recovery.searches):
            unfinished["recovery"] = f"{open_} of {len(recovery.searches)} searches are not at their end"
        elif findings.unscored_seeds():
            unfinished["recovery"] = "some of the networks compared lack the score of a seed"
    return Validation(
        command=shlex.join(request.command),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        versions=versions("nas", "torch", "optuna", "numpy"),
        data=request.names["data"],
        space=request.names["space"],
        table=TableUsed.of(request.table, name=request.names["table"]),
        seeds=request.seeds,
        unfinished=unfinished,
        latency=latency,
        left_out={point.name: reason for point in (*request.points, *request.further) if (reason := unlike(point))},
        proxies=proxies,
        pairs=tuple(_pair(one, other) for one, other in combinations(proxies, 2)),
        recovery=recovery,
    )


def latency_part(request: Request) -> LatencyPart:
    """Every published latency beside the prediction of the table."""
    rows = [_latency_row(point, request.table, calibrates=True) for point in request.points]
    rows += [_latency_row(point, request.table, calibrates=False) for point in request.further]
    pairs = [(row.predicted_ms, row.published_ms) for row in rows if row.predicted_ms is not None]
    unseen = [(row.left_out_ms or row.predicted_ms, row.published_ms) for row in rows if row.predicted_ms is not None]
    return LatencyPart(rows=tuple(rows), agreement=_agreement(pairs), unseen=_agreement(unseen))


def _agreement(pairs: Sequence[tuple[float, float]]) -> Agreement | None:
    return Agreement.of(*map(list, zip(*pairs, strict=True))) if len(pairs) > 1 else None


def _latency_row(point: PublishedPoint, table: LatencyTable, *, calibrates: bool) -> LatencyRow:
    """One published row. A row of the table's own points that the table is not fitted to cannot be predicted by it."""
    predicted_ms, skipped = None, point.why_not if calibrates or not point.in_family else ""
    if not skipped:
        try:
            predicted_ms = table.latency(point.architecture()).latency_ms
            if point.timed == "backbone":
                heads = [layer for layer in point.architecture().layers() if isinstance(layer, HeadLayer)]
                predicted_ms -= sum(map(table.layer_ms, heads))
        except MissingLatencyError as error:
            skipped = str(error)
    fitted = {row.name: row.left_out_ms for row in table.model.rows} if table.model and calibrates else {}
    return LatencyRow(
        name=point.name,
        resolution=point.resolution,
        timed=point.timed,
        published_ms=point.latency_ms,
        predicted_ms=predicted_ms,
        error=None if predicted_ms is None else predicted_ms / point.latency_ms - 1,
        left_out_ms=fitted.get(point.name),
        skipped=skipped or None,
        source=point.source,
    )


def _proxy_part(request: Request, scores: KeptScores, name: str) -> ProxyPart:
    rows = {
        point.name: scored_network(request, scores, name, point.name, point.architecture(), point)
        for point in request.compared
    }
    found = [scores.find(name, seed, row.id) for row in rows.values() for seed in request.seeds]
    lines = [line for line in found if line]
    circumstances = {
        json.dumps(part, sort_keys=True): part
        for line in lines
        if (part := {key: line.settings[key] for key in CIRCUMSTANCES if key in line.settings})
    }
    noise = Noise(
        deviation=pooled_deviation(list(row.values().values()) for row in rows.values()),
        within_seeds=deviation_within_seeds(row.values() for row in rows.values()),
    )
    rungs = [rows[rung] for rung in LADDER if rung in rows]
    near = [row for row in rows.values() if _is_near(row)]
    return ProxyPart(
        proxy=name,
        settings={key: value for key, value in lines[0].settings.items() if key not in CIRCUMSTANCES} if lines else {},
        circumstances=tuple(circumstances.values()),
        rows=tuple(rows.values()),
        wanted=len(found),
        failed=sum(line.value is None for line in lines),
        deviation=noise.deviation,
        one_set_of_weights=len(request.seeds) > 1
        and any("digest" in line.settings and not names_its_seed(line.settings) for line in lines),
        within_seeds=noise.within_seeds,
        all_rows=_rank_agreement(list(rows.values()), request.seeds),
        near_rows=_rank_agreement(near, request.seeds),
        ladder=tuple(Gap.between(above, below, noise=noise, seeds=request.seeds) for below, above in pairwise(rungs)),
        seconds=round(math.fsum(line.seconds for line in lines), 3),
    )


def _rank_agreement(rows: Sequence[ScoredNetwork], seeds: Sequence[int]) -> RankAgreement:
    scored = [row for row in rows if row.mean is not None]
    rankings: dict[str, Callable[[ScoredNetwork], float | None]] = {
        "params": lambda row: row.params,
        "macs": lambda row: row.macs,
        "published latency": lambda row: row.published_ms,
    }
    rankers = {name: _tau(scored, ranking) for name, ranking in rankings.items()}
    by_seed = {seed: _tau(rows, partial(_seed_value, seed=seed)) for seed in seeds}
    low, high = bootstrap_interval(*_against_top1(scored, lambda row: row.mean)) or (None, None)
    return RankAgreement(
        networks=len(scored),
        tau=_tau(scored, lambda row: row.mean),
        seeds={seed: tau for seed, tau in by_seed.items() if tau is not None},
        low=low,
        high=high,
        rankers={name: tau for name, tau in rankers.items() if tau is not None},
    )


def _is_near(row: ScoredNetwork) -> bool:
    return NEAR_MS[0] <= (row.published_ms or 0) <= NEAR_MS[1]


def _pair(one: ProxyPart, other: ProxyPart) -> ProxyPair:
    both = [(a, b) for a, b in zip(one.rows, other.rows, strict=True) if a.mean is not None and b.mean is not None]
    near = [(a, b) for a, b in both if _is_near(a)]

    def tau(rows: Sequence[tuple[ScoredNetwork, ScoredNetwork]]) -> float | None:
        return _defined(kendall_tau_b([a.mean or 0.0 for a, _ in rows], [b.mean or 0.0 for _, b in rows]))

    return ProxyPair(
        proxy=one.proxy,
        other=other.proxy,
        networks=len(both),
        tau=tau(both),
        near_networks=len(near),
        near_tau=tau(near),
    )


def _defined(tau: npt.NDArray[np.float64]) -> float | None:
    return None if math.isnan(tau) else float(tau)


def _seed_value(row: ScoredNetwork, *, seed: int) -> float | None:
    return row.values().get(seed)


def _against_top1(
    rows: Iterable[ScoredNetwork], ranking: Callable[[ScoredNetwork], float | None]
) -> tuple[list[float], list[float]]:
    """Values of a ranking, and the published accuracies of the same rows."""
    pairs = [(value, row.top1) for row in rows if (value := ranking(row)) is not None and row.top1 is not None]
    return [value for value, _ in pairs], [top1 for _, top1 in pairs]


def _tau(rows: Iterable[ScoredNetwork], ranking: Callable[[ScoredNetwork], float | None]) -> float | None:
    return _defined(kendall_tau_b(*_against_top1(rows, ranking)))
