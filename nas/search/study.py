"""Optuna: the study that proposes networks and gets their scores. Besides this file, only sampler.py imports Optuna."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from nas.errors import InputError, NasError, visible
from nas.masking import masked, without_secrets
from nas.networks import Architecture, Choose, SearchSpace
from nas.search.records import Run
from nas.search.sampler import are_numbers, as_parameters

__all__ = ["Proposal", "Study"]

T = TypeVar("T")

# What a database raises while another program has locked it, while it restarts, or while it cannot be reached. A
# journal in a file waits for its lock by itself.
_AWAY: tuple[type[Exception], ...] = (OperationalError, InterfaceError, DisconnectionError, NoFreeConnection)
_AWAY += (PendingRollbackError, ConnectionError, TimeoutError)  # the first after a connection that broke in between
# What no waiting mends: of SQLite, and of PostgreSQL and its kind
_LASTING: tuple[str, ...] = ("no such table", "no such column", "has no column", "unable to open", "readonly")
_LASTING += ("malformed", "authentication failed", "no password", "does not exist", "permission denied")
_LOCKED = ("locked", "starting up", "shutting down", "recovery mode", "too many")  # worth waiting for at the start too
# What Optuna raises on a journal in which something is wrong that can be read.
_CONTENT = (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, RecursionError)
_CONSTRAINT = "latency_ms_over_budget"
_PATIENCE_S, _PAUSE_S = 60.0, 1.0
_REASON = 120  # characters of what a driver says
_SAVED = "; everything finished so far is saved: go on with --resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A network that Optuna proposes.

    Attributes:
        trial: number of the trial.
        network: what the parameters of the trial describe.
        over_ms: milliseconds of its latency above the budget; at most 0 inside the budget.
    """

    trial: int
    network: Architecture
    over_ms: float


