"""How many scores does a search need? Regret of samplers over fixed scorers of the iformer space.

    python tests/benchmarks/bench_samplers.py --out results/samplers
    python tests/benchmarks/bench_samplers.py --out results/samplers --report

Three scorers that cost nothing: `analytic` (diminishing returns of depth and width by stage, a best share of
attention), `supernet` (the Gaussian process of the accuracy table over scores of a supernet) and `accuracy-table`
(foretold ImageNet top-1). Each score has noise of a thirtieth of the difference between iFormer-L and iFormer-T. The
regret of a search is the difference between the best network known, by a long evolution without noise, and the network
with the best score, without its noise, in units of the same difference. Every run is a line of runs.jsonl: regrets at
each of COUNTS, and the seconds of CPU of a proposal. Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import optuna

from nas.accuracy import AccuracyTable
from nas.accuracy.structure import numbers_of_rows
from nas.latency import LatencyTable
from nas.networks import SearchSpace
from nas.networks.encoding import Encoding
from nas.search.mutation import children, distinct
from nas.search.proposer import proposer_by_table
from nas.search.sampler import are_numbers

COUNTS = (20, 50, 100, 150, 200, 300, 400)
BUDGETS_MS = (0.6, 0.85, 1.1, 1.6)
SPACE = SearchSpace.find("iformer")
TABLE, _ = LatencyTable.find("iphone13")
ACCURACIES, _ = AccuracyTable.find("iformer")
ENCODING = Encoding(SPACE)
CHEAPEST_NETWORK = SPACE.extreme(TABLE.layer_ms)
CHEAPEST = ENCODING.encode([CHEAPEST_NETWORK])
_layers_ms = ENCODING.sums(lambda layer, _: TABLE.layer_ms(layer))
_overhead_ms = TABLE.latency_ms(CHEAPEST_NETWORK) - float(_layers_ms(CHEAPEST)[0])
_foretold = ACCURACIES.of_rows(ENCODING)
_WORTH, _ATTENTION = (0.8, 1.0, 2.2, 1.2), (0.0, 0.0, 0.35, 0.6)  # of the stages, by the analytic scorer


def latency_ms(rows):
    return _layers_ms(rows) + _overhead_ms


def analytic(rows):
    total = np.zeros(len(rows))
    for stage, (worth, best) in enumerate(zip(_WORTH, _ATTENTION, strict=True)):

        def of(name, stage=stage):
            return ENCODING.values(rows, name, stage)

        convs, units = of("conv.depth"), of("attention.depth")
        column = ENCODING.at("attention.kind", stage)
        plain = np.asarray(ENCODING.options[column])[rows[:, column]] != "shma"
        conv = convs * (0.6 + 0.15 * of("conv.expansion")) * (1 + 0.05 * (of("conv.kernel") - 3))
        unit = (
            1
            - 0.1 * plain
            + 0.1 * (of("attention.modulation") - 0.75)
            - 0.06 * np.log2(of("attention.query_reduction"))
        )
        work = np.log1p(conv + units * (1.1 + 0.1 * of("attention.expansion")) * unit)
        width = np.log(of("channels")) - np.log(min(SPACE.stages[stage].channels))
        share = units / (convs + units)
        total += worth * (0.5 * work + 1.3 * width - 0.8 * (stage > 1) * (share - best) ** 2)
        total -= worth * 0.15 * np.abs(ENCODING.place(rows, stage) - 0.8) * (units > 0)
    return total


def supernet(rows):
    return np.concatenate(
        [
            ACCURACIES.trained.predict(numbers_of_rows(ENCODING, rows[at : at + 2000]))[0]
            for at in range(0, len(rows), 2000)
        ]
    )


def accuracy_table(rows):
    return np.asarray([one.top1 for one in _foretold(rows)])


SCORERS = {"analytic": analytic, "supernet": supernet, "accuracy-table": accuracy_table}


def random_networks(budget_ms, random, score) -> Iterator[None]:
    """Random networks inside the budget."""
    while True:
        rows = ENCODING.draw(2000, random)
        for row in rows[latency_ms(rows) <= budget_ms]:
            score(row)
            yield


def regularised_evolution(budget_ms, random, score, population=20, tournament=5) -> Iterator[None]:
    """Real et al., Regularized Evolution for Image Classifier Architecture Search (AAAI 2019)."""
    alive = []
    first = random_networks(budget_ms, random, lambda row: alive.append((row, score(row))))
    while True:
        if len(alive) < population:
            next(first)
        else:
            chosen = [alive[at] for at in random.choice(len(alive), tournament, replace=False)]
            parent = max(chosen, key=lambda one: one[1])[0]
            offspring = children(ENCODING, parent[None], 50, random)
            offspring = offspring[latency_ms(offspring) <= budget_ms]
            if not len(offspring):
                continue
            alive.append((offspring[0], score(offspring[0])))
            alive.pop(0)
        yield


def surrogate(budget_ms, random, score) -> Iterator[None]:
    """The sampler of this project."""
    proposer = proposer_by_table(ENCODING, TABLE, budget_ms=budget_ms, seed=int(random.integers(2**31)))
    known, scores = CHEAPEST[:0], np.zeros(0)
    while True:
        for row in proposer.propose(known, scores, closed=CHEAPEST[:0], number=1 + len(known) // 100):
            known, scores = np.concatenate([known, row[None]]), np.append(scores, score(row))
            yield


def by_optuna(make) -> Callable[..., Iterator[None]]:
    """One of Optuna's samplers, as this project used it: a trial over the budget is closed and not counted."""

    def run(budget_ms, random, score) -> Iterator[None]:
        study = optuna.create_study(direction="maximize", sampler=make(int(random.integers(2**31))))
        while True:
            trial = study.ask()

            def choose(name, options, trial=trial):
                if are_numbers(options):
                    return options[trial.suggest_int(name, 0, len(options) - 1)]
                return trial.suggest_categorical(name, options)

            row = ENCODING.encode([SPACE.sample(choose)])
            over_ms = float(latency_ms(row)[0]) - budget_ms
            trial.set_constraint("over", over_ms)
            if over_ms > 0:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            study.tell(trial, score(row[0]))
            yield

    return run


