"""How many networks a second does a search tell whether they keep its limits?

    python tests/benchmarks/bench_limits.py [--space iformer] [--table iphone13] [--networks 100000] [--runs 5]

For each quantity: seconds to look up the layers of the space once, and networks a second after that, as rows (the
fastest of the runs, on one core) and one by one. Then the same for all limits together.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

from nas.latency import LatencyTable
from nas.networks import SearchSpace
from nas.networks.encoding import Encoding
from nas.search.limits import QUANTITIES, Limit, Limits, latency_on


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="iformer")
    parser.add_argument("--table", default="iphone13")
    parser.add_argument("--networks", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    space = SearchSpace.find(asked.space)
    table, path = LatencyTable.find(asked.table)
    encoding = Encoding(space)
    rows = encoding.draw(asked.networks, np.random.default_rng(0))
    networks = [encoding.decode(row) for row in rows[:200]]
    limits = []
    for quantity in (*QUANTITIES.values(), latency_on(path.name.removesuffix(".json"), table)):
        start = time.perf_counter()
        of_rows = quantity.of_rows(encoding)
        looking_up = time.perf_counter() - start
        fastest = min(seconds(lambda of_rows=of_rows: of_rows(rows)) for _ in range(asked.runs))
        alone = seconds(lambda quantity=quantity: [quantity.value(network) for network in networks])
        values = of_rows(rows)
        limits.append(Limit(quantity=quantity, most=float(np.quantile(values, 0.1))))
        low, middle, high = (quantity.shown(float(value)) for value in np.quantile(values, [0, 0.5, 1]))
        sys.stdout.write(
            f"{quantity.name}: layers in {looking_up:.2f} s, {len(rows) / fastest:,.0f} networks a second as rows, "
            f"{len(networks) / alone:,.0f} one by one; random networks have {low} to {high}, {middle} in the middle\n"
        )
    together = Limits(tuple(limits))
    allowed = together.allowed(encoding)
    fastest = min(seconds(lambda: allowed(rows)) for _ in range(asked.runs))
    sys.stdout.write(
        f"all together, each at the 10 % quantile: {len(rows) / fastest:,.0f} networks a second, "
        f"{allowed(rows).mean():.1%} inside\n"
    )


if __name__ == "__main__":
    main()
