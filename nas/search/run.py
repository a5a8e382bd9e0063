"""The search loop: workers score networks that a sampler proposes, and one process keeps every result in a folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nas.errors import finishing
from nas.latency import LatencyTable
from nas.lock import LOCK_NAME, owned
from nas.networks import SearchSpace
from nas.networks.encoding import Encoding
from nas.proxies import Attempt, Proxy
from nas.search.budget import limited_ms
from nas.search.heart import Heart, Watch
from nas.search.jobs import Entry, Job
from nas.search.plan import SAMPLERS, Plan, check_sampler
from nas.search.progress import Progress, RungProgress
from nas.search.proposer import Proposer, proposer_by_table
from nas.search.records import Candidate, Run, Screening, run_of
from nas.search.regularised import evolution_by_table
from nas.search.result import ResultsFolder, SearchResult
from nas.search.sampler import Asking, make_sampler
from nas.search.study import Study
from nas.search.worker import Terms, Worker, as_kept

__all__ = ["MAIN", "make_worker", "run_search", "terms_of"]

MAIN = "main"  # name of the worker in the process that owns the results folder
_ENDINGS = {
    "done": "all candidates are scored",
    "late": "the time limit",
    "exhausted": "no further network inside the budget was found",
}
_PAUSE_S = 0.5  # between two looks while other workers score


def run_search(
    space: SearchSpace,
    table: LatencyTable,
    proxy: Proxy,
    *,
    screens: Mapping[str, Proxy] | None = None,
    plan: Plan,
    seed: int,
    out: Path,
    names: dict[str, str],
    time_limit_s: float | None = None,
    storage: str | None = None,
    sampler: str | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    on_progress: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005
) -> SearchResult:
    """Search until the plan's candidates are scored, the time is up, or no further network is found.

    The order is: the first candidate, the references, the other candidates. Equal networks are scored once.

    Every result is in the results folder before the next network is tried. So a search can be stopped in any way, and
    `resume` continues from the last result.

    Args:
        space: the networks to choose from.
        table: decides, before any training, whether a network is inside the budget.
        proxy: scores the networks inside the budget.
        screens: screening proxies by name, in order. If given, `proxy` only scores the networks that they pass on.
        plan: from `plan_search()` with the same arguments; contains the budget.
        seed: random seed of the sampler.
        out: the results folder.
        names: names of `space`, `table` and `proxy`, for run.json.
        time_limit_s: after the first candidate, nothing is started that would probably end after this many seconds.
        storage: an Optuna storage URL. By default a journal in the results folder.
        sampler: name of what proposes the networks, one of `SAMPLERS`. By default the first, or that of the run to
            continue.
        resume: continue the run in the folder.
        command: the command line, for run.json.
        say: gets a line when the storage is locked or away.
        on_progress: called after every score, and at the end.
    Raises:
        InputError: there is no such sampler, the folder or the storage belongs to another run, or another process works
            on the folder.
        NasError: the storage stays locked or away for a minute. The files of the finished part are written.
        KeyboardInterrupt: passed on after the files of the finished part are written.
    """
    started = time.monotonic()
    sampler = sampler or _sampler_of(out, resume=resume)
    check_sampler(sampler)
    proxies = {**(screens or {}), names["proxy"]: proxy}
    run = run_of(
        space,
        table,
        proxy,
        budgets=plan.budgets,
        limits=plan.limits.record(),
        seed=seed,
        names=names,
        command=command,
        screens=screens,
        screen=plan.screen,
        storage=storage,
        sampler=sampler,
    )
    with ExitStack() as stack:
        stack.enter_context(owned(out, out / LOCK_NAME))
        if storage is not None:  # So that an unusable storage is reported before anything is written.
            earlier = SearchResult.load(out).run.earlier_digests if resume else ()
            study = _open(storage, run, space, out.name, len(proxies), earlier, resume=resume, say=say)
            folder = ResultsFolder(out, run, resume=resume)
        else:
            folder = ResultsFolder(out, run, resume=resume)
            earlier = folder.before.earlier_digests if folder.before else ()
            study = _open(out / "study.journal", run, space, out.name, len(proxies), earlier, resume=True, say=say)
        search = _Search(
            space, table, proxies, plan, run, study, folder,
            seed=seed, time_limit_s=time_limit_s, started=started, on_progress=on_progress,
        )  # fmt: skip
        stack.enter_context(Heart(study))
        with finishing(folder.finish):
            search.go()
        return folder.load()


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
            seed=own_seed,
        )

    asking = Asking(
        space,
        make_sampler(sampler, encoding, proposer, seed=seed),
        over=lambda network: terms.over(table, network),
        over_ms=lambda latency_ms: latency_ms - budgets.largest_ms,
        front=budgets.whole_front or len(budgets.limits_ms) > 1,
    )
    return Worker(study, asking, space, table, proxies, terms=terms, **options)


class _Search:
    """A running search: its worker in this process, and the results of all workers in the folder."""

    def __init__(
        self,
        space: SearchSpace,
        table: LatencyTable,
        proxies: Mapping[str, Proxy],
        plan: Plan,
        run: Run,
        study: Study,
        folder: ResultsFolder,
        *,
        seed: int,
        time_limit_s: float | None,
        started: float,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._names, self._plan, self._study, self._folder = list(proxies), plan, study, folder
        self._table, self._time_limit_s, self._started = table, time_limit_s, started
        self._on_progress, self._kept, self._watch = on_progress, 0, Watch(own=study.worker)
        self._known = {self._key(one) for one in folder.result.screenings}
        self._known |= {self._key(one) for one in folder.result.candidates}
        self._recover()
        self._worker = make_worker(
            space, table, proxies, study,
            sampler=run.sampler or SAMPLERS[0], terms=terms_of(plan),
            # So that a resumed search does not repeat the random draws of its first part.
            seed=(seed + len(study.entries())) % 2**32,
            keep=self._keep, is_late=self._is_late, on_begin=lambda words: self._report(now=words),
        )  # fmt: skip

    def go(self) -> None:
        """Search to the end."""
        while (outcome := self._worker.work()) in ("scored", "waiting"):
            self._collect()
            if outcome == "waiting":
                time.sleep(_PAUSE_S)
        self._collect()
        self._report(ended=_ENDINGS[outcome])

    def _is_late(self, ahead_s: float) -> bool:
        used_s = time.monotonic() - self._started
        return self._kept > 0 and self._time_limit_s is not None and used_s + ahead_s > self._time_limit_s

    def _keep(self, record: Candidate | Screening, attempted: Attempt | None) -> None:
        """Keep a result in the folder."""
        self._known.add(self._key(record))
        if isinstance(record, Screening):
            self._folder.add_screening(record)
            return
        self._folder.add(record, attempted.score.weights if attempted and attempted.score else None)
        self._kept += 1
        self._report(last=record)

    def _collect(self) -> None:
        """Keep what other workers have finished; let others have the jobs of those that are gone."""
        entries = self._study.entries()
        for entry in entries:
            if entry.record is not None and (entry.id, entry.rung, entry.kind) not in self._known:
                self._keep(self._record(entry), None)
        if any(entry.state == "running" and entry.worker != MAIN for entry in entries):
            self._study.abandon(entry.trial for entry in self._watch.gone(entries, self._study.shared()))

    def _recover(self) -> None:
        """After a kill: what the folder has and the study lacks, and jobs that this process had before."""
        entries = [entry for entry in self._study.entries() if entry.rung is not None]
        finished = {(entry.id, entry.rung, entry.kind) for entry in entries if entry.state == "finished"}
        running = {(entry.id, entry.rung, entry.kind): entry for entry in entries if entry.state == "running"}
        records: list[Candidate | Screening] = [*self._folder.result.screenings, *self._folder.result.candidates]
        for record in records:
            key = self._key(record)
            if key in finished or key[1] is None:
                continue
            if key in running:
                self._study.finish(running.pop(key).trial, as_kept(record))
            else:
                name = record.name if isinstance(record, Candidate) else None
                latency_ms = limited_ms(self._table, record.architecture, self._plan.budgets.confidence)
                job = Job(network=record.architecture, rung=key[1], kind=record.kind, name=name, latency_ms=latency_ms)
                if math.isfinite(latency_ms):
                    self._study.add(job, as_kept(record))
        self._study.close_finished()
        # This process alone is called so, and it has only begun.
        self._study.abandon(entry.trial for entry in running.values() if entry.worker == MAIN)

    def _record(self, entry: Entry) -> Candidate | Screening:
        """What a worker kept of a job."""
        content = {**(entry.record or {}), "architecture": self._study.network(entry)}
        if entry.rung == len(self._names) - 1:
            return Candidate.model_validate(content)
        return Screening.model_validate(content)

    def _key(self, record: Candidate | Screening) -> tuple[str, int | None, str]:
        """Network, rung and kind of a result; no rung for that of a proxy that is none."""
        if isinstance(record, Candidate):
            return record.id, len(self._names) - 1, record.kind
        return record.id, self._names.index(record.proxy) if record.proxy in self._names else None, record.kind

    def _report(self, *, last: Candidate | None = None, now: str = "", ended: str | None = None) -> None:
        """Call `on_progress`."""
        worker, rungs = self._worker, self._worker.rungs
        wanted, number = self._plan.candidates, len(self._names)
        left_s = None
        if wanted is not None:
            left_s = max(0, wanted - len(rungs.finished(number - 1))) * worker.next_seconds()
        elapsed_s = time.monotonic() - self._started
        if self._time_limit_s is not None:
            left_s = min(left_s if left_s is not None else math.inf, max(0.0, self._time_limit_s - elapsed_s))
        self._on_progress(
            Progress(
                result=self._folder.result,
                rungs=tuple(
                    RungProgress(
                        name=name,
                        scored=len(rungs.finished(at)),
                        failed=sum(1 for one in rungs.finished(at).values() if one.value is None),
                        running=len(rungs.running(at)),
                        mean_seconds=worker.mean_seconds(at),
                    )
                    for at, name in enumerate(self._names)
                ),
                wanted=wanted,
                proposed=worker.proposed,
                over_budget=worker.over_budget,
                elapsed_s=elapsed_s,
                left_s=left_s,
                now=now,
                last=last,
                ended=ended,
            )
        )


def terms_of(plan: Plan) -> Terms:
    """What all workers of a planned search must agree on."""
    return Terms(
        budgets=plan.budgets,
        limits=plan.limits,
        objectives=plan.objectives,
        wanted=plan.candidates,
        share=plan.screen,
        references=plan.references,
    )


def _open(
    storage: str | Path,
    run: Run,
    space: SearchSpace,
    name: str,
    rungs: int,
    earlier: Sequence[str],
    *,
    resume: bool,
    say: Callable[[str], None],
) -> Study:
    return Study.open(
        storage,
        space,
        name=name,
        digest=run.digest,
        earlier=earlier,
        last=rungs - 1,
        worker=MAIN,
        resume=resume,
        say=say,
    )


def _sampler_of(out: Path, *, resume: bool) -> str:
    """The sampler to use if none is asked for."""
    if not resume or not (out / "run.json").exists():
        return SAMPLERS[0]
    return SearchResult.load(out).run.sampler or "tpe"  # which the versions used that did not keep it
