"""What published accuracies say about a network: a Gaussian process that has seen them, and how far off it was."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from nas.accuracy.process import Kernel, Labels, Process, check_columns
from nas.accuracy.traits import TRAITS
from nas.files import Amount, Number, Record, Scale

__all__ = ["INTERVAL", "Errors", "Published", "Row"]

Array = npt.NDArray[np.float64]
INTERVAL = 1.6449  # half of a 90 % interval, in standard deviations

_Share = Annotated[float, Field(ge=0, le=1)]
_Percent = Annotated[float, Field(ge=0, lt=100)]


class Row(Record):
    """A trained network with its published accuracy.

    Attributes:
        name: of the network.
        family: of networks by the same authors, built alike.
        recipe: how it was trained; networks with the same recipe share its offset.
        distilled: whether it learnt from a teacher.
        top1: ImageNet-1k top-1 accuracy in %.
        traits: numbers of `nas.accuracy.traits`, in the order of the table's `traits`.
    """

    name: str
    family: str
    recipe: str
    distilled: bool = False
    top1: _Percent
    traits: tuple[Number, ...]


class Errors(Record):
    """How far predictions were from published accuracies that they had not seen.

    Attributes:
        networks: number of accuracies.
        mean: mean absolute error in points.
        worst: largest absolute error in points.
        tau: Kendall's tau of the order.
        covered: share inside the 90 % interval.
    """

    networks: int
    mean: Number
    worst: Number
    tau: Number
    covered: _Share

    def describe(self) -> str:
        """The errors in words."""
        return (
            f"{self.mean:.2f} points in the mean, {self.worst:.2f} at worst, Kendall's tau {self.tau:.2f}, "
            f"{self.covered:.0%} inside the 90 % interval, over {self.networks} accuracies"
        )


class Published(Record):
    """What published accuracies say about a network.

    Attributes:
        traits: names of the traits.
        centre: mean of each trait over the networks of other families.
        scale: standard deviation of each trait over them.
        target_centre: mean of the targets over them. A target is -log(100 - top1).
        target_scale: standard deviation of the targets over them.
        kernel: learnt from the networks of other families.
        widening: factor of all intervals, so that 90 % of networks lay inside when their family was left out.
        rows: the networks, those of other families first.
        errors: predictions of accuracies that were left out, by what was left out.
        ranges: smallest and largest number of everything that the networks of the family are made of. No label says
            anything about networks beyond.
    """

    traits: tuple[str, ...]
    centre: tuple[Number, ...]
    scale: tuple[Scale, ...]
    target_centre: Number
    target_scale: Scale
    kernel: Kernel
    widening: Amount
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    errors: dict[str, Errors]
    ranges: dict[str, tuple[Number, Number]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _knows_the_traits(self) -> Self:
        kernel = self.kernel
        rows = (row.traits for row in self.rows)
        check_columns("traits", self.traits, TRAITS, self.centre, self.scale, kernel.linear, kernel.lengths, *rows)
        return self

    @staticmethod
    def target(top1: Array) -> Array:
        """The number that is predicted: logarithms of errors are nearer to a line in those of MACs and weights."""
        return -np.log(100 - top1)

    @staticmethod
    def labels(rows: Sequence[Row]) -> Labels:
        """What the rows are, apart from their traits."""
        return Labels(
            family=np.asarray([row.family for row in rows]),
            recipe=np.asarray([row.recipe for row in rows]),
            network=np.asarray([row.name for row in rows]),
            distilled=np.asarray([row.distilled for row in rows]),
        )

    @cached_property
    def process(self) -> Process:
        """The Gaussian process that has seen all rows."""
        targets = self.target(np.asarray([row.top1 for row in self.rows]))
        return Process(
            self.kernel,
            self._standardised(np.asarray([row.traits for row in self.rows])),
            self.labels(self.rows),
            (targets - self.target_centre) / self.target_scale,
        )

    def predict(self, traits: Array, labels: Labels) -> tuple[Array, Array, Array]:
        """Top-1 accuracy in % and both ends of its 90 % interval, each (N,)."""
        return self._percent(*self.process.predict(self._standardised(traits), labels))

    def with_rows(self, rows: Sequence[Row]) -> Published:
        """The same kernel, having seen these rows instead."""
        own = {name: getattr(self, name) for name in Published.model_fields}
        return Published(**own | {"rows": tuple(rows)})

    def foretold(self, rows: Sequence[Row]) -> tuple[Array, Array, Array]:
        """The same for rows that the process has not seen."""
        return self.predict(np.asarray([row.traits for row in rows]), self.labels(rows))

    def left_out(self, groups: Sequence[object]) -> tuple[Array, Array, Array]:
        """The same for its own rows, each without its whole group."""
        return self._percent(*self.process.leave_out(groups))

    def _standardised(self, traits: Array) -> Array:
        standardised: Array = (traits - np.asarray(self.centre)) / np.asarray(self.scale)
        return standardised

    def _percent(self, mean: Array, deviation: Array) -> tuple[Array, Array, Array]:
        reach = INTERVAL * self.widening * deviation
        top1, low, high = (
            100 - np.exp(-(self.target_centre + self.target_scale * value))
            for value in (mean, mean - reach, mean + reach)
        )
        return top1, low, high
