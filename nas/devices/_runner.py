"""Runners: programs that time models close to the hardware. They exchange JSON lines with this process.

A runner reads one request per line from its stdin and writes one answer per line to its stdout::

    {"op": "describe"}
        -> {"model": ..., "os": ..., "versions": {...}, "providers": [...]}
    {"op": "time", "model": FILE, "shape": [1, 48, 56, 56], "duration_ms": 300, "minimum_runs": 25,
     "maximum_runs": 1000, "output": true, "threads": 1, "provider": "CPUExecutionProvider"}
        -> {"times_ms": [...], "output": BASE64, "facts": {...}}

Instead of either it may answer `{"failure": REASON}`.

The input consists of the fractional parts of multiples of the golden ratio, as in
`nas.networks.modules.example_input`. The output comes back as every n-th element in little-endian float32, as in
`nas.devices.sampled`.

_runner_program.py is the runner for ONNX Runtime and Core ML. The device wasm has its own, in JavaScript.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import numpy as np
from pydantic import Base64Bytes, Field, ValidationError, model_validator

from nas.devices import DeviceDescription, Job, Run
from nas.devices._models import ModelFiles, NotExported
from nas.errors import DeviceError
from nas.files import Record

__all__ = [
    "RUNNER_PROGRAM",
    "Answering",
    "Description",
    "Runner",
    "RunnerDevice",
    "RunnerLost",
    "RunnerTimeout",
    "local_runner",
    "read_run",
    "timing_request",
]

RUNNER_PROGRAM = Path(__file__).with_name("_runner_program.py")

_RECONNECTIONS = 5  # within one job
_END_S = 5.0  # wait for a process to end that has closed its pipes

_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Description(Record):
    """A runner's answer to `describe`."""

    model: Annotated[str, Field(min_length=1)]
    os: str
    versions: dict[str, str]
    providers: tuple[str, ...] = ()


class _Times(Record):
    """A runner's answer to `time`."""

    times_ms: tuple[_Milliseconds, ...] = ()
    output: Base64Bytes | None = None
    facts: dict[str, str] = Field(default_factory=dict)
    failure: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.times_ms and self.failure is None:
            raise ValueError("an answer has times or a failure")
        return self


class RunnerLost(Exception):  # noqa: N818 - an expected event, which is handled
    """The runner ended, or its answer is invalid; the message quotes its last line.

    Attributes:
        disconnected: whether the connection to it broke. Then the job is not the cause.
    """

    def __init__(self, message: str, *, disconnected: bool = False) -> None:
        super().__init__(message)
        self.disconnected = disconnected


class RunnerTimeout(Exception):  # noqa: N818 - likewise
    """The runner did not answer in time."""


