"""The time limit of a search: this file is where a training that has begun is stopped when the time is up."""

from __future__ import annotations

import math
import time

from nas.data import Progress
from nas.proxies import OutOfTime

__all__ = ["Deadline"]


class Deadline:
    """What proxies report their progress to. Once the time of a search is up, it ends what they do.

    A proxy that reports after every step is stopped within a step; one that reports nothing ends what it has begun.

    Args:
        show: gets all that is reported.
    """

    def __init__(self, show: Progress) -> None:
        self._show, self._at = show, math.inf

    def set(self, at: float) -> None:
        """End what is done after this time, by `time.monotonic()`; infinity for never."""
        self._at = at

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show a progress.

        Raises:
            OutOfTime: the time is up.
        """
        self._show(what, done, total)
        if time.monotonic() > self._at:
            raise OutOfTime("the time limit ended the scoring of a network")
