"""How a latency table is measured: each distinct layer of a search space is timed by one protocol and saved at once."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.devices import Device, DeviceDescription, Job
from nas.errors import DeviceError, InputError
from nas.latency.drift import interleaved, latest_levels, reference_layer
from nas.latency.entries import Entry, Failed, Filled, Provenance, ReferenceTime, Timing
from nas.latency.fill import fewest, fill, measuring_order, too_slow
from nas.latency.table import LatencyTable
from nas.latency.timing import TimingProtocol, read_run
from nas.latency.visits import STACK, better_of, call_share, entry_of, is_stackable
from nas.lock import beside, owned
from nas.networks import Layer, Stack

__all__ = ["Progress", "build_table", "default_path", "ignore_progress", "measured_provenance"]

# Number of layers that are visited in turn. Two visits of one layer are then some seconds apart, and the models of a
# block fit the device's cache.
_BLOCK = 64
_STEP = 0.05  # share of the layers that are measured before the intervals are computed again


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a build: `done` of `total` layers are finished, and `key` says what it works on."""

    done: int
    total: int
    key: str


def ignore_progress(progress: Progress) -> None:
    """Ignore the progress."""


def build_table(
    layers: Iterable[Layer],
    device: Device,
    out: Path,
    *,
    protocol: TimingProtocol | None = None,
    sample: float | None = None,
    until_error: float | None = None,
    retry_failed: bool = False,
    on_progress: Callable[[Progress], None] = ignore_progress,
) -> LatencyTable:
    """Time layers on the device and save the table at `out`. Layers already measured there are not timed again.

    The file is rewritten after every layer, so a build killed at any moment resumes after its last finished layer.

    Args:
        layers: what the table should cover, such as `space.layers`.
        device: where to measure.
        out: the table file, new or begun by an earlier build.
        protocol: how to time a layer.
        sample: share of the layers to measure, at least a few layers of each kind. The others are interpolated and
            marked as filled. By default all layers are measured, or a tenth of them if `until_error` is given.
        until_error: largest relative error that a filled value may have, at 90 % confidence. The layers with the widest
            intervals are measured until every filled value meets this limit.
        retry_failed: whether to retry layers that failed before.
        on_progress: called before the first layer and after every visit of a layer.
    Returns:
        The table, including everything that `out` already held.
    Raises:
        InputError: `out` holds another device's times, cannot be read or written, or another process builds it.
        DeviceError: the device is gone.
    """
    protocol = protocol or TimingProtocol()
    order = measuring_order(layers)
    if not out.parent.is_dir():
        raise InputError(f"{out}: its folder does not exist; make it first, or choose another --out")
    with owned(out, beside(out)):
        build = _Build(device, protocol, out, order, on_progress)
        share = sample or (0.1 if until_error else 1.0)
        wanted = order[: max(fewest(order), round(share * len(order)))]
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
    model = _plain(description.model) or platform.machine()
    # A machine has one table for each engine of a runtime. For example, `onnxruntime-web wasm` runs in Node and in
    # Chromium.
    engine = _plain(description.runtime.partition(" in ")[2])
    runtime = f"{description.kind}-{engine}" if engine else description.kind
    return Path("latency_tables") / f"{model}.{runtime}.{description.precision}.json"


def measured_provenance(description: DeviceDescription, protocol: str) -> Provenance:
    """The provenance of times that a device reports today."""
    is_fake = description.kind == "fake"
    # torch exports the graph that the runtime runs.
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


