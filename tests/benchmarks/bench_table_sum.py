"""How far the sums of a measured table are from whole networks timed on this machine.

    python tests/benchmarks/bench_table_sum.py amd-epyc --networks 12

Whole networks run in ONNX Runtime with the threads of the table, in turns over several rounds, so that a change of the
machine's speed hits all of them alike. The fastest and the median run of each are compared with the sums of the fastest
and of the median runs of its layers.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import onnxruntime
from scipy.stats import kendalltau

from nas.export.onnx import network_model
from nas.latency import LatencyTable
from nas.model import build_model
from nas.space import SearchSpace, random_choice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--networks", default=12, type=int, help="random networks beside T, S, M and L")
    parser.add_argument("--rounds", default=5, type=int)
    options = parser.parse_args()
    table, _ = LatencyTable.find(options.table)
    space, choose = SearchSpace.find("iformer"), random_choice(seed=0)
    networks = {name: network for name, network in space.references.items() if network in space}
    networks |= {network.id: network for network in (space.sample(choose) for _ in range(options.networks))}
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = table.provenance.threads or 1
    models = {name: network_model(build_model(network)) for name, network in networks.items()}
    sessions = {name: onnxruntime.InferenceSession(model, settings) for name, model in models.items()}
    image = np.zeros((1, 3, 224, 224), dtype=np.float32)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(options.rounds):
        for name, session in sessions.items():
            for run in range(12):
                start = time.perf_counter_ns()
                session.run(None, {"image": image})
                if run >= 2:
                    times[name].append((time.perf_counter_ns() - start) / 1e6)
    sys.stdout.write(
        f"{'network':14s} {'fastest':>8s} {'sum':>8s} {'error':>7s}   {'median':>8s} {'sum':>8s} {'error':>7s}\n"
    )
    errors: dict[str, list[float]] = {"minimum": [], "median": []}
    sums: dict[str, list[float]] = {"minimum": [], "median": []}
    whole: dict[str, list[float]] = {"minimum": [], "median": []}
    for name, network in networks.items():
        timings = [table.entries[layer.key] for layer in network.layers()]
        row = [f"{name:14s}"]
        for statistic, measured in (("minimum", min(times[name])), ("median", statistics.median(times[name]))):
            total = sum(getattr(timing, f"{statistic}_ms") for timing in timings)
            whole[statistic].append(measured)
            sums[statistic].append(total)
            errors[statistic].append(total / measured - 1)
            row.append(f"{measured:8.2f} {total:8.2f} {total / measured - 1:+7.1%}  ")
        sys.stdout.write(" ".join(row) + "\n")
    for statistic, values in errors.items():
        tau = kendalltau(whole[statistic], sums[statistic]).statistic
        sys.stdout.write(
            f"{statistic}: bias {statistics.mean(values):+.1%}, mean error {statistics.mean(map(abs, values)):.1%}, "
            f"worst {max(map(abs, values)):.1%}, Kendall's tau {tau:.2f}, {len(values)} networks\n"
        )


if __name__ == "__main__":
    main()
