"""An Android phone over adb: ONNX Runtime's onnxruntime_perf_test or LiteRT's benchmark_model, started in its shell.

The tool is one built for Android and given with --runner; the libraries it needs lie beside it. On the phone everything
lies in one folder below /data/local/tmp: the tool, copied once, and the model of the moment. The folder goes when the
device is closed; one that a killed build left goes a day later, with the next build on that phone.

onnxruntime_perf_test makes one run that it does not report, then writes the time of every further run to a file.
benchmark_model warms up for half a second, then prints quantiles only. Neither shows what a model puts out.

Models are float32. Those for ONNX Runtime are of operator set 20, where GELU is one operator that NNAPI and XNNPACK do
not have: with these providers most layers need --option fallback=true, which lets the processor run the rest. Those
for LiteRT take and give maps with the channels last, as LiteRT computes, so that a layer is not timed together with
transpositions that a network does not have.

Never tried on a phone. The tests have an adb that answers as the real one does and whose phone is a shell of this
machine, if possible mksh with toybox as on Android; adb 29.0.6 itself was tried with a stand-in for the phone's side.
The layout of onnxruntime_perf_test's file is from memory of its source, and therefore checked against the average that
it prints. The models for LiteRT were compared with torch by LiteRT on x86.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from nas.devices import DeviceDescription, Job, Run, Seconds, Threads
from nas.devices._runner import ModelFiles, NotExported, RunnerLost, RunnerTimeout
from nas.devices.android.adb import ROOT, Phone, choose_phone, last, no_phone
from nas.devices.android.tools import Answer, BenchmarkModel, PerfTest, Tool
from nas.errors import DeviceError, InputError
from nas.files import Record

__all__ = ["AndroidDevice", "Options", "open_device", "unavailable"]

_Paths = Annotated[
    tuple[Path, ...], BeforeValidator(lambda value: value.split(os.pathsep) if isinstance(value, str) else value)
]

_PREFIX = "nas-android."
_LOSSES = 5  # of the connection, in one job
_THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_PROPERTIES = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.board.platform",
    "ro.build.version.release",
    "ro.build.fingerprint",
    "ro.product.cpu.abi",
)

# What runs on the phone, through `sh -c`; values come as arguments. A phone's shell is mksh, its programs are toybox.

# $1: the folder to make. Of toybox's find, +1 is more than 24 hours, and +0 would be this very moment.
_OPEN = f'find {ROOT} -maxdepth 1 -name "{_PREFIX}*" -mtime +1 -exec rm -rf {{}} + 2> /dev/null; mkdir -m 700 "$1" 2>&1'
# $1: the folder. The phone's loader says what the runner lacks before that looks at any argument.
_TRY = 'cd "$1" && chmod 755 runner && LD_LIBRARY_PATH="$1" "$1/runner" --help 2>&1'
# $1: hexadecimal mask of processors.
_PIN = 'taskset "$1" true 2>&1'
# $@: names of system properties; each is answered with one line, empty where there is none.
_ASK = 'for name in "$@"; do getprop "$name"; done'
# $1: the folder, $2: the model's file, $3: its size, $4...: command line. A broken connection leaves half a file.
_MEASURE = (
    'folder=$1; cd "$folder" 2>&1 || exit; '
    '[ "$(wc -c < "$2")" -eq "$3" ] || { echo "only a part of the model has arrived"; exit 1; }; '
    "shift 3; rm -f result; echo $$ > pids; "
    "echo nas-part before; dumpsys power | grep mWakefulness=; dumpsys thermalservice; "
    'echo nas-part said; export LD_LIBRARY_PATH="$folder"; '
    'sh -c \'echo $$ >> pids; exec "$@"\' "$folder" "$@" 2>&1; code=$?; rm -f pids; echo; '
    "echo nas-part result; [ -f result ] && cat result; rm -f result; echo; "
    "echo nas-part after; dumpsys thermalservice; exit $code"
)
# $1: the folder. Ends what a broken connection or a job that took too long left running. A number may since have
# become another process's: only one with our folder in its command line is ended.
_END = (
    'if [ -f "$1/pids" ]; then while read -r pid; do grep -qF "$1" "/proc/$pid/cmdline" && kill -9 "$pid"; '
    'done < "$1/pids" 2> /dev/null; rm -f "$1/pids"; fi; '
)
_REMOVE = _END + 'rm -rf "$1"'


class Options(Record):
    """What `--option` may set.

    Attributes:
        runner: path of onnxruntime_perf_test or benchmark_model, built for the phone.
        kind: which of the two it is, where its name does not say so.
        libraries: what it needs beside it on the phone, as a path list; all *.so of its folder where nothing is said.
        cores: hexadecimal mask of the processors to run on, such as f0 for the upper four of eight.
        threads: threads inside an operator.
        provider: execution provider as perf_test's -e names it; for LiteRT cpu, xnnpack, gpu or nnapi.
        fallback: whether the processor may run what the provider cannot; without it such a layer has failed.
        timeout_s: a layer that takes longer, loading included, has failed.
        reconnect_s: how long to wait for a phone that was lost.
    """

    runner: Path | None = None
    kind: Literal["onnxruntime", "litert"] | None = None
    libraries: _Paths | None = None
    cores: Annotated[str, Field(pattern="^(0*[1-9A-Fa-f][0-9A-Fa-f]*)?$", max_length=64)] = ""
    threads: Threads = 1
    provider: Annotated[str, Field(pattern="^[a-z0-9_]+$")] = "cpu"
    fallback: bool = False
    timeout_s: Seconds = 120.0
    reconnect_s: Seconds = 60.0


class AndroidDevice:
    """A phone that starts a tool anew for every job.

    Args:
        phone: which.
        tool: how to use the runner.
        runner: the program, built for Android.
        libraries: what it needs beside it.
        options: the device's.
    Raises:
        DeviceError: the phone cannot run it.
    """

    batch = 1
    call_cost = False  # the loop over the runs is on the phone

    def __init__(self, phone: Phone, tool: Tool, runner: Path, libraries: Sequence[Path], options: Options) -> None:
        self._phone = phone
        self._tool = tool
        self._options = options
        self._pin = ["taskset", options.cores] if options.cores else []
        self._folder = f"{ROOT}/{_PREFIX}{secrets.token_hex(8)}"
        self._models = ModelFiles(tool.export, suffix=Path(tool.model).suffix)
        try:
            self._description = self._open(runner, libraries)
        except (RunnerLost, RunnerTimeout) as lost:
            self.close()
            raise DeviceError(f"{phone.address}: {lost}; see what adb devices -l says") from lost
        except BaseException:
            self.close()
            raise

    def describe(self) -> DeviceDescription:
        """The fingerprint that goes into a table."""
        return self._description

    def time(self, jobs: Sequence[Job]) -> Iterator[Run]:
        """Do the jobs one by one; a phone that was lost is waited for, and its job done again.

        Raises:
            DeviceError: the phone does not come back, its storage is full, or the runner lacks the provider.
        """
        return map(self._time, jobs)

    def close(self) -> None:
        """End what still runs on the phone and remove the folder, as far as the phone can be reached."""
        # What stays is removed by a build of the days to come.
        with contextlib.suppress(RunnerLost, RunnerTimeout, DeviceError):
            self._phone.run(_REMOVE, self._folder)
        self._models.close()

    def _open(self, runner: Path, libraries: Sequence[Path]) -> DeviceDescription:
        code, lines = self._phone.run(_OPEN, self._folder)
        if code:
            raise DeviceError(f"{self._phone.address}: {last(lines)}; make room below /data, or restart the phone")
        self._phone.push(runner, f"{self._folder}/runner")
        for library in libraries:
            self._phone.push(library, f"{self._folder}/{library.name}")
        code, values = self._phone.run(_ASK, *_PROPERTIES)
        manufacturer, model, platform, release, build, abi = [*values, *[""] * len(_PROPERTIES)][: len(_PROPERTIES)]
        self._check(abi)
        if not model.lower().startswith(manufacturer.lower()):
            model = f"{manufacturer} {model}"
        options = self._options
        settings = {"provider": options.provider}
        if options.cores:
            settings["cores"] = options.cores
        if options.fallback:
            settings["fallback"] = "allowed"
        return DeviceDescription(
            kind="android",
            model=f"{model} {platform}".strip() or "Android device",
            os=f"Android {release} {build}".strip(),
            runtime=self._tool.name,
            versions={file.name: _digest(file) for file in (runner, *libraries)} | dict(self._tool.versions),
            precision="fp32",
            threads=options.threads,
            settings=settings,
        )

    def _check(self, abi: str) -> None:
        """Start the runner, which a phone of another kind cannot, and taskset.

        Raises:
            DeviceError: one of them does not start.
        """
        where, name = self._phone.address, self._tool.name
        code, lines = self._phone.run(_TRY, self._folder)
        if unlinked := next((line for line in lines if "CANNOT LINK EXECUTABLE" in line), None):
            raise DeviceError(
                f"{where}: {unlinked}; put the library beside the runner, or name it with --option libraries"
            )
        # What shells answer where a program cannot be started; mksh has the code 1 for one of another processor.
        if code in (126, 127) or "not executable" in last(lines):
            raise DeviceError(f"{where}: {last(lines)}; the runner must be {name} built for Android on {abi}")
        if 128 < code < 255:
            raise DeviceError(f"{where}: the runner ends with signal {code - 128} at once; give one built for {abi}")
        if self._pin:
            code, lines = self._phone.run(_PIN, self._options.cores)
            if code:
                raise DeviceError(
                    f"{where}: {last(lines)}; choose --option cores=MASK among its processors, or leave it out"
                )

    def _time(self, job: Job) -> Run:
        try:
            model = self._models.path(job.subject)
        except NotExported as error:
            return Run(failure=str(error))
        losses = 0
        while True:
            try:
                self._phone.push(model, f"{self._folder}/{self._tool.model}")
                return self._tool.measure(job, functools.partial(self._execute, job, model.stat().st_size))
            except RunnerTimeout as late:
                self._phone.mend(_END, self._folder)
                return Run(failure=str(late))
            except RunnerLost as lost:
                if not lost.disconnected:
                    return Run(failure=str(lost))
                losses += 1
                if losses > _LOSSES:
                    raise DeviceError(
                        f"{self._phone.address}: lost {losses} times at {job.subject.key}: {lost}; check the cable and "
                        "the phone's storage, then repeat the command to go on from here"
                    ) from lost
                self._phone.mend(_END, self._folder)

    def _execute(self, job: Job, size: int, arguments: Sequence[str]) -> Answer:
        """Run the tool once.

        Raises:
            RunnerLost: it ended with an error, or the connection broke.
            RunnerTimeout: it takes too long.
            DeviceError: it will end with that error in every job.
        """
        code, lines = self._phone.run(
            _MEASURE,
            *(self._folder, self._tool.model, str(size)),
            *(*self._pin, f"{self._folder}/runner", *arguments),
            timeout_s=self._options.timeout_s + job.duration_ms / 1000,
        )
        parts = _parts(lines)
        if "after" not in parts:  # It ended before its time, or never began.
            raise RunnerLost(last(lines), disconnected=True)
        if code:
            if refusal := self._tool.refusal(parts["said"]):
                raise DeviceError(f"{self._phone.address}: {refusal}")
            how = f"signal {code - 128}" if 128 < code < 255 else f"exit code {code}"
            raise RunnerLost(f"the runner ended with {how}: {last(parts['said'])}")
        return Answer(said=parts["said"], result=parts["result"], facts=_facts(parts))


def open_device(address: str, options: Options) -> AndroidDevice:
    """A phone, with the runner on it.

    Args:
        address: its serial number; empty for the only one connected.
        options: the device's.
    Raises:
        InputError: no runner, no such file, or several phones and no serial number.
        DeviceError: the phone cannot be used from here, or cannot run the runner.
    """
    runner = options.runner
    if runner is None:
        raise InputError(
            "--device android needs --runner PATH: an onnxruntime_perf_test or LiteRT's benchmark_model for Android"
        )
    libraries = sorted(runner.parent.glob("*.so")) if options.libraries is None else options.libraries
    for file in (runner, *libraries):
        if not file.is_file():
            raise InputError(f"{file}: no such file; --runner and --option libraries name what goes to the phone")
    tool = _tool(runner, options)
    return AndroidDevice(choose_phone(address, reconnect_s=options.reconnect_s), tool, runner, libraries, options)


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can, given a runner."""
    return no_phone()


