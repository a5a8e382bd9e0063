"""The plot of a page: latency and score of candidates, fronts, references, published networks and budgets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from nas.report.figures import CLEAR, GREEN, GREY, INK, LATENCY, MANY, RUNS, TOP1, VERMILLION, Figure, layout_of, plain
from nas.report.literature import LITERATURE, PublishedNetwork
from nas.report.networks import column, score_interval
from nas.report.predicted import as_classifier, is_predicted
from nas.report.words import score_meaning
from nas.search import Candidate, SearchResult, score_of

__all__ = ["axes_of", "front_figures", "score_words_of"]

_MOST_BARS = 40  # networks of a front that have error bars; more hide each other


def front_figures(
    results: Sequence[SearchResult], published: Sequence[PublishedNetwork], firsts: Sequence[int] | None = None
) -> list[Figure]:
    """Latency and score of the candidates of runs: one figure for each unit of a score.

    Predicted and published ImageNet accuracies share a unit, and so an axis. Other scores have figures of their own,
    beside that of the published accuracies.

    Args:
        results: the runs, each with its own colour and symbol.
        published: networks from the literature.
        firsts: number of the first candidate of each run on the page.
    """
    axes = axes_of(results)
    units = [score_words_of(results[axes.index(axis)]) for axis in sorted(set(axes))]
    figures = []
    for axis, unit in enumerate(units):
        figure: Figure = {"title": f"Latency and {unit}", "data": [], "layout": layout_of(LATENCY, unit)}
        for number, result in enumerate(results):
            if axes[number] == axis:
                name = f"{result.path.name}: " if len(results) > 1 else ""
                first = firsts[number] if firsts else 0
                figure["data"] += _run_traces(result, name, *RUNS[number % len(RUNS)], first=first)
                _add_budgets(figure, result)
        figures.append(figure)
    if published:
        if TOP1 not in units:
            title = "Published latency and accuracy, in a unit of their own"
            figures.append({"title": title, "data": [], "layout": layout_of(LATENCY, f"published {TOP1}")})
        home = figures[[*units, TOP1].index(TOP1)]
        references = {one.label for result in results for one in result.references}
        home["data"] += _published_traces(published, is_alone=TOP1 not in units, labelled=references)
    for figure in figures:
        _look_at(figure)
    return figures


def _look_at(figure: Figure) -> None:
    """Begin with the candidates, references and variants in view: others published are far slower."""
    runs = [trace for trace in figure["data"] if "ids" not in trace]
    shown = runs or [trace for trace in figure["data"] if trace["visible"] is True][:1]
    for axis in "xy":
        bars = [trace.get(f"error_{axis}", {}) for trace in shown]
        ends = [
            value + sign * (error or 0)
            for trace, bar in zip(shown, bars, strict=True)
            for sign, side in ((1, "array"), (-1, "arrayminus"))
            for value, error in zip(trace[axis], bar.get(side, [0] * len(trace[axis])), strict=True)
        ]
        if axis == "x":
            ends += [shape["x0"] for shape in figure["layout"]["shapes"]]
        if ends:
            space = 0.05 * (max(ends) - min(ends)) or 0.05 * abs(ends[0]) or 1.0
            figure["layout"][f"{axis}axis"]["range"] = [min(ends) - space, max(ends) + 3 * space]


def axes_of(results: Sequence[SearchResult]) -> list[int]:
    """Number of the axis of each run. Scores share one if they are of one kind, by one proxy, on the same images."""
    asked = [result.run.proxy for result in results]
    kinds = [
        (score_words_of(result), *(() if is_predicted(result) else (own.get("data"), own.get("fingerprint"))))
        for result, own in zip(results, asked, strict=True)
    ]
    return [list(dict.fromkeys(kinds)).index(kind) for kind in kinds]


def score_words_of(result: SearchResult) -> str:
    """What the scores of a run are: the title of their axis."""
    if is_predicted(result):
        return f"ImageNet top-1{words}, %" if (words := as_classifier(result)) else TOP1
    return f"{result.run.proxy['name']} score{score_meaning(result)}"


def _run_traces(result: SearchResult, name: str, colour: str, symbol: str, *, first: int) -> list[dict[str, Any]]:
    """The candidates of a run by role; `customdata` has their numbers on the page."""
    numbered = [
        (first + number, one, role)
        for number, (one, role) in enumerate(zip(result.candidates, result.roles, strict=True))
        if one.score is not None
    ]
    dominated = [entry for entry in numbered if entry[2] in ("dominated", "over budget")]
    by_latency = {one.id for one in result.front_by_latency}
    front = [entry for entry in numbered if entry[2] != "reference" and entry[1].id in by_latency]
    others = [entry for entry in numbered if entry[2] in ("front", "winner") and entry[1].id not in by_latency]
    marker = {"color": colour, "symbol": symbol}
    has_bars = len(front) <= _MOST_BARS
    step = 1 if has_bars else -(-len(front) // _MOST_BARS)
    traces = [
        _points(
            dominated,
            f"{name}dominated",
            marker={**marker, "size": 7, "opacity": 0.25 if len(dominated) <= MANY else 0.1},
        ),
        _points(
            *(front, f"{name}Pareto front"),
            mode="lines+markers",
            line={"color": colour, "width": 1.5, "shape": "hv"},
            marker={**marker, "size": 6},
            bars=step,
        ),
        _points(
            others,
            f"{name}better in {' or '.join(result.run.objectives)}",
            marker={**marker, "symbol": f"{symbol}-open", "size": 7},
        ),
        _points(
            [entry for entry in numbered if entry[2] == "reference"],
            f"{name}references, {'predicted' if is_predicted(result) else 'scored'} here",
            mode="markers+text",
            marker={"color": INK, "symbol": "star", "size": 11},
            bars=1,
            labels=True,
        ),
        _points(
            [entry for entry in numbered if entry[2] == "winner"],
            f"{name}winner{'s' if len(result.winners) > 1 else ''}",
            marker={"color": CLEAR, "size": 17, "symbol": "circle", "line": {"color": VERMILLION, "width": 2.5}},
        ),
    ]
    return [trace for trace in traces if trace["x"]]


def _points(
    entries: Iterable[tuple[int, Candidate, str]], name: str, *, bars: int = 0, labels: bool = False, **style: Any
) -> dict[str, Any]:
    """A trace; every `bars`-th point, counted from the slowest, has error bars."""
    ordered = sorted(entries, key=lambda entry: entry[1].latency_ms)
    candidates = [one for _, one, _ in ordered]
    trace = {
        "type": "scattergl" if len(ordered) > MANY else "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": column((one.latency_ms for one in candidates), 5),
        "y": column((score_of(one) for one in candidates), 5),
        "customdata": [number for number, _, _ in ordered],
        "text": [plain(one.label) for one in candidates] if labels else None,
        "textposition": "bottom right" if labels else None,
        **style,
    }
    if bars:
        shown = [(len(candidates) - 1 - place) % bars == 0 for place in range(len(candidates))]
        trace["error_x"] = _bars(
            [
                (one.low_ms, one.latency_ms, one.high_ms) if show else None
                for one, show in zip(candidates, shown, strict=True)
            ]
        )
        intervals = [(low, score_of(one), high) for one in candidates for low, high in (score_interval(one),)]
        if all(low is not None for low, _, _ in intervals):
            trace["error_y"] = _bars([own if show else None for own, show in zip(intervals, shown, strict=True)])
    return {key: value for key, value in trace.items() if value is not None}


def _bars(intervals: Sequence[tuple[Any, float, Any] | None]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": column((one[2] - one[1] if one else None for one in intervals), 3),
        "arrayminus": column((one[1] - one[0] if one else None for one in intervals), 3),
        "thickness": 0.8,
        "width": 0,
    }


def _published_traces(
    published: Sequence[PublishedNetwork], *, is_alone: bool, labelled: Collection[str]
) -> list[dict[str, Any]]:
    """Published networks; those that are `labelled` as references nearby have no second label there."""
    groups = {
        f"published: {LITERATURE}": [one for one in published if one.is_variant],
        "published: all other rows": [one for one in published if not one.is_variant],
    }
    return [
        {
            "type": "scatter",
            "mode": "lines+markers+text" if name.endswith(LITERATURE) else "markers",
            "name": name,
            "x": [one.latency_ms for one in group],
            "y": [one.top1 for one in group],
            "ids": [one.name for one in group],
            "text": ["" if one.name in labelled and not is_alone else plain(one.name) for one in group],
            "hovertext": [
                f"{plain(one.name)}: {one.latency_ms:g} ms, {one.top1:g} %<br>{plain(one.source)}" for one in group
            ],
            "hoverinfo": "text",
            "textposition": "bottom right",
            "marker": {"color": GREEN, "symbol": symbol, "size": 9},
            "line": {"color": GREEN, "dash": "dash", "width": 1},
            "visible": True if is_alone or name.endswith(LITERATURE) else "legendonly",
        }
        for (name, group), symbol in zip(groups.items(), ("diamond", "diamond-open"), strict=True)
        if group
    ]


def _add_budgets(figure: Figure, result: SearchResult) -> None:
    """A dotted line for each budget; one that is there already is drawn once."""
    drawn = {shape["x0"] for shape in figure["layout"]["shapes"]}
    for budget_ms in sorted({*result.run.budgets} - drawn):
        line = {"color": GREY, "dash": "dot", "width": 1.5}
        place = {"x0": budget_ms, "x1": budget_ms, "y0": 0, "y1": 1, "yref": "y domain"}
        figure["layout"]["shapes"].append({"type": "line", **place, "line": line})
        text = f"front up to {budget_ms:.3g} ms" if result.run.whole_front else f"budget {budget_ms:g} ms"
        figure["layout"]["annotations"].append(
            {"x": budget_ms, "y": 1, "yref": "y domain", "yanchor": "bottom", "text": text, "showarrow": False}
        )
