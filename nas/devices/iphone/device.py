"""An iPhone as a device: which jobs go to the phone, and what becomes of each when something fails."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nas.devices import DeviceDescription, Job, Run
from nas.devices._models import ModelFiles, NotExported
from nas.devices._runner import timing_request
from nas.devices.coreml import TARGET, package
from nas.devices.iphone.options import Options
from nas.devices.iphone.phones import Phone, persistently, phone_details
from nas.devices.iphone.runner_app import RunnerApp
from nas.devices.iphone.xcode import ToolError, run
from nas.errors import DeviceError
from nas.scratch import ScratchFolder

__all__ = ["IPhone"]

_BATCH = 32
_CRASHES = 2  # of one job; a single crash may have another cause
_DEAD_LAUNCHES = 3  # of an app that ends before it begins a job
_LOSSES = 5  # of the connection, within one batch


class IPhone:
    """An iPhone with the runner app installed.

    Args:
        phone: the phone.
        bundle: identifier of the app.
        options: see `Options`.
        versions: versions of the software on this Mac.
    """

    batch = _BATCH
    call_cost = True

    def __init__(self, phone: Phone, *, bundle: str, options: Options, versions: Mapping[str, str]) -> None:
        self._phone = phone
        self._app = RunnerApp(phone.identifier, bundle=bundle)
        self._options = options
        self._versions = versions
        self._packages = ModelFiles(package, suffix=".mlpackage")

    def describe(self) -> DeviceDescription:
        """The fingerprint that goes into a table."""
        return DeviceDescription(
            kind="iphone",
            model=self._phone.model,
            os=self._phone.os,
            runtime="Core ML",
            versions=self._versions,
            precision="fp16",
            threads=None,
            settings={"compute_units": self._options.compute_units, "target": TARGET},
        )

    def time(self, jobs: Sequence[Job]) -> Iterator[Run]:
        """Do the jobs in one launch. A job that crashes the app or times out is followed by another launch.

        Raises:
            DeviceError: the phone is locked or gone. What was measured before has been yielded.
        """
        runs: dict[int, Run] = {}
        gone: DeviceError | None = None
        with ScratchFolder("iphone") as scratch:
            try:
                todo = self._prepare(jobs, scratch.path, runs)
                if todo:
                    self._measure(todo, jobs, scratch.path, runs)
            except ToolError as error:
                gone = DeviceError(f"iphone: {error}")
            except OSError as error:
                gone = DeviceError(
                    f"iphone: {scratch.path} cannot be written ({error.strerror}); make room, and run this again"
                )
        for number in range(len(jobs)):
            if number not in runs:
                assert gone is not None
                raise gone
            yield runs[number]

    def close(self) -> None:
        """Remove the models and results from the phone and from here, and end the app."""
        self._app.close()
        self._packages.close()

    def _prepare(self, jobs: Sequence[Job], folder: Path, runs: dict[int, Run]) -> list[int]:
        """Fill the folder with a manifest and compiled models, and return the numbers of its jobs in their order."""
        todo: list[int] = []
        requests: list[dict[str, object]] = []
        models: dict[str, str] = {}
        for number, job in enumerate(jobs):
            key = job.subject.key
            try:
                if key not in models:
                    compiled = _compile(self._packages.path(job.subject), folder / f"{number}")
                    models[key] = str(compiled.relative_to(folder))
            except ToolError as error:
                if error.kind != "unknown":
                    raise
                runs[number] = Run(failure=f"cannot be compiled for the iPhone: {error}")
            except NotExported as error:
                runs[number] = Run(failure=str(error))
            else:
                todo.append(number)
                requests.append(timing_request(job, models[key]))
        manifest = {"compute_units": self._options.compute_units, "jobs": requests}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return todo

    def _measure(self, todo: list[int], jobs: Sequence[Job], folder: Path, runs: dict[int, Run]) -> None:
        """Copy the folder to the phone, and launch the app until every job has a result."""
        batch = self._app.copy_in(folder)
        limit_s = self._options.timeout_s + max(jobs[number].duration_ms for number in todo) / 1000
        place = losses = dead = 0
        crashes: Counter[int] = Counter()
        while place < len(todo):
            end = self._app.launch(batch, place, limit_s)
            results = self._app.results(batch)
            for done, answer in results.runs.items():
                if place <= done < len(todo):
                    runs[todo[done]] = answer
            if results.is_whole:
                for number in todo:
                    runs.setdefault(number, Run(failure="the runner app left no result that can be read"))
                return
            while place < len(todo) and todo[place] in runs:
                place += 1
            if place == len(todo):
                return
            failure = None
            if end.kind == "overdue":
                failure = f"no result within {limit_s:g} s; if the iPhone was locked, set Auto-Lock to Never"
            elif end.kind == "lost":
                losses += 1
                if losses > _LOSSES:
                    raise ToolError(f"the connection to the iPhone broke {losses} times; connect it by another cable")
                persistently(self._phone.identifier, lambda: phone_details(self._phone.identifier))
            elif end.kind in ("refused", "signature"):
                raise ToolError(end.words)
            elif place in results.started:
                crashes[place] += 1
                if crashes[place] == _CRASHES:
                    failure = f"the runner app ended {_CRASHES} times in this job: {end.words}"
            else:
                dead += 1
                if dead == _DEAD_LAUNCHES:
                    raise ToolError(
                        f"the runner app ends before it has begun a job: {end.words}; its crash reports are in "
                        "Settings > Privacy & Security > Analytics & Improvements > Analytics Data on the iPhone"
                    )
            if failure:
                runs[todo[place]] = Run(failure=failure)
                place += 1


def _compile(model: Path, folder: Path) -> Path:
    """The .mlmodelc of a package, in a new folder.

    Raises:
        ToolError: the compiler refuses it.
    """
    folder.mkdir()
    run("coremlcompiler", "compile", str(model), str(folder))
    compiled = list(folder.glob("*.mlmodelc"))
    if not compiled:
        raise ToolError("coremlcompiler left no .mlmodelc")
    return compiled[0]
