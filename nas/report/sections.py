"""A validation in words and tables, section by section, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nas.report.figures import fronts_figure, score_figure
from nas.report.verdict import verdict
from nas.report.words import settings_words
from nas.validate import Validation
from nas.validate.accuracy import AccuracyPart
from nas.validate.agreement import NEAR_MS, RANKERS, RankAgreement
from nas.validate.earlier import completed
from nas.validate.records import CLEAR, EPOCHS, RESOLUTION, Gap, ProxyPair, ProxyPart, RecoveryPart
from nas.validate.widths import FEWEST, WidthPart

__all__ = ["Section", "validation_sections"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a validation: a title, notes, a table, and a function that draws its figure."""

    title: str
    notes: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figure: Callable[[], Any] | None = None


def validation_sections(validation: Validation) -> list[Section]:
    """The sections of a validation, for the page and for the terminal: the verdict first, the circumstances last.

    What a file of an earlier version lacks is added where it follows from the file.
    """
    validation = completed(validation)
    parts = ["latency", *(f"proxy {part.proxy}" for part in validation.proxies)]
    parts += ["widths"] if any(part.widths for part in validation.proxies) else []
    parts += ["recovery"] if validation.recovery else []
    parts += ["accuracy"] if validation.accuracy else []
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
    sections = [Section(title="Verdict", notes=verdict(validation)), _latency_section(validation)]
    if validation.proxies:
        sections.append(_rows_section(validation))
    if validation.accuracy:
        sections += _accuracy_sections(validation.accuracy)
    for part in validation.proxies:
        sections += _proxy_sections(part)
    if validation.pairs:
        sections.append(_pairs_section(validation.pairs))
    if validation.recovery:
        sections += _recovery_sections(validation.recovery)
    return [*sections, origin]


def _latency_section(validation: Validation) -> Section:
    part = validation.latency
    fitted = sum(row.left_out_ms is not None for row in part.rows)
    notes = [f"{len(part.rows)} published networks; the table is fitted to {fitted} of them"]
    if part.agreement:
        notes.append(f"predicted: {part.agreement.networks} networks, {part.agreement.describe()}")
    if part.unseen and fitted:
        notes.append(f"left out, each network of the fit predicted without itself: {part.unseen.describe()}")
    rows = []
    for row in part.rows:
        unseen = "-" if row.left_out_ms is None else f"{row.left_out_ms / row.published_ms - 1:+.1%}"
        timed = f"{row.resolution} px {row.timed}"
        seen = (_number(row.predicted_ms, ".3f"), _number(row.error, "+.1%"), unseen)
        rows.append((row.name, timed, f"{row.published_ms:.2f}", *seen, row.skipped or row.source))
    header = (
        "network",
        "timed",
        "published, ms",
        "predicted, ms",
        "error",
        "error, left out",
        "source, or why not predicted",
    )
    return Section(title="Latency: predicted, against published", notes=notes, header=header, rows=rows)


