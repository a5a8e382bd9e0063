"""Results as words, figures and pages.

words.py says what a search found, winners.py what is best inside each budget, sections.py what a validation says.
figures.py draws both; only that file imports Plotly. page.py writes the files that people open.
"""

from __future__ import annotations

from nas.report.figures import write_plot
from nas.report.page import write_report, write_validation
from nas.report.predicted import accuracy_words, is_predicted, landmarks, published_words
from nas.report.sections import Section, validation_sections
from nas.report.tracking import open_tracker
from nas.report.winners import quantity_words, score_words, shown_front, winners_table
from nas.report.words import screening_values, summary

__all__ = [
    "Section",
    "accuracy_words",
    "is_predicted",
    "landmarks",
    "open_tracker",
    "published_words",
    "quantity_words",
    "score_words",
    "screening_values",
    "shown_front",
    "summary",
    "validation_sections",
    "winners_table",
    "write_plot",
    "write_report",
    "write_validation",
]
