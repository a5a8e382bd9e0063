"""Jobs that several workers share: none is lost, and none is done twice, whatever happens to the workers."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy import event

from nas.errors import NasError
from nas.latency import LatencyTable
from nas.networks import SearchSpace, random_choice
from nas.proxies.fake import FakeProxy
from nas.search import Candidate, SearchResult, plan_search
from nas.search.jobs import Job
from nas.search.parameters import as_parameters
from nas.search.run import run_search
from nas.search.storage import open_storage
from nas.search.study import Study

TINY = SearchSpace.find("tiny")
TABLE, _ = LatencyTable.find("iphone13")

Open = Callable[..., Study]


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    return tmp_path / "study.journal" if request.param == "journal" else f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def opened(storage: str | Path) -> Open:
    def study(worker: str, *, last: int = 0) -> Study:
        return Study.open(
            storage, TINY, name="run", digest="d", last=last, worker=worker, resume=True, patience_s=20, say=print
        )

    return study


def jobs(number: int, *, rung: int = 0) -> list[Job]:
    choose, networks = random_choice(seed=0), {}
    while len(networks) < number:
        network = TINY.sample(choose)
        networks[network.id] = network
    return [Job(network=one, rung=rung, kind="searched", latency_ms=0.5) for one in networks.values()]


def record(job: Job, score: float = 0.5) -> dict[str, object]:
    return {"id": job.network.id, "score": score, "seconds": 0.0}


def test_of_two_workers_that_begin_the_same_job_one_withdraws(opened: Open) -> None:
    (job,) = jobs(1)
    first, second = opened("first"), opened("second")
    begun = [first.begin(job), second.begin(job)]

    assert begun == [0, None]
    assert [(one.trial, one.worker, one.state) for one in second.entries()] == [(0, "first", "running")]


def test_of_two_workers_that_write_before_they_look_the_lower_trial_keeps_the_job(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs(1)
    first, second = opened("first"), opened("second")
    look, begun = first.entries, list[int | None]()

    def late() -> object:
        monkeypatch.undo()
        begun.append(second.begin(job))
        return look()

    monkeypatch.setattr(first, "entries", late)
    begun.append(first.begin(job))

    assert begun == [None, 0]


def test_job_that_was_written_twice_over_a_broken_connection_is_begun_once(opened: Open) -> None:
    (job,) = jobs(1)
    study = opened("me")
    template = study._template(job, TrialState.RUNNING)
    study._storage.create_new_trial(study._number, template)
    begun = study.begin(job)

    assert begun == 0
    assert [one.trial for one in opened("you").entries()] == [0]


def test_many_workers_do_each_job_once_and_no_more_than_are_wanted(opened: Open) -> None:
    number, wanted = 4, 3
    workers = [opened(f"w{one}") for one in range(number)]
    done, together = Counter[str](), threading.Barrier(number)

    def work(study: Study) -> None:
        for job in jobs(5):
            together.wait(60)
            trial = study.begin(job, still=lambda before: sum(one.state != "abandoned" for one in before) < wanted)
            if trial is not None:
                done[job.network.id] += 1
                assert study.finish(trial, record(job))

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(work, workers))
    finished = [one for one in opened("after").entries() if one.state == "finished"]

    assert done == Counter(one.network.id for one in jobs(wanted))
    assert Counter(one.id for one in finished) == done


def test_record_of_a_worker_that_was_killed_before_it_closed_its_trial_counts(opened: Open) -> None:
    (job,) = jobs(1)
    killed, other = opened("killed"), opened("other")
    trial = killed.begin(job)
    assert trial is not None
    killed._storage.set_trial_user_attr(killed._trial_ids[trial], "record", record(job))
    begun = other.begin(job)
    seen = other.entries()
    other.close_finished()
    (kept,) = other._storage.get_all_trials(other._number)[:1]

    assert begun is None
    assert [(one.state, one.value) for one in seen] == [("finished", 0.5)]
    assert (kept.state, kept.value) == (TrialState.COMPLETE, 0.5)


def test_score_of_a_rung_that_does_not_decide_is_none_for_optuna(opened: Open) -> None:
    (job,) = jobs(1)
    study = opened("me", last=1)
    trial = study.begin(job)
    assert trial is not None and study.finish(trial, {"id": job.network.id, "value": 7.0, "seconds": 0.0})
    (kept,) = study._storage.get_all_trials(study._number)

    assert (kept.state, kept.value) == (TrialState.PRUNED, None)
    assert [(one.state, one.value) for one in opened("other", last=1).entries()] == [("finished", 7.0)]


def test_job_that_is_put_back_or_abandoned_is_for_any_worker(opened: Open) -> None:
    back, lost = jobs(2)
    stopped, gone, other = opened("stopped"), opened("gone"), opened("other")
    first, second = stopped.begin(back), gone.begin(lost)
    assert first is not None and second is not None
    stopped.put_back(first)
    other.entries()
    other.abandon([second])
    states = [(one.worker, one.state) for one in other.entries()]
    begun = [other.begin(back), other.begin(lost)]

    assert states == [("", "abandoned"), ("gone", "abandoned")]  # Only a worker that is gone counts as an attempt.
    assert begun == [2, 3]


def test_worker_that_is_stopped_does_not_wait_for_a_storage_that_is_away(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs(1)
    study = opened("me")
    trial = study.begin(job)
    assert trial is not None

    def away(*arguments: object) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(study._storage, "set_trial_user_attr", away)
    with pytest.raises(NasError, match="connection refused"):
        study.put_back(trial)


def test_database_is_written_in_few_statements_and_read_by_optuna_alone(tmp_path: Path) -> None:
    (job,), url, statements = jobs(1), f"sqlite:///{tmp_path}/studies.db", list[str]()
    study = Study.open(url, TINY, name="run", digest="d", last=0, worker="me", resume=False, say=print)
    database = study._storage._backend  # type: ignore[attr-defined]
    event.listen(database.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    trial = study.begin(job)
    assert trial is not None and study.finish(trial, record(job))
    count = len(statements)
    (read,) = optuna.load_study(study_name="run", storage=url).trials
    parameters, distributions = as_parameters(TINY, job.network)

    assert count < 50  # As Optuna does it: over 100.
    assert (read.params, read.distributions) == (parameters, distributions)
    assert (read.state, read.value, list(read.params)) == (TrialState.COMPLETE, 0.5, list(parameters))


def test_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its trials have nothing but parameters and a score; some are open, over the budget, or not in the folder."""
    out, proxy = tmp_path / "run", FakeProxy()

    def search(trials: int, *, resume: bool = False) -> SearchResult:
        plan = plan_search(TINY, TABLE, proxy, budget_ms=1.1, trials=trials, time_limit_s=None)
        names = {"space": "tiny", "table": "iphone13", "proxy": "fake"}
        return run_search(TINY, TABLE, proxy, plan=plan, seed=0, out=out, names=names, resume=resume)

    begun = search(6)
    (out / "study.journal").unlink()
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(out / "study.journal"))), study_name="run", direction="maximize"
    )
    study.set_user_attr("run", begun.run.earlier_digests[1])
    scored = [one for one in begun.candidates if one.kind == "searched"]
    for state, one in [
        *((TrialState.COMPLETE, one) for one in scored), (TrialState.RUNNING, scored[0]), (TrialState.PRUNED, scored[1])
    ]:  # fmt: skip
        parameters, distributions = as_parameters(TINY, one.architecture)
        value = one.score if state == TrialState.COMPLETE else None
        study.add_trial(
            optuna.trial.create_trial(state=state, value=value, params=parameters, distributions=distributions)
        )
    resumed = search(10, resume=True)
    again = search(12, resume=True)

    assert resumed.candidates[: len(begun.candidates)] == begun.candidates
    assert again.candidates[: len(resumed.candidates)] == resumed.candidates
    for result, number in ((resumed, 10), (again, 12)):
        assert len({one.id for one in result.scored}) == len(result.scored) == number


