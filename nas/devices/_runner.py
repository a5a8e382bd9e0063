"""Runners: programs that time models near the hardware and speak JSON lines with this process.

A runner reads one request a line from its stdin and writes one answer a line to its stdout::

    {"op": "describe"}
        -> {"model": ..., "os": ..., "versions": {...}, "providers": [...]}
    {"op": "time", "model": FILE, "shape": [1, 48, 56, 56], "duration_ms": 300, "minimum_runs": 25,
     "maximum_runs": 1000, "output": true, "threads": 1, "provider": "CPUExecutionProvider"}
        -> {"times_ms": [...], "output": BASE64, "facts": {...}}

or `{"failure": REASON}`. It fills the input with the fractional parts of multiples of the golden ratio, as
`nas.networks.modules.example_input` does, and answers with every n-th element of the output as little-endian float32, as `sampled`
in nas/devices/__init__.py takes them.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import numpy as np
from pydantic import Base64Bytes, Field, ValidationError, model_validator

from nas.devices import DeviceDescription, Job, Run
from nas.errors import DeviceError
from nas.files import Record
from nas.networks import Subject

__all__ = [
    "Description",
    "ModelFiles",
    "NotExported",
    "Runner",
    "RunnerDevice",
    "RunnerLost",
    "RunnerTimeout",
    "read_run",
    "timing_request",
]

_RECONNECTIONS = 5
_END_S = 5.0  # for a process that has closed its pipes

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


class RunnerLost(Exception):  # noqa: N818 - a state of affairs, met on the way to a result
    """The runner ended, or said something that is no answer; the message is its last word.

    Attributes:
        disconnected: whether the way to it broke, so that the job is not to blame.
    """

    def __init__(self, message: str, *, disconnected: bool = False) -> None:
        super().__init__(message)
        self.disconnected = disconnected


class RunnerTimeout(Exception):  # noqa: N818 - likewise
    """No answer in time."""


class Answering(Protocol):
    """What a device needs of a running runner."""

    def ask(self, request: Mapping[str, object], *, timeout_s: float) -> dict[str, Any]:
        """The answer to one request; raises RunnerLost or RunnerTimeout, after which only `kill` is of use."""
        ...

    def kill(self) -> None:
        """End it without a word."""
        ...


class Runner:
    """A running runner that is a process with pipes.

    Args:
        command: program and arguments; no shell sees them.
        disconnect_codes: exit codes that tell of a lost connection instead of a crash.
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
            RunnerLost: the process has ended, or answered with something else than a JSON object.
            RunnerTimeout: it has not answered; what it will still say belongs to this request, so close it.
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
        """End the process, at once if need be."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # It has ended and left a request unread.
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def kill(self) -> None:
        """End the process without a word."""
        self._process.kill()
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put(b"")  # The end; a runner never answers with an empty line.

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


class NotExported(Exception):  # noqa: N818 - likewise
    """A subject that cannot be made into a model; the message is the failure of its job."""


def _ignore(name: str) -> None:
    """Nobody is told."""


class ModelFiles:
    """Exported subjects in a temporary folder, each written once while there is room.

    Args:
        export: writes a subject for the runtime; returns it as bytes, or as a folder that is moved in.
        suffix: ending of the files.
        limit_bytes: when the files grow beyond this, the ones not used for longest go.
        on_removal: told the name of each file that goes.
    """

    def __init__(
        self,
        export: Callable[[Subject], bytes | Path],
        *,
        suffix: str,
        limit_bytes: int = 4 << 30,
        on_removal: Callable[[str], None] = _ignore,
    ) -> None:
        self._export = export
        self._suffix = suffix
        self._limit_bytes = limit_bytes
        self._on_removal = on_removal
        self._folder = tempfile.TemporaryDirectory(prefix="nas-models-")
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def path(self, subject: Subject) -> Path:
        """The file of a subject, exported when it is not there.

        Raises:
            NotExported: it cannot be, whatever the exporter met.
            DeviceError: there is no room for it.
        """
        name = subject.key + self._suffix
        path = Path(self._folder.name) / name
        if name not in self._sizes:
            try:
                content = self._export(subject)
            except Exception as error:  # Exporters raise nothing narrower.
                words = str(error).strip() or type(error).__name__
                raise NotExported(f"cannot be exported: {words.splitlines()[0]}") from error
            if isinstance(content, Path):
                size = sum(file.stat().st_size for file in content.rglob("*"))
            else:
                size = len(content)
            while self._sizes and sum(self._sizes.values()) + size > self._limit_bytes:
                oldest, _ = self._sizes.popitem(last=False)
                self._remove(path.with_name(oldest))
                self._on_removal(oldest)
            try:
                if isinstance(content, Path):
                    shutil.move(content, path)
                else:
                    path.write_bytes(content)
            except OSError as error:  # Every further subject would meet it, too.
                raise DeviceError(
                    f"{path.parent}: no model can be kept there ({error.strerror}); make room, or set TMPDIR to "
                    "another folder, then repeat the command to go on from here"
                ) from error
            self._sizes[name] = size
        self._sizes.move_to_end(name)
        return path

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    def _remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


class RunnerDevice:
    """A device whose jobs a runner does one by one; a runner that crashes or hangs is started anew.

    Args:
        where: what errors call it, such as ssh://pi.
        start: starts a runner and, where it is far away, the way to it.
        fingerprint: makes the device's description out of the runner's.
        models: the exported subjects.
        place: brings a model file to where the runner finds it, and says its name there.
        settings: members of every request, such as `threads`.
        timeout_s: longest wait for one answer.
        call_cost: as in `Device`.
        at_close: undoes what `start` and `place` did.
    Raises:
        DeviceError: the runner cannot be started, or does not describe itself.
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
        """Do the jobs one by one.

        Raises:
            DeviceError: the way to the runner is broken and could not be mended.
        """
        return map(self._time, jobs)

    def close(self) -> None:
        """End the runner and remove the models."""
        with contextlib.ExitStack() as last_to_first:  # each of them even if one before it fails
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
                if crashes > 1:  # Once may be the machine's fault.
                    return Run(failure=str(lost))
                if disconnections > _RECONNECTIONS:
                    raise DeviceError(
                        f"{self._where}: the connection broke {disconnections} times at {job.subject.key} ({lost}); "
                        "mend it, then repeat the command to go on from here"
                    ) from lost

    def _ask(self, job: Job, model: Path) -> Run:
        runner = self._running()  # First: starting anew may have cleared the place.
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
    """What a runner needs to know of a job; `model` is the name of its file there."""
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
    """The run that a runner's answer to `time` tells of.

    Raises:
        ValidationError: it is no such answer.
    """
    times = _Times.model_validate_json(json.dumps(answer))
    return Run(
        times_ms=times.times_ms,
        output=None if times.output is None else np.frombuffer(times.output, dtype="<f4"),
        failure=times.failure,
        facts=times.facts,
    )