SAMPLERS = {
    "surrogate": surrogate,
    "random": random_networks,
    "regularised-evolution": regularised_evolution,
    "nsga2": by_optuna(lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20)),
    "tpe": by_optuna(lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--scorers", default=",".join(SCORERS))
    parser.add_argument("--count", type=int, default=COUNTS[-1])
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = asked.out / "runs.jsonl"
    if asked.report:
        report(file)
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(one["sampler"], one["scorer"], one["budget_ms"], one["seed"]) for one in lines}
    for seed in range(asked.seeds):
        for scorer in asked.scorers.split(","):
            for budget_ms in BUDGETS_MS:
                for sampler in asked.samplers.split(","):
                    if (sampler, scorer, budget_ms, seed) not in done:
                        line = run(sampler, scorer, budget_ms, seed, asked.count)
                        with file.open("a") as output:
                            output.write(json.dumps(line) + "\n")


def run(sampler: str, scorer: str, budget_ms: float, seed: int, count: int) -> dict[str, object]:
    """One search."""
    small, large = SCORERS[scorer](ENCODING.encode([SPACE.references[f"iformer_{size}"] for size in "tl"]))
    unit, noise = abs(large - small), np.random.default_rng(1000 + seed)
    found: list[tuple[float, float]] = []  # with noise, and without

    def score(row) -> float:
        plain = float(SCORERS[scorer](row[None])[0])
        found.append((plain + unit / 30 * noise.standard_normal(), plain))
        return found[-1][0]

    search = SAMPLERS[sampler](budget_ms, np.random.default_rng(seed), score)
    start = time.process_time()
    while len(found) < count:
        next(search)
    seconds = (time.process_time() - start) / count
    best = best_known(scorer, budget_ms)
    regrets = {str(n): round((best - max(found[:n])[1]) / unit, 4) for n in COUNTS if n <= count}
    return {
        "sampler": sampler,
        "scorer": scorer,
        "budget_ms": budget_ms,
        "seed": seed,
        "cpu_ms": round(1000 * seconds, 1),
        "regret": regrets,
    }


@cache
def best_known(scorer: str, budget_ms: float) -> float:
    """The best score that an evolution of 40,000 networks finds without noise."""
    random, rows = np.random.default_rng(0), ENCODING.draw(5000, np.random.default_rng(1))
    rows = np.concatenate([CHEAPEST, rows[latency_ms(rows) <= budget_ms]])
    for _ in range(40):
        rows = rows[np.argsort(-SCORERS[scorer](rows))[:200]]
        offspring = children(ENCODING, rows, 1000, random)
        rows = distinct(np.concatenate([rows, offspring[latency_ms(offspring) <= budget_ms]]))
    return float(SCORERS[scorer](rows).max())


def report(file: Path) -> None:
    """Medians over seeds, for each scorer and budget; and over all of them."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    samplers = sorted({one["sampler"] for one in lines}, key=list(SAMPLERS).index)
    groups = [("all", None), *sorted({(one["scorer"], one["budget_ms"]) for one in lines})]
    print("| scorer | budget ms | sampler | runs | " + " | ".join(map(str, COUNTS)) + " | CPU ms |")  # noqa: T201
    print("|---" * (5 + len(COUNTS)) + "|")  # noqa: T201
    for scorer, budget_ms in groups:
        for sampler in samplers:
            mine = [
                one
                for one in lines
                if one["sampler"] == sampler
                and (scorer == "all" or (one["scorer"], one["budget_ms"]) == (scorer, budget_ms))
            ]
            medians = []
            for count in map(str, COUNTS):
                values = [one["regret"][count] for one in mine if count in one["regret"]]
                medians.append(f"{statistics.median(values):.2f}" if values else "-")
            cpu_ms = statistics.median(one["cpu_ms"] for one in mine)
            cells = (scorer, budget_ms or "all", sampler, len(mine), *medians, f"{cpu_ms:.0f}")
            print("| " + " | ".join(map(str, cells)) + " |")  # noqa: T201


if __name__ == "__main__":
    main()
