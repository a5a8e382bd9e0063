"""What a network is worth, before any training: accuracy tables, the twins of latency tables. No torch.

published.py foretells from published accuracies, by what operations a network has (traits.py). trained.py foretells
from the scores of supernets, by what it is made of (structure.py). Both are Gaussian processes (process.py). table.py
is the file in accuracy_tables/, and weighs the two; fit.py makes one.
"""

from __future__ import annotations

from nas.accuracy.classifier import classifier_of, classifier_words
from nas.accuracy.structure import beyond, differences
from nas.accuracy.table import WORDS, Accuracy, AccuracyTable

__all__ = ["WORDS", "Accuracy", "AccuracyTable", "beyond", "classifier_of", "classifier_words", "differences"]
