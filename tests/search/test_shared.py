"""A search that several processes work on: the instructions to workers, the workers, and what they share."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from optuna.trial import TrialState
from PIL import Image
from safetensors.torch import load_file

import nas.search.shared
from nas.data import DataSource
from nas.errors import InputError, NasError
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace, random_choice
from nas.proxies import Proxy, Score, build_proxies
from nas.search import SearchResult, plan_search
from nas.search.jobs import Job
from nas.search.records import run_of
from nas.search.run import run_search
from nas.search.shared import ENDED, INSTRUCTIONS, Instructions, Sharing, give_files, run_worker
from nas.search.store import Store
from nas.search.study import Study, read_shared
from nas.search.worker import Worker

TINY = SearchSpace.find("tiny")
TABLE, _ = LatencyTable.find("iphone13")
# Trains nothing, but has weights, which are the score.
TRAINED = """
import torch
from nas.files import Record
from nas.proxies import NO_IMAGES, Score

class Options(Record):
    pass

class Trained:
    def settings(self):
        return {"proxy": "trained", "data": "synthetic", "fingerprint": NO_IMAGES}
    def estimate_seconds(self, architecture):
        return 0.0
    def score(self, architecture):
        value = int(architecture.id, 16) % 1000 / 1000
        return Score(value=value, seconds=0.0, details={}, weights={"w": torch.tensor([value])})

def build(options, inputs):
    return Trained()
