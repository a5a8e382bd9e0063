"""The study of a search: which network is proposed, who scores it, and what came of it. Any number of workers share it.

A trial of the study is a job: one network on one rung (jobs.py). A worker begins a job by a running trial, and
finishes it with a record of the result. Whatever happens to workers, no job is lost and none is done twice:

- Of two workers that begin the same job, the one with the lower trial number keeps it; the other withdraws.
- A job whose worker is gone (heart.py) is abandoned: its trial fails without a record, and any worker may begin it
  again.
- A record is written before the trial is closed. A running trial with a record is finished.

Optuna's samplers ask for one parameter at a time. They ask a copy of the study in memory, so that the storage is
written once for each network (sampler.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.errors import InputError, visible
from nas.networks import Architecture, SearchSpace
from nas.search.jobs import Attributes, Entry, Job
from nas.search.parameters import as_parameters, network_of
from nas.search.storage import LOCKED, Patience, open_storage, refuse_no_file, refuse_two_ats

__all__ = ["Study", "read_shared"]

_RECORD, _NETWORK, _WORKER = "record", "network", "worker"  # attributes of a trial
_RUN = "run"  # attribute of the study


class Study:
    """The study of one search, as one worker sees it.

    A storage that is locked or away is asked again for a minute.

    Args:
        storage: has the study.
        number: of the study in its storage.
        space: what the parameters of its trials describe.
        last: number of the rung that decides.
        worker: name of this worker; of no other that is alive.
        patience: asks the storage.
    """

    def __init__(
        self, storage: BaseStorage, number: int, space: SearchSpace, *, last: int, worker: str, patience: Patience
    ) -> None:
        self._storage, self._number, self._space, self._last = storage, number, space, last
        self.worker, self._patience = worker, patience
        self._finished: dict[int, Entry | None] = {}
        self._first: list[Entry] = []  # of the first trials, as far as all of them are finished: most of a long search
        self._first_trials = 0
        self._distributions: dict[BaseDistribution, BaseDistribution] = {}
        self._trial_ids: dict[int, int] = {}  # of the storage, by trial number

    @classmethod
    def open(
        cls,
        storage: str | Path,
        space: SearchSpace,
        *,
        name: str,
        digest: str,
        earlier: Sequence[str] = (),
        last: int,
        worker: str,
        resume: bool,
        patience_s: float | None = None,
        say: Callable[[str], None],
    ) -> Self:
        """Open the study of a run: a new study, or with `resume` the existing one.

        Args:
            storage: an Optuna storage URL, or the path of a journal.
            space: the networks to propose.
            name: of the study in its storage.
            digest: of the run; the study keeps it.
            earlier: other digests of the run, by which earlier versions know it.
            last: number of the rung that decides.
            worker: name of this worker.
            resume: use the study of this name if there is one.
            patience_s: how long a storage that is away is asked again; by default a minute.
            say: gets a line when the storage is locked or away.
        Raises:
            InputError: the storage cannot be used, or has a study of this name that belongs to another search.
            NasError: the storage stays locked; or with `resume`, away.
        """
        if isinstance(storage, str):
            refuse_two_ats(storage)
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # Errors are raised as well.
        patience = Patience(storage, say, patience_s=patience_s)

        def opened() -> tuple[BaseStorage, int, str]:
            backend = open_storage(storage)
            study = optuna.create_study(storage=backend, study_name=name, direction="maximize", load_if_exists=resume)
            if study.direction != StudyDirection.MAXIMIZE:
                raise ValueError("its study looks for the lowest score")
            known = study.user_attrs.get(_RUN)
            if known is None or known in earlier:  # From now on it is known as this version knows it.
                study.set_user_attr(_RUN, digest)
            return backend, backend.get_study_id_from_name(name), known or digest

        try:
            # An address that is wrong looks like a storage that is away. That of a run to go on with was right once.
            backend, number, known = patience.ask(
                opened, worth=lambda reason: resume or any(words in reason for words in LOCKED)
            )
        except optuna.exceptions.DuplicatedStudyError as error:
            raise InputError(f"--storage has a study {name!r} already: --resume it, or choose another --out") from error
        if known not in (digest, *earlier):
            raise InputError(f"the study {name!r} in --storage belongs to another search: choose another --out")
        patience.is_open = True
        return cls(backend, number, space, last=last, worker=worker, patience=patience)

    def share(self, name: str, value: object) -> None:
        """Keep something, as JSON, for all workers."""
        self._patience.ask(lambda: self._storage.set_study_user_attr(self._number, name, value))

    def share_once(self, name: str, value: object) -> bool:
        """Keep something for all workers, unless the storage is away. Whether it was kept."""
        with suppress(Exception):
            self._storage.set_study_user_attr(self._number, name, value)
            return True
        return False

    def shared(self) -> dict[str, Any]:
        """All that is kept for all workers, by name."""
        return self._patience.ask(lambda: self._storage.get_study_user_attrs(self._number))

    def entries(self) -> list[Entry]:
        """All jobs by trial number, those that a worker withdrew from left out."""
        return self._patience.ask(self._entries)  # which knows what to say of a damaged storage

    def _entries(self) -> list[Entry]:
        entries, is_first = list(self._first), True
        for trial in self._storage.get_all_trials(self._number, deepcopy=False)[self._first_trials :]:
            if trial.number not in self._finished:
                self._trial_ids[trial.number] = trial._trial_id
                entry = self._entry(trial)
                if trial.state.is_finished():
                    self._finished[trial.number] = entry
                    self._slim(trial)
            else:
                entry = self._finished[trial.number]
            if entry is not None:
                entries.append(entry)
            is_first = is_first and trial.state.is_finished()
            if is_first:
                self._first_trials += 1
                self._first += [] if entry is None else [entry]
        return entries

    def _slim(self, trial: FrozenTrial) -> None:
        """Let trials share names and distributions of parameters, of which a storage keeps one for each trial."""
        trial.params = {sys.intern(name): value for name, value in trial.params.items()}
        trial.distributions = {
            sys.intern(name): self._distributions.setdefault(one, one) for name, one in trial.distributions.items()
        }

    def begin(self, job: Job, *, still: Callable[[Sequence[Entry]], bool] = lambda before: True) -> int | None:  # noqa: ARG005
        """Begin a job, unless another worker has it.

        Args:
            job: the job.
            still: whether the job is still to be done, by the entries before it.
        Returns:
            The number of its trial; None if another worker has it, or it is not to be done any more.
        """
        template = self._template(job, TrialState.RUNNING)
        self._patience.ask(lambda: self._storage.create_new_trial(self._number, template))
        entries, key = self.entries(), job.key
        # Where the connection broke in between, a job may have been begun twice.
        mine = [one for one in entries if one.worker == self.worker and one.state == "running" and one.key == key]
        first = mine[0].trial
        for other in mine[1:]:
            self._close(other.trial, TrialState.PRUNED)
        before = [one for one in entries if one.trial < first]
        if any(one.key == key and one.state != "abandoned" for one in before) or not still(before):
            self._close(first, TrialState.PRUNED)
            return None
        return first

    def add(self, job: Job, record: Mapping[str, Any]) -> None:
        """Add a job that is finished, such as of a run that has lost its journal."""
        value = _value_of(record)
        template = self._template(
            job, _state_of(value, decides=job.rung == self._last), value=value, attributes={_RECORD: dict(record)}
        )
        self._patience.ask(lambda: self._storage.create_new_trial(self._number, template))

    def finish(self, trial: int, record: Mapping[str, Any]) -> bool:
        """Finish a job with its result.

        Args:
            trial: number of its trial.
            record: a `Candidate` or a `Screening` as JSON.
        Returns:
            False if this worker was taken to be gone and the job was abandoned: the result comes too late.
        """
        number = self._trial_ids[trial]

        def keep() -> bool:
            try:
                self._storage.set_trial_user_attr(number, _RECORD, dict(record))
            except UpdateFinishedTrialError:
                return _RECORD in self._storage.get_trial(number).user_attrs
            return True

        if not self._patience.ask(keep):
            return False
        score = _value_of(record)
        self._close(trial, _state_of(score, decides="score" in record), score)
        return True

    def has(self, trial: int) -> bool:
        """Whether a job that this worker has begun is still its own: a worker that seems gone loses it."""
        number = self._trial_ids[trial]
        return not self._patience.ask(lambda: self._storage.get_trial(number)).state.is_finished()

    def abandon(self, trials: Iterable[int]) -> None:
        """Let any worker have running jobs of workers that are gone; the jobs may be what ended them."""
        for trial in trials:
            self._close(trial, TrialState.FAIL)

    def put_back(self, trial: int) -> None:
        """Let any worker have a job of this one, which stops in order. A storage that is away is not waited for.

        Raises:
            NasError: the storage is away.
        """
        number = self._trial_ids[trial]
        self._patience.ask(
            lambda: self._storage.set_trial_user_attr(number, _WORKER, ""),
            worth=lambda reason: False,  # noqa: ARG005
        )
        self._close(trial, TrialState.FAIL)

    def close_finished(self) -> None:
        """Close the trials of which a worker wrote the record, but was killed then."""
        for entry in self.entries():
            if entry.state == "finished" and entry.trial not in self._finished:
                self._close(entry.trial, _state_of(entry.value, decides=entry.rung == self._last), entry.value)

    def trial(self, entry: Entry) -> FrozenTrial:
        """The trial of an entry; its parameters describe a network of the space, or there are none."""
        return self._patience.ask(lambda: self._described(entry)[0])

    def network(self, entry: Entry) -> Architecture:
        """The network of an entry."""
        return self._patience.ask(lambda: self._described(entry)[1])

    def _described(self, entry: Entry) -> tuple[FrozenTrial, Architecture]:
        trial = self._storage.get_trial(self._trial_ids[entry.trial])
        described = trial.user_attrs.get(_NETWORK)
        if described is None:
            return trial, network_of(self._space, trial.params)
        return trial, Architecture.from_json(json.dumps(described))

    def _template(
        self,
        job: Job,
        state: TrialState,
        *,
        value: float | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> FrozenTrial:
        """A trial of a job; all of it is written at once."""
        own = {"id": job.network.id, "rung": job.rung, "kind": job.kind, _WORKER: self.worker}
        own |= {"latency_ms": job.latency_ms, **(attributes or {})} | ({"name": job.name} if job.name else {})
        parameters: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        if job.kind == "searched" or job.network in self._space:
            parameters, distributions = as_parameters(self._space, job.network)
        else:
            own[_NETWORK] = job.network.to_dict()
        return optuna.trial.create_trial(
            state=state,
            value=value if state == TrialState.COMPLETE else None,
            params=parameters,
            distributions=distributions,
            user_attrs=own,
        )

    def _close(self, trial: int, state: TrialState, score: float | None = None) -> None:
        """Close a trial that is open."""
        number = self._trial_ids[trial]
        values = [score] if state == TrialState.COMPLETE and score is not None else None

        def close() -> None:
            with suppress(UpdateFinishedTrialError):  # before the connection broke, or by another worker
                self._storage.set_trial_state_values(number, state, values)

        self._patience.ask(close)

    def _entry(self, trial: FrozenTrial) -> Entry | None:
        """The entry of a trial; None for a trial that says nothing of a network."""
        told = Attributes.of(trial.number, trial.user_attrs)
        finished = told.record is not None or trial.state == TrialState.COMPLETE
        if trial.state in (TrialState.WAITING, TrialState.PRUNED) and not finished:
            return None
        network_id = told.id
        if network_id is None:  # of an earlier version, which kept nothing but parameters
            if trial.state != TrialState.COMPLETE:
                return None
            network_id = network_of(self._space, trial.params).id
        return Entry(
            trial=trial.number,
            id=network_id,
            rung=told.rung,
            kind=told.kind,
            name=told.name,
            latency_ms=told.latency_ms,
            worker=told.worker,
            state="finished" if finished else "running" if trial.state == TrialState.RUNNING else "abandoned",
            value=trial.value if told.record is None else _value_of(told.record),
            record=told.record,
        )


def read_shared(storage: str | Path, name: str, *, say: Callable[[str], None]) -> dict[str, Any]:
    """What the study of this name keeps for all workers.

    Raises:
        InputError: the storage cannot be used, or has no such study.
    """
    if isinstance(storage, str):
        refuse_two_ats(storage)
        refuse_no_file(storage)
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    patience = Patience(storage, say)

    def read() -> dict[str, Any] | None:
        backend = open_storage(storage)
        names = {study.study_name: study._study_id for study in backend.get_all_studies()}
        return backend.get_study_user_attrs(names[name]) if name in names else None

    found = patience.ask(read, worth=lambda reason: any(words in reason for words in LOCKED))
    if found is None:
        raise InputError(f"--study {visible(name)}: --storage has no such study; it is the name of the results folder")
    return found


def _value_of(record: Mapping[str, Any]) -> float | None:
    """The score in the record of a candidate, or the value in that of a screening."""
    value = record.get("score", record.get("value"))
    return None if value is None else float(value)


def _state_of(score: float | None, *, decides: bool) -> TrialState:
    """How Optuna is told of a result: a score of another rung than the last would be on another scale."""
    if score is None:
        return TrialState.FAIL
    return TrialState.COMPLETE if decides else TrialState.PRUNED
