"""The status line, on a terminal and in a log file."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nas.cli.status import doing, shown_by, status_line, watching, within

QUICK = {"every_s": 0.01, "say_s": (0.05, 0.05)}


class Stream(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 5
        while words not in self.getvalue():
            assert time.monotonic() < deadline, self.getvalue()
            time.sleep(0.01)


@contextmanager
def shown(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, **options: object) -> Iterator[Stream]:
    stream = Stream(is_terminal=is_terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    with status_line(**{**QUICK, **options}):  # type: ignore[arg-type]
        yield stream


def last_line(stream: Stream) -> str:
    """The last line of a terminal, as a reader sees it."""
    return stream.getvalue().rpartition("\x1b[2K")[2]


def test_a_terminal_shows_what_is_done_and_nothing_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch, is_terminal=True) as stream:
        stream.wait_for("starting")
        doing("Loading images", 3, 12_000)
        stream.wait_for("loading images 3 of 12,000 ")
        stream.wait_for("  0:00:00")

    assert last_line(stream) == ""
    assert {len(line) <= 79 for line in stream.getvalue().split("\r\x1b[2K")} == {True}


def test_what_is_printed_comes_above_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch, is_terminal=True) as stream:
        stream.wait_for("starting")
        print("a plan")  # noqa: T201
        assert last_line(stream) == "a plan\n"
        stream.wait_for("a plan\n\r\x1b[2Kstarting")
        sys.stderr.write("half a line")
        before = stream.getvalue()
        time.sleep(0.05)
        assert stream.getvalue() == before  # it would be overwritten
        sys.stderr.write("\n")
        stream.wait_for("half a line\n\r\x1b[2Kstarting")


def test_a_log_file_gets_plain_lines_when_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch, is_terminal=False) as stream:
        within("scoring iformer_m", "best 0.5")
        doing("step", 40, 128)
        stream.wait_for("\n")

    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()
    assert re.fullmatch(r"scoring iformer_m, step 40 of 128; best 0\.5  0:00:00", stream.getvalue().splitlines()[0])


def test_a_short_or_quiet_command_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch, is_terminal=True, every_s=10.0) as short:
        doing("loading")
    with shown(monkeypatch, is_terminal=True, is_quiet=True) as quiet:
        doing("loading")
        time.sleep(0.05)

    assert short.getvalue() == quiet.getvalue() == ""


def test_a_time_left_is_shown_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.cli.status._KNOWN_S", 0.0)
    with shown(monkeypatch, is_terminal=True) as stream:
        doing("training, step: loss 3", 100, 1_000_000)  # as after a resume: these took no time of this process
        time.sleep(0.05)
        doing("training, step: loss 2", 200, 1_000_000)
        stream.wait_for("training, step 200 of 1,000,000: loss 2 ")
        stream.wait_for(" left")


def test_another_view_takes_the_place_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    show: Callable[..., None] = lambda *what: told.append(what)  # noqa: E731
    with shown(monkeypatch, is_terminal=True) as stream:
        stream.wait_for("starting")
        with shown_by(show, instead=True):
            assert last_line(stream) == ""
            before = stream.getvalue()
            doing("step", 1, 2)
            time.sleep(0.05)
            assert stream.getvalue() == before
        stream.wait_for("step 1 of 2")

    assert told == [("step", 1, 2)]


def test_after_a_step_what_was_done_before_is_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(monkeypatch, is_terminal=True) as stream:
        doing("planning")
        with watching("loading images") as watch:
            watch("decoding", 1, 2)
            stream.wait_for("decoding 1 of 2")
        stream.wait_for("2Kplanning ")


def test_without_a_status_line_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    within("scoring")
    with watching("loading") as watch, shown_by(watch, instead=True):
        watch("loading", 1, 2)

    assert capsys.readouterr() == ("", "")
