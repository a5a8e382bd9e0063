"""What building a table costs: layers, wall time, peak memory, and how export compares with timing.

    python tests/benchmarks/bench_table_build.py                  # the whole iformer space, about ten minutes
    python tests/benchmarks/bench_table_build.py --space tiny     # seconds

Builds into a temporary folder unless --out names a file; the last line of stdout is the same figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nas.devices import open_device
from nas.devices.onnxruntime import exported
from nas.latency import LatencyTable
from nas.latency.timing import TimingProtocol
from nas.networks import SearchSpace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="iformer")
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--each", default=20, type=int, help="every how many layers to time export and timing apart")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "table.json"
        arguments = ["table", "build", "--space", options.space, "--threads", str(options.threads), "--out", str(out)]
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", "from nas.cli import main; main()", *arguments], check=True)
        wall_s = time.monotonic() - start
        peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        layers = len(LatencyTable.load(out).entries)
    device, protocol = open_device("onnxruntime", {"threads": str(options.threads)}), TimingProtocol()
    export_s = job_s = timing_s = 0.0
    sample = SearchSpace.find(options.space).layers[:: options.each]
    for layer in sample:
        start = time.monotonic()
        exported(layer)
        middle = time.monotonic()
        (run,) = device.time([protocol.job(layer, verify=True)])
        export_s += middle - start
        job_s += time.monotonic() - middle
        timing_s += sum(run.times_ms) / 1000
    device.close()
    figures = {
        "space": options.space,
        "threads": options.threads,
        "layers": layers,
        "wall_s": round(wall_s, 1),
        "peak_mib": round(peak_mib),
        "sampled_layers": len(sample),
        "export_ms": round(1000 * export_s / len(sample), 1),
        "whole_job_ms": round(1000 * job_s / len(sample), 1),
        "timed_runs_ms": round(1000 * timing_s / len(sample), 1),
    }
    for name, value in figures.items():
        sys.stdout.write(f"{name:24s} {value}\n")
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
