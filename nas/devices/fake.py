"""A device made of arithmetic: times follow from the operations of a layer, with repeatable noise. For tests and demos.

Its times are `analytic`: nothing is measured, and tables made with it say so.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from nas.architecture import Layer
from nas.devices import DeviceDescription
from nas.operations import operations

__all__ = ["FakeDevice", "open_device", "unavailable"]

_MACS_PER_MS = 5e7
_ELEMENTS_PER_MS = 1e6
_OVERHEAD_MS = 0.002


@dataclass(kw_only=True)
class FakeDevice:
    """A device that needs no hardware.

    Attributes:
        threads: recorded in the description only.
        noise: relative spread of the times, always upwards as on a real machine.
        prepared: keys of the layers prepared so far, for tests to look at.
    """

    threads: int = 1
    noise: float = 0.05
    prepared: list[str] = field(default_factory=list)

    def describe(self) -> DeviceDescription:
        """The fingerprint that goes into a table."""
        return DeviceDescription(
            kind="fake",
            model="fake",
            os="none",
            runtime="arithmetic",
            versions={},
            precision="none",
            threads=self.threads,
        )

    def prepare(self, layer: Layer) -> _FakeLayer:
        """Work out what a layer costs."""
        self.prepared.append(layer.key)
        parts = operations(layer)
        cost = sum(
            part.macs / _MACS_PER_MS + (part.reads + part.writes) / _ELEMENTS_PER_MS + _OVERHEAD_MS for part in parts
        )
        return _FakeLayer(cost_ms=cost, noise=self.noise, generator=random.Random(layer.key))


@dataclass(frozen=True, slots=True, kw_only=True)
class _FakeLayer:
    cost_ms: float
    noise: float
    generator: random.Random

    def time_ms(self, runs: int) -> list[float]:
        return [self.cost_ms * (1 + self.noise * self.generator.random()) for _ in range(runs)]


def open_device(*, threads: int) -> FakeDevice:
    """The fake device."""
    return FakeDevice(threads=threads)


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can."""
    return None
