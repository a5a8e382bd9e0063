"""The accuracy table of a family of networks, stored as JSON: what each of its networks is worth. Never imports torch.

The twin of a latency table. It says where a number comes from and how far it can be trusted, and reading it never runs
code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from nas import catalog
from nas.accuracy.classifier import classifier_layer, classifier_of, classifier_px
from nas.accuracy.process import Labels
from nas.accuracy.published import INTERVAL, Errors, Published
from nas.accuracy.structure import numbers, numbers_of_rows
from nas.accuracy.trained import Line, Trained
from nas.accuracy.traits import TRAITS, of_layer, traits, traits_of
from nas.files import Amount, Record, digest_of, read_record, write_beside
from nas.networks import Architecture, Layer
from nas.networks.encoding import Encoding, Rows

__all__ = ["WORDS", "Accuracy", "AccuracyTable", "Origin", "Part", "share_of_trained"]

WORDS = {"published": "published results", "trained": "supernets"}  # where each part of a prediction comes from

Array = npt.NDArray[np.float64]
_BATCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one kind of evidence says: a top-1 accuracy in %, with a 90 % interval."""

    top1: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A predicted ImageNet-1k top-1 accuracy in %, with a 90 % interval.

    Attributes:
        parts: what it is made of, by name: `published`, and `trained` where the table has scores of supernets and a
            network's score lies among those of published networks.
    """

    top1: float
    low: float
    high: float
    parts: Mapping[str, Part]


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
    """Predicted accuracy of the networks of a family, as stored in accuracy_tables/*.json.

    Attributes:
        origin: where it comes from.
        published: what published accuracies say.
        trained: what supernets say, if any were asked.
        weight: how much the trained part counts. Each part counts by the inverse square of its interval, so that one
            which knows little about a network says little; the trained part `weight` times that.
        chance: share of random orders of the family's scores that foretell its rows at least as well. The trained part
            only counts if this is small.
        errors: of both together on the published networks of the family, by what was left out.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    origin: Origin
    published: Published
    trained: Trained | None = None
    weight: Amount = 0.0
    chance: Annotated[float, Field(ge=0, le=1)] | None = None
    errors: dict[str, Errors] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_its_family(self) -> Self:
        if not any(row.family == self.origin.family for row in self.published.rows):
            raise ValueError(f"published.rows: none is of the family {self.origin.family}")
        return self

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
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        parts = [
            f'"{name}": {_by_rows(value) if name in ("published", "trained") else json.dumps(value)}'
            for name, value in data.items()
        ]
        write_beside(path, ("{" + ",\n ".join(parts) + "}\n").encode())

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with any content of the table."""
        return digest_of(self.model_dump_json(by_alias=True))

    def predict(self, networks: Sequence[Architecture]) -> list[Accuracy]:
        """Predict the ImageNet-1k top-1 accuracy of networks; about 0.3 ms each, most of it for counting.

        Of networks for larger images than any published network's, as classifiers at 224 px without windows.
        """
        found: list[Accuracy] = []
        for start in range(0, len(networks), _BATCH):
            part = [classifier_of(network) for network in networks[start : start + _BATCH]]
            found += self._accuracies(traits_of(part), numbers(part))
        return found

    def of_rows(self, encoding: Encoding) -> Callable[[Rows], list[Accuracy]]:
        """What predicts the accuracy of rows of a space, as `predict` does; 0.1 ms each."""

        def tally(layer: Layer, resolution: int) -> Array:
            return of_layer(classifier_layer(layer, resolution), classifier_px(resolution))

        tallies = encoding.sums(tally)

        def predict(rows: Rows) -> list[Accuracy]:
            found: list[Accuracy] = []
            for start in range(0, len(rows), _BATCH):
                part = rows[start : start + _BATCH]
                pixels = [classifier_px(int(own)) for own in encoding.values(part, "resolution")]
                known = traits(tallies(part), pixels)
                found += self._accuracies(known, numbers_of_rows(encoding, part))
            return found

        return predict

    def without(self, names: Collection[str]) -> AccuracyTable:
        """The table as if these published networks of the family were not known."""
        rows = [row for row in self.published.rows if row.name not in names]
        trained = self.trained
        if trained is not None:
            family = {name: score for name, score in trained.family.items() if name not in names}
            top1 = {row.name: row.top1 for row in rows}
            line = Line.through(np.asarray([*family.values()]), np.asarray([top1[name] for name in family]))
            own = {name: getattr(trained, name) for name in Trained.model_fields}
            trained = Trained(**own | {"family": family, "line": line})
        return self.model_copy(update={"published": self.published.with_rows(rows), "trained": trained})

    def left_out(self, groups: Mapping[str, object]) -> dict[str, Accuracy]:
        """The rows of the family as they are foretold without their whole group.

        Args:
            groups: the group of each row of the family, by name.
        """
        rows = self.published.rows
        own = [number for number, row in enumerate(rows) if row.family == self.origin.family]
        every = [f"own {groups[row.name]}" if row.family == self.origin.family else i for i, row in enumerate(rows)]
        published = [values[own] for values in self.published.left_out(every)]
        names = [rows[number].name for number in own]
        top1 = {rows[number].name: rows[number].top1 for number in own}
        found = {}
        for place, name in enumerate(names):
            trained = None
            if self.trained and name in self.trained.family:
                others = [other for other in self.trained.family if groups[other] != groups[name]]
                line = Line.through(
                    np.asarray([self.trained.family[other] for other in others]),
                    np.asarray([top1[other] for other in others]),
                )
                score = np.asarray([self.trained.family[name]])
                trained = self.trained.percent(score, np.zeros(1), line)
            one = tuple(values[place : place + 1] for values in published)
            (found[name],) = self._together((one[0], one[1], one[2]), trained)
        return found

    def _accuracies(self, known: Array, made_of: Array) -> list[Accuracy]:
        """Predictions by the traits of networks, (N, len(TRAITS)), and by what they are made of, (N, len(NUMBERS))."""
        trained = None
        if self.trained:
            top1, reach = self.trained.predict(made_of)
            trained = top1, np.where(self._among_the_family(known), reach, np.inf)
        return self._together(self.published.predict(known, self._labels(len(known))), trained)

    def _together(self, published: tuple[Array, Array, Array], trained: tuple[Array, Array] | None) -> list[Accuracy]:
        """Both parts, weighed by their intervals.

        Their errors may have one cause, so the weighed intervals are added as if they had. Where the parts disagree,
        the interval is wider, by the spread of a mixture of both.
        """
        parts = {"published": published}
        together = published
        if trained is not None:
            top1, reach = trained
            parts["trained"] = (top1, top1 - reach, top1 + reach)
            share = share_of_trained((published[2] - published[1]) / 2, reach, self.weight)
            middle = (1 - share) * published[0] + share * top1
            apart = INTERVAL * np.sqrt(share * (1 - share)) * np.abs(top1 - published[0])
            finite = np.where(np.isfinite(reach), reach, 0.0)
            below, above = (
                np.hypot((1 - share) * np.abs(end - published[0]) + share * finite, apart) for end in published[1:]
            )
            together = (middle, middle - below, middle + above)
        return [
            Accuracy(
                top1=float(together[0][number]),
                low=float(together[1][number]),
                high=float(together[2][number]),
                parts={
                    name: Part(top1=float(part[0][number]), low=float(part[1][number]), high=float(part[2][number]))
                    for name, part in parts.items()
                    if np.isfinite(part[1][number])
                },
            )
            for number in range(len(published[0]))
        ]

    def _among_the_family(self, known: Array) -> npt.NDArray[np.bool_]:
        """Whether networks have no fewer and no more MACs and weights than the published networks of the family, (N,).

        What a supernet's score means was learnt from these; beyond, no label says.
        """
        columns = [TRAITS.index(name) for name in ("log macs", "log weights")]
        rows = np.asarray([row.traits for row in self.published.rows if row.family == self.origin.family])[:, columns]
        inside = (known[:, columns] >= rows.min(0) - 1e-4) & (known[:, columns] <= rows.max(0) + 1e-4)
        return np.asarray(inside.all(1))

    def _labels(self, networks: int) -> Labels:
        return Labels(
            family=np.full(networks, self.origin.family),
            recipe=np.full(networks, self.origin.recipe),
            network=np.full(networks, ""),
            distilled=np.zeros(networks, dtype=bool),
        )

    @property
    def trust(self) -> str:
        """How far a prediction can be trusted, in one sentence."""
        own = self.errors.get("each row of the family left out")
        others = self.published.errors.get("each family left out")
        if own is None or others is None:
            return "its errors are not known"
        return (
            f"{own.mean:.1f} points off in the mean over {own.networks} published networks of the family, each left "
            f"out; {others.mean:.1f} over {others.networks} networks whose whole family was left out"
        )

    def describe(self) -> Iterator[str]:
        """Lines of text about the origin of the table, and how far it can be trusted."""
        yield f"predicted ImageNet-1k top-1 accuracy of {self.origin.family}, trained for {self.origin.training}"
        yield f"versions: {', '.join(map(' '.join, self.origin.versions.items()))}; date: {self.origin.date}"
        for what, errors in self.errors.items():
            yield f"{what}: {errors.describe()}"
        yield f"published part: {self.origin.data}"
        for what, errors in self.published.errors.items():
            yield f"  {what}: {errors.describe()}"
        yield (
            f"  intervals are {self.published.widening:.2f} times those of the model, so that 90 % of the networks of "
            "families left out lie inside"
        )
        if self.trained:
            yield f"trained part, counting {self.weight:g} times by its interval: {self.trained.foretelling.describe()}"
            if self.chance is not None:
                yield (
                    f"  of random orders of its scores {self.chance:.0%} predict the family's rows at least as well"
                    + ("; so it is shown and does not count" if not self.weight else "")
                )
            for one in self.trained.supernets:
                yield (
                    f"  supernet {one.name}: {one.data} at {one.resolution} px, seed {one.seed}, {one.images} images; "
                    f"{one.networks} networks scored"
                )


def share_of_trained(published: Array, trained: Array, weight: float) -> Array:
    """Share of the trained part in a prediction, from half of both intervals; 0 where its interval is infinite."""
    known = weight * published**2
    both = trained**2 + known
    return np.divide(known, both, out=np.zeros_like(known), where=both > 0)


def _by_rows(part: dict[str, Any]) -> str:
    """A part as JSON, with its rows one per line."""
    rows = ",\n   ".join(map(json.dumps, part.pop("rows")))
    fields = [f'"{name}": {json.dumps(value)}' for name, value in part.items()]
    return "{\n  " + ",\n  ".join([*fields, f'"rows": [\n   {rows}\n  ]']) + "}"
