"""What to do next: this file is where the last words of a command are, as whole commands to paste."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.terminal import say
from nas.masking import masked

if TYPE_CHECKING:
    from nas.search import SearchResult

__all__ = ["say_after_search", "say_next"]

_WIDTH = 78  # of a command with what it is for behind it; of a longer one that comes above it


def say_next(steps: Sequence[tuple[Sequence[str], str]], *, page: Path | None = None) -> None:
    """Say which commands come next, one a line, to stderr.

    Args:
        steps: the words of each command, after `nas`, and what it is for.
        page: what to look at.
    """
    say(f"next, beside the page {page}:" if page is not None else "next:")
    commands = [shlex.join(["nas", *map(masked, words)]) for words, _ in steps]
    width = max(map(len, commands))
    for command, (_, purpose) in zip(commands, steps, strict=True):
        is_short = width + len(purpose) + 6 <= _WIDTH
        say(f"  {command:{width if is_short else 0}}  # {purpose}")


def say_after_search(result: SearchResult) -> None:
    """Say what comes after a search: its page, a file of the winner, more candidates."""
    out = str(result.path)
    # A survey counts what it looked at, which all of its candidates have.
    number = max((int(one.details.get("looked_at", 0)) for one in result.candidates), default=0)
    number = number or sum(one.kind == "searched" for one in result.candidates)
    steps = [
        (["show", out], "this again; --json for programs"),
        (["export", out, "--format", "torch"], "the winner as a file, also onnx or coreml"),
        (["search", "--resume", out, "--trials", str(2 * number)], "more candidates"),
    ]
    say_next(steps, page=result.path / "report.html")
