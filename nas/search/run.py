"""The search loop: workers score networks that a sampler proposes, and one process keeps every result in a folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import ValidationError

from nas.errors import InputError, NasError, finishing
from nas.latency import LatencyTable
from nas.lock import LOCK_NAME, owned
from nas.networks import SearchSpace
from nas.proxies import Attempt, OutOfTime, Proxy, runs_code
from nas.search.budget import limited_ms
from nas.search.deadline import Deadline
from nas.search.folder import ResultsFolder, check_run
from nas.search.heart import SIGN_S, Heart, Watch
from nas.search.jobs import MAIN, Entry, Job, Key
from nas.search.plan import SAMPLERS, Plan, check_sampler
from nas.search.progress import Progress, RungProgress
from nas.search.records import Candidate, Run, Screening, run_of
from nas.search.result import SearchResult
from nas.search.shared import ENDED, INSTRUCTIONS, Instructions, Sharing, give_files
from nas.search.store import Store
from nas.search.study import Study
from nas.search.team import LOCAL, Team
from nas.search.terms import terms_of
from nas.search.worker import Outcome, as_kept, make_worker

__all__ = ["MAIN", "run_search"]

_ENDINGS = {
    "done": "all candidates are scored",
    "late": "the time limit",
    "exhausted": "no further network inside the budget was found",
}
_STOPPED = "; what was being scored has no result yet, and begins again with --resume"
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
    sharing: Sharing | None = None,
    deadline: Deadline | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    sign_s: float = SIGN_S,
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
            With `deadline`, what has begun is stopped then, the first candidate as well.
        storage: an Optuna storage URL. By default a journal in the results folder.
        sampler: name of what proposes the networks, one of `SAMPLERS`. By default the first, or that of the run to
            continue.
        sharing: lets other processes score as well; see nas/search/shared.py. Without it this process scores alone.
        deadline: what the proxies report their progress to. A network that it stops has no result, and is scored anew
            when the run is resumed.
        resume: continue the run in the folder.
        command: the command line, for run.json.
        sign_s: seconds between two signs by which other workers know that this process is alive.
        say: gets a line when the storage is locked or away, and when a worker is lost.
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
        space, table, proxy,
        further_tables=sharing.tables if sharing else None, budgets=plan.budgets, limits=plan.limits.record(),
        objectives=tuple(one.name for one in plan.objectives), seed=seed, names=names, command=command,
        screens=screens, screen=plan.screen, storage=storage, sampler=sampler,
    )  # fmt: skip

    def opened(where: str | Path, earlier: Sequence[str], *, resume: bool) -> Study:
        return Study.open(
            where, space,
            name=out.name, digest=run.digest, earlier=earlier, last=len(proxies) - 1, worker=MAIN, resume=resume,
            say=say,
        )  # fmt: skip

    with ExitStack() as stack:
        stack.enter_context(owned(out, out / LOCK_NAME))
        if storage is not None:  # So that an unusable storage is reported before anything is written.
            earlier = check_run(out, run).earlier_digests if resume else ()
            study = opened(storage, earlier, resume=resume)
            folder = ResultsFolder(out, run, resume=resume)
        else:
            folder = ResultsFolder(out, run, resume=resume)
            earlier = folder.before.earlier_digests if folder.before else ()
            study = opened(out / "study.journal", earlier, resume=True)
        heart = Heart(study, every_s=sign_s)
        search = _Search(
            space, table, proxies, plan, run, study, folder,
            heart=heart, seed=seed, time_limit_s=time_limit_s, deadline=deadline, started=started, say=say,
            on_progress=on_progress,
        )  # fmt: skip
        stack.enter_context(heart)
        with finishing(folder.finish):
            if sharing is None:
                search.go()
            else:
                search.go_with(sharing, storage or str((out / "study.journal").resolve()), space)
        return folder.load()


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
        heart: Heart,
        seed: int,
        time_limit_s: float | None,
        deadline: Deadline | None,
        started: float,
        say: Callable[[str], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._names, self._plan, self._run, self._study, self._folder = list(proxies), plan, run, study, folder
        self._say, self._store = say, Store(str(folder.path.resolve()))
        self._team: Team | None = None
        self._table, self._time_limit_s, self._started = table, time_limit_s, started
        self._deadline = deadline or Deadline(lambda what, done, total: None)  # noqa: ARG005
        self._on_progress, self._kept = on_progress, 0
        self._watch = Watch(own=study.worker, signs=lambda: heart.signs)
        self._known = {self._key(one) for one in folder.result.screenings}
        self._known |= {self._key(one) for one in folder.result.candidates}
        self._terms, self._workers = terms_of(plan), 1
        # A limit or an objective that was added by a resume holds for all that is known.
        candidates = folder.result.candidates
        complete = [self._complete(one) for one in candidates]
        if any(one is not before for one, before in zip(complete, candidates, strict=True)):
            folder.replace_all(complete)
        self._recover()
        self._worker = make_worker(
            space, table, proxies, study,
            sampler=run.sampler or SAMPLERS[0], terms=self._terms,
            # So that a resumed search does not repeat the random draws of its first part.
            seed=(seed + len(study.entries())) % 2**32,
            keep=self._keep, is_late=self._is_late, is_over=self._must_decide,
            on_begin=lambda words: self._report(now=words),
        )  # fmt: skip

    def go(self) -> None:
        """Search to the end."""
        stopped = False
        self._deadline.set(self._started + (self._time_limit_s or math.inf))
        try:
            while (outcome := self._next()) in ("scored", "waiting"):
                self._collect()
                if outcome == "waiting":
                    time.sleep(_PAUSE_S)
        except OutOfTime:
            outcome, stopped = "late", True
        finally:
            self._deadline.set(math.inf)
        self._study.share(ENDED, True)
        while self._collect():  # Other workers end what they have begun, if the time allows.
            if stopped := self._is_over():
                break
            time.sleep(_PAUSE_S)
        self._report(ended=_ENDINGS[outcome] + (_STOPPED if stopped else ""))

    def go_with(self, sharing: Sharing, storage: str, space: SearchSpace) -> None:
        """Search to the end with other workers, those on this machine started by this process.

        Args:
            sharing: what was asked of the workers.
            storage: an Optuna storage URL, or the path of a journal.
            space: the networks to choose from.
        """
        self._workers = sharing.workers
        if sharing.url is not None:
            self._store = Store(sharing.url, say=self._say)
            give_files(self._store, sharing.options)
        instructions = Instructions.of(sharing, self._store, self._plan, self._run, space, self._table)
        self._study.share(ENDED, False)
        self._study.share(INSTRUCTIONS, instructions.model_dump(mode="json", by_alias=True))
        try:
            if sharing.workers > 1:
                self._team = Team(
                    sharing.workers,
                    storage,
                    self._folder.path.name,
                    arguments=["--proxy", sharing.proxies] if runs_code(sharing.proxies) else [],
                    logs=self._folder.path / "workers",
                )
            self.go()
        except KeyboardInterrupt:
            self._study.share_once(ENDED, True)
            raise
        finally:
            if self._team:
                self._team.stop()

    def _next(self) -> Outcome:
        """Let this process score the next network, or where it has a team, look how far that is."""
        if self._team is None:
            return self._worker.work()
        was_alive, lost = self._team.is_alive, self._team.lost()  # before the look at what they have done
        for name, reason in lost.items():
            self._say(f"worker {name} is lost: {reason}; others take up its candidate")
        entries = self._worker.look()
        self._study.abandon(one.trial for one in entries if one.state == "running" and one.worker in lost)
        outcome = "late" if self._is_over() else self._worker.outlook()
        if outcome != "waiting" or was_alive:
            return outcome
        if self._team.has_failed:
            raise NasError(f"all workers have ended, see {self._folder.path / 'workers'}; --resume starts new ones")
        return "exhausted"

    def _used_s(self) -> float:
        return time.monotonic() - self._started

    def _is_over(self) -> bool:
        return self._used_s() > (self._time_limit_s or math.inf)

    def _must_decide(self) -> bool:
        """Whether the time left is only enough for one score by the proxy that decides, and there is none yet."""
        return self._kept == 0 and self._used_s() + self._plan.last_s > (self._time_limit_s or math.inf)

    def _is_late(self, ahead_s: float) -> bool:
        return self._kept > 0 and self._used_s() + ahead_s > (self._time_limit_s or math.inf)

    def _keep(self, record: Candidate | Screening, attempted: Attempt | None) -> None:
        """Keep a result in the folder."""
        self._known.add(self._key(record))
        if isinstance(record, Screening):
            self._folder.add_screening(record)
            return
        self._folder.add(record, attempted.score.weights if attempted and attempted.score else self._fetched(record))
        self._kept += 1
        self._report(last=record)

    def _fetched(self, record: Candidate) -> bytes | None:
        """The weights that another worker has left in the store, if that is not the folder itself."""
        if self._store.folder == self._folder.path.resolve():
            return None
        name = f"weights/{record.id}.safetensors"
        content = self._store.read(name)
        if content is not None:
            self._store.remove(name)
        return content

    def _collect(self) -> bool:
        """Keep what other workers have finished; let others have the jobs of those that are gone.

        Returns:
            Whether others are scoring.
        """
        entries = self._study.entries()
        for entry in entries:
            if entry.record is not None and entry.key not in self._known:
                self._keep(self._record(entry), None)
        others = {entry.trial for entry in entries if entry.state == "running" and entry.worker != MAIN}
        if not others:
            return False
        gone = {entry.trial for entry in self._watch.gone(entries, self._study.shared())}
        self._study.abandon(gone)
        return bool(others - gone)

    def _recover(self) -> None:
        """After a kill: what the folder has and the study lacks, and jobs that this process had before."""
        entries = [entry for entry in self._study.entries() if entry.rung is not None]
        finished = {entry.key for entry in entries if entry.state == "finished"}
        running = {entry.key: entry for entry in entries if entry.state == "running"}
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
        # This process alone is called so, and it has only begun; its earlier team has ended with its earlier self.
        mine = [one for one in entries if one.worker == MAIN or one.worker.startswith(LOCAL)]
        self._study.abandon(entry.trial for entry in mine if entry.state == "running")

    def _record(self, entry: Entry) -> Candidate | Screening:
        """What a worker kept of a job."""
        content = {**(entry.record or {}), "architecture": self._study.network(entry)}
        try:
            if entry.rung == len(self._names) - 1:
                return self._complete(Candidate.model_validate(content))
            return Screening.model_validate(content)
        except ValidationError as error:
            raise InputError.from_validation(
                f"trial {entry.trial} in the study of {self._folder.path}", error
            ) from error

    def _complete(self, candidate: Candidate) -> Candidate:
        """A candidate with all that the search limits or lowers."""
        names = {*self._run.limits, *self._run.objectives}
        return candidate.completed(self._terms.quantities, names)

    def _key(self, record: Candidate | Screening) -> Key:
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
            left_s = max(0, wanted - len(rungs.finished(number - 1))) * worker.next_seconds() / self._workers
        elapsed_s = self._used_s()
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
                workers=self._workers,
                now=now,
                last=last,
                ended=ended,
            )
        )


def _sampler_of(out: Path, *, resume: bool) -> str:
    """The sampler to use if none is asked for."""
    if not resume or not (out / "run.json").exists():
        return SAMPLERS[0]
    return SearchResult.load(out).run.sampler or "tpe"  # which the versions used that did not keep it
