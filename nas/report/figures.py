"""Figures: the Pareto plot of searches, and the figures of a validation. No other file imports Plotly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.errors import InputError, NasError
from nas.files import write_beside
from nas.latency import LatencyTable, PublishedTime
from nas.report.predicted import is_predicted
from nas.report.winners import quantity_words, score_words
from nas.report.words import score_meaning
from nas.search import Candidate, SearchResult, score_of
from nas.validate.records import LADDER, ProxyPart, RecoveryPart

__all__ = ["fronts_figure", "score_figure", "write_plot"]

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
_PUBLISHED_COLOUR = "#7f7f7f"
_TEMPLATE = "plotly_white"
_LATENCY = "predicted latency, ms"
_TOP1 = "published ImageNet top-1, %"
_LEGEND = {"orientation": "h", "y": -0.15}  # One row, below the plot.
_SUFFIXES = (".html", ".png", ".svg")


def write_plot(results: Sequence[SearchResult], out: Path) -> None:
    """Plot the candidates and fronts of some runs as a self-contained page or a still picture.

    Args:
        results: the runs. Each has its own colour.
        out: an .html, .png or .svg file.
    Raises:
        InputError: the suffix is another one.
        NasError: a still picture needs a browser, and there is none.
    """
    if out.suffix not in _SUFFIXES:
        raise InputError(f"{out}: a plot is written as {', '.join(_SUFFIXES)}")
    figure = _figure(results)
    if out.suffix == ".html":
        write_beside(out, figure.to_html(include_plotlyjs=True, full_html=True).encode())
        return
    try:
        picture = figure.to_image(format=out.suffix[1:], width=1000, height=640, scale=2)
    except Exception as error:  # kaleido and its browser raise many kinds of errors.
        raise NasError(
            f"{out}: a still picture needs a Chrome or Chromium browser ({type(error).__name__}); "
            "install one, or write an .html file"
        ) from error
    write_beside(out, picture)


def _figure(results: Sequence[SearchResult]) -> Any:
    import plotly.graph_objects as go

    if len({is_predicted(result) for result in results}) > 1:
        raise InputError("predicted accuracies and scores on images have no axis in common: plot these runs apart")
    figure = go.Figure()
    # Predicted and published accuracies share a unit, so they share an axis.
    foretold = all(is_predicted(result) for result in results)
    for number, result in enumerate(results):
        colour = _COLOURS[number % len(_COLOURS)]
        name = f"{result.path.name}: " if len(results) > 1 else ""
        style = {"color": colour, "size": 7, "opacity": 0.45}
        figure.add_trace(_points(go, result.scored, f"{name}searched", mode="markers", marker=style))
        line = {"color": colour, "width": 2, "shape": "hv"}
        marker = {"color": colour, "size": 9}
        figure.add_trace(
            _points(
                go,
                result.front_by_latency,
                f"{name}Pareto front" + (", 90 % intervals" if foretold else ""),
                mode="lines+markers",
                line=line,
                marker=marker,
                error_y=_intervals(result.front_by_latency) if foretold else None,
            )
        )
        if result.run.objectives:
            by_latency = {one.id for one in result.front_by_latency}
            others = [one for one in result.front if one.id not in by_latency]
            what = f"{name}better in {' or '.join(result.run.objectives)}"
            figure.add_trace(_points(go, others, what, mode="markers", marker={**marker, "symbol": "circle-open"}))
        star = {"color": colour, "size": 12, "symbol": "star", "line": {"color": "black", "width": 1}}
        figure.add_trace(
            _points(go, result.references, f"{name}references", mode="markers+text", marker=star, labels=True)
        )
        winners = [winner for winner in result.winners.values() if winner is not None]
        if winners:
            ring = {"color": "rgba(0,0,0,0)", "size": 18, "line": {"color": colour, "width": 2}}
            title = f"{name}winner" + ("s" if len(result.winners) > 1 else "")
            figure.add_trace(_points(go, winners, title, mode="markers", marker=ring))
        for budget_ms in result.run.budgets:
            figure.add_vline(x=budget_ms, line={"color": colour, "dash": "dot"}, annotation_text=f"{budget_ms:g} ms")
    published = _published(results)
    if published:
        figure.add_trace(
            go.Scatter(
                x=[point.latency_ms for point in published],
                y=[point.top1 for point in published],
                name="published latency and top-1" + ("" if foretold else " (right axis)"),
                cliponaxis=False,
                mode="lines+markers+text",
                text=[point.name for point in published],
                textposition="bottom center",
                hovertext=[
                    f"{point.name}: {point.latency_ms:.2f} ms, {point.top1} % ({point.source})" for point in published
                ],
                hoverinfo="text",
                marker={"color": _PUBLISHED_COLOUR, "symbol": "diamond-open", "size": 9},
                line={"color": _PUBLISHED_COLOUR, "dash": "dash", "width": 1},
                yaxis="y" if foretold else "y2",
            )
        )
    origins = sorted({f"{result.run.table.origin}" for result in results})
    scores = sorted({f"{result.run.proxy['name']} on {result.run.proxy.get('data', 'no data')}" for result in results})
    figure.update_layout(
        template=_TEMPLATE,
        title={"text": f"Latency and score<br><sup>latency: {'; '.join(origins)}<br>score: {'; '.join(scores)}</sup>"},
        margin={"t": 110},
        xaxis=_axis(_LATENCY),
        yaxis=_axis("ImageNet top-1, %" if foretold else f"proxy score{score_meaning(*results)}"),
        yaxis2=None if foretold else _axis(_TOP1, overlaying="y", tickformat=".1f", side="right", showgrid=False),
        legend=_LEGEND,
    )
    return figure


def _intervals(candidates: Sequence[Candidate]) -> dict[str, object]:
    """Error bars from the ends of the intervals; `_points` orders the candidates in the same way."""
    ordered = sorted(candidates, key=lambda c: c.latency_ms)
    scores = [score_of(c) for c in ordered]
    above = [float(c.details["high"]) - score for c, score in zip(ordered, scores, strict=True)]
    below = [score - float(c.details["low"]) for c, score in zip(ordered, scores, strict=True)]
    return {"type": "data", "array": above, "arrayminus": below, "thickness": 0.7, "width": 2}


def _axis(title: str, **more: object) -> dict[str, object]:
    return {"title": {"text": title}, **more}


def _points(go: Any, candidates: Sequence[Candidate], name: str, *, labels: bool = False, **style: Any) -> Any:
    ordered = sorted(candidates, key=lambda c: c.latency_ms)
    if labels:
        style |= {"text": [c.label for c in ordered], "textposition": "top center"}
    return go.Scatter(
        x=[c.latency_ms for c in ordered],
        y=[c.score for c in ordered],
        name=name,
        hovertext=[_hover(c) for c in ordered],
        hoverinfo="text",
        **style,
    )


def _hover(candidate: Candidate) -> str:
    stages = candidate.architecture.to_dict()["stages"]
    lines = [f"<b>{candidate.label}</b>", f"{candidate.latency_ms:.3f} ms, score {score_words(candidate)}"]
    lines += [f"{name} {quantity_words(candidate, name)}" for name in candidate.quantities]
    lines.append(candidate.architecture.summary)
    for number, stage in enumerate(stages, start=1):
        blocks = {}
        for block in stage["blocks"]:
            blocks[block["type"]] = ", ".join(f"{key} {value}" for key, value in block.items() if key != "type")
        lines += [f"stage {number}: {kind}: {text}" for kind, text in blocks.items()]
    return "<br>".join(lines)


def _published(results: Sequence[SearchResult]) -> list[PublishedTime]:
    """Published latency and top-1 of the references, from the tables of the runs, if these can still be found."""
    points: dict[str, PublishedTime] = {}
    for result in results:
        try:
            table, _ = LatencyTable.find(result.run.table.name)
        except InputError:
            continue  # The user has moved the table: the plot has no published points of it.
        points |= {
            point.name: point for point in table.published.values() if point.top1 is not None and point.name in LADDER
        }
    return sorted(points.values(), key=lambda point: point.latency_ms)


def score_figure(part: ProxyPart) -> Any:
    """Score against published accuracy, with error bars of one standard deviation over seeds."""
    import plotly.graph_objects as go

    rows = [row for row in part.rows if row.mean is not None]
    figure = go.Figure(
        go.Scatter(
            x=[row.top1 for row in rows],
            y=[row.mean for row in rows],
            error_y={"type": "data", "array": [row.deviation or 0.0 for row in rows]},
            text=[row.name for row in rows],
            textposition="top center",
            mode="markers+text",
            marker={"color": _COLOURS[0], "size": 9},
        )
    )
    figure.update_layout(
        template=_TEMPLATE,
        xaxis=_axis(_TOP1),
        yaxis=_axis(f"{part.proxy}, mean over seeds"),
    )
    return figure


def fronts_figure(part: RecoveryPart) -> Any:
    """The front of the searches, and the compared networks."""
    import plotly.graph_objects as go

    figure = go.Figure(
        go.Scatter(
            x=[latency_ms for _, latency_ms, _ in part.front],
            y=[score for _, _, score in part.front],
            text=[name for name, _, _ in part.front],
            name=f"found front, seed {part.search_seed} which chose it",
            mode="lines+markers",
            line={"color": _COLOURS[0], "shape": "hv", "dash": "dot"},
        )
    )
    variants = {variant.variant for variant in part.variants}
    for number, (name, is_variant) in enumerate([("found, compared", False), ("published", True)]):
        chosen = [n for n in part.networks if (n.name in variants) == is_variant and n.values(part.seeds)]
        means = [sum(values) / len(values) for n in chosen if (values := n.values(part.seeds).values())]
        figure.add_trace(
            go.Scatter(
                x=[n.latency_ms for n in chosen],
                y=means,
                error_y={"type": "data", "array": [part.deviation or 0.0 for _ in chosen]},
                text=[n.name for n in chosen],
                textposition="top center",
                name=f"{name}, mean of seeds {', '.join(map(str, part.seeds))}",
                mode="markers+text",
                marker={"color": _COLOURS[number + 1], "size": 10},
            )
        )
    figure.update_layout(
        template=_TEMPLATE,
        xaxis=_axis(_LATENCY),
        yaxis=_axis(part.proxy),
        legend=_LEGEND,
    )
    return figure
