"""A survey in words: what an accuracy table foretells, beside what is published, and what no label supports."""

from __future__ import annotations

from collections.abc import Sequence

from nas.accuracy import WORDS, AccuracyTable, beyond, differences
from nas.errors import InputError
from nas.networks import count
from nas.search import Candidate, SearchResult, score_of

__all__ = ["accuracy_words", "is_predicted", "landmarks", "predicted_summary", "published_words"]

_STEP = 0.05  # relative difference in latency between the rows of a front that are printed


def is_predicted(result: SearchResult) -> bool:
    """Whether the scores of a run are predicted ImageNet accuracies, which are printed as such."""
    return result.run.proxy.get("proxy") == "accuracy-table"


def predicted_summary(result: SearchResult) -> list[str]:
    """The outcome of a survey in a few lines."""
    winner = result.winner
    if winner is None:
        return [f"{result.path}: no network inside {result.run.budget_ms:g} ms was found"]
    counts = count(winner.architecture)
    references = sorted(result.references, key=lambda c: c.latency_ms)
    lines = [
        f"winner {winner.id}: {winner.latency_ms:.3f} ms [{winner.low_ms:.3f}, {winner.high_ms:.3f}] of "
        f"{result.run.budget_ms:g} ms, predicted ImageNet top-1 {accuracy_words(winner)}",
        f"  {winner.architecture.summary}; {counts.params / 1e6:.2f} M parameters, {counts.macs / 1e9:.2f} GMACs",
        *_parts(winner),
        *(_beside(winner, reference) for reference in references),
    ]
    if references:
        nearest = references[-1]
        parts = differences(winner.architecture, nearest.architecture)
        lines.append(f"what separates it from {nearest.label} (in brackets): {', '.join(parts) or 'nothing'}")
    lines += _without_labels(result, winner)
    looked_at = winner.details.get("looked_at", len(result.scored))
    return [
        *lines,
        f"{looked_at} networks looked at, {len(result.front)} on the front; files in {result.path}",
        f"latency: {result.run.table.origin} (predicted; {result.run.table.trust or 'see the table for its errors'})",
        "accuracy: foretold by an accuracy table, nothing was trained or measured "
        f"({result.run.proxy.get('trust', 'its errors are not known')}); "
        "ordered by the lower end of the 90 % interval",
        "go on with:",
        f"  nas search --budget-ms {result.run.budget_ms:g} --data YOUR_IMAGES      scores networks on your images",
        f"  python -c \"import nas; nas.build_model(nas.Architecture.load('{result.path}/winner.json'))\""
        "       builds the winner, for training in full",
    ]


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


def published_words(candidate: Candidate) -> str:
    """The published accuracy and latency of a known network; empty for any other."""
    details = candidate.details
    top1 = f"{float(details['published_top1']):.1f} %" if "published_top1" in details else ""
    return f"{top1} at {float(details['published_ms']):.2f} ms" if "published_ms" in details else top1


def _beside(winner: Candidate, reference: Candidate) -> str:
    """The winner beside a known network: beside its published accuracy if there is one, else the predicted one."""
    published = reference.details.get("published_top1")
    known = float(published) if published is not None else score_of(reference)
    low, high = (float(winner.details[end]) - known for end in ("low", "high"))
    verdict = "better" if low > 0 else "worse" if high < 0 else "less than the interval, so not shown"
    what = f"published {published_words(reference)}" if published is not None else f"predicted {known:.1f} %"
    return (
        f"  beside {reference.label} (predicted {reference.latency_ms:.3f} ms; {what}): "
        f"{score_of(winner) - known:+.1f} points [{low:+.1f}, {high:+.1f}], {verdict}"
    )


def _without_labels(result: SearchResult, winner: Candidate) -> list[str]:
    try:
        table, _ = AccuracyTable.find(str(result.run.proxy["accuracy_table"]))
    except (InputError, KeyError):
        return []  # The user has moved the table.
    parts = beyond(winner.architecture, table.published.ranges)
    if not parts:
        return ["it lies within the range of the published networks of the family"]
    return [f"no published network of the family supports (their range in brackets): {', '.join(parts)}"]
