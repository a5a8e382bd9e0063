"""SearchResult -> Pareto plot, page and tables. This is the only module that imports Plotly."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nas.errors import InputError, NasError
from nas.files import write_beside
from nas.latency import LatencyTable, PublishedTime
from nas.networks import count
from nas.search import Candidate, SearchResult, hypervolume
from nas.validate.records import (
    CLEAR,
    EPOCHS,
    LADDER,
    NEAR_MS,
    RESOLUTION,
    Gap,
    ProxyPair,
    ProxyPart,
    RankAgreement,
    RecoveryPart,
    Validation,
)

__all__ = [
    "Section",
    "screening_values",
    "summary",
    "validation_sections",
    "write_plot",
    "write_report",
    "write_validation",
]

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
    lines += _savings(result)
    failed = sum(1 for c in result.candidates if c.failure)
    numbers = f"{len(result.scored)} networks scored, {failed} failed, {len(result.front)} on the front"
    lines.append(f"{numbers}; files in {result.path}")
    lines.append(f"the winner is the best of {len(result.scored)} noisy scores, so it looks better than it is")
    lines.append(
        f"latency: {result.run.table.origin} (predicted; {result.run.table.trust or 'see the table for its errors'}); "
        f"score: {result.run.proxy['name']} on {result.run.proxy.get('data', 'no data')}{_noise_words(result)}"
    )
    return lines


def _meaning(*results: SearchResult) -> str:
    """What a score is, where all results say the same; an older score is the accuracy that likelihoods have beside."""
    scored = [c.details for result in results for c in (*result.scored, *result.references)]
    if not all("val_images" in details for details in scored):
        return ""
    meanings = {"held-out likelihood" if "accuracy" in details else "held-out accuracy" for details in scored}
    return f" ({meanings.pop()})" if len(meanings) == 1 else ""


def _noise_words(result: SearchResult) -> str:
    if not _meaning(result):
        return ", which orders networks and has no unit"
    return f"{_meaning(result)}, +- one standard error of the held-out images; the spread over seeds comes on top"


def _savings(result: SearchResult) -> list[str]:
    """What screening took, and about what it spared; nothing for a single proxy."""
    *screens, last = result.spending
    if not screens:
        return []
    every, mean_s = screens[0].networks, last.seconds / last.networks
    spent = ", ".join(f"{one.networks} by {one.proxy} in {_time(one.seconds)}" for one in result.spending)
    return [
        f"networks scored, references apart: {spent}; {_time(sum(one.seconds for one in result.spending))} together",
        f"  all {every} by {last.proxy} would have taken about {_time(every * mean_s)} "
        f"(an estimate: {every} times its mean of {mean_s:.1f} s)",
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


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
        yaxis={"title": {"text": f"proxy score{_meaning(*results)}"}},
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
            point.name: point for point in table.published.values() if point.top1 is not None and point.name in LADDER
        }
    return sorted(points.values(), key=lambda point: point.latency_ms)


def _markdown(result: SearchResult) -> str:
    run = result.run
    rows = [_row(c, result) for c in sorted([*result.front, *result.references], key=lambda c: c.latency_ms)]
    failures = [f"- {c.label}: {c.failure}" for c in result.candidates if c.failure]
    facts = {
        "command": f"`{run.command}`",
        "started": run.started,
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        "space": f"{run.space.name}, {run.space.networks:.2e} networks",
        "table": f"{run.table.name} ({run.table.origin}), digest {run.table.digest}",
        "proxy": _words(run.proxy),
        **{f"screening by {own['name']}": _words(own) for own in run.proxy.get("screens", ())},
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
            f"is the proxy's{_noise_words(result)}.",
            "",
            f"| network | ms | interval | {' | '.join([*run.screens, 'score'])} | M params | GMACs | blocks |",
            "|---|---|---|---|---|---|---|" + "---|" * len(run.screens),
            *rows,
            "",
            *(["Failed candidates:", "", *failures, ""] if failures else []),
            "| setting | value |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in facts.items()),
            "",
        ]
    )


def screening_values(result: SearchResult, candidate: Candidate) -> list[str]:
    """What each proxy that screens said of a candidate, on its own scale, for a table."""
    values = result.screened.get(candidate.id, {})
    return [f"{values[name]:.4g}" if name in values else "-" for name in result.run.screens]


def _hypervolume(result: SearchResult) -> float:
    points = [(c.latency_ms, c.score) for c in result.scored if c.score is not None]
    return hypervolume(points, latency_limit=result.run.budget_ms, score_floor=0.0)


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items() if key != "screens")


def _row(candidate: Candidate, result: SearchResult) -> str:
    counts = count(candidate.architecture)
    cells = (
        candidate.label,
        f"{candidate.latency_ms:.3f}",
        f"{candidate.low_ms:.3f} to {candidate.high_ms:.3f}",
        *screening_values(result, candidate),
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
    """As the proxy tells it, or that of an accuracy over the held-out images; 0 where there are none."""
    if "standard_error" in candidate.details:
        return float(candidate.details["standard_error"])
    images = float(candidate.details.get("val_images", 0))
    assert candidate.score is not None
    return math.sqrt(candidate.score * (1 - candidate.score) / images) if images else 0.0


def _noise(*candidates: Candidate) -> float:
    return math.hypot(*map(_standard_error, candidates))


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a validation in words: what it says, a table, and what draws its figure."""

    title: str
    notes: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figure: Callable[[], Any] | None = None


