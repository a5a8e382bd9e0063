"""Terminal output: data to stdout; words and progress bars to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

__all__ = [
    "data_watch",
    "print_data",
    "print_json",
    "print_table",
    "progress_bar",
    "say",
    "say_candidate",
    "say_progress",
    "say_settled",
]

if TYPE_CHECKING:
    from nas.search import Candidate, Screening
    from nas.search.run import Progress


def print_data(text: str, *, end: str = "\n") -> None:
    """Print data, to stdout."""
    sys.stdout.write(text + end)


def say(text: str) -> None:
    """Print words, to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(table: Any) -> None:
    """Print a table of rich, to stdout."""
    from rich.console import Console

    # Wide enough that rows are never folded if stdout is a file or a pipe.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    console.print(table)


def print_json(document: object) -> None:
    """Print one JSON document, to stdout."""
    print_data(json.dumps(document))


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A progress bar with the time left, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar


@contextmanager
def data_watch() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for loading data."""
    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, total=total, completed=done, description=what)


def say_candidate(candidate: Candidate) -> None:
    """Print one line for a finished candidate."""
    outcome = f"score {candidate.score:.4f}" if candidate.score is not None else f"failed: {candidate.failure}"
    say(f"{candidate.label:12s}  {candidate.latency_ms:.3f} ms  {outcome}  {candidate.seconds:.0f} s")


def say_settled(candidate: Candidate, settled: Screening) -> None:
    """Print one line for a network of the last comparison."""
    outcome = f"score {settled.value:.4f}" if settled.value is not None else f"failed: {settled.failure}"
    say(f"{candidate.label:12s}  settled by {settled.proxy}: {outcome}  {settled.seconds:.0f} s")


def say_progress(progress: Progress) -> None:
    """Print one line per finished candidate, and one at the end."""
    last = progress.last
    if last is None:
        say(f"ended: {progress.ended}")
        return
    outcome = f"score {last.score:.4f}" if last.score is not None else f"failed: {last.failure}"
    best = f"best {progress.best.score:.4f} at {progress.best.latency_ms:.3f} ms" if progress.best else "no best yet"
    turned = f"{progress.over_budget} of {progress.proposed} proposals over budget"
    turned += f", {progress.screened} networks screened" if progress.screened else ""
    this = f"{progress.scored:4d}  {last.label:12s}  {last.latency_ms:.3f} ms  {outcome}  {last.seconds:.0f} s"
    say(f"{this}  | {best}; {turned}")
