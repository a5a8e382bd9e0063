"""This machine through ONNX Runtime, in a process of its own: any provider that is installed, any number of threads."""

from __future__ import annotations

import functools

from nas.devices import DeviceDescription, Seconds, Threads
from nas.devices._models import ModelFiles
from nas.devices._runner import Description, RunnerDevice, local_runner
from nas.errors import DeviceError, InputError
from nas.files import Record
from nas.networks import Subject

__all__ = ["Options", "exported", "fingerprint", "open_device", "unavailable"]


class Options(Record):
    """What `--option` may set.

    Attributes:
        threads: threads inside an operator. Operators run one after the other.
        provider: execution provider of ONNX Runtime. It must be the first one of every session.
        timeout_s: timeout of a layer, loading included, in addition to the duration of its runs.
    """

    threads: Threads = 1
    provider: str = "CPUExecutionProvider"
    timeout_s: Seconds = 120.0


def open_device(address: str, options: Options) -> RunnerDevice:
    """This machine, in a child process.

    Raises:
        InputError: an address was given, and this device takes none.
        DeviceError: ONNX Runtime is not installed, or lacks the provider.
    """
    if address:
        raise InputError(f"--device onnxruntime is this machine and takes no address, got {address!r}")
    if reason := unavailable():
        raise DeviceError(f"onnxruntime: {reason}")
    return RunnerDevice(
        where="onnxruntime",
        start=lambda: local_runner("onnxruntime"),
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
        where: the device as the user named it: the kind, and the address where it has one.
        provider: execution provider.
        threads: threads inside an operator.
        about: the description from the host's runner.
    Raises:
        DeviceError: this build of ONNX Runtime lacks the provider.
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
    """The ONNX model of a subject. The first call loads torch."""
    from nas.export.onnx import timed_model

    return timed_model(subject)
