"""What a terminal shows of tables and long lines, and what a pipe gets."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest

from nas import catalog
from nas.cli.terminal import print_data, print_table, say, wrapped

HEADER = ("table", "entries", "origin", "trust")
NAME = "amd-epyc.onnxruntime-web.fp32"
ROW = (NAME, "931", "measured: AMD EPYC, one thread, " * 3, "checked on 44 whole networks: mean error 0.9 %, " * 3)
SHORT = ("phone", "model", "calibrated", "-")
Shown = Callable[..., str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What a call writes to a terminal, 80 columns wide."""
    monkeypatch.setenv("TERM", "dumb")

    def shown(call: Callable[..., None], *arguments: object, columns: int = 80, **options: object) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        terminal = Terminal()
        with redirect_stdout(terminal), redirect_stderr(terminal):
            call(*arguments, **options)
        return terminal.getvalue()

    return shown


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 400])
def test_a_table_on_a_terminal_breaks_no_word_and_leaves_nothing_out(columns: int, on_terminal: Shown) -> None:
    text = on_terminal(print_table, HEADER, [ROW, SHORT], columns=columns)
    words = [word.strip(";:,") for word in text[text.index(NAME) : text.index("\nphone")].split()]

    assert {word.strip(":,") for word in " ".join(ROW).split()} <= set(words)
    assert words.count("checked") == 3
    if columns >= 40:
        assert max(map(len, text.splitlines())) <= columns


def test_last_columns_that_do_not_fit_stand_below_their_row(on_terminal: Shown) -> None:
    lines = on_terminal(print_table, HEADER, [ROW, SHORT]).splitlines()

    assert lines[0].split() == ["table", "entries", "origin"]
    assert lines[1] == "  trust"
    assert lines[2].startswith(f"{NAME}  931")
    assert [line for line in lines if line.startswith("  checked on 44 whole networks: mean error 0.9 %,")]
    assert lines[-1] == "phone                          model    calibrated"  # it has no trust


def test_several_columns_below_a_row_have_their_names(on_terminal: Shown) -> None:
    header = ("network", *(f"column {number}" for number in range(12)))
    row = ("iformer_m", *(f"value-{number}" for number in range(11)), "-")
    text = on_terminal(print_table, header, [row])

    assert "column 10: value-10" in text
    assert "column 11" not in text.split("iformer_m")[1]  # it has no value


def test_a_piped_table_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(HEADER, [ROW, SHORT])
    header, first, second = capsys.readouterr().out.splitlines()

    assert re.split(r"  +", header.strip()) == list(HEADER)
    assert re.split(r"  +", first.strip()) == [cell.strip() for cell in ROW]
    assert second.split() == list(SHORT)


@pytest.mark.parametrize("printed", [print_data, say])
def test_a_long_line_is_wrapped_on_a_terminal_alone(
    printed: Callable[[str], None], on_terminal: Shown, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "  compared with iformer_m, " + "1.089 ms [0.991, 1.191] " * 8
    first, second, *_ = lines = on_terminal(printed, line).splitlines()
    printed(line)

    assert first == "  compared with iformer_m, 1.089 ms [0.991, 1.191] 1.089 ms [0.991, 1.191]"
    assert second.startswith("    1.089 ms [")
    assert all(one.count("[") == one.count("]") for one in lines)  # no interval is broken
    assert "".join(capsys.readouterr()) == f"{line}\n"


@pytest.mark.parametrize("before", ["  ", "stopped; go on with: "])
@pytest.mark.parametrize("printed", [print_data, say])
def test_a_command_is_never_broken(printed: Callable[[str], None], before: str, on_terminal: Shown) -> None:
    line = f"{before}nas search --resume 'my results/{'long' * 20} folder' --trials 20"

    assert on_terminal(printed, line) == f"{line}\n"


def test_an_error_stays_on_one_line(on_terminal: Shown) -> None:
    line = "error: " + "word " * 40

    assert on_terminal(say, line, is_error=True) == f"{line}\n"


def test_numbers_stay_with_their_units() -> None:
    assert wrapped("take 1.10 ms or 81.0 %", 11) == ["take", "1.10 ms or", "81.0 %"]
    assert wrapped("scores 0.0529 +- 0.0012", 16) == ["scores", "0.0529 +- 0.0012"]
    assert wrapped("fp16, batch 1", 11) == ["fp16,", "batch 1"]
    assert wrapped("median 1.015 ms, 90% 1.403 ms", 20) == ["median 1.015 ms,", "90% 1.403 ms"]
    assert wrapped("", 10) == [""]
    blocks = "48-96-192-384: 2C | 2C | 9C 4A 1C | 2A"
    assert wrapped(f"{blocks} does not fit; {blocks}; 8.88 M parameters", 40) == [
        blocks,
        "does not fit;",
        f"{blocks};",
        "8.88 M parameters",
    ]
    assert max(map(len, wrapped("8-8-8-8: " + "1A 1C " * 20, 40))) <= 40  # too many to stand together
    assert wrapped("a-very-long-name.fp32 next", 10) == ["a-very-long-name.fp32", "next"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_tables_that_there_are_have_whole_names_on_a_real_terminal(tmp_path: Path) -> None:
    import fcntl
    import termios

    reading, writing = os.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 0, 0))
    command = [sys.executable, "-c", "from nas.cli import main; main()", "table", "list"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "dumb"}
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writing)
    text = b""
    with suppress(OSError):  # the end of what a closed terminal holds
        while part := os.read(reading, 2**16):
            text += part
    os.close(reading)
    lines = text.decode().splitlines()

    assert (done.returncode, done.stderr) == (0, b"")
    assert {line.split()[0] for line in lines} >= set(catalog.files("latency_tables", ".json"))
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize("columns", ["", "0", "-3", "wide"])
def test_a_width_that_is_none_is_80_columns(columns: str, on_terminal: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = on_terminal(print_table, ("name", "note"), [("word " * 40, "")], columns=columns).splitlines()

    assert lines == ["name", "  note", ("word " * 40).strip()]  # a first column is never wrapped
    assert max(map(len, on_terminal(say, "word " * 40, columns=columns).splitlines())) == 79
