"""What a validation is asked for, and the published rows that it compares with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas import catalog
from nas.errors import InputError, MissingLatencyError
from nas.latency import LatencyTable
from nas.latency.published import PublishedPoint, read_points
from nas.networks import Architecture, SearchSpace
from nas.validate.records import EPOCHS, RESOLUTION

__all__ = ["Request", "published_points", "read_budgets", "unlike"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked.

    Attributes:
        space: the search space; its references are the published variants.
        table: predicts the latencies.
        points: published rows of the table's device. The table may be fitted to them.
        further: other published rows.
        proxies: names of the proxies. The searches use the first one.
        seeds: random seeds of data and training. The searches use the first one.
        band_networks: number of random networks to score under the first seed, for what stage widths say of the scores;
            0 for none.
        budgets_ms: one search for each budget. Without budgets there is no recovery part.
        trials: candidates of a search.
        time_limit_s: of a search.
        names: names of `space`, `table` and `data`.
        command: the command line.
    """

    space: SearchSpace
    table: LatencyTable
    points: tuple[PublishedPoint, ...]
    further: tuple[PublishedPoint, ...] = ()
    proxies: tuple[str, ...]
    seeds: tuple[int, ...]
    band_networks: int = 0
    budgets_ms: tuple[float, ...] = ()
    trials: int | None = None
    time_limit_s: float | None = None
    names: Mapping[str, str]
    command: Sequence[str] = ()

    def latency_ms(self, network: Architecture) -> float | None:
        """Predicted latency; None if the table cannot predict it."""
        try:
            latency_ms = self.table.latency_ms(network)
        except MissingLatencyError:
            return None
        return latency_ms if math.isfinite(latency_ms) else None

    @property
    def compared(self) -> tuple[PublishedPoint, ...]:
        """The published rows that proxies are compared on."""
        return tuple(point for point in (*self.points, *self.further) if unlike(point) is None)

    @property
    def variants(self) -> dict[str, PublishedPoint]:
        """References of the space with a published latency inside the slowest budget, by name, fastest first.

        A reference without a predicted latency is left out, because no search result can be compared with it.
        """
        published = {
            point.architecture().id: point
            for point in (*self.points, *self.further)
            if point.in_family and point.timed == "network" and point.latency_ms <= max(self.budgets_ms)
        }
        known = {
            name: published[network.id]
            for name, network in self.space.references.items()
            if network.id in published and self.latency_ms(network) is not None
        }
        return dict(sorted(known.items(), key=lambda item: item[1].latency_ms))


def published_points(table: Path, rows: Path | None = None) -> tuple[list[PublishedPoint], list[PublishedPoint]]:
    """The published rows of a table's device (`iphone13.points.csv` for any `iphone13...json`), and the rows of `rows`.

    Raises:
        InputError: there are no rows, a file cannot be used, or both files have a row of the same name or network.
    """
    files = catalog.files("latency_tables", ".points.csv")
    own = files.get(table.name.split(".")[0])
    if own is None and rows is None:
        raise InputError(
            f"--table {table.name.removesuffix('.json')}: no published figures of its device are at hand, only of "
            f"{', '.join(files) or 'none'}; give some with --rows"
        )
    points = read_points(own) if own else []
    further = read_points(rows) if rows else []
    if twice := sorted({point.name for point in points} & {point.name for point in further}):
        raise InputError(f"{rows}: column name: {twice[0]} is in {own} already")
    compared = [point for point in (*points, *further) if unlike(point) is None]
    known = {point.architecture().id: point.name for point in reversed(compared)}
    for point in further:
        if unlike(point) is None and (name := known[point.architecture().id]) != point.name:
            raise InputError(f"{rows}: row {point.name} is the same network as {name}: it would count twice")
    return points, further


def read_budgets(text: str) -> tuple[float, ...]:
    """Read `0.60,0.85` as milliseconds, and `none` as no budget.

    Raises:
        InputError: the text is neither.
    """
    if text == "none":
        return ()
    try:
        budgets = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        budgets = (math.nan,)
    if not all(0 < budget < math.inf for budget in budgets):
        raise InputError(f"--budgets must be milliseconds such as 0.60,1.10, or none, got {text!r}")
    return budgets


def unlike(point: PublishedPoint) -> str | None:
    """Why proxies are not compared on a published row; None if they are."""
    if not point.in_family:
        return point.why_not
    if point.resolution != RESOLUTION:
        return f"{point.resolution} px, the others {RESOLUTION} px"
    if point.top1 is None:
        return "no accuracy is printed"
    if point.epochs != EPOCHS:
        return f"{point.epochs or 'an unknown number of'} epochs, the others {EPOCHS}: accuracies are not comparable"
    return None
