"""A full training as figures and facts: how loss and accuracy went, and what it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.report.figures import GREEN, GREY, VERMILLION, Figure, layout_of
from nas.report.networks import column
from nas.report.predicted import as_classifier, is_predicted
from nas.report.winners import score_words
from nas.search import Candidate, SearchResult

if TYPE_CHECKING:
    from nas.training.course import Epoch
    from nas.training.record import TrainingRecord

__all__ = ["full_training", "measures", "training_contents"]

_FOLDER = "trained"  # of a results folder, where nas train puts the trainings of its winners


def full_training(result: SearchResult, candidate: Candidate) -> str:
    """What the best full training of a network of a run reached, in words; empty if none has ended an epoch."""
    found = []
    for folder in sorted((result.path / _FOLDER).glob("*")):
        from nas.training.record import read_training  # which loads torch

        training = read_training(folder)
        if training is None or not training[1]:
            continue
        record, history = training
        if record.task == "classify" and record.candidate_id == candidate.id:
            best = max(history, key=lambda epoch: epoch.figures["top1"])
            epochs = record.recipe["optimisation"]["epochs"]
            words = f"{best.figures['top1']:.1%} top-1, epoch {best.epoch} of {epochs} on {record.data}"
            found.append((best.figures["top1"], words))
    return max(found)[1] if found else ""


def measures(result: SearchResult, winner: Candidate) -> list[str]:
    """What is known of a winner by different measures, each beside the others; nothing where one alone is known."""
    known = []
    predicted = result.screened.get(winner.id, {}).get("accuracy-table")
    if is_predicted(result):
        known.append(f"{score_words(winner)} top-1 on ImageNet{as_classifier(result)}, predicted")
    elif predicted is not None:
        known.append(f"{predicted:.1f} % top-1 on ImageNet{as_classifier(result)}, predicted")
    if not is_predicted(result):
        known.append(f"{score_words(winner)} by {result.run.proxy['name']}")
    if winner.id in result.settled_values:
        known.append(f"{result.settled_values[winner.id]:.4f} by {result.settles} from the supernet")
    if full := full_training(result, winner):
        known.append(f"{full}, trained in full")
    return [f"  how good it is, by each measure: {'; '.join(known)}"] if len(known) > 1 else []


def training_contents(record: TrainingRecord, history: Sequence[Epoch]) -> dict[str, Any]:
    """What the page of a training shows: title, facts, figures by name, and the epochs as rows."""
    best = max(history, key=lambda epoch: epoch.figures["top1"])
    optimisation = record.recipe["optimisation"]
    facts = {
        "Network": f"{record.name} ({record.architecture.id}), {record.architecture.summary}",
        "Images": f"{record.data}, at {record.architecture.resolution} px",
        "Best": f"top-1 {best.figures['top1']:.2%} on held-out images, epoch {best.epoch} of {optimisation['epochs']}",
        "Weights at first": record.start,
        "Teacher": record.teacher or "none",
        "Step": f"{optimisation['batch_size']} images, AdamW at {optimisation['rate']:.2g}",
        "Ran on": f"{record.device}, {record.processes} process(es), {record.precision}",
        "Versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
    }
    rows = [
        (
            str(one.epoch),
            f"{one.images:,}",
            f"{one.loss:.4f}",
            f"{one.figures['top1']:.2%}",
            f"{one.figures['top5']:.2%}",
            f"{one.figures['cross_entropy']:.4f}",
            f"{one.rate:.2e}",
            f"{one.images_per_s:.1f}",
        )
        for one in history
    ]
    return {
        "name": record.name,
        "facts": facts,
        "heads": ("epoch", "images seen", "loss", "top-1", "top-5", "nats, held out", "rate", "images/s"),
        "rows": rows,
        "script": {
            "figures": {"accuracy": _accuracy(history), "loss": _loss(history)},
        },
    }


def _accuracy(history: Sequence[Epoch]) -> Figure:
    names = {"top1": ("top-1", GREEN, "solid"), "top5": ("top-5", GREY, "dot")}
    lines = [_line(history, [100 * one.figures[key] for one in history], *style) for key, style in names.items()]
    return {
        "title": "Accuracy on held-out images",
        "data": lines,
        "layout": layout_of("epoch", "%") | {"showlegend": True},
    }


def _loss(history: Sequence[Epoch]) -> Figure:
    lines = [
        _line(history, [one.loss for one in history], "training", VERMILLION, "solid"),
        _line(history, [one.figures["cross_entropy"] for one in history], "held out", GREY, "dot"),
    ]
    return {"title": "Loss", "data": lines, "layout": layout_of("epoch", "nats") | {"showlegend": True}}


def _line(history: Sequence[Epoch], values: Sequence[float], name: str, colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [one.epoch for one in history],
        "y": column(values),
        "line": {"color": colour, "width": 2, "dash": dash},
    }
