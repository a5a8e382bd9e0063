"""A device made of arithmetic: times follow from the operations of a layer, with repeatable noise. For tests and demos.

Its times are `analytic`: nothing is measured, and a table made with it says so.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nas.devices import DeviceDescription, Job, Run, Threads, sampled
from nas.errors import InputError
from nas.files import Record
from nas.networks import Architecture, Stack, Subject, operations

__all__ = ["FakeDevice", "Options", "open_device", "unavailable"]

_MACS_PER_MS = 5e7
_ELEMENTS_PER_MS = 1e6
_OPERATION_MS = 0.002
_COLD_RUNS = 3


class Options(Record):
    """What `--option` may set.

    Attributes:
        threads: recorded in the description, without an effect.
        noise: relative spread of the times. It only adds time, as on a real machine.
        call_ms: fixed cost of every run. Above 0 the device is measured through stacks.
        drift: relative slowdown after a thousand jobs.
        fails: layers whose keys begin with this fail.
    """

    threads: Threads = 1
    noise: Annotated[float, Field(ge=0, lt=10)] = 0.05
    call_ms: Annotated[float, Field(ge=0, lt=1e6)] = 0.0
    drift: Annotated[float, Field(ge=0, lt=10)] = 0.0
    fails: str = ""


class FakeDevice:
    """A device that needs no hardware.

    Attributes:
        done: keys of the subjects timed so far, for tests.
    """

    batch = 1

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.call_cost = self.options.call_ms > 0
        self.done: list[str] = []

    def describe(self) -> DeviceDescription:
        """The fingerprint that goes into a table."""
        return DeviceDescription(
            kind="fake",
            model="fake",
            os="none",
            runtime="arithmetic",
            versions={},
            precision="none",
            threads=self.options.threads,
        )

    def time(self, jobs: Sequence[Job]) -> Iterator[Run]:
        """Compute the times of each job. The first runs are slower, as on a real device."""
        for job in jobs:
            self.done.append(job.subject.key)
            yield self._run(job)

    def close(self) -> None:
        """Do nothing: no process was started."""

    def _run(self, job: Job) -> Run:
        if self.options.fails and job.subject.key.startswith(self.options.fails):
            return Run(failure="made to fail")
        cost = (_cost_ms(job.subject) + self.options.call_ms) * (1 + self.options.drift * len(self.done) / 1000)
        generator = random.Random(job.subject.key)
        times: list[float] = []
        while len(times) < job.maximum_runs and (len(times) < job.minimum_runs or sum(times) < job.duration_ms):
            cold = 2.0 if len(times) < _COLD_RUNS else 1.0
            times.append(cost * cold * (1 + self.options.noise * generator.random()))
        return Run(times_ms=tuple(times), output=_output(job.subject) if job.verify else None)


def open_device(address: str, options: Options) -> FakeDevice:
    """The fake device.

    Raises:
        InputError: an address was given, and this device takes none.
    """
    if address:
        raise InputError(f"--device fake takes no address, got {address!r}")
    return FakeDevice(options)


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can."""
    return None


def _cost_ms(subject: Subject) -> float:
    match subject:
        case Architecture():
            layers = list(subject.layers())
        case Stack():
            layers = [subject.layer] * subject.count
        case _:
            layers = [subject]
    parts = [part for layer in layers for part in operations(layer)]
    return sum(
        part.macs / _MACS_PER_MS + (part.reads + part.writes) / _ELEMENTS_PER_MS + _OPERATION_MS for part in parts
    )


def _output(subject: Subject) -> npt.NDArray[np.float32]:
    from nas.networks.modules import build_deployed, example_input

    return sampled(build_deployed(subject)(example_input(subject)).numpy())
