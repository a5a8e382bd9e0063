"""Times ONNX models with ONNX Runtime: one JSON request a line on stdin, one JSON answer a line on stdout.

This one file is all that a host needs beside Python 3.8, NumPy and ONNX Runtime, so it imports nothing of this project.
The requests are those of nas/devices/_runner.py. Models lie in the working directory or at an absolute path.
"""

from __future__ import annotations

import base64
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

# Importing ONNX Runtime 1.31 starts a thread that sends usage data and writes a file; neither belongs beside a timing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

GOLDEN = 0.6180339887498949  # as in nas/networks/modules/network.py
SAMPLES = 4096  # as in nas/devices/__init__.py


def main() -> None:
    """Answer requests until stdin ends."""
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        try:
            answer = OPERATIONS[request["op"]](request)
        except Exception as error:  # The runtime's own classes derive from nothing narrower.
            text = str(error).strip() or type(error).__name__
            answer = {"failure": text.splitlines()[0]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def describe(_: dict[str, Any]) -> dict[str, Any]:
    """What this host is."""
    return {
        "model": processor(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {"onnxruntime": onnxruntime.__version__},
        "providers": onnxruntime.get_available_providers(),
    }


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Run a model back to back and report every run."""
    session = open_session(request["model"], request["threads"], request["provider"])
    shape = request["shape"]
    values = (np.arange(math.prod(shape), dtype=np.float64) * GOLDEN % 1).astype(np.float32).reshape(shape)
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, values)
    binding.bind_output(session.get_outputs()[0].name)
    times: list[int] = []
    total = 0
    limit = request["duration_ms"] * 1e6
    clock = time.perf_counter_ns
    while len(times) < request["maximum_runs"] and (total < limit or len(times) < request["minimum_runs"]):
        start = clock()
        session.run_with_iobinding(binding)
        taken = clock() - start
        times.append(taken)
        total += taken
    answer: dict[str, Any] = {"times_ms": [taken / 1e6 for taken in times]}
    if request["output"]:
        flat = binding.copy_outputs_to_cpu()[0].reshape(-1)
        flat = flat[:: max(1, flat.size // SAMPLES)].astype("<f4")
        answer["output"] = base64.b64encode(flat.tobytes()).decode()
    return answer


def open_session(model: str, threads: int, provider: str) -> Any:
    """A session on this provider and no other."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads of one session would take the core from the next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
    options.log_severity_level = 3
    if provider != "CPUExecutionProvider":
        # What a provider cannot run goes to the processor without a word; this makes it an error.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(model, options, providers=[provider])
    # A provider that cannot be used is dropped without a word, and the processor steps in.
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"asked for {provider}, got {', '.join(session.get_providers())}")
    return session


def processor() -> str:
    """Name of the processor or board: Linux tells it below /proc, other systems through the platform module."""
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


OPERATIONS = {"describe": describe, "time": measure}

if __name__ == "__main__":
    main()
