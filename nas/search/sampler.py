"""What proposes the networks of a search: this project's sampler for Optuna, and those of Optuna itself.

A search asks a sampler through `Asking`. It keeps a copy of the study in memory, because Optuna's samplers ask for one
parameter at a time, and a storage would be written for each of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.errors import NasError
from nas.networks import Architecture, SearchSpace
from nas.networks.encoding import Encoding, Rows
from nas.search.jobs import Entry
from nas.search.parameters import as_parameters, ask_network, network_of
from nas.search.proposer import Proposer

__all__ = ["ArchitectureSampler", "Asking", "make_sampler"]

Row = npt.NDArray[np.int16]

_TOGETHER = 100  # known scores for each further network that is proposed at once
_POPULATION = 20  # of NSGA; Optuna's 50 are more than most searches score
_CONSTRAINT = "over_budget"


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
            try:
                row: Row = self._encoding.encode([network_of(self._encoding.space, trial.params)])[0]
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
        proposer: makes the proposer of `surrogate` or `evolution` from a seed.
        seed: random seed.
    """
    with warnings.catch_warnings():
        # group=True models parameters that are asked together jointly. Optuna marks it, and GPSampler, as experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "surrogate" | "evolution":
                return ArchitectureSampler(encoding, proposer, seed=seed)
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
            case "nsga3":
                return optuna.samplers.NSGAIIISampler(seed=seed, population_size=_POPULATION)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case _:
                raise ValueError(name)  # a name of SAMPLERS that is missing here


class Asking:
    """Asks a sampler for networks, and tells it of all scores in the study.

    Args:
        space: the networks to propose.
        sampler: the sampler.
        over: how far a network is over the budget or a limit; at most 0 inside.
        front: whether a sampler that knows several objectives is to look for the whole front in latency and score.
        costs: what such a sampler is to lower as well.

    Attributes:
        proposed: networks that the sampler proposed.
        over_budget: how many of them are over the budget or a limit.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: optuna.samplers.BaseSampler,
        *,
        over: Callable[[Architecture], float],
        front: bool = False,
        costs: Sequence[Callable[[Architecture], float]] = (),
    ) -> None:
        self._space, self._over = space, over
        knows_several = isinstance(sampler, optuna.samplers.NSGAIISampler | optuna.samplers.NSGAIIISampler)
        self._front, self._costs = front and knows_several, costs if knows_several else ()
        lowered = [StudyDirection.MINIMIZE] * (self._front + len(self._costs))
        self._copy = optuna.create_study(directions=[StudyDirection.MAXIMIZE, *lowered], sampler=sampler)
        self._trials: dict[str, int] = {}  # of the copy, by network id
        self._told: dict[str, list[float] | None] = {}  # None for a failure
        self._number = 0  # of trials in the copy
        self.proposed = self.over_budget = 0

    def ask(self) -> tuple[Architecture, float]:
        """The next network, and how far it is over the budget. It may be one that is known."""
        self.proposed += 1
        self._number += 1
        trial = self._copy.ask()
        network = ask_network(self._space, trial)
        over = self._over(network)
        trial.set_constraint(_CONSTRAINT, over)
        if over > 0:
            self.over_budget += 1
            self._copy.tell(trial, state=TrialState.PRUNED)
        elif network.id in self._trials:
            values = self._told.get(network.id)
            self._copy.tell(trial, values, state=TrialState.FAIL if values is None else None)
        else:
            self._trials[network.id] = trial.number
        return network, over

    def learn(self, entries: Iterable[Entry], *, last: int, trial_of: Callable[[Entry], FrozenTrial]) -> None:
        """Learn what there is in the study.

        Args:
            entries: all jobs.
            last: number of the rung that decides. Only its scores are told, so the sampler learns from one scale.
            trial_of: the trial of an entry.
        """
        for entry in entries:
            decides = entry.state == "finished" and entry.rung in (last, None)
            if entry.id in self._told or (entry.id in self._trials and not decides):
                continue
            known = entry.id in self._trials
            trial = None if known and not self._costs else trial_of(entry)
            # A reference may lie outside the space.
            network = network_of(self._space, trial.params) if trial is not None and trial.params else None
            values = self._values(entry, network) if decides else None
            ending = TrialState.FAIL if values is None else TrialState.COMPLETE
            if known:
                self._copy.tell(self._trials[entry.id], values, state=ending)
            elif trial is not None and network is not None:
                self._copy.add_trial(
                    optuna.trial.create_trial(
                        state=ending if decides else TrialState.RUNNING,
                        values=values,
                        params=trial.params,
                        distributions=trial.distributions,
                        constraints={_CONSTRAINT: self._over(network)},
                    )
                )
                self._trials[entry.id] = self._number
                self._number += 1
            if decides:
                self._told[entry.id] = values

    def _values(self, entry: Entry, network: Architecture | None) -> list[float] | None:
        if entry.value is None:
            return None
        costs = [] if network is None else [cost(network) for cost in self._costs]
        return [entry.value, *([entry.latency_ms] if self._front else []), *costs]
