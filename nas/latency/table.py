"""The latency table of a device, stored as JSON, and the lookup of a network in the table. Never imports torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from nas import catalog
from nas.errors import InputError, MissingLatencyError
from nas.files import Amount, Record, digest_of, read_record, write_beside
from nas.latency.cost_model import CostModel
from nas.latency.entries import (
    Check,
    Correction,
    Entry,
    Failed,
    Filled,
    Provenance,
    PublishedTime,
    ReferenceTime,
    Timing,
)
from nas.networks import Architecture, Layer, operations

__all__ = ["Latency", "LatencyTable", "LayerLatency", "drift", "weights_mb"]

_COVERAGE = 0.9
_DRIFT = 0.02  # a smaller relative change of the reference layer is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLatency:
    """Share of one layer in a network's latency. The fixed cost of the call has the key `overhead`."""

    key: str
    latency_ms: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Predicted time of one inference at batch 1.

    Attributes:
        latency_ms: the sum over layers.
        low_ms: lower end of the interval. The table's `interval_meaning` says what the interval covers.
        high_ms: upper end of the interval.
        source: `measured`, `calibrated` or `analytic`, as in the table's provenance.
        layers: the breakdown by layer, in the order in which the layers run.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    source: str
    layers: tuple[LayerLatency, ...]


