"""A Gaussian process over networks: accuracies that are known foretell those that are not. No torch.

What two networks have in common decides how much one tells about the other. The covariance of two accuracies is a sum:

- traits that act in a line (a linear kernel, one weight a trait),
- traits that act along a smooth curve (a squared exponential kernel, one length a trait),
- an offset of the family of networks, and a curve of its own for each family, with shorter lengths,
- an offset of the training recipe, of distillation, and of the network itself (it may be trained by several recipes),
- noise: another seed.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nas.errors import InputError
from nas.files import Record

__all__ = ["Kernel", "Labels", "Process", "check_columns", "covariance", "squared_distance"]

Array = npt.NDArray[np.float64]
_OFFSET = 4.0  # variance of the mean of all networks, in squared standard deviations of the targets: nearly free

_Size = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
_Length = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class Kernel(Record):
    """How much networks have in common. Sizes are standard deviations, in standard deviations of the targets.

    Attributes:
        linear: size of each trait's slope.
        curve: size of the smooth curve.
        lengths: distance in each trait over which the curve changes.
        family: size of the offset of a family.
        family_curve: size of a family's own curve.
        family_length: the lengths of that curve, as a factor of `lengths`.
        recipe: size of the offset of a recipe.
        distilled: size of the offset of distillation.
        network: size of the offset of a network, beside what its traits say.
        noise: size of the noise of one training.
    """

    linear: tuple[_Size, ...]
    curve: _Size
    lengths: tuple[_Length, ...]
    family: _Size
    family_curve: _Size
    family_length: _Length
    recipe: _Size
    distilled: _Size
    network: _Size
    noise: _Length


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a number of trained networks are, apart from their traits; each an array of N strings or flags."""

    family: npt.NDArray[np.str_]
    recipe: npt.NDArray[np.str_]
    network: npt.NDArray[np.str_]
    distilled: npt.NDArray[np.bool_]

    def __getitem__(self, index: npt.NDArray[np.int64]) -> Self:
        return type(self)(
            family=self.family[index],
            recipe=self.recipe[index],
            network=self.network[index],
            distilled=self.distilled[index],
        )


class Process:
    """Knows the targets of some networks, and foretells those of others.

    Args:
        kernel: how much networks have in common.
        traits: of the known networks, standardised, (N, T).
        labels: of the known networks.
        targets: of the known networks, standardised, (N,).
    """

    def __init__(self, kernel: Kernel, traits: Array, labels: Labels, targets: Array) -> None:
        # Imported here, so that reading a table, as `nas show` does, does not load scipy.
        from scipy.linalg import cho_factor, cho_solve

        self.kernel, self.traits, self.labels, self.targets = kernel, traits, labels, targets
        noise = kernel.noise**2 * np.eye(len(targets))
        try:
            known = cho_factor(covariance(kernel, traits, labels, traits, labels) + noise, lower=True)
        except np.linalg.LinAlgError as error:
            raise InputError(
                "the rows and the kernel of the accuracy table do not go together: make it again "
                "(accuracy_tables/README.md)"
            ) from error
        self._solve: Callable[[Array], Array] = partial(cho_solve, known)
        self._weights = self._solve(targets)

    def predict(self, traits: Array, labels: Labels) -> tuple[Array, Array]:
        """Mean and standard deviation of the targets of other networks, each (M,)."""
        shared = covariance(self.kernel, traits, labels, self.traits, self.labels)
        mean = shared @ self._weights
        explained = np.einsum("ij,ji->i", shared, self._solve(shared.T))
        own = _own_variance(self.kernel, traits, labels) + self.kernel.noise**2
        return mean, np.sqrt(np.maximum(own - explained, 1e-12))

    def leave_out(self, groups: Sequence[object]) -> tuple[Array, Array]:
        """Mean and standard deviation of each known target, foretold without its whole group, each (N,).

        Args:
            groups: the group of each known network, (N,).
        """
        inverse = self._solve(np.eye(len(self.targets)))
        mean, deviation = np.empty_like(self.targets), np.empty_like(self.targets)
        names = np.asarray([str(group) for group in groups])
        for name in np.unique(names):
            own = np.flatnonzero(names == name)
            block = np.linalg.inv(inverse[np.ix_(own, own)])
            mean[own] = self.targets[own] - block @ self._weights[own]
            deviation[own] = np.sqrt(np.diag(block))
        return mean, deviation


def covariance(kernel: Kernel, traits: Array, labels: Labels, others: Array, other_labels: Labels) -> Array:
    """Covariance of the targets of two sets of networks, without noise, (N, M)."""
    linear, lengths = np.asarray(kernel.linear), np.asarray(kernel.lengths)
    distance = squared_distance(traits / lengths, others / lengths)
    family = labels.family[:, None] == other_labels.family
    distilled = labels.distilled[:, None] & other_labels.distilled
    shared: Array = (
        _OFFSET
        + (traits * linear**2) @ others.T
        + kernel.curve**2 * np.exp(-distance / 2)
        + family * (kernel.family**2 + kernel.family_curve**2 * np.exp(-distance / (2 * kernel.family_length**2)))
        + kernel.recipe**2 * (labels.recipe[:, None] == other_labels.recipe)
        + kernel.distilled**2 * distilled
        + kernel.network**2 * (labels.network[:, None] == other_labels.network)
    )
    return shared


def _own_variance(kernel: Kernel, traits: Array, labels: Labels) -> Array:
    """The diagonal of `covariance` of networks with themselves, (N,)."""
    sizes = (kernel.curve, kernel.family, kernel.family_curve, kernel.recipe, kernel.network)
    constant = _OFFSET + sum(size**2 for size in sizes)
    own: Array = constant + (traits**2) @ np.asarray(kernel.linear) ** 2 + kernel.distilled**2 * labels.distilled
    return own


def squared_distance(first: Array, second: Array) -> Array:
    """Squared distance of each row of one matrix to each row of another, (N, M)."""
    squares: Array = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return np.maximum(squares, 0.0)


def check_columns(what: str, given: tuple[str, ...], known: tuple[str, ...], *columns: Sequence[float]) -> None:
    """Check that a file has the columns of this version of nas, and every row of it as many numbers.

    Raises:
        ValueError: it has others, or a row is shorter or longer.
    """
    if given != known:
        raise ValueError(
            f"{what} are not those of this version of nas: make the table again (accuracy_tables/README.md)"
        )
    if {len(column) for column in columns} != {len(known)}:
        raise ValueError(f"every row, centre, scale and kernel must have {len(known)} {what}")
