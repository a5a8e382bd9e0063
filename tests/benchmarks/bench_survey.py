"""How long does a survey take, and where does the time go?

    python tests/benchmarks/bench_survey.py [--networks 20000] [--budget-ms 1.1] [--runs 3]

Surveys of the iformer space under the iPhone's table, with different seeds: wall and CPU seconds of each in this
process, and the CPU seconds of predicting accuracies and of looking up latencies, timed on the networks kept.
"""

from __future__ import annotations

import argparse
import sys
import time

from nas.accuracy import AccuracyTable
from nas.latency import LatencyTable
from nas.networks import SearchSpace
from nas.proxies.accuracy_table import PredictedAccuracy
from nas.search import look, plan_survey


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=20_000)
    parser.add_argument("--budget-ms", type=float, default=1.1)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    space = SearchSpace.find("iformer")
    latencies, _ = LatencyTable.find("iphone13")
    accuracies, path = AccuracyTable.find("iformer")
    proxy = PredictedAccuracy(table=accuracies, name=path.stem)
    plan = plan_survey(space, latencies, proxy, budget_ms=asked.budget_ms, networks=asked.networks)
    for seed in range(asked.runs):
        wall, cpu = time.perf_counter(), time.process_time()
        found, looked_at = look(space, latencies, proxy, plan=plan, seed=seed)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        networks = [one.network for one in found]
        start = time.process_time()
        accuracies.predict(networks)
        predicting = (time.process_time() - start) / len(networks) * looked_at
        start = time.process_time()
        for network in networks:
            latencies.latency_ms(network)
        looking_up = (time.process_time() - start) / len(networks) * looked_at
        best = max(found, key=lambda one: one.rank)
        sys.stdout.write(
            f"seed {seed}: {looked_at} networks in {wall:.1f} s ({cpu:.1f} s of CPU; about {predicting:.1f} s predict "
            f"accuracies, {looking_up:.1f} s look up latencies); {len(found)} kept, best lower end {best.rank:.2f} %\n"
        )


if __name__ == "__main__":
    main()