class Answering(Protocol):
    """A running runner, as a device uses it."""

    def ask(self, request: Mapping[str, object], *, timeout_s: float) -> dict[str, Any]:
        """The answer to one request. After an error, only `kill` may be called.

        Raises:
            RunnerLost: it ended, or its answer is invalid.
            RunnerTimeout: it did not answer in time.
        """
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Runner:
    """A runner that is a child process, with pipes to its stdin and stdout.

    Args:
        command: program and arguments, passed without a shell.
        disconnect_codes: exit codes that mean a lost connection instead of a crash.
    Raises:
        DeviceError: the program cannot be started.
    """

    def __init__(self, command: Sequence[str], *, disconnect_codes: frozenset[int] = frozenset()) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._disconnect_codes = disconnect_codes
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            raise DeviceError(f"{command[0]} cannot be started ({error.strerror})") from error
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, request: Mapping[str, object], *, timeout_s: float) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            RunnerLost: the process ended, or its answer is not a JSON object.
            RunnerTimeout: it did not answer in time. Its next line would still belong to this request, so close it.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._lost() from error
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise RunnerTimeout(f"no answer within {timeout_s:g} s") from None
        if not line:
            raise self._lost()
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise RunnerLost(f"the runner said {line[:80]!r}") from error
        if not isinstance(answer, dict):
            raise RunnerLost(f"the runner said {line[:80]!r}")
        return answer

    def close(self) -> None:
        """End the process: close its stdin, and kill it if it does not end by itself."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # It has ended without reading the last request.
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put(b"")  # Marks the end of the output: a line is never empty, since it has its line break.

    def _lost(self) -> RunnerLost:
        try:
            code = self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(words) if line.strip()), "")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return RunnerLost(
            f"the runner ended with {how}{': ' if last else ''}{last}", disconnected=code in self._disconnect_codes
        )


def local_runner(runtime: str) -> Runner:
    """The runner program as a child process.

    Args:
        runtime: `onnxruntime` or `coreml`.
    """
    # -P keeps the program's folder off the import path: its onnxruntime.py would hide the package of the same name.
    return Runner([sys.executable, "-P", str(RUNNER_PROGRAM), runtime])


class RunnerDevice:
    """A device whose jobs are done by a runner, one at a time. A runner that crashes or hangs is started again.

    Args:
        where: the device's name in errors, such as ssh://pi.
        start: starts a runner, and first connects to its host where that is remote.
        fingerprint: makes the device's description from the runner's.
        models: the exported subjects.
        place: copies a model file to where the runner can read it, and returns its path there.
        settings: further members of every `time` request, such as `threads`.
        timeout_s: timeout of an answer, in addition to the duration of the job.
        call_cost: as in `Device`.
        at_close: undoes what `start` and `place` did.
    Raises:
        DeviceError: the runner cannot be started, or its description is invalid.
    """

    batch = 1

    def __init__(
        self,
        *,
        where: str,
        start: Callable[[], Answering],
        fingerprint: Callable[[Description], DeviceDescription],
        models: ModelFiles,
        place: Callable[[Path], str] = str,
        settings: Mapping[str, object],
        timeout_s: float,
        call_cost: bool = False,
        at_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.call_cost = call_cost
        self._where = where
        self._start = start
        self._models = models
        self._place = place
        self._settings = settings
        self._timeout_s = timeout_s
        self._at_close = at_close
        self._runner: Answering | None = None
        try:
            self._description = fingerprint(self._describe())
        except BaseException:
            self.close()
            raise

    def describe(self) -> DeviceDescription:
        """The fingerprint that goes into a table."""
        return self._description

    def time(self, jobs: Sequence[Job]) -> Iterator[Run]:
        """Do the jobs one at a time.

        Raises:
            DeviceError: the connection to the runner broke and could not be restored.
        """
        return map(self._time, jobs)

    def close(self) -> None:
        """End the runner and remove the models."""
        with contextlib.ExitStack() as last_to_first:  # Each is called even if an earlier one fails.
            last_to_first.callback(self._at_close)
            last_to_first.callback(self._models.close)
            last_to_first.callback(self._drop)

    def _describe(self) -> Description:
        answer: dict[str, Any] = {}
        try:
            answer = self._running().ask({"op": "describe"}, timeout_s=self._timeout_s)
            if "failure" in answer:
                raise DeviceError(f"{self._where}: {answer['failure']}")
            return Description.model_validate(answer)
        except (RunnerLost, RunnerTimeout) as error:
            raise DeviceError(f"{self._where}: {error}") from error
        except ValidationError as error:
            raise DeviceError(f"{self._where}: the runner described itself as {str(answer)[:80]!r}") from error

    def _time(self, job: Job) -> Run:
        try:
            model = self._models.path(job.subject)
        except NotExported as error:
            return Run(failure=str(error))
        crashes = disconnections = 0
        while True:
            try:
                return self._ask(job, model)
            except RunnerTimeout as late:
                self._drop()
                return Run(failure=str(late))
            except RunnerLost as lost:
                self._drop()
                crashes += not lost.disconnected
                disconnections += lost.disconnected
                if crashes > 1:  # A single crash may have another cause than the model.
                    return Run(failure=str(lost))
                if disconnections > _RECONNECTIONS:
                    raise DeviceError(
                        f"{self._where}: the connection broke {disconnections} times at {job.subject.key} ({lost}); "
                        "mend it, then repeat the command to go on from here"
                    ) from lost

    def _ask(self, job: Job, model: Path) -> Run:
        runner = self._running()  # Before `place`: a new start may find an empty folder on the host.
        request = {"op": "time", **timing_request(job, self._place(model)), **self._settings}
        answer = runner.ask(request, timeout_s=self._timeout_s + job.duration_ms / 1000)
        try:
            return read_run(answer)
        except ValidationError as error:
            raise RunnerLost(f"the runner said {str(answer)[:80]!r}") from error

    def _running(self) -> Answering:
        if self._runner is None:
            self._runner = self._start()
        return self._runner

    def _drop(self) -> None:
        if self._runner is not None:
            self._runner.kill()
            self._runner = None


def timing_request(job: Job, model: str) -> dict[str, object]:
    """The members of a `time` request that describe a job; `model` is the path of its file for the runner."""
    from nas.networks.modules import example_shape

    return {
        "model": model,
        "shape": example_shape(job.subject),
        "duration_ms": job.duration_ms,
        "minimum_runs": job.minimum_runs,
        "maximum_runs": job.maximum_runs,
        "output": job.verify,
    }


def read_run(answer: Mapping[str, object]) -> Run:
    """The run in a runner's answer to `time`.

    Raises:
        ValidationError: the answer is invalid.
    """
    times = _Times.model_validate_json(json.dumps(answer))
    return Run(
        times_ms=times.times_ms,
        output=None if times.output is None else np.frombuffer(times.output, dtype="<f4"),
        failure=times.failure,
        facts=times.facts,
    )
