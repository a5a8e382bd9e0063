"""Space x device -> latency table: every distinct layer timed by one protocol, saved as it goes."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.architecture import AttentionLayer, ConvLayer, Layer, Stack
from nas.devices import Device, DeviceDescription, Job, Run, sampled
from nas.drift import DriftWatch, interleaved, reference_layer
from nas.entries import Entry, Failed, Filled, Provenance, Timing
from nas.errors import InputError
from nas.fill import fill, measuring_order, too_slow
from nas.latency import LatencyTable
from nas.timing import TimingProtocol, read_runs, stack_share

__all__ = ["Progress", "build_table", "default_path", "ignore_progress", "measured_provenance", "require_same_device"]

STACK = 4  # layers in a stack on devices whose calls have a cost of their own

# Largest relative error of an output against torch in float32. Runtimes reorder sums: about 1e-6; float16 has 11 bits,
# and errors of a thousandth add up over the operations of a layer.
_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
_STEP = 0.05  # share of the layers measured before intervals are looked at again


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a build is: `done` of `total` layers, and what it is at."""

    done: int
    total: int
    key: str


def ignore_progress(progress: Progress) -> None:
    """Watch nothing."""


def build_table(
    layers: Iterable[Layer],
    device: Device,
    out: Path,
    *,
    protocol: TimingProtocol | None = None,
    sample: float = 1.0,
    until_error: float | None = None,
    retry_failed: bool = False,
    on_progress: Callable[[Progress], None] = ignore_progress,
) -> LatencyTable:
    """Time layers on the device and keep the table at `out`; layers already measured there are not timed again.

    The file is rewritten after every layer, so a build killed at any moment goes on from its last finished layer.

    Args:
        layers: what the table is to cover, such as `space.layers`.
        device: where to measure.
        out: the table file, new or begun by an earlier build.
        protocol: how to time a layer.
        sample: share of the layers to measure; the others are filled in between them, and marked.
        until_error: with `sample`, go on with the layers whose intervals are widest until every filled value is known
            to this relative error, at 90 %.
        retry_failed: take up layers again that failed before.
        on_progress: called before the first and after every layer.
    Returns:
        The table, with whatever else `out` already held.
    Raises:
        InputError: `out` holds another device's times, or cannot be read or written.
        DeviceError: the device is gone.
    """
    protocol = protocol or TimingProtocol()
    order = measuring_order(layers)
    build = _Build(device, protocol, out, order, on_progress)
    wanted = order[: max(1, round(sample * len(order)))]
    build.measure(wanted, retry_failed=retry_failed)
    build.fill()
    if until_error is not None:
        while wide := build.wider_than(until_error)[: max(1, round(_STEP * len(order)))]:
            build.measure(wide, retry_failed=False)
            build.fill()
    return build.table


def default_path(device: Device) -> Path:
    """latency_tables/DEVICE.RUNTIME.PRECISION.json for a device, in the working directory."""
    description = device.describe()
    model = (
        "-".join("".join(c if c.isalnum() else " " for c in description.model.lower()).split()) or platform.machine()
    )
    return Path("latency_tables") / f"{model}.{description.kind}.{description.precision}.json"


