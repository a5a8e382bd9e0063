"""Are 30 candidates of the default sampler as good as 100 of the earlier one (TPE), on real scores of a supernet?

    nas search --budget-ms B --proxy supernet --supernet S --data D --sampler surrogate --trials 30 --seed N --out OUT/surrogate-30-B-N
    nas search --budget-ms B --proxy supernet --supernet S --data D --sampler tpe --trials 100 --seed N --out OUT/tpe-100-B-N
    python results/samplers/on_supernet.py --keep OUT    # -> on_supernet.jsonl, latency and score of each candidate
    python results/samplers/on_supernet.py               # prints the table

D is Tiny ImageNet's 50 classes, S the supernet that `nas search --data D` trains (one nat learnt, 20,800 images). "Area"
is that between the front of a run and iFormer-T's score (0.0393), up to the budget, in ms times a thousandth of the
score. A score has a standard error of about 0.0011, shared by networks in large part, since all see the same images.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

KEPT = Path(__file__).with_suffix(".jsonl")
FLOOR = 0.0393


def main() -> None:  # noqa: D103
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder of the runs, to write what this script reads")
    asked = parser.parse_args()
    if asked.keep:
        keep(asked.keep)
    runs = {tuple(line["run"]): line["candidates"] for line in map(json.loads, KEPT.read_text().splitlines())}
    header = "| ms | seed | best of 30 | best of TPE's 100 | area of 30 | area of TPE's 100 |"
    print(f"{header}\n|---|---|---|---|---|---|")  # noqa: T201
    for sampler, budget, seed in sorted(runs):
        other = runs.get(("tpe", budget, seed), [])
        if sampler == "surrogate" and other:
            mine = runs[sampler, budget, seed]
            best = [max(score for _, score in run) for run in (mine, other)]
            areas = [area(run, float(budget)) for run in (mine, other)]
            note = "" if len(other) == 100 else f" ({len(other)} so far)"
            cells = f"{best[0]:.4f} | {best[1]:.4f}{note} | {areas[0]:.2f} | {areas[1]:.2f}{note}"
            print(f"| {budget} | {seed} | {cells} |")  # noqa: T201


def keep(folder: Path) -> None:
    """Write latency and score of the searched candidates of each run, in the order in which they were scored."""
    lines = []
    for file in sorted(folder.glob("*/candidates.jsonl")):
        sampler, _, budget, seed = file.parent.name.split("-")
        found = [json.loads(line) for line in file.read_text().splitlines()]
        own = [
            [round(c["latency_ms"], 4), round(c["score"], 5)] for c in found if c["kind"] == "searched" and c["score"]
        ]
        lines.append(json.dumps({"run": [sampler, budget, seed], "candidates": own}))
    KEPT.write_text("\n".join(lines) + "\n")


def area(run: list[list[float]], budget: float) -> float:
    """The area under a run's front, in ms times a thousandth of the score."""
    steps, best = [], FLOOR
    for latency, score in sorted(run):
        if score > best:
            steps.append((latency, score))
            best = score
    return 1000 * sum((b - a) * (score - FLOOR) for (a, score), (b, _) in pairwise([*steps, (budget, 0.0)]))


if __name__ == "__main__":
    sys.exit(main())
