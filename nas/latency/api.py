"""The latency of a network in one call: `nas.latency(...)`, what `nas latency` does from the shell."""

from __future__ import annotations

from pathlib import Path

from nas.latency.table import Latency, LatencyTable
from nas.networks import Architecture, find_network

__all__ = ["latency"]


def latency(network: str | Path | Architecture, table: str | Path | LatencyTable = "iphone13") -> Latency:
    """Predict the latency of a network, layer by layer.

    Args:
        network: a known network such as `"iformer_m"`, an architecture file, or an architecture.
        table: a name or its beginning, a .json file, or a table.
    Raises:
        InputError: there is no such network or table.
        MissingLatencyError: the table does not cover a layer.

    Examples:
        >>> import nas
        >>> found = nas.latency("iformer_m", "iphone13")
        >>> f"{found.latency_ms:.2f} ms, {found.source}, {len(found.layers)} layers"
        '1.09 ms, calibrated, 26 layers'
    """
    if not isinstance(network, Architecture):
        _, network = find_network(str(network))
    if not isinstance(table, LatencyTable):
        table, _ = LatencyTable.find(str(table))
    return table.latency(network)
