"""The status line: this file is where a command says what it does now, from its first second to its last.

On a terminal it is one line at the bottom, drawn anew twice a second::

    drawing synthetic train images 512 of 2048                      0:00:03, 0:00:09 left

Elsewhere, such as in a log file, it is a plain line now and then. A command of less than half a second shows none.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, RLock, Thread
from typing import Any, TextIO

from nas.errors import visible
from nas.masking import masked

__all__ = ["clock", "doing", "shown_by", "status_line", "watching", "within"]

Doing = Callable[[str, int, int], None]

_EVERY_S = 0.5  # between two drawings, and before the first one
_SAY_S = 10.0, 60.0  # between two plain lines, in the first minute and later
_KNOWN_S = 2.0  # before a time left is shown: sooner it jumps
_ERASE = "\r\x1b[2K"


@contextmanager
def status_line(
    *, is_quiet: bool = False, every_s: float = _EVERY_S, say_s: tuple[float, float] = _SAY_S
) -> Iterator[None]:
    """Show what is done while the block runs. Everything that is printed comes above the line.

    Args:
        is_quiet: show nothing.
        every_s: seconds between two drawings.
        say_s: seconds between two plain lines where there is no terminal: in the first minute, and later.
    """
    global _line  # as stderr, it belongs to the process
    if is_quiet or _line is not None:
        yield
        return
    before = sys.stdout, sys.stderr
    _line = line = _Line(sys.stderr, every_s=every_s, say_s=say_s)
    sys.stdout, sys.stderr = (_Above(stream, line) for stream in before)
    try:
        line.start()
        yield
    finally:
        line.stop()
        _line = None
        sys.stdout, sys.stderr = before


def doing(what: str, done: int = 0, total: int = 0) -> None:
    """Say what is done now.

    Args:
        what: in words, such as "loading images".
        done: finished parts of it.
        total: all parts of it; 0 if unknown.
    """
    if _line is not None:
        _line.doing(what, done, total)


def within(what: str, note: str = "") -> None:
    """Say what goes on for longer; `doing` says then what part of it is done now.

    Args:
        what: in words, such as "scoring iformer_m"; empty for nothing.
        note: what holds beside it, such as the best so far.
    """
    if _line is not None:
        _line.within, _line.note = what, note
        _line.doing("", 0, 0)


@contextmanager
def watching(what: str = "") -> Iterator[Doing]:
    """What shows the progress of a library function; after the block, what was done before is shown again.

    Args:
        what: is done at first.
    """
    before = _line.words if _line is not None else ""
    if what:
        doing(what)
    try:
        yield doing
    finally:
        doing(before)


@contextmanager
def shown_by(show: Doing, *, instead: bool) -> Iterator[None]:
    """Let something else know as well what is done, while the block runs.

    Args:
        show: is called as `doing` is.
        instead: draw no line meanwhile.
    """
    if _line is None:
        yield
        return
    line, before = _line, (_line.show, _line.is_paused)
    line.show = show
    if instead:
        line.pause(True)
    try:
        yield
    finally:
        line.show = before[0]
        line.pause(before[1])


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds.

    Examples:
        >>> clock(75.3)
        '0:01:15'
    """
    return str(timedelta(seconds=int(seconds)))


class _Line:
    """What a command does, and the thread that shows it."""

    def __init__(self, stream: TextIO, *, every_s: float, say_s: tuple[float, float]) -> None:
        self.words, self.within, self.note = "starting", "", ""
        self.show: Doing = _nothing
        self.is_paused = False
        self._done, self._total = 0, 0
        self._stream, self._every_s, self._say_s = stream, every_s, say_s
        self._is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lock, self._is_over = RLock(), Event()
        self._started = self._said = time.monotonic()
        self._first = 0, self._started  # parts that were done when this began, and when that was
        self._is_drawn, self._is_open = False, False  # a line of the status, one that somebody else has not ended
        self._thread = Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self.erase()
        self._thread.join(1.0)

    def pause(self, is_paused: bool) -> None:
        """Draw nothing from now on, or go on drawing."""
        self.erase()
        self.is_paused = is_paused

    def doing(self, what: str, done: int, total: int) -> None:
        what = what[:1].lower() + what[1:]
        if what.partition(":")[0] != self.words.partition(":")[0] or total != self._total or done < self._done:
            self._first = done, time.monotonic()
        self.words, self._done, self._total = what, done, total
        self.show(what, done, total)

    def erase(self) -> None:
        with self._lock:
            if self._is_drawn:
                self._is_drawn = False
                with suppress(OSError, ValueError):  # the terminal is gone
                    self._stream.write(_ERASE)
                    self._stream.flush()

    def printing(self, text: str, *, is_terminal: bool, write: Callable[[str], int]) -> int:
        """Write a text of somebody else above the line."""
        with self._lock:
            if is_terminal and self._is_terminal:
                self.erase()
                self._is_open = not text.endswith("\n")
            self._said = time.monotonic()
            return write(text)

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            with suppress(OSError, ValueError), self._lock:
                if self.is_paused or self._is_over.is_set():
                    continue
                if not self._is_terminal:
                    self._say()
                elif not self._is_open:
                    self._draw()

    def _say(self) -> None:
        now = time.monotonic()
        if now - self._said >= self._say_s[now - self._started > 60.0]:
            words, times = self._parts(now)
            self._stream.write(f"{words}  {times}\n")
            self._stream.flush()
            self._said = now

    def _draw(self) -> None:
        words, times = self._parts(time.monotonic())
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 80
        room = (columns or 80) - len(times) - 3  # two spaces, and a column for the cursor
        words = words if len(words) <= room else f"{words[: max(0, room - 3)]}..."
        self._stream.write(f"{_ERASE}{words:{max(0, room)}}  {times}"[: len(_ERASE) + (columns or 80) - 1])
        self._stream.flush()
        self._is_drawn = True

    def _parts(self, now: float) -> tuple[str, str]:
        """What is done, and the time since the start with the time left."""
        first, began = self._first
        number = f" {self._done:,} of {self._total:,}" if self._total else ""
        what, colon, rest = self.words.partition(": ")
        note = f"; {self.note}" if self.note else ""
        times = clock(now - self._started)
        if first < self._done < self._total and now - began > _KNOWN_S:
            times += f", {clock((now - began) / (self._done - first) * (self._total - self._done))} left"
        words = ", ".join(part for part in (self.within, f"{what}{number}{colon}{rest}") if part)
        return visible(masked(f"{words or 'going on'}{note}")), times


class _Above:
    """A stream of which everything comes above the status line."""

    def __init__(self, stream: TextIO, line: _Line) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        return self._line.printing(text, is_terminal=self._stream.isatty(), write=self._stream.write)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _nothing(what: str, done: int, total: int) -> None:
    """Nobody else wants to know what is done."""


_line: _Line | None = None
