"""How many scores does a search need? Samplers over fixed scorers of the iformer space, in tables.

    python tests/benchmarks/bench_samplers.py --out results/samplers --samplers random,evolution,surrogate,nsga2,tpe
    python tests/benchmarks/bench_samplers.py --out results/samplers --samplers gp --count 150 --limit-s 1800
    python tests/benchmarks/bench_samplers.py --out results/samplers --report

Two tools from PyPI need an environment of their own:

    python3.11 -m venv PEERS && PEERS/bin/pip install smac syne-tune pydantic
    PYTHONPATH=. PEERS/bin/python tests/benchmarks/bench_samplers.py --out results/samplers --samplers smac,syne-tune \
        --count 150

Three scorers that cost nothing: `analytic` (diminishing returns of depth and width by stage, a best share of
attention), `supernet` (the Gaussian process of the accuracy table over scores of a supernet) and `accuracy-table`
(foretold ImageNet top-1). Each score has noise of a thirtieth of the difference between iFormer-L and iFormer-T, the
unit of all regrets. There are four kinds of runs:

- `budget`: the regret of a search is the difference between the best network known inside the budget and the one with
  the best score, both without noise.
- `front`: one search up to 1.6 ms. The front by the scores is worth the area under it without noise, from the score of
  the cheapest network of the space (0.342 ms) up and to 1.6 ms, as a share of that of the best front known.
- `edge`: 100 networks are asked for at 0.35 ms, 1.02 times the cheapest.
- `cost` and `front-cost`: CPU of the proposals of 1,000 candidates, without the scores.

Optuna's samplers get the latency as a constraint. Its Gaussian process and the tools from PyPI get a score below that
of the cheapest network, the lower the further over the budget; the tools begin with the cheapest network. What is over
the budget, or comes twice, counts as no candidate. Every run is a line of runs.jsonl; goes on where it was stopped.
What is best known is the best of all runs and of an evolution of 120,000 networks without noise, which best.json keeps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from samplers import CHEAPEST, ENCODING, FRONT_MS, SAMPLERS, SCORERS, UNITS, Search, area, latency_ms

from nas.search.mutation import children, distinct

COUNTS = (20, 50, 100, 150, 200, 300, 400)
BUDGETS_MS = (0.6, 0.85, 1.1, 1.6)
SEEDS = 10
EDGE_MS, EDGE_COUNT, COST_MS, COST_COUNT = 0.35, 100, 1.1, 1000
NO_FRONT = ("syne-tune",)
KINDS = ("budget", "front", "edge", "cost", "front-cost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--seeds", default=f"0-{SEEDS - 1}", help="the first and the last")
    parser.add_argument("--samplers", default="random,evolution,surrogate,nsga2,tpe")
    parser.add_argument("--scorers", default=",".join(SCORERS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--count", type=int, default=COUNTS[-1], help="candidates of a run of `budget` or `front`")
    parser.add_argument("--limit-s", type=float, default=600.0, help="CPU of a run; it ends with what it has")
    asked = parser.parse_args()
    file = asked.out / "runs.jsonl"
    if asked.report:
        report(file)
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    first, last = map(int, asked.seeds.split("-"))
    for seed in range(first, last + 1):
        for kind, scorer, budget_ms in runs_of(seed, asked.kinds.split(","), asked.scorers.split(",")):
            for sampler in asked.samplers.split(","):
                key = (kind, sampler, scorer, budget_ms, seed)
                if key in {_key(line) for line in _lines(file)} or (kind.startswith("front") and sampler in NO_FRONT):
                    continue
                count = {"edge": EDGE_COUNT, "cost": COST_COUNT, "front-cost": COST_COUNT}.get(kind, asked.count)
                line = run(*key, count, asked.limit_s)
                with file.open("a") as output:
                    output.write(json.dumps(line) + "\n")


def runs_of(seed: int, kinds: list[str], scorers: list[str]) -> Iterator[tuple[str, str, float]]:
    """The runs of a seed: kind, scorer and budget. All but `budget` and `front` come once."""
    for scorer in scorers:
        if "budget" in kinds:
            yield from (("budget", scorer, budget_ms) for budget_ms in BUDGETS_MS)
        if "front" in kinds:
            yield "front", scorer, FRONT_MS
    if seed == 0:
        for kind, budget_ms in (("edge", EDGE_MS), ("cost", COST_MS), ("front-cost", FRONT_MS)):
            if kind in kinds:
                yield kind, "analytic", budget_ms


def run(kind: str, sampler: str, scorer: str, budget_ms: float, seed: int, count: int, limit_s: float) -> dict:
    """One search."""
    search = Search(scorer, budget_ms, seed, front=kind.startswith("front"))
    steps, start, clock = SAMPLERS[sampler](search), time.process_time(), {}
    while len(search.rows) < count and time.process_time() - start < limit_s:
        if next(steps, steps) is steps:
            break
        if len(search.rows) % 100 == 0:
            clock[len(search.rows)] = time.process_time() - start - search.scoring_s
    found = len(search.rows)
    seconds = time.process_time() - start - search.scoring_s
    line = {"kind": kind, "sampler": sampler, "scorer": scorer, "budget_ms": budget_ms, "seed": seed, "found": found}
    line |= {"proposals": search.proposals, "cpu_ms": round(1000 * seconds / max(1, found), 1)}
    if kind in ("cost", "front-cost") and found == count:
        line["cpu_ms_of_last_100"] = round(10 * (clock[count] - clock[count - 100]), 1)
    return line | {"worth": {str(n): round(search.chosen(n), 5) for n in COUNTS if n <= found}}


def best_known(out: Path) -> dict[str, dict[str, float]]:
    """For each scorer the best score inside each budget, and the best area; kept in best.json."""
    file = out / "best.json"
    if file.exists():
        return json.loads(file.read_text())
    best = {}
    for name, scorer in SCORERS.items():
        random = np.random.default_rng(0)
        rows = np.concatenate([CHEAPEST, ENCODING.draw(5000, random)])
        for _ in range(60):
            rows = rows[latency_ms(rows) <= FRONT_MS]
            found_ms, scores = latency_ms(rows), scorer(rows)
            # The best six of each of 60 bands of latency are kept.
            bands = np.floor(60 * np.log(found_ms / 0.34) / np.log(FRONT_MS / 0.34))
            order = np.lexsort((-scores, bands))
            rank = np.arange(len(rows)) - np.searchsorted(bands[order], bands[order])
            kept = rows[order[rank < 6]]
            rows = distinct(np.concatenate([kept, children(ENCODING, kept, 2000, random)]))
        rows = rows[latency_ms(rows) <= FRONT_MS]
        found_ms, scores = latency_ms(rows), scorer(rows)
        best[name] = {_place("budget", one): float(scores[found_ms <= one].max()) for one in BUDGETS_MS}
        best[name]["front"] = area(found_ms, scores, scores, float(scorer(CHEAPEST)[0]))
    file.write_text(json.dumps(best, indent=1) + "\n")
    return best


def _place(kind: str, budget_ms: float) -> str:
    return "front" if kind == "front" else f"{budget_ms:g}"


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _key(line: dict) -> tuple:
    return tuple(line[name] for name in ("kind", "sampler", "scorer", "budget_ms", "seed"))


def report(file: Path) -> None:
    """Medians over scorers, budgets and seeds, and the bars of the issue, as Markdown."""
    lines, best = _lines(file), best_known(file.parent)
    for line in lines:
        if line["kind"] in ("budget", "front"):
            place = _place(line["kind"], line["budget_ms"])
            best[line["scorer"]][place] = max([best[line["scorer"]][place], *line["worth"].values()])
    samplers = [name for name in SAMPLERS if any(line["sampler"] == name for line in lines)]

    def loss(line: dict, count: int) -> float | None:
        """Regret; or of a front the share of the area."""
        worth = line["worth"].get(str(count))
        known = best[line["scorer"]].get(_place(line["kind"], line["budget_ms"]))
        if worth is None:
            return None
        return worth / known if line["kind"] == "front" else (known - worth) / UNITS[line["scorer"]]

    def median(chosen: list[dict], count: int) -> str:
        values = [value for value in (loss(line, count) for line in chosen) if value is not None]
        few = f" ({len(values)})" if len(values) < len(chosen) else ""
        return f"{statistics.median(values):.3f}{few}" if values else "-"

    def table(kind: str, groups: list[tuple[str, Callable[[dict], bool], int]]) -> None:
        print("| | sampler | runs of all | " + " | ".join(map(str, COUNTS)) + " | CPU ms | proposals |")  # noqa: T201
        print("|---" * (5 + len(COUNTS)) + "|")  # noqa: T201
        for name, belongs, planned in groups:
            for sampler in samplers:
                mine = [one for one in lines if one["kind"] == kind and one["sampler"] == sampler and belongs(one)]
                if mine:
                    medians = [median(mine, count) for count in COUNTS]
                    cpu_ms = statistics.median(line["cpu_ms"] for line in mine)
                    each = statistics.median(line["proposals"] / max(1, line["found"]) for line in mine)
                    cells = (name, sampler, f"{len(mine)} of {planned}", *medians, f"{cpu_ms:.0f}", f"{each:.1f}")
                    print("| " + " | ".join(cells) + " |")  # noqa: T201

    def bar(kind: str, early: int, late: int) -> None:
        """The surrogate at `early` candidates against each other method at `late`, over the runs that both have."""
        own = {_key(line)[2:]: loss(line, early) for line in lines if _key(line)[:2] == (kind, "surrogate")}
        for sampler in samplers:
            theirs = {_key(line)[2:]: loss(line, late) for line in lines if _key(line)[:2] == (kind, sampler)}
            both = [key for key in own if own[key] is not None and theirs.get(key) is not None]
            if sampler == "surrogate" or not both:
                continue
            mine, other = (statistics.median(values[key] for key in both) for values in (own, theirs))
            held = mine >= other if kind == "front" else mine <= other
            word = "held" if held else "MISSED"
            print(f"- {word}: surrogate at {early} {mine:.3f}, {sampler} at {late} {other:.3f} ({len(both)} runs)")  # noqa: T201

    scorers = sorted({line["scorer"] for line in lines}, key=list(SCORERS).index)
    print(f"Regret, medians; {SEEDS} seeds planned. In brackets: runs that came that far, where not all did.\n")  # noqa: T201
    whole = [("all", lambda line: True, len(SCORERS) * len(BUDGETS_MS) * SEEDS)]
    by_scorer = [(name, lambda line, name=name: line["scorer"] == name, len(BUDGETS_MS) * SEEDS) for name in scorers]
    by_both = [
        (f"{name}, {ms} ms", lambda line, name=name, ms=ms: (line["scorer"], line["budget_ms"]) == (name, ms), SEEDS)
        for name in scorers
        for ms in BUDGETS_MS
    ]
    table("budget", [*whole, *by_scorer, *by_both])
    print("\nBar: at 50 candidates no worse than the best other method at 150.\n")  # noqa: T201
    bar("budget", 50, 150)
    print("\nShare of the best area known under the front, medians.\n")  # noqa: T201
    fronts = [(name, lambda line, name=name: line["scorer"] == name, SEEDS) for name in scorers]
    table("front", [("all", lambda line: True, len(SCORERS) * SEEDS), *fronts])
    print("\nBar: at 100 candidates no worse than the best other method at 300.\n")  # noqa: T201
    bar("front", 100, 300)
    print("\nOwn CPU of 1,000 candidates (bar: under 30 ms each), and networks found of 100 at 0.35 ms.\n")  # noqa: T201
    for line in lines:
        if line["kind"] in ("cost", "front-cost"):
            last = f", {line['cpu_ms_of_last_100']} ms of the last 100" if "cpu_ms_of_last_100" in line else ""
            print(f"- {line['kind']}, {line['sampler']}: {line['cpu_ms']} ms each over {line['found']}{last}")  # noqa: T201
    for line in lines:
        if line["kind"] == "edge":
            print(f"- edge, {line['sampler']}: {line['found']} of {EDGE_COUNT}, of {line['proposals']} proposals")  # noqa: T201


if __name__ == "__main__":
    main()
