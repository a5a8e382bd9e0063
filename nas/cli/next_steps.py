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

_WIDTH = 78  # of the longest command with the longest purpose behind it, to stand in two columns


def say_next(steps: Sequence[tuple[Sequence[str], str]], *, page: Path | None = None) -> None:
    """Say which commands come next, one a line, to stderr.

    Args:
        steps: the words of each command, after `nas`, and what it is for.
        page: what to look at.
    """
    say(f"next, beside the page {page}:" if page is not None else "next:")
    commands = [shlex.join(["nas", *map(masked, words)]) for words, _ in steps]
    width = max(map(len, commands))
    if width + max(len(purpose) for _, purpose in steps) + 6 > _WIDTH:
        width = 0
    for command, (_, purpose) in zip(commands, steps, strict=True):
        say(f"  {command:{width}}  # {purpose}")


def say_after_search(result: SearchResult, *, is_shown: bool = False) -> None:
    """Say what comes after a search: its page, a file of the winner, more candidates.

    Args:
        result: of the search.
        is_shown: `nas show` has just shown it.
    """
    if result.winner is None:
        return
    out = str(result.path)
    formats = "onnx, coreml or timm" if result.run.space.must_fit else "onnx or coreml"
    # A survey counts what it looked at, which all of its candidates have.
    number = max((int(one.details.get("looked_at", 0)) for one in result.candidates), default=0)
    number = number or sum(one.kind == "searched" for one in result.candidates)
    winner = (["export", out, "--format", "torch"], f"the winner, also as {formats}")
    if result.run.proxy.get("task") == "segment":
        words = shlex.split(result.run.command)
        data = words[words.index("--data") + 1] if "--data" in words[:-1] else "FOLDER"
        winner = (["train", out, "--task", "segment", "--data", data], "the winner, as a segmenter")
    steps = [
        (["show", out], "this again; --json for programs"),
        winner,
        (["search", "--resume", out, "--trials", str(2 * number)], "more candidates"),
    ]
    page = result.path / "report.html"
    say_next(steps[is_shown:], page=page if page.exists() else None)