def _tool(runner: Path, options: Options) -> Tool:
    """The way to use a runner.

    Raises:
        InputError: its name does not tell what it is, or it has no such provider.
        DeviceError: nothing here makes its models.
    """
    provider, threads, fallback = options.provider, options.threads, options.fallback
    if options.kind == "onnxruntime" or (options.kind is None and "perf_test" in runner.name):
        return PerfTest(provider=provider, threads=threads, fallback=fallback)
    if options.kind == "litert" or (options.kind is None and "benchmark_model" in runner.name):
        return BenchmarkModel(provider=provider, threads=threads, fallback=fallback, longest_s=options.timeout_s)
    raise InputError(f"{runner}: its name does not say what it is; add --option kind=onnxruntime or kind=litert")


def _parts(lines: Sequence[str]) -> dict[str, list[str]]:
    """What `_MEASURE` printed, by part."""
    parts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("nas-part "):
            current = parts.setdefault(line.removeprefix("nas-part "), [])
        elif line:
            current.append(line)
    return parts


def _facts(parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Whether the phone is awake and how hot it finds itself, where it tells."""
    facts = {}
    before, after = "\n".join(parts["before"]), "\n".join(parts["after"])
    if awake := re.search(r"mWakefulness=(\w+)", before):
        facts["wakefulness"] = awake[1].lower()
    for name, text in (("thermal_before", before), ("thermal_after", after)):
        if status := re.search(r"Thermal Status: (\d+)", text):
            facts[name] = _THERMAL[min(int(status[1]), len(_THERMAL) - 1)]
    return facts


def _digest(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
