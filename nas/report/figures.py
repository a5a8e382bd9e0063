"""Figures as plain data in Plotly's form, for pages and still pictures. No other file imports Plotly.

Colours are from the palette of Okabe and Ito (2008), which readers with any colour vision can tell apart, and no fact
is told by colour alone. COLOURS has each one for light and for dark backgrounds: the script of a page swaps them.
"""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.errors import InputError, NasError
from nas.files import write_beside
from nas.report.course import Agreement, Choice, Progress
from nas.report.networks import column
from nas.validate.records import ProxyPart, RecoveryPart

__all__ = [
    "CLEAR",
    "COLOURS",
    "GREEN",
    "GREY",
    "INK",
    "LATENCY",
    "MANY",
    "RUNS",
    "STILLS",
    "TOP1",
    "VERMILLION",
    "Figure",
    "agreement_figure",
    "as_plotly",
    "choices_figure",
    "compared_figure",
    "fronts_figure",
    "layout_of",
    "plain",
    "plotly_script",
    "progress_figure",
    "score_figure",
    "write_still",
]

Figure = dict[str, Any]

BLUE, VERMILLION, GREEN, PURPLE, GREY, INK, GRID = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#6b7280",
    "#1f2937",
    "#e5e7eb",
)
_RAISED = "#f6f7f9"
COLOURS = {
    BLUE: "#56b4e9",
    VERMILLION: "#e69f00",
    GREEN: "#3fcfa5",
    PURPLE: "#e3a3c5",
    GREY: "#9ca3af",
    INK: "#e5e7eb",
    GRID: "#374151",
    _RAISED: "#1d2229",
}
RUNS = ((BLUE, "circle"), (VERMILLION, "square"), (GREEN, "triangle-up"), (PURPLE, "cross"))
CLEAR = "rgba(0,0,0,0)"
LATENCY = "latency, ms"
TOP1 = "ImageNet top-1, %"
MANY = 1500  # points that are drawn by WebGL; SVG is slow beyond
STILLS = (".png", ".svg", ".pdf")


def plotly_script() -> str:
    """Plotly's own script, 5 MB."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def as_plotly(figures: Sequence[Figure], origins: Sequence[str]) -> Any:
    """Figures beside each other as a `plotly.graph_objects.Figure`; arguments as for `write_still`.

    Raises:
        InputError: Plotly is not installed.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise InputError("a plot needs Plotly: pip install plotly") from error
    return graph_objects.Figure(_beside(figures, origins))


def write_still(figures: Sequence[Figure], out: Path, *, origins: Sequence[str] = ()) -> None:
    """Draw figures beside each other into a .png, .svg or .pdf file.

    Args:
        figures: what to draw, without what a page begins with hidden.
        out: the file.
        origins: where the numbers come from, in lines above the figures.
    Raises:
        InputError: kaleido is not installed.
        NasError: this needs a browser, and there is none.
    """
    from plotly import io

    if importlib.util.find_spec("kaleido") is None:
        raise InputError(f"{out}: a still picture needs kaleido: pip install 'nas[plot]', or write an .html file")
    figure = _beside(figures, origins)
    try:
        picture = io.to_image(figure, format=out.suffix[1:], width=1000 * len(figures), height=640, scale=2)
    except Exception as error:  # kaleido and its browser raise many kinds of errors.
        raise NasError(
            f"{out}: a still picture needs a Chrome or Chromium browser ({type(error).__name__}); "
            "install one, or write an .html file"
        ) from error
    write_beside(out, picture)


def _beside(figures: Sequence[Figure], origins: Sequence[str]) -> Figure:
    """Figures as one, each with its own axes."""
    data: list[dict[str, Any]] = []
    share = 1 / len(figures)
    layout: dict[str, Any] = layout_of("", "") | {"paper_bgcolor": "#ffffff", "showlegend": True, "shapes": []}
    layout |= {"legend": {"orientation": "h", "y": -0.15}, "annotations": [], "margin": {"t": 110, "b": 60}}
    layout["title"] = {"text": "<br>".join(map(plain, origins)), "font": {"size": 13}, "x": 0.02, "y": 0.97}
    for number, figure in enumerate(figures, start=1):
        at, own = str(number) if number > 1 else "", figure["layout"]
        shown = (trace for trace in figure["data"] if trace.get("visible") != "legendonly")
        data += [{**trace, "xaxis": f"x{at}", "yaxis": f"y{at}"} for trace in shown]
        start = (number - 1) * share + (0.06 if number > 1 else 0)
        layout[f"xaxis{at}"] = {**own["xaxis"], "domain": [start, number * share], "anchor": f"y{at}"}
        layout[f"yaxis{at}"] = {**own["yaxis"], "anchor": f"x{at}"}
        layout["shapes"] += [{**one, "xref": f"x{at}", "yref": f"y{at} domain"} for one in own.get("shapes", ())]
        layout["annotations"] += [
            {**one, "xref": f"x{at}", "yref": f"y{at} domain"} for one in own.get("annotations", ())
        ]
    return {"data": data, "layout": layout}


def progress_figure(runs: Sequence[tuple[str, Progress]], quantity: str, title: str) -> Figure:
    """A quantity of `Progress` over the scored candidates, for each run."""
    return {
        "title": title,
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": plain(name),
                "x": list(found.counts),
                "y": column(getattr(found, quantity)),
                "line": {"color": RUNS[number % len(RUNS)][0], "width": 2, "shape": "hv"},
            }
            for number, (name, found) in enumerate(runs)
        ],
        "layout": layout_of("scored candidates", title.lower()),
    }


