"""A worker of a search: it takes one job after the other from the study, scores it, and keeps the result."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, Protocol

from nas.errors import NasError
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace, random_choice
from nas.networks.encoding import Encoding
from nas.proxies import Attempt, Proxy, Score, attempt
from nas.search.budget import limited_ms
from nas.search.jobs import Entry, Job
from nas.search.plan import seconds_with_screening
from nas.search.proposer import Proposer, proposer_by_table
from nas.search.records import Candidate, Kind, Screening
from nas.search.regularised import evolution_by_table
from nas.search.rungs import Rungs, is_without
from nas.search.sampler import Asking, make_sampler
from nas.search.study import Study
from nas.search.terms import Terms

__all__ = ["Keep", "Outcome", "Worker", "as_kept", "make_worker"]

Outcome = Literal["scored", "waiting", "late", "done", "exhausted"]

# After _PROPOSALS proposals in a row without a new network inside the budget, or _REPEATS repeated networks among them,
# the worker itself draws up to _DRAWS random networks. Optuna's own samplers know nothing of latency: with the iPhone
# table, 205 proposals of TPE gave 20 networks within 1.3 times the cheapest latency, and closer to it hardly any.
# In a small space any sampler repeats the networks that it knows.
_PROPOSALS = 100
_REPEATS = 5
_DRAWS = 5000
_BRIEF_S = 1.0  # Nobody who scores for this long seems to be gone: that takes several signs.
_LOST = "given up: {} workers were lost while they scored it"


class Keep(Protocol):
    """Keeps a result where it outlives this process, before the study is told of it."""

    def __call__(self, record: Candidate | Screening, attempted: Attempt) -> None:
        """Keep a record, and the weights of the attempt if it has any."""
        ...


class Worker:
    """Takes jobs of a study.

    Args:
        study: has the jobs.
        asking: asks the sampler.
        space: the networks to choose from.
        table: predicts the latency of candidates.
        proxies: the rungs by name, the cheapest first; the last one decides.
        terms: what the search is to do.
        keep: keeps a result.
        is_late: whether a job that takes this many seconds would outlast the time limit.
        is_over: whether the time is up while no candidate is scored: then the best that is screened goes on at once.
        on_begin: called with words about every job that is begun.

    Attributes:
        rungs: the state of the search when this worker last looked.
    """

    def __init__(
        self,
        study: Study,
        asking: Asking,
        space: SearchSpace,
        table: LatencyTable,
        proxies: Mapping[str, Proxy],
        *,
        terms: Terms,
        keep: Keep,
        is_late: Callable[[float], bool] = lambda ahead_s: False,  # noqa: ARG005
        is_over: Callable[[], bool] = lambda: False,
        on_begin: Callable[[str], None] = lambda words: None,  # noqa: ARG005
    ) -> None:
        self._study, self._asking, self._space, self._table = study, asking, space, table
        self._names, self._proxies = list(proxies), list(proxies.values())
        self._terms = terms
        self._keep, self._on_begin = keep, on_begin
        self._is_late, self._is_over = is_late, is_over
        self._rejected: set[str] = set()  # ids of proposed networks that are over the budget
        self._inside: dict[str, bool] = {}  # by network id, where more than the latency is limited
        self._mean_s: dict[int, float] = {}  # of the scores on each rung, as far as they were asked for since the look
        self._used_up_ms = 0.0  # no further network of at most this latency is found
        self.rungs = Rungs(len(proxies), share=terms.share, budgets_ms=terms.budgets.limits_ms)

    def look(self) -> list[Entry]:
        """Look at the study; all its jobs."""
        entries = self._study.entries()
        self.rungs.update(entries)
        self._mean_s = {}
        self._asking.learn(entries, last=len(self._proxies) - 1, trial_of=self._study.trial)
        return entries

    def work(self) -> Outcome:
        """Score the next network on its rung.

        Returns:
            `scored`: it is done, or another worker was faster. `waiting`: there is nothing to do while others score.
            `late`: it would outlast the time limit. `done`: all candidates are scored. `exhausted`: no further network
            inside the budget was found.
        """
        self.look()
        job = self._next()
        if not isinstance(job, Job):
            return job
        if job.kind == "searched" and self._is_late(self._seconds_from(job.rung)):
            return "late"
        trial = self._study.begin(job, still=self._is_wanted(job))
        if trial is not None:
            self._score(job, trial)
        return "scored"

    def outlook(self) -> Outcome:
        """What is left to do, for one that only watches; `look` first. `waiting` while others have something to do."""
        if self._is_complete():
            return "done" if self.rungs.is_idle and self._reference() is None else "waiting"
        if self._is_late(self._seconds_from(len(self._proxies) - 1)):
            return "late"
        return "waiting"

    @property
    def proposed(self) -> int:
        """Networks that the sampler proposed."""
        return self._asking.proposed

    @property
    def over_budget(self) -> int:
        """Proposed networks that are over the budget or a limit."""
        return self._asking.over_budget

    def mean_seconds(self, rung: int) -> float:
        """Mean time of the scores on a rung so far."""
        if rung not in self._mean_s:
            results = [*self.rungs.finished(rung).values(), *self.rungs.references(rung).values()]
            seconds = [one.record["seconds"] for one in results if one.record is not None]
            self._mean_s[rung] = statistics.fmean(seconds) if seconds else 0.0
        return self._mean_s[rung]

    def _seconds_from(self, rung: int) -> float:
        """Expected time until a network that is scored on a rung is through all of them."""
        return sum(self.mean_seconds(each) for each in range(rung, len(self._proxies)))

    def next_seconds(self) -> float:
        """Expected time until the next candidate has its score."""
        rungs_s = [self.mean_seconds(rung) for rung in range(len(self._proxies))]
        return seconds_with_screening(rungs_s, screen=self._terms.share)

    def _next(self) -> Job | Outcome:
        """What to do next."""
        limit_ms, is_short = self._reserved()
        if lost := self._lost(limit_ms):
            return lost
        if self.rungs.begun and (reference := self._reference()):
            return reference
        if self._is_complete():
            return "done" if self.rungs.is_idle else "waiting"
        inside = partial(self._is_inside, limit_ms=limit_ms)
        if promoted := self.rungs.promoted(early=is_short, is_inside=inside):
            return self._again(*promoted)
        if limit_ms > self._used_up_ms and (network := self._proposal(limit_ms)) is not None:
            return self._job(network, 0)
        self._used_up_ms = max(limit_ms, self._used_up_ms)
        if promoted := self.rungs.promoted(early=True, is_inside=inside):
            return self._again(*promoted)
        return "exhausted" if self.rungs.is_idle else "waiting"

    def _reserved(self) -> tuple[float, bool]:
        """The latency in ms that the next network may have, and whether the best that is screened goes on at once.

        That is the largest budget; the smallest if that has no candidate, and there is room or time for one more only.
        """
        smallest_ms, largest_ms = self._terms.budgets.limits_ms[0], self._terms.budgets.largest_ms
        is_over = self._is_over()
        if not is_without(smallest_ms, self.rungs.candidates):
            return largest_ms, is_over
        is_short = is_over or self._is_late(2 * self._seconds_from(0))
        is_last = self._terms.wanted is not None and self.rungs.begun >= self._terms.wanted - 1
        return smallest_ms if is_short or is_last else largest_ms, is_short

    def _is_complete(self) -> bool:
        return self._terms.wanted is not None and self.rungs.begun >= self._terms.wanted

    def _lost(self, limit_ms: float) -> Job | None:
        """A job of at most this latency that other workers were lost on."""
        for entry in self.rungs.abandoned:
            searched = entry.kind == "searched"
            if searched and (self._is_complete() or not self._is_inside(entry, limit_ms=limit_ms)):
                continue
            if entry.rung is not None:
                return self._again(entry, entry.rung)
        return None

    def _is_inside(self, entry: Entry, *, limit_ms: float) -> bool:
        """Whether a network is inside a budget and the limits, which may be others than when it was proposed."""
        if entry.latency_ms > limit_ms:
            return False
        if not (self._terms.limits or self._terms.objectives):
            return True
        if entry.id not in self._inside:
            self._inside[entry.id] = self._terms.over(self._table, self._study.network(entry)) <= 0
        return self._inside[entry.id]

    def _again(self, entry: Entry, rung: int) -> Job:
        """The network of an entry on a rung."""
        network = self._study.network(entry)
        return Job(network=network, rung=rung, kind=entry.kind, name=entry.name, latency_ms=entry.latency_ms)

    def _job(self, network: Architecture, rung: int, name: str | None = None) -> Job:
        latency_ms = limited_ms(self._table, network, self._terms.budgets.confidence)
        kind: Kind = "reference" if name else "searched"
        return Job(network=network, rung=rung, kind=kind, name=name, latency_ms=latency_ms)

    def _reference(self) -> Job | None:
        """A reference that is not scored by every proxy yet."""
        for name, network in self._terms.references.items():
            for rung in range(len(self._proxies)):
                if network.id not in self.rungs.references(rung) and not self._is_late(self.mean_seconds(rung)):
                    return self._job(network, rung, name)
        return None

    def _is_wanted(self, job: Job) -> Callable[[Sequence[Entry]], bool]:
        """Whether a job is within the number of candidates, by the jobs that others began before."""
        wanted, last = self._terms.wanted, len(self._proxies) - 1
        smallest_ms, largest_ms = self._terms.budgets.limits_ms[0], self._terms.budgets.largest_ms

        def still(before: Sequence[Entry]) -> bool:
            if job.kind == "reference" or job.rung != last or wanted is None:
                return True
            deciding = [one for one in before if one.kind == "searched" and one.rung == last]
            begun = {one.id: one for one in deciding if one.state != "abandoned"}
            is_without_smallest = is_without(smallest_ms, begun.values())
            if is_without_smallest and job.latency_ms <= smallest_ms:
                return len(begun) < wanted
            room = wanted - is_without_smallest - len(begun)
            if any(one.id == job.network.id for one in deciding):  # its worker was lost
                return room > 0
            # Such jobs come first, also before what was proposed when nobody knew of the loss.
            lost = {one.id: one for one in deciding if one.state == "abandoned" and one.id not in begun}
            return room > sum(self._is_inside(one, limit_ms=largest_ms) for one in lost.values())

        return still

    def _score(self, job: Job, trial: int) -> None:
        """Score a network, and keep the result, also if it is a failure."""
        name, proxy = self._names[job.rung], self._proxies[job.rung]
        self._on_begin(f"scoring {job.name or job.network.id} with {name}")
        try:
            began = time.monotonic()
            attempted = self._attempt(job, proxy)
            # Of a worker that seemed to be gone, another one may have the job by now.
            if time.monotonic() - began > _BRIEF_S and not self._study.has(trial):
                return
            record = self._record(job, trial, name, attempted)
            self._keep(record, attempted)
        except BaseException:
            with suppress(NasError):  # The storage may be what has failed.
                self._study.put_back(trial)
            raise
        self._study.finish(trial, as_kept(record))

    def _attempt(self, job: Job, proxy: Proxy) -> Attempt:
        others = self.rungs.references if job.kind == "searched" else self.rungs.finished
        known = others(job.rung).get(job.network.id)  # a reference that the sampler proposes as well
        if known is not None and known.state == "finished":
            return _as_before(known)
        key = job.key
        mine = [one for one in self.rungs.abandoned if one.key == key]
        if mine and self.rungs.is_hopeless(mine[0]):
            return Attempt(score=None, failure=_LOST.format(self.rungs.lost_on(mine[0])), seconds=0.0)
        return attempt(proxy, job.network)

    def _record(self, job: Job, trial: int, name: str, attempted: Attempt) -> Candidate | Screening:
        network, value = job.network, attempted.value
        if job.rung < len(self._proxies) - 1:
            return Screening(
                id=network.id,
                proxy=name,
                kind=job.kind,
                trial=trial,
                value=value,
                architecture=network,
                **attempted.account,
            )
        latency = self._table.latency(network, coverage=self._terms.budgets.confidence)
        return Candidate.of(
            network,
            latency,
            kind=job.kind,
            name=job.name,
            trial=trial,
            score=value,
            quantities=self._terms.quantities(network),
            **attempted.account,
        )

    def _proposal(self, limit_ms: float) -> Architecture | None:
        """A new network inside the limits, of at most this latency; None if there seems to be none left."""
        repeats = 0
        for _ in range(_PROPOSALS):
            network, over = self._asking.ask()
            if over <= 0 and self._is_new(network, limit_ms):
                return network
            # A sampler that learns from scores alone proposes what is over the budget again and again.
            repeats += over <= 0 or network.id in self._rejected
            self._rejected.add(network.id)
            if repeats == _REPEATS:
                break
        return self._overlooked(limit_ms)

    def _is_new(self, network: Architecture, limit_ms: float) -> bool:
        """Whether a network is of at most this latency and not scored yet."""
        if self.rungs.has(network.id):
            return False
        return limited_ms(self._table, network, self._terms.budgets.confidence) <= limit_ms

    def _overlooked(self, limit_ms: float) -> Architecture | None:
        """A network inside the budget that is not scored yet: a random one, or else the cheapest of the space."""

        def is_new(network: Architecture) -> bool:
            return self._is_new(network, limit_ms) and self._terms.over(self._table, network) <= 0

        choose = random_choice(seed=self._asking.proposed)
        for _ in range(_DRAWS):
            network = self._space.sample(choose)
            if is_new(network):
                return network
        cheapest = self._space.extreme(self._table.layer_ms)
        return cheapest if is_new(cheapest) else None


def make_worker(
    space: SearchSpace,
    table: LatencyTable,
    proxies: Mapping[str, Proxy],
    study: Study,
    *,
    sampler: str,
    terms: Terms,
    seed: int,
    **options: Any,
) -> Worker:
    """A worker of a study.

    Args:
        space: the networks to choose from.
        table: predicts their latency.
        proxies: the rungs by name.
        study: has the jobs.
        sampler: what proposes networks, one of `SAMPLERS`.
        terms: what the search is to do.
        seed: random seed of the sampler. Workers of one search, and a resumed search, must draw otherwise.
        options: further arguments of `Worker`.
    """
    encoding, budgets = Encoding(space), terms.budgets

    def proposer(own_seed: int) -> Proposer:
        cheapest_ms = limited_ms(table, space.extreme(table.layer_ms), budgets.confidence)
        by_table = evolution_by_table if sampler == "evolution" else proposer_by_table
        return by_table(
            encoding,
            table,
            levels_ms=budgets.levels_ms(cheapest_ms),
            confidence=budgets.confidence,
            allowed=terms.limits.allowed(encoding) if terms.limits else None,
            objectives=terms.objectives,
            seed=own_seed,
        )

    asking = Asking(
        space,
        make_sampler(sampler, encoding, proposer, seed=seed),
        over=lambda network: terms.over(table, network),
        front=budgets.whole_front or len(budgets.limits_ms) > 1 or bool(terms.objectives),
        costs=[one.value for one in terms.objectives],
    )
    return Worker(study, asking, space, table, proxies, terms=terms, **options)


def as_kept(record: Candidate | Screening) -> dict[str, Any]:
    """A result as JSON for the study, which knows the network by its parameters."""
    return record.model_dump(mode="json", exclude_none=True, exclude={"architecture"})


def _as_before(entry: Entry) -> Attempt:
    """The outcome that an entry has kept."""
    record = entry.record or {}
    seconds = float(record.get("seconds", 0.0))
    if entry.value is None:
        return Attempt(score=None, failure=record.get("failure"), seconds=seconds)
    score = Score(value=entry.value, seconds=seconds, details=record.get("details", {}))
    return Attempt(score=score, failure=None, seconds=seconds)
