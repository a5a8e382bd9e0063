"""A survey in words: predicted accuracies, compared with published ones, and what no published network supports."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from nas.accuracy import WORDS, AccuracyTable, beyond, classifier_of, classifier_words, differences
from nas.errors import InputError
from nas.networks import count
from nas.report.notation import PLACE, by_stage, size_words, table_words
from nas.search import Candidate, SearchResult, score_of

__all__ = [
    "accuracy_words",
    "as_classifier",
    "is_predicted",
    "landmarks",
    "predicted_outcome",
    "published_top1",
    "published_words",
    "survey_steps",
    "unbeaten",
    "unbeaten_words",
    "winner_lines",
]

_USUAL_TABLE = "iphone13.coreml.fp16"  # what --table stands for if it is not given
_STEP = 0.05  # relative difference in latency between the rows of a front that are printed


def is_predicted(result: SearchResult) -> bool:
    """Whether the scores of a run are predicted ImageNet accuracies, which are printed as such."""
    return result.run.proxy.get("proxy") == "accuracy-table"


def as_classifier(result: SearchResult) -> str:
    """` as a classifier at 224 px`, where the accuracies of a run are predicted so; empty elsewhere."""
    return classifier_words(one.architecture.resolution for one in result.candidates)


def predicted_outcome(result: SearchResult) -> list[str]:
    """The outcome of a survey in lines: the winner, known networks to compare it with, and how sure all of it is."""
    winner = result.winner
    if winner is None:
        return [f"{result.path}: no network inside {result.run.budget_ms:g} ms was found"]
    table = _table(result)
    references = sorted(result.references, key=lambda c: c.latency_ms)
    lines = [
        *winner_lines(result, winner, f"predicted ImageNet top-1{as_classifier(result)} {accuracy_words(winner)}"),
        *_parts(winner),
        *unbeaten_words(result),
        *(_compared(result, reference, table) for reference in reversed(references)),
    ]
    if references:
        nearest = references[-1]
        parts = by_stage(differences(winner.architecture, nearest.architecture))
        lines += [f"differs from {nearest.label} (its numbers in brackets):", *(parts or ["  in nothing"])]
    if table:
        outside = by_stage(beyond(classifier_of(winner.architecture), table.published.ranges))
        lines += (
            ["outside the range of the published networks of the family (in brackets), so less certain:", *outside]
            if outside
            else ["within the range of the published networks of the family"]
        )
    if any("place of attention" in line for line in lines):
        lines.append(f"  ({PLACE})")
    evaluated = winner.details.get("looked_at", len(result.scored))
    return [
        *lines,
        f"{evaluated} networks evaluated, {len(result.front)} on the front; files in {result.path}",
        table_words(result.run.table.name, result.run.table.origin, result.run.table.trust),
        f"predicted ImageNet top-1{as_classifier(result)}: by an accuracy table; nothing was trained or measured "
        f"({result.run.proxy.get('trust', 'its errors are not known')}); "
        "networks are ordered by the lower end of the 90 % interval",
    ]


def survey_steps(result: SearchResult) -> list[str]:
    """What comes after a survey, as lines to paste. Nothing for other runs, or without a winner."""
    if not is_predicted(result) or result.winner is None:
        return []
    train = f"  nas train {shlex.quote(str(result.path))} --data"
    if pixels := as_classifier(result):
        return [
            f"train the winner{pixels}:",
            f"{train} IMAGES --resolution {classifier_of(result.winner.architecture).resolution}",
            "go on with its weights, for detection or segmentation:",
            f"{train} FOLDER --task segment --from {shlex.quote(str(result.path / 'trained' / 'winner'))}",
        ]
    return [
        "score networks on your images:",
        f"  {_on_images(result)}",
        "train the winner in full:",
        f"{train} IMAGES",
    ]


def winner_lines(result: SearchResult, winner: Candidate, score: str) -> list[str]:
    """The winner in two lines: latency and score, blocks and size.

    Args:
        result: the run.
        winner: its winner.
        score: the score in words.
    """
    budget = f"{result.run.budget_ms:g} ms"
    if result.run.whole_front:
        budget = f"the whole front up to {result.run.budget_ms:.3g} ms"
    return [
        f"winner {winner.id}: {winner.latency_ms:.3f} ms [{winner.low_ms:.3f}, {winner.high_ms:.3f}] of {budget}, "
        f"{score}",
        f"  {winner.architecture.summary}; {size_words(count(winner.architecture))}",
    ]


def unbeaten_words(result: SearchResult) -> list[str]:
    """A reference that is no worse than the winner in both numbers, said plainly. Nothing if there is none."""
    best = unbeaten(result)
    if best is None:
        return []
    return [f"no network better than {best.label} found: it is no slower than the winner, and its score is no lower"]


def unbeaten(result: SearchResult) -> Candidate | None:
    """The best reference that is no slower than the winner and has no lower score; None if there is none."""
    winner = result.winner
    if winner is None:
        return None
    better = [
        one
        for one in result.references
        if one.latency_ms <= winner.latency_ms and score_of(one) >= score_of(winner) and one.id != winner.id
    ]
    return max(better, key=score_of, default=None)


def _on_images(result: SearchResult) -> str:
    """The command that goes on with images, for the same question."""
    run = result.run
    budgets = ",".join(f"{budget_ms:g}" for budget_ms in run.budgets)
    options = {} if run.whole_front else {"--budget-ms": budgets}
    options |= {"--space": run.space.name} if run.space.name != "iformer" else {}
    options |= {"--table": run.table.name} if run.table.name != _USUAL_TABLE else {}
    options |= {"--confidence": f"{run.confidence:g}"} if run.confidence is not None else {}
    options |= {"--must-fit": run.space.must_fit} if run.space.must_fit else {}
    return " ".join(
        ["nas search", *(f"{name} {shlex.quote(value)}" for name, value in options.items()), "--data IMAGES"]
    )


def _table(result: SearchResult) -> AccuracyTable | None:
    """The table of a run, if it can still be found."""
    try:
        return AccuracyTable.find(str(result.run.proxy["accuracy_table"]))[0]
    except (InputError, KeyError):
        return None


def landmarks(front: Sequence[Candidate]) -> list[Candidate]:
    """The networks of a front that are worth a row: each some 5 % slower than the one before, and the last."""
    shown: list[Candidate] = []
    for candidate in front:
        if not shown or candidate.latency_ms >= shown[-1].latency_ms * (1 + _STEP):
            shown.append(candidate)
    if front and shown[-1] is not front[-1]:
        shown.append(front[-1])
    return shown


def accuracy_words(candidate: Candidate) -> str:
    """A predicted accuracy with its interval."""
    return f"{score_of(candidate):.1f} % [{candidate.details['low']:.1f}, {candidate.details['high']:.1f}]"


def _parts(winner: Candidate) -> list[str]:
    """What each kind of evidence says about the winner."""
    details = winner.details
    said = [
        f"by {words} {details[name]:.1f} % [{details[f'{name} low']:.1f}, {details[f'{name} high']:.1f}]"
        for name, words in WORDS.items()
        if name in details
    ]
    return [f"  {'; '.join(said)}"] if len(said) > 1 else []


def published_words(candidate: Candidate, top1: float | None = None) -> str:
    """The published accuracy and latency of a known network; empty for any other.

    Args:
        candidate: the network.
        top1: its published accuracy in %, where that is known from elsewhere than the candidate.
    """
    details = candidate.details
    known = details.get("published_top1", top1)
    words = [f"{float(known):.1f} %"] if known is not None else []
    words += [f"{float(details['published_ms']):.2f} ms"] if "published_ms" in details else []
    return " at ".join(words)


def _compared(result: SearchResult, reference: Candidate, table: AccuracyTable | None) -> str:
    """The front at the latency of a known network, compared with its published accuracy, or else the predicted one.

    Of a published accuracy nothing is uncertain here; a predicted one has its own interval.
    """
    best = result.best_under(reference.latency_ms)
    known = published_top1(reference, table)
    what = f"{reference.label}, {reference.latency_ms:.3f} ms"
    if published := published_words(reference, known):
        what += f", published {published}"
    if known is None:
        what += f", predicted {accuracy_words(reference)}"
    nothing = f"no network better than {reference.label} found that is no slower"
    if best is None or best.id == reference.id:
        return f"  compared with {what}: {nothing}"
    top1 = known if known is not None else score_of(reference)
    spread = 0.0 if known is not None else (float(reference.details["high"]) - float(reference.details["low"])) / 2
    gain = score_of(best) - top1
    low = gain - math.hypot(score_of(best) - float(best.details["low"]), spread)
    high = gain + math.hypot(float(best.details["high"]) - score_of(best), spread)
    verdict = "better" if low > 0 else f"worse; {nothing}" if high < 0 else "not shown: the interval includes 0"
    who = "the winner" if result.winner and best.id == result.winner.id else f"{best.id}, no slower,"
    return f"  compared with {what}: {who} {gain:+.1f} points [{low:+.1f}, {high:+.1f}], {verdict}"


def published_top1(reference: Candidate, table: AccuracyTable | None) -> float | None:
    """The published ImageNet accuracy of a known network in %, from the latency table or the accuracy table."""
    if "published_top1" in reference.details:
        return float(reference.details["published_top1"])
    if table is None:
        return None
    rows = (row for row in table.published.rows if row.family == table.origin.family)
    return next((row.top1 for row in rows if row.name == reference.name), None)
