"""Scalars of a search for TensorBoard, by its own library, and for MLflow, by a fake of its client."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nas.errors import InputError
from nas.report.tracking import open_tracker
from nas.search import SearchResult
from nas.search.progress import Progress

# Of the four candidates of `result`: latency and score (0.5, 0.40), (0.7, 0.35), (0.9, 0.50) at a budget of 1 ms, and a
# reference (0.95, 0.48).
STEPS: dict[str, list[tuple[int, float]]] = {
    "score": [(1, 0.40), (2, 0.35), (3, 0.50)],
    "latency_ms": [(1, 0.5), (2, 0.7), (3, 0.9)],
    "reference_score": [(4, 0.48)],
    "reference_latency_ms": [(4, 0.95)],
    "best_score": [(1, 0.40), (2, 0.40), (3, 0.50), (4, 0.50)],
    "hypervolume": [(1, 0.20), (2, 0.20), (3, 0.21), (4, 0.21)],
}


def report(result: SearchResult, number: int, *, ended: str | None = None) -> Progress:
    """The report after the first candidates."""
    return Progress(
        result=replace(result, candidates=result.candidates[:number]),
        rungs=(),
        wanted=None,
        proposed=number,
        over_budget=0,
        elapsed_s=1.0,
        left_s=None,
        ended=ended,
    )


def never(line: str) -> None:
    raise AssertionError(line)


def events_in(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """All scalars that TensorBoard shows of a run, by tag."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), size_guidance={reader.SCALARS: 0})
    events.Reload()
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.fixture
def tensorboard() -> None:
    """Skip the test without the extra."""
    pytest.importorskip("tensorboard")


@pytest.mark.usefixtures("tensorboard")
def test_each_candidate_is_a_step_of_tensorboard(result: SearchResult) -> None:
    tracker = open_tracker("tensorboard", out=result.path, say=never)
    for number in (0, 1, 1, 2, 4):  # some reports bring nothing new, others several at once
        tracker.on_progress(report(result, number))
    tracker.on_progress(report(result, 4, ended="the time limit"))
    tracker.close()

    assert events_in(result.path / "tensorboard") == STEPS


@pytest.mark.usefixtures("tensorboard")
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_resumed_search_doubles_no_step(result: SearchResult, tmp_path: Path, *, is_killed: bool) -> None:
    where = f"tensorboard:{tmp_path / 'logs'}"
    first = open_tracker(where, out=result.path, say=never)
    first.on_progress(report(result, 2))
    first.close()
    (folder,) = (tmp_path / "logs").iterdir()
    if is_killed:  # in the middle of the third step
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder))
        writer.add_scalar("score", 0.5, 3)
        writer.close()
    again = open_tracker(where, out=result.path, say=never)
    again.on_progress(report(result, 3))
    again.on_progress(report(result, 4))
    again.close()

    assert folder.name == "run-20260101T000000"
    assert events_in(folder) == STEPS


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_gets_what_was_asked_as_hyperparameters(result: SearchResult) -> None:
    tracker = open_tracker("tensorboard", out=result.path, say=never)
    tracker.on_progress(report(result, 1))
    tracker.close()
    written = b"".join(path.read_bytes() for path in (result.path / "tensorboard").iterdir())

    for words in (b"iphone13.coreml.fp16", b"budget_ms", b"synthetic", b"_hparams_/session_start_info"):
        assert words in written


