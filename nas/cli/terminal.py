"""Terminal output: data to stdout; words and progress bars to stderr."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from nas.errors import visible
from nas.masking import masked

__all__ = [
    "data_watch",
    "end_like_ctrl_c",
    "is_quiet",
    "print_data",
    "print_document",
    "print_json",
    "print_table",
    "progress_bar",
    "quieten",
    "say",
    "say_candidate",
    "say_settled",
]

if TYPE_CHECKING:
    from nas.search import Candidate, Screening


_is_quiet = False


def quieten(is_quiet: bool = True) -> None:
    """Leave out all words and bars from now on; errors and data are still printed."""
    global _is_quiet  # as stdout and stderr, it belongs to the process
    _is_quiet = is_quiet


def is_quiet() -> bool:
    """Whether words and bars are left out."""
    return _is_quiet


def end_like_ctrl_c() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does: everything finished is kept, and devices are closed.

    A signal that is ignored stays ignored: nohup ignores SIGHUP, so that the command outlives its terminal.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def print_data(line: str) -> None:
    """Print a line of data, to stdout; what comes from outside cannot break it (`nas.errors.visible`)."""
    sys.stdout.write(visible(line) + "\n")


def print_document(text: str, *, to: TextIO | None = None) -> None:
    """Print a text of several lines as it is, to stdout or to another stream."""
    (to or sys.stdout).write(text)


def say(line: str, *, is_error: bool = False) -> None:
    """Print a line of words, to stderr, without the passwords of URLs in it; with --quiet only an error."""
    if _is_quiet and not is_error:
        return
    sys.stderr.write(visible(masked(line)) + "\n")
    sys.stderr.flush()


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, to stdout: on a terminal as wide as that is; in a file or a pipe one line a row, whole."""
    from rich.cells import cell_len, set_cell_size

    shown = [[visible(cell) for cell in row] for row in (header, *rows)]
    if sys.stdout.isatty():
        _print_on_terminal(shown)
        return
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = (set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(" " + "  ".join(cells).rstrip() + "\n")


def _print_on_terminal(rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    header, *others = ([Text(cell) for cell in row] for row in rows)  # Text is no markup.
    table = Table(*map(Column, header), box=None)
    for row in others:
        table.add_row(*row)
    Console(file=sys.stdout, highlight=False).print(table)


def print_json(document: object) -> None:
    """Print one JSON document, to stdout, on one line. What is no number is null: JSON has no NaN."""
    sys.stdout.write(json.dumps(_finite(document), allow_nan=False) + "\n")


def _finite(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case _:
            return value


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
        TextColumn("{task.description}", markup=False),  # Names from outside are no markup.
    )
    with Bar(*columns, console=Console(stderr=True, quiet=_is_quiet), transient=True) as bar:
        yield bar


@contextmanager
def data_watch() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for loading data."""
    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, total=total, completed=done, description=visible(what))


def say_candidate(candidate: Candidate) -> None:
    """Print one line for a finished candidate."""
    outcome = f"score {candidate.score:.4f}" if candidate.score is not None else f"failed: {candidate.failure}"
    say(f"{candidate.label:12s}  {candidate.latency_ms:.3f} ms  {outcome}  {candidate.seconds:.0f} s")


def say_settled(candidate: Candidate, settled: Screening) -> None:
    """Print one line for a network of the last comparison."""
    outcome = f"score {settled.value:.4f}" if settled.value is not None else f"failed: {settled.failure}"
    say(f"{candidate.label:12s}  settled by {settled.proxy}: {outcome}  {settled.seconds:.0f} s")