"""


@dataclass
class Slow:
    """Another proxy made slow, so that others do most of the work."""

    proxy: Proxy
    pause_s: float

    def settings(self) -> dict[str, Any]:
        return self.proxy.settings()

    def estimate_seconds(self, architecture: Architecture) -> float:
        return self.proxy.estimate_seconds(architecture)

    def score(self, architecture: Architecture) -> Score:
        time.sleep(self.pause_s)
        return self.proxy.score(architecture)


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "journal" else f"sqlite:///{tmp_path}/studies.db"


def sharing(proxies: str, **asked: Any) -> Sharing:
    arguments: dict[str, Any] = {"options": {}, "data": None, "tables": {}, "url": None, "workers": 1}
    return Sharing(proxies=proxies, **arguments | asked)


def search(
    out: Path, proxies: str, *, trials: int, storage: str | None, pause_s: float = 0.05, url: str | None = None
) -> SearchResult:
    """A search whose own worker is slow."""
    ((name, proxy),) = build_proxies(proxies, data="synthetic", seed=0).items()
    slow = Slow(proxy, pause_s)
    return run_search(
        TINY,
        TABLE,
        slow,
        plan=plan_search(TINY, TABLE, slow, budget_ms=1.1, trials=trials, time_limit_s=None),
        seed=0,
        out=out,
        names={"space": "tiny", "table": "iphone13", "proxy": name},
        storage=storage,
        sharing=sharing(proxies, url=url),
        sign_s=0.05,
    )


def join(out: Path, storage: str | None, **options: Any) -> None:
    """Work for a search as soon as it has begun."""
    where: str | Path = storage or out / "study.journal"
    begin, says = time.monotonic(), False
    while not says:
        assert time.monotonic() - begin < 60
        with suppress(NasError):
            says = INSTRUCTIONS in read_shared(where, out.name, say=lambda line: None)
        time.sleep(0.02)
    run_worker(where, out.name, **{"sign_s": 0.05, "say": lambda line: None, **options})


def begun(
    out: Path, proxies: str = "fake", *, trials: int | None = 3, url: str | None = None, **asked: Any
) -> tuple[Path, Study]:
    """The journal and the study of a search that has only written its instructions: its process is gone."""
    out.mkdir(exist_ok=True)
    (out / "weights").mkdir()
    options: Mapping[str, str] = asked.get("options", {})
    data = asked.get("data") or "synthetic"
    ((name, proxy),) = build_proxies(proxies, data=data, seed=0, options=options).items()
    plan = plan_search(TINY, TABLE, proxy, budget_ms=1.1, trials=trials, time_limit_s=None if trials else 60)
    run = run_of(
        TINY, TABLE, proxy, budgets=plan.budgets, seed=0, sampler="random", command=["nas"],
        names={"space": "tiny", "table": "iphone13", "proxy": name},
    )  # fmt: skip
    journal = out / "study.journal"
    study = Study.open(
        journal, TINY, name=out.name, digest=run.digest, last=0, worker="main", resume=False, say=lambda line: None
    )
    instructions = Instructions.of(sharing(proxies, url=url, **asked), Store(url or str(out)), plan, run, TINY, TABLE)
    study.share(INSTRUCTIONS, instructions.model_dump(mode="json", by_alias=True))
    return journal, study


def scored(study: Study) -> Counter[str]:
    """How often each network was scored as a proposal."""
    return Counter(one.id for one in study.entries() if one.kind == "searched" and one.state == "finished")


def test_no_candidate_is_lost_or_done_twice_by_several_workers(tmp_path: Path, storage: str | None) -> None:
    out = tmp_path / "run"
    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(join, out, storage, name=f"worker {one}") for one in range(2)]
        result = search(out, "fake", trials=10, storage=storage)
        for one in workers:
            one.result(timeout=60)
    study = Study.open(
        storage or out / "study.journal", TINY, name="run", digest=result.run.digest, last=0, worker="after",
        resume=True, say=lambda line: None,
    )  # fmt: skip
    searched = [one.id for one in result.candidates if one.kind == "searched"]

    assert len(searched) == len(set(searched)) == 10
    assert scored(study) == Counter(searched)
    assert [one.name for one in result.references] == ["tiny_a"]
    assert {one.worker for one in study.entries()} > {"main"}
    assert SearchResult.load(out).candidates == result.candidates


def test_workers_alone_bring_a_search_to_its_end_whose_process_is_gone(tmp_path: Path) -> None:
    journal, study = begun(tmp_path / "run", trials=5)
    said: list[str] = []
    run_worker(journal, "run", say=said.append)

    assert sorted(scored(study).values()) == [1] * 5
    assert len([line for line in said if line.startswith("scoring ")]) == 6
    assert said[-1] == "ended: the search is done; this worker did 6 jobs"


def test_worker_ends_without_the_search_where_only_time_would_end_that(tmp_path: Path) -> None:
    journal, _ = begun(tmp_path / "run", trials=None)
    said: list[str] = []
    run_worker(journal, "run", sign_s=0.02, say=said.append)

    assert said[-1].startswith("ended: the search is gone, and only time would end it; it goes on there with --resume;")


def test_worker_follows_a_search_that_goes_on_otherwise(tmp_path: Path) -> None:
    journal, study = begun(tmp_path / "run", trials=100)
    said, changed = study.shared()[INSTRUCTIONS], list[int]()

    def say(line: str) -> None:
        if line.startswith("scoring ") and not changed and len(scored(study)) == 3:
            study.share(INSTRUCTIONS, {**said, "wanted": 6, "sampler": "evolution"})
            changed.append(1)

    run_worker(journal, "run", say=say)

    assert sorted(scored(study).values()) == [1] * 6


def test_worker_ends_with_the_search(tmp_path: Path) -> None:
    journal, study = begun(tmp_path / "run")
    study.share(ENDED, True)
    said: list[str] = []
    run_worker(journal, "run", say=said.append)

    assert said == ["ended: the search is done; this worker did 0 jobs"]


def test_job_of_a_killed_worker_is_taken_up_by_another(tmp_path: Path) -> None:
    journal, study = begun(tmp_path / "run", trials=3)
    network = TINY.sample(random_choice(seed=1))
    job = Job(network=network, rung=0, kind="searched", latency_ms=0.5)
    template = study._template(job, TrialState.RUNNING)
    template.user_attrs["worker"] = "killed"
    study._storage.create_new_trial(study._number, template)
    run_worker(journal, "run", sign_s=0.05, say=lambda line: None)

    assert scored(study)[network.id] == 1
    assert sorted(scored(study).values()) == [1] * 3
    assert [one.worker for one in study.entries() if one.state == "abandoned"] == ["killed"]


def test_the_job_of_a_lost_worker_comes_before_what_was_proposed_in_the_meantime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, study = begun(tmp_path / "run", trials=3)
    network = TINY.sample(random_choice(seed=1))
    propose, lost = Worker._proposal, list[int]()

    def slowly(self: Worker, limit_ms: float) -> Architecture | None:
        """While the last network is proposed, another worker begins one and is lost."""
        proposed = propose(self, limit_ms)
        if not lost and self.rungs.begun == 2:
            job = Job(network=network, rung=0, kind="searched", latency_ms=0.5)
            template = study._template(job, TrialState.RUNNING)
            template.user_attrs["worker"] = "killed"
            study._storage.create_new_trial(study._number, template)
            lost.extend(one.trial for one in study.entries() if one.worker == "killed")
            study.abandon(lost)
        return proposed

    monkeypatch.setattr(Worker, "_proposal", slowly)
    run_worker(journal, "run", say=lambda line: None)

    assert scored(study)[network.id] == 1
    assert sorted(scored(study).values()) == [1] * 3


def test_lost_jobs_do_not_wait_for_each_other_where_there_is_room_for_one(tmp_path: Path) -> None:
    journal, study = begun(tmp_path / "run", trials=3)
    networks = [TINY.sample(random_choice(seed=seed)) for seed in (1, 2)]
    for network in networks:
        job = Job(network=network, rung=0, kind="searched", latency_ms=0.5)
        study._storage.create_new_trial(study._number, study._template(job, TrialState.RUNNING))
    study.abandon([one.trial for one in study.entries()])
    study.share(INSTRUCTIONS, {**study.shared()[INSTRUCTIONS], "wanted": 1})

    run_worker(journal, "run", say=lambda line: None)

    assert sorted(scored(study).values()) == [1]
    assert set(scored(study)) < {network.id for network in networks}


def pictures(folder: Path, *, colour: int = 200) -> DataSource:
    for channel, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            pixel = [index * 10] * 3
            pixel[channel] = colour
            Image.new("RGB", (8, 8), tuple(pixel)).save(folder / name / f"{index}.png")
    return DataSource(name=str(folder))


def test_other_images_are_refused_and_the_same_ones_elsewhere_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    data = pictures(tmp_path / "a")
    journal, study = begun(tmp_path / "run", "zero-cost:naswot", data=data)
    study.share(ENDED, True)
    run_worker(journal, "run", data=pictures(tmp_path / "b"), say=lambda line: None)
    with pytest.raises(InputError) as caught:
        run_worker(journal, "run", data=pictures(tmp_path / "c", colour=250), say=lambda line: None)

    assert str(caught.value) == (
        "the study 'run' was begun with other images, files or settings of zero-cost:naswot than this machine has: "
        "copy them here, or name the same images by --data"
    )
    assert caught.value.exit_code == 2


def test_file_with_code_is_only_run_where_it_is_named_and_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = "open('ran', 'a').close()\ndef score(network):\n    return 1.0\n"
    Path("mine.py").write_text(ran)
    journal, study = begun(tmp_path / "run", "./mine.py", trials=2)
    Path("ran").unlink()
    for named in (None, "./other.py", "fake"):
        with pytest.raises(
            InputError, match=r"^the search runs code, --proxy ./mine.py: give the same --proxy here if"
        ):
            run_worker(journal, "run", proxies=named, say=lambda line: None)
    was_run = Path("ran").exists()
    run_worker(journal, "run", proxies="./mine.py", say=lambda line: None)
    Path("mine.py").write_text(ran + "# another\n")
    with pytest.raises(
        InputError, match=r"^the study 'run' was begun with other images, files or settings of ./mine.py"
    ):
        run_worker(journal, "run", proxies="./mine.py", say=lambda line: None)

    assert not was_run
    assert len(scored(study)) == 2


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
    """The options of the proxies that workers build: those of the fake proxy."""
    seen: list[Mapping[str, str]] = []

    def build(names: str, *, options: Mapping[str, str], **inputs: Any) -> dict[str, Proxy]:
        seen.append(options)
        return build_proxies("fake", **inputs)

    monkeypatch.setattr(nas.search.shared, "build_proxies", build)
    return seen


@pytest.mark.parametrize("kind", ["memory", "folder"])
@pytest.mark.parametrize("option", ["supernet", "init"])
def test_file_of_a_proxy_that_is_not_on_the_machine_is_taken_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[Mapping[str, str]], kind: str, option: str
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    url = f"memory://{secrets.token_hex(4)}" if kind == "memory" else str(tmp_path / "shared")
    journal, study = begun(tmp_path / "run", url=url)
    study.share(ENDED, True)
    file = tmp_path / "file.safetensors"
    file.write_bytes(b"weights")
    options = {option: str(file), "effort": "quick"}
    said = study.shared()[INSTRUCTIONS]
    study.share(INSTRUCTIONS, {**said, "options": options})
    give_files(Store(url), options)
    run_worker(journal, "run", say=lambda line: None)
    file.unlink()
    run_worker(journal, "run", say=lambda line: None)
    Store(url).remove(f"files/{option}.safetensors")
    with pytest.raises(InputError, match=rf"^{file}: not on this machine, and not in [^\n]*: copy it here$"):
        run_worker(journal, "run", say=lambda line: None)

    assert built[0] == options
    assert built[1]["effort"] == "quick"
    assert Path(built[1][option]).read_bytes() == b"weights"


@pytest.mark.parametrize("kind", ["memory", "folder", "results"])
def test_weights_of_the_winner_arrive_in_the_results_folder(tmp_path: Path, kind: str) -> None:
    out, proxy = tmp_path / "run", tmp_path / "trained.py"
    proxy.write_text(TRAINED)
    urls = {"memory": f"memory://{secrets.token_hex(4)}/run", "folder": str(tmp_path / "shared"), "results": None}
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(join, out, None, name="worker", proxies=str(proxy))
        result = search(out, str(proxy), trials=8, storage=None, pause_s=0.4, url=urls[kind])
        worker.result(timeout=60)
    study = Study.open(
        out / "study.journal", TINY, name="run", digest=result.run.digest, last=0, worker="after", resume=True,
        say=lambda line: None,
    )  # fmt: skip
    assert result.winner is not None
    by_others = [one.id for one in study.entries() if one.worker == "worker" and one.kind == "searched"]

    assert by_others
    for path, score in [
        (out / "winner.safetensors", result.winner.score),
        *((out / "weights" / f"{one.id}.safetensors", one.score) for one in (result.winner, *result.references)),
    ]:
        assert load_file(path)["w"].item() == pytest.approx(score)
    if (url := urls[kind]) is not None:
        system, root = fsspec.core.url_to_fs(url)
        assert system.find(root) == []


def test_worker_that_does_not_see_the_results_folder_says_so_and_makes_none(tmp_path: Path) -> None:
    proxy = tmp_path / "trained.py"
    proxy.write_text(TRAINED)
    journal, _ = begun(tmp_path / "run", str(proxy), trials=2)
    elsewhere, said = tmp_path / "other.journal", list[str]()
    shutil.copy(journal, elsewhere)
    shutil.rmtree(tmp_path / "run")
    run_worker(elsewhere, "run", proxies=str(proxy), say=said.append)

    assert said[0] == (f"{tmp_path}/run is not on this machine: weights trained here are lost; see nas search --shared")
    assert said[-1] == "ended: the search is done; this worker did 3 jobs"
    assert not (tmp_path / "run").exists()


def test_study_that_says_nothing_or_something_else_to_workers_is_refused(tmp_path: Path) -> None:
    journal, study = begun(tmp_path / "run")
    said = study.shared()[INSTRUCTIONS]

    def refused(name: str = "run") -> str:
        with pytest.raises(InputError) as caught:
            run_worker(journal, name, say=lambda line: None)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    unknown = refused("other")
    study.share(INSTRUCTIONS, {**said, "hurry": True})
    newer = refused()
    study.share(INSTRUCTIONS, None)
    nothing = refused()

    assert unknown == "--study other: --storage has no such study; it is the name of the results folder"
    assert newer.startswith("the instructions in the study 'run'") and "hurry" in newer
    assert nothing == "the study 'run' has no instructions for workers: begin it with nas search --storage"


def test_search_that_is_interrupted_ends_its_workers_and_goes_on_later(tmp_path: Path) -> None:
    out, worker_scores = tmp_path / "run", threading.Event()

    class Interrupted(Slow):
        def score(self, architecture: Architecture) -> Score:
            assert worker_scores.wait(60)
            raise KeyboardInterrupt

    def run(trials: int, *, resume: bool = False) -> SearchResult:
        proxy = build_proxies("fake", data="synthetic", seed=0)["fake"]
        plan = plan_search(TINY, TABLE, proxy, budget_ms=1.1, trials=trials, time_limit_s=None)
        names = {"space": "tiny", "table": "iphone13", "proxy": "fake"}
        scorer = proxy if resume else Interrupted(proxy, 0.0)
        return run_search(
            TINY, TABLE, scorer, plan=plan, seed=0, out=out, names=names, sharing=sharing("fake"), resume=resume
        )

    def say(line: str) -> None:
        if line.startswith("scoring "):
            worker_scores.set()

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(join, out, None, name="worker", say=say)
        with pytest.raises(KeyboardInterrupt):
            run(10**6)
        worker.result(timeout=60)
    journal = out / "study.journal"
    digest = SearchResult.load(out).run.digest
    study = Study.open(
        journal, TINY, name="run", digest=digest, last=0, worker="after", resume=True, say=lambda line: None
    )
    by_worker = set(scored(study))
    resumed = run(len(by_worker) + 2, resume=True)

    assert by_worker <= {one.id for one in resumed.scored}
    assert len({one.id for one in resumed.scored}) == len(resumed.scored) == len(by_worker) + 2
