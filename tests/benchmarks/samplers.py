"""Samplers over fixed scorers of the iformer space, for bench_samplers.py, which says what each means."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nas.accuracy import AccuracyTable
from nas.accuracy.structure import numbers_of_rows
from nas.latency import LatencyTable
from nas.networks import SearchSpace
from nas.networks.encoding import Encoding
from nas.search.mutation import Inside
from nas.search.pareto import hypervolume, undominated
from nas.search.proposer import proposer_by_table
from nas.search.regularised import evolution_by_table

FRONT_MS = 1.6  # the end of a whole front
_LEVELS = 24  # of it
_TOGETHER = 100  # known scores for each further network that is proposed at once, as in nas/search/sampler.py
SPACE = SearchSpace.find("iformer")
TABLE, _ = LatencyTable.find("iphone13")
ACCURACIES, _ = AccuracyTable.find("iformer")
ENCODING = Encoding(SPACE)
CHEAPEST_NETWORK = SPACE.extreme(TABLE.layer_ms)
CHEAPEST = ENCODING.encode([CHEAPEST_NETWORK])
NONE = CHEAPEST[:0]
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
UNITS = {
    name: abs(float(np.diff(scorer(ENCODING.encode([SPACE.references[f"iformer_{size}"] for size in "tl"])))[0]))
    for name, scorer in SCORERS.items()
}


class Search:
    """What a sampler is asked for, and what it has found.

    Attributes:
        budget_ms: the limit.
        front: the best network of every latency up to the limit is looked for.
        rows: networks that count, with `noisy` scores and `plain` ones.
        proposals: of the sampler, those that count nothing included.
    """

    def __init__(self, scorer: str, budget_ms: float, seed: int, *, front: bool) -> None:
        self.scorer, self.budget_ms, self.front = SCORERS[scorer], budget_ms, front
        self.unit, self.floor = UNITS[scorer], float(SCORERS[scorer](CHEAPEST)[0])
        self.random, self._noise = np.random.default_rng(seed), np.random.default_rng(1000 + seed)
        self.rows, self.noisy, self.plain = [], [], []
        self._known: dict[bytes, float] = {}
        self.proposals, self.scoring_s = 0, 0.0

    def score(self, row) -> float:
        """The score of a network; below that of the cheapest if it is over the budget."""
        start = time.process_time()
        self.proposals += 1
        over = float(latency_ms(row[None])[0]) / self.budget_ms - 1
        if over > 1e-9:
            return self.floor - self.unit * (1 + over)
        if row.tobytes() not in self._known:
            plain = float(self.scorer(row[None])[0])
            self._known[row.tobytes()] = plain + self.unit / 30 * self._noise.standard_normal()
            self.rows.append(row)
            self.noisy.append(self._known[row.tobytes()])
            self.plain.append(plain)
        self.scoring_s += time.process_time() - start
        return self._known[row.tobytes()]

    @property
    def levels_ms(self) -> list[float]:
        lowest_ms = float(latency_ms(CHEAPEST)[0])
        return list(np.geomspace(lowest_ms, self.budget_ms, _LEVELS)) if self.front else [self.budget_ms]

    def chosen(self, count: int) -> float:
        """What the network with the best score, or the front by the scores, is worth after so many candidates."""
        noisy, plain = self.noisy[:count], self.plain[:count]
        if not self.front:
            return plain[int(np.argmax(noisy))]
        return area(latency_ms(np.stack(self.rows[:count])), noisy, plain, self.floor)


def area(found_ms, noisy, plain, floor: float) -> float:
    """The area under the front by the noisy scores."""
    front = undominated(range(len(noisy)), latency=lambda at: found_ms[at], score=lambda at: noisy[at])
    points = [(float(found_ms[at]), float(plain[at])) for at in front]
    return hypervolume(points, latency_limit=FRONT_MS, score_floor=floor)


def random_networks(search: Search) -> Iterator[None]:
    """Random networks inside the budget."""
    inside = Inside.by_table(ENCODING, TABLE, levels_ms=[search.budget_ms])
    while True:
        for row in inside.draw(1000, search.random):
            search.score(row)
            yield


def by_proposer(make) -> Callable[[Search], Iterator[None]]:
    """A proposer of this project, several networks at once where many are known, as its sampler asks for them."""

    def run(search: Search) -> Iterator[None]:
        seed = int(search.random.integers(2**31))
        proposer = make(ENCODING, TABLE, levels_ms=search.levels_ms, seed=seed)
        while True:
            known = np.stack(search.rows) if search.rows else NONE
            new = proposer.propose(known, np.asarray(search.noisy), closed=NONE, number=1 + len(known) // _TOGETHER)
            if not len(new):
                return
            for row in new:
                search.score(row)
                yield

    return run


def by_optuna(make, *, closes: bool = True) -> Callable[[Search], Iterator[None]]:
    """One of Optuna's samplers, with the budget as a constraint. For a front, the latency is a second objective.

    Args:
        make: makes the sampler.
        closes: trials over the budget are closed, not scored, so that NSGA-II's populations are of networks inside. TPE
            learns the constraint of these as well; the Gaussian process only that of trials with a score.
    """

    def run(search: Search) -> Iterator[None]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directions = ["maximize", "minimize"] if search.front else ["maximize"]
        sampler = make(optuna.samplers, int(search.random.integers(2**31)))
        study = optuna.create_study(directions=directions, sampler=sampler)
        while True:
            trial = study.ask()

            def choose(name, options, trial=trial):
                if _are_numbers(options):
                    return options[trial.suggest_int(name, 0, len(options) - 1)]
                return trial.suggest_categorical(name, options)

            row = ENCODING.encode([SPACE.sample(choose)])
            score, own_ms = search.score(row[0]), float(latency_ms(row)[0])
            trial.set_constraint("over", own_ms - search.budget_ms)
            if own_ms > search.budget_ms and closes:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, [score, own_ms] if search.front else score)
            yield

    return run


def smac(search: Search) -> Iterator[None]:
    """SMAC3's random forest (Lindauer et al., JMLR 2022); for a front its ParEGO."""
    from ConfigSpace import Categorical, ConfigurationSpace, Integer
    from smac import HyperparameterOptimizationFacade as Facade
    from smac import Scenario
    from smac.runhistory import TrialValue

    names, cheapest = _columns(), CHEAPEST[0]
    space = ConfigurationSpace(
        {
            name: Integer(name, (0, int(ENCODING.sizes[at]) - 1), default=int(cheapest[at]))
            if _are_numbers(ENCODING.options[at])
            else Categorical(name, list(range(ENCODING.sizes[at])), default=int(cheapest[at]))
            for name, at in names.items()
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space, deterministic=True, n_trials=10**6, seed=int(search.random.integers(2**31)), use_default_config=True,
            output_directory=Path(folder), objectives=["score", "latency"] if search.front else "cost",
        )  # fmt: skip
        design = Facade.get_initial_design(scenario, n_configs=20)
        facade = Facade(scenario, lambda config, seed: 0.0, initial_design=design, logging_level=False, overwrite=True)
        while True:
            info = facade.ask()
            row = _row({name: int(info.config[name]) for name in names})
            score = search.score(row)
            cost = [-score, float(latency_ms(row[None])[0])] if search.front else -score
            facade.tell(info, TrialValue(cost=cost), save=False)
            yield


def syne_tune(search: Search) -> Iterator[None]:
    """Syne Tune's density ratios, BORE (Tiao et al., ICML 2021); its searchers of fronts need torch."""
    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import choice, randint
    from syne_tune.optimizer.baselines import BORE

    names, seed = _columns(), int(search.random.integers(2**31))
    np.random.seed(seed)  # It draws from the global generator too.
    space = {
        name: randint(0, int(ENCODING.sizes[at]) - 1)
        if _are_numbers(ENCODING.options[at])
        else choice(list(range(ENCODING.sizes[at])))
        for name, at in names.items()
    }
    first = {name: int(CHEAPEST[0, at]) for name, at in names.items()}
    scheduler = BORE(space, metric="score", do_minimize=False, random_seed=seed, points_to_evaluate=[first])
    number = 0
    while True:
        config = scheduler.suggest().config
        trial = Trial(trial_id=number, config=config, creation_time=None)
        scheduler.on_trial_add(trial)
        scheduler.on_trial_complete(trial, {"score": search.score(_row(config))})
        number += 1
        yield


def _columns() -> dict[str, int]:
    """The columns with a choice, by names that the tools from PyPI take."""
    return {f"c{at}": int(at) for at in np.flatnonzero(ENCODING.sizes > 1)}


def _row(config):
    """A row from any choices: what a network has no use for is ignored."""
    row = np.zeros((1, len(ENCODING.columns)), dtype=np.int16)
    for name, at in _columns().items():
        row[0, at] = config[name]
    return ENCODING.canonical(row)[0]


def _are_numbers(options) -> bool:
    return all(isinstance(option, int | float) for option in options)


SAMPLERS = {  # the cheapest first
    "random": random_networks,
    "evolution": by_proposer(evolution_by_table),
    "surrogate": by_proposer(proposer_by_table),
    "nsga2": by_optuna(lambda samplers, seed: samplers.NSGAIISampler(seed=seed, population_size=20)),
    "tpe": by_optuna(lambda samplers, seed: samplers.TPESampler(seed=seed, multivariate=True, group=True)),
    "smac": smac,
    "syne-tune": syne_tune,
    "gp": by_optuna(lambda samplers, seed: samplers.GPSampler(seed=seed), closes=False),
}
