"""Accuracies predicted by an accuracy table, beside those that are published; and its front beside the variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nas.accuracy import AccuracyTable
from nas.networks import Architecture
from nas.proxies.accuracy_table import PredictedAccuracy
from nas.search import look, plan_survey
from nas.validate.accuracy import AccuracyPart, FrontRow, PredictedRow
from nas.validate.agreement import NEAR_MS
from nas.validate.ranking import kendall_tau_b
from nas.validate.request import Request

__all__ = ["accuracy_part"]

_REACH = 1.02  # the survey goes a little beyond the slowest variant


def accuracy_part(
    request: Request,
    table: AccuracyTable,
    *,
    name: str,
    networks: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> AccuracyPart:
    """Predict each published row from the others, and survey the space up to the slowest variant.

    Args:
        request: what is asked.
        table: predicts the accuracies.
        name: by which the table was found.
        networks: how many networks to evaluate; 0 leaves the survey out.
        on_progress: called with the number of networks evaluated, and the number to evaluate.
    """
    names = [row.name for row in table.published.rows if row.family == table.origin.family]
    top1 = {row.name: row.top1 for row in table.published.rows}
    rows = [
        PredictedRow(
            name=name,
            top1=top1[name],
            predicted=round(one.top1, 3),
            low=round(one.low, 3),
            high=round(one.high, 3),
        )
        for name, one in table.left_out({name: name for name in names}).items()
    ]
    published_ms = {point.name: point.latency_ms for point in (*request.points, *request.further)}
    near = [row for row in rows if NEAR_MS[0] <= published_ms.get(row.name, 0.0) <= NEAR_MS[1]]
    front, looked_at = _front(request, table, name, networks, on_progress) if networks else ([], 0)
    return AccuracyPart(
        table=name,
        digest=table.digest(),
        errors={**table.errors, **{f"published part, {what}": own for what, own in table.published.errors.items()}},
        rows=tuple(rows),
        tau=_tau(rows),
        tau_near=_tau(near) if len(near) > 2 else None,
        looked_at=looked_at,
        front=tuple(front),
    )


def _tau(rows: list[PredictedRow]) -> float:
    return round(float(kendall_tau_b([row.predicted for row in rows], [row.top1 for row in rows])), 4)


def _front(
    request: Request,
    table: AccuracyTable,
    name: str,
    networks: int,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[FrontRow], int]:
    """The best network of a survey at the latency of each variant.

    The table has not seen the accuracies of the variants, and the evolution does not begin with them.
    """
    known: dict[str, Architecture] = request.space.references
    published = {point.architecture().id: point for point in request.compared}
    variants = {
        name: (latency_ms, float(published[network.id].top1 or 0.0))
        for name, network in known.items()
        if network.id in published and network in request.space and (latency_ms := request.latency_ms(network))
    }
    if not variants:
        return [], 0
    budget_ms = _REACH * max(latency_ms for latency_ms, _ in variants.values())
    hidden = {published[known[variant].id].name for variant in variants}
    proxy = PredictedAccuracy(table=table.without(hidden), name=name)
    plan = replace(
        plan_survey(request.space, request.table, proxy, budget_ms=budget_ms, networks=networks), references={}
    )
    found, looked_at = look(
        request.space, request.table, proxy, plan=plan, seed=request.seeds[0], on_progress=on_progress
    )
    ids = {network.id for network in known.values()}
    others = [one for one in found if one.network.id not in ids]
    rows = []
    for variant, (variant_ms, top1) in sorted(variants.items(), key=lambda item: item[1]):
        faster = [one for one in others if one.latency_ms <= variant_ms]
        if not faster:
            continue
        best = max(faster, key=lambda one: one.rank)
        score = proxy.score(best.network)
        rows.append(
            FrontRow(
                variant=variant,
                variant_ms=round(variant_ms, 4),
                top1=top1,
                id=best.network.id,
                latency_ms=round(best.latency_ms, 4),
                predicted=round(score.value, 3),
                low=round(float(score.details["low"]), 3),
                high=round(float(score.details["high"]), 3),
            )
        )
    return rows, looked_at