@pytest.mark.usefixtures("tensorboard")
def test_a_failure_ends_the_tracking_and_not_the_search(result: SearchResult, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    said: list[str] = []
    tracker = open_tracker(f"tensorboard:{tmp_path / 'taken'}", out=result.path, say=said.append)
    tracker.on_progress(report(result, 1))
    tracker.on_progress(report(result, 2))
    tracker.close()

    assert len(said) == 1
    assert said[0].startswith(f"--track tensorboard:{tmp_path / 'taken'}: ")
    assert said[0].endswith("; the search goes on without it")


@dataclass
class FakeMLflow:
    """MLflow's client and server, as far as they are used; `calls` are the requests."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: list[str] = field(default_factory=list)
    uris: list[str | None] = field(default_factory=list)
    requests: int = 0
    is_away: bool = False

    def client(self, tracking_uri: str | None) -> FakeMLflow:
        self.uris.append(tracking_uri)
        return self

    def _ask(self) -> None:
        self.requests += 1
        if self.is_away:
            raise ConnectionError("no answer from http://me:secret@host:5000\nfor 20 s")

    def get_experiment_by_name(self, name: str) -> Any:
        self._ask()
        return SimpleNamespace(experiment_id=name) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments.append(name)
        return name

    def search_runs(self, experiments: list[str], filter_string: str) -> list[Any]:
        (value,) = (filter_string.removeprefix("tags.`nas.run` = ").strip("'"),)
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=run_id))
            for run_id, run in self.runs.items()
            if run["tags"]["nas.run"] == value and run["experiment"] in experiments
        ]

    def create_run(self, experiment: str, *, run_name: str, tags: dict[str, str]) -> Any:
        run_id = f"run{len(self.runs)}"
        new = {"experiment": experiment, "name": run_name, "tags": tags, "status": "RUNNING"}
        self.runs[run_id] = {**new, "metrics": [], "params": {}}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id]["status"] = status

    def set_terminated(self, run_id: str, status: str) -> None:
        self._ask()
        self.runs[run_id]["status"] = status

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [SimpleNamespace(step=step) for tag, step, _ in self.runs[run_id]["metrics"] if tag == key]

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        self._ask()
        assert len(metrics) <= 1000
        self.runs[run_id]["metrics"] += metrics
        self.runs[run_id]["params"] |= dict(params)

    def steps(self, run_id: str) -> dict[str, list[tuple[int, Any]]]:
        found: dict[str, list[tuple[int, Any]]] = {}
        for tag, step, value in self.runs[run_id]["metrics"]:
            found.setdefault(tag, []).append((step, pytest.approx(value)))
        return found


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    fake = FakeMLflow()
    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.__dict__["MlflowClient"] = fake.client
    entities.__dict__["Metric"] = lambda key, value, timestamp, step: (key, step, value)
    entities.__dict__["Param"] = lambda key, value: (key, value)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")
    return fake


def test_each_candidate_is_a_step_of_mlflow_and_a_resumed_search_doubles_none(
    result: SearchResult, mlflow: FakeMLflow
) -> None:
    first = open_tracker("mlflow:http://host:5000", out=result.path, say=never)
    first.on_progress(report(result, 1))
    first.on_progress(report(result, 2))
    first.close()
    stopped = mlflow.runs["run0"]["status"]
    again = open_tracker("mlflow:http://host:5000", out=result.path, say=never)
    again.on_progress(report(result, 2))
    resumed = mlflow.runs["run0"]["status"]
    again.on_progress(report(result, 4))
    again.on_progress(report(result, 4, ended="all candidates are scored"))
    again.close()

    assert mlflow.uris == ["http://host:5000"] * 2
    assert mlflow.experiments == ["nas"]
    assert list(mlflow.runs) == ["run0"]
    assert mlflow.steps("run0") == STEPS
    assert (stopped, resumed, mlflow.runs["run0"]["status"]) == ("KILLED", "RUNNING", "FINISHED")
    assert mlflow.runs["run0"]["params"] == {
        "space": "tiny",
        "table": "iphone13.coreml.fp16",
        "proxy": "fake",
        "data": "synthetic",
        "budget_ms": "1.0",
        "sampler": "none",
        "seed": "0",
    }


def test_many_steps_go_to_mlflow_in_parts(result: SearchResult, mlflow: FakeMLflow) -> None:
    many = replace(result, candidates=result.candidates[:1] * 700)
    tracker = open_tracker("mlflow", out=result.path, say=never)
    before = mlflow.requests
    tracker.on_progress(report(many, 700))

    assert mlflow.uris == [None]  # MLflow's own default
    assert mlflow.requests - before == 5  # the parameters, and 200 steps at once
    assert len(mlflow.steps("run0")["score"]) == 700


def test_a_server_that_is_away_is_refused_at_the_start_and_borne_later(
    result: SearchResult, mlflow: FakeMLflow
) -> None:
    said: list[str] = []
    tracker = open_tracker("mlflow:http://me:secret@host:5000", out=result.path, say=said.append)
    mlflow.is_away = True
    tracker.on_progress(report(result, 1))
    tracker.on_progress(report(result, 2))
    tracker.close()

    where = "--track mlflow:http://me:***@host:5000"
    assert said == [f"{where}: no answer from http://me:***@host:5000; the search goes on without it"]
    with pytest.raises(InputError) as refused:
        open_tracker("mlflow:http://me:secret@host:5000", out=result.path, say=never)
    assert str(refused.value) == f"{where}: cannot be used (no answer from http://me:***@host:5000)"


@pytest.mark.parametrize(("kind", "package"), [("mlflow", "mlflow"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_library_is_one_line_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as refused:
        open_tracker(kind, out=tmp_path, say=never)

    assert str(refused.value) == f"--track {kind} needs the package {kind}: pip install 'nas[{kind}]'"


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--track must be tensorboard\[:DIR\] or mlflow\[:URI\], got wandb:x\\n$"):
        open_tracker("wandb:x\n", out=tmp_path, say=never)
