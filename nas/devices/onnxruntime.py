"""This machine through ONNX Runtime: one real session a layer, on the processor, with a fixed number of threads."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.architecture import Layer
from nas.devices import DeviceDescription
from nas.errors import DeviceError

__all__ = ["OnnxRuntimeDevice", "open_device", "unavailable"]

_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntimeDevice:
    """ONNX Runtime sessions of this process.

    Attributes:
        threads: intra-operator threads; layers run one after the other.
    """

    threads: int

    def describe(self) -> DeviceDescription:
        """The fingerprint that goes into a table."""
        return DeviceDescription(
            kind="onnxruntime",
            model=_processor(),
            os=f"{platform.system()} {platform.release()} {platform.machine()}",
            runtime=f"onnxruntime {_PROVIDER}",
            versions={name: importlib.metadata.version(name) for name in ("onnxruntime", "torch")},
            precision="fp32",
            threads=self.threads,
        )

    def prepare(self, layer: Layer) -> _Session:
        """Export a folded layer, load it, and place its input."""
        import onnxruntime
        import torch

        from nas.export.onnx import layer_model
        from nas.model import example_input

        # Idle threads of torch would go on spinning on the core that is timed.
        torch.set_num_threads(1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Spinning threads of one session would take the core from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0" if self.threads == 1 else "1")
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(layer_model(layer), options, providers=[_PROVIDER])
        except Exception as error:  # The runtime's own classes derive from nothing narrower.
            raise DeviceError(f"onnxruntime: {layer.key} cannot be loaded ({str(error).splitlines()[0]})") from error
        if session.get_providers() != [_PROVIDER]:
            raise DeviceError(f"onnxruntime: asked for {_PROVIDER}, got {', '.join(session.get_providers())}")
        binding = session.io_binding()
        binding.bind_cpu_input(session.get_inputs()[0].name, example_input(layer).numpy())
        binding.bind_output(session.get_outputs()[0].name)
        return _Session(session=session, binding=binding)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    session: Any
    binding: Any

    def time_ms(self, runs: int) -> list[float]:
        times = []
        for _ in range(runs):
            start = time.perf_counter_ns()
            self.session.run_with_iobinding(self.binding)
            times.append((time.perf_counter_ns() - start) / 1e6)
        return times


def open_device(*, threads: int) -> OnnxRuntimeDevice:
    """This machine's processor.

    Raises:
        DeviceError: ONNX Runtime is not installed, or was built without the processor's provider.
    """
    reason = unavailable()
    if reason:
        raise DeviceError(f"onnxruntime: {reason}")
    return OnnxRuntimeDevice(threads=threads)


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can."""
    try:
        import onnxruntime
    except ImportError:
        return "the package is not installed; pip install onnxruntime"
    if _PROVIDER not in onnxruntime.get_available_providers():
        return f"this build has no {_PROVIDER}; install the onnxruntime package"
    return None


def _processor() -> str:
    """Name of the processor: Linux tells it in /proc, other systems through the platform module."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
