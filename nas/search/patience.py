"""Patience with what a search needs and cannot have just now: its storage, or the store of its files.

It is asked again for a minute, which takes one line. Then the search ends in order, and the message says how to go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from nas.errors import NasError

__all__ = ["SAVED", "ask_again"]

T = TypeVar("T")

PATIENCE_S, PAUSE_S = 60.0, 1.0
SAVED = "; everything finished so far is saved: go on with --resume"


def ask_again(
    question: Callable[[], T],
    *,
    away: Callable[[Exception], str],
    where: str,
    say: Callable[[str], None],
    patience_s: float | None = None,
) -> T:
    """The answer to a question that may be asked twice.

    Args:
        question: asks.
        away: gives the reason, in words, why there is no answer now; raises where asking again is of no use.
        where: what is asked, for messages.
        say: gets one line if there is no answer at once.
        patience_s: how long it is asked again; by default a minute.
    Raises:
        NasError: there is no answer within that time. The message says what to do then.
    """
    patience_s, start = PATIENCE_S if patience_s is None else patience_s, None
    while True:
        try:
            return question()
        except Exception as error:  # `away` knows which are worth it.
            reason = away(error)
            if start is None:
                start = time.monotonic()
                say(f"{where}: {reason}; asking again for {patience_s:.0f} s")
            elif time.monotonic() - start > patience_s:
                raise NasError(f"{where}: {reason}, for {patience_s:.0f} s{SAVED} when it is back") from error
        time.sleep(PAUSE_S)
