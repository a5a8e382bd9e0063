"""Times models on the machine it runs on: reads a JSON request per line from stdin, writes a JSON answer per line.

Start it as `python _runner_program.py RUNTIME`, where RUNTIME is `onnxruntime` or `coreml`. In nas/devices it needs
`python -P`: without that, onnxruntime.py in this folder would hide the package of the same name.

The requests and answers are those of nas/devices/_runner.py. A `time` request has `threads` and `provider` for ONNX
Runtime, or `compute_units` for Core ML. A model is a path: absolute, or relative to the working directory.

The ssh device copies this file, and no other, to remote hosts. So it imports nothing of this project, and runs on
Python 3.8 with NumPy and ONNX Runtime. For Core ML it needs a Mac with NumPy and coremltools. It imports only the
runtime that is asked for.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

GOLDEN = 0.6180339887498949  # as in nas/networks/modules/network.py
SAMPLES = 4096  # as in nas/devices/__init__.py


class Model(NamedTuple):
    """A loaded model with its input.

    Attributes:
        run: runs it once and returns the nanoseconds that took.
        output: returns the output of the last run.
        facts: returns what else the runtime reports about it.
    """

    run: Callable[[], int]
    output: Callable[[], Any]
    facts: Callable[[], dict[str, str]]


class Runtime(Protocol):
    """Software that runs models; it is imported when the object is made."""

    def describe(self) -> dict[str, Any]:
        """Name of this machine, and the versions that its times depend on."""

    def load(self, request: dict[str, Any]) -> Model:
        """The model that a `time` request names, with the input of the request's shape."""


class OnnxRuntime:
    """ONNX Runtime."""

    def __init__(self) -> None:
        # On import, ONNX Runtime 1.31 starts a thread that sends usage data and writes a file. Both disturb a timing.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        self._onnxruntime = onnxruntime

    def describe(self) -> dict[str, Any]:
        return {
            "model": processor(),
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "versions": {"onnxruntime": self._onnxruntime.__version__},
            "providers": self._onnxruntime.get_available_providers(),
        }

    def load(self, request: dict[str, Any]) -> Model:
        session = self._session(request["model"], request["threads"], request["provider"])
        binding = session.io_binding()
        # The session reads the array's own memory; the binding keeps the array alive.
        binding.bind_cpu_input(session.get_inputs()[0].name, example_input(request["shape"]))
        binding.bind_output(session.get_outputs()[0].name)
        clock = time.perf_counter_ns

        def run() -> int:
            start = clock()
            session.run_with_iobinding(binding)
            return clock() - start

        return Model(run=run, output=lambda: binding.copy_outputs_to_cpu()[0], facts=dict)

    def _session(self, model: str, threads: int, provider: str) -> Any:
        """A session that runs on this provider only.

        Raises:
            RuntimeError: the provider cannot be used.
        """
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads of one session would take the core from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
        options.log_severity_level = 3
        if provider != "CPUExecutionProvider":
            # Operators that a provider cannot run silently go to the CPU. This makes that an error.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        session = self._onnxruntime.InferenceSession(model, options, providers=[provider])
        # A provider that cannot be used is silently replaced by the CPU.
        if session.get_providers()[0] != provider:
            raise RuntimeError(f"asked for {provider}, got {', '.join(session.get_providers())}")
        return session


