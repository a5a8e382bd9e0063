"""This machine through ONNX Runtime, in a process of its own: any provider that is installed, any number of threads."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from nas.devices import DeviceDescription, Seconds, Threads
from nas.devices._runner import Description, ModelFiles, Runner, RunnerDevice
from nas.errors import DeviceError, InputError
from nas.files import Record
from nas.networks import Subject

__all__ = ["RUNNER", "Options", "exported", "fingerprint", "open_device", "unavailable"]

RUNNER = Path(__file__).with_name("_onnxruntime_runner.py")


class Options(Record):
    """What `--option` may set.

    Attributes:
        threads: threads inside an operator; operators run one after the other.
        provider: execution provider of ONNX Runtime, which must take the first place in every session.
        timeout_s: a layer that takes longer, loading included, has failed.
    """

    threads: Threads = 1
    provider: str = "CPUExecutionProvider"
    timeout_s: Seconds = 120.0


def open_device(address: str, options: Options) -> RunnerDevice:
    """This machine, in a child process.

    Raises:
        InputError: an address, which this device has none of.
        DeviceError: ONNX Runtime is not installed, or lacks the provider.
    """
    if address:
        raise InputError(f"--device onnxruntime is this machine and takes no address, got {address!r}")
    if reason := unavailable():
        raise DeviceError(f"onnxruntime: {reason}")
    return RunnerDevice(
        where="onnxruntime",
        # -P: the folder of the runner holds a module of this name, which must not hide the package.
        start=lambda: Runner([sys.executable, "-P", str(RUNNER)]),
        fingerprint=functools.partial(fingerprint, "onnxruntime", options.provider, options.threads),
        models=ModelFiles(exported, suffix=".onnx"),
        settings={"threads": options.threads, "provider": options.provider},
        timeout_s=options.timeout_s,
    )


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return "the package is not installed; pip install onnxruntime"
    return None


def fingerprint(where: str, provider: str, threads: int, about: Description) -> DeviceDescription:
    """The description of a host that runs ONNX Runtime.

    Args:
        where: the device as it was asked for: its kind, and its address where it has one.
        provider: execution provider.
        threads: inside an operator.
        about: what the host's runner says of it.
    Raises:
        DeviceError: its build lacks the provider.
    """
    if provider not in about.providers:
        raise DeviceError(f"{where}: no {provider} in this ONNX Runtime; there are {', '.join(about.providers)}")
    return DeviceDescription(
        kind=where.partition("://")[0],
        model=about.model,
        os=about.os,
        runtime=f"onnxruntime {provider}",
        versions=about.versions,
        precision="fp32",
        threads=threads,
    )


def exported(subject: Subject) -> bytes:
    """The ONNX model of a subject; torch is loaded only when the first is asked for."""
    from nas.export.onnx import timed_model

    return timed_model(subject)
