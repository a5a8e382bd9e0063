"""What a search may limit or lower beside its latency: parameters, multiply-adds, memory, the latency on other tables.

Each of them is a `Quantity`. It has a value for a network, and for thousands of rows of a space at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from nas import catalog
from nas.errors import BudgetError, InputError, MissingLatencyError, visible
from nas.latency import LatencyTable
from nas.networks import Architecture, Layer, SearchSpace, count_layer
from nas.networks.encoding import Encoding, Rows

__all__ = ["QUANTITIES", "Limit", "Limits", "Quantity", "find_quantities", "latency_on"]

Floats = npt.NDArray[np.float64]

_NONE = "none"  # in place of what a run has, to drop it at a resume

# A sum over rows differs from that over a network in the last digits. Whole numbers below 10^12 are compared exactly.
_TOLERANCE = 1e-12
_SHOWN = 60  # characters of a text in a message
_FACTORS = {"k": 1e3, "m": 1e6, "g": 1e9, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A property of networks that a table or a count knows; lower is better.

    Attributes:
        name: as in `--limit NAME=NUMBER`.
        unit: `B` (bytes), `ms`, or nothing for a count.
        meaning: what it is, in words.
        of_layer: its value for a layer, in a network with layer scale or without.
        greatest: the value of a network is the greatest of its layers instead of their sum.
        beside: what a network has beside its layers, such as the cost of the call.
    """

    name: str
    unit: str
    meaning: str
    of_layer: Callable[[Layer, bool], float]
    greatest: bool = False
    beside: float = 0.0

    def value(self, network: Architecture) -> float:
        """The value of a network. Infinite if one of its layers failed on the device.

        Raises:
            MissingLatencyError: the table neither has an entry nor a model for a layer.
        """
        scaled = network.layer_scale > 0
        return self._combine(self.of_layer(layer, scaled) for layer in network.layers()) + self.beside

    def of_rows(self, encoding: Encoding) -> Callable[[Rows], Floats]:
        """What gives the values of rows, (N,): above a million a second, once each layer of the space is looked up.

        Raises:
            MissingLatencyError: as for `value`; the table does not cover the space.
        """
        scaled = encoding.space.layer_scale > 0
        combined = encoding.maxima if self.greatest else encoding.sums
        of_layers = combined(lambda layer, _: self.of_layer(layer, scaled))
        return lambda rows: of_layers(rows) + self.beside

    def least(self, space: SearchSpace) -> Architecture:
        """The network of the space with the least value."""
        scaled = space.layer_scale > 0
        combine = max if self.greatest else sum
        return space.extreme(lambda layer: self.of_layer(layer, scaled), combine=combine)

    def check(self, space: SearchSpace) -> None:
        """Refuse a table that does not cover the space.

        Raises:
            MissingLatencyError: it does not.
        """
        for layer in space.layers:
            self.of_layer(layer, space.layer_scale > 0)

    def shown(self, value: float) -> str:
        """A value with its unit.

        Examples:
            >>> QUANTITIES["params"].shown(8_879_128), QUANTITIES["memory"].shown(1_806_336)
            ('8.879M', '1.806 MB')
        """
        if self.unit == "ms":
            return f"{value:.4g} ms"
        factor, letter = next(
            ((factor, letter) for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= factor), (1.0, "")
        )
        return f"{value / factor:.4g}{' ' if self.unit else ''}{letter}{self.unit}"

    def _combine(self, values: Iterable[float]) -> float:
        return max(values) if self.greatest else sum(values)


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity(
            name="params",
            unit="",
            meaning="parameters",
            of_layer=lambda layer, scaled: count_layer(layer, scaled=scaled).params,
        ),
        Quantity(name="macs", unit="", meaning="multiply-adds", of_layer=lambda layer, _: count_layer(layer).macs),
        Quantity(
            name="memory",
            unit="B",
            meaning="peak activation memory (fp16, batch 1)",
            of_layer=lambda layer, _: count_layer(layer).memory_bytes,
            greatest=True,
        ),
    )
}


