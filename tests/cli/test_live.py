"""The live view of a search: on real terminals of several sizes, and line by line."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest

from nas.cli.live import _plot, _state, search_watch
from nas.cli.terminal import say
from nas.networks import SearchSpace, random_choice
from nas.search import Candidate, Run, SearchResult, SpaceUsed, TableUsed
from nas.search.progress import Progress, RungProgress

TINY = SearchSpace.find("tiny")
NETWORKS = [TINY.sample(choose) for choose in [random_choice(seed=0)] for _ in range(8)]
RUN = Run(
    command="nas search --budget-ms 1",
    started="2026-01-01T00:00:00+00:00",
    versions={},
    space=SpaceUsed(name="tiny", digest="0", networks=224),
    table=TableUsed(name="table", digest="0", origin="measured"),
    budget_ms=1.0,
    proxy={"name": "fake"},
    seed=0,
)


def candidate(number: int, latency_ms: float, score: float | None, name: str | None = None) -> Candidate:
    return Candidate(
        id=f"network{number:05d}",
        kind="reference" if name else "searched",
        name=name,
        latency_ms=latency_ms,
        low_ms=latency_ms,
        high_ms=latency_ms,
        score=score,
        failure=None if score is not None else "out of\nmemory",
        seconds=3.0,
        architecture=NETWORKS[number % len(NETWORKS)],
    )


FOUND = (
    candidate(0, 0.95, 0.48, name="tiny_[b]a[/b]\x1b[2J"),  # a name that would clear the screen
    candidate(1, 0.5, 0.4),
    candidate(2, 0.7, 0.35),
    candidate(3, 0.9, 0.5),
    candidate(4, 0.8, None),
    candidate(5, 1.2, 0.6),  # over the budget, from before a resume
)


def report(number: int, *, ended: str | None = None, found: tuple[Candidate, ...] = FOUND) -> Progress:
    """The report after the first candidates."""
    found = found[:number]
    rungs = [
        RungProgress(name="supernet", scored=8 * number, failed=0, running=0, mean_seconds=0.25),
        RungProgress(name="short-training", scored=number, failed=1, running=1, mean_seconds=46.0),
    ]
    return Progress(
        result=SearchResult(path=Path("nowhere"), run=RUN, candidates=found),
        rungs=tuple(rungs),
        wanted=120,
        proposed=100,
        over_budget=31,
        elapsed_s=754.0,
        left_s=2400.0,
        workers=2,
        now="scoring network00009 with short-training",
        last=found[-1] if found and ended is None else None,
        ended=ended,
    )


class Terminal:
    """A real terminal, and what stands on its screen: only what rich sends is understood, anything else is an error."""

    SEQUENCE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.near, self.far = pty.openpty()
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.text = ""
        self.stream: TextIO | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the other end is closed
            while data := os.read(self.near, 1 << 16):
                self.text += data.decode()

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 20
        while words not in self.text:
            assert time.monotonic() < deadline, f"{words!r} not in {self.text[-3000:]!r}"
            time.sleep(0.02)

    def screen(self) -> list[str]:
        """All lines from the first to the one of the cursor, those that have scrolled away included."""
        rows, row, column = [""], 0, 0
        position = 0
        while position < len(self.text):
            character = self.text[position]
            if match := self.SEQUENCE.match(self.text, position):
                position, (number, kind) = match.end(), match.groups()
                match kind:
                    case "A":
                        assert row - int(number or 1) >= max(0, len(rows) - self.lines)  # not above the screen
                        row -= int(number or 1)
                    case "K":
                        rows[row] = ""
                    case "m" | "h" | "l":
                        pass
                    case _:
                        raise AssertionError(match.group())
                continue
            position += 1
            match character:
                case "\r":
                    column = 0
                case "\n":
                    row += 1
                    rows += [""] * (row == len(rows))
                case _:
                    assert character.isprintable(), repr(character)
                    assert column < self.columns, rows[row]  # else the line would go on in the next one
                    rows[row] = rows[row].ljust(column)[:column] + character + rows[row][column + 1 :]
                    column += 1
        return [line.rstrip() for line in rows]

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        os.close(self.far)
        self._reader.join()  # else it might read from the next terminal, whose file gets the same number
        os.close(self.near)


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Terminal]]:
    """Make a terminal of some size the one of sys.stderr."""
    opened: list[Terminal] = []

    def open_one(columns: int = 80, lines: int = 24, *, a_second: float = 20, **environment: str) -> Terminal:
        monkeypatch.setattr("nas.cli.live._A_SECOND", a_second)
        terminal = Terminal(columns, lines)
        opened.append(terminal)
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        settings = {"TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines), **environment}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        terminal.stream = os.fdopen(os.dup(terminal.far), "w")
        monkeypatch.setattr(sys, "stderr", terminal.stream)
        return terminal

    yield open_one
    for terminal in opened:
        terminal.close()


def test_without_a_terminal_each_candidate_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with search_watch() as watch:
        for number in (0, 1, 4, 5):
            watch(report(number))
        watch(report(5, ended="all candidates are scored"))
    shown = capsys.readouterr()

    assert shown.out == ""
    assert shown.err.splitlines() == [
        "   1  tiny_[b]a[/b]\\x1b[2J  0.950 ms  score 0.4800  3 s  | no best yet; 31 of 100 proposals over budget, "
        "8 networks screened",
        "   4  network00003  0.900 ms  score 0.5000  3 s  | best 0.5000 at 0.900 ms; 31 of 100 proposals over budget, "
        "32 networks screened",
        "   5  network00004  0.800 ms  failed: out of\\nmemory  3 s  | best 0.5000 at 0.900 ms; 31 of 100 proposals "
        "over budget, 40 networks screened",
        "ended: all candidates are scored",
    ]


def test_a_dumb_terminal_gets_lines(open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(TERM="dumb")
    with search_watch() as watch:
        watch(report(1))
    terminal.wait_for("\n")

    assert "\x1b" not in terminal.text
    assert terminal.text.startswith("   1  tiny_[b]")


def test_a_quiet_command_shows_nothing(open_terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal()
    monkeypatch.setattr("nas.cli.terminal._is_quiet", True)
    with search_watch() as watch:
        watch(report(1))
    sys.stderr.write("the end\n")
    terminal.wait_for("the end")

    assert terminal.text.strip() == "the end"


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (60, 15), (30, 8), (18, 4), (170, 50)])
def test_the_view_fits_and_is_replaced_by_the_last_lines(
    open_terminal: Callable[..., Terminal], columns: int, lines: int
) -> None:
    terminal = open_terminal(columns, lines)
    with search_watch() as watch:
        watch(report(0))
        watch.doing("step 40 of 128")
        terminal.wait_for("0:12:34")
        watch(report(6))
        terminal.wait_for("best 0.5"[: columns - 18])
        terminal.screen()  # nothing is wider or higher than the terminal
        watch(report(6, ended="the time limit"))
    terminal.wait_for("\x1b[?25h")
    screen = terminal.screen()

    assert " ".join(" ".join(screen).split()) == (
        "6 of 120 candidates; best 0.5000 at 0.900 ms; 31 of 100 proposals over budget; 2 workers ended: the time limit"
    )
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")  # the cursor is shown again


def test_the_view_shows_the_state_the_rungs_the_front_and_the_references(
    open_terminal: Callable[..., Terminal],
) -> None:
    terminal = open_terminal()
    with search_watch() as watch:
        terminal.wait_for("starting")
        watch(report(6))
        watch.doing("step", 40, 128)
        terminal.wait_for("step 40 of 128")
        terminal.wait_for("1.00")
        screen = terminal.screen()

    assert re.sub("  +", "  ", screen[0]) in (
        f"scoring network00009 with short-training, step 40 of 128  0:12:3{n}, 0:{left} left"
        for n, left in ((4, "40:00"), (4, "39:59"), (5, "39:58"))
    )
    assert screen[1].startswith("6 of 120 candidates; best 0.5000 at 0.900 ms; 31 of 100 proposals over budget")
    assert [line.split() for line in screen[3:6]] == [
        ["proxy", "scored", "running", "failed", "mean", "time"],
        ["supernet", "48", "0", "0", "0.25", "s"],
        ["short-training", "6", "1", "1", "46", "s"],
    ]
    rows = [line[:46].split() for line in screen[7:11]]
    assert rows[0] == ["network", "ms", "score", "role"]
    assert rows[1] == ["network00003", "0.900", "0.5000", "*", "best"]
    assert rows[2][1:] == ["0.950", "0.4800", "x", "reference"]
    assert rows[2][0].startswith("tiny_[b]a[/b]\\x1b")  # no markup, and no order to the terminal
    assert rows[3] == ["network00001", "0.500", "0.4000", "o", "front"]


def test_the_plot_has_the_front_the_references_and_the_budget(open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal()
    with search_watch() as watch:
        watch(report(6))
        terminal.wait_for("1.00")
        plot = [line[46:] for line in terminal.screen()[7:]]
    marks = {mark: [n for n, line in enumerate(plot[:-2]) if mark in line.partition("|")[2]] for mark in "*ox:"}
    best, reference = plot[marks["*"][0]], plot[marks["x"][0]]

    assert (marks["*"], marks["o"]) == ([0], [len(plot) - 3])  # the best at the top, the fastest network at the bottom
    assert 0 < marks["x"][0] < len(plot) - 3
    assert best.index("*") < reference.index("x") < reference.index(":")  # 0.9, 0.95 and 1 ms
    assert plot[0].split("|")[0].split() == ["0.5000"]
    assert plot[-1].split() == ["0.50", "ms", "1.00"]


def test_lines_and_warnings_come_above_the_view(open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal()
    with search_watch() as watch:
        watch(report(6))
        terminal.wait_for("1.00")
        say("the storage is locked [red]; asking again\x1b[1A")
        sys.stderr.write("a warning of a library\n")
        terminal.wait_for("a warning of a library")
        time.sleep(0.1)  # one more update
        screen = terminal.screen()
        watch(report(6, ended="the time limit"))
    terminal.wait_for("\x1b[?25h")
    first = next(number for number, line in enumerate(screen) if line.startswith("scoring"))

    assert screen[0] == "the storage is locked [red]; asking again\\x1b[1A"
    assert screen[1:first] == ["a warning of a library"]
    assert sum(line.startswith("scoring") for line in screen) == 1
    assert terminal.screen()[:first] == screen[:first]


def test_lines_and_updates_at_the_same_time_do_not_tear_the_view(
    open_terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a console of rich alone, lines are lost or written twice in every run."""
    terminal = open_terminal(100, 40, a_second=300)
    monkeypatch.setattr("nas.cli.live._SHARE", 1e9)
    with search_watch() as watch:
        for number in range(150):
            watch(report(number % 7))  # views of several heights
            say(f"line {number}")
        watch(report(6, ended="the time limit"))
    terminal.wait_for("\x1b[?25h")

    assert terminal.screen()[:150] == [f"line {number}" for number in range(150)]


