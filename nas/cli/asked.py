"""What a search was asked for on the command line, apart from its proxies."""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["Asked", "default_out"]


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
            "--limit": len(self.limits) or None,
            "--objective": self.objectives or None,
        }
        for name, value in given.items():
            if value is not None:
                raise InputError(
                    f"{name} is for searches by --proxy that train; this one has no use for it: leave it out"
                )


def default_out(space: str, budgets_ms: Sequence[float] | None, *, resume: bool) -> Path:
    """The folder results/SPACE-BUDGETms, with a number if it is taken. With --resume, the last such folder.

    Example:
        >>> default_out("iformer", (0.6, 1.1), resume=False), default_out("iformer", None, resume=False)
        (PosixPath('results/iformer-0.6-1.1ms'), PosixPath('results/iformer-front'))
    """
    what = "front" if budgets_ms is None else "-".join(f"{budget_ms:g}" for budget_ms in budgets_ms) + "ms"
    first = Path("results") / f"{Path(space).stem}-{what}"
    path, number, last = first, 1, first
    while (path / "run.json").exists():
        number, last = number + 1, path
        path = first.with_name(f"{first.name}-{number}")
    return last if resume else path