def choices_figure(found: Sequence[Choice]) -> Figure:
    """Rank correlation of choices with score and latency, as bars; the strongest on top."""
    ordered = list(reversed(found))
    bars = {"with the score": (BLUE, "", "score"), "with the latency": (GREY, "/", "latency")}
    layout = layout_of("rank correlation", "")
    layout["yaxis"] |= {"dtick": 1, "tickfont": {"size": 11}}
    return {
        "title": "Choices and the score",
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "x": column((getattr(one, quantity) for one in ordered), 3),
                "y": [one.name for one in ordered],
                "marker": {"color": colour, "pattern": {"shape": pattern}},
            }
            for name, (colour, pattern, quantity) in bars.items()
        ],
        "layout": layout | {"xaxis": layout["xaxis"] | {"range": [-1, 1]}},
    }


def agreement_figure(found: Agreement) -> Figure:
    """One proxy beside the score, network by network."""
    return {
        "title": f"{found.proxy} against the score",
        "data": [_cloud(found.values, found.scores, found.names, BLUE)],
        "layout": layout_of(found.proxy, "score"),
    }


def compared_figure(title: str, x: str, y: str, rows: Sequence[tuple[str, float, float]], error: float = 0) -> Figure:
    """Named points that would lie on the diagonal if both numbers of each agreed.

    Args:
        title: of the figure.
        x: title of the horizontal axis.
        y: title of the vertical axis.
        rows: name and both numbers of each network.
        error: a relative error, drawn as a band around the diagonal; 0 draws none.
    """
    ends = [min(min(row[1:]) for row in rows), max(max(row[1:]) for row in rows)]
    lines = [("equal", 1.0, "solid")] + ([(f"{error:.0%} off", 1 + s * error, "dot") for s in (-1, 1)] if error else [])
    return {
        "title": title,
        "data": [
            *(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": name,
                    "hoverinfo": "skip",
                    "x": ends,
                    "y": [end * factor for end in ends],
                    "line": {"color": GREY, "width": 1, "dash": dash},
                }
                for name, factor, dash in lines
            ),
            _cloud([row[1] for row in rows], [row[2] for row in rows], [row[0] for row in rows], BLUE),
        ],
        "layout": layout_of(x, y),
    }


def _cloud(x: Sequence[float], y: Sequence[float], names: Sequence[str], colour: str) -> dict[str, Any]:
    return {
        "type": "scattergl" if len(x) > MANY else "scatter",
        "mode": "markers",
        "name": "networks",
        "x": column(x, 5),
        "y": column(y, 5),
        "text": list(map(plain, names)),
        "hoverinfo": "text+x+y",
        "marker": {"color": colour, "size": 7, "opacity": 0.7},
    }


def score_figure(part: ProxyPart) -> Figure:
    """Score against published accuracy, with error bars of one standard deviation over seeds."""
    rows = [row for row in part.rows if row.mean is not None]
    return {
        "title": f"{part.proxy} against published accuracy",
        "data": [
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": part.proxy,
                "x": [row.top1 for row in rows],
                "y": [row.mean for row in rows],
                "error_y": {"type": "data", "array": [row.deviation or 0.0 for row in rows], "thickness": 1},
                "text": [row.name for row in rows],
                "textposition": "top center",
                "marker": {"color": BLUE, "size": 9},
            }
        ],
        "layout": layout_of(f"published {TOP1}", f"{part.proxy}, mean over seeds"),
    }


def fronts_figure(part: RecoveryPart) -> Figure:
    """The front of the searches, and the compared networks."""
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"found front, seed {part.search_seed} which chose it",
            "x": [latency_ms for _, latency_ms, _ in part.front],
            "y": [score for _, _, score in part.front],
            "text": [name for name, _, _ in part.front],
            "line": {"color": BLUE, "shape": "hv", "dash": "dot"},
        }
    ]
    variants = {variant.variant for variant in part.variants}
    for name, is_variant, (colour, symbol) in (("found, compared", False, RUNS[0]), ("published", True, RUNS[1])):
        chosen = [n for n in part.networks if (n.name in variants) == is_variant and n.values(part.seeds)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": f"{name}, mean of seeds {', '.join(map(str, part.seeds))}",
                "x": [n.latency_ms for n in chosen],
                "y": [sum(values) / len(values) for n in chosen if (values := n.values(part.seeds).values())],
                "error_y": {"type": "data", "array": [part.deviation or 0.0 for _ in chosen], "thickness": 1},
                "text": [n.name for n in chosen],
                "textposition": "top center",
                "marker": {"color": colour, "symbol": symbol, "size": 10},
            }
        )
    return {
        "title": "Found and published fronts",
        "data": traces,
        "layout": layout_of("predicted latency, ms", part.proxy),
    }


def layout_of(x: str, y: str) -> dict[str, Any]:
    """A plain layout in the colours of COLOURS, so that a page can swap them."""
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    return {
        "xaxis": {**axis, "title": {"text": plain(x), "standoff": 8}},
        "yaxis": {**axis, "title": {"text": plain(y), "standoff": 8}},
        "font": {"color": INK, "family": "system-ui, sans-serif", "size": 13},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "modebar": {"bgcolor": CLEAR, "color": GREY, "activecolor": INK},
        "margin": {"t": 40, "r": 12, "b": 44, "l": 56},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": _RAISED, "bordercolor": GREY, "font": {"color": INK}},
        "showlegend": False,
        "shapes": [],
        "annotations": [],
    }


def plain(text: str) -> str:
    """A text from outside as Plotly shows it letter by letter; else it reads some tags of HTML in it."""
    return html.escape(text, quote=False)