def test_job_of_this_process_is_taken_up_after_a_kill_also_where_another_began_it_as_well(tmp_path: Path) -> None:
    out, proxy = tmp_path / "run", FakeProxy()

    def search(trials: int, *, resume: bool = False) -> SearchResult:
        plan = plan_search(TINY, TABLE, proxy, budget_ms=1.1, trials=trials, time_limit_s=None)
        names = {"space": "tiny", "table": "iphone13", "proxy": "fake"}
        return run_search(TINY, TABLE, proxy, plan=plan, seed=0, out=out, names=names, resume=resume)

    digest = search(2).run.digest
    known = {one.id for one in SearchResult.load(out).candidates}
    job = next(one for one in jobs(20) if one.network.id not in known)
    for worker in ("main", "local-abc123-0"):  # Both were killed, the second before it could withdraw.
        study = Study.open(
            out / "study.journal", TINY, name="run", digest=digest, last=0, worker=worker, resume=True, say=print
        )
        study._storage.create_new_trial(study._number, study._template(job, TrialState.RUNNING))
    resumed = search(4, resume=True)

    assert len({one.id for one in resumed.scored}) == len(resumed.scored) == 4
    assert job.network.id in {one.id for one in resumed.scored}
    assert not [one for one in study.entries() if one.state == "running"]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "study.journal"
    optuna.create_study(storage=open_storage(path), study_name="run")
    return path


