"""The runner app on a phone, as this Mac sees it: jobs are copied in, the app is launched, results are copied out.

The app's side is app/NASRunner/Runner.swift. Its first lines describe the arguments and the file of results.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nas.devices import Run
from nas.devices._runner import read_run
from nas.devices.iphone.phones import persistently
from nas.devices.iphone.xcode import XCRUN, Kind, ToolError, devicectl, refusal, run
from nas.scratch import ScratchFolder

__all__ = ["End", "Results", "RunnerApp"]

_POLL_S = 10.0  # between looks at the results of a silent app; each look takes some of the phone's time
_COPY_S = 900.0
_CLEAN_S = 30.0


@dataclass(frozen=True, slots=True)
class End:
    """How a launch ended.

    Attributes:
        kind: `done` after the last job, `overdue` without progress, else why devicectl let go of the app.
        words: the last words of devicectl or the app.
    """

    kind: Literal["done", "overdue"] | Kind
    words: str = "it lost its results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What the app has written so far.

    Attributes:
        runs: place in the manifest -> result of the job.
        started: places of the jobs that were begun.
        is_whole: whether the app wrote its last line.
    """

    runs: Mapping[int, Run] = field(default_factory=dict)
    started: frozenset[int] = frozenset()
    is_whole: bool = False


class RunnerApp:
    """The runner app, installed on a phone.

    Args:
        phone: devicectl's identifier of the phone.
        bundle: identifier of the app.
    """

    def __init__(self, phone: str, *, bundle: str) -> None:
        self._phone = phone
        self._bundle = bundle
        self._console: _Console | None = None
        self._is_clean = True

    def copy_in(self, folder: Path) -> str:
        """Copy a folder with a manifest and models to the phone, and return its name there.

        Raises:
            ToolError: the phone refuses it, or the connection stays broken.
        """
        return persistently(self._phone, lambda: self._copy_in(folder))

    def launch(self, batch: str, place: int, limit_s: float) -> End:
        """Start the app at a job, and wait until it has done all jobs, has ended, or makes no progress.

        The app reports every job on its console. A silent console proves nothing, so the results are polled then.
        """
        self._hang_up()
        self._console = console = _Console([*self._launching(), "measure", batch, str(place)])
        alive = time.monotonic()
        size: int | None = None
        while True:
            try:
                line = console.lines.get(timeout=min(_POLL_S, limit_s))
            except queue.Empty:
                with suppress(ToolError):  # If the connection is lost, the console will end.
                    content = self._copy_out(batch)
                    if _read(content).is_whole:
                        return End("done")
                    if size is not None and len(content) > size:
                        alive = time.monotonic()
                    size = len(content)
                if time.monotonic() - alive > limit_s:
                    return End("overdue")
                continue
            if line is None:
                said = refusal(console.words(), otherwise="devicectl said nothing")
                return End(said.kind, str(said))
            if line == "nas: end":
                return End("done")
            if line.startswith("nas: job"):
                alive = time.monotonic()

    def results(self, batch: str) -> Results:
        """The results so far. A file without its last line may be half a copy, so it is copied again.

        Raises:
            ToolError: the phone refuses it, or the connection stays broken.
        """
        results = Results()
        before: bytes | None = None
        for _ in range(3):
            content = persistently(self._phone, lambda: self._copy_out(batch))
            results = _read(content)
            if results.is_whole or content == before:
                break
            before = content
        return results

    def close(self) -> None:
        """Remove the models and results from the phone, and end the app."""
        self._hang_up()
        if not self._is_clean:
            with suppress(ToolError):  # The phone may be gone. The next session's first batch removes what remains.
                run("devicectl", *self._launching(), "clean", timeout_s=_CLEAN_S)
            self._is_clean = True

    def _copy_in(self, folder: Path) -> str:
        batch = f"batch-{uuid.uuid4().hex}"  # A new name each time: an earlier copy may be incomplete.
        self._is_clean = False
        devicectl(
            *("device", "copy", "to", *self._container()),
            *("--source", str(folder), "--destination", f"Documents/nas/{batch}"),
            timeout_s=_COPY_S,
        )
        return batch

    def _copy_out(self, batch: str) -> bytes:
        """The file of results as it is on the phone, or nothing where there is none yet."""
        with ScratchFolder("iphone") as folder:
            file = folder.path / "results.jsonl"
            try:
                devicectl(
                    *("device", "copy", "from", *self._container()),
                    *("--source", f"Documents/nas/{batch}/results.jsonl", "--destination", str(file)),
                    timeout_s=_COPY_S,
                )
            except ToolError as error:
                if error.kind != "unknown":
                    raise
            return file.read_bytes() if file.is_file() else b""

    def _container(self) -> tuple[str, ...]:
        return (
            *("--device", self._phone, "--user", "mobile"),
            *("--domain-type", "appDataContainer", "--domain-identifier", self._bundle),
        )

    def _launching(self) -> tuple[str, ...]:
        """The arguments that replace a running app, and stay connected to its console until it ends."""
        return (
            *("device", "process", "launch", "--console", "--terminate-existing"),
            *("--device", self._phone, self._bundle),
        )

    def _hang_up(self) -> None:
        if self._console is not None:
            self._console.close()
            self._console = None


class _Console:
    """devicectl's console of the app, which lasts as long as the app or the connection.

    Attributes:
        lines: the lines of its output, then None.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.lines: queue.Queue[str | None] = queue.Queue()
        self._said: list[str] = []
        # In a session of its own: Ctrl-C is for this process, which then removes the files from the phone.
        self._process = subprocess.Popen(
            [XCRUN, "devicectl", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def words(self) -> str:
        """The output without the app's reports of progress."""
        return "\n".join(line for line in self._said if not line.startswith("nas: job"))

    def close(self) -> None:
        """End the console. The app may continue."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._said.append(line.strip())
                self.lines.put(line.strip())
        self.lines.put(None)


def _read(content: bytes) -> Results:
    """The results in the complete lines of a file. An incomplete or invalid line is skipped."""
    runs: dict[int, Run] = {}
    started = set()
    is_whole = False
    for line in content.split(b"\n")[:-1]:
        try:
            answer = json.loads(line)
            if "started" in answer:
                started.add(int(answer["started"]))
            elif "job" in answer:
                place = int(answer.pop("job"))
                runs[place] = read_run(answer)
            else:
                is_whole = is_whole or bool(answer.get("end"))
        except (ValueError, TypeError, AttributeError):  # ValidationError is a ValueError.
            continue
    return Results(runs=runs, started=frozenset(started), is_whole=is_whole)
