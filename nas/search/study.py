"""Optuna: the study that proposes networks and gets their scores. No other file imports Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from nas.errors import InputError
from nas.networks import Architecture, Choose, SearchSpace
from nas.search.records import Run

__all__ = ["Proposal", "Study"]

T = TypeVar("T")


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

    Args:
        study: the Optuna study, with its sampler.
        space: what the parameters of its trials describe.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace) -> None:
        self._study, self._space = study, space

    @classmethod
    def open(cls, storage: str | Path, run: Run, space: SearchSpace, *, name: str, seed: int, resume: bool) -> Self:
        """Open the study of a run: a new study, or with `resume` the existing one.

        Args:
            storage: an Optuna storage URL, or the path of a journal.
            run: what is searched; the study keeps its digest.
            space: the networks to propose.
            name: of the study in its storage.
            seed: random seed of the sampler.
            resume: use the study of this name if there is one.
        Raises:
            InputError: the storage cannot be used, or has a study of this name that belongs to another search.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        opened = _journal(storage) if isinstance(storage, Path) else storage
        try:
            study = optuna.create_study(storage=opened, study_name=name, direction="maximize", load_if_exists=resume)
            known = study.user_attrs.setdefault("run", run.digest)
            study.set_user_attr("run", known)
        except optuna.exceptions.DuplicatedStudyError as error:
            raise InputError(f"--storage has a study {name!r} already: --resume it, or choose another --out") from error
        except Exception as error:  # Storages pass on any error of their driver.
            where = f"--storage {storage}" if isinstance(storage, str) else f"{name}/study.journal"
            raise InputError(f"{where}: cannot be used ({str(error).splitlines()[0]})") from error
        if known != run.digest:
            raise InputError(f"the study {name!r} in --storage belongs to another search: choose another --out")
        with warnings.catch_warnings():
            # group=True models parameters that are asked together jointly. Optuna marks it as experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # So that a resumed search does not repeat the random draws of its first part.
            drawn = (seed + len(study.trials)) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=drawn, multivariate=True, group=True)
        return cls(study, space)

    def propose(self, over_ms: Callable[[Architecture], float]) -> Proposal:
        """Propose the next network. A trial over the budget is closed as pruned; any other trial stays open.

        Args:
            over_ms: milliseconds of a network above the budget.
        """
        trial = self._study.ask()
        network = self._space.sample(_choose_by(trial))
        proposal = Proposal(trial=trial.number, network=network, over_ms=over_ms(network))
        trial.set_constraint("latency_ms_over_budget", proposal.over_ms)
        if proposal.over_ms > 0:
            self._study.tell(trial, state=TrialState.PRUNED)
        return proposal

    def propose_next(self, network: Architecture) -> None:
        """Make this network the next proposal."""
        self._study.enqueue_trial(_as_parameters(self._space, self._space.choices(network)))

    def tell(self, trial: int, score: float | None) -> None:
        """Close an open trial: with its score, or as failed if it has none."""
        if score is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, score)

    def open_trials(self) -> list[int]:
        """Numbers of the trials that are still open."""
        return [trial.number for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]


def _journal(path: Path) -> JournalStorage:
    """Storage in a journal file. The lock of a killed process is broken after 3 s instead of the default 30 s."""
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path), grace_period=3)))


def _choose_by(trial: optuna.Trial) -> Choose:
    """A `Choose` that asks Optuna. Numbers are chosen by index, so that the sampler knows their order."""

    def choose(name: str, options: Sequence[T]) -> T:
        if _are_numbers(options):
            return options[trial.suggest_int(name, 0, len(options) - 1)]
        return options[options.index(trial.suggest_categorical(name, options))]  # type: ignore[arg-type]

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
