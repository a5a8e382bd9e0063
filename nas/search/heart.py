"""Which workers are alive: each gives signs in the study every few seconds, so that any storage will do.

Whoever watches counts its own signs since it last saw one of the other. So the clocks of several machines need not
agree; a worker that ended before its first sign is noticed as well; and a storage that was away for a while, when
nobody could give signs, makes nobody seem to be gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from nas.search.jobs import MAIN, Entry
from nas.search.study import Study

__all__ = ["SIGN_S", "Heart", "Watch"]

SIGN_S = 10.0  # between two signs
_MISSED = 6  # signs without one of another worker, after which that is taken to be gone
_SIGN = "alive "  # and the name of the worker: an attribute of the study


class Heart:
    """Gives signs of a worker, from a thread, while the block runs.

    Args:
        study: the study of the worker.
        every_s: seconds between two signs; the same for all workers of a study.

    Attributes:
        signs: how many of them reached the storage.
    """

    def __init__(self, study: Study, *, every_s: float = SIGN_S) -> None:
        self.signs = 0
        self._study, self._every_s, self._ended = study, every_s, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(self._every_s)  # no longer: the storage may not answer

    def _beat(self) -> None:
        while not self._ended.wait(self._every_s):
            # A storage that is away is the worker's own concern; the next sign says the same.
            self.signs += self._study.share_once(_SIGN + self._study.worker, time.time())


class Watch:
    """Notices workers that are gone.

    Args:
        own: name of the worker that watches.
        signs: how many signs this one has given.
    """

    def __init__(self, *, own: str, signs: Callable[[], int]) -> None:
        self._own, self._signs = own, signs
        # Last sign of a worker while it had a trial, or of the owner; and how many own ones there were when it was new.
        self._seen: dict[tuple[str, int | None], tuple[Any, int]] = {}

    def gone(self, entries: Iterable[Entry], shared: Mapping[str, Any]) -> list[Entry]:
        """Running jobs of workers that gave no signs for too long. Ask it for all of them each time.

        Args:
            entries: all jobs.
            shared: attributes of the study.
        """
        running = [one for one in entries if one.state == "running" and one.worker != self._own]
        lost = [one for one in running if self._is_silent(one.worker, one.trial, shared)]
        kept = {(one.worker, one.trial) for one in running} | {(MAIN, None)}
        self._seen = {key: sign for key, sign in self._seen.items() if key in kept}
        return lost

    def owner_is_gone(self, shared: Mapping[str, Any]) -> bool:
        """Whether the process that owns the results folder gave no signs for too long."""
        return self._is_silent(MAIN, None, shared)

    def _is_silent(self, worker: str, trial: int | None, shared: Mapping[str, Any]) -> bool:
        sign, now = shared.get(_SIGN + worker), self._signs()
        before, since = self._seen.get((worker, trial), (sign, now))
        since = since if sign == before else now
        self._seen[(worker, trial)] = (sign, since)
        return now - since >= _MISSED