def test_data_for_a_file_does_not_end_up_in_the_view(
    open_terminal: Callable[..., Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = open_terminal()
    with search_watch() as watch:
        watch(report(1))
        print('{"winner": null}')  # noqa: T201
    terminal.wait_for("\x1b[?25h")

    assert capsys.readouterr().out == '{"winner": null}\n'
    assert "winner" not in terminal.text


def test_no_color_is_respected(open_terminal: Callable[..., Terminal]) -> None:
    terminal = open_terminal(NO_COLOR="1")
    with search_watch() as watch:
        watch(report(6))
        terminal.wait_for("1.00")
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", terminal.text) for code in found.split(";")}

    assert codes <= {"", "0", "1", "2"}  # bold and dim


def test_what_is_slow_to_draw_is_drawn_rarely(
    open_terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def slow_body(progress: Progress, width: int, height: int) -> list[str]:
        time.sleep(0.05)
        drawn.append(progress)
        return ["all the rest"]

    monkeypatch.setattr("nas.cli.live._body", slow_body)
    terminal = open_terminal()
    with search_watch() as watch:
        for _ in range(40):  # a candidate every 10 ms
            watch(report(6))
            time.sleep(0.01)
    terminal.wait_for("all the rest")

    assert len(drawn) == 1  # the next one is due after a second
    assert terminal.text.count("scoring network") > 3  # the first line goes on


CTRL_C = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_live import report
from nas.cli.live import search_watch
with search_watch() as watch:
    watch(report(6))
    time.sleep(30)
"""


def test_ctrl_c_leaves_a_sane_terminal() -> None:
    terminal = Terminal(100, 24)
    before = termios.tcgetattr(terminal.far)
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, str(Path(__file__).parent)],
        stdin=terminal.far,
        stdout=terminal.far,
        stderr=terminal.far,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    terminal.wait_for("1.00")
    os.write(terminal.near, b"\x03")
    code = process.wait(20)
    terminal.wait_for("KeyboardInterrupt")
    screen = terminal.screen()

    assert code in (-signal.SIGINT, 130)
    assert termios.tcgetattr(terminal.far) == before
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")
    assert not any(line.startswith("scoring") for line in screen)  # the view is gone, and the last state stays
    assert any(line.startswith("6 of 120 candidates; best 0.5000") for line in screen)
    terminal.close()


def test_what_others_propose_is_not_counted_and_their_number_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def by_others(number: int) -> Progress:
        return replace(report(number), proposed=0, over_budget=0, workers=4)

    with search_watch() as watch:
        watch(by_others(4))

    assert capsys.readouterr().err.endswith("  3 s  | best 0.5000 at 0.900 ms, 32 networks screened\n")
    assert _state(by_others(4)) == "4 of 120 candidates; best 0.5000 at 0.900 ms; 4 workers"


def test_the_plot_has_every_budget_and_its_winner() -> None:
    run = RUN.model_copy(update={"budget_ms": 0.9, "budgets_ms": (0.6, 0.9)})
    picture = "\n".join(_plot(SearchResult(path=Path("nowhere"), run=run, candidates=FOUND), 60, 12))

    assert picture.count("*") == 2
    assert max(line.count(":") for line in picture.splitlines()) == 2