class CoreML:
    """Core ML on this Mac, through coremltools."""

    def __init__(self) -> None:
        import coremltools

        self._coremltools = coremltools

    def describe(self) -> dict[str, Any]:
        chip, mac = output_of("sysctl", "-n", "machdep.cpu.brand_string"), output_of("sysctl", "-n", "hw.model")
        version, build = output_of("sw_vers", "-productVersion"), output_of("sw_vers", "-buildVersion")
        return {
            "model": f"{chip} ({mac})",
            "os": f"macOS {version} ({build})",
            "versions": {"coremltools": self._coremltools.__version__},
        }

    def load(self, request: dict[str, Any]) -> Model:
        units = self._coremltools.ComputeUnit[request["compute_units"].upper()]
        model = self._coremltools.models.MLModel(request["model"], compute_units=units)
        # Rounded to float16 as the model's input is, and passed as float32: of float16, coremltools would make a copy.
        values = example_input(request["shape"]).astype(np.float16).astype(np.float32)
        output = None

        def run() -> int:
            nonlocal output
            output = model.predict({"input": values})["output"]
            # The time of Core ML's own call. The Python code around it takes longer than a layer.
            nanoseconds: int = model.last_predict_duration_in_nano_seconds
            return nanoseconds

        def facts() -> dict[str, str]:
            with contextlib.suppress(Exception):  # Before macOS 14.4 there is no compute plan.
                return self._placement(model, units)
            return {}

        return Model(run=run, output=lambda: output, facts=facts)

    def _placement(self, model: Any, units: Any) -> dict[str, str]:
        """How many operations run on which processor, and the names of those that leave the Neural Engine."""
        plans = self._coremltools.models.compute_plan.MLComputePlan
        plan = plans.load_from_path(model.get_compiled_model_path(), units)
        processors: Counter[str] = Counter()
        elsewhere: Counter[str] = Counter()
        for operation in plan.model_structure.program.functions["main"].block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is None:  # a constant
                continue
            # NeuralEngine for MLNeuralEngineComputeDevice.
            processor = type(usage.preferred_compute_device).__name__[len("ML") : -len("ComputeDevice")]
            processors[processor] += 1
            if processor != "NeuralEngine":
                elsewhere[operation.operator_name.split(".")[-1]] += 1
        return {"placement": counted(processors), "off_neural_engine": counted(elsewhere)}


def main(name: str) -> None:
    """Answer requests until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # coremltools may print, and the real stdout is for answers only.
    runtime = RUNTIMES[name]()
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        try:
            answer = OPERATIONS[request["op"]](runtime, request)
        except Exception as error:  # The runtimes' own errors have no narrower class in common.
            text = str(error).strip() or type(error).__name__
            answer = {"failure": text.splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def describe(runtime: Runtime, _: dict[str, Any]) -> dict[str, Any]:
    """Answer to `describe`."""
    return runtime.describe()


def measure(runtime: Runtime, request: dict[str, Any]) -> dict[str, Any]:
    """Answer to `time`: run a model back to back and report the time of every run, the first included."""
    model = runtime.load(request)
    run = model.run
    times: list[int] = []
    total = 0
    limit = request["duration_ms"] * 1e6
    while len(times) < request["maximum_runs"] and (total < limit or len(times) < request["minimum_runs"]):
        taken = run()
        times.append(taken)
        total += taken
    answer: dict[str, Any] = {"times_ms": [taken / 1e6 for taken in times]}
    facts = model.facts()
    if facts:
        answer["facts"] = facts
    if request["output"]:
        flat = np.asarray(model.output()).reshape(-1)
        flat = flat[:: max(1, flat.size // SAMPLES)].astype("<f4")
        answer["output"] = base64.b64encode(flat.tobytes()).decode()
    return answer


def example_input(shape: list[int]) -> Any:
    """Fractional parts of multiples of the golden ratio, as `nas.networks.modules.example_input` makes them."""
    return (np.arange(math.prod(shape), dtype=np.float64) * GOLDEN % 1).astype(np.float32).reshape(shape)


def processor() -> str:
    """Name of the processor or board: from /proc on Linux, from the platform module elsewhere."""
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        pass
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def output_of(*command: str) -> str:
    """The one line that a program of macOS prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def counted(counts: Counter[str]) -> str:
    """Names and counts such as `conv 4, add 1`, the most frequent first."""
    return ", ".join("{} {}".format(*item) for item in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


RUNTIMES: dict[str, Callable[[], Runtime]] = {"onnxruntime": OnnxRuntime, "coreml": CoreML}
OPERATIONS = {"describe": describe, "time": measure}

if __name__ == "__main__":
    main(sys.argv[1])
