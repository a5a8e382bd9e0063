"""Does a search with `--objective params` find a better front in latency, parameters and score than one without?

    python tests/benchmarks/bench_objectives.py --seeds 0-4

Searches for 100 candidates with the surrogate inside 1.1 ms, for one budget and for the whole front, over the scorers
of bench_samplers.py with their noise. The front by the noisy scores is worth the volume under it without noise: up to
1.1 ms and 14 M parameters, both in logarithms, and above the score of the cheapest network. `winner` is the plain score
of the best. Medians over seeds; a table in Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import product

import numpy as np
from samplers import CHEAPEST, ENCODING, NONE, TABLE, Search, latency_ms

from nas.search.limits import QUANTITIES
from nas.search.pareto import hypervolume, undominated
from nas.search.proposer import proposer_by_table

BUDGET_MS, MOST_PARAMS, COUNTS = 1.1, 14e6, (50, 100)
PARAMS = QUANTITIES["params"]
params_of = PARAMS.of_rows(ENCODING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4", help="the first and the last")
    first, last = map(int, parser.parse_args().seeds.split("-"))
    print("| scorer | asked for | objective | volume at 50 | at 100 | on the front at 100 | winner | CPU ms |")  # noqa: T201
    print("|---" * 8 + "|")  # noqa: T201
    for scorer, front, objective in product(("analytic", "supernet"), (False, True), (False, True)):
        found = [run(scorer, front, objective, seed) for seed in range(first, last + 1)]
        cells = [f"{statistics.median(values):.2f}" for values in zip(*found, strict=True)]
        asked = "whole front" if front else "1.1 ms"
        print(f"| {scorer} | {asked} | {'params' if objective else 'none'} | {' | '.join(cells)} |", flush=True)  # noqa: T201


def run(scorer: str, front: bool, objective: bool, seed: int) -> list[float]:
    """One search: volumes, size of the front, score of the winner, and CPU of a proposal in ms."""
    search = Search(scorer, BUDGET_MS, seed, front=False)
    lowest_ms = float(latency_ms(CHEAPEST)[0])
    levels_ms = np.geomspace(lowest_ms, BUDGET_MS, 24) if front else [BUDGET_MS]
    proposer = proposer_by_table(
        ENCODING, TABLE, levels_ms=levels_ms, objectives=[PARAMS] if objective else [], seed=seed
    )
    start = time.process_time()
    while len(search.rows) < COUNTS[-1]:
        known = np.stack(search.rows) if search.rows else NONE
        for row in proposer.propose(known, np.asarray(search.noisy), closed=NONE):
            search.score(row)
    cpu_ms = 1000 * (time.process_time() - start - search.scoring_s) / len(search.rows)
    volumes = [volume(search, count) for count in COUNTS]
    plain = search.plain[int(np.argmax(search.noisy))]
    return [*(worth for worth, _ in volumes), volumes[-1][1], plain, cpu_ms]


def volume(search: Search, count: int) -> tuple[float, int]:
    """The volume under the front of the first candidates, and how many networks it has."""
    rows = np.stack(search.rows[:count])
    times, sizes, ends = np.log(latency_ms(rows)), np.log(params_of(rows)), np.log([BUDGET_MS, MOST_PARAMS])
    front = undominated(
        range(count), latency=lambda at: times[at], score=lambda at: search.noisy[at], costs=[lambda at: sizes[at]]
    )
    by_size = sorted((at for at in front if sizes[at] < ends[1]), key=lambda at: sizes[at])
    total = 0.0
    for number, at in enumerate(by_size, start=1):
        end = sizes[by_size[number]] if number < len(by_size) else ends[1]
        points = [(float(times[one]), search.plain[one]) for one in by_size[:number]]
        total += (end - sizes[at]) * hypervolume(points, latency_limit=ends[0], score_floor=search.floor)
    return float(total), len(front)


if __name__ == "__main__":
    main()
