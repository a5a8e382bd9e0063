"""The networks of a page as columns of plain JSON: all that a browser needs to draw any one of 10,000 candidates.

A network is a list of layers, and thousands of networks share some hundreds of layers. So each distinct layer is
written once, with its latency and size, and a network refers to its layers by number: `0 3x2 17` is layer 0, then layer
3 twice, then layer 17. The script of the page adds up what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, assert_never

from nas.errors import InputError, MissingLatencyError
from nas.latency import LatencyTable, Timing
from nas.networks import (
    Architecture,
    AttentionLayer,
    ConvLayer,
    DownsampleLayer,
    HeadLayer,
    Layer,
    StemLayer,
    count_layer,
)
from nas.report.winners import standard_error
from nas.search import Candidate, SearchResult

__all__ = ["ROLES", "NetworkColumns", "column", "score_interval", "table_of"]

# What a network is in its run; the page refers to them by number.
ROLES = ("winner", "front", "reference", "dominated", "over budget", "failed", "published")


class NetworkColumns:
    """Networks and their distinct layers, gathered one network after the other.

    Example:
        >>> from nas.networks import SearchSpace
        >>> columns = NetworkColumns()
        >>> columns.add(SearchSpace.find("iformer").references["iformer_t"], role="published", name="iformer_t")
        0
        >>> columns.data()["layers"][0]
        '0 1x2 2 3x2 4 5x6 6x3 5 7 8x2 9'
    """

    def __init__(self) -> None:
        self._layers: dict[tuple[str, str], int] = {}  # (table, key) -> number
        self._of_layers: dict[str, list[Any]] = {name: [] for name in _LAYER_COLUMNS}
        self._parts: dict[str, int] = {}  # what a layer is made of, as text -> number
        self._part_values: list[dict[str, Any]] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self._sparse: dict[str, dict[int, Any]] = {"name": {}, "failure": {}, "layer_scale": {}}

    def __len__(self) -> int:
        return len(self._columns["id"])

    def add(
        self,
        network: Architecture,
        *,
        role: str,
        name: str | None = None,
        candidate: Candidate | None = None,
        table: LatencyTable | None = None,
        latency: tuple[float, float, float] | None = None,
    ) -> int:
        """Add a network, and return its number.

        Args:
            network: what it is made of.
            role: one of ROLES.
            name: of a known network.
            candidate: its latency and score; a published network has none.
            table: gives the latency of each layer. Without one, the layers have none.
            latency: prediction in ms with the ends of its interval, where there is no candidate.
        """
        number = len(self)
        score = None if candidate is None else candidate.score
        low, high = (None, None) if candidate is None or score is None else score_interval(candidate)
        times = latency if candidate is None else (candidate.latency_ms, candidate.low_ms, candidate.high_ms)
        row = {
            "id": network.id if candidate is None else candidate.id,
            "role": ROLES.index(role),
            **dict(zip(("ms", "ms_low", "ms_high"), map(_digits, times or (None,) * 3), strict=True)),
            "score": _digits(score),
            "score_low": _digits(low),
            "score_high": _digits(high),
            "layers": self._runs(network, table),
        }
        for key, value in row.items():
            self._columns[key].append(value)
        facts = {
            "name": name,
            "failure": candidate.failure if candidate else None,
            "layer_scale": network.layer_scale or None,
        }
        for key, fact in facts.items():
            if fact is not None:
                self._sparse[key][number] = fact
        return number

    def data(self) -> dict[str, Any]:
        """Columns as JSON: those of the networks, `of_layers` those of the layers, and what a few networks have."""
        return {
            "roles": ROLES,
            **self._columns,
            "of_layers": {**self._of_layers, "parts": self._part_values},
            "some": self._sparse,
        }

    def _runs(self, network: Architecture, table: LatencyTable | None) -> str:
        numbers = self._numbers(network, table)
        runs = ((number, len(list(same))) for number, same in groupby(numbers))
        return " ".join(f"{number}x{count}" if count > 1 else str(number) for number, count in runs)

    def _numbers(self, network: Architecture, table: LatencyTable | None) -> list[int]:
        scaled = network.layer_scale > 0
        where = f"{'' if table is None else id(table)} {scaled}"
        numbers = []
        for layer in network.layers():
            key = where, layer.key
            if key not in self._layers:
                self._layers[key] = len(self._layers)
                self._write(layer, table, scaled=scaled)
            numbers.append(self._layers[key])
        return numbers

    def _write(self, layer: Layer, table: LatencyTable | None, *, scaled: bool) -> None:
        counts, part = count_layer(layer, scaled=scaled), _part(layer)
        latency_ms, is_filled = _latency(layer, table)
        if (text := repr(part)) not in self._parts:
            self._parts[text] = len(self._parts)
            self._part_values.append(part)
        row = {
            "kind": _kind(layer),
            "channels": layer.channels,
            "size": layer.height,
            "part": self._parts[text],
            "ms": _digits(latency_ms, 5),
            "filled": int(is_filled),
            "params": counts.params,
            "macs": counts.macs,
            "memory": counts.memory_bytes,
        }
        for key, value in row.items():
            self._of_layers[key].append(value)


_COLUMNS = ("id", "role", "ms", "ms_low", "ms_high", "score", "score_low", "score_high", "layers")
_LAYER_COLUMNS = ("kind", "channels", "size", "part", "ms", "filled", "params", "macs", "memory")


def _latency(layer: Layer, table: LatencyTable | None) -> tuple[float | None, bool]:
    """Latency of a layer in ms, and whether it is filled in; None without a table, or where the table has none."""
    if table is None:
        return None, False
    try:
        latency_ms = table.layer_ms(layer)
    except MissingLatencyError:
        return None, False
    is_measured = isinstance(table.entries.get(layer.key), Timing)
    return latency_ms, table.provenance.source == "measured" and not is_measured


def _kind(layer: Layer) -> str:
    match layer:
        case StemLayer():
            return "stem"
        case DownsampleLayer():
            return "downsample"
        case ConvLayer():
            return "conv"
        case AttentionLayer():
            return "attention"
        case HeadLayer():
            return "head"
        case _:
            assert_never(layer)


def _part(layer: Layer) -> dict[str, Any]:
    """What the JSON form of an architecture says of a layer."""
    match layer:
        case StemLayer():
            return {"kernel": layer.kernel, "expansion": layer.expansion}
        case DownsampleLayer():
            return {"kernel": layer.kernel}
        case ConvLayer():
            return {"type": "conv", "kernel": layer.kernel, "expansion": layer.expansion}
        case AttentionLayer():
            spec = layer.spec.model_dump(mode="json", exclude_none=True)
            return {key: value for key, value in spec.items() if key != "window" or value}
        case HeadLayer():
            return {"num_classes": layer.num_classes}
        case _:
            assert_never(layer)


def _digits(value: float | None, digits: int = 6) -> float | None:
    """A number with as many digits as a page needs; None for what JSON has no number for."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def score_interval(candidate: Candidate) -> tuple[float | None, float | None]:
    """Interval of a score: as the proxy gives it, else one standard error to both sides; None if neither is known."""
    details, score = candidate.details, candidate.score
    if {"low", "high"} <= details.keys():
        return float(details["low"]), float(details["high"])
    error = 0.0 if score is None else standard_error(candidate)
    return (None, None) if score is None or not error else (score - error, score + error)


def table_of(result: SearchResult) -> LatencyTable | None:
    """The latency table of a run, if it can be found and has not changed since."""
    try:
        table, _ = LatencyTable.find(result.run.table.name)
    except InputError:
        return None
    return table if table.digest() == result.run.table.digest else None


def column(values: Iterable[float | None], digits: int = 6) -> Sequence[float | None]:
    """Numbers as a column of a page."""
    return [_digits(value, digits) for value in values]
