"""Optuna: the study that proposes networks and gets their scores. No other file imports Optuna."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy.exc import DBAPIError

from nas.errors import InputError, NasError, masked, visible, without_secrets
from nas.networks import Architecture, Choose, SearchSpace
from nas.search.records import Run

__all__ = ["Proposal", "Study"]

T = TypeVar("T")

# What Optuna raises while a database is locked by another program, restarts, or cannot be reached. A journal in a file
# waits for its lock by itself.
_AWAY = (optuna.exceptions.StorageInternalError, DBAPIError, ConnectionError, TimeoutError)
_PATIENCE_S, _PAUSE_S = 60.0, 1.0
_REASON = 120  # characters of what a driver says
_DAMAGED = ("malformed", "not a database", "corrupt", "no such table", "no such column", "has no column")


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
        patience: asks the storage.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace, patience: _Patience) -> None:
        self._study, self._space, self._patience = study, space, patience

    @classmethod
    def open(
        cls,
        storage: str | Path,
        run: Run,
        space: SearchSpace,
        *,
        name: str,
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
            seed: random seed of the sampler.
            resume: use the study of this name if there is one.
            say: gets a line when the storage is locked or away.
        Raises:
            InputError: the storage cannot be used, or has a study of this name that belongs to another search.
            NasError: the storage stays locked.
        """
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
            # An address that is wrong looks like a storage that is away. Only a locked one is worth waiting for.
            study, known = patience.ask(opened, worth=lambda reason: "locked" in reason)
        except optuna.exceptions.DuplicatedStudyError as error:
            raise InputError(f"--storage has a study {name!r} already: --resume it, or choose another --out") from error
        if known not in (run.digest, run.earlier_digest):
            raise InputError(f"the study {name!r} in --storage belongs to another search: choose another --out")
        with warnings.catch_warnings():
            # group=True models parameters that are asked together jointly. Optuna marks it as experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # So that a resumed search does not repeat the random draws of its first part.
            drawn = (seed + len(patience.ask(lambda: study.trials))) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=drawn, multivariate=True, group=True)
        return cls(study, space, patience)

    def propose(self, over_ms: Callable[[Architecture], float]) -> Proposal:
        """Propose the next network. A trial over the budget is closed as pruned; any other trial stays open.

        Args:
            over_ms: milliseconds of a network above the budget.
        """
        ask = self._patience.ask
        trial = ask(self._study.ask)
        network = self._space.sample(_choose_by(trial, self._patience))
        proposal = Proposal(trial=trial.number, network=network, over_ms=over_ms(network))
        ask(lambda: trial.set_constraint("latency_ms_over_budget", proposal.over_ms))
        if proposal.over_ms > 0:
            self._close(proposal.trial, None, TrialState.PRUNED)
        return proposal

    def propose_next(self, network: Architecture) -> None:
        """Make this network the next proposal."""
        parameters = _as_parameters(self._space, self._space.choices(network))
        self._patience.ask(lambda: self._study.enqueue_trial(parameters))

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
    """

    def __init__(self, storage: str | Path, say: Callable[[str], None]) -> None:
        self._storage, self._say = storage, say
        self._where = "--storage" if isinstance(storage, str) else str(storage)

    def ask(self, question: Callable[[], T], *, worth: Callable[[str], bool] = lambda reason: True) -> T:  # noqa: ARG005
        """The answer to a question that may be asked twice.

        Args:
            question: asks the storage.
            worth: whether it is worth waiting, by the reason why there is no answer.
        Raises:
            InputError: the storage cannot be used, or is damaged.
            NasError: there is no answer within a minute, or the system cannot read or write the journal.
        """
        start = None
        while True:
            try:
                return question()
            except _AWAY as error:
                reason = without_secrets(_reason(error), [str(self._storage)])
                if not worth(reason) or any(words in reason for words in _DAMAGED):
                    raise _unusable(self._storage, error) from error
                if start is None:
                    start = time.monotonic()
                    self._say(f"{self._where}: {reason}; asking again for {_PATIENCE_S:.0f} s")
                elif time.monotonic() - start > _PATIENCE_S:
                    raise NasError(
                        f"{self._where}: {reason}, for {_PATIENCE_S:.0f} s; everything finished so far is saved: go on "
                        "with --resume when it is back"
                    ) from error
            except (NasError, MemoryError, optuna.exceptions.DuplicatedStudyError):
                raise
            except Exception as error:  # Storages pass on any error of their driver, and of what they hold.
                raise _unusable(self._storage, error) from error
            time.sleep(_PAUSE_S)


def _reason(error: BaseException) -> str:
    """What the database said: the first line of the innermost error."""
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unusable(storage: str | Path, error: Exception) -> NasError:
    """The error for a storage that is damaged, or that cannot be used at all."""
    reason = visible(without_secrets(_reason(error), [str(storage)]), limit=_REASON)
    if isinstance(storage, str):
        return InputError(f"--storage {visible(masked(storage), limit=_REASON)}: cannot be used ({reason})")
    if isinstance(error, OSError) and error.strerror:
        return NasError(f"{storage}: {error.strerror}: mend that, then go on with --resume")
    return InputError(
        f"{storage}: damaged, or of another program ({type(error).__name__}: {reason}): remove it, then --resume goes "
        "on with the candidates that are scored"
    )


def _journal(path: Path) -> JournalStorage:
    """Storage in a journal file. The lock of a killed process is broken after 3 s instead of the default 30 s."""
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path), grace_period=3)))


def _choose_by(trial: optuna.Trial, patience: _Patience) -> Choose:
    """A `Choose` that asks Optuna. Numbers are chosen by index, so that the sampler knows their order."""

    def choose(name: str, options: Sequence[T]) -> T:
        if _are_numbers(options):
            return options[patience.ask(lambda: trial.suggest_int(name, 0, len(options) - 1))]
        chosen = patience.ask(lambda: trial.suggest_categorical(name, options))  # type: ignore[arg-type]
        return options[options.index(chosen)]

    return choose


def _as_parameters(space: SearchSpace, answers: dict[str, object]) -> dict[str, Any]:
    """Answers to `space.sample` as values of Optuna parameters."""
    parameters: dict[str, Any] = {}

    def choose(name: str, options: Sequence[T]) -> T:
        index = list(options).index(answers[name])  # type: ignore[arg-type]
        parameters[name] = index if _are_numbers(options) else options[index]
        return options[index]

    space.sample(choose)
    return parameters


def _are_numbers(options: Sequence[object]) -> bool:
    return all(isinstance(option, int | float) for option in options)
