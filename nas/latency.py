"""What a network costs: a latency table, read and written as JSON, and the look-up of a network in it. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from nas import catalog
from nas.architecture import Architecture, Layer
from nas.cost_model import CostModel
from nas.errors import InputError, MissingLatencyError
from nas.files import Record, write_beside

__all__ = ["Latency", "LatencyTable", "LayerLatency", "Provenance", "PublishedTime", "Timing"]

Source = Literal["measured", "calibrated", "analytic"]
_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Provenance(Record):
    """Where the numbers of a table come from; tables that differ in it are never mixed.

    Attributes:
        source: `measured` on the device, `calibrated` (a model fitted to published end-to-end times), or `analytic`.
        device: model of the device, such as a phone or a processor.
        os: operating system and version.
        runtime: what ran the network, such as onnxruntime.
        versions: version of each piece of software that shapes the numbers.
        precision: number format of weights and activations.
        threads: threads of the runtime; absent where the runtime decides.
        batch: images in one inference.
        statistic: the quantile of the timed runs that a look-up adds up.
        protocol: how the times were taken, in words.
        date: day of the measurement or calibration, ISO 8601.
    """

    source: Source
    device: str
    os: str
    runtime: str
    versions: dict[str, str]
    precision: str
    threads: int | None = None
    batch: Literal[1] = 1
    statistic: Literal["minimum", "median"] = "median"
    protocol: str
    date: str

    @property
    def label(self) -> str:
        """The origin in a few words, for wherever a number is shown."""
        threads = f", {self.threads} thread{'' if self.threads == 1 else 's'}" if self.threads else ""
        return f"{self.source}: {self.device}, {self.os}, {self.runtime}, {self.precision}{threads}, batch {self.batch}"

    def same_device(self, other: Provenance) -> bool:
        """Whether both describe the same device, software and settings, on whatever day."""
        return self.model_copy(update={"date": other.date}) == other


class Timing(Record):
    """Quantiles of the timed runs of one layer, in milliseconds."""

    minimum_ms: _Milliseconds
    p10_ms: _Milliseconds
    median_ms: _Milliseconds
    p90_ms: _Milliseconds
    runs: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.minimum_ms <= self.p10_ms <= self.median_ms <= self.p90_ms:
            raise ValueError("quantiles must rise from minimum_ms to p90_ms")
        return self


class PublishedTime(Record):
    """What others measured for a whole network on this device; shown beside the prediction."""

    name: str
    latency_ms: _Milliseconds
    top1: Annotated[float, Field(gt=0, le=100)] | None = None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLatency:
    """Share of one layer in a network's latency. The cost of the call itself has the key `overhead`."""

    key: str
    latency_ms: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Predicted time of one inference at batch 1.

    Attributes:
        latency_ms: the sum over layers.
        low_ms: lower end of the interval.
        high_ms: upper end of the interval; the table's `interval_meaning` says what the interval covers.
        source: origin of the table.
        layers: the breakdown, in the order the layers run.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    source: str
    layers: tuple[LayerLatency, ...]


