"""SearchResult -> Pareto plot, page and tables. This is the only module that imports Plotly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.entries import PublishedTime
from nas.errors import InputError, NasError
from nas.files import write_beside
from nas.latency import LatencyTable
from nas.operations import count
from nas.pareto import hypervolume
from nas.result import Candidate, SearchResult

__all__ = ["summary", "write_plot", "write_report"]

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
_PUBLISHED_COLOUR = "#7f7f7f"
_SUFFIXES = (".html", ".png", ".svg")


def summary(result: SearchResult) -> list[str]:
    """The outcome of a run in a few lines: the winner, the references beside it, and what the numbers are."""
    winner = result.winner
    if winner is None:
        return [f"{result.path}: no network inside {result.run.budget_ms:g} ms is scored yet"]
    assert winner.score is not None
    counts = count(winner.architecture)
    lines = [
        f"winner {winner.id}: {winner.latency_ms:.3f} ms [{winner.low_ms:.3f}, {winner.high_ms:.3f}] of "
        f"{result.run.budget_ms:g} ms, score {_score(winner)}",
        f"  {winner.architecture.summary}; {counts.params / 1e6:.2f} M parameters, {counts.macs / 1e9:.2f} GMACs",
    ]
    for reference in sorted(result.references, key=lambda c: c.latency_ms):
        assert reference.score is not None
        gain, noise = winner.score - reference.score, _noise(winner, reference)
        verdict = "equal" if not gain else "better" if gain > 0 else "worse"
        if noise and abs(gain) < 2 * noise:
            verdict = "within noise"
        lines.append(
            f"  beside {reference.label} ({reference.latency_ms:.3f} ms, score {_score(reference)}): "
            f"{gain:+.4f}, {verdict}"
        )
    failed = sum(1 for c in result.candidates if c.failure)
    numbers = f"{len(result.scored)} networks scored, {failed} failed, {len(result.front)} on the front"
    lines.append(f"{numbers}; files in {result.path}")
    lines.append(f"the winner is the best of {len(result.scored)} noisy scores, so it looks better than it is")
    lines.append(
        f"latency: {result.run.table.origin} (predicted; {result.run.table.trust or 'see the table for its errors'}); "
        f"score: {result.run.proxy['name']} on {result.run.proxy.get('data', 'no data')}, +- one standard error of the "
        "held-out images; one training run each, so the spread over seeds comes on top"
    )
    return lines


def write_report(result: SearchResult) -> None:
    """Write pareto.html and report.md into the results folder."""
    write_plot([result], result.path / "pareto.html")
    write_beside(result.path / "report.md", _markdown(result).encode())


def write_plot(results: Sequence[SearchResult], out: Path) -> None:
    """Write the candidates and fronts of some runs as a self-contained page or a still picture.

    Args:
        results: the runs, one colour each.
        out: an .html, .png or .svg file.
    Raises:
        InputError: another suffix.
        NasError: a still picture without a browser to draw it.
    """
    if out.suffix not in _SUFFIXES:
        raise InputError(f"{out}: a plot is written as {', '.join(_SUFFIXES)}")
    figure = _figure(results)
    if out.suffix == ".html":
        write_beside(out, figure.to_html(include_plotlyjs=True, full_html=True).encode())
        return
    try:
        picture = figure.to_image(format=out.suffix[1:], width=1000, height=640, scale=2)
    except Exception as error:  # kaleido and its browser raise many kinds.
        raise NasError(
            f"{out}: a still picture needs a Chrome or Chromium browser ({type(error).__name__}); "
            "install one, or write an .html file"
        ) from error
    write_beside(out, picture)


def _figure(results: Sequence[SearchResult]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, result in enumerate(results):
        colour = _COLOURS[number % len(_COLOURS)]
        name = f"{result.path.name}: " if len(results) > 1 else ""
        style = {"color": colour, "size": 7, "opacity": 0.45}
        figure.add_trace(_points(go, result.scored, f"{name}searched", mode="markers", marker=style))
        line = {"color": colour, "width": 2, "shape": "hv"}
        marker = {"color": colour, "size": 9}
        figure.add_trace(
            _points(go, result.front, f"{name}Pareto front", mode="lines+markers", line=line, marker=marker)
        )
        star = {"color": colour, "size": 12, "symbol": "star", "line": {"color": "black", "width": 1}}
        figure.add_trace(
            _points(go, result.references, f"{name}references", mode="markers+text", marker=star, labels=True)
        )
        if result.winner:
            ring = {"color": "rgba(0,0,0,0)", "size": 18, "line": {"color": colour, "width": 2}}
            figure.add_trace(_points(go, [result.winner], f"{name}winner", mode="markers", marker=ring))
        figure.add_vline(
            x=result.run.budget_ms,
            line={"color": colour, "dash": "dot"},
            annotation_text=f"{result.run.budget_ms:g} ms",
        )
    published = _published(results)
    if published:
        figure.add_trace(
            go.Scatter(
                x=[point.latency_ms for point in published],
                y=[point.top1 for point in published],
                name="published latency and top-1 (right axis)",
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
                yaxis="y2",
            )
        )
    origins = sorted({f"{result.run.table.origin}" for result in results})
    scores = sorted({f"{result.run.proxy['name']} on {result.run.proxy.get('data', 'no data')}" for result in results})
    figure.update_layout(
        template="plotly_white",
        title={"text": f"Latency and score<br><sup>latency: {'; '.join(origins)}<br>score: {'; '.join(scores)}</sup>"},
        margin={"t": 110},
        xaxis={"title": {"text": "predicted latency, ms"}},
        yaxis={"title": {"text": "proxy score (held-out accuracy)"}},
        yaxis2={
            "title": {"text": "published ImageNet top-1, %"},
            "overlaying": "y",
            "tickformat": ".1f",
            "side": "right",
            "showgrid": False,
        },
        legend={"orientation": "h", "y": -0.15},
    )
    return figure


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
    lines = [f"<b>{candidate.label}</b>", f"{candidate.latency_ms:.3f} ms, score {_score(candidate)}"]
    lines.append(candidate.architecture.summary)
    for number, stage in enumerate(stages, start=1):
        blocks = {}
        for block in stage["blocks"]:
            blocks[block["type"]] = ", ".join(f"{key} {value}" for key, value in block.items() if key != "type")
        lines += [f"stage {number}: {kind}: {text}" for kind, text in blocks.items()]
    return "<br>".join(lines)


def _published(results: Sequence[SearchResult]) -> list[PublishedTime]:
    """Published latency and top-1 of the references, from the tables the runs used where they are still at hand."""
    points: dict[str, PublishedTime] = {}
    for result in results:
        try:
            table, _ = LatencyTable.find(result.run.table.name)
        except InputError:
            continue  # A table of the user's own that has moved: the plot does without.
        points |= {
            point.name: point
            for point in table.published.values()
            if point.top1 is not None and point.name in _VARIANTS
        }
    return sorted(points.values(), key=lambda point: point.latency_ms)


# One training recipe, hence comparable; the ladder's steps and L2 (distilled, 450 epochs) are not.
_VARIANTS = ("iformer_t", "iformer_s", "iformer_m", "iformer_l")


def _markdown(result: SearchResult) -> str:
    run = result.run
    rows = [_row(c) for c in sorted([*result.front, *result.references], key=lambda c: c.latency_ms)]
    failures = [f"- {c.label}: {c.failure}" for c in result.candidates if c.failure]
    facts = {
        "command": f"`{run.command}`",
        "started": run.started,
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        "space": f"{run.space.name}, {run.space.networks:.2e} networks",
        "table": f"{run.table.name} ({run.table.origin}), digest {run.table.digest}",
        "proxy": ", ".join(f"{key} {value}" for key, value in run.proxy.items()),
        "seed": run.seed,
        "hypervolume": f"{_hypervolume(result):.4f} (score times ms, up to the budget and above score 0)",
    }
    return "\n".join(
        [
            f"# {result.path.name}",
            "",
            *summary(result),
            "",
            "The front and the references, fastest first. Latency is predicted by the table, not measured; the score "
            "is the proxy's held-out accuracy +- one standard error.",
            "",
            "| network | ms | interval | score | M params | GMACs | blocks |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            *(["Failed candidates:", "", *failures, ""] if failures else []),
            "| setting | value |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in facts.items()),
            "",
        ]
    )


def _hypervolume(result: SearchResult) -> float:
    points = [(c.latency_ms, c.score) for c in result.scored if c.score is not None]
    return hypervolume(points, latency_limit=result.run.budget_ms, score_floor=0.0)


def _row(candidate: Candidate) -> str:
    counts = count(candidate.architecture)
    cells = (
        candidate.label,
        f"{candidate.latency_ms:.3f}",
        f"{candidate.low_ms:.3f} to {candidate.high_ms:.3f}",
        _score(candidate),
        f"{counts.params / 1e6:.2f}",
        f"{counts.macs / 1e9:.2f}",
        candidate.architecture.summary.replace("|", "/"),
    )
    return f"| {' | '.join(cells)} |"


def _score(candidate: Candidate) -> str:
    error = _standard_error(candidate)
    return f"{candidate.score:.4f}" + (f" +- {error:.4f}" if error else "")


def _standard_error(candidate: Candidate) -> float:
    """Binomial standard error of an accuracy over the held-out images; 0 where the proxy tells no number of them."""
    images = float(candidate.details.get("val_images", 0))
    assert candidate.score is not None
    return math.sqrt(candidate.score * (1 - candidate.score) / images) if images else 0.0


def _noise(*candidates: Candidate) -> float:
    return math.hypot(*map(_standard_error, candidates))
