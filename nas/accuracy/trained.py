"""What supernets say about a network: their scores of some networks, distilled so that they foretell those of others.

A score of a supernet orders networks and has no unit, so each supernet's scores are standardised over the same random
networks, and averaged. A Gaussian process over what networks are made of (structure.py) foretells the average. A line
through the published networks of the family turns it into percent.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from nas.accuracy.process import Kernel, Labels, Process, check_columns
from nas.accuracy.published import INTERVAL
from nas.accuracy.structure import NUMBERS
from nas.files import Amount, Number, Record, Scale

__all__ = ["Foretelling", "Line", "ScoredBySupernets", "SupernetUsed", "Trained", "same_labels"]

Array = npt.NDArray[np.float64]


class SupernetUsed(Record):
    """A supernet whose scores are in a table: what it was trained on, and with which seed.

    Attributes:
        images: number of training images that it had seen, with repetition.
        networks: number of networks that it scored.
    """

    name: str
    data: str
    resolution: int
    seed: int
    images: int
    networks: int


class ScoredBySupernets(Record):
    """A network with its mean standardised score.

    Attributes:
        id: of the architecture.
        numbers: what it is made of, in the order of `Trained.numbers`.
        score: mean over the supernets, in standard deviations over random networks; higher is better.
    """

    id: str
    numbers: tuple[Number, ...]
    score: Number


class Foretelling(Record):
    """How well scores were foretold of networks that were left out, a fifth at a time.

    Attributes:
        networks: how many there are.
        rank_correlation: Spearman's, over all of them.
        in_bands: the same inside bands of latency 0.1 ms wide, by the lower end of the band.
    """

    networks: int
    rank_correlation: Number
    in_bands: dict[str, Number]

    def describe(self) -> str:
        """In words."""
        inside = f", inside bands of 0.1 ms {min(self.in_bands.values()):.2f} at least" if self.in_bands else ""
        return (
            f"scores of {self.networks} networks predicted from the others with rank correlation "
            f"{self.rank_correlation:.3f}{inside}"
        )


class Line(Record):
    """From a score to percent, by least squares: `offset + slope * score`.

    Attributes:
        rest: standard deviation of what is left, in percent.
        points: number of published networks that the line goes through.
        centre: mean of their scores.
        spread: sum of squared differences from that mean.
        lowest: the lowest of their scores.
        highest: the highest of their scores. No label says what a score beyond these means.
    """

    offset: Number
    slope: Number
    rest: Amount
    points: Annotated[int, Field(ge=3)]
    centre: Number
    spread: Scale
    lowest: Number
    highest: Number

    @classmethod
    def through(cls, scores: Array, top1: Array) -> Line:
        """The line of least squares; at least three points."""
        slope, offset = np.polyfit(scores, top1, 1)
        rest = np.sqrt(((top1 - offset - slope * scores) ** 2).sum() / (len(scores) - 2))
        return cls(
            offset=float(offset),
            slope=float(slope),
            rest=float(rest),
            points=len(scores),
            centre=float(scores.mean()),
            spread=float(((scores - scores.mean()) ** 2).sum()),
            lowest=float(scores.min()),
            highest=float(scores.max()),
        )

    def reach(self, scores: Array) -> Array:
        """Half of a 90 % prediction interval for a new network with each score; infinite beyond the points."""
        from scipy.special import stdtrit  # not for those who only read a table

        quantile = float(stdtrit(self.points - 2, 0.95))
        away = (scores - self.centre) ** 2 / self.spread
        reach: Array = quantile * self.rest * np.sqrt(1 + 1 / self.points + away)
        beyond = (scores < self.lowest - self.margin) | (scores > self.highest + self.margin)
        return np.where(beyond, np.inf, reach)

    @property
    def margin(self) -> float:
        """How far beyond the points a score still counts as among them: a tenth of their range."""
        return 0.1 * (self.highest - self.lowest)


class Trained(Record):
    """What supernets say about a network.

    Attributes:
        supernets: whose scores are averaged.
        numbers: names of what a network is made of.
        centre: mean of each number over the scored networks.
        scale: standard deviation of each number over them.
        kernel: learnt from the scored networks.
        rows: the scored networks.
        family: scores of the published networks of the family, by name.
        line: from scores to percent, through these.
        foretelling: how well scores are foretold.
    """

    supernets: tuple[SupernetUsed, ...]
    numbers: tuple[str, ...]
    centre: tuple[Number, ...]
    scale: tuple[Scale, ...]
    kernel: Kernel
    rows: Annotated[tuple[ScoredBySupernets, ...], Field(min_length=1)]
    family: dict[str, Number]
    line: Line
    foretelling: Foretelling

    @model_validator(mode="after")
    def _knows_the_numbers(self) -> Self:
        kernel = self.kernel
        rows = (row.numbers for row in self.rows)
        check_columns("numbers", self.numbers, NUMBERS, self.centre, self.scale, kernel.linear, kernel.lengths, *rows)
        return self

    @cached_property
    def process(self) -> Process:
        """The Gaussian process that has seen all scores."""
        return Process(
            self.kernel,
            self._standardised(np.asarray([row.numbers for row in self.rows])),
            same_labels(len(self.rows)),
            np.asarray([row.score for row in self.rows]),
        )

    def predict(self, known: Array) -> tuple[Array, Array]:
        """Percent, and half of a 90 % interval, each (N,), by what networks are made of, (N, len(NUMBERS))."""
        scores, deviations = self.process.predict(self._standardised(known), same_labels(len(known), name="new"))
        return self.percent(scores, deviations, self.line)

    @staticmethod
    def percent(scores: Array, deviations: Array, line: Line) -> tuple[Array, Array]:
        """Percent of some scores, and half of a 90 % interval: what the line leaves, and what the score leaves."""
        reach = np.sqrt(line.reach(scores) ** 2 + (INTERVAL * line.slope * deviations) ** 2)
        return line.offset + line.slope * scores, reach

    def _standardised(self, matrix: Array) -> Array:
        standardised: Array = (matrix - np.asarray(self.centre)) / np.asarray(self.scale)
        return standardised


def same_labels(networks: int, *, name: str = "row") -> Labels:
    """Labels of networks that all come from one place; each is another network than those of another `name`."""
    same = np.full(networks, "")
    own = np.asarray([f"{name} {number}" for number in range(networks)])
    return Labels(family=same, recipe=same, network=own, distilled=np.zeros(networks, dtype=bool))
