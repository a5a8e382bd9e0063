"""What proposes the networks of a search: this project's sampler for Optuna, and those of Optuna itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.errors import NasError
from nas.networks import Architecture, SearchSpace
from nas.networks.encoding import Encoding, Rows
from nas.search.proposer import Proposer

__all__ = ["ArchitectureSampler", "are_numbers", "as_parameters", "make_sampler"]

T = TypeVar("T")
Row = npt.NDArray[np.int16]

_TOGETHER = 100  # known scores for each further network that is proposed at once
_POPULATION = 20  # of NSGA-II; Optuna's 50 are more than most searches score


class ArchitectureSampler(optuna.samplers.BaseSampler):
    """Proposes whole networks, where Optuna's samplers propose one parameter after the other.

    Args:
        encoding: of the space that the parameters of a trial describe.
        proposer: makes a proposer from a seed.
        seed: random seed.
    """

    def __init__(self, encoding: Encoding, proposer: Callable[[int], Proposer], *, seed: int) -> None:
        self._encoding, self._make, self._seed = encoding, proposer, seed
        self._proposer = proposer(seed)
        self._rows: dict[int, Row] = {}  # of finished trials
        self._waiting: list[Row] = []  # proposed together with the last one
        self._proposed: dict[int, dict[str, Any]] = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Choose the network of a trial, unless it has been given one."""
        if "fixed_params" in trial.system_attrs:
            return
        try:
            row = self._next(*self._seen(study, trial.number))
        except (ArithmeticError, ValueError) as error:
            raise NasError(
                f"the sampler failed ({type(error).__name__}: {error}); this is a bug: go on with --resume and another "
                "--sampler"
            ) from error
        # Of a space that is used up, any network will do: the search sees that it is known.
        row = self._encoding.draw(1, np.random.default_rng(trial.number))[0] if row is None else row
        self._proposed[trial.number], _ = as_parameters(self._encoding.space, self._encoding.decode(row))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Nothing: every parameter is known before the first is asked for."""
        return {}

    def sample_relative(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """The value of a parameter of the network that was chosen."""
        return self._proposed[trial.number][param_name]

    def after_trial(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,
        state: TrialState,  # noqa: ARG002
        values: Sequence[float] | None,  # noqa: ARG002
    ) -> None:
        """Forget what was proposed."""
        self._proposed.pop(trial.number, None)

    def reseed_rng(self) -> None:
        """Draw otherwise than a copy of this sampler in another thread."""
        self._seed = int(np.random.default_rng().integers(2**31))
        self._proposer, self._waiting = self._make(self._seed), []

    def _next(self, known: Rows, scores: npt.NDArray[np.float64], closed: Rows) -> Row | None:
        """The next network; None if no more fit. Several are proposed together where many scores are known."""
        taken = {row.tobytes() for row in (*known, *closed)}
        self._waiting = [row for row in self._waiting if row.tobytes() not in taken]
        if not self._waiting:
            number = 1 + len(known) // _TOGETHER
            self._waiting = list(self._proposer.propose(known, scores, closed=closed, number=number))
        return self._waiting.pop(0) if self._waiting else None

    def _seen(self, study: optuna.Study, number: int) -> tuple[Rows, npt.NDArray[np.float64], Rows]:
        """Networks with their scores, and networks without one that are not to be proposed."""
        known, scores, closed = [], [], []
        for trial in study.get_trials(deepcopy=False):
            if trial.number == number or trial.state == TrialState.WAITING:
                continue
            row = self._row(trial)
            if row is None:
                continue
            if trial.state == TrialState.COMPLETE and trial.value is not None:
                known.append(row)
                scores.append(trial.value)
            else:
                closed.append(row)
        none = np.zeros((0, len(self._encoding.columns)), dtype=np.int16)
        return (
            np.stack(known) if known else none,
            np.asarray(scores, dtype=np.float64),
            np.stack(closed) if closed else none,
        )

    def _row(self, trial: FrozenTrial) -> Row | None:
        """The row of a trial; None while its parameters are not all chosen."""
        if trial.number not in self._rows:
            parameters = trial.params

            def choose(name: str, options: Sequence[T]) -> T:
                value = parameters[name]
                return options[value if are_numbers(options) else options.index(value)]

            try:
                row: Row = self._encoding.encode([self._encoding.space.sample(choose)])[0]
            except KeyError:
                return None
            if not trial.state.is_finished():
                return row
            self._rows[trial.number] = row
        return self._rows[trial.number]


def make_sampler(
    name: str, encoding: Encoding, proposer: Callable[[int], Proposer], *, seed: int
) -> optuna.samplers.BaseSampler:
    """A sampler by its name.

    Args:
        name: one of `plan.SAMPLERS`.
        encoding: of the space.
        proposer: makes the proposer of `surrogate` from a seed.
        seed: random seed.
    """
    with warnings.catch_warnings():
        # group=True models parameters that are asked together jointly. Optuna marks it, and GPSampler, as experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "surrogate":
                return ArchitectureSampler(encoding, proposer, seed=seed)
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case _:
                raise ValueError(name)  # a name of SAMPLERS that is missing here


def as_parameters(space: SearchSpace, network: Architecture) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """A network of the space as values of Optuna parameters, and the distributions of these.

    Numbers are chosen by index, so that Optuna's samplers know their order.
    """
    answers = space.choices(network)
    parameters: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}

    def choose(name: str, options: Sequence[T]) -> T:
        index = list(options).index(answers[name])  # type: ignore[arg-type]
        if are_numbers(options):
            parameters[name], distributions[name] = index, IntDistribution(0, len(options) - 1)
        else:
            parameters[name], distributions[name] = options[index], CategoricalDistribution(options)  # type: ignore[arg-type]
        return options[index]

    space.sample(choose)
    return parameters, distributions


def are_numbers(options: Sequence[object]) -> bool:
    """Whether all options of a parameter are numbers."""
    return all(isinstance(option, int | float) for option in options)
