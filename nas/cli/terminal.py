"""Terminal output: data to stdout; words to stderr."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, TextIO

from nas.errors import visible
from nas.masking import masked

__all__ = [
    "end_like_ctrl_c",
    "is_quiet",
    "print_data",
    "print_document",
    "print_json",
    "print_table",
    "quieten",
    "say",
    "say_candidate",
    "say_settled",
    "wrapped",
]

if TYPE_CHECKING:
    from nas.search import Candidate, Screening


_is_quiet = False

_USUAL_COLUMNS = 80
_GAP = "  "  # between columns
_BELOW = "  "  # before what stands below a row
_NOTHING = "-"  # a cell without a value
_READABLE = 24  # columns that a wrapped cell needs
_GLUE = "\xa0"  # no break here; in no text that is shown, as `visible` escapes it
_TOGETHER = re.compile(
    r"\[[^\[\]]{1,24}\]|\d \+- \d|\d (?:%|ms|s|min|px|M|GMACs|MMACs|points)(?!\w)|\bbatch \d|\d% \d"
    r"|\d+(?:-\d+)+: \d[\dCA |]{0,48}[CA](?! [|\d])"  # blocks, unless they are very many
)
_COMMAND = re.compile(r"(?:^ *|: )nas[ .]\w")


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
    """Print a line of data, to stdout; what comes from outside cannot break it (`nas.errors.visible`).

    On a terminal a long line is wrapped between words, and goes on below its beginning.
    """
    sys.stdout.write(_fitted(visible(line), sys.stdout) + "\n")


def print_document(text: str, *, to: TextIO | None = None) -> None:
    """Print a text of several lines as it is, to stdout or to another stream."""
    (to or sys.stdout).write(text)


def say(line: str, *, is_error: bool = False) -> None:
    """Print a line of words, to stderr, without the passwords of URLs in it; with --quiet only an error.

    Words that cannot be written, such as those to a full disk, end no command.
    """
    if _is_quiet and not is_error:
        return
    shown = visible(masked(line))
    with nullcontext() if is_error else suppress(OSError):
        sys.stderr.write((shown if is_error else _fitted(shown, sys.stderr)) + "\n")
        sys.stderr.flush()


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, to stdout, the columns in the order of their importance.

    In a file or a pipe each row is one line. On a terminal long cells are wrapped between words; the last columns stand
    on lines of their own below each row if all do not fit. The first column is never wrapped, and nothing is cut: names
    have to be typed again.
    """
    from rich.cells import cell_len

    shown = [[visible(cell) for cell in row] for row in (header, *rows)]
    if sys.stdout.isatty():
        _print_on_terminal(shown, _columns(sys.stdout))
        return
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        sys.stdout.write(" " + _joined(row, widths) + "\n")


def _print_on_terminal(rows: Sequence[Sequence[str]], columns: int) -> None:
    from rich.console import Console
    from rich.text import Text

    widths = _widths(rows, columns)
    console = Console(file=sys.stdout, width=columns, highlight=False)
    header, *others = rows
    lines = _row_lines(header, widths)
    if len(header) == len(widths) + 1:
        lines.append(_BELOW + header[-1])
    console.print(Text("\n".join(lines), style="bold"), soft_wrap=True)  # Text is no markup.
    for row in others:
        lines = _row_lines(row, widths)
        if len(row) == len(widths) + 1:
            lines += wrapped(_BELOW + row[-1], columns, _BELOW) if row[-1] not in ("", _NOTHING) else []
        elif len(row) > len(widths):
            below = list(zip(header, row, strict=True))[len(widths) :]
            text = "; ".join(f"{name}: {cell}" for name, cell in below if cell != _NOTHING)
            lines += wrapped(_BELOW + text, columns, _BELOW) if text else []
        sys.stdout.write("".join(f"{line}\n" for line in lines))


def _widths(rows: Sequence[Sequence[str]], columns: int) -> list[int]:
    """Widths of the columns that stand beside each other; those that are left out stand below."""
    from rich.cells import cell_len

    cells = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, column)) for column in cells]
    words = [max(cell_len(word) for cell in column for word in _glued(cell).split(" ")) for column in cells]
    # What each column needs without a wrapped cell: its header may be wrapped.
    whole = [max(word, *map(cell_len, column[1:]), 0) for word, column in zip(words, cells, strict=True)]
    least = [max(word, min(cell, _READABLE)) for word, cell in zip(words, whole, strict=True)]
    least[0] = whole[0] = widths[0]
    count = len(widths)
    while count > 1 and sum(least[:count]) + len(_GAP) * (count - 1) > columns:
        count -= 1
    widths = widths[:count]
    for narrowest in (whole, least):
        while sum(widths) + len(_GAP) * (count - 1) > columns:
            wide = [number for number in range(count) if widths[number] > narrowest[number]]
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _row_lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [wrapped(cell, width) for cell, width in zip(row, widths, strict=False)]
    return [_joined(line, widths) for line in zip_longest(*cells, fillvalue="")]


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells on one line, each filled with spaces up to its width."""
    from rich.cells import cell_len

    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return _GAP.join(padded).rstrip()


def wrapped(text: str, columns: int, indent: str = "") -> list[str]:
    """A text in lines of some columns, broken between words only; `indent` begins each line but the first.

    A number and its unit stay together, and an interval. A word that is too long stands on a line of its own.
    """
    lines = textwrap.wrap(
        _glued(text), max(columns, 1), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_GLUE, " ") for line in lines] or [""]


def _glued(text: str) -> str:
    return _TOGETHER.sub(lambda found: found[0].replace(" ", _GLUE), text)


def _fitted(line: str, stream: TextIO) -> str:
    """A line as it is; on a terminal wrapped, unless it holds a command to copy."""
    if not stream.isatty() or len(line) <= (columns := _columns(stream)) or _COMMAND.search(line):
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return "\n".join(wrapped(line, columns, indent))


def _columns(stream: TextIO) -> int:
    """Width of a terminal; the variable COLUMNS comes first."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    with suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS
    return _USUAL_COLUMNS


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


def say_candidate(candidate: Candidate) -> None:
    """Print one line for a finished candidate."""
    outcome = f"score {candidate.score:.4f}" if candidate.score is not None else f"failed: {candidate.failure}"
    say(f"{candidate.label:12s}  {candidate.latency_ms:.3f} ms  {outcome}  {candidate.seconds:.0f} s")


def say_settled(candidate: Candidate, settled: Screening) -> None:
    """Print one line for a network of the last comparison."""
    outcome = f"score {settled.value:.4f}" if settled.value is not None else f"failed: {settled.failure}"
    say(f"{candidate.label:12s}  settled by {settled.proxy}: {outcome}  {settled.seconds:.0f} s")
