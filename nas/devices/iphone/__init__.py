"""An iPhone connected to this Mac, through Core ML, in a runner app of this project's own.

The app (nas/devices/iphone/app/) is built, signed and installed with Xcode's tools when a build begins. A batch of
jobs is then one folder copied to the phone, one launch and one file copied back: the phone runs every model back to
back with nothing of the Mac in between. Models are converted here by coremltools and compiled by `coremlcompiler`, so
that the phone only loads them.

Nothing of this has met a Mac or an iPhone. It is tested from end to end against executables that answer as Xcode's do
(tests/devices/fakes/apple). Of the app, Runner.swift was once compiled by Swift 6.0 on Linux over a stand-in for Core ML and
driven by this module, and App.swift type-checked over stand-ins for its frameworks; Apple's SDK has seen neither, nor
has Xcode seen the project.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from nas.devices import DeviceDescription, Job, Run, Seconds
from nas.devices._runner import ModelFiles, NotExported, read_run, timing_request
from nas.devices.coreml import TARGET, ComputeUnits, package
from nas.devices.iphone.xcode import (
    XCRUN,
    Kind,
    Phone,
    ToolError,
    devicectl,
    persistently,
    phone_details,
    phones,
    refusal,
    run,
    version,
)
from nas.errors import DeviceError, InputError
from nas.files import Record, cache_folder, write_beside

__all__ = ["IPhone", "Options", "open_device", "unavailable"]

_PROJECT = Path(__file__).with_name("app")
_BATCH = 32
_CRASHES = 2  # of one job: once may be the phone's fault
_DEAD_LAUNCHES = 3  # of an app that ends before it has begun a job
_LOSSES = 5  # of the connection within a batch
_POLL_S = 10.0  # between looks at the results of a silent app; each look takes some of the phone's time
_COPY_S = 900.0
_INSTALL_S = 300.0
_BUILD_S = 1800.0
_CLEAN_S = 30.0

Team = Annotated[str, Field(pattern=r"^[A-Z0-9]{10}$")]
Bundle = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9][A-Za-z0-9-]*)+$", max_length=155)]


class Options(Record):
    """What `--option` may set.

    Attributes:
        team: signing team, ten letters and digits, as Xcode > Settings > Accounts shows it; remembered.
        bundle: identifier of the runner app; remembered, and by default made from the team.
        compute_units: processors that Core ML may use.
        timeout_s: a job that takes this much longer than its runs, loading included, has failed.
    """

    team: Team | None = None
    bundle: Bundle | None = None
    compute_units: ComputeUnits = "all"
    timeout_s: Seconds = 120.0


class _Signing(Record):
    """Who signs the runner app, and what it is called."""

    team: Team
    bundle: Bundle


def open_device(address: str, options: Options) -> IPhone:
    """An iPhone with the runner app on it; building that takes a minute, once a team, bundle and phone.

    Args:
        address: name, UDID or devicectl's identifier; may be empty when one iPhone is connected.
        options: see `Options`.
    Raises:
        InputError: several iPhones are connected and none is named.
        DeviceError: something is missing; the message says what to do.
    """
    try:
        found = _choose(address)
        phone = persistently(found.identifier, lambda: phone_details(found.identifier))
        if phone.problem:
            raise ToolError(phone.problem)
        signing = _signing(options)
        converter = _converter()
        _install(phone, signing)
        write_beside(_cache() / "signing.json", signing.model_dump_json(indent=1).encode() + b"\n")
        versions = {"coremltools": converter, "Xcode": version()}
    except ToolError as error:
        raise DeviceError(f"iphone: {error}") from error
    return IPhone(phone, bundle=signing.bundle, options=options, versions=versions)


def unavailable() -> str | None:
    """Why no iPhone can be used from here and what to do; None when one can."""
    try:
        with suppress(InputError):  # Several can.
            _choose("")
        _signing(Options())
        _converter()
    except (InputError, ToolError) as error:
        return str(error)
    return None


class IPhone:
    """An iPhone with the runner app installed.

    Args:
        phone: where the app is.
        bundle: identifier of the app.
        options: see `Options`.
        versions: of the software on this side.
    """

    batch = _BATCH
    call_cost = True

    def __init__(self, phone: Phone, *, bundle: str, options: Options, versions: Mapping[str, str]) -> None:
        self._phone = phone
        self._bundle = bundle
        self._options = options
        self._versions = versions
        self._packages = ModelFiles(package, suffix=".mlpackage")
        self._console: _Console | None = None
        self._is_clean = True

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
        """Do the jobs in one launch, and in another after a job that crashes the app or takes too long.

        Raises:
            DeviceError: the phone is locked or gone; what was measured before has been yielded.
        """
        runs: dict[int, Run] = {}
        gone: DeviceError | None = None
        with tempfile.TemporaryDirectory(prefix="nas-iphone-") as name:
            try:
                todo = self._prepare(jobs, Path(name), runs)
                if todo:
                    self._measure(todo, jobs, Path(name), runs)
            except ToolError as error:
                gone = DeviceError(f"iphone: {error}")
            except OSError as error:
                gone = DeviceError(
                    f"iphone: {name} cannot be written ({error.strerror}); make room, and run this again"
                )
        for number in range(len(jobs)):
            if number not in runs:
                assert gone is not None
                raise gone
            yield runs[number]

    def close(self) -> None:
        """Remove the models and results from the phone, which ends the app, and from here."""
        self._hang_up()
        if not self._is_clean:
            with suppress(ToolError):  # The phone may be gone; the next session's first batch removes what is left.
                run("devicectl", *self._launching(), "clean", timeout_s=_CLEAN_S)
            self._is_clean = True
        self._packages.close()

    def _prepare(self, jobs: Sequence[Job], folder: Path, runs: dict[int, Run]) -> list[int]:
        """Fill the folder with a manifest and compiled models; returns which jobs it holds, in its order."""
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
        """Copy the folder in, and launch until every job has a result."""
        batch = persistently(self._phone.identifier, lambda: self._copy_in(folder))
        limit_s = self._options.timeout_s + max(jobs[number].duration_ms for number in todo) / 1000
        place = losses = dead = 0
        crashes: Counter[int] = Counter()
        while place < len(todo):
            end = self._launch(batch, place, limit_s)
            results = self._results(batch)
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

    def _copy_in(self, folder: Path) -> str:
        """Copy the folder to the phone under a new name, since an earlier copy may have been left half done."""
        batch = f"batch-{uuid.uuid4().hex}"
        self._is_clean = False
        devicectl(
            *("device", "copy", "to", *self._container()),
            *("--source", str(folder), "--destination", f"Documents/nas/{batch}"),
            timeout_s=_COPY_S,
        )
        return batch

    def _launch(self, batch: str, place: int, limit_s: float) -> _End:
        """Start the app at a job and wait until it has done all jobs, has ended, or makes no progress.

        The app tells its console of every job. A console that stays silent is no proof of anything, so then the results
        are looked at.
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
                    if _read_results(content).is_whole:
                        return _End("done")
                    if size is not None and len(content) > size:
                        alive = time.monotonic()
                    size = len(content)
                if time.monotonic() - alive > limit_s:
                    return _End("overdue")
                continue
            if line is None:
                said = refusal(console.words(), otherwise="devicectl said nothing")
                return _End(said.kind, str(said))
            if line == "nas: end":
                return _End("done")
            if line.startswith("nas: job"):
                alive = time.monotonic()

    def _results(self, batch: str) -> _Results:
        """The results so far; a file without its end is copied again, as the copy may be the half of it."""
        results = _Results()
        before: bytes | None = None
        for _ in range(3):
            content = persistently(self._phone.identifier, lambda: self._copy_out(batch))
            results = _read_results(content)
            if results.is_whole or content == before:
                break
            before = content
        return results

    def _copy_out(self, batch: str) -> bytes:
        """The file of results as it is on the phone, nothing where there is none yet."""
        with tempfile.TemporaryDirectory(prefix="nas-iphone-") as name:
            file = Path(name) / "results.jsonl"
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
            *("--device", self._phone.identifier, "--user", "mobile"),
            *("--domain-type", "appDataContainer", "--domain-identifier", self._bundle),
        )

    def _launching(self) -> tuple[str, ...]:
        """Launch the app in place of one that runs, and stay with it until it ends."""
        return (
            *("device", "process", "launch", "--console", "--terminate-existing"),
            *("--device", self._phone.identifier, self._bundle),
        )

    def _hang_up(self) -> None:
        if self._console is not None:
            self._console.close()
            self._console = None


