"""The signs of life of workers, and who is taken to be gone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from nas.networks import SearchSpace, random_choice
from nas.search.heart import Heart, Watch
from nas.search.jobs import MAIN, Entry, Job
from nas.search.study import Study

TINY = SearchSpace.find("tiny")


def entry(worker: str, trial: int = 0, state: Any = "running") -> Entry:
    return Entry(
        trial=trial, id=f"n{trial}", rung=0, kind="searched", name=None, latency_ms=1.0, worker=worker, state=state,
        value=None, record=None,
    )  # fmt: skip


class Signs:
    """The signs that the watching worker has given."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> int:
        return self.number


@pytest.fixture
def signs() -> Signs:
    return Signs()


@pytest.fixture
def watch(signs: Signs) -> Watch:
    return Watch(own="me", signs=signs)


def test_worker_without_signs_is_gone_after_six_signs_of_the_one_that_watches(watch: Watch, signs: Signs) -> None:
    gone = []
    for signs.number in range(8):
        gone.append([one.trial for one in watch.gone([entry("you")], {"alive you": 1.5})])

    assert gone == [[], [], [], [], [], [], [0], [0]]


def test_worker_that_ended_before_its_first_sign_is_noticed(watch: Watch, signs: Signs) -> None:
    before = watch.gone([entry("you")], {})
    signs.number = 6

    assert before == []
    assert watch.gone([entry("you")], {}) == [entry("you")]


def test_any_new_sign_will_do_whatever_the_clock_of_that_machine_says(watch: Watch, signs: Signs) -> None:
    gone = []
    for signs.number in range(0, 40, 5):
        gone += watch.gone([entry("you")], {"alive you": 1e9 - signs.number})

    assert gone == []


def test_worker_is_known_by_the_job_that_it_is_at(watch: Watch, signs: Signs) -> None:
    watch.gone([entry("you", 0), entry("they", 1)], {})
    signs.number = 5
    watch.gone([entry("you", 2), entry("they", 1)], {})
    signs.number = 6

    assert [one.trial for one in watch.gone([entry("you", 2), entry("they", 1)], {})] == [1]


def test_only_running_jobs_of_others_are_looked_at(watch: Watch, signs: Signs) -> None:
    entries = [entry("me", 0), entry("you", 1, "finished"), entry("you", 2, "abandoned")]
    watch.gone(entries, {})
    signs.number = 100

    assert watch.gone(entries, {}) == []


def test_storage_that_was_away_makes_nobody_seem_to_be_gone(watch: Watch, signs: Signs) -> None:
    watch.gone([entry("you")], {"alive you": 1.0})
    signs.number = 1  # For an hour no sign of anyone reached the storage.

    assert watch.gone([entry("you")], {"alive you": 1.0}) == []


def test_owner_without_signs_is_gone_though_it_scores_nothing(watch: Watch, signs: Signs) -> None:
    gone = []
    for signs.number in (0, 5, 6, 7):
        watch.gone([], {})
        gone.append(watch.owner_is_gone({f"alive {MAIN}": 1.0 if signs.number < 7 else 2.0}))

    assert gone == [False, False, True, False]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.open(
        tmp_path / "study.journal", TINY, name="run", digest="d", last=0, worker="me", resume=False, say=print
    )


def until(condition: Any) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < 20
        time.sleep(0.002)


def test_heart_gives_signs_while_the_block_runs_and_counts_them(study: Study) -> None:
    seen = set()
    with Heart(study, every_s=0.01) as heart:
        until(lambda: seen.add(study.shared().get("alive me")) or len(seen - {None}) == 3)
    count, last = heart.signs, study.shared()["alive me"]
    time.sleep(0.05)

    assert count >= 3
    assert (heart.signs, study.shared()["alive me"]) == (count, last)


def test_storage_that_is_away_only_delays_the_signs(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    away, asked = True, 0
    write = study._storage.set_study_user_attr

    def set_study_user_attr(*arguments: Any) -> None:
        nonlocal asked
        asked += 1
        if away:
            raise ConnectionError("connection refused")
        write(*arguments)

    monkeypatch.setattr(study._storage, "set_study_user_attr", set_study_user_attr)
    with Heart(study, every_s=0.01) as heart:
        until(lambda: asked == 3)
        while_away = heart.signs
        away = False
        until(lambda: heart.signs)

    assert while_away == 0
    assert "alive me" in study.shared()


def test_heart_ends_though_its_storage_does_not_answer(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(study._storage, "set_study_user_attr", lambda *_: (asked.append(None), time.sleep(5)))
    begin = time.monotonic()
    with Heart(study, every_s=0.05):
        until(lambda: asked)

    assert time.monotonic() - begin < 4


def test_job_of_a_worker_that_is_gone_is_begun_by_another_and_the_late_result_is_not_taken(tmp_path: Path) -> None:
    storage, network = tmp_path / "study.journal", TINY.sample(random_choice(seed=0))
    job = Job(network=network, rung=0, kind="searched", latency_ms=0.5)
    slow, quick = (
        Study.open(storage, TINY, name="run", digest="d", last=0, worker=name, resume=True, say=print)
        for name in ("slow", "quick")
    )
    trial, signs = slow.begin(job), Signs()
    assert trial is not None
    refused = quick.begin(job)
    watch = Watch(own="quick", signs=signs)
    watch.gone(quick.entries(), quick.shared())
    signs.number = 6
    quick.abandon(one.trial for one in watch.gone(quick.entries(), quick.shared()))
    again = quick.begin(job)
    assert again is not None
    had, late = slow.has(trial), slow.finish(trial, {"id": network.id, "score": 0.1, "seconds": 0.0})
    in_time = quick.finish(again, {"id": network.id, "score": 0.2, "seconds": 0.0})

    assert refused is None
    assert (had, late, in_time) == (False, False, True)
    assert [(one.state, one.value) for one in slow.entries()] == [("abandoned", None), ("finished", 0.2)]
