"""The best network of each budget as rows, or of a whole front those that stand for it; scores and costs in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nas.networks import count
from nas.report.notation import amounts
from nas.report.predicted import accuracy_words, as_classifier, is_predicted, landmarks, published_words
from nas.search import Candidate, Run, SearchResult, score_of
from nas.search.limits import QUANTITIES

__all__ = [
    "budget_words",
    "candidates_table",
    "latency_words",
    "quantity_words",
    "role_words",
    "score_words",
    "shown_front",
    "standard_error",
    "winners_table",
]

_LATENCY = "latency, ms [interval]"


def winners_table(result: SearchResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the best networks, each compared with the slowest reference inside the same limit.

    One row for each of several budgets, or for each landmark of a whole front. No rows for a run with one budget.
    """
    run = result.run
    header = ("network", _LATENCY, _score_header(result), *run.objectives, "compared with")
    if run.whole_front:
        return header, [_cells(result, one, one.latency_ms) for one in landmarks(result.front_by_latency)]
    if len(run.budgets) == 1:
        return ("budget", *header), []
    none = ("none yet", *("-" for _ in header[1:]))
    rows = [
        (f"{budget_ms:g} ms", *(none if winner is None else _cells(result, winner, budget_ms)))
        for budget_ms, winner in result.winners.items()
    ]
    return ("budget", *header), rows


def _cells(result: SearchResult, winner: Candidate, limit_ms: float) -> tuple[str, ...]:
    inside = [one for one in result.references if one.latency_ms <= limit_ms]
    nearest = max(inside, key=lambda one: one.latency_ms, default=None)
    return (
        winner.id,
        latency_words(winner),
        score_words(winner),
        *(quantity_words(winner, name) for name in result.run.objectives),
        "-" if nearest is None else f"{nearest.label}, {nearest.latency_ms:.3f} ms, {_known(result, nearest)}",
    )


def _known(result: SearchResult, reference: Candidate) -> str:
    """The score of a reference; where scores are predicted accuracies, the published one if there is one."""
    if not is_predicted(result):
        return f"score {score_words(reference)}"
    published = published_words(reference)
    return f"published {published}" if published else f"predicted {accuracy_words(reference)}"


def candidates_table(
    result: SearchResult, candidates: Sequence[Candidate], *, with_sizes: bool = False
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of some candidates, fastest first. Columns that are needed least come last.

    Args:
        result: the run of the candidates.
        candidates: found networks and references.
        with_sizes: whether parameters and multiply-adds are columns, be they objectives or not.
    """
    run, roles = result.run, role_words(result)
    shown = sorted(candidates, key=lambda candidate: candidate.latency_ms)
    published = is_predicted(result) and any(published_words(one) for one in shown)
    counts = [count(one.architecture) for one in shown]
    size_header, sizes = amounts([one.params for one in counts], [one.macs for one in counts])
    objectives = [name for name in run.objectives if not (with_sizes and name in ("params", "macs"))]
    header = (
        *("network", "role", _LATENCY, _score_header(result), *(("published",) if published else ())),
        *(*run.screens, *(size_header if with_sizes else ()), *objectives, "blocks"),
    )
    rows = [
        (
            *(one.label, roles[one.kind, one.id], latency_words(one), score_words(one)),
            *((published_words(one) or "-",) if published else ()),
            *_screening_values(result, one),
            *(size if with_sizes else ()),
            *(quantity_words(one, name) for name in objectives),
            one.architecture.summary,
        )
        for one, size in zip(shown, sizes, strict=True)
    ]
    return header, rows


def role_words(result: SearchResult) -> dict[tuple[str, str], str]:
    """What each candidate is, by kind and id; of several budgets a winner has its own."""
    found = dict(result.role_of)
    if len(result.run.budgets) > 1 and not result.run.whole_front:
        won: dict[str, list[str]] = {}
        for budget_ms, winner in result.winners.items():
            if winner is not None:
                won.setdefault(winner.id, []).append(f"{budget_ms:g}")
        found |= {("searched", winner): f"winner {', '.join(budgets)} ms" for winner, budgets in won.items()}
    return found


def _screening_values(result: SearchResult, candidate: Candidate) -> list[str]:
    """Values of the screening proxies for a candidate, each on its own scale, as table cells."""
    values = result.screened.get(candidate.id, {})
    forms = {name: "{:.1f} %" if name == "accuracy-table" else "{:#.4g}" for name in result.run.screens}
    return [form.format(values[name]) if name in values else "-" for name, form in forms.items()]


def latency_words(candidate: Candidate) -> str:
    """The predicted latency of a candidate in ms, with its interval."""
    return f"{candidate.latency_ms:.3f} [{candidate.low_ms:.3f}, {candidate.high_ms:.3f}]"


def _score_header(result: SearchResult) -> str:
    return f"predicted top-1{as_classifier(result)} [90 %]" if is_predicted(result) else "score"


def shown_front(result: SearchResult) -> Sequence[Candidate]:
    """The networks of the front that a terminal shows: all, or of a front of hundreds those that stand for it."""
    if not (result.run.whole_front or is_predicted(result)):
        return result.front
    winners = [one for one in result.winners.values() if one is not None]
    return list({one.id: one for one in (*landmarks(result.front_by_latency), *winners)}.values())


def score_words(candidate: Candidate) -> str:
    """The score of a candidate, with its interval or its standard error where that is known."""
    if {"low", "high"} <= candidate.details.keys():
        return accuracy_words(candidate)
    error = standard_error(candidate)
    return f"{candidate.score:.4f}" + (f" +- {error:.4f}" if error else "")


def standard_error(candidate: Candidate) -> float:
    """Standard error of a score: from the proxy, or of an accuracy over the held-out images; 0 if it is unknown."""
    if "standard_error" in candidate.details:
        return float(candidate.details["standard_error"])
    images, score = float(candidate.details.get("val_images", 0)), score_of(candidate)
    return math.sqrt(score * (1 - score) / images) if images else 0.0


def quantity_words(candidate: Candidate, name: str) -> str:
    """An objective or a limited quantity of a candidate with its unit; `-` if it is not known."""
    value = candidate.quantities.get(name)
    if value is None:
        return "-"
    return QUANTITIES[name].shown(value) if name in QUANTITIES else f"{value:.4g} ms"


def budget_words(run: Run) -> str:
    """What the latency may be."""
    if run.whole_front:
        return f"none, the whole front up to {run.budget_ms:.3g} ms"
    return " and ".join(f"{budget_ms:g} ms" for budget_ms in run.budgets)
