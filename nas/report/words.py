"""The result of a search in words: the summary for the terminal, and the Markdown report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas.errors import InputError, visible
from nas.report.course import FEWEST
from nas.report.notation import BLOCKS, table_words
from nas.report.predicted import (
    as_classifier,
    is_predicted,
    predicted_outcome,
    survey_steps,
    unbeaten_words,
    winner_lines,
)
from nas.report.trained import measures
from nas.report.winners import budget_words, candidates_table, score_words, standard_error, winners_table
from nas.search import Candidate, Screening, SearchResult, hypervolume, score_of
from nas.validate.ranking import kendall_tau_b

__all__ = ["markdown", "outcome", "score_meaning", "settings", "settings_words", "summary"]


def summary(result: SearchResult) -> list[str]:
    """The outcome of a run, and what comes next, in a few lines."""
    return [*outcome(result), *survey_steps(result)]


def outcome(result: SearchResult) -> list[str]:
    """The winner of a run, references to compare it with, and what the numbers mean."""
    if is_predicted(result):
        lines = predicted_outcome(result)
        return lines if result.winner is None else [*lines[:2], *measures(result, result.winner), *lines[2:]]
    winner = result.winner
    if winner is None:
        return [f"{result.path}: no network inside {result.run.budget_ms:g} ms is scored yet"]
    assert winner.score is not None
    lines = [*winner_lines(result, winner, f"score {score_words(winner)}"), *measures(result, winner)]
    lines += unbeaten_words(result)
    for reference in sorted(result.references, key=lambda c: c.latency_ms):
        assert reference.score is not None
        gain, noise = winner.score - reference.score, _noise(winner, reference)
        verdict = "equal" if not gain else "better" if gain > 0 else "worse"
        if noise and abs(gain) < 2 * noise:
            verdict = "within noise"
        lines.append(
            f"  compared with {reference.label} ({reference.latency_ms:.3f} ms, score {score_words(reference)}): "
            f"{gain:+.4f}, {verdict}"
        )
    lines += _settling(result, winner) + _agreement(result) + _savings(result)
    failed = sum(1 for c in result.candidates if c.failure)
    numbers = f"{len(result.scored)} networks scored, {failed} failed, {len(result.front)} on the front"
    lines.append(f"{numbers}; files in {result.path}")
    if standard_error(winner):
        lines.append(
            f"the winner is chosen from {len(result.scored)} networks by noisy scores: scored again, it would on "
            "average score less"
        )
    lines.append(table_words(result.run.table.name, result.run.table.origin, result.run.table.trust))
    data = result.run.proxy.get("data", "no data")
    lines.append(f"score: {result.run.proxy['name']} on {data}{_noise_words(result)}")
    return lines


def score_meaning(*results: SearchResult) -> str:
    """What a score is, if all results agree. Runs of older versions have the accuracy as score, not the likelihood."""
    scored = [c.details for result in results for c in (*result.scored, *result.references)]
    if not all("val_images" in details for details in scored):
        return ""
    meanings = {_meaning(details) for details in scored}
    return f" ({meanings.pop()})" if len(meanings) == 1 else ""


def _meaning(details: Mapping[str, object]) -> str:
    if "miou" in details:
        return "held-out likelihood of pixels"
    return "held-out likelihood" if "accuracy" in details else "held-out accuracy"


def _noise_words(result: SearchResult) -> str:
    if is_predicted(result):
        return f": predicted ImageNet-1k top-1{as_classifier(result)} in %, with its 90 % interval"
    if not score_meaning(result):
        return ", which orders networks and has no unit"
    return f"{score_meaning(result)}, +- one standard error over the held-out images, not over seeds"


def _settling(result: SearchResult, winner: Candidate) -> list[str]:
    """How the last comparison ended. Nothing for a run without one."""
    settled = result.settled_values
    if not settled:
        return []
    if "settles" not in result.run.proxy:
        raise InputError(f"{result.path / 'settled.jsonl'}: not of this run, which settles nothing: remove it")
    name = result.run.proxy["settles"]["name"]
    labels = {candidate.id: candidate.label for candidate in result.candidates}
    ordered = sorted(settled.items(), key=lambda item: -item[1])
    values = ", ".join(
        f"{labels.get(network, network)} {value:.4f}{_plus_minus(result.settled[network])}"
        for network, value in ordered
    )
    best = max((c for c in result.scored if c.id in settled), key=score_of, default=winner)
    agreed = "which also has the best score" if best.id == winner.id else f"by the score {best.label} was best"
    return [f"settled by {name} from the supernet: {values}; the winner is the best searched one of these, {agreed}"]


def _plus_minus(settled: Screening) -> str:
    """The standard error over the held-out images, where it is known."""
    error = settled.details.get("standard_error")
    return f" +- {float(error):.4f}" if error is not None else ""


def _agreement(result: SearchResult) -> list[str]:
    """How well the steps of a search on the user's images agree in order. Nothing for other runs."""
    if "settles" not in result.run.proxy:
        return []
    scores = {c.id: score_of(c) for c in (*result.scored, *result.references)}
    steps = {
        f"{name} and the score": {i: values[name] for i, values in result.screened.items() if name in values}
        for name in result.run.screens
    }
    steps[f"the score and {result.run.proxy['settles']['name']}"] = result.settled_values
    words = []
    for name, values in steps.items():
        shared = sorted(values.keys() & scores.keys())
        if len(shared) >= FEWEST:
            tau = float(kendall_tau_b([values[i] for i in shared], [scores[i] for i in shared]))
            words.append(f"{name} {tau:.2f} over {len(shared)} networks")
    return [f"rank correlation (Kendall's tau): {'; '.join(words)}"] if words else []


