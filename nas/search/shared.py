"""A search that several processes or machines work on: what a worker must know, and the worker itself.

The process that was asked to search owns the results folder. It puts into the study what a worker needs: the space, the
table, the proxies, and what the search is to do. A worker (`nas worker`) takes jobs until the search is done, and tells
the study of each result; the owner of the folder keeps it there. Weights go through a folder or an object store that
all of them see. A supernet that is not there on the worker's machine is taken from there as well.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from nas.data import DataSource, Progress
from nas.errors import InputError, visible
from nas.files import Record, cache_folder, digest_of, write_beside
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace
from nas.proxies import Attempt, Proxy, build_proxies, runs_code
from nas.search.budget import Budgets
from nas.search.folder import weights_as_file
from nas.search.heart import SIGN_S, Heart, Watch
from nas.search.limits import Limits, find_quantities
from nas.search.plan import Plan, random_inside
from nas.search.records import Candidate, Run, Screening, run_of
from nas.search.store import Store
from nas.search.study import Study, read_shared
from nas.search.terms import Terms
from nas.search.worker import Worker, make_worker

__all__ = ["ENDED", "INSTRUCTIONS", "Instructions", "Sharing", "give_files", "run_worker"]

INSTRUCTIONS, ENDED = "instructions", "ended"  # attributes of the study
_WHERE = "instructions of the search"
_FILES = ("supernet", "init")  # options of proxies that name a file of weights
_PAUSE_S = 1.0  # between two looks while others score
_PATIENCE_S = 3600.0  # A worker that has trained for minutes does not give up its result because a database restarts.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What was asked of the workers of a search.

    Attributes:
        proxies: as `--proxy` names them.
        options: of `--option`.
        data: source of the images.
        tables: latency tables by name, beside the one that decides.
        url: of the folder or store for weights; None for the results folder.
        workers: processes to start on this machine. With 1, the process that was asked scores itself.
    """

    proxies: str
    options: Mapping[str, str]
    data: DataSource | None
    tables: Mapping[str, LatencyTable]
    url: str | None
    workers: int


class Instructions(Record):
    """What a worker must know of a search.

    Attributes:
        space: the search space.
        tables: the latency tables by name; the first predicts the latency.
        proxies: as `--proxy` names them.
        options: of `--option`.
        data: source of the images.
        seed: of the search.
        band_ms: the budget whose band panels compare their members on.
        budgets: the latency budgets.
        limits: further limits, by name.
        objectives: names of quantities that the front shows.
        wanted: candidates to score.
        screen: networks of which one goes on to the next proxy.
        references: known networks to score, by name.
        sampler: what proposes networks.
        shared: URL of the folder or store for weights.
        digest: of the run: results of another one are not mixed in.
    """

    space: SearchSpace
    tables: dict[str, LatencyTable]
    proxies: str
    options: dict[str, str]
    data: DataSource | None
    seed: int
    band_ms: float
    budgets_ms: tuple[float, ...]
    whole_front: bool
    confidence: float | None
    limits: dict[str, float]
    objectives: tuple[str, ...]
    wanted: int | None
    screen: int
    references: dict[str, Architecture]
    sampler: str
    shared: str
    digest: str

    @classmethod
    def of(
        cls, sharing: Sharing, store: Store, plan: Plan, run: Run, space: SearchSpace, table: LatencyTable
    ) -> Instructions:
        """The instructions of a search.

        Args:
            sharing: what was asked of the workers.
            store: for weights.
            plan: of the search.
            run: of the search.
            space: the networks to choose from.
            table: predicts their latency.
        """
        return cls(
            space=space,
            tables={run.table.name: table, **sharing.tables},
            proxies=sharing.proxies,
            options=dict(sharing.options),
            data=sharing.data,
            seed=run.seed,
            band_ms=run.band_ms or run.budget_ms,
            budgets_ms=plan.budgets.limits_ms,
            whole_front=plan.budgets.whole_front,
            confidence=plan.budgets.confidence,
            limits=plan.limits.record(),
            objectives=tuple(one.name for one in plan.objectives),
            wanted=plan.candidates,
            screen=plan.screen,
            references=plan.references,
            sampler=run.sampler or "",
            shared=store.url,
            digest=run.digest,
        )

    @classmethod
    def read(cls, said: object, study: str) -> Instructions:
        """What a study says to its workers.

        Args:
            said: as the study keeps it.
            study: name of the study.
        Raises:
            InputError: it says nothing, or what an older or newer version said.
        """
        if said is None:
            raise InputError(f"the study {study!r} has no instructions for workers: begin it with nas search --storage")
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            raise InputError.from_validation(f"the instructions in the study {study!r}", error) from error

    @property
    def budgets(self) -> Budgets:
        """The latency budgets."""
        return Budgets(limits_ms=self.budgets_ms, whole_front=self.whole_front, confidence=self.confidence)

    def terms(self) -> Terms:
        """What all workers agree on."""
        return Terms(
            budgets=self.budgets,
            limits=Limits.of_record(self.limits, self.tables, where=_WHERE),
            objectives=find_quantities(self.objectives, self.tables, where=_WHERE),
            wanted=self.wanted,
            share=self.screen,
            references=self.references,
        )


