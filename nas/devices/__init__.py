"""Where latency is measured: one module a kind of device, each with `open_device(threads=...)`.

A device prepares a layer once (export, load, first run) and then times it as often as it is asked. What to repeat, how
long to warm up and which statistic to keep is the measuring protocol's business (nas/measure.py), not the device's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nas.architecture import Layer

__all__ = ["Device", "DeviceDescription", "PreparedLayer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescription:
    """The fingerprint of a device: everything that its times depend on.

    Attributes:
        kind: the plug-in's name, such as onnxruntime.
        model: name of the device itself, such as its processor.
        os: operating system and version.
        runtime: what runs the network.
        versions: version of each piece of software that shapes the numbers.
        precision: number format of weights and activations.
        threads: threads of the runtime; None where the runtime decides.
    """

    kind: str
    model: str
    os: str
    runtime: str
    versions: dict[str, str]
    precision: str
    threads: int | None


class PreparedLayer(Protocol):
    """A layer that is loaded and ready to be timed."""

    def time_ms(self, runs: int) -> list[float]:
        """Milliseconds of each of `runs` inferences in a row, at batch 1."""
        ...


class Device(Protocol):
    """Something that runs layers and times them."""

    def describe(self) -> DeviceDescription:
        """The fingerprint that goes into a table."""
        ...

    def prepare(self, layer: Layer) -> PreparedLayer:
        """Load a layer in its deployed form (folded, batch 1).

        Raises:
            DeviceError: the device is gone, or cannot run this layer.
        """
        ...
