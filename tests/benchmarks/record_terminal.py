"""A picture of a terminal after a command: the picture of the documentation.

    python tests/benchmarks/record_terminal.py docs/terminal.svg nas search --budget-ms 1.1 --out /tmp/run

The command runs in a real pseudo-terminal. What it writes goes through a terminal emulator, so that the picture shows
the screen as a user sees it at the end, colours included and without what a progress line has replaced. Needs pyte (the
extra `docs`).
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROWS = 400  # A screen that holds the whole output; empty rows at its end are left out.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("picture", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    screen = pyte.Screen(asked.columns, ROWS)
    code = watch(asked.command, screen)
    console = Console(record=True, width=asked.columns, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    console.print(Text(f"$ {shlex.join(asked.command)}", style="bold"))
    for line in lines(screen):
        console.print(line, soft_wrap=True)
    # Without the addresses that rich takes a font from: the picture asks no other host.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=""), flags=re.DOTALL)
    asked.picture.write_text(svg, encoding="utf-8")
    sys.exit(code)


def watch(command: list[str], screen: pyte.Screen) -> int:
    """Run a command in a pseudo-terminal of the size of a screen, and show on the screen what it writes."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, screen.columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    stream, decode = pyte.Stream(screen), codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    while True:
        try:
            written = os.read(ours, 65536)
        except OSError:  # Linux: nobody holds the other end any more.
            break
        if not written:
            break
        stream.feed(decode(written))
    os.close(ours)
    return process.wait()


def lines(screen: pyte.Screen) -> list[Text]:
    """The rows of a screen with their colours, without the empty rows at the end."""
    rows = []
    for index in range(screen.lines):
        text = Text()
        cells = [screen.buffer[index][column] for column in range(screen.columns)]
        for (name, bold, italic), run in groupby(cells, key=lambda cell: (cell.fg, cell.bold, cell.italics)):
            style = Style(color=colour(name), bold=bold, italic=italic)
            text.append("".join(cell.data for cell in run), style)
        text.rstrip()
        rows.append(text)
    while rows and not rows[-1].plain:
        rows.pop()
    return rows


def colour(name: str) -> str | None:
    """Pyte's name of a colour as rich has it."""
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    name = name.replace("brown", "yellow")
    return None if name == "default" else re.sub("^bright", "bright_", name)


if __name__ == "__main__":
    main()