def _accuracy_sections(part: AccuracyPart) -> list[Section]:
    near = (
        "" if part.tau_near is None else f"; over those of {NEAR_MS[0]:.2f} to {NEAR_MS[1]:.2f} ms {part.tau_near:.2f}"
    )
    rows = [
        (row.name, f"{row.top1:.1f}", f"{row.predicted:.2f}", f"{row.low:.1f} to {row.high:.1f}", _yes(row.inside))
        for row in part.rows
    ]
    sections = [
        Section(
            title=f"Accuracy: predicted by {part.table}, against published",
            notes=[
                *(f"{what}: {errors.describe()}" for what, errors in part.errors.items()),
                f"rows of the family, each left out: Kendall's tau {part.tau:.2f}{near}",
            ],
            header=("network", "published, %", "predicted without itself, %", "90 % interval", "inside"),
            rows=rows,
        )
    ]
    if part.front:
        front = [
            (
                *(row.variant, f"{row.variant_ms:.3f}", f"{row.top1:.1f}", row.id, f"{row.latency_ms:.3f}"),
                *(f"{row.predicted:.2f}", f"{row.low:.1f} to {row.high:.1f}", row.verdict),
            )
            for row in part.front
        ]
        header = ("variant", "ms", "published, %", "found", "ms", "predicted, %", "90 % interval", "the front passes")
        note = (
            f"{part.looked_at} networks evaluated, by a table that has not seen the accuracies of the variants; the "
            "variants themselves do not count, networks near them do"
        )
        sections.append(
            Section(title="The front of a survey, against the variants", notes=[note], header=header, rows=front)
        )
    return sections


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
    failed: dict[tuple[str, str], list[str]] = {}
    for row in part.rows:
        for score in row.scores:
            if score.failure:
                failed.setdefault((row.name, score.failure), []).append(str(score.seed))
    failures = [
        f"{name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}, failed: {failure}"
        for (name, failure), seeds in failed.items()
    ]
    notes = [
        f"settings of the first seed: {settings_words(part.settings)}",
        *(f"computed with {settings_words(where)}" for where in part.circumstances),
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
    header = ("network", "published, ms", "published top-1, %", "mean score", "deviation", "by seed", "seconds")
    drawn = partial(score_figure, part) if any(row.mean is not None for row in part.rows) else None
    near = f"published at {NEAR_MS[0]:.2f} to {NEAR_MS[1]:.2f} ms"
    return [
        Section(title=f"{part.proxy}: scores", notes=notes, header=header, rows=rows, figure=drawn),
        Section(
            title=f"{part.proxy}: Kendall's tau-b against published top-1",
            notes=[
                "the interval is a bootstrap over networks: wide, for there are few of them; by chance: the standard "
                "deviation of tau of a random order of as many networks"
            ],
            header=("networks", "number", "tau", "by chance", "single seeds", "95 % interval"),
            rows=[_tau_row("all", part.all_rows), _tau_row(near, part.near_rows)],
        ),
        Section(
            title=f"{part.proxy}: against rankings that need no proxy",
            notes=[
                "tau over the same networks; depth: number of convolutions and linear layers, whose weights are summed",
                "better: the lower end of the interval is above 0 (bootstrap over networks, the best of these rankings "
                "chosen again in each resample)",
                *_lead_notes("all", part.all_rows),
                *_lead_notes(near, part.near_rows),
            ],
            header=("ranking", "tau, all", f"tau, {near}"),
            rows=[
                (name, *(_number(ranks.get(name), ".2f") for ranks in (part.all_rows.rankers, part.near_rows.rankers)))
                for name in RANKERS
            ],
        ),
        *([_widths_section(part.proxy, part.widths)] if part.widths else []),
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
        title="Rank correlation between proxies",
        notes=[
            "Kendall's tau-b between the mean scores of the published networks; near: of those published at "
            f"{NEAR_MS[0]:.2f} to {NEAR_MS[1]:.2f} ms alone"
        ],
        header=("proxies", "networks", "tau", "networks near", "tau near"),
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
        _number(ranks.by_chance, ".2f"),
        f"{taus[0]:.2f} to {taus[-1]:.2f}" if taus else "-",
        f"{_number(ranks.low, '.2f')} to {_number(ranks.high, '.2f')}",
    )


def _lead_notes(networks: str, ranks: RankAgreement) -> list[str]:
    """The claim that a proxy is better than all of these rankings, or that this is not shown."""
    lead = ranks.lead
    if lead is None:
        return []
    claim = f"better than {lead.ranker}" if lead.is_shown else f"not shown to be better than {lead.ranker}"
    interval = f"{_number(lead.low, '+.2f')} to {_number(lead.high, '+.2f')}"
    return [f"{networks}: {claim} ({lead.difference:+.2f} in tau, 95 % interval {interval})"]


def _widths_section(proxy: str, part: WidthPart) -> Section:
    """How far the widths of the stages explain the scores of random networks."""
    where = f"random networks predicted at {NEAR_MS[0]:.2f} to {NEAR_MS[1]:.2f} ms"
    notes = [
        f"{len(part.networks)} of {part.drawn} {where} ({part.asked} asked for) are scored under seed {part.seed}, "
        f"{part.failed} of them failed; {part.seconds:.0f} s in all"
    ]
    if part.drawn < FEWEST:
        notes = [f"{part.drawn} of {part.asked} {where} were found in the space: too few for a regression"]
    elif part.r2 is None:
        notes.append("too few scores for a regression, or all scores are equal, or all widths")
    else:
        notes.append(
            f"a linear regression on the four widths explains {part.r2:.0%} of the variance of the scores (R^2); by "
            f"chance {_number(part.by_chance, '.0%')} are expected; adjusted for that, {_number(part.adjusted, '.0%')}"
        )
    rows = [(str(number), f"{share:.0%}") for number, share in enumerate(part.shares, start=1)]
    return Section(
        title=f"{proxy}: what the widths of the stages say of the score",
        notes=notes,
        header=("stage", "its part of the variance") if rows else (),
        rows=rows,
    )


def _gap_row(gap: Gap) -> tuple[str, ...]:
    clear = "-" if gap.verdict is None else "yes" if gap.verdict == "better" else f"no, {gap.verdict}"
    return (f"{gap.network} over {gap.other}", *_distance(gap), clear)


def _recovery_sections(part: RecoveryPart) -> list[Section]:
    networks = {network.name: network for network in part.networks}
    compared = f"scores are means of seeds {', '.join(map(str, part.seeds))}"
    if part.search_seed in part.seeds:
        compared += ", for which the networks were chosen, so that what was found is favoured"
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
    published = ("published", "predicted, ms", "score")
    gap = ("gap", "in deviations", "within seeds", "verdict", "gap, ms")
    return [
        Section(
            title=f"Recovery: searches with {part.proxy}",
            notes=[compared, f"standard deviation over seeds of one score: {_number(part.deviation, '.4g')}"],
            header=("budget", "networks", "search", "found", "predicted, ms", "score", *published, *gap),
            rows=searched,
            figure=partial(fronts_figure, part) if part.front else None,
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
            header=(*published, "rival", "predicted, ms", "score", *gap, "on the front", "matched"),
            rows=fronts,
        ),
    ]


def _opinion_sections(part: RecoveryPart) -> list[Section]:
    """The verdicts of proxies that did not choose the winners. Nothing if there is no such proxy."""
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