class Study:
    """The study of one search. Its sampler learns from the scores which parameters of the space are good.

    A storage that is locked or away is asked again for a minute.

    Args:
        study: the Optuna study, with its sampler.
        space: what the parameters of its trials describe.
        over_ms: milliseconds of a network above the budget; at most 0 inside it.
        patience: asks the storage.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        over_ms: Callable[[Architecture], float],
        patience: _Patience,
    ) -> None:
        self._study, self._space, self._over_ms, self._patience = study, space, over_ms, patience

    @classmethod
    def open(
        cls,
        storage: str | Path,
        run: Run,
        space: SearchSpace,
        *,
        name: str,
        over_ms: Callable[[Architecture], float],
        sampler: Callable[[int], optuna.samplers.BaseSampler],
        seed: int,
        resume: bool,
        say: Callable[[str], None],
    ) -> Self:
        """Open the study of a run: a new study, or with `resume` the existing one.

        Args:
            storage: an Optuna storage URL, or the path of a journal.
            run: what is searched; the study keeps its digest.
            space: the networks to propose.
            name: of the study in its storage.
            over_ms: milliseconds of a network above the budget; at most 0 inside it.
            sampler: makes the sampler from a seed.
            seed: random seed.
            resume: use the study of this name if there is one.
            say: gets a line when the storage is locked or away.
        Raises:
            InputError: the storage cannot be used, or has a study of this name that belongs to another search.
            NasError: the storage stays locked; or with `resume`, away.
        """
        if isinstance(storage, str):
            _refuse_two_ats(storage)
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # Errors are raised as well.
        patience = _Patience(storage, say)

        def opened() -> tuple[optuna.Study, str]:
            study = optuna.create_study(
                storage=_journal(storage) if isinstance(storage, Path) else storage,
                study_name=name,
                direction="maximize",
                load_if_exists=resume,
            )
            if study.direction != StudyDirection.MAXIMIZE:
                raise ValueError("its study looks for the lowest score")
            known = study.user_attrs.setdefault("run", run.digest)
            study.set_user_attr("run", known)
            return study, known

        try:
            # An address that is wrong looks like a storage that is away. That of a run to go on with was right once.
            study, known = patience.ask(
                opened, worth=lambda reason: resume or any(words in reason for words in _LOCKED)
            )
        except optuna.exceptions.DuplicatedStudyError as error:
            raise InputError(f"--storage has a study {name!r} already: --resume it, or choose another --out") from error
        if known not in (run.digest, run.earlier_digest):
            raise InputError(f"the study {name!r} in --storage belongs to another search: choose another --out")
        # So that a resumed search does not repeat the random draws of its first part.
        drawn = (seed + len(patience.ask(lambda: study.trials))) % 2**32
        study.sampler = sampler(drawn)
        patience.is_open = True
        return cls(study, space, over_ms, patience)

    def propose(self) -> Proposal:
        """Propose the next network. A trial over the budget is closed as pruned; any other trial stays open."""
        ask = self._patience.ask
        trial = ask(self._study.ask)
        network = self._space.sample(_choose_by(trial, self._patience))
        proposal = Proposal(trial=trial.number, network=network, over_ms=self._over_ms(network))
        ask(lambda: trial.set_constraint(_CONSTRAINT, proposal.over_ms))
        if proposal.over_ms > 0:
            self._close(proposal.trial, None, TrialState.PRUNED)
        return proposal

    def propose_next(self, network: Architecture) -> None:
        """Make this network the next proposal."""
        parameters, _ = as_parameters(self._space, network)
        self._patience.ask(lambda: self._study.enqueue_trial(parameters))

    def learn(self, scored: Iterable[tuple[int | None, Architecture, float]]) -> None:
        """Let the sampler learn from scores that no trial has, such as those of references.

        Args:
            scored: trials, if they are of one, networks and their scores. Networks outside the space are left out.
        """
        trials = self._patience.ask(lambda: self._study.get_trials(deepcopy=False))
        told = {trial.number: trial.value for trial in trials if trial.state == TrialState.COMPLETE}
        known = {_frozen(trial.params) for trial in trials}
        for number, network, score in scored:
            # The first is the quicker question.
            if (number is not None and told.get(number) == score) or network not in self._space:
                continue
            parameters, distributions = as_parameters(self._space, network)
            over_ms = self._over_ms(network)
            if _frozen(parameters) not in known and math.isfinite(over_ms):
                trial = optuna.trial.create_trial(
                    params=parameters,
                    distributions=distributions,
                    value=score,
                    constraints={_CONSTRAINT: over_ms},
                )
                self._patience.ask(partial(self._study.add_trial, trial))

    def tell(self, trial: int, score: float | None) -> None:
        """Close an open trial: with its score, or as failed if it has none."""
        self._close(trial, score, TrialState.FAIL if score is None else None)

    def open_trials(self) -> list[int]:
        """Numbers of the trials that are still open."""
        running = self._patience.ask(lambda: self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
        return [trial.number for trial in running]

    def _close(self, trial: int, score: float | None, state: TrialState | None) -> None:
        # The storage may have closed it before the connection broke.
        self._patience.ask(lambda: self._study.tell(trial, score, state=state, skip_if_finished=True))


class _Patience:
    """Asks a storage, and asks again while it is locked or away.

    Args:
        storage: an Optuna storage URL, or the path of a journal.
        say: gets one line for each time that the storage is away.
    Attributes:
        is_open: the study is open. From then on what a database refuses is no bad input, but a failure.
    """

    def __init__(self, storage: str | Path, say: Callable[[str], None]) -> None:
        self._storage, self._say, self.is_open = storage, say, False
        self._where = "--storage" if isinstance(storage, str) else str(storage)

    def ask(self, question: Callable[[], T], *, worth: Callable[[str], bool] = lambda reason: True) -> T:  # noqa: ARG005
        """The answer to a question that may be asked twice.

        Args:
            question: asks the storage.
            worth: whether it is worth waiting, by the reason why there is no answer.
        Raises:
            InputError: the storage cannot be used, or is damaged.
            NasError: there is no answer within a minute, or the storage or the system refuses it.
        """
        start = None
        while True:
            try:
                return question()
            except (NasError, MemoryError, optuna.exceptions.DuplicatedStudyError):
                raise
            except Exception as error:  # Storages pass on any error of their driver, and of what they hold.
                reason = visible(without_secrets(_reason(error), [str(self._storage)]), limit=_REASON)
                if not _is_away(error, reason) or not worth(reason):
                    raise _unusable(self._storage, error, reason, is_open=self.is_open) from error
                if start is None:
                    start = time.monotonic()
                    self._say(f"{self._where}: {reason}; asking again for {_PATIENCE_S:.0f} s")
                elif time.monotonic() - start > _PATIENCE_S:
                    raise NasError(
                        f"{self._where}: {reason}, for {_PATIENCE_S:.0f} s{_SAVED} when it is back"
                    ) from error
            time.sleep(_PAUSE_S)


def _refuse_two_ats(storage: str) -> None:
    """Refuse a URL with an unquoted @ in its password: its second part would be taken for the name of a host.

    Raises:
        InputError: it has one.
    """
    with suppress(ArgumentError, ValueError):  # whoever opens the storage says what is wrong
        url = make_url(storage)
        if url.password is not None and "@" in f"{url.host}{url.database}":
            shown = visible(masked(storage, alone=True), limit=_REASON)
            raise InputError(f"--storage {shown}: write an @ in the password as %40")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the innermost last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = getattr(cause, "orig", None) or cause.__cause__


def _reason(error: BaseException) -> str:
    """What the database said: the first line of the innermost error."""
    *_, innermost = _causes(error)
    words = (str(innermost).strip().splitlines() or [type(innermost).__name__])[0]
    return words.partition(" (Background on this error at:")[0].strip()


def _is_away(error: Exception, reason: str) -> bool:
    """Whether a database is locked, restarts, or cannot be reached, so that asking again may help."""
    return any(isinstance(cause, _AWAY) for cause in _causes(error)) and not any(words in reason for words in _LASTING)


def _unusable(storage: str | Path, error: Exception, reason: str, *, is_open: bool) -> NasError:
    """The error for a storage that is damaged, or that refuses what is asked."""
    if isinstance(storage, str):
        where = f"--storage {visible(masked(storage, alone=True), limit=_REASON)}"
        return NasError(f"{where}: {reason}{_SAVED}") if is_open else InputError(f"{where}: cannot be used ({reason})")
    if isinstance(error, OSError) and error.strerror:
        return NasError(f"{storage}: {error.strerror}: mend that, then go on with --resume")
    if not isinstance(error, _CONTENT):
        return NasError(f"{storage}: {reason} ({type(error).__name__}){_SAVED}")
    what = "cannot be used" if _is_whole(storage) else "damaged, or of another program"
    return InputError(
        f"{storage}: {what} ({type(error).__name__}: {reason}): remove it, then --resume goes on with the candidates "
        "that are scored"
    )


def _is_whole(journal: Path) -> bool:
    """Whether all lines of a journal can be read."""
    try:
        storage = _journal(journal)
        for study in storage.get_all_studies():
            storage.get_all_trials(study._study_id)
    except _CONTENT:
        return False
    return True


def _journal(path: Path) -> JournalStorage:
    """Storage in a journal file. The lock of a killed process is broken after 3 s instead of the default 30 s."""
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path), grace_period=3)))


def _choose_by(trial: optuna.Trial, patience: _Patience) -> Choose:
    """A `Choose` that asks Optuna. Numbers are chosen by index, so that the sampler knows their order."""

    def choose(name: str, options: Sequence[T]) -> T:
        if are_numbers(options):
            return options[patience.ask(lambda: trial.suggest_int(name, 0, len(options) - 1))]
        chosen = patience.ask(lambda: trial.suggest_categorical(name, options))  # type: ignore[arg-type]
        return options[options.index(chosen)]

    return choose


def _frozen(parameters: Mapping[str, object]) -> frozenset[tuple[str, object]]:
    return frozenset(parameters.items())
