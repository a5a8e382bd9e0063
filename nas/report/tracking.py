"""Scalars of a running search for TensorBoard or MLflow: this file is where their own libraries are used.

Each finished candidate is one step; its number in candidates.jsonl, from 1, is the number of the step. A search that
was resumed goes on after the last step that is there already, and first writes those that are missing.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nas.errors import InputError, visible
from nas.masking import masked, without_secrets
from nas.search import hypervolume, undominated
from nas.search.result import rank_of

if TYPE_CHECKING:
    from nas.search import Candidate, Run
    from nas.search.progress import Progress

__all__ = ["Tracker", "open_tracker"]

Scalars = Mapping[str, float]
# In every step, and the last one that is written of it: where it is, the step is whole.
_LAST_TAG = "hypervolume"
_METRICS = ("score", "latency_ms", "best_score", _LAST_TAG)
_REASON = 160  # characters of what a library says
_AT_ONCE = 200  # steps in a request to MLflow, which takes 1000 values
_EXPERIMENT = "nas"
_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Its own 7 attempts of 2 minutes would hold the search.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class _Sink(Protocol):
    """Where scalars go. Its methods may raise anything that the library raises."""

    def begin(self, run: Run, parameters: Mapping[str, str | float]) -> int:
        """Begin a run, or go on with it; returns its last whole step, 0 if there is none."""
        ...

    def write(self, steps: Sequence[tuple[int, Scalars]]) -> None:
        """Write steps, in order."""
        ...

    def end(self, *, is_complete: bool) -> None:
        """Make sure that everything is written."""
        ...


class Tracker:
    """Writes what a search finds as scalars, step by step.

    The scalars of a candidate are `score`, `latency_ms`, `best_score` (of all candidates inside the budget so far) and
    `hypervolume` (score times ms, up to the budget and above score 0); those of a reference begin with `reference_`.

    A failure of the library ends the tracking, not the search.

    Args:
        name: as the user gave it, for messages.
        sink: where the scalars go.
        say: gets a line if the tracking fails.
    """

    def __init__(self, name: str, sink: _Sink, *, say: Callable[[str], None]) -> None:
        self._name, self._sink, self._say = name, sink, say
        self._is_on, self._is_complete = True, False
        self._last: int | None = None  # step that is written; None before the first report
        self._history = _History()

    def on_progress(self, progress: Progress) -> None:
        """Write the steps of all candidates that are new."""
        if not self._is_on:
            return
        try:
            run = progress.result.run
            if self._last is None:
                self._last = self._sink.begin(run, _parameters(run))
            steps = list(self._history.follow(progress.result.candidates, run.budget_ms))
            if new := [(step, scalars) for step, scalars in steps if step > self._last]:
                self._sink.write(new)
                self._last = new[-1][0]
        except Exception as error:  # a server that is away, a full disk, or a bug of the library
            self._fail(error)
        self._is_complete = progress.ended is not None

    def close(self) -> None:
        """Write what is not written yet, and say to MLflow whether the search ended by itself."""
        if self._is_on and self._last is not None:
            try:
                self._sink.end(is_complete=self._is_complete)
            except Exception as error:  # as above
                self._fail(error)
        self._is_on = False

    def _fail(self, error: Exception) -> None:
        self._is_on = False
        with suppress(Exception):
            self._sink.end(is_complete=False)
        self._say(f"--track {self._name}: {_reason(error, self._name)}; the search goes on without it")


def open_tracker(track: str, *, out: Path, say: Callable[[str], None]) -> Tracker:
    """What `--track` asks for.

    Args:
        track: `tensorboard`, `tensorboard:DIR`, `mlflow` or `mlflow:URI`. Without DIR, the folder tensorboard in `out`;
            in DIR, a folder for each run. Without URI, MLflow's own default.
        out: the results folder; it names the run.
        say: gets a line if the tracking fails later.
    Raises:
        InputError: there is no such kind, its library is not installed, or MLflow does not answer.
    """
    kind, _, where = track.partition(":")
    name = visible(masked(track, alone=True), limit=_REASON)
    if kind not in ("tensorboard", "mlflow"):
        raise InputError(f"--track must be tensorboard[:DIR] or mlflow[:URI], got {name}")
    try:
        sink: _Sink = _TensorBoard(out, where) if kind == "tensorboard" else _MLflow(out, where)
    except ImportError as error:
        raise InputError(f"--track {kind} needs the package {kind}: pip install 'nas[{kind}]'") from error
    except Exception as error:  # MLflow passes on any error of its server, its database and its address
        raise InputError(f"--track {name}: cannot be used ({_reason(error, track)})") from error
    return Tracker(name, sink, say=say)


class _History:
    """The scalars of candidates, in order. Only the front is kept, so that each costs the same in a long search."""

    def __init__(self) -> None:
        self._seen = 0
        self._best: Candidate | None = None
        self._front: list[tuple[float, float]] = []  # latencies and scores

    def follow(self, candidates: Sequence[Candidate], budget_ms: float) -> Iterator[tuple[int, Scalars]]:
        """Steps and scalars of the candidates that are new since the last call."""
        for candidate in candidates[self._seen :]:
            self._seen += 1
            yield self._seen, self._scalars(candidate, budget_ms)

    def _scalars(self, candidate: Candidate, budget_ms: float) -> Scalars:
        prefix, score = "reference_" if candidate.kind == "reference" else "", candidate.score
        scalars = {f"{prefix}latency_ms": candidate.latency_ms}
        if score is not None:
            scalars[f"{prefix}score"] = score
            if not prefix:
                points = [*self._front, (candidate.latency_ms, score)]
                self._front = undominated(points, latency=lambda point: point[0], score=lambda point: point[1])
                if candidate.latency_ms <= budget_ms and (self._best is None or _order(candidate) > _order(self._best)):
                    self._best = candidate
        if self._best is not None and self._best.score is not None:
            scalars["best_score"] = self._best.score
        # As report.md has it.
        return scalars | {_LAST_TAG: hypervolume(self._front, latency_limit=budget_ms, score_floor=0.0)}


class _TensorBoard:
    """Event files of TensorBoard, written by torch and read by tensorboard."""

    def __init__(self, out: Path, where: str) -> None:
        self._tensorboard = importlib.import_module("torch.utils.tensorboard")
        self._events = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
        self._out, self._where = out, where
        self._writer: Any = None

    def begin(self, run: Run, parameters: Mapping[str, str | float]) -> int:
        folder = self._out / "tensorboard"
        if self._where:  # Runs of equal names may meet there; when a run was started tells them apart.
            started = "".join(filter(str.isalnum, run.started.partition("+")[0]))
            folder = Path(self._where) / f"{self._out.name}-{started}"
        last = self._last_step(folder)
        # What a killed process has written of a step that is not whole is hidden by `purge_step`.
        self._writer = self._tensorboard.SummaryWriter(str(folder), purge_step=last + 1, flush_secs=10)
        if not last:
            make = importlib.import_module("torch.utils.tensorboard.summary").hparams
            for summary in make(dict(parameters), dict.fromkeys(_METRICS, 0)):  # only the names of the metrics count
                self._writer.file_writer.add_summary(summary)
        return last

    def write(self, steps: Sequence[tuple[int, Scalars]]) -> None:
        for step, scalars in steps:
            for tag, value in scalars.items():
                self._writer.add_scalar(tag, value, step)

    def end(self, *, is_complete: bool) -> None:  # noqa: ARG002
        if self._writer is not None:
            self._writer.close()

    def _last_step(self, folder: Path) -> int:
        if not any(folder.glob("events.out.tfevents.*")):
            return 0
        events = self._events.EventAccumulator(str(folder), size_guidance={self._events.SCALARS: 1})
        events.Reload()
        scalars = events.Scalars(_LAST_TAG) if _LAST_TAG in events.Tags()["scalars"] else []
        return max((event.step for event in scalars), default=0)


class _MLflow:
    """A run of MLflow, in the experiment nas or that of MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, out: Path, where: str) -> None:
        for name, value in _MLFLOW.items():
            os.environ.setdefault(name, value)
        self._client = importlib.import_module("mlflow").MlflowClient(tracking_uri=where or None)
        self._entities = importlib.import_module("mlflow.entities")
        self._out, self._run_id = out, ""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(name)

    def begin(self, run: Run, parameters: Mapping[str, str | float]) -> int:
        known = f"{run.digest} {run.started}"
        found = self._client.search_runs([self._experiment], filter_string=f"tags.`nas.run` = '{known}'")
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return max((one.step for one in self._client.get_metric_history(self._run_id, _LAST_TAG)), default=0)
        tags = {"nas.run": known, "nas.results": str(self._out)}
        self._run_id = self._client.create_run(self._experiment, run_name=self._out.name, tags=tags).info.run_id
        params = [self._entities.Param(key, str(value)) for key, value in parameters.items()]
        self._client.log_batch(self._run_id, params=params)
        return 0

    def write(self, steps: Sequence[tuple[int, Scalars]]) -> None:
        now_ms = int(time.time() * 1000)
        for first in range(0, len(steps), _AT_ONCE):
            metrics = [
                self._entities.Metric(tag, value, now_ms, step)
                for step, scalars in steps[first : first + _AT_ONCE]
                for tag, value in scalars.items()
            ]
            self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, *, is_complete: bool) -> None:
        if self._run_id:
            self._client.set_terminated(self._run_id, status="FINISHED" if is_complete else "KILLED")


def _parameters(run: Run) -> dict[str, str | float]:
    """What a run was asked for, by short names."""
    return {
        "space": run.space.name,
        "table": run.table.name,
        "proxy": ",".join((*run.screens, run.proxy["name"])),
        "data": str(run.proxy.get("data", "none")),
        "budget_ms": run.budget_ms if len(run.budgets) == 1 else ",".join(f"{each:g}" for each in run.budgets),
        "sampler": run.sampler or "none",
        "seed": run.seed,
    }


def _order(candidate: Candidate) -> tuple[float, float]:
    return rank_of(candidate), -candidate.latency_ms


def _reason(error: Exception, track: str) -> str:
    """The first line of an error, without the passwords of the address."""
    words = next(iter(str(error).splitlines()), "") or type(error).__name__
    return visible(without_secrets(words, [track]), limit=_REASON)
