"""Where an export says what it finds: a function that takes a line of words."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Say", "quiet"]

Say = Callable[[str], None]


def quiet(line: str) -> None:
    """Say nothing."""
