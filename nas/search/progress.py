"""What a running search reports: this file is where its state is put into one record for those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.search.records import Candidate
    from nas.search.result import SearchResult

__all__ = ["Progress", "RungProgress"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RungProgress:
    """The state of one rung: of one proxy that candidates compete on.

    Attributes:
        name: of the proxy.
        scored: networks with a result, failures included, references left out.
        failed: how many of them have no score.
        running: networks that are being scored now, by any worker.
        mean_seconds: mean time of a result; 0 before the first.
    """

    name: str
    scored: int
    failed: int
    running: int
    mean_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The state of a running search.

    A search reports after every finished candidate, whenever it begins something else, and at its end.

    Attributes:
        result: everything that is finished so far, what a resumed run has from before included.
        rungs: the proxies, cheapest first; the last decides.
        wanted: candidates asked for on the last rung. None if only time ends the search.
        proposed: networks that the sampler proposed.
        over_budget: how many of them the latency table rejected.
        elapsed_s: time since the search was started or resumed.
        left_s: estimated time until it ends. None if unknown.
        workers: processes that score candidates.
        now: what is being done, in words, such as "scoring 1a2b3c4d5e6f with supernet".
        last: the candidate that was just finished. None if none was finished since the last report.
        ended: why the search ended. None while it runs.
    """

    result: SearchResult
    rungs: tuple[RungProgress, ...]
    wanted: int | None
    proposed: int
    over_budget: int
    elapsed_s: float
    left_s: float | None
    workers: int = 1
    now: str = ""
    last: Candidate | None = None
    ended: str | None = None
