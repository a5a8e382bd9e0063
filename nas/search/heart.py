"""Which workers are alive: each says so every few seconds in the study, so that any storage will do.

Whoever watches counts by a clock of its own from when it last saw a sign change. So the clocks of several machines need
not agree, and a worker that ended before its first sign is noticed as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from nas.search.jobs import Entry
from nas.search.study import Study

__all__ = ["GONE_S", "Heart", "Watch"]

_EVERY_S = 10.0
GONE_S = 60.0  # without a sign, a worker is taken to be gone
_SIGN = "alive "  # and the name of the worker: an attribute of the study


class Heart:
    """Says that a worker is alive, from a thread, while the block runs.

    Args:
        study: the study of the worker.
        every_s: seconds between two signs.
    """

    def __init__(self, study: Study, *, every_s: float = _EVERY_S) -> None:
        self._study, self._every_s, self._ended = study, every_s, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._every_s):
            # A storage that is away is the worker's own concern; the next sign says the same.
            self._study.say_sign(_SIGN + self._study.worker, time.time())


class Watch:
    """Notices workers that are gone.

    Args:
        own: name of the worker that watches.
        gone_s: seconds without a sign after which a worker is taken to be gone.
    """

    def __init__(self, *, own: str, gone_s: float = GONE_S) -> None:
        self._own, self._gone_s = own, gone_s
        self._seen: dict[tuple[str, int], tuple[Any, float]] = {}  # last sign of worker and trial, and when it was new

    def gone(self, entries: Iterable[Entry], shared: Mapping[str, Any]) -> list[Entry]:
        """Running jobs of workers that gave no sign for too long.

        Args:
            entries: all jobs.
            shared: attributes of the study.
        """
        lost, now, seen = [], time.monotonic(), {}
        for entry in entries:
            if entry.state != "running" or entry.worker == self._own:
                continue
            key, sign = (entry.worker, entry.trial), shared.get(_SIGN + entry.worker)
            before, since = self._seen.get(key, (sign, now))
            seen[key] = (sign, since if sign == before else now)
            if now - seen[key][1] > self._gone_s:
                lost.append(entry)
        self._seen = seen
        return lost
