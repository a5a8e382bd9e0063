"""A network as Optuna's parameters, and back. Numbers are chosen by index, so that samplers know their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas.networks import Architecture, SearchSpace

__all__ = ["are_numbers", "as_parameters", "ask_network", "network_of"]

T = TypeVar("T")


def as_parameters(space: SearchSpace, network: Architecture) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """A network of the space as values of Optuna parameters, and the distributions of these."""
    answers = space.choices(network)
    parameters: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}

    def choose(name: str, options: Sequence[T]) -> T:
        index = list(options).index(answers[name])  # type: ignore[arg-type]
        parameters[name] = index if are_numbers(options) else options[index]
        distributions[name] = _distribution(tuple(options))
        return options[index]

    space.sample(choose)
    return parameters, distributions


def network_of(space: SearchSpace, parameters: Mapping[str, Any]) -> Architecture:
    """The network that some parameters describe.

    Raises:
        KeyError: one is missing.
    """

    def choose(name: str, options: Sequence[T]) -> T:
        value = parameters[name]
        return options[value if are_numbers(options) else options.index(value)]

    return space.sample(choose)


def ask_network(space: SearchSpace, trial: optuna.Trial) -> Architecture:
    """The network that a trial suggests."""

    def choose(name: str, options: Sequence[T]) -> T:
        if are_numbers(options):
            return options[trial.suggest_int(name, 0, len(options) - 1)]
        return options[options.index(trial.suggest_categorical(name, options))]  # type: ignore[arg-type]

    return space.sample(choose)


def are_numbers(options: Sequence[object]) -> bool:
    """Whether all options of a parameter are numbers."""
    return all(isinstance(option, int | float) for option in options)


@cache  # Thousands of trials share the distributions of a space.
def _distribution(options: tuple[Any, ...]) -> BaseDistribution:
    return IntDistribution(0, len(options) - 1) if are_numbers(options) else CategoricalDistribution(options)
