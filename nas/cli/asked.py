"""What a search was asked for on the command line, apart from its proxies."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import options
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.data import DataSource
    from nas.latency import LatencyTable
    from nas.networks import SearchSpace
    from nas.search import Limits, Quantity, SearchResult

__all__ = ["Asked", "is_complete"]

_OF_ONE_CALL = ("--resume", "--json")  # with --out and its folder; they ask a run for nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of a search that do not belong to its proxies.

    Attributes:
        space: the networks to choose from.
        table: predicts their latency.
        names: of `space` and `table`.
        task: what the images are for, one of `nas.search.images.TASKS`.
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
    task: str
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


def is_complete(before: SearchResult, asked: Asked) -> bool:
    """Whether a run to go on with has all candidates that it was asked for, and nothing else is asked for now."""
    scored, run = sum(one.kind == "searched" for one in before.candidates), before.run
    tables = {asked.names["table"]: asked.table, **asked.further_tables}
    return (
        asked.trials is not None
        and scored >= asked.trials
        and _wanted(shlex.split(run.command)) == _wanted(asked.command)
        and run.space.digest == asked.space.digest
        and {one.digest for one in (run.table, *run.further_tables)} == {one.digest() for one in tables.values()}
    )


def _wanted(command: Iterable[str]) -> list[str]:
    """The words of a command line about the run itself, in any order."""
    words, found = iter(command), []
    for word in words:
        if word == "--out":
            next(words, None)
        elif word not in _OF_ONE_CALL and not word.startswith("--out="):
            found.append(word)
    return sorted(found)
