"""All that the page of some runs shows, as plain records: what the templates write, and what the script draws."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from nas import catalog
from nas.accuracy import Accuracy, AccuracyTable
from nas.errors import InputError, MissingLatencyError
from nas.latency import LatencyTable
from nas.networks import Architecture, why_not_timm
from nas.report.course import agreements, choices, progress, rungs
from nas.report.figures import (
    COLOURS,
    Figure,
    agreement_figure,
    choices_figure,
    compared_figure,
    progress_figure,
)
from nas.report.front import axes_of, front_figures, score_words_of
from nas.report.literature import PublishedNetwork, published_networks
from nas.report.networks import NetworkColumns, column, table_of
from nas.report.predicted import as_classifier, is_predicted, unbeaten
from nas.report.trained import full_training
from nas.report.winners import quantity_words, score_words
from nas.report.words import settings, summary
from nas.search import Candidate, SearchResult
from nas.search.result import unit_of

__all__ = ["page_contents"]

_FORMATS = ("onnx", "coreml", "torch", "executorch", "timm")  # of the export commands on the page, others after them
_COUNTED = ("params", "macs", "memory")  # what the page adds up from layers


def page_contents(results: Sequence[SearchResult]) -> dict[str, Any]:
    """What the page of some runs shows.

    Returns:
        `title`, `runs`, `fronts`, `course` and `trust` for the templates, and `script` for the script: the figures by
        name, their colours, the networks as columns, what of them timm can build, and of each run what its networks
        share.
    """
    tables = [table_of(result) for result in results]
    columns, firsts = NetworkColumns(), []
    for result, table in zip(results, tables, strict=True):
        firsts.append(len(columns))
        for candidate, role in zip(result.candidates, result.roles, strict=True):
            columns.add(candidate.architecture, role=role, name=candidate.name, candidate=candidate, table=table)
    candidates = len(columns)
    published = list({one.name: one for result in results for one in published_networks(result)}.values())
    figures = {f"front-{n}": one for n, one in enumerate(front_figures(results, published, firsts), start=1)}
    fronts = list(figures)
    further = _link_published(list(figures.values()), published, columns, results[0], tables[0], candidates)
    architectures = [*(one.architecture for result in results for one in result.candidates), *further]
    course = [_course(result, figures, number) for number, result in enumerate(results, start=1)]
    trust = [
        _trust(result, table, published, figures, n)
        for n, (result, table) in enumerate(zip(results, tables, strict=True), start=1)
    ]
    shared = [
        {**_shared(result, table, first), "axis": axis}
        for result, table, first, axis in zip(results, tables, firsts, axes_of(results), strict=True)
    ]
    return {
        "title": " and ".join(result.path.resolve().name for result in results),
        "runs": [_header(result) for result in results],
        "fronts": [(name, figures[name]["title"]) for name in fronts],
        "course": course,
        "trust": trust,
        "script": {
            "figures": figures,
            "colours": COLOURS,
            "networks": columns.data(),
            "candidates": candidates,
            # The other formats take every network. A digit each: 10,000 networks in 10 kB.
            "fits": {"timm": "".join("0" if why_not_timm(one) else "1" for one in architectures)},
            "runs": shared,
            "published": {one.name: [one.latency_ms, one.top1, one.source] for one in published},
        },
    }


def _link_published(
    figures: Sequence[Figure],
    published: Sequence[PublishedNetwork],
    columns: NetworkColumns,
    result: SearchResult,
    table: LatencyTable | None,
    candidates: int,
) -> list[Architecture]:
    """Add the published networks of the family to the columns, and their numbers to their points in the figures.

    Returns:
        Those that were added, in the order of the columns.
    """
    added = []
    known = {one.id: number for number, one in enumerate(result.candidates) if number < candidates}
    numbers: dict[str, int | None] = {}
    for one in published:
        if one.architecture is None:
            numbers[one.name] = None
        elif one.architecture.id in known:
            numbers[one.name] = known[one.architecture.id]
        else:
            latency = None
            with suppress(MissingLatencyError):  # The table of the run knows only its own space.
                found = table.latency(one.architecture) if table else None
                latency = (found.latency_ms, found.low_ms, found.high_ms) if found else None
            added.append(one.architecture)
            numbers[one.name] = columns.add(
                one.architecture, role="published", name=one.name, table=table, latency=latency
            )
    for figure in figures:
        for trace in figure["data"]:
            if "hovertext" in trace:
                trace["customdata"] = [numbers.get(name) for name in trace["ids"]]
    return added


def _header(result: SearchResult) -> dict[str, Any]:
    """What a run is about: its verdict, what its numbers are, and its settings."""
    run, winner = result.run, result.winner
    classes = [one.name for one in run.contents.classes] if run.contents else []
    return {
        "name": result.path.resolve().name,
        "verdict": _verdict(result),
        "is_predicted": is_predicted(result),
        "score_note": _score_note(result),
        "latency_note": f"Predicted from the layers in {run.table.name}, not measured as a whole. Layers are "
        f"{run.table.origin}. How far to trust it: {run.table.trust or 'not known'}.",
        "numbers": _numbers(result, winner),
        "words": summary(result),
        "settings": settings(result) | ({"classes": ", ".join(classes)} if classes else {}),
    }


def _verdict(result: SearchResult) -> str:
    """The outcome in a sentence. A reference that is no worse in both numbers is said plainly."""
    winner, run = result.winner, result.run
    if winner is None:
        return f"No network inside {run.budget_ms:g} ms has a score yet."
    if best := unbeaten(result):
        return f"No network better than {best.label} was found: it is no slower than the best one, and scores no less."
    inside = f"inside {run.budget_ms:g} ms" if not run.whole_front else f"up to {run.budget_ms:.3g} ms"
    evaluated = int(winner.details.get("looked_at", 0))
    among = f"{evaluated:,} networks evaluated" if evaluated else f"{len(result.scored):,} scored networks"
    return f"{winner.label} is the best of {among} {inside}."


def _numbers(result: SearchResult, winner: Candidate | None) -> list[tuple[str, str]]:
    """The numbers at the top: those of the winner, or of the search where there is none."""
    if winner is None:
        return [("scored", f"{len(result.scored):,}")]
    unit = f"predicted ImageNet top-1{as_classifier(result)}" if is_predicted(result) else score_words_of(result)
    return [
        ("predicted latency", f"{winner.latency_ms:.3f} ms [{winner.low_ms:.3f}, {winner.high_ms:.3f}]"),
        (unit, score_words(winner).replace("+-", "±")),
        *([("trained in full", full)] if (full := full_training(result, winner)) else []),
        *((name, quantity_words(winner, name)) for name in result.run.objectives),
        ("on the front", f"{len(result.front):,} of {len(result.scored):,} networks"),
    ]


def _score_note(result: SearchResult) -> str:
    """What a score is, so that nobody takes it for something else."""
    proxy = result.run.proxy
    if is_predicted(result):
        return (
            f"Predicted ImageNet-1k top-1 accuracy of a network{as_classifier(result)} after full training, from an "
            "accuracy table. Nothing was trained or measured. Brackets and bars are 90 % intervals. Errors: "
            f"{proxy.get('trust', 'not known')}."
        )
    note = f"{score_words_of(result)} on {proxy.get('data', 'no data')}. It orders networks. "
    return f"{note}It is not an ImageNet accuracy." + (
        " Bars are one standard error of the held-out images; the spread over seeds comes on top."
        if any("val_images" in one.details for one in result.scored)
        else ""
    )


def _shared(result: SearchResult, table: LatencyTable | None, first: int) -> dict[str, Any]:
    """What the networks of a run share, and the values that only some runs have."""
    run, where = result.run, shlex.quote(str(result.path))
    formats = catalog.plugins("export")
    numbers = {one.id: first + number for number, one in enumerate(result.candidates)}
    winners = {numbers[one.id]: f" --budget-ms {budget_ms:g}" for budget_ms, one in result.winners.items() if one}
    winner = None if result.winner is None else numbers[result.winner.id]
    if winner is not None:
        winners[winner] = ""
    return {
        "name": result.path.resolve().name,
        "first": first,
        "count": len(result.candidates),
        "winner": winner,
        "unit": score_words_of(result),
        "percent": is_predicted(result),
        "interval": "90 % interval" if is_predicted(result) else "± one standard error",
        "table": run.table.name,
        "source": run.table.origin.split(":")[0],
        "why_no_layers": "" if table else f"the table {run.table.name} is not here, or has changed since this run",
        "further": _further(result),
        "formats": sorted(formats, key=lambda name: (*_FORMATS, name).index(name)),
        "winners": {number: f"{where}{budget}" for number, budget in winners.items()},
        "quoted_table": shlex.quote(run.table.name),
    }


def _further(result: SearchResult) -> list[dict[str, Any]]:
    """Values of other proxies and objectives, for those networks that have them."""
    found: dict[str, list[float | None]] = {
        name: [result.screened.get(one.id, {}).get(name) for one in result.candidates] for name in result.run.screens
    }
    if result.settled:
        found[result.settles] = [result.settled_values.get(one.id) for one in result.candidates]
    for detail, label in (("accuracy", "held-out accuracy"), ("miou", "held-out mIoU")):
        if any(detail in one.details for one in result.candidates):
            found[label] = [float(one.details[detail]) if detail in one.details else None for one in result.candidates]
    for name in result.run.objectives:
        if name not in _COUNTED:
            label = f"{name}, {unit_of(name)}" if unit_of(name) else name
            found[label] = [one.quantities.get(name) for one in result.candidates]
    return [{"name": name, "values": column(values, 4)} for name, values in found.items()]


def _course(result: SearchResult, figures: dict[str, Figure], number: int) -> dict[str, Any]:
    """How a search went. Adds its figures."""
    own: list[tuple[str, str, str]] = []

    def add(kind: str, figure: Figure, note: str) -> None:
        name = f"{kind}-{number}"
        figures[name] = figure
        own.append((name, figure["title"], note))

    found = progress(result)
    if found:
        runs = [(result.path.name, found)]
        add("best", progress_figure(runs, "best", "Best score"), "Best score inside the largest budget so far.")
        note = "Score times ms that the front covers, up to the largest budget and above score 0."
        add("hypervolume", progress_figure(runs, "hypervolume", "Hypervolume"), note)
    chosen = choices(result.scored)
    if chosen:
        add(
            "choices",
            choices_figure(chosen),
            f"Spearman's rank correlation over {len(result.scored):,} scored networks: which choices go with a high "
            "score, and which with a high latency. Choices go together, so this shows no causes.",
        )
    for count, one in enumerate(agreements(result), start=1):
        note = f"Kendall's tau {one.tau:.2f} over {len(one.names):,} networks that have both."
        add(f"agreement-{count}", agreement_figure(one), note)
    looked_at = rungs(result)
    most = max((one.networks for one in looked_at), default=1)
    return {
        "name": result.path.resolve().name,
        "note": "" if found else "A survey keeps its front, and not the order in which it found the networks.",
        "rungs": [(one.proxy, one.networks, _time(one.seconds), one.networks / max(most, 1)) for one in looked_at],
        "failed": sum(one.failure is not None for one in result.candidates),
        "figures": own,
    }


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:,.1f} s"  # noqa: RUF001 - a dash


def _trust(
    result: SearchResult,
    table: LatencyTable | None,
    published: Sequence[PublishedNetwork],
    figures: dict[str, Figure],
    number: int,
) -> dict[str, Any]:
    """How far latency and score can be trusted. Adds its figures."""
    run = result.run
    latency = [run.table.trust or "The table was not compared with whole networks."]
    score = [_score_note(result)]
    own: list[tuple[str, str]] = []
    rows, truth = _latency_rows(table, published)
    if rows:
        figures[f"latency-{number}"] = compared_figure(
            "Latency of whole networks", f"{truth} latency, ms", "predicted latency, ms", rows, 0.05
        )
        own.append((f"latency-{number}", f"{len(rows)} networks with a {truth} latency."))
    if table:
        latency.append(f"Intervals of latencies: {table.interval_meaning}.")
    predictor = _accuracy_table(str(run.proxy.get("accuracy_table")), str(run.proxy.get("digest")))
    if is_predicted(result) and not predictor:
        score.append("The accuracy table is not here, or has changed since this run, so its errors are not drawn.")
    if is_predicted(result) and predictor:
        accuracy, without = predictor
        score += [f"{what}: {errors.describe()}." for what, errors in accuracy.errors.items()]
        known = {row.name: row.top1 for row in accuracy.published.rows if row.family == accuracy.origin.family}
        left_out = [(name, known[name], found.top1) for name, found in without.items()]
        figures[f"accuracy-{number}"] = compared_figure(
            "Accuracy of published networks", "published top-1, %", "predicted without this network, %", left_out
        )
        own.append(
            (f"accuracy-{number}", f"{len(left_out)} networks of the family, each predicted from all the others.")
        )
    return {"name": result.path.resolve().name, "latency": latency, "score": score, "figures": own}


def _latency_rows(
    table: LatencyTable | None, published: Sequence[PublishedNetwork]
) -> tuple[list[tuple[str, float, float]], str]:
    """Name, true and predicted latency of whole networks, and where the true one comes from."""
    if table is None:
        return [], ""
    if table.check:
        return [
            (row.name, row.measured_ms, row.predicted_ms) for row in table.check.rows if row.role == "held-out"
        ], "measured"
    rows = []
    for one in published:
        if one.architecture is not None:
            with suppress(MissingLatencyError):  # The table of the run knows only its own space.
                rows.append((one.name, one.latency_ms, table.latency_ms(one.architecture)))
    return [row for row in rows if math.isfinite(row[2])], "published"


@lru_cache(maxsize=4)
def _accuracy_table(name: str, digest: str) -> tuple[AccuracyTable, dict[str, Accuracy]] | None:
    """An accuracy table and its own rows, each predicted without it; None if it is not here, or has changed since."""
    try:
        table, _ = AccuracyTable.find(name)
    except InputError:
        return None
    if table.digest() != digest:
        return None
    own = [row.name for row in table.published.rows if row.family == table.origin.family]
    return table, table.left_out({name: name for name in own})