class LatencyTable(Record):
    """Latency of each layer on one device, as stored in latency_tables/*.json.

    Attributes:
        provenance: where the numbers come from.
        model: predicts layers without an entry. A table without a model covers only its entries.
        published: architecture id -> the time that others measured for this network.
        reference: the layer that shows the drift of the device.
        call_ms: fixed cost of one inference call, beside its layers. 0 if the device has none.
        correction: correction of the sums of layers, learned from whole networks.
        check: comparison with whole networks. It shows how far the lookups can be trusted.
        entries: layer key -> timing, filled value or failure.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    provenance: Provenance
    model: CostModel | None = None
    published: dict[str, PublishedTime] = Field(default_factory=dict)
    reference: ReferenceTime | None = None
    call_ms: Amount = 0.0
    correction: Correction | None = None
    check: Check | None = None
    entries: dict[str, Entry] = Field(default_factory=dict)

    @classmethod
    def find(cls, name: str) -> tuple[LatencyTable, Path]:
        """Find a table by its path, its file stem or the unique beginning of its stem.

        Returns:
            The table and the path of its file.

        Raises:
            InputError: no table matches, several tables begin with `name`, or the file is broken.
        """
        path = catalog.find_file("latency table", "latency_tables", ".json", name)
        return cls.load(path), path

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Read a table file. No content of the file is ever executed.

        Raises:
            InputError: the file is unreadable or not JSON, or it has an unknown key or an invalid value.
        """
        return read_record(Path(path), cls)

    def save(self, path: Path) -> None:
        """Write the table beside `path`, then rename it. Entries are sorted, one per line, for readable diffs."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        entries = {key: entry.model_dump(mode="json", exclude_defaults=True) for key, entry in self.entries.items()}
        parts = [f'{{"schema": {self.schema_version}', f'"provenance": {json.dumps(data["provenance"], indent=1)}']
        if self.model:
            parts.append(f'"model": {json.dumps(data["model"], indent=1)}')
        if self.published:
            parts.append(f'"published": {{\n{_lines(data["published"])}\n }}')
        for name in ("reference", "call_ms", "correction"):
            if data.get(name):
                parts.append(f'"{name}": {json.dumps(data[name])}')
        if self.check:
            rows = ",\n  ".join(map(json.dumps, data["check"].pop("rows")))
            parts.append(f'"check": {json.dumps(data["check"])[:-1]}, "rows": [\n  {rows}\n ]}}')
        parts.append(f'"entries": {{\n{_lines(entries)}\n }}' if entries else '"entries": {}')
        write_beside(path, (",\n ".join(parts) + "}\n").encode())

    def with_entries(self, entries: Mapping[str, Entry]) -> LatencyTable:
        """Copy the table and add entries. The copy has no check and no correction: they no longer hold."""
        return self.model_copy(
            update={"entries": {**self.entries, **entries}, "check": None, "correction": None},
        )

    @property
    def interval_meaning(self) -> str:
        """What the interval of a lookup in this table covers."""
        if self.check:
            return (
                f"{_default_coverage(self.check):.0%} of networks like the {self.check.agreement.networks} it was "
                "checked on"
            )
        if self.model:
            return self.model.interval_meaning
        return (
            "from the fastest runs to the 90th percentile of each layer; the sum was not compared with whole networks"
        )

    @property
    def trust(self) -> str:
        """How far a lookup can be trusted, in one sentence."""
        if self.check:
            filled = sum(isinstance(entry, Filled) for entry in self.entries.values())
            return self.check.describe() + (f"; {filled} of {len(self.entries)} layers are filled in" if filled else "")
        if self.model:
            return self.model.trust
        return "the sum of layers was not compared with whole networks on this device (nas table check)"

    def describe(self) -> Iterator[str]:
        """Lines of text about the origin of the table, its contents, and how far it can be trusted."""
        provenance = self.provenance
        yield provenance.label
        yield f"runtime: {', '.join([provenance.runtime, *map(' '.join, provenance.versions.items())])}"
        yield f"protocol: {provenance.protocol}"
        yield f"date: {provenance.date}"
        yield f"trust: {self.trust}"
        if self.entries:
            yield from self._describe_entries()
        if self.call_ms:
            yield f"one call costs {self.call_ms:.3f} ms besides its layers"
        if self.correction:
            yield (
                f"correction: {self.correction.scale:.4f} x sum + {self.correction.weights_ms_per_mb:.4f} ms for each "
                f"10^6 bytes of weights, learnt on {self.correction.networks} whole networks"
            )
        if self.check:
            yield f"check of {self.check.date}: {self.check.protocol}; drift {self.check.drift:g}"
            yield f"  plain sums: {self.check.uncorrected.describe()}"
            yield f"  the fastest of half of the rounds and of the other half differ by {self.check.half_noise:.2%}"
            for name, agreement in self.check.baselines.items():
                yield f"  a line in {name}: {agreement.describe()}, {agreement.networks} networks it has not seen"
        if self.model:
            yield from self.model.describe()

    def _describe_entries(self) -> Iterator[str]:
        timings = {key: entry for key, entry in self.entries.items() if isinstance(entry, Timing)}
        failures = {key: entry.failed for key, entry in self.entries.items() if isinstance(entry, Failed)}
        filled = len(self.entries) - len(timings) - len(failures)
        yield f"layers: {len(timings)} measured, {filled} filled in between them, {len(failures)} failed"
        for key, reason in sorted(failures.items()):
            yield f"  failed: {key}: {reason}"
        if not timings:
            return
        ratios = sorted(timing.median_ms / timing.minimum_ms for timing in timings.values())
        slowest, worst = max((timing.maximum_ms or 0) / timing.minimum_ms for timing in timings.values()), ratios[-1]
        yield (
            f"runs: the median is {ratios[len(ratios) // 2]:.2f} times the fastest in the middle of the layers, "
            f"{worst:.2f} times at most; the slowest of all runs took {slowest:.1f} times the fastest of its layer"
        )
        doubtful = sum(timing.in_doubt for timing in timings.values())
        drifts = _range(map(self.drift, timings.values()))
        yield f"in doubt after all visits: {doubtful} layers; drift of the device: {drifts}"
        slow = [timing.slowdown for timing in timings.values() if timing.slowdown > 1]
        if slow:
            yield f"two speeds: {len(slow)} layers run faster at first, by {_range(slow)}; the steady time counts"
        compared = [timing.output_error for timing in timings.values() if timing.output_error is not None]
        if compared:
            yield f"outputs: {len(compared)} compared with torch, relative error at most {max(compared):.1g}"
        else:
            yield "outputs: not compared with torch, the device does not give them"
        for name in sorted({name for timing in timings.values() for name in timing.facts}):
            counts = Counter(timing.facts.get(name, "not told") for timing in timings.values())
            yield f"{name}: " + "; ".join(f"{value} ({number} layers)" for value, number in counts.most_common(5))

    def quantiles(self, networks: Iterable[Architecture]) -> dict[str, float]:
        """Minimum, 10 % quantile, median, 90 % quantile and maximum of the networks' latencies, in ms."""
        values = sorted(map(self.latency_ms, networks))
        shares = {"minimum": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "maximum": 1.0}
        return {name: values[round(share * (len(values) - 1))] for name, share in shares.items()}

    def drift(self, timing: Timing) -> float:
        """Time of the reference layer during a timing, divided by its usual time. 1 if the difference is only noise."""
        if self.reference is None or timing.reference_ms is None:
            return 1.0
        return drift(timing.reference_ms, self.reference.latency_ms)

    def layer_ms(self, layer: Layer) -> float:
        """Latency of one layer in ms, with the table's correction, if any. Infinite if the layer failed on the device.

        Raises:
            MissingLatencyError: neither an entry nor a model covers the layer.
        """
        if isinstance(self.entries.get(layer.key), Failed):
            return math.inf
        return self._look_up(layer).latency_ms

    def latency_ms(self, architecture: Architecture) -> float:
        """Predicted latency of a network in ms, without interval and breakdown.

        For thousands of networks, this method is faster than `latency`. The result is infinite if a layer of the
        network failed on the device.

        Raises:
            MissingLatencyError: neither an entry nor a model covers a layer.
        """
        return sum(map(self.layer_ms, architecture.layers())) + self._overhead_ms

    def upper_ms(self, architecture: Architecture, confidence: float) -> float:
        """Upper end of the interval that covers the share `confidence` of networks, in ms.

        A search with `--confidence` limits this value.

        Raises:
            InputError: the table has neither a check nor a model, or they use too few networks for this share.
            MissingLatencyError: neither an entry nor a model covers a layer.
        """
        if not (self.check or self.model):
            raise InputError("the latency table was not checked, so it has no interval: nas table check TABLE")
        return self.latency(architecture, coverage=confidence).high_ms

    def latency(self, architecture: Architecture, *, coverage: float | None = None) -> Latency:
        """Predicted latency of a network: the sum of its layers, with an interval and the breakdown.

        Args:
            architecture: the network. It need not belong to a search space.
            coverage: share of networks that the interval should cover, in (0, 1). With a check, the default is 90 %, or
                the largest share that its networks allow. Without a check, the default is the model's coverage.

        Raises:
            InputError: the check or the model uses too few networks for this coverage.
            MissingLatencyError: some layers have no entry, and the table has no model. The message says how to measure
                them.
        """
        layers = list(architecture.layers())
        missing = {layer.key for layer in layers if layer.key not in self.entries} if self.model is None else set()
        if missing:
            raise _missing(missing)
        parts = [self._look_up(layer) for layer in layers]
        if self._overhead_ms:
            parts.append(LayerLatency(key="overhead", latency_ms=self._overhead_ms, source=self.provenance.source))
        total = sum(part.latency_ms for part in parts)
        low, high = self._interval(layers, total, coverage)
        return Latency(
            latency_ms=total,
            low_ms=min(low, total),
            high_ms=max(high, total),
            source=self.provenance.source,
            layers=tuple(parts),
        )

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with any content of the table."""
        return digest_of(self.model_dump_json(by_alias=True))

    @property
    def _overhead_ms(self) -> float:
        return self.call_ms + (self.model.overhead_ms if self.model else 0.0)

    def _look_up(self, layer: Layer) -> LayerLatency:
        match self.entries.get(layer.key):
            case Timing() as timing:
                fastest = self.provenance.statistic == "minimum"
                value = (timing.minimum_ms if fastest else timing.median_ms) / self.drift(timing)
                source: str = self.provenance.source
            case Filled() as filled:
                value, source = filled.filled_ms, "filled"
            case Failed() as failed:
                raise MissingLatencyError(
                    f"{layer.key} could not be measured ({failed.failed}): nas table build --retry-failed"
                )
            case None if self.model:
                # In a measured table, `filled` marks a value from the model as not measured.
                source = "filled" if self.provenance.source == "measured" else self.provenance.source
                value = self.model.layer_ms(layer)
            case None:
                raise _missing({layer.key})
        if self.correction:
            weights = weights_mb(layer, self.provenance.precision)
            value = self.correction.scale * value + self.correction.weights_ms_per_mb * weights
        return LayerLatency(key=layer.key, latency_ms=value, source=source)

    def _interval(self, layers: Sequence[Layer], total_ms: float, coverage: float | None) -> tuple[float, float]:
        if self.check:
            low, high = self.check.factors(coverage or _default_coverage(self.check))
            return total_ms * low, total_ms * high
        low = high = self.call_ms
        for layer in layers:
            match self.entries.get(layer.key):
                case Timing() as timing:
                    low += timing.minimum_ms / self.drift(timing)
                    high += timing.p90_ms / self.drift(timing)
                case Filled() as filled:
                    low += filled.low_ms
                    high += filled.high_ms
        if self.model:
            rest = [layer for layer in layers if layer.key not in self.entries]
            modelled_low, modelled_high = self.model.interval_ms(rest, coverage)
            return low + modelled_low, high + modelled_high
        return low, high


def _range(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]:.3f}" if ordered[0] == ordered[-1] else f"{ordered[0]:.3f} to {ordered[-1]:.3f}"


def drift(reference_ms: float, usual_ms: float) -> float:
    """Time of a device's reference layer, divided by its usual time. 1 if the difference is only noise."""
    ratio = reference_ms / usual_ms
    return 1.0 if abs(ratio - 1) < _DRIFT else ratio


def weights_mb(layer: Layer, precision: str) -> float:
    """Size of a layer's weights on the device, in 10^6 bytes."""
    size = 2 if precision == "fp16" else 4
    return sum(operation.weights for operation in operations(layer)) * size / 1e6


def _default_coverage(check: Check) -> float:
    """90 %, or the largest share that the networks of the check allow, if that is less."""
    return min(_COVERAGE, check.agreement.networks / (check.agreement.networks + 1))


def _lines(items: Mapping[str, object]) -> str:
    """The members of a JSON object as text, sorted by key, one per line."""
    return ",\n".join(f"  {json.dumps(key)}: {json.dumps(items[key])}" for key in sorted(items))


def _missing(keys: set[str]) -> MissingLatencyError:
    first = min(keys)
    more = f" and {len(keys) - 1} other layer{'s' if len(keys) > 2 else ''}" if len(keys) > 1 else ""
    return MissingLatencyError(
        f"the latency table has no entry for {first}{more}: measure the space that holds it "
        "(nas table build --device onnxruntime --space SPACE), or take a table with a model (nas table list)"
    )