def measured_provenance(description: DeviceDescription, protocol: str) -> Provenance:
    """Where the times of a device come from, as of today."""
    is_fake = description.kind == "fake"
    # torch writes the graph that a runtime is given.
    exporter = {} if is_fake else {"torch": importlib.metadata.version("torch")}
    return Provenance(
        source="analytic" if is_fake else "measured",
        device=description.model,
        os=description.os,
        runtime=description.runtime,
        versions={**description.versions, **exporter},
        precision=description.precision,
        threads=description.threads,
        settings=dict(description.settings),
        kind=description.kind,
        statistic="minimum",
        protocol=protocol,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def require_same_device(table: LatencyTable, description: DeviceDescription, protocol: str, where: Path) -> None:
    """Refuse to mix times of two devices.

    Raises:
        InputError: the table's fingerprint differs; the message says in what.
    """
    difference = table.provenance.difference(measured_provenance(description, protocol))
    if difference:
        raise InputError(f"{where} holds times of another device or protocol ({difference}): choose another --out")


class _Build:
    """A table in the making.

    Attributes:
        table: as it is at `out`.
    """

    def __init__(
        self,
        device: Device,
        protocol: TimingProtocol,
        out: Path,
        layers: Sequence[Layer],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._device = device
        self._protocol = protocol
        self._out = out
        self._layers = layers
        self._on_progress = on_progress
        self.table = _begun(device.describe(), protocol, out)
        known = self.table.reference
        at = {layer.key: layer for layer in layers}
        if known and known.key not in at:
            raise InputError(f"{out} was begun with another space: its reference layer {known.key} is not in this one")
        layer = at[known.key] if known else reference_layer(layers)
        self._watch = DriftWatch(device, layer, protocol, known)
        if device.call_cost and not self.table.call_ms:
            runs = list(device.time(self._jobs(layer, visit=2)))
            one, share = read_runs(runs[0].times_ms), self._entry(layer, runs)
            call_ms = max(0.0, one.minimum_ms - share.minimum_ms) if isinstance(share, Timing) else 0.0
            self.table = self.table.model_copy(update={"call_ms": round(call_ms, 6)})
        self.table = self.table.model_copy(update={"reference": self._watch.reference})

    def measure(self, wanted: Sequence[Layer], *, retry_failed: bool) -> None:
        """Time those of the layers that have no timing yet, then again those whose time is in doubt."""
        todo = [layer for layer in wanted if self._is_open(layer, retry_failed=retry_failed)]
        doubtful = self._visit(todo, visit=1, total=len(wanted))
        # A build that was interrupted may have left times in doubt.
        doubtful |= {layer for layer in wanted if _in_doubt(self.table.entries.get(layer.key))}
        for visit in range(2, self._protocol.visits + 1):
            again = [layer for layer in wanted if layer in doubtful and self._visits(layer) < visit]
            doubtful = self._visit(again, visit=visit, total=len(again))
        # What ran during the whole of a timing shows beside similar layers only. Each round sees more sharply.
        for _ in range(self._protocol.visits):
            odd = [layer for layer in too_slow(self._measured()) if self._visits(layer) < 2 * self._protocol.visits]
            self._visit(odd, visit=2, total=len(odd))

    def fill(self) -> None:
        """Give every layer without a timing the value that the measured ones suggest."""
        rest = [layer for layer in self._layers if not isinstance(self.table.entries.get(layer.key), Timing | Failed)]
        self._keep({layer.key: value for layer, value in fill(self._measured(), rest).items()})

    def wider_than(self, error: float) -> list[Layer]:
        """Layers whose filled value may be off by more, the least certain first."""
        widths = {}
        for layer in self._layers:
            entry = self.table.entries.get(layer.key)
            if isinstance(entry, Filled) and entry.high_ms / entry.filled_ms - 1 > error:
                widths[layer] = entry.high_ms / entry.filled_ms
        return sorted(widths, key=lambda layer: -widths[layer])

    def _measured(self) -> dict[Layer, float]:
        """Milliseconds of the layers measured so far, without drift."""
        found = {layer: self.table.entries.get(layer.key) for layer in self._layers}
        return {layer: entry.minimum_ms / entry.drift for layer, entry in found.items() if isinstance(entry, Timing)}

    def _visit(self, layers: Sequence[Layer], *, visit: int, total: int) -> set[Layer]:
        """Time the layers once; those whose time is in doubt come back."""
        doubtful: set[Layer] = set()
        done = total - len(layers)
        self._on_progress(Progress(done=done, total=total, key=""))
        results = interleaved(self._device, layers, lambda layer: self._jobs(layer, visit=visit), self._watch)
        for layer, runs, doubt in results:
            entry = self._entry(layer, runs)
            self._keep({layer.key: _best(self.table.entries.get(layer.key), entry)})
            doubtful.update(doubt)
            if _in_doubt(entry):
                doubtful.add(layer)
            done += 1
            again = f" (visit {visit})" if visit > 1 else ""
            self._on_progress(Progress(done=done, total=total, key=f"{layer.key}{again}"))
        return doubtful

    def _jobs(self, layer: Layer, *, visit: int) -> list[Job]:
        jobs = [self._protocol.job(layer, visit=visit, verify=True)]
        if self._device.call_cost and isinstance(layer, ConvLayer | AttentionLayer) and _keeps_shape(layer):
            jobs.append(self._protocol.job(Stack(layer=layer, count=STACK), visit=visit))
        return jobs

    def _entry(self, layer: Layer, runs: Sequence[Run]) -> Timing | Failed:
        """What the runs of a layer, and of its stack where there is one, come to."""
        for run in runs:
            if run.failure is not None:
                return Failed(failed=run.failure)
        timings = [read_runs(run.times_ms) for run in runs]
        if len(timings) > 1:
            timing = stack_share(timings[0], timings[1], layers=STACK)
        elif self.table.call_ms:
            timing = stack_share(_constant(self.table.call_ms), timings[0], layers=2)
        else:
            timing = timings[0]
        error = _output_error(layer, runs[0])
        limit = _TOLERANCE.get(self._device.describe().precision, _TOLERANCE["fp32"])
        if error is not None and not error <= limit:
            return Failed(failed=f"its output differs from torch by {error:.2g}, more than {limit:g}")
        facts = {name: value for run in runs for name, value in run.facts.items()}
        rounded = None if error is None else float(f"{error:.2g}")
        return timing.model_copy(update={"drift": self._watch.drift, "output_error": rounded, "facts": facts})

    def _keep(self, entries: Mapping[str, Entry]) -> None:
        if any(self.table.entries.get(key) != entry for key, entry in entries.items()):
            self.table = self.table.with_entries(entries)
            self.table.save(self._out)

    def _is_open(self, layer: Layer, *, retry_failed: bool) -> bool:
        match self.table.entries.get(layer.key):
            case Timing():
                return False
            case Failed():
                return retry_failed
            case _:
                return True

    def _visits(self, layer: Layer) -> int:
        entry = self.table.entries.get(layer.key)
        return entry.visits if isinstance(entry, Timing) else self._protocol.visits


def _begun(description: DeviceDescription, protocol: TimingProtocol, out: Path) -> LatencyTable:
    words = f"each layer alone, {protocol.describe()}"
    if not out.exists():
        if not out.parent.is_dir():
            raise InputError(f"{out}: its folder does not exist; make it first, or choose another --out")
        return LatencyTable(provenance=measured_provenance(description, words))
    table = LatencyTable.load(out)
    require_same_device(table, description, words, out)
    return table


def _best(old: Entry | None, new: Timing | Failed) -> Timing | Failed:
    """The better of two visits: one that settled before one that did not, then the faster."""
    if not isinstance(old, Timing):
        return new
    if isinstance(new, Failed):
        return old.model_copy(update={"visits": old.visits + 1})
    best = min(old, new, key=lambda timing: (not timing.settled, timing.minimum_ms / timing.drift))
    return best.model_copy(update={"visits": old.visits + 1})


def _in_doubt(entry: Entry | None) -> bool:
    """Whether a time should be taken again: unsettled, unconfirmed, or of two speeds and seen only once."""
    if not isinstance(entry, Timing):
        return False
    return not (entry.settled and entry.confirmed) or (entry.slowdown > 1 and entry.visits == 1)


def _keeps_shape(layer: ConvLayer | AttentionLayer) -> bool:
    """Whether the layer's output is its own input again: windows are made and merged inside it, or not at all."""
    return isinstance(layer, ConvLayer) or layer.partitions == layer.merges


def _constant(value_ms: float) -> Timing:
    """A cost without spread."""
    quantiles = dict.fromkeys(("minimum_ms", "p10_ms", "median_ms", "p90_ms", "maximum_ms"), value_ms)
    return Timing(**quantiles, runs=1)


def _output_error(layer: Layer, run: Run) -> float | None:
    """Norm of the difference to torch over the norm of torch's output; None where the device gave no output."""
    if run.output is None:
        return None
    from nas.model import build_deployed, example_input

    expected = sampled(build_deployed(layer)(example_input(layer)).numpy())
    if expected.shape != run.output.shape:
        return float("inf")
    return float(np.linalg.norm(run.output - expected) / np.linalg.norm(expected))
