"""Early stopping: networks of similar latency compete, and only the best go on to the next, dearer proxy.

Every proxy of a search is a rung, the cheapest first; the score of a candidate is that of the last. Of N networks of
similar latency that have a result on a rung, one goes on: the best that has not. Nobody waits for a round to be full,
so any number of workers may score at once. This is asynchronous successive halving (Li et al., A System for
Massively Parallel Hyperparameter Tuning, MLSys 2020), with the competition by latency; Optuna refuses to prune where a
study has two objectives.

Each of several budgets has this competition among the networks inside it, so that a slower network does not take the
place of one inside a smaller budget. The last candidate that a search has room for must be inside the smallest budget
as long as that has none: so every budget has its winner.

Each rung is a scoring of its own: a network that goes on is scored anew by the next proxy. A training of another length
has another schedule, and the beginning of a long one ranks networks worse than one that was meant to be short.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.search.jobs import Entry, Key

__all__ = ["Rungs", "is_without"]

Floats = npt.NDArray[np.float64]

_SIMILAR = math.log(1.1)  # networks whose latencies differ by at most a tenth compete
_ATTEMPTS = 3  # of a job whose workers were lost; then it counts as failed


@dataclass(slots=True)
class _Rung:
    """What there is on one rung: entries of proposals by network id; those of references apart."""

    finished: dict[str, Entry]
    running: dict[str, Entry]
    references: dict[str, Entry]  # running or finished


class Rungs:
    """The state of a search: what is scored on which rung, what is being scored, and what may go on.

    Args:
        number: of rungs.
        share: N, of which one goes on.
        budgets_ms: upper limits of the latency, ascending, each with a competition of its own.
    """

    def __init__(self, number: int, *, share: int, budgets_ms: Sequence[float] = (math.inf,)) -> None:
        self._share, self._budgets_ms = share, budgets_ms
        self._rungs = [_Rung({}, {}, {}) for _ in range(number)]
        self._abandoned: list[Entry] = []
        self._attempts = Counter[Key]()

    def update(self, entries: Iterable[Entry]) -> None:
        """Take this as the state of all jobs."""
        self._rungs = [_Rung({}, {}, {}) for _ in self._rungs]
        abandoned: dict[Key, Entry] = {}
        attempts = Counter[Key]()
        for entry in entries:
            if entry.rung is None or entry.rung >= len(self._rungs):
                continue
            rung = self._rungs[entry.rung]
            if entry.state == "abandoned":
                abandoned[entry.key] = entry
                attempts[entry.key] += bool(entry.worker)
                continue
            if entry.kind == "reference":
                rung.references[entry.id] = entry
            elif entry.state == "running":
                rung.running[entry.id] = entry
            else:
                rung.finished[entry.id] = entry
        self._attempts = attempts
        self._abandoned = [entry for entry in abandoned.values() if not self._is_begun(entry)]

    def _is_begun(self, entry: Entry) -> bool:
        assert entry.rung is not None
        rung = self._rungs[entry.rung]
        if entry.kind == "reference":
            return entry.id in rung.references
        return entry.id in rung.running or entry.id in rung.finished

    @property
    def abandoned(self) -> Sequence[Entry]:
        """Jobs that nobody has any more, each by its last entry."""
        return self._abandoned

    def lost_on(self, entry: Entry) -> int:
        """Workers that were lost while they scored a job."""
        return self._attempts[entry.key]

    def is_hopeless(self, entry: Entry) -> bool:
        """Whether a job has lost so many workers that it is taken to be what ends them."""
        return self.lost_on(entry) >= _ATTEMPTS

    def finished(self, rung: int) -> dict[str, Entry]:
        """The results of proposals on a rung, by network id."""
        return self._rungs[rung].finished

    def running(self, rung: int) -> dict[str, Entry]:
        """The proposals that are being scored on a rung, by network id."""
        return self._rungs[rung].running

    def references(self, rung: int) -> dict[str, Entry]:
        """The references that are scored or being scored on a rung, by network id."""
        return self._rungs[rung].references

    @property
    def candidates(self) -> Sequence[Entry]:
        """Proposals that are scored or being scored on the last rung."""
        return [*self._rungs[-1].finished.values(), *self._rungs[-1].running.values()]

    @property
    def begun(self) -> int:
        """Number of proposals that are scored or being scored on the last rung."""
        return len(self.candidates)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being scored."""
        running = any(rung.running for rung in self._rungs)
        return not running and all(one.state != "running" for rung in self._rungs for one in rung.references.values())

    def has(self, network_id: str) -> bool:
        """Whether a network is scored or being scored as a proposal, or is being scored as a reference."""
        first = self._rungs[0]
        reference = first.references.get(network_id)
        scoring = reference is not None and reference.state == "running"
        return network_id in first.finished or network_id in first.running or scoring

    def promoted(
        self,
        *,
        early: bool = False,
        is_inside: Callable[[Entry], bool] = lambda entry: True,  # noqa: ARG005
    ) -> tuple[Entry, int] | None:
        """A network that goes on, by its result, and the rung that it goes to: the highest such rung first.

        Args:
            early: if no network may go on yet, take the best of a rung in any case.
            is_inside: whether a network is inside the budget and the limits, which a resume may have changed.
        """
        for number in reversed(range(len(self._rungs) - 1)):
            found = self._best(number, is_inside, early=False)
            if found is None and early:
                found = self._best(number, is_inside, early=True)
            if found is not None:
                return found, number + 1
        return None

    def _best(self, number: int, is_inside: Callable[[Entry], bool], *, early: bool) -> Entry | None:
        above = self._rungs[number + 1]
        results = [one for one in self._rungs[number].finished.values() if is_inside(one)]
        if not results:
            return None
        values = np.asarray([-math.inf if one.value is None else one.value for one in results])
        latencies = np.log([one.latency_ms for one in results])
        has_gone_on = np.asarray([one.id in above.finished or one.id in above.running for one in results])
        order = np.argsort(-values, kind="stable")  # where all have failed: a failure of a cheap proxy says little
        if early:
            waiting = order[~has_gone_on[order]]
            return results[int(waiting[0])] if len(waiting) else None
        for limit in np.log(self._budgets_ms):
            at = self._free(latencies, has_gone_on, order[latencies[order] <= limit])
            if at is not None:
                return results[at]
        return None

    def _free(self, latencies: Floats, has_gone_on: npt.NDArray[np.bool_], order: npt.NDArray[np.intp]) -> int | None:
        """Which of some networks goes on; None if none does.

        Args:
            latencies: logarithms, (N,).
            has_gone_on: whether a network is on the next rung, (N,).
            order: the networks that compete, the best first.
        """
        waiting, own = order[~has_gone_on[order]], latencies[order]
        near = _within(latencies, own) // self._share - _within(latencies, own[has_gone_on[order]])
        for place, at in enumerate(map(int, waiting)):
            if near[at] > 0:
                better = np.abs(latencies[waiting[:place]] - latencies[at]) <= _SIMILAR
                if int(better.sum()) < near[at]:
                    return at
        return None


def is_without(budget_ms: float, candidates: Iterable[Entry]) -> bool:
    """Whether none of some candidates can be the winner of a budget: each is slower, or has failed."""
    able = (one for one in candidates if one.state == "running" or one.value is not None)
    return all(one.latency_ms > budget_ms for one in able)


def _within(latencies: Floats, others: Floats) -> npt.NDArray[np.int64]:
    """How many of some others are similar to each latency, (N,); both are logarithms."""
    ordered = np.sort(others)
    return np.searchsorted(ordered, latencies + _SIMILAR, "right") - np.searchsorted(ordered, latencies - _SIMILAR)
