"""The live view of a search: this file is where a running search is shown, on a terminal or line by line.

On a terminal, at 80 x 24::

    scoring 5a6b7c8d9e0f with short-training, step 40 of 128  0:12:34, 0:40:00 left
    37 of 120 candidates; best 0.7312 at 1.050 ms; 31 of 512 proposals over budget

    proxy            scored  running  failed  mean time
    supernet            304        0       0        4 s
    short-training       37        1       2       46 s

    network          ms   score  role           0.7312|              *   :
    1a2b3c4d5e6f  1.050  0.7312  * best               |        o  x  .   :
    iformer_t     0.950  0.7204  x reference          |     o   .  .     :
    ...                                         0.6120|o        .        :
                                                      +------------------------
                                                       0.54      ms       1.10
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, RLock, Thread
from typing import TYPE_CHECKING, Any, Self

from nas.cli.status import clock, shown_by, within
from nas.cli.terminal import is_quiet, say
from nas.errors import visible
from nas.masking import masked

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.segment import Segments
    from rich.table import Table

    from nas.search import Candidate, SearchResult
    from nas.search.progress import Progress, RungProgress

__all__ = ["search_watch"]

_A_SECOND = 2  # updates of the view
# The most that drawing may take of the time of the search: with 10,000 candidates, a new body takes 45 ms.
_SHARE = 0.05
_SHORT = 50  # columns; with less, only what matters most is shown
_FRONT_WIDTH, _BLOCKS_WIDTH = 46, 40  # columns of the table of networks, and of one more with their blocks
_PLOT_WIDTH, _PLOT_HEIGHT = (26, 90), (8, 24)  # least and most
_GAP = 3  # columns between the table of networks and the plot
_CTRL_C = 2  # columns for the ^C that the terminal writes behind the last line; in a line of its own it would stay
_FRONT_ROWS = 2, 20  # least and most
_ROLES = {"best": ("*", "bold green"), "front": ("o", ""), "reference": ("x", "cyan")}  # mark in the plot, and style


@contextmanager
def search_watch() -> Iterator[Callable[[Progress], None]]:
    """Show a search: as a live view on a terminal; elsewhere one line per finished candidate, and one at the end.

    `nas.cli.terminal.say` prints above the view, and what `nas.cli.status.doing` says is in its first line.

    The view takes over sys.stdout and sys.stderr where they are the terminal, so that lines come above it. It ends with
    the block, however that ends.
    """
    console = _one_at_a_time()
    if is_quiet() or not (sys.stderr.isatty() and console.is_interactive):  # a dumb terminal cannot go back up
        yield _Lines()
        within("")
        return
    from rich.live import Live

    view, is_over = _View(), Event()
    live = Live(
        view,
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else its data would end up on the terminal
        vertical_overflow="crop",
    )

    def refresh() -> None:
        with suppress(OSError):  # the terminal is gone
            while not is_over.wait(1 / _A_SECOND):
                with console:
                    if not is_over.is_set():  # it may have ended while this waited for its turn
                        live.refresh()

    with shown_by(view.doing, instead=True):
        try:
            with console:
                live.start(refresh=True)
            Thread(target=refresh, daemon=True).start()
            yield view
        finally:
            is_over.set()
            last = view.close()
            with suppress(OSError):  # The terminal is gone. What ends the search is what to say.
                with console:
                    live.stop()
                if last is not None:
                    say(_state(last))


def _one_at_a_time() -> Console:
    """A console for stderr on which a thread that prints has no other beside it.

    In rich, two of them can each go up by the height of a view that the other has just replaced. `Live` has a lock, but
    lets go of it before the lines are written. So whoever prints, refreshes or stops enters the console first.
    """
    from rich.console import Console

    lock = RLock()

    class OneAtATime(Console):
        def __enter__(self) -> Self:
            lock.acquire()
            super().__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            try:
                super().__exit__(*error)
            finally:
                lock.release()

    return OneAtATime(stderr=True)


class _Lines:
    """One line per finished candidate, and one at the end."""

    def __call__(self, progress: Progress) -> None:
        if progress.last is not None:
            say(_candidate_line(progress, progress.last))
        if progress.ended is not None:
            say(f"ended: {progress.ended}")
        within(progress.now, _state(progress))


class _View:
    """What stands at the bottom of the terminal. Rich asks for it from a thread of its own."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._doing = ""
        self._started = self._reported = time.monotonic()
        self._is_closed = False
        self._body: tuple[Progress, tuple[int, int], Segments] | None = None  # of what and how large it was rendered
        self._due = 0.0  # time of the next body

    def __call__(self, progress: Progress) -> None:
        self._progress, self._doing, self._reported = progress, "", time.monotonic()
        if progress.ended is not None:
            self._progress, self._doing = None, "finishing"
            say(_state(progress))
            say(f"ended: {progress.ended}")

    def doing(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show what is being done."""
        self._doing = f"{what} {done} of {total}" if total else what

    def close(self) -> Progress | None:
        """Show nothing any more. Returns the last report of a search that has not ended."""
        self._is_closed = True
        return self._progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._is_closed:
            return
        progress = self._progress
        yield self._status(progress, short=options.max_width < _SHORT)
        if progress is not None:
            yield self._rendered(progress, console, options)

    def _rendered(self, progress: Progress, console: Console, options: ConsoleOptions) -> Segments:
        """All below the first line; what was rendered before, if nothing has changed or it is too early."""
        from rich.console import Group
        from rich.segment import Segments

        size = options.max_width, options.size.height - 2  # below the first line, and above that of the cursor
        body, started = self._body, time.monotonic()
        if body is not None and body[1] == size and (body[0] is progress or started < self._due):
            return body[2]
        parts = Group(*_body(progress, *size))
        lines = console.render_lines(parts, options, new_lines=True, pad=False)[: size[1]]
        body = self._body = progress, size, Segments(segment for line in lines for segment in line)
        ended = time.monotonic()
        self._due = ended + (ended - started) / _SHARE
        return body[2]

    def _status(self, progress: Progress | None, *, short: bool) -> RenderableType:
        """What is done now, the time since the start, and the time left."""
        from rich.table import Table
        from rich.text import Text

        since_s = time.monotonic() - (self._started if progress is None else self._reported)
        times = clock(since_s + (progress.elapsed_s if progress else 0.0))
        if progress is not None and progress.left_s is not None and not short:
            times += f", {clock(max(0.0, progress.left_s - since_s))} left"
        now = progress.now if progress else ""
        words = ", ".join(part for part in (now, self._doing) if part) or "starting"
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        line.add_column(justify="right", no_wrap=True)
        line.add_row(Text(visible(masked(words)), style="bold"), Text(times))
        return line


def _body(progress: Progress, width: int, height: int) -> Iterator[RenderableType]:
    """All but the first line of the view. What there is no room for is left out, the networks first."""
    from rich.table import Table
    from rich.text import Text

    yield Text(_state(progress), no_wrap=True, overflow="ellipsis")
    yield Text()
    yield _rungs(progress.rungs, short=width < _SHORT)
    left = height - len(progress.rungs) - 4  # the lines above, the header of the rungs, and an empty one
    result = progress.result
    if left <= _FRONT_ROWS[0] or not (result.front or result.references):
        return
    yield Text()
    blocks = width >= _FRONT_WIDTH + _BLOCKS_WIDTH + _PLOT_WIDTH[0] + 2 * _GAP + _CTRL_C
    table_width = _FRONT_WIDTH + blocks * (_BLOCKS_WIDTH + 2)
    plot = _plot(result, min(width - table_width - _GAP - _CTRL_C, _PLOT_WIDTH[1]), min(left, _PLOT_HEIGHT[1]))
    networks = _networks(result, min(left - 1, _FRONT_ROWS[1]), blocks=blocks)
    side_by_side = Table.grid(padding=(0, _GAP))
    side_by_side.add_row(networks, Text("\n".join(plot), no_wrap=True))
    yield side_by_side if plot else networks


def _rungs(rungs: Sequence[RungProgress], *, short: bool) -> Table:
    from rich.text import Text

    table = _plain_table()
    table.add_column("proxy", no_wrap=True, overflow="ellipsis")
    for name in ("scored", "running") if short else ("scored", "running", "failed", "mean time"):
        table.add_column(name, justify="right", no_wrap=True)
    for rung in rungs:
        numbers = (str(rung.scored), str(rung.running), str(rung.failed), _mean(rung.mean_seconds))
        table.add_row(Text(visible(rung.name)), *map(Text, numbers[: len(table.columns) - 1]))
    return table


def _networks(result: SearchResult, rows: int, *, blocks: bool) -> Table:
    """The best of the front and the references, best first; with their blocks where there is room."""
    from rich.text import Text

    winner = result.winner
    references = sorted(result.references, key=_score, reverse=True)[: rows // 2]
    best = sorted(result.front, key=_score, reverse=True)[: rows - len(references)]
    if winner is not None and winner not in best:  # a last comparison may choose another than the best score
        best = [winner, *best[: rows - len(references) - 1]]
    table = _plain_table()
    table.add_column("network", no_wrap=True, overflow="ellipsis", max_width=18)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("role", no_wrap=True)
    if blocks:
        table.add_column("blocks", no_wrap=True, overflow="ellipsis", max_width=_BLOCKS_WIDTH)
    for one in sorted((*best, *references), key=_score, reverse=True):
        role = "reference" if one.kind == "reference" else "best" if one is winner else "front"
        mark, style = _ROLES[role]
        cells = [visible(one.label), f"{one.latency_ms:.3f}", f"{_score(one):.4f}", f"{mark} {role}"]
        cells += [one.architecture.summary] if blocks else []
        table.add_row(*map(Text, cells), style=style)
    return table


def _plot(result: SearchResult, width: int, height: int) -> list[str]:
    """Latency to the right, score upwards, in plain characters; nothing where there is no room or too little to see.

    Candidates have the marks of `_ROLES`, those that are dominated a dot. The colons are the budgets.
    """
    shown = [*result.front, *result.references]
    times, scores = {one.latency_ms for one in shown}, {_score(one) for one in shown}
    if width < _PLOT_WIDTH[0] or height < _PLOT_HEIGHT[0] or min(len(times), len(scores)) < 2:
        return []
    low, high = min(scores), max(scores)
    axis = [f"{high:.4f}|", f"{low:.4f}|"]
    margin = max(map(len, axis))
    columns, rows = width - margin, height - 2
    if columns < _PLOT_WIDTH[0] // 2:  # scores of many digits
        return []
    # Candidates below and beside the front and the references would squeeze these, and are left out.
    fast, slow = min(times), max(max(times), min(result.run.budget_ms, 1.2 * max(times)))
    grid = [[" "] * columns for _ in range(rows)]

    def draw(candidate: Candidate, mark: str) -> None:
        if fast <= candidate.latency_ms <= slow and low <= _score(candidate) <= high:
            column = round((candidate.latency_ms - fast) / (slow - fast) * (columns - 1))
            grid[round((high - _score(candidate)) / (high - low) * (rows - 1))][column] = mark

    for candidate in result.scored:
        draw(candidate, ".")
    for budget_ms in result.run.budgets:
        if fast <= budget_ms <= slow:
            column = round((budget_ms - fast) / (slow - fast) * (columns - 1))
            for line in grid:
                line[column] = ":" if line[column] == " " else line[column]
    for reference in result.references:
        draw(reference, "x")
    for candidate in result.front:
        draw(candidate, "o")
    for winner in result.winners.values():
        if winner is not None:
            draw(winner, "*")
    left = [axis[0], *[" " * (margin - 1) + "|"] * (rows - 2), axis[1]]
    ends = f"{fast:.2f}", f"{slow:.2f}"
    return [
        *(mark.rjust(margin) + "".join(line).rstrip() for mark, line in zip(left, grid, strict=True)),
        " " * (margin - 1) + "+" + "-" * columns,
        " " * margin + ends[0] + "ms".center(columns - sum(map(len, ends))) + ends[1],
    ]


def _plain_table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def _candidate_line(progress: Progress, last: Candidate) -> str:
    """One finished candidate: its number, its result, and where the search stands."""
    outcome = f"score {last.score:.4f}" if last.score is not None else f"failed: {last.failure}"
    number = len(progress.result.candidates)
    this = f"{number:4d}  {last.label:12s}  {last.latency_ms:.3f} ms  {outcome}  {last.seconds:.0f} s"
    screened = f", {progress.rungs[0].scored} networks screened" if len(progress.rungs) > 1 else ""
    return f"{this}  | {_best(progress)}{_over_budget(progress)}{screened}"


def _state(progress: Progress) -> str:
    """Where the search stands, in one line."""
    done = progress.rungs[-1].scored if progress.rungs else 0
    number = f"{done} of {progress.wanted} candidates" if progress.wanted is not None else f"{done} candidates"
    workers = f"; {progress.workers} workers" if progress.workers > 1 else ""
    return f"{number}; {_best(progress)}{_over_budget(progress)}{workers}"


def _best(progress: Progress) -> str:
    winner = progress.result.winner
    return f"best {_score(winner):.4f} at {winner.latency_ms:.3f} ms" if winner else "no best yet"


def _over_budget(progress: Progress) -> str:
    """Nothing where other processes propose."""
    return f"; {progress.over_budget} of {progress.proposed} proposals over budget" if progress.proposed else ""


def _score(candidate: Candidate) -> float:
    assert candidate.score is not None
    return candidate.score


def _mean(seconds: float) -> str:
    from nas.search import duration

    if not seconds:
        return "-"
    return "< 0.01 s" if seconds < 0.01 else f"{seconds:.2f} s" if seconds < 10 else duration(seconds)
