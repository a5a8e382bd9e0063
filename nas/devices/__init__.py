"""Where latency is measured: one module a kind of device, each with `Options`, `open_device` and `unavailable`.

A device runs a model back to back and reports the time of every run, warm-up included. nas/latency/measure.py decides
the rest: what to run and for how long, which runs were steady, and which statistic to keep.

`--device NAME` or `--device NAME://ADDRESS` opens the module nas/devices/NAME.py, or the package nas/devices/NAME. It
has at its top level::

    class Options(Record): ...                                  what --option NAME=VALUE may set, with defaults
    def open_device(address: str, options: Options) -> Device   raises DeviceError where it cannot be used
    def unavailable() -> str | None                             the one reason why not from here and the fix, or None

The first line of its docstring is what `nas devices` prints about it.

Modules whose names begin with `_` are no devices. They serve several: _models.py exports models, _runner.py talks to
programs that time them, and _runner_program.py is such a program.
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
        model: name of the hardware, such as its processor or phone.
        os: operating system and version, with the build where it is known.
        runtime: what runs the network.
        versions: version of each piece of software that affects the times.
        precision: number format of weights and activations.
        threads: threads of the runtime; None where the runtime decides.
        settings: whatever else affects the times, such as compute units or pinned cores.
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
        duration_ms: it is run back to back for at least this long, warm-up included,
        minimum_runs: and at least this often,
        maximum_runs: but no more often than this.
        verify: whether to report the output for the example input as well, if the device can.
    """

    subject: Subject
    duration_ms: float
    minimum_runs: int
    maximum_runs: int
    verify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The result of a job.

    Attributes:
        times_ms: milliseconds of every run in their order; empty after a failure.
        output: elements of the output as `sampled` takes them; None where not asked for or not available.
        failure: why there are no times; None after a success.
        facts: what else the device reports about this job, such as its thermal state or the processors that took part.
        quantiles_ms: fraction of the runs that took no longer -> milliseconds; 0 is the fastest run and 1 the slowest.
            Only from a runtime that does not report single runs. Then `times_ms` is empty, and the runs are those after
            the runtime's own warm-up.
        count: number of the runs behind the quantiles.
    """

    times_ms: tuple[float, ...] = ()
    output: npt.NDArray[np.float32] | None = None
    failure: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    quantiles_ms: Mapping[float, float] = field(default_factory=dict)
    count: int = 0


class Device(Protocol):
    """Runs networks and layers and times every run.

    Attributes:
        batch: how many jobs it takes at once. With 1, a job is run when its result is requested.
        call_cost: whether a run has a fixed cost, as on a phone or through a driver. A network has this cost once, but
            a sum over its layers would count it for each layer. So the device is measured through stacks of equal
            layers.
    """

    batch: int
    call_cost: bool

    def describe(self) -> DeviceDescription:
        """The fingerprint that goes into a table."""
        ...

    def time(self, jobs: Sequence[Job]) -> Iterator[Run]:
        """Do the jobs and yield the result of each, in their order.

        A job that fails, crashes the runtime or takes too long yields a `Run` with a failure.

        Raises:
            DeviceError: the device is gone. Results that were not yet yielded are lost.
        """
        ...

    def close(self) -> None:
        """End the processes that were started, and remove the files that were left on the device."""
        ...


def open_device(device: str, options: Mapping[str, str]) -> Device:
    """Open the device that `--device NAME[://ADDRESS]` and `--option NAME=VALUE` name.

    Raises:
        InputError: no such device, an unknown option, or an invalid value.
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
    """Every n-th element of an output, flattened, where n is its size // 4096 and at least 1. At most 8191 elements.

    That is enough to detect a wrong layer, and small enough to copy from a phone for every layer.
    """
    flat = output.reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLES)].astype(np.float32)
