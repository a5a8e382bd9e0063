"""What a network costs on a device.

This package is a function as well, that of api.py: `nas.latency("iformer_m", "iphone13")`.

Lookup: table.py is the latency table and entries.py is its contents. cost_model.py predicts layers that were not
measured. calibrate.py fits a cost model to the times that others published, which published.py reads.

Measurement: measure.py times every layer. drift.py watches whether the device is still as fast as before. timing.py
turns raw runs into a steady time, and visits.py turns the runs of a layer into an entry. fill.py fills in layers that
were not measured. check.py then compares sums of layers with whole networks.

The files of the measurement and calibrate.py load NumPy or SciPy. To keep this package light, import from these files.
"""

from __future__ import annotations

from nas.latency.entries import Agreement, Failed, Filled, Provenance, PublishedTime, Timing
from nas.latency.table import Latency, LatencyTable, LayerLatency
from nas.packages import also_function

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

also_function(__name__, "nas.latency.api")
