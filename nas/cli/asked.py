"""What a search was asked for on the command line, apart from its proxies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import options
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.data import DataSource
    from nas.latency import LatencyTable
    from nas.networks import SearchSpace
    from nas.search import Limits, Quantity

__all__ = ["Asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of a search that do not belong to its proxies.

    Attributes:
        space: the networks to choose from.
        table: predicts their latency.
        names: of `space` and `table`.
        data: source of the images; None without --data.
        budgets_ms: the budgets, ascending. None for the whole front.
        confidence: coverage of the interval whose upper end the budgets limit.
        limits: further upper limits.
        objectives: what the front shows besides the latency.
        trials: candidates to score.
        time_limit_s: when the search ends.
        seed: random seed.
        sampler: what proposes networks.
        storage: an Optuna storage URL.
        shared: a folder or object store that all workers share.
        workers: processes that score.
        track: where each candidate is logged as well.
        further_tables: latency tables beside `table`, by name.
        out: the results folder.
        resume: go on with the run in it.
    """

    space: SearchSpace
    table: LatencyTable
    names: dict[str, str]
    data: DataSource | None
    budgets_ms: tuple[float, ...] | None
    confidence: float | None
    limits: Limits
    objectives: tuple[Quantity, ...]
    trials: int | None
    time_limit_s: float | None
    seed: int
    sampler: str | None
    storage: str | None
    shared: str | None
    workers: int | None
    track: tuple[str, ...]
    further_tables: dict[str, LatencyTable]
    out: Path
    resume: bool

    @property
    def command(self) -> list[str]:
        """The command line."""
        return options.command_line()

    def refuse_study(self) -> None:
        """Refuse options of a study where there is none.

        Raises:
            InputError: there is such an option.
        """
        given = {
            "--storage": self.storage,
            "--sampler": self.sampler,
            "--workers": self.workers,
            "--shared": self.shared,
            "--track": self.track or None,
            "--limit": len(self.limits) or None,
            "--objective": self.objectives or None,
        }
        for name, value in given.items():
            if value is not None:
                raise InputError(
                    f"{name} is for searches by --proxy that train; this one has no use for it: leave it out"
                )