def test_next_writer_cuts_off_the_half_line_of_a_killed_one(journal: Path) -> None:
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    study = optuna.load_study(study_name="run", storage=open_storage(journal))
    study.set_user_attr("a", 1)

    assert [json.loads(line)["op_code"] for line in journal.read_text().splitlines()][-1] == 2
    assert optuna.load_study(study_name="run", storage=open_storage(journal)).user_attrs == {"a": 1}


@pytest.fixture
def holder(journal: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the lock of the journal."""
    program = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, 2); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(journal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process
        process.kill()


def test_lock_of_a_killed_process_is_free_at_once_and_no_file_is_left(
    journal: Path, holder: subprocess.Popen[bytes]
) -> None:
    study = optuna.load_study(study_name="run", storage=open_storage(journal))
    with ThreadPoolExecutor(1) as pool:
        write = pool.submit(study.set_user_attr, "a", 1)
        with pytest.raises(TimeoutError):
            write.result(timeout=0.2)
        holder.kill()
        write.result(timeout=30)

    assert [path.name for path in journal.parent.iterdir()] == ["study.journal"]


def test_journal_that_was_replaced_while_a_writer_waited_is_written_in_its_new_place(journal: Path) -> None:
    study = optuna.load_study(study_name="run", storage=open_storage(journal))
    with journal.open("rb") as old, ThreadPoolExecutor(1) as pool:
        fcntl.flock(old, fcntl.LOCK_EX)
        write = pool.submit(study.set_user_attr, "a", 1)
        journal.with_name("new").write_bytes(journal.read_bytes())
        journal.with_name("new").replace(journal)
        old.close()
        write.result(timeout=30)

    assert optuna.load_study(study_name="run", storage=open_storage(journal)).user_attrs == {"a": 1}


def test_candidate_keeps_what_a_worker_kept(opened: Open) -> None:
    (job,) = jobs(1)
    latency = TABLE.latency(job.network)
    candidate = Candidate.of(job.network, latency, kind="searched", trial=0, score=0.25, seconds=1.5)
    study = opened("me")
    trial = study.begin(job)
    assert trial is not None
    study.finish(trial, candidate.model_dump(mode="json", exclude_none=True, exclude={"architecture"}))
    other = opened("other")
    (entry,) = other.entries()

    assert Candidate.model_validate({**(entry.record or {}), "architecture": other.network(entry)}) == candidate