def run_worker(
    storage: str | Path,
    study: str,
    *,
    data: DataSource | None = None,
    proxies: str | None = None,
    name: str | None = None,
    sign_s: float = SIGN_S,
    say: Callable[[str], None],
    progress: Progress | None = None,
) -> None:
    """Take jobs of a search until it is done.

    Args:
        storage: an Optuna storage URL, or the path of a journal.
        study: name of the study, which is that of the results folder.
        data: the images on this machine. By default where the search has them.
        proxies: the value of `--proxy` where that is a file of the user's. Without it, no code is run that the study
            names.
        name: of this worker; of no other.
        sign_s: seconds between two signs of this worker; the same for all workers of a search.
        say: gets a line for each job, and at the end.
        progress: called with the progress of loading images.
    Raises:
        InputError: there is no such study, it has no instructions for workers, or the images or files here are not
            those of the search.
    """
    said = read_shared(storage, study, say=say).get(INSTRUCTIONS)
    instructions = Instructions.read(said, study)
    _refuse_unnamed_code(instructions, proxies)
    space, (table_name, table) = instructions.space, next(iter(instructions.tables.items()))
    rungs = _proxies(instructions, data, progress, say)
    *screens, last = rungs
    run = run_of(
        space,
        table,
        rungs[last],
        budgets=instructions.budgets,
        seed=instructions.seed,
        names={"space": "", "table": table_name, "proxy": last},
        command=["nas", "worker"],
        screens={each: rungs[each] for each in screens},
        screen=instructions.screen,
    )
    if run.digest != instructions.digest:
        raise InputError(
            f"the study {study!r} was begun with other images, files or settings of {instructions.proxies} than this "
            "machine has: copy them here, or name the same images by --data"
        )
    own = name or f"{os.getpid()}-{secrets.token_hex(2)} on {socket.gethostname()}"
    joined = Study.open(
        storage,
        space,
        name=study,
        digest=instructions.digest,
        last=len(rungs) - 1,
        worker=own,
        resume=True,
        patience_s=_PATIENCE_S,
        say=say,
    )
    done = 0

    def instructed() -> Worker:
        store = Store(instructions.shared, say=say, patience_s=_PATIENCE_S)
        if not store.is_seen:
            say(f"{store.shown} is not on this machine: weights trained here are lost; see nas search --shared")

        def keep(record: Candidate | Screening, attempted: Attempt) -> None:
            nonlocal done
            done += 1
            weights = attempted.score.weights if attempted.score is not None else None
            if isinstance(record, Candidate) and weights is not None and store.is_seen:
                store.write(f"weights/{record.id}.safetensors", weights_as_file(record, weights, study))

        # Every worker draws otherwise, also after a resume.
        seed = (instructions.seed + int(digest_of(own), 16) + len(joined.entries())) % 2**32
        return make_worker(
            space, table, rungs, joined,
            sampler=instructions.sampler, terms=instructions.terms(), seed=seed, keep=keep, on_begin=say,
        )  # fmt: skip

    worker = instructed()
    with Heart(joined, every_s=sign_s) as heart:
        watch, why = Watch(own=own, signs=lambda: heart.signs), "the search is done"
        while not (shared := joined.shared()).get(ENDED):
            if shared[INSTRUCTIONS] != said:  # A resumed search may have another budget, number or sampler.
                said = shared[INSTRUCTIONS]
                instructions = Instructions.read(said, study)
                worker = instructed()
            if watch.owner_is_gone(shared) and instructions.wanted is None:
                why = "the search is gone, and only time would end it; it goes on there with --resume"
                break
            joined.abandon(one.trial for one in watch.gone(joined.entries(), shared))
            outcome = worker.work()
            if outcome in ("done", "exhausted"):
                break
            if outcome == "waiting":
                time.sleep(_PAUSE_S)
    say(f"ended: {why}; this worker did {done} jobs")


def _refuse_unnamed_code(instructions: Instructions, proxies: str | None) -> None:
    """Refuse to run a file that only the study names.

    Raises:
        InputError: the search scores with one, and it was not named here.
    """
    if runs_code(instructions.proxies) and proxies != instructions.proxies:
        shown = visible(instructions.proxies)
        raise InputError(f"the search runs code, --proxy {shown}: give the same --proxy here if it may be run")


def _proxies(
    instructions: Instructions, data: DataSource | None, progress: Progress | None, say: Callable[[str], None]
) -> dict[str, Proxy]:
    """The proxies of the search, on this machine."""
    table = next(iter(instructions.tables.values()))
    band: tuple[Architecture, ...] = ()
    if "+" in instructions.proxies:
        band = random_inside(instructions.space, table, instructions.band_ms, instructions.confidence)
    store, options = Store(instructions.shared, say=say), dict(instructions.options)
    for option in _FILES:
        if option in options and not Path(options[option]).is_file():
            options[option] = str(_fetched(store, option, options[option]))
    return build_proxies(
        instructions.proxies,
        data=data or instructions.data or "synthetic",
        seed=instructions.seed,
        options=options,
        progress=progress,
        band=band,
    )


def give_files(store: Store, options: Mapping[str, str]) -> None:
    """Make the store, and put the files that options of proxies name into it, such as a supernet.

    Raises:
        InputError: the folder cannot be written.
        NasError: the store does not take them.
    """
    store.make()
    for option in _FILES:
        if option in options and (path := Path(options[option])).is_file():
            store.write(_name_in_store(option), path.read_bytes())


def _fetched(store: Store, option: str, path: str) -> Path:
    """A file of the search, from the store.

    Raises:
        InputError: it is not there.
    """
    content = store.read(_name_in_store(option))
    if content is None:
        raise InputError(f"{path}: not on this machine, and not in {store.shown}: copy it here")
    kept = (
        cache_folder("shared", keeps="files of searches that other machines began")
        / f"{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    )
    if not kept.exists():
        write_beside(kept, content)
    return kept


def _name_in_store(option: str) -> str:
    return f"files/{option}.safetensors"
