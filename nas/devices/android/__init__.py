"""An Android phone over adb: ONNX Runtime's onnxruntime_perf_test or LiteRT's benchmark_model, started in its shell.

The option --runner names one of the two programs, built for Android. The libraries that it needs lie beside it. On the
phone, all files are in one folder below /data/local/tmp: the program, copied once, and the current model. The folder is
removed when the device is closed. A folder that a killed build left is removed after a day, by the next build on that
phone.

onnxruntime_perf_test makes one run that it does not report. Then it writes the time of every further run to a file.
benchmark_model warms up for half a second, then prints only quantiles. Neither shows the output of a model.

Models are float32. Models for ONNX Runtime are of operator set 20. There GELU is one operator, which NNAPI and XNNPACK
do not have. So most layers need --option fallback=true with these providers: it lets the CPU run the rest. Models for
LiteRT have their channels last, in the input and in the output, as LiteRT computes. Otherwise the time of a layer would
include transpositions that a network does not have.

Never tried on a phone. The tests use an adb that answers as the real one does. Its phone is a shell of this machine, if
possible mksh with toybox as on Android. adb 29.0.6 itself was tried with a stand-in for the phone's side. The layout of
onnxruntime_perf_test's file is from memory of its source, so it is checked against the average that the program prints.
The models for LiteRT were compared with torch by LiteRT on x86.
"""

from __future__ import annotations

from pathlib import Path

from nas.devices.android.adb import choose_phone, no_phone
from nas.devices.android.device import AndroidDevice
from nas.devices.android.options import Options
from nas.devices.android.tools import BenchmarkModel, PerfTest, Tool
from nas.errors import InputError

__all__ = ["AndroidDevice", "Options", "open_device", "unavailable"]


def open_device(address: str, options: Options) -> AndroidDevice:
    """Choose a phone and copy the runner to it.

    Args:
        address: serial number of the phone; empty for the only one connected.
        options: options of the device.
    Raises:
        InputError: no runner, no such file, or several phones and no serial number.
        DeviceError: the phone cannot be used from here, or cannot run the runner.
    """
    runner = options.runner
    if runner is None:
        raise InputError(
            "--device android needs --runner PATH: an onnxruntime_perf_test or LiteRT's benchmark_model for Android"
        )
    libraries = sorted(runner.parent.glob("*.so")) if options.libraries is None else options.libraries
    for file in (runner, *libraries):
        if not file.is_file():
            raise InputError(f"{file}: no such file; --runner and --option libraries name what goes to the phone")
    tool = _tool(runner, options)
    return AndroidDevice(choose_phone(address, reconnect_s=options.reconnect_s), tool, runner, libraries, options)


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can, given a runner."""
    return no_phone()


def _tool(runner: Path, options: Options) -> Tool:
    """The tool that a runner is.

    Raises:
        InputError: its name does not tell which one, or it has no such provider.
        DeviceError: the package that exports its models is not installed.
    """
    provider, threads, fallback = options.provider, options.threads, options.fallback
    if options.kind == "onnxruntime" or (options.kind is None and "perf_test" in runner.name):
        return PerfTest(provider=provider, threads=threads, fallback=fallback)
    if options.kind == "litert" or (options.kind is None and "benchmark_model" in runner.name):
        return BenchmarkModel(provider=provider, threads=threads, fallback=fallback, longest_s=options.timeout_s)
    raise InputError(f"{runner}: its name does not say what it is; add --option kind=onnxruntime or kind=litert")
