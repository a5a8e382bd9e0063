"""What a network is worth, before any training: accuracy tables, the twins of latency tables. No torch.

traits.py turns a network into numbers, process.py foretells accuracies from those that are known, table.py is the file
in accuracy_tables/ and the look-up in it, and fit.py makes one. structure.py says in words where two networks differ.
"""

from __future__ import annotations

from nas.accuracy.structure import beyond, differences
from nas.accuracy.table import Accuracy, AccuracyTable

__all__ = ["Accuracy", "AccuracyTable", "beyond", "differences"]
