"""Where latency is measured: one module a kind of device, each with `Options`, `open_device` and `unavailable`.

A device runs what it is given back to back and reports the time of every single run, warm-up included. What to run, for
how long, which runs were steady and which statistic to keep is the measuring protocol's business (nas/latency/measure.py).

`--device NAME` or `--device NAME://ADDRESS` opens nas/devices/NAME.py. A module has at its top level::

    class Options(Record): ...                                  what --option NAME=VALUE may set, with defaults
    def open_device(address: str, options: Options) -> Device   raises DeviceError where it cannot be used
    def unavailable() -> str | None                             the one reason why not from here and the fix, or None
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from nas.catalog import load_plugin
from nas.errors import InputError
from nas.networks import Subject

__all__ = ["Device", "DeviceDescription", "Job", "Run", "Seconds", "Threads", "open_device", "sampled"]

Threads = Annotated[int, Field(gt=0, le=1024)]
Seconds = Annotated[float, Field(gt=0, le=86400)]

_SAMPLES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescription:
    """The fingerprint of a device: everything that its times depend on.

    Attributes:
        kind: the plug-in's name, such as onnxruntime.
        model: name of the device itself, such as its processor or phone.
        os: operating system and version, with the build where it is known.
        runtime: what runs the network.
        versions: version of each piece of software that shapes the numbers.
        precision: number format of weights and activations.
        threads: threads of the runtime; None where the runtime decides.
        settings: whatever else shapes the times, such as compute units or pinned cores.
    """

    kind: str
    model: str
    os: str
    runtime: str
    versions: Mapping[str, str]
    precision: str
    threads: int | None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One thing to time.

    Attributes:
        subject: a layer, a stack of equal layers or a whole network.
        duration_ms: run it back to back at least this long, warm-up included,
        minimum_runs: and at least so often,
        maximum_runs: but no more often than this.
        verify: report the output for the example input as well, if the device can.
    """

    subject: Subject
    duration_ms: float
    minimum_runs: int
    maximum_runs: int
    verify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of a job.

    Attributes:
        times_ms: milliseconds of every run in the order they were made; empty after a failure.
        output: `sampled` elements of the output; None where it was not asked for or cannot be had.
        failure: why there are no times; None after a success.
        facts: what else the device tells of this job, such as its thermal state or the processors that took part.
        quantiles_ms: where the runtime reports no single runs, so that `times_ms` is empty: fraction of the runs that
            took no longer -> milliseconds, 0 for the fastest and 1 for the slowest; after a warm-up of its own.
        count: how many runs the quantiles are of.
    """

    times_ms: tuple[float, ...] = ()
    output: npt.NDArray[np.float32] | None = None
    failure: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    quantiles_ms: Mapping[float, float] = field(default_factory=dict)
    count: int = 0


class Device(Protocol):
    """Something that runs networks and layers and times every run.

    Attributes:
        batch: how many jobs it takes at once; with 1 each is run when its result is asked for.
        call_cost: whether one run has a cost of its own (a phone, a driver), which a network pays once and a table of
            layers would count for each: such a device is measured through stacks of equal layers.
    """

    batch: int
    call_cost: bool

    def describe(self) -> DeviceDescription:
        """The fingerprint that goes into a table."""
        ...

    def time(self, jobs: Sequence[Job]) -> Iterator[Run]:
        """Do the jobs and yield what came of each, in their order.

        A job that fails, crashes the runtime or takes too long yields a `Run` with a failure.

        Raises:
            DeviceError: the device itself is gone; results not yet yielded are lost.
        """
        ...

    def close(self) -> None:
        """End what was started and remove what was left on the device."""
        ...


def open_device(device: str, options: Mapping[str, str]) -> Device:
    """The device that `--device NAME[://ADDRESS]` and `--option NAME=VALUE` mean.

    Raises:
        InputError: no such device, an unknown option, or a value against a rule.
        DeviceError: it cannot be used from here.
    """
    name, _, address = device.partition("://")
    module = load_plugin("device", "devices", name)
    known = list(module.Options.model_fields)
    if unknown := sorted(set(options) - set(known)):
        takes = f"its options are {', '.join(known)}" if known else "it has no options"
        raise InputError(f"--device {name} does not take {unknown[0]}: {takes}")
    try:
        checked = module.Options.model_validate(dict(options))
    except ValidationError as error:
        raise InputError.from_validation(f"--device {name}", error) from error
    opened: Device = module.open_device(address, checked)
    return opened


def sampled(output: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """At most 8191 evenly spaced elements of an output, flattened: every n-th, where n is its size // 4096, at least 1.

    Enough to see a wrong layer, and little enough to come back from a phone for every one.
    """
    flat = output.reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLES)].astype(np.float32)