@dataclass(frozen=True, slots=True)
class _End:
    """How a launch came to its end.

    Attributes:
        kind: `done` with the last job, `overdue` without progress, else why devicectl let go of the app.
        words: what devicectl, or the app, said last.
    """

    kind: Literal["done", "overdue"] | Kind
    words: str = "it lost its results"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Results:
    """What the app has written.

    Attributes:
        runs: place in the manifest -> what came of the job.
        started: places of the jobs that were begun.
        is_whole: whether the end is there.
    """

    runs: Mapping[int, Run] = field(default_factory=dict)
    started: frozenset[int] = frozenset()
    is_whole: bool = False


class _Console:
    """devicectl's console of the app, which lasts as long as the app or the connection.

    Attributes:
        lines: what it says, then None.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.lines: queue.Queue[str | None] = queue.Queue()
        self._said: list[str] = []
        # In a session of its own: an interrupt at the keyboard is for this process, which then cleans the phone up.
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
        """What it said that is not of the app's own progress."""
        return "\n".join(line for line in self._said if not line.startswith("nas: job"))

    def close(self) -> None:
        """End it; the app may go on."""
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


def _compile(model: Path, folder: Path) -> Path:
    """The .mlmodelc of a package, in a folder of its own."""
    folder.mkdir()
    run("coremlcompiler", "compile", str(model), str(folder))
    compiled = list(folder.glob("*.mlmodelc"))
    if not compiled:
        raise ToolError("coremlcompiler left no .mlmodelc")
    return compiled[0]