def write_validation(validation: Validation, out: Path) -> None:
    """Write a validation as a self-contained page."""
    parts = ["<h1>How far can the numbers be trusted?</h1>"]
    is_first = True
    for section in validation_sections(validation):
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(note)}</p>" for note in section.notes]
        if section.header:
            parts.append(f"<table>{_cells('th', section.header)}{''.join(_cells('td', row) for row in section.rows)}")
            parts.append("</table>")
        if section.figure:
            parts.append(section.figure().to_html(include_plotlyjs=is_first, full_html=False))
            is_first = False
    style = (
        "body{font:15px/1.4 sans-serif;margin:2em auto;max-width:72em;padding:0 1em}p{margin:.3em 0}"
        "table{border-collapse:collapse;margin:.8em 0}td,th{padding:.15em .8em .15em 0;text-align:left}"
        "tr{border-bottom:1px solid #ddd}"
    )
    head = f'<head><meta charset="utf-8"><title>nas validate</title><style>{style}</style></head>'
    page = f'<!doctype html>\n<html lang="en">{head}<body>\n' + "\n".join(parts) + "\n</body></html>\n"
    write_beside(out, page.encode())


def _cells(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def validation_sections(validation: Validation) -> list[Section]:
    """A validation in words and tables, for the page and for the terminal."""
    parts = ["latency", *(f"proxy {part.proxy}" for part in validation.proxies)]
    parts += ["recovery"] if validation.recovery else []
    state = [
        f"{part}: not finished, {validation.unfinished[part]}" if part in validation.unfinished else f"{part}: complete"
        for part in parts
    ]
    origin = Section(
        title="What this is",
        notes=[
            *state,
            f"command: {validation.command}",
            f"{validation.date}, {validation.seconds:.0f} s (scores kept from earlier runs not counted); "
            + ", ".join(f"{name} {version}" for name, version in validation.versions.items()),
            f"data: {validation.data}; space: {validation.space}; seeds: {', '.join(map(str, validation.seeds))}",
            f"table: {validation.table.name} ({validation.table.origin}), digest {validation.table.digest}",
        ],
    )
    sections = [origin, _latency_section(validation), _rows_section(validation)]
    for part in validation.proxies:
        sections += _proxy_sections(part)
    if validation.pairs:
        sections.append(_pairs_section(validation.pairs))
    return sections + (_recovery_sections(validation.recovery) if validation.recovery else [])


def _latency_section(validation: Validation) -> Section:
    part = validation.latency
    fitted = sum(row.left_out_ms is not None for row in part.rows)
    notes = [f"{len(part.rows)} published networks; the table is fitted to {fitted} of them"]
    if part.agreement:
        notes.append(f"predicted: {part.agreement.networks} networks, {part.agreement.describe()}")
    if part.unseen and fitted:
        notes.append(f"each fitted one predicted from the others: {part.unseen.describe()}")
    rows = []
    for row in part.rows:
        unseen = "-" if row.left_out_ms is None else f"{row.left_out_ms / row.published_ms - 1:+.1%}"
        timed = f"{row.resolution} px {row.timed}"
        seen = (_number(row.predicted_ms, ".3f"), _number(row.error, "+.1%"), unseen)
        rows.append((row.name, timed, f"{row.published_ms:.2f}", *seen, row.skipped or row.source))
    header = ("network", "timed", "published ms", "predicted", "error", "from the others", "printed in, or why not")
    return Section(title="Latency: predicted against published", notes=notes, header=header, rows=rows)


def _rows_section(validation: Validation) -> Section:
    return Section(
        title="What proxies are compared on",
        notes=[f"published networks of the family trained alike: batch norm, {RESOLUTION} px, {EPOCHS} epochs"],
        header=("left out", "why"),
        rows=list(validation.left_out.items()),
    )


_ONE_SET = (
    "one set of trained weights for all seeds: the noise of training it is in no deviation here, and it favours what a "
    "search chose by it under every seed; {seed} in the name of its file gives each seed its own"
)


def _proxy_sections(part: ProxyPart) -> list[Section]:
    there = sum(len(row.scores) for row in part.rows)
    failures = [f"{row.name}, seed {s.seed}, failed: {s.failure}" for row in part.rows for s in row.scores if s.failure]
    notes = [
        f"settings of the first seed: {_words(part.settings)}",
        *(f"computed with {_words(where)}" for where in part.circumstances),
        f"{there} of {part.wanted} scores are there, {part.failed} of them failed; {part.seconds:.0f} s in all",
        f"standard deviation over seeds of one score, pooled: {_number(part.deviation, '.4g')}; apart from what a seed "
        f"does to all networks alike: {_number(part.within_seeds, '.4g')}",
        *([_ONE_SET] if part.one_set_of_weights else []),
        *failures,
    ]
    rows = []
    for row in part.rows:
        spread = (_number(row.mean, ".6g"), _number(row.deviation, ".3g"))
        seeds = ", ".join("failed" if s.value is None else f"{s.value:.6g}" for s in row.scores) or "-"
        seconds = f"{sum(s.seconds for s in row.scores):.1f}"
        rows.append((row.name, _number(row.published_ms, ".2f"), _number(row.top1, ".1f"), *spread, seeds, seconds))
    header = ("network", "published ms", "published top-1 %", "mean score", "deviation", "by seed", "seconds")
    drawn = partial(_score_figure, part) if any(row.mean is not None for row in part.rows) else None
    near = f"published at {NEAR_MS[0]:.2f} to {NEAR_MS[1]:.2f} ms"
    return [
        Section(title=f"{part.proxy}: scores", notes=notes, header=header, rows=rows, figure=drawn),
        Section(
            title=f"{part.proxy}: Kendall's tau-b against published top-1",
            notes=["the interval is a bootstrap over networks: wide, for there are few of them"],
            header=("networks", "number", "tau", "single seeds", "95 % interval", "beside it"),
            rows=[_tau_row("all", part.all_rows), _tau_row(near, part.near_rows)],
        ),
        Section(
            title=f"{part.proxy}: gaps of the published ladder",
            notes=[
                f"in standard deviations over seeds of one score; clear beyond {CLEAR:g}; within seeds: in deviations "
                "apart from what a seed does to all networks alike, which cancels in a gap"
            ],
            header=("step", "gap", "in deviations", "within seeds", "clear"),
            rows=[_gap_row(gap) for gap in part.ladder],
        ),
    ]


def _pairs_section(pairs: Sequence[ProxyPair]) -> Section:
    return Section(
        title="How well one proxy foretells another",
        notes=["Kendall's tau-b between the mean scores of the published networks"],
        header=("proxies", "number", "tau", "number in the band", "tau in the band"),
        rows=[
            (
                f"{pair.proxy} and {pair.other}",
                str(pair.networks),
                _number(pair.tau, ".2f"),
                str(pair.near_networks),
                _number(pair.near_tau, ".2f"),
            )
            for pair in pairs
        ],
    )


def _tau_row(name: str, ranks: RankAgreement) -> tuple[str, ...]:
    taus = sorted(ranks.seeds.values())
    return (
        name,
        str(ranks.networks),
        _number(ranks.tau, ".2f"),
        f"{taus[0]:.2f} to {taus[-1]:.2f}" if taus else "-",
        f"{_number(ranks.low, '.2f')} to {_number(ranks.high, '.2f')}",
        ", ".join(f"{ranker} {tau:.2f}" for ranker, tau in ranks.rankers.items()),
    )


def _gap_row(gap: Gap) -> tuple[str, ...]:
    clear = "-" if gap.verdict is None else "yes" if gap.verdict == "better" else f"no, {gap.verdict}"
    return (f"{gap.network} over {gap.other}", *_distance(gap), clear)


def _recovery_sections(part: RecoveryPart) -> list[Section]:
    networks = {network.name: network for network in part.networks}
    compared = f"scores are means of seeds {', '.join(map(str, part.seeds))}"
    if part.search_seed in part.seeds:
        compared += ", for which the networks were chosen: winners look better than they are"
    else:
        compared += f", not of seed {part.search_seed}, for which the networks were chosen"

    def cells(name: str | None) -> tuple[str, ...]:
        """Name, predicted latency and mean score over the compared seeds."""
        if name is None:
            return ("-", "-", "-")
        network = networks[name]
        values = network.values(part.seeds).values()
        mean = f"{sum(values) / len(values):.6g}" if values else "-"
        return (name, _number(network.latency_ms, ".3f"), mean)

    searched = []
    for search in part.searches:
        limits = (f"{search.budget_ms:g} ms", f"{search.networks}, {search.failed} failed")
        state = "complete" if search.complete else "not complete"
        searched.append((*limits, state, *cells(search.found), *cells(search.variant), *_gap_cells(search.gap)))
    fronts = [
        (*cells(v.variant), *cells(v.rival), *_gap_cells(v.gap), _yes(v.on_front), _yes(v.matched))
        for v in part.variants
    ]
    limit_ms = part.latency_limit_ms
    beyond = [v.variant for v in part.variants if (networks[v.variant].latency_ms or 0.0) >= limit_ms]
    published = ("published", "predicted ms", "score")
    gap = ("gap", "in deviations", "within seeds", "verdict", "gap in ms")
    return [
        Section(
            title=f"Recovery: searches with {part.proxy}",
            notes=[compared, f"standard deviation over seeds of one score: {_number(part.deviation, '.4g')}"],
            header=("budget", "networks", "search", "found", "predicted ms", "score", *published, *gap),
            rows=searched,
            figure=partial(_fronts_figure, part) if part.front else None,
        ),
        *_opinion_sections(part),
        Section(
            title="Recovery: are the published variants on the found front?",
            notes=[
                "rival: the best that was found, by the score of the search, among networks predicted no slower",
                f"on the front: the rival is not better by more than {CLEAR:g} deviations; matched: nor worse",
                *(
                    f"hypervolume up to {part.latency_limit_ms:g} ms and above score {part.score_floor:.4g}, "
                    f"{volume.scores}: found {volume.found:.4f}, published {volume.published:.4f}"
                    for volume in part.hypervolumes
                ),
                *([f"predicted beyond it, and so not in the published one: {', '.join(beyond)}"] if beyond else []),
            ],
            header=(*published, "rival", "predicted ms", "score", *gap, "on the front", "matched"),
            rows=fronts,
        ),
    ]


def _opinion_sections(part: RecoveryPart) -> list[Section]:
    """What proxies say that did not choose what was found; nothing where there is none."""
    rows = [
        (
            f"{search.budget_ms:g} ms",
            f"{search.found} over {search.variant}",
            opinion.proxy,
            *_gap_cells(opinion.gap)[:-1],
        )
        for search in part.searches
        for opinion in search.opinions
    ]
    if not rows:
        return []
    return [
        Section(
            title="Recovery: what the other proxies say of what was found",
            notes=[f"over the same seeds; networks were chosen by {part.proxy} alone"],
            header=("budget", "networks", "proxy", "gap", "in deviations", "within seeds", "verdict"),
            rows=rows,
        )
    ]


def _gap_cells(gap: Gap | None) -> tuple[str, ...]:
    if gap is None:
        return ("-", "-", "-", "-", "-")
    return (*_distance(gap), gap.verdict or "-", _number(gap.latency_ms, "+.3f"))


def _distance(gap: Gap) -> tuple[str, ...]:
    return _number(gap.score, "+.4g"), _number(gap.deviations, "+.1f"), _number(gap.within_seeds, "+.1f")


def _yes(answer: bool | None) -> str:
    return "-" if answer is None else "yes" if answer else "no"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _score_figure(part: ProxyPart) -> Any:
    """Score against published accuracy, a standard deviation over seeds either way."""
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
        template="plotly_white",
        xaxis={"title": {"text": "published ImageNet top-1, %"}},
        yaxis={"title": {"text": f"{part.proxy}, mean over seeds"}},
    )
    return figure


def _fronts_figure(part: RecoveryPart) -> Any:
    """The front that was found, and the networks that are compared."""
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
        template="plotly_white",
        xaxis={"title": {"text": "predicted latency, ms"}},
        yaxis={"title": {"text": part.proxy}},
        legend={"orientation": "h", "y": -0.15},
    )
    return figure
