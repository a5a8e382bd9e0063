"""From kept scores and searches to a validation: its latency part, its proxy parts and its recovery part."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations, pairwise

from nas.errors import MissingLatencyError
from nas.latency import Agreement, LatencyTable
from nas.latency.published import PublishedPoint
from nas.networks import Architecture, HeadLayer
from nas.proxies import CIRCUMSTANCES
from nas.search import TableUsed, versions
from nas.validate.agreement import ScoredNetwork, defined, rank_agreement
from nas.validate.ranking import deviation_within_seeds, kendall_tau_b, pooled_deviation
from nas.validate.records import LADDER, Gap, LatencyPart, LatencyRow, Noise, ProxyPair, ProxyPart, Validation
from nas.validate.recovery import Findings, recovery_part
from nas.validate.request import Request, unlike
from nas.validate.scores import KeptScores, names_its_seed, scored_network
from nas.validate.widths import FEWEST, BandNetwork, WidthPart, width_part

__all__ = ["assemble", "latency_part"]


def assemble(
    findings: Findings, latency: LatencyPart, band: Mapping[str, Architecture], *, seconds: float
) -> Validation:
    """The validation, as far as it has come.

    Args:
        findings: what the searches have found, with the request and the scores.
        latency: from `latency_part`.
        band: random networks to score, by id.
        seconds: time of this run of the command so far.
    """
    request = findings.request
    proxies = tuple(_proxy_part(request, findings.scores, name, band) for name in request.proxies)
    recovery = None
    unfinished = {
        f"proxy {part.proxy}": f"{there} of {part.wanted} scores are there"
        for part in proxies
        if (there := sum(len(row.scores) for row in part.rows)) < part.wanted
    }
    parts = [part.widths for part in proxies if part.widths]
    done, wanted = sum(len(part.networks) for part in parts), len(band) * len(parts)
    if done < wanted and len(band) >= FEWEST:
        unfinished["widths"] = f"{done} of {wanted} scores are there"
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


def _proxy_part(request: Request, scores: KeptScores, name: str, band: Mapping[str, Architecture]) -> ProxyPart:
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
    near = [row for row in rows.values() if row.is_near]
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
        all_rows=rank_agreement(list(rows.values()), request.seeds),
        near_rows=rank_agreement(near, request.seeds),
        ladder=tuple(Gap.between(above, below, noise=noise, seeds=request.seeds) for below, above in pairwise(rungs)),
        seconds=round(math.fsum(line.seconds for line in lines), 3),
        widths=_width_part(request, scores, name, band) if request.band_networks else None,
    )


def _width_part(request: Request, scores: KeptScores, name: str, band: Mapping[str, Architecture]) -> WidthPart:
    """The scores of the random networks under the first seed, as far as they are there."""
    seed = request.seeds[0]
    lines = [(network, line) for network in band.values() if (line := scores.find(name, seed, network.id))]
    networks = [
        BandNetwork(
            id=network.id,
            widths=tuple(stage.channels for stage in network.stages),
            latency_ms=request.table.latency_ms(network),
            value=line.value,
        )
        for network, line in lines
    ]
    seconds = math.fsum(line.seconds for _, line in lines)
    return width_part(networks, seed=seed, asked=request.band_networks, drawn=len(band), seconds=seconds)


def _pair(one: ProxyPart, other: ProxyPart) -> ProxyPair:
    both = [(a, b) for a, b in zip(one.rows, other.rows, strict=True) if a.mean is not None and b.mean is not None]
    near = [(a, b) for a, b in both if a.is_near]

    def tau(rows: Sequence[tuple[ScoredNetwork, ScoredNetwork]]) -> float | None:
        return defined(kendall_tau_b([a.mean or 0.0 for a, _ in rows], [b.mean or 0.0 for _, b in rows]))

    return ProxyPair(
        proxy=one.proxy,
        other=other.proxy,
        networks=len(both),
        tau=tau(both),
        near_networks=len(near),
        near_tau=tau(near),
    )
