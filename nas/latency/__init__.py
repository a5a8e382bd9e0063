"""What a network costs on a device.

A look-up goes from table.py, the table, to entries.py, what stands in it, and to cost_model.py where nothing was
measured. published.py reads what others measured, and calibrate.py fits a cost model to it.

A measurement goes from measure.py, which visits every layer, through drift.py (is the device as fast as it was?),
timing.py (raw runs to a steady time) and visits.py (runs to an entry) to fill.py (layers that were not measured).
check.py then compares sums of layers with whole networks. These need NumPy or SciPy, so import them by file.
"""

from __future__ import annotations

from nas.latency.entries import Agreement, Failed, Filled, Provenance, PublishedTime, Timing
from nas.latency.table import Latency, LatencyTable, LayerLatency

__all__ = [
    "Agreement",
    "Failed",
    "Filled",
    "Latency",
    "LatencyTable",
    "LayerLatency",
    "Provenance",
    "PublishedTime",
    "Timing",
]
