"""This Mac through Core ML, in a process of its own: ML Programs in float16, and which layers leave the Neural Engine.

The facts of each run say how many operations Core ML would place on which processor (`placement`), and name those that
are not on the Neural Engine (`off_neural_engine`).

Never tried on a Mac. The tests use a stand-in for coremltools.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from nas.devices import DeviceDescription, Seconds
from nas.devices._models import ModelFiles
from nas.devices._runner import Description, RunnerDevice, local_runner
from nas.errors import DeviceError, InputError
from nas.files import Record
from nas.networks import Subject
from nas.scratch import ScratchFolder

__all__ = ["TARGET", "ComputeUnits", "Options", "open_device", "package", "unavailable"]

ComputeUnits = Literal["all", "cpu_and_ne", "cpu_and_gpu", "cpu_only"]

TARGET = "iOS16"  # nas/export/coreml.py converts for this; the operations of a model depend on it

_FIRST_MACOS = 13  # the counterpart of iOS 16


class Options(Record):
    """What `--option` may set.

    Attributes:
        compute_units: processors that Core ML may use.
        timeout_s: timeout of a job, loading included, in addition to the duration of its runs.
    """

    compute_units: ComputeUnits = "all"
    timeout_s: Seconds = 120.0


def open_device(address: str, options: Options) -> RunnerDevice:
    """This Mac, in a child process.

    Raises:
        InputError: an address was given, and this device takes none.
        DeviceError: this is no Mac, or coremltools is not installed.
    """
    if address:
        raise InputError(f"--device coreml is this Mac and takes no address, got {address!r}")
    if reason := unavailable():
        raise DeviceError(f"coreml: {reason}")

    def fingerprint(about: Description) -> DeviceDescription:
        return DeviceDescription(
            kind="coreml",
            model=about.model,
            os=about.os,
            runtime="Core ML",
            versions=about.versions,
            precision="fp16",
            threads=None,
            settings={"compute_units": options.compute_units, "target": TARGET},
        )

    return RunnerDevice(
        where="coreml",
        start=lambda: local_runner("coreml"),
        fingerprint=fingerprint,
        models=ModelFiles(package, suffix=".mlpackage"),
        settings={"compute_units": options.compute_units},
        timeout_s=options.timeout_s,
        call_cost=True,
    )


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can."""
    # Every macOS has this program, and no other system has it.
    if (sw_vers := shutil.which("sw_vers")) is None:
        return f"needs macOS {_FIRST_MACOS} or later; build the table on a Mac and copy its .json to latency_tables/"
    told = subprocess.run([sw_vers, "-productVersion"], capture_output=True, text=True, check=False).stdout.strip()
    major = told.partition(".")[0]
    if major.isdecimal() and int(major) < _FIRST_MACOS:
        return f"this is macOS {told}; update it to {_FIRST_MACOS} or later"
    if importlib.util.find_spec("coremltools") is None:
        return "coremltools is not installed: pip install 'nas[coreml]', for Python 3.11 to 3.13"
    return None


def package(subject: Subject) -> Path:
    """The Core ML package of a subject: a folder, which the caller moves or removes. Loads torch."""
    from nas.export.coreml import timed_model

    folder = Path(tempfile.mkdtemp(dir=_scratch().path, suffix=".mlpackage"))
    try:
        timed_model(subject).save(str(folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


@functools.cache
def _scratch() -> ScratchFolder:
    return ScratchFolder("coreml")
