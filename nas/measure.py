"""Space x device -> latency table: every distinct layer timed by one protocol, saved as it goes."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from nas.architecture import Layer
from nas.devices import Device, PreparedLayer
from nas.errors import InputError
from nas.latency import LatencyTable, Provenance, Timing

__all__ = ["Progress", "Protocol", "build_table", "default_path"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How one layer is timed.

    Attributes:
        warmup_ms: run this long before counting; the first runs allocate and fill caches.
        timed_ms: then count runs for at least this long,
        minimum_runs: and at least so many,
        maximum_runs: but no more than so many.
    """

    warmup_ms: float = 60.0
    timed_ms: float = 250.0
    minimum_runs: int = 25
    maximum_runs: int = 1000

    def describe(self) -> str:
        """The protocol in one sentence, for the table."""
        return (
            f"each layer alone, folded, random weights; warm-up {self.warmup_ms:g} ms, then timed for "
            f"{self.timed_ms:g} ms with {self.minimum_runs} to {self.maximum_runs} runs back to back; quantiles kept"
        )

    def time(self, layer: PreparedLayer) -> Timing:
        """Warm up and time a prepared layer."""
        warm = first = max(layer.time_ms(1)[0], 1e-6)
        while warm < self.warmup_ms:
            warm += sum(layer.time_ms(max(1, min(20, round(self.warmup_ms / first / 4)))))
        samples = layer.time_ms(self.minimum_runs)
        while sum(samples) < self.timed_ms and len(samples) < self.maximum_runs:
            samples += layer.time_ms(min(self.minimum_runs, self.maximum_runs - len(samples)))
        samples.sort()
        return Timing(
            minimum_ms=round(samples[0], 6),
            p10_ms=round(_quantile(samples, 0.1), 6),
            median_ms=round(_quantile(samples, 0.5), 6),
            p90_ms=round(_quantile(samples, 0.9), 6),
            runs=len(samples),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a build is: `done` of `total` layers, `key` just measured."""

    done: int
    total: int
    key: str


def _ignore(progress: Progress) -> None:
    """Watch nothing."""


def build_table(
    layers: Iterable[Layer],
    device: Device,
    out: Path,
    *,
    protocol: Protocol | None = None,
    on_progress: Callable[[Progress], None] = _ignore,
) -> LatencyTable:
    """Time every layer on the device and keep the table at `out`; layers already there are not timed again.

    The file is rewritten after every layer, so a build killed at any moment goes on from its last finished layer.

    Args:
        layers: what to measure, such as `space.layers`.
        device: where to measure.
        out: the table file, new or begun by an earlier build.
        protocol: how to time a layer.
        on_progress: called before the first and after every layer.
    Returns:
        The table, with whatever else `out` already held.
    Raises:
        InputError: `out` holds another device's times, or cannot be read or written.
        DeviceError: the device is gone or cannot run a layer.
    """
    protocol = protocol or Protocol()
    layers = list(layers)
    table = _begin(device, protocol, out)
    todo = [layer for layer in layers if layer.key not in table.entries]
    on_progress(Progress(done=len(layers) - len(todo), total=len(layers), key=""))
    for number, layer in enumerate(todo, start=len(layers) - len(todo) + 1):
        table = table.with_entries({layer.key: protocol.time(device.prepare(layer))})
        table.save(out)
        on_progress(Progress(done=number, total=len(layers), key=layer.key))
    return table


def default_path(device: Device) -> Path:
    """latency_tables/DEVICE.RUNTIME.PRECISION.json for a device, in the working directory."""
    description = device.describe()
    model = (
        "-".join("".join(c if c.isalnum() else " " for c in description.model.lower()).split()) or platform.machine()
    )
    return Path("latency_tables") / f"{model}.{description.kind}.{description.precision}.json"


def _begin(device: Device, protocol: Protocol, out: Path) -> LatencyTable:
    description = device.describe()
    provenance = Provenance(
        source="analytic" if description.kind == "fake" else "measured",
        device=description.model,
        os=description.os,
        runtime=description.runtime,
        versions=description.versions,
        precision=description.precision,
        threads=description.threads,
        statistic="median",
        protocol=protocol.describe(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    if not out.exists():
        if not out.parent.is_dir():
            raise InputError(f"{out}: its folder does not exist; make it first, or choose another --out")
        return LatencyTable(provenance=provenance)
    table = LatencyTable.load(out)
    if not table.provenance.same_device(provenance):
        raise InputError(
            f"{out} holds times of another device or protocol ({table.provenance.label}); "
            f"this is {provenance.label}: choose another --out"
        )
    return table


def _quantile(ordered: list[float], q: float) -> float:
    """The `q` quantile of sorted samples, between neighbours."""
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