class LatencyTable(Record):
    """Latency of every layer on one device, as read from latency_tables/*.json.

    Attributes:
        entries: layer key -> timing.
        model: fills in layers without an entry; a table without a model answers for its entries only.
        published: architecture id -> what others measured for that network.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    provenance: Provenance
    model: CostModel | None = None
    published: dict[str, PublishedTime] = Field(default_factory=dict)
    entries: dict[str, Timing] = Field(default_factory=dict)

    @classmethod
    def find(cls, name: str) -> tuple[LatencyTable, Path]:
        """The table that `name` means (a path, a stem or a unique beginning of one), and its file.

        Raises:
            InputError: no such table, several that begin so, or a broken file.
        """
        path = catalog.find_file("latency table", "latency_tables", ".json", name)
        return cls.load(path), path

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table file; nothing in it is ever run.

        Raises:
            InputError: unreadable, not JSON, an unknown key or a value against a rule.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except ValidationError as error:
            raise InputError.from_validation(str(path), error) from error

    def save(self, path: Path) -> None:
        """Write the table beside `path` and rename it: one entry a line, sorted, so that a diff can be read."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        entries = ",\n".join(f"  {json.dumps(key)}: {json.dumps(data['entries'][key])}" for key in sorted(self.entries))
        published = ",\n".join(
            f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(data["published"].items())
        )
        parts = [f'{{"schema": {self.schema_version}', f'"provenance": {json.dumps(data["provenance"], indent=1)}']
        if self.model:
            parts.append(f'"model": {json.dumps(data["model"], indent=1)}')
        if self.published:
            parts.append(f'"published": {{\n{published}\n }}')
        parts.append(f'"entries": {{\n{entries}\n }}' if entries else '"entries": {}')
        write_beside(path, (",\n ".join(parts) + "}\n").encode())

    def with_entries(self, entries: Mapping[str, Timing]) -> LatencyTable:
        """The same table with these timings added."""
        return self.model_copy(update={"entries": {**self.entries, **entries}})

    @property
    def interval_meaning(self) -> str:
        """What the interval of a look-up in this table covers."""
        if self.model:
            return self.model.interval_meaning
        return (
            "from the fastest runs to the 90th percentile of each layer; the sum was not compared with whole networks"
        )

    @property
    def trust(self) -> str:
        """How far a look-up can be trusted, in one sentence."""
        if self.model:
            return self.model.trust
        return "the sum of layers was not compared with whole networks on this device"

    def quantiles(self, networks: Iterable[Architecture]) -> dict[str, float]:
        """Minimum, 10 %, median, 90 % and maximum of the latency of some networks, in ms."""
        values = sorted(map(self.latency_ms, networks))
        shares = {"minimum": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "maximum": 1.0}
        return {name: values[round(share * (len(values) - 1))] for name, share in shares.items()}

    def layer_ms(self, layer: Layer) -> float:
        """Milliseconds of one layer.

        Raises:
            MissingLatencyError: neither an entry nor a model covers it.
        """
        return self._look_up(layer).latency_ms

    def latency_ms(self, architecture: Architecture) -> float:
        """Predicted latency of a network alone, quicker than `latency` where thousands are asked for.

        Raises:
            MissingLatencyError: a layer has no entry.
        """
        return sum(map(self.layer_ms, architecture.layers())) + (self.model.overhead_ms if self.model else 0.0)

    def latency(self, architecture: Architecture) -> Latency:
        """Predicted latency of a network: the sum of its layers, with an interval and the breakdown.

        Raises:
            MissingLatencyError: some layers have no entry; the message says how to measure them.
        """
        layers = list(architecture.layers())
        missing = {layer.key for layer in layers if layer.key not in self.entries} if self.model is None else set()
        if missing:
            raise _missing(missing)
        parts = [self._look_up(layer) for layer in layers]
        overhead = self.model.overhead_ms if self.model else 0.0
        if overhead:
            parts.append(LayerLatency(key="overhead", latency_ms=overhead, source=self.provenance.source))
        total = sum(part.latency_ms for part in parts)
        low, high = self._interval(layers)
        return Latency(
            latency_ms=total,
            low_ms=min(low, total),
            high_ms=max(high, total),
            source=self.provenance.source,
            layers=tuple(parts),
        )

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with any content of the table."""
        return hashlib.sha256(self.model_dump_json(by_alias=True).encode()).hexdigest()[:16]

    def _look_up(self, layer: Layer) -> LayerLatency:
        timing = self.entries.get(layer.key)
        if timing is not None:
            value = timing.minimum_ms if self.provenance.statistic == "minimum" else timing.median_ms
            return LayerLatency(key=layer.key, latency_ms=value, source=self.provenance.source)
        if self.model is None:
            raise _missing({layer.key})
        # Beside measured entries a filled value must be told apart from them.
        source = "filled" if self.provenance.source == "measured" else self.provenance.source
        return LayerLatency(key=layer.key, latency_ms=self.model.layer_ms(layer), source=source)

    def _interval(self, layers: Iterable[Layer]) -> tuple[float, float]:
        known = [self.entries[layer.key] for layer in layers if layer.key in self.entries]
        low = sum(timing.minimum_ms for timing in known)
        high = sum(timing.p90_ms for timing in known)
        if self.model:
            filled_low, filled_high = self.model.interval_ms(
                [layer for layer in layers if layer.key not in self.entries]
            )
            return low + filled_low, high + filled_high
        return low, high


def _missing(keys: set[str]) -> MissingLatencyError:
    first = min(keys)
    more = f" and {len(keys) - 1} other layer{'s' if len(keys) > 2 else ''}" if len(keys) > 1 else ""
    return MissingLatencyError(
        f"the latency table has no entry for {first}{more}: measure the space that holds it "
        "(nas table build --device onnxruntime --space SPACE), or take a table with a model (nas table list)"
    )