def _choose(address: str) -> Phone:
    """The phone that is meant, by what the list of devices tells.

    Raises:
        InputError: it could be several.
        ToolError: there is none, or it cannot be used.
    """
    known = phones()
    if address:
        wanted = _plain(address)
        meant = [phone for phone in known if wanted in (_plain(phone.name), phone.udid, phone.identifier)]
        if not meant:
            names = f"this Mac knows {', '.join(phone.name for phone in known)}" if known else "this Mac knows none"
            raise ToolError(f"no iPhone is called {address!r}: {names}; connect it by cable and unlock it")
    else:
        meant = [phone for phone in known if phone.is_connected] or known
    if not meant:
        raise ToolError("no iPhone is connected; connect one by cable, unlock it and tap Trust")
    ready = [phone for phone in meant if phone.problem is None] or meant
    if len(ready) > 1 and ready[0].problem is None:
        names = ", ".join(f"iphone://{phone.name}" for phone in ready)
        raise InputError(f"--device iphone could be any of {names}; name one, by its UDID if need be")
    if ready[0].problem:
        raise ToolError(f"{ready[0].name}: {ready[0].problem}")
    return ready[0]


def _signing(options: Options) -> _Signing:
    """The team and bundle given now, else those that worked before.

    Raises:
        ToolError: no team was ever given.
        InputError: what is remembered cannot be read.
    """
    file = _cache() / "signing.json"
    remembered: dict[str, Any] = {}
    try:
        remembered = _Signing.model_validate_json(file.read_bytes()).model_dump()
    except FileNotFoundError:
        pass
    except (OSError, ValidationError) as error:
        raise InputError(f"{file}: cannot be read; remove it and give --option team=TEAM again") from error
    team = options.team or remembered.get("team")
    if team is None:
        raise ToolError(
            "no signing team yet; give it once with --option team=TEAM, "
            "the ten letters and digits in Xcode > Settings > Accounts"
        )
    if team != remembered.get("team"):
        remembered = {}  # A bundle belongs to its team.
    # Apple wants identifiers that nobody else has.
    bundle = options.bundle or remembered.get("bundle") or f"local.nas-runner.{team.lower()}"
    return _Signing(team=team, bundle=bundle)


def _converter() -> str:
    """The version of coremltools, which converts the models.

    Raises:
        ToolError: it is not installed.
    """
    try:
        return importlib.metadata.version("coremltools")
    except importlib.metadata.PackageNotFoundError:
        raise ToolError("coremltools is not installed; pip install coremltools, for Python 3.11 to 3.13") from None


def _install(phone: Phone, signing: _Signing) -> None:
    """Bring the runner app to the phone, built anew where there is none or the phone does not take it."""
    digest = hashlib.sha256(f"{signing.team} {signing.bundle} {phone.udid}".encode())
    for path in sorted(path for path in _PROJECT.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    app = _cache() / "apps" / digest.hexdigest()[:16] / "NASRunner.app"

    def install() -> None:
        devicectl("device", "install", "app", "--device", phone.identifier, str(app), timeout_s=_INSTALL_S)

    if app.is_dir():
        try:
            persistently(phone.identifier, install)
            return
        except ToolError as error:
            if error.kind != "signature":
                raise
            shutil.rmtree(app.parent)  # Profiles expire: after seven days without a paid membership.
    _build(phone, signing, app)
    persistently(phone.identifier, install)


def _build(phone: Phone, signing: _Signing, app: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_cache(), prefix="build-") as name:
        source, derived = Path(name) / "source", Path(name) / "derived"
        shutil.copytree(_PROJECT, source)  # Xcode writes beside a project.
        run(
            "xcodebuild",
            *("-project", str(source / "NASRunner.xcodeproj"), "-scheme", "NASRunner", "-configuration", "Release"),
            *("-destination", f"platform=iOS,id={phone.udid}", "-derivedDataPath", str(derived), "-quiet"),
            *("-allowProvisioningUpdates", "-allowProvisioningDeviceRegistration"),
            *("CODE_SIGN_STYLE=Automatic", f"DEVELOPMENT_TEAM={signing.team}"),
            f"PRODUCT_BUNDLE_IDENTIFIER={signing.bundle}",
            "build",
            timeout_s=_BUILD_S,
        )
        built = derived / "Build" / "Products" / "Release-iphoneos" / "NASRunner.app"
        if not built.is_dir():
            raise ToolError(f"xcodebuild left no {built.name}; open {_PROJECT} in Xcode and build it there")
        app.parent.mkdir(parents=True, exist_ok=True)
        built.rename(app)


def _read_results(content: bytes) -> _Results:
    """What the whole lines of a file of results say; half a line, or one that is no answer, says nothing."""
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
    return _Results(runs=runs, started=frozenset(started), is_whole=is_whole)


def _cache() -> Path:
    return cache_folder("iphone", keeps="the runner app")


def _plain(name: str) -> str:
    """A name as it is typed: the apostrophe that iOS puts into "Anna's iPhone" is on no keyboard."""
    return name.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