def latency_on(name: str, table: LatencyTable) -> Quantity:
    """The latency that a table predicts, in ms, without an interval.

    Args:
        name: of the table; it names the quantity.
        table: the table.
    """

    def of_layer(layer: Layer, _: bool) -> float:
        try:
            return table.layer_ms(layer)
        except MissingLatencyError as error:
            raise MissingLatencyError(f"{name}: {error}") from error

    return Quantity(
        name=name,
        unit="ms",
        meaning=f"latency on {name} ({table.provenance.label})",
        of_layer=of_layer,
        beside=table.call_ms + (table.model.overhead_ms if table.model else 0.0),
    )


def find_quantities(
    names: Sequence[str], tables: Mapping[str, LatencyTable], *, where: str = "--objective"
) -> tuple[Quantity, ...]:
    """The quantities of these names, each once.

    Args:
        names: `params`, `macs`, `memory`, or the name of a table or the unique beginning of it; or `none` alone.
        tables: those of the search by their whole names.
        where: the option, for messages.
    Raises:
        InputError: there is no such quantity, or one comes twice.
    """
    found: dict[str, Quantity] = {}
    if list(names) == [_NONE]:
        return ()
    for name in names:
        quantity = _find(name, tables, where)
        if quantity.name in found:
            raise InputError(f"{where}: {quantity.name} is there twice: give it once")
        found[quantity.name] = quantity
    return tuple(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The most that a quantity may be."""

    quantity: Quantity
    most: float

    def excess(self, value: float | Floats) -> float | Floats:
        """How far a value is above the limit, in multiples of the limit; at most 0 inside."""
        return value / (self.most * (1 + _TOLERANCE)) - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that a network must all keep.

    Examples:
        >>> limits = Limits.parse(["params=9M", "memory=2MB"])
        >>> limits.excess(SearchSpace.find("iformer").references["iformer_m"]) <= 0
        True
        >>> limits.record()
        {'params': 9000000.0, 'memory': 2000000.0}
    """

    limits: tuple[Limit, ...] = ()

    @classmethod
    def parse(
        cls, texts: Sequence[str], tables: Mapping[str, LatencyTable] | None = None, *, where: str = "--limit"
    ) -> Self:
        """Limits as people write them: `params=9e6`, `macs=1.5G`, `memory=4MB`, `TABLE=20` or `TABLE=20ms`.

        `k`, `M` and `G` are powers of 1000, `Ki`, `Mi` and `Gi` powers of 1024.

        Args:
            texts: one limit each; or `none` alone.
            tables: those of the search by their whole names. A limit may name a table by a unique beginning.
            where: the option, for messages.
        Raises:
            InputError: a text is no limit, its name is unknown, its number is not positive, or a name comes twice.
        """
        if list(texts) == [_NONE]:
            return cls()
        pairs = [[part.strip() for part in text.rpartition("=")] for text in texts]
        for text, (name, _, _) in zip(texts, pairs, strict=True):
            if not name:
                raise InputError(f"{where} must be NAME=NUMBER, such as params=9e6, got {_quoted(text)}")
        quantities = find_quantities([name for name, _, _ in pairs], tables or {}, where=where)
        numbers = [
            _number(number, quantity, f"{where} {quantity.name}")
            for quantity, (_, _, number) in zip(quantities, pairs, strict=True)
        ]
        return cls(tuple(Limit(quantity=own, most=most) for own, most in zip(quantities, numbers, strict=True)))

    @classmethod
    def of_record(cls, record: Mapping[str, float], tables: Mapping[str, LatencyTable], *, where: str) -> Self:
        """The limits of a run, from what `record` gave.

        Args:
            record: names and limits.
            tables: as for `parse`.
            where: the file, for messages.
        Raises:
            InputError: as for `parse`.
        """
        return cls.parse([f"{name}={most!r}" for name, most in record.items()], tables, where=where)

    def record(self) -> dict[str, float]:
        """Name and limit of each, for run.json; the record of a table is kept beside it."""
        return {limit.quantity.name: limit.most for limit in self.limits}

    def __len__(self) -> int:
        return len(self.limits)

    def values(self, network: Architecture) -> dict[str, float]:
        """The limited quantities of a network, by name."""
        return {limit.quantity.name: limit.quantity.value(network) for limit in self.limits}

    def excess(self, network: Architecture) -> float:
        """How far a network is above the limit that it breaks most, as a share of that limit; at most 0 inside.

        -1 without limits. Optuna's constraints have the same sign.
        """
        return max((float(limit.excess(limit.quantity.value(network))) for limit in self.limits), default=-1.0)

    def excess_of(self, encoding: Encoding) -> Callable[[Rows], Floats]:
        """What gives the excess of rows, (N,)."""
        parts = [(limit, limit.quantity.of_rows(encoding)) for limit in self.limits]

        def excess(rows: Rows) -> Floats:
            greatest = np.full(len(rows), -1.0)
            for limit, values in parts:
                greatest = np.maximum(greatest, limit.excess(values(rows)))
            return greatest

        return excess

    def allowed(self, encoding: Encoding) -> Callable[[Rows], npt.NDArray[np.bool_]]:
        """What tells which rows keep all limits, (N,)."""
        excess = self.excess_of(encoding)
        return lambda rows: excess(rows) <= 0

    def check(self, space: SearchSpace) -> list[Architecture]:
        """Refuse a limit that no network of the space keeps, each looked at alone.

        Returns:
            For each limit the network with the least of what is limited.

        Raises:
            BudgetError: there is one.
            MissingLatencyError: a table does not cover the space.
        """
        found = [limit.quantity.least(space) for limit in self.limits]
        for limit, network in zip(self.limits, found, strict=True):
            least = limit.quantity.value(network)
            if limit.excess(least) > 0:
                name, shown = limit.quantity.name, limit.quantity.shown
                raise BudgetError(
                    f"no network of the space keeps {name}={shown(limit.most)}: the least is {shown(least)}; raise the "
                    "limit, or widen the space downwards"
                )
        return found

    def describe(self) -> list[str]:
        """The limits in words, one per line."""
        return [f"limit: {limit.quantity.meaning} at most {limit.quantity.shown(limit.most)}" for limit in self.limits]


def _find(name: str, tables: Mapping[str, LatencyTable], where: str) -> Quantity:
    if name in QUANTITIES:
        return QUANTITIES[name]
    begins = [name] if name in tables else [table for table in tables if name and table.startswith(name)]
    if len(begins) > 1:
        raise InputError(f"{where}: {_quoted(name)} could be any of {', '.join(begins)}; write more of the name")
    if begins:
        return latency_on(begins[0], tables[begins[0]])
    error = catalog.unknown_name("quantity", visible(name, limit=_SHOWN), [*QUANTITIES, *tables])
    shipped = [table for table in catalog.files("latency_tables", ".json") if name and table.startswith(name)]
    hint = f"; for a latency give --table {shipped[0]} as well" if shipped else ""
    raise InputError(f"{where}: {error}{hint}")


def _number(text: str, quantity: Quantity, where: str) -> float:
    """The limit that a text such as 9e6, 9M, 4MB, 4MiB or 20ms is.

    Raises:
        InputError: it is not a positive number.
    """
    example = {"ms": "20 or 20ms", "B": "4e6, 4MB or 4MiB"}.get(quantity.unit, "9e6, 9M or 1.5G")
    rest, factor = text.lower(), 1.0
    if quantity.unit:
        rest = rest.removesuffix(quantity.unit.lower())
    if quantity.unit != "ms":
        letters = next((letters for letters in sorted(_FACTORS, key=len, reverse=True) if rest.endswith(letters)), "")
        rest, factor = rest.removesuffix(letters), _FACTORS.get(letters, 1.0)
    try:
        value = float(rest) * factor
    except ValueError:
        raise InputError(f"{where} must be a number such as {example}, got {_quoted(text)}") from None
    if not 0 < value < math.inf:
        raise InputError(f"{where} must be a positive number such as {example}, got {_quoted(text)}")
    return value


def _quoted(text: str) -> str:
    return repr(visible(text, limit=_SHOWN))