def _savings(result: SearchResult) -> list[str]:
    """The time that screening took, and an estimate of the time that it saved. Nothing for a single proxy."""
    *screens, last = result.spending
    if not screens or "settles" in result.run.proxy:
        return []
    every, mean_s = screens[0].networks, last.seconds / last.networks
    spent = ", ".join(f"{one.networks} by {one.proxy} in {_time(one.seconds)}" for one in result.spending)
    return [
        f"scored besides the references: {spent}; {_time(sum(one.seconds for one in result.spending))} together",
        f"  all {every} by {last.proxy} would have taken about {_time(every * mean_s)} "
        f"(an estimate: {every} times its mean of {mean_s:.1f} s)",
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def markdown(result: SearchResult) -> str:
    """The report of a search: its summary, winners, the front and the references as a table, failures and settings."""
    facts, steps = settings(result), survey_steps(result)
    failures = [f"- {_line(f'{c.label}: {c.failure}')}" for c in result.candidates if c.failure]
    return "\n".join(
        [
            f"# {_line(result.path.name)}",
            "",
            "```text",  # keeps the lines
            *map(visible, outcome(result)),
            "```",
            "",
            *_winners(result),
            "The front and the references, fastest first. Latency is predicted by the table, not measured; the score "
            f"is the proxy's{_noise_words(result)}.",
            "",
            *_table(*candidates_table(result, [*result.front, *result.references], with_sizes=True)),
            "",
            f"{BLOCKS}.",
            "",
            *(["Failed candidates:", "", *failures, ""] if failures else []),
            "| setting | value |",
            "|---|---|",
            *(
                f"| {_cell(key)} | {_cell(f'`{value}`' if key == 'command' else value)} |"
                for key, value in facts.items()
            ),
            "",
            *(["```text", *map(visible, steps), "```", ""] if steps else []),
        ]
    )


def settings(result: SearchResult) -> dict[str, str]:
    """What a run was asked, with which versions, table, proxies and seed, by name."""
    run = result.run
    return {
        "command": run.command,
        "started": run.started,
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        "space": f"{run.space.name}, {run.space.networks:.2e} networks"
        + (f", all of which fit {run.space.must_fit}" if run.space.must_fit else ""),
        "table": f"{run.table.name} ({run.table.origin}), digest {run.table.digest}",
        "proxy": settings_words(run.proxy),
        **{f"screening by {own['name']}": settings_words(own) for own in run.proxy.get("screens", ())},
        "budget": budget_words(run),
        **(
            {"limits": ", ".join(f"{name} at most {most:g}" for name, most in run.limits.items())} if run.limits else {}
        ),
        **({"objectives": ", ".join(run.objectives)} if run.objectives else {}),
        **({"sampler": run.sampler} if run.sampler else {}),
        "seed": str(run.seed),
        "hypervolume": _hypervolume(result),
    }


def _winners(result: SearchResult) -> list[str]:
    """The winner of each budget, or what stands for a whole front, as a table. Nothing for a run with one budget."""
    header, rows = winners_table(result)
    if not rows:
        return []
    title = "Of the front, networks some percent apart:" if result.run.whole_front else "The winner of each budget:"
    return [title, "", *_table(header, rows), ""]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    first, *others = (f"| {' | '.join(map(_cell, cells))} |" for cells in (header, *rows))
    return [first, "|---" * len(header) + "|", *others]


def _hypervolume(result: SearchResult) -> str:
    """The hypervolume in latency and score, and what it leaves out."""
    points = [(c.latency_ms, c.score) for c in result.scored if c.score is not None]
    area = hypervolume(points, latency_limit=result.run.budget_ms, score_floor=0.0)
    objectives = result.run.objectives
    left_out = f"; {' and '.join(objectives)} not counted" if objectives else ""
    return f"{area:.4f} (score times ms, up to the budget and above score 0{left_out})"


def settings_words(settings: Mapping[str, Any]) -> str:
    """The settings of a proxy, without those of the proxies that screen for it."""
    return ", ".join(f"{key} {value}" for key, value in settings.items() if key != "screens")


def _line(text: str) -> str:
    """A text on one line of Markdown, without HTML."""
    return visible(text).replace("<", "&lt;")


def _cell(text: str) -> str:
    """A text in one cell of a table of Markdown."""
    return _line(text).replace("|", "\\|")


def _noise(*candidates: Candidate) -> float:
    return math.hypot(*map(standard_error, candidates))
