"""The bars that a measured table has to meet, from its stored check, and how a sparse table does on the same networks.

    nas table build --device onnxruntime --out mine.json
    nas table check mine.json --calibrate 10
    python tests/benchmarks/bench_table_check.py mine.json

The sparse table is the first quarter of the layers in the order in which `nas table build --sample 0.25` measures them,
with their times from the full table, or a table built with --sample that is given as --sparse. Its correction is learnt
on the same networks as that of the full table, and it is compared on the same end-to-end times.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys

from nas.latency import Agreement, LatencyTable, Timing
from nas.latency.check import check_networks, learn_correction
from nas.latency.fill import fill, measuring_order
from nas.networks import SearchSpace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a table with a check")
    parser.add_argument("--space", default="iformer")
    parser.add_argument("--sample", default=0.25, type=float)
    parser.add_argument("--sparse", help="a table built with --sample on the same device")
    options = parser.parse_args()
    space = SearchSpace.find(options.space)
    table, _ = LatencyTable.find(options.table)
    assert table.check is not None, "the table has no check: nas table check TABLE --calibrate 10"
    say(table.provenance.label)
    check = table.check
    bar("mean error", check.agreement.mean_error, 0.015)
    bar("worst error", check.agreement.worst_error, 0.04)
    bar("mean error over noise floor", check.agreement.mean_error / max(check.noise_floor, 1e-9), 2.0, percent=False)
    bar("1 - Kendall's tau", 1 - check.agreement.tau, 0.02, percent=False)
    say(f"noise floor {check.noise_floor:.2%}; plain sums: {check.uncorrected.describe()}")
    for name, agreement in check.baselines.items():
        say(f"a line in {name}: {agreement.describe()}")

    sparse = LatencyTable.find(options.sparse)[0] if options.sparse else thinned(table, space, options.sample)
    agreement = compared(sparse, table, space)
    measured = sum(isinstance(entry, Timing) for entry in sparse.entries.values())
    say(f"sparse, {measured} of {len(sparse.entries)} layers measured: {agreement.describe()}")
    bar("mean error, sparse", agreement.mean_error, 0.025)
    random_ones = [
        compared(thinned(table, space, options.sample, seed=seed), table, space).mean_error for seed in range(5)
    ]
    say(
        f"five random samples of the same size instead: mean error {statistics.mean(random_ones):.2%}, "
        f"{min(random_ones):.2%} to {max(random_ones):.2%}"
    )


def thinned(table: LatencyTable, space: SearchSpace, share: float, seed: int | None = None) -> LatencyTable:
    """The table with a share of its timings, chosen as a sparse build does or at random, and the rest filled in."""
    order = measuring_order(space.layers)
    if seed is not None:
        random.Random(seed).shuffle(order)
    kept = order[: round(share * len(order))]
    plain = table.model_copy(update={"entries": {}}).with_entries(
        {layer.key: table.entries[layer.key] for layer in kept}
    )
    filled = fill(
        {layer: plain.layer_ms(layer) for layer in kept}, [layer for layer in order if layer not in set(kept)]
    )
    missing = {layer.key: table.entries[layer.key] for layer in order if layer not in filled and layer not in set(kept)}
    return plain.with_entries({layer.key: value for layer, value in filled.items()} | missing)


def compared(sparse: LatencyTable, table: LatencyTable, space: SearchSpace) -> Agreement:
    """How the sparse table predicts the held-out networks of the other's check."""
    assert table.check is not None
    networks = check_networks(table, space)
    rows = [row for row in table.check.rows if row.role == "calibration"]
    plain = sparse.model_copy(update={"correction": None, "check": None})
    correction = learn_correction(plain, {networks[row.id]: row.measured_ms for row in rows}) if rows else None
    corrected = plain.model_copy(update={"correction": correction})
    held_out = [row for row in table.check.rows if row.role == "held-out"]
    return Agreement.of(
        [corrected.latency_ms(networks[row.id]) for row in held_out], [row.measured_ms for row in held_out]
    )


def bar(name: str, value: float, limit: float, *, percent: bool = True) -> None:
    shown = f"{value:.2%} (bar {limit:.1%})" if percent else f"{value:.3f} (bar {limit:g})"
    say(f"{'met   ' if value <= limit else 'MISSED'}  {name}: {shown}")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
