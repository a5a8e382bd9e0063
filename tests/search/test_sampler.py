from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from nas.networks import SearchSpace
from nas.networks.encoding import Encoding
from nas.search.jobs import Entry
from nas.search.limits import QUANTITIES
from nas.search.mutation import Inside
from nas.search.parameters import as_parameters, ask_network, network_of
from nas.search.proposer import SurrogateProposer
from nas.search.sampler import ArchitectureSampler, Asking, make_sampler

SPACE = SearchSpace.find("iformer")
ENCODING = Encoding(SPACE)
CHEAPEST = ENCODING.canonical(np.zeros((1, len(ENCODING.columns)), dtype=np.int16))


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def blocks(rows):
    """A cost that every network has: its blocks."""
    depths = [ENCODING.values(rows, f"{kind}.depth", stage) for kind in ("conv", "attention") for stage in range(4)]
    return 1.0 + np.sum(depths, axis=0)


def sampler(budget=15.0, seed=0):
    def proposer(own_seed):
        inside = Inside(encoding=ENCODING, latency_ms=blocks, budget_ms=budget, start=CHEAPEST)
        return SurrogateProposer(inside, levels_ms=[budget], seed=own_seed)

    return ArchitectureSampler(ENCODING, proposer, seed=seed)


def width(trial):
    return sum(stage.channels for stage in ask_network(SPACE, trial).stages)


def rows_of(study):
    return ENCODING.encode([network_of(SPACE, trial.params) for trial in study.trials])


def test_every_trial_is_a_new_network_inside_the_budget():
    study = optuna.create_study(direction="maximize", sampler=sampler())
    study.optimize(width, n_trials=25)
    rows = rows_of(study)

    assert len({row.tobytes() for row in rows}) == 25
    assert (blocks(rows) <= 15).all()
    assert study.best_value == 64 + 128 + 256 + 448


def test_a_trial_with_a_network_of_its_own_is_learnt_from():
    study = optuna.create_study(direction="maximize", sampler=sampler())
    medium = SPACE.references["iformer_m"]
    study.enqueue_trial(as_parameters(SPACE, medium)[0])
    study.optimize(width, n_trials=2)

    assert network_of(SPACE, study.trials[0].params) == medium
    assert len({row.tobytes() for row in rows_of(study)}) == 2


def test_failed_and_running_trials_are_not_proposed_again():
    study = optuna.create_study(direction="maximize", sampler=sampler())
    running, failed = study.ask(), study.ask()
    ask_network(SPACE, running)
    ask_network(SPACE, failed)
    study.tell(failed, state=TrialState.FAIL)
    study.optimize(width, n_trials=15)

    assert len({row.tobytes() for row in rows_of(study)}) == 17


def test_another_process_goes_on_with_the_study(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    first = optuna.create_study(direction="maximize", storage=storage, study_name="a", sampler=sampler())
    first.optimize(width, n_trials=12)
    second = optuna.load_study(storage=storage, study_name="a", sampler=sampler(seed=12))
    second.optimize(width, n_trials=8)

    assert len({row.tobytes() for row in rows_of(second)}) == 20


def test_the_same_seed_gives_the_same_trials():
    studies = [optuna.create_study(direction="maximize", sampler=sampler(seed=5)) for _ in range(2)]
    for study in studies:
        study.optimize(width, n_trials=13)

    assert [t.params for t in studies[0].trials] == [t.params for t in studies[1].trials]


def test_a_space_that_is_used_up_does_not_stop_a_study():
    study = optuna.create_study(direction="maximize", sampler=sampler(budget=float(blocks(CHEAPEST)[0])))
    study.optimize(width, n_trials=40)

    assert len(study.trials) == 40


def entry(network, score, *, latency_ms=1.0):
    return Entry(
        trial=0, id=network.id, rung=0, kind="searched", name=None, latency_ms=latency_ms, worker="main",
        state="finished", value=score, record=None,
    )  # fmt: skip


def trial_of(network):
    parameters, distributions = as_parameters(SPACE, network)
    return optuna.trial.create_trial(value=0.0, params=parameters, distributions=distributions)


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_nsga_lowers_latency_and_objectives_beside_the_score(name):
    own = make_sampler(name, ENCODING, lambda seed: None, seed=0)
    asking = Asking(SPACE, own, over=lambda network: -1.0, front=True, costs=[QUANTITIES["params"].value])
    proposed, _ = asking.ask()
    small = SPACE.references["iformer_t"]
    told = [entry(proposed, 0.5), entry(small, 0.4, latency_ms=0.6)]
    trials = {proposed.id: trial_of(proposed), small.id: trial_of(small)}
    asking.learn(told, last=0, trial_of=lambda one: trials[one.id])
    first, second = asking._copy.trials

    assert first.values == [0.5, 1.0, QUANTITIES["params"].value(proposed)]
    assert second.values == [0.4, 0.6, QUANTITIES["params"].value(small)]


def test_a_sampler_of_one_objective_is_told_the_score_alone():
    asking = Asking(
        SPACE, make_sampler("random", ENCODING, lambda seed: None, seed=0),
        over=lambda network: -1.0, front=True, costs=[QUANTITIES["params"].value],
    )  # fmt: skip
    proposed, _ = asking.ask()
    asking.learn([entry(proposed, 0.5)], last=0, trial_of=lambda one: trial_of(proposed))

    assert asking._copy.trials[0].values == [0.5]


def test_a_known_network_over_a_limit_is_told_as_such():
    over = QUANTITIES["params"].value
    asking = Asking(SPACE, make_sampler("nsga2", ENCODING, lambda seed: None, seed=0), over=over)
    known = SPACE.references["iformer_t"]
    asking.learn([entry(known, 0.5)], last=0, trial_of=lambda one: trial_of(known))

    assert asking._copy.trials[0].constraints == {"over_budget": over(known)}
