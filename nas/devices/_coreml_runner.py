"""Times Core ML packages on this Mac: one JSON request a line on stdin, one JSON answer a line on stdout.

The requests are those of nas/devices/_runner.py, with `compute_units` in place of `threads` and `provider`. It needs
coremltools and NumPy, and nothing of this project.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import subprocess
import sys
from collections import Counter
from typing import Any

import coremltools
import numpy as np

GOLDEN = 0.6180339887498949  # as in nas/networks/modules/network.py
SAMPLES = 4096  # as in nas/devices/__init__.py


def main() -> None:
    """Answer requests until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # coremltools may print, and this stream is for answers.
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        try:
            answer = OPERATIONS[request["op"]](request)
        except Exception as error:  # coremltools raises nothing narrower.
            text = str(error).strip() or type(error).__name__
            answer = {"failure": text.splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def describe(_: dict[str, Any]) -> dict[str, Any]:
    """What this Mac is."""
    return {
        "model": "{} ({})".format(told("sysctl", "-n", "machdep.cpu.brand_string"), told("sysctl", "-n", "hw.model")),
        "os": "macOS {} ({})".format(told("sw_vers", "-productVersion"), told("sw_vers", "-buildVersion")),
        "versions": {"coremltools": coremltools.__version__},
    }


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Run a model back to back and report every run."""
    units = coremltools.ComputeUnit[request["compute_units"].upper()]
    model = coremltools.models.MLModel(request["model"], compute_units=units)
    shape = request["shape"]
    values = (np.arange(math.prod(shape), dtype=np.float64) * GOLDEN % 1).astype(np.float32).reshape(shape)
    # Rounded as the model's input will be; handed over as float32, since coremltools would make a copy of float16.
    values = values.astype(np.float16).astype(np.float32)
    times: list[int] = []
    total = 0
    limit = request["duration_ms"] * 1e6
    output = None
    while len(times) < request["maximum_runs"] and (total < limit or len(times) < request["minimum_runs"]):
        output = model.predict({"input": values})["output"]
        # Of Core ML's call alone: what Python does around it costs more than a layer.
        taken = model.last_predict_duration_in_nano_seconds
        times.append(taken)
        total += taken
    answer: dict[str, Any] = {"times_ms": [taken / 1e6 for taken in times]}
    with contextlib.suppress(Exception):  # Before macOS 14.4 there is no plan.
        answer["facts"] = placement(model, units)
    if request["output"]:
        flat = np.asarray(output).reshape(-1)
        flat = flat[:: max(1, flat.size // SAMPLES)].astype("<f4")
        answer["output"] = base64.b64encode(flat.tobytes()).decode()
    return answer


def placement(model: Any, units: Any) -> dict[str, str]:
    """How many operations run where, and the names of those that leave the Neural Engine."""
    plan = coremltools.models.compute_plan.MLComputePlan.load_from_path(model.get_compiled_model_path(), units)
    processors: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    for operation in plan.model_structure.program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:  # a constant
            continue
        # Such as NeuralEngine for MLNeuralEngineComputeDevice.
        processor = type(usage.preferred_compute_device).__name__[len("ML") : -len("ComputeDevice")]
        processors[processor] += 1
        if processor != "NeuralEngine":
            elsewhere[operation.operator_name.split(".")[-1]] += 1
    return {"placement": counted(processors), "off_neural_engine": counted(elsewhere)}


def counted(counts: Counter[str]) -> str:
    """Such as `conv 4, add 1`: the most frequent first."""
    return ", ".join("{} {}".format(*item) for item in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def told(*command: str) -> str:
    """The one line that a program of macOS answers with."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


OPERATIONS = {"describe": describe, "time": measure}

if __name__ == "__main__":
    main()
