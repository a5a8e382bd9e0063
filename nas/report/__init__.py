"""Results as words, figures and pages.

words.py says what a search found, winners.py what is best inside each budget, sections.py what a validation says,
verdict.py that in a few lines. notation.py writes a network in a line.

A page is made of three parts. contents.py gathers what it shows as plain records: networks.py the candidates,
literature.py the published networks, course.py how the search went, front.py and figures.py the figures; only the last
imports Plotly. templates/ has its look, and the scripts that draw it. page.py writes the files that people open. The
names here are resolved on first use: `nas front` loads neither figures nor validations.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.report.notation import BLOCKS, amounts, by_stage, size_words, table_words
    from nas.report.page import write_plot, write_report, write_training, write_validation
    from nas.report.predicted import (
        accuracy_words,
        as_classifier,
        is_predicted,
        landmarks,
        published_words,
        survey_steps,
    )
    from nas.report.sections import Section, validation_sections
    from nas.report.tracking import open_tracker
    from nas.report.winners import (
        candidates_table,
        latency_words,
        quantity_words,
        score_words,
        shown_front,
        standard_error,
        winners_table,
    )
    from nas.report.words import outcome, summary

__all__ = [
    "BLOCKS",
    "Section",
    "accuracy_words",
    "amounts",
    "as_classifier",
    "by_stage",
    "candidates_table",
    "is_predicted",
    "landmarks",
    "latency_words",
    "open_tracker",
    "outcome",
    "published_words",
    "quantity_words",
    "score_words",
    "shown_front",
    "size_words",
    "standard_error",
    "summary",
    "survey_steps",
    "table_words",
    "validation_sections",
    "winners_table",
    "write_plot",
    "write_report",
    "write_training",
    "write_validation",
]

_HOMES = {
    "BLOCKS": "notation",
    "Section": "sections",
    "accuracy_words": "predicted",
    "amounts": "notation",
    "as_classifier": "predicted",
    "by_stage": "notation",
    "candidates_table": "winners",
    "is_predicted": "predicted",
    "landmarks": "predicted",
    "latency_words": "winners",
    "open_tracker": "tracking",
    "outcome": "words",
    "published_words": "predicted",
    "quantity_words": "winners",
    "score_words": "winners",
    "shown_front": "winners",
    "size_words": "notation",
    "standard_error": "winners",
    "summary": "words",
    "survey_steps": "predicted",
    "table_words": "notation",
    "validation_sections": "sections",
    "winners_table": "winners",
    "write_plot": "page",
    "write_report": "page",
    "write_training": "page",
    "write_validation": "page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas.report' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nas.report.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