class _Build:
    """A build in progress.

    Attributes:
        table: the table so far.
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
        self._levels = latest_levels()
        self._done = self._total = 0
        self.table = _begun(device.describe(), protocol, out)
        known = self.table.reference
        at = {layer.key: layer for layer in layers}
        if known and known.key not in at:
            raise InputError(f"{out} was begun with another space: its reference layer {known.key} is not in this one")
        self._reference = at[known.key] if known else reference_layer(layers)
        if device.call_cost and not self.table.call_ms:
            self.table = self.table.model_copy(update={"call_ms": self._call_ms()})

    def measure(self, wanted: Sequence[Layer], *, retry_failed: bool) -> None:
        """Visit the layers that still lack visits, block by block, and visit layers in doubt once more."""
        todo = [layer for layer in wanted if self._is_open(layer, retry_failed=retry_failed)]
        self._total, self._done = len(wanted), len(wanted) - len(todo)
        self._tell("")
        for start in range(0, len(todo), _BLOCK):
            block = todo[start : start + _BLOCK]
            self._visit(block)
            for visit in range(2, self._protocol.visits + 1):
                # A layer that failed is retried as often. A disturbance may have made a difference of two times
                # negative, and this may not happen again.
                self._visit([layer for layer in block if self._visits(layer) < visit])
            self._visit([layer for layer in block if self._in_doubt(layer)], longer=2)
            self._done += len(block)
            self._tell("")
        # Another program may run during the whole timing of a layer. Only a comparison with similar layers shows this.
        # Each round of this comparison is more precise.
        while odd := [layer for layer in too_slow(self._measured()) if self._visits(layer) < 2 * self._protocol.visits]:
            self._tell(f"{len(odd)} that stand out")
            self._visit(odd, longer=2)

    def fill(self) -> None:
        """Fill in every layer that was not measured with an interpolated value."""
        rest = [layer for layer in self._layers if not isinstance(self.table.entries.get(layer.key), Timing | Failed)]
        self._keep({layer.key: value for layer, value in fill(self._measured(), rest).items()})

    def wider_than(self, error: float) -> list[Layer]:
        """Layers whose filled value may be off by more than this relative error, the least certain first."""
        widths = {}
        for layer in self._layers:
            entry = self.table.entries.get(layer.key)
            if isinstance(entry, Filled) and entry.high_ms / entry.filled_ms - 1 > error:
                widths[layer] = entry.high_ms / entry.filled_ms
        return sorted(widths, key=lambda layer: -widths[layer])

    def _measured(self) -> dict[Layer, float]:
        """Milliseconds of the layers measured so far, with the drift divided out."""
        found = {layer: self.table.entries.get(layer.key) for layer in self._layers}
        return {
            layer: entry.minimum_ms / self.table.drift(entry)
            for layer, entry in found.items()
            if isinstance(entry, Timing)
        }

    def _visit(self, layers: Sequence[Layer], *, longer: int = 1) -> None:
        """Time the layers once more, and keep the better of the old and the new entry of each."""
        reference = self._protocol.job(self._reference)
        visits = interleaved(
            self._device, layers, lambda layer: self._jobs(layer, longer=longer), reference, self._levels
        )
        for visit in visits:
            entry = entry_of(
                visit.subject,
                visit.runs,
                reference_ms=visit.reference_ms,
                call_ms=self.table.call_ms,
                precision=self._device.describe().precision,
            )
            self._keep({visit.subject.key: better_of(self.table.entries.get(visit.subject.key), entry)})
            self._tell(visit.subject.key)

    def _tell(self, key: str) -> None:
        self._on_progress(Progress(done=self._done, total=self._total, key=key))

    def _jobs(self, layer: Layer, *, longer: int) -> list[Job]:
        verify = not isinstance(self.table.entries.get(layer.key), Timing)
        jobs = [self._protocol.job(layer, longer=longer, verify=verify)]
        if self._device.call_cost and is_stackable(layer):
            jobs.append(self._protocol.job(Stack(layer=layer, count=STACK), longer=longer))
        return jobs

    def _call_ms(self) -> float:
        """Fixed cost of a run: the fastest time of the reference layer alone, minus its share of the fastest stack."""
        visits = [list(self._device.time(self._jobs(self._reference, longer=2))) for _ in range(self._protocol.visits)]
        for run in (run for runs in visits for run in runs):
            if run.failure is not None:
                raise DeviceError(f"the reference layer {self._reference.key} failed: {run.failure}")
        one, stack = (
            min(map(read_run, runs), key=lambda timing: timing.minimum_ms) for runs in zip(*visits, strict=True)
        )
        return call_share(one, stack)

    def _keep(self, entries: Mapping[str, Entry]) -> None:
        if any(self.table.entries.get(key) != entry for key, entry in entries.items()):
            table = self.table.with_entries(entries)
            levels = [
                entry.reference_ms
                for entry in table.entries.values()
                if isinstance(entry, Timing) and entry.reference_ms
            ]
            if levels:
                usual = ReferenceTime(key=self._reference.key, latency_ms=statistics.median(levels))
                table = table.model_copy(update={"reference": usual})
            self.table = table
            self.table.save(self._out)

    def _is_open(self, layer: Layer, *, retry_failed: bool) -> bool:
        match self.table.entries.get(layer.key):
            case Timing() as timing:
                return timing.visits < self._protocol.visits
            case Failed():
                return retry_failed
            case _:
                return True

    def _visits(self, layer: Layer) -> int:
        entry = self.table.entries.get(layer.key)
        return entry.visits if isinstance(entry, Timing) else 0

    def _in_doubt(self, layer: Layer) -> bool:
        entry = self.table.entries.get(layer.key)
        return isinstance(entry, Timing) and entry.in_doubt


def _begun(description: DeviceDescription, protocol: TimingProtocol, out: Path) -> LatencyTable:
    provenance = measured_provenance(description, f"each layer alone, {protocol.describe()}")
    if not out.exists():
        return LatencyTable(provenance=provenance)
    table = LatencyTable.load(out)
    if difference := table.provenance.difference(provenance):
        raise InputError(f"{out} holds times of another device or protocol ({difference}): choose another --out")
    return table


def _plain(text: str) -> str:
    """Letters and digits in lower case, joined by hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
