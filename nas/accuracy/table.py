"""The accuracy table of a family of networks, stored as JSON: what each of its networks is worth. Never imports torch.

The twin of a latency table. It says where a number comes from and how far it can be trusted, and reading it never runs
code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nas import catalog
from nas.accuracy.process import Kernel, Labels, Process
from nas.accuracy.traits import traits_of
from nas.files import Record, digest_of, read_record, write_beside
from nas.networks import Architecture

__all__ = ["INTERVAL", "Accuracy", "AccuracyTable", "Errors", "Origin", "Published", "Row"]

Array = npt.NDArray[np.float64]
INTERVAL = 1.6449  # half of a 90 % interval, in standard deviations
_BATCH = 1000
_CLASSES = 1000  # of ImageNet-1k

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Percent = Annotated[float, Field(ge=0, lt=100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A predicted ImageNet-1k top-1 accuracy in %, with a 90 % interval."""

    top1: float
    low: float
    high: float


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
    traits: tuple[_Number, ...]


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
    mean: _Number
    worst: _Number
    tau: _Number
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
    centre: tuple[_Number, ...]
    scale: tuple[_Number, ...]
    target_centre: _Number
    target_scale: _Number
    kernel: Kernel
    widening: _Number
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    errors: dict[str, Errors]
    ranges: dict[str, tuple[_Number, _Number]] = Field(default_factory=dict)

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


class Origin(Record):
    """Where an accuracy table comes from.

    Attributes:
        source: how the numbers came to be; `predicted` is never a measurement.
        family: family of the networks that it is for, as in the rows.
        recipe: recipe that the prediction is for, as in the rows.
        training: that recipe in words.
        data: where the published accuracies come from, with licence.
        versions: of the programs that read the networks.
        date: of the fit.
    """

    source: Literal["predicted"] = "predicted"
    family: str
    recipe: str
    training: str
    data: str
    versions: dict[str, str]
    date: str


class AccuracyTable(Record):
    """Predicted accuracy of the networks of a family, as stored in accuracy_tables/*.json."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    origin: Origin
    published: Published

    @classmethod
    def find(cls, name: str) -> tuple[AccuracyTable, Path]:
        """Find a table by its path, its file stem or the unique beginning of its stem.

        Raises:
            InputError: no table matches, several tables begin with `name`, or the file is broken.
        """
        path = catalog.find_file("accuracy table", "accuracy_tables", ".json", name)
        return read_record(path, cls), path

    def save(self, path: Path) -> None:
        """Write the table beside `path`, then rename it. Rows are one per line, for readable diffs."""
        data = self.model_dump(mode="json", by_alias=True)
        published = data.pop("published")
        rows = ",\n  ".join(map(json.dumps, published.pop("rows")))
        parts = [f'"{name}": {json.dumps(value)}' for name, value in published.items()]
        head = ",\n ".join(f'"{name}": {json.dumps(value)}' for name, value in data.items())
        inner = ",\n  ".join([*parts, f'"rows": [\n  {rows}\n ]'])
        write_beside(path, f'{{{head},\n "published": {{\n  {inner}}}}}\n'.encode())

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with any content of the table."""
        return digest_of(self.model_dump_json(by_alias=True))

    def predict(self, networks: Sequence[Architecture]) -> list[Accuracy]:
        """Predict the ImageNet-1k top-1 accuracy of networks; about 0.2 ms each, most of it for counting."""
        found: list[Accuracy] = []
        for start in range(0, len(networks), _BATCH):
            part = [network.at(num_classes=_CLASSES) for network in networks[start : start + _BATCH]]
            values = self.published.predict(traits_of(part), self._labels(part))
            found += [
                Accuracy(top1=top1, low=low, high=high)
                for top1, low, high in zip(*map(np.ndarray.tolist, values), strict=True)
            ]
        return found

    def _labels(self, networks: Sequence[Architecture]) -> Labels:
        return Labels(
            family=np.full(len(networks), self.origin.family),
            recipe=np.full(len(networks), self.origin.recipe),
            network=np.asarray([""] * len(networks)),
            distilled=np.zeros(len(networks), dtype=bool),
        )

    @property
    def trust(self) -> str:
        """How far a prediction can be trusted, in one sentence."""
        errors = self.published.errors
        own, others = errors["each row of the family left out"], errors["each family left out"]
        return (
            f"{own.mean:.1f} points off in the mean over {own.networks} networks of the family, each left out; "
            f"{others.mean:.1f} over {others.networks} of other families, each family left out"
        )

    def describe(self) -> Iterator[str]:
        """Lines of text about the origin of the table, and how far it can be trusted."""
        yield f"predicted ImageNet-1k top-1 accuracy of {self.origin.family}, trained for {self.origin.training}"
        yield f"data: {self.origin.data}"
        yield f"versions: {', '.join(map(' '.join, self.origin.versions.items()))}; date: {self.origin.date}"
        for what, errors in self.published.errors.items():
            yield f"{what}: {errors.describe()}"
        yield (
            f"intervals are {self.published.widening:.2f} times those of the model, so that 90 % of the networks of "
            "families left out lie inside"
        )
