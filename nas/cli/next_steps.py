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
    # A survey counts what it looked at, which all of its candidates have.
    number = max((int(one.details.get("looked_at", 0)) for one in result.candidates), default=0)
    number = number or sum(one.kind == "searched" for one in result.candidates)
    if result.run.proxy.get("task") == "segment":
        first = str(result.path / "trained" / "winner")
        further = [
            (["train", out, "--data", "IMAGES", "--resolution", "224"], "the winner, as a classifier first"),
            (["train", out, "--data", _data_of(result), "--task", "segment", "--from", first], "then as a segmenter"),
        ]
    else:
        formats = "onnx, coreml or timm" if result.run.space.must_fit else "onnx or coreml"
        further = [(["export", out, "--format", "torch"], f"the winner, also as {formats}")]
    steps = [
        (["show", out], "this again; --json for programs"),
        *further,
        (["search", "--resume", out, "--trials", str(2 * number)], "more candidates"),
    ]
    page = result.path / "report.html"
    say_next(steps[is_shown:], page=page if page.exists() else None)


def _data_of(result: SearchResult) -> str:
    """What --data of a run was, as it was typed."""
    words = iter(shlex.split(result.run.command))
    for word in words:
        if word == "--data":
            return next(words, "FOLDER")
        if word.startswith("--data="):
            return word.removeprefix("--data=")
    return "FOLDER"
