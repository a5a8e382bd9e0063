"""An Android phone that starts a program anew for every job, and the scripts that run in its shell."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nas.devices import DeviceDescription, Job, Run
from nas.devices._models import ModelFiles, NotExported
from nas.devices._runner import RunnerLost, RunnerTimeout
from nas.devices.android.adb import ROOT, Phone, last
from nas.devices.android.options import Options
from nas.devices.android.tools import Answer, Tool
from nas.errors import DeviceError

__all__ = ["AndroidDevice"]

_PREFIX = "nas-android."
_LOSSES = 5  # of the connection, within one job
_THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_PROPERTIES = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.board.platform",
    "ro.build.version.release",
    "ro.build.fingerprint",
    "ro.product.cpu.abi",
)

# The scripts that run on the phone, through `sh -c`. Their values come as arguments. A phone's shell is mksh, and its
# programs are those of toybox.

# $1: the folder to make. To toybox's find, -mtime +1 means more than 24 hours, and +0 would include the present moment.
_OPEN = f'find {ROOT} -maxdepth 1 -name "{_PREFIX}*" -mtime +1 -exec rm -rf {{}} + 2> /dev/null; mkdir -m 700 "$1" 2>&1'
# $1: the folder. The phone's loader reports what the runner lacks before the runner reads any argument.
_TRY = 'cd "$1" && chmod 755 runner && LD_LIBRARY_PATH="$1" "$1/runner" --help 2>&1'
# $1: hexadecimal mask of processor cores.
_PIN = 'taskset "$1" true 2>&1'
# $@: names of system properties. Prints a line for each, which is empty where there is no such property.
_ASK = 'for name in "$@"; do getprop "$name"; done'
# $1: the folder, $2: the model's file, $3: its size, $4...: command line. A broken connection leaves half a file, so
# the size is checked.
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
# $1: the folder. Kills what still runs after the connection broke or a job timed out. The process number may by now
# belong to another process. So a process is killed only if our folder is in its command line.
_END = (
    'if [ -f "$1/pids" ]; then while read -r pid; do grep -qF "$1" "/proc/$pid/cmdline" && kill -9 "$pid"; '
    'done < "$1/pids" 2> /dev/null; rm -f "$1/pids"; fi; '
)
_REMOVE = _END + 'rm -rf "$1"'


class AndroidDevice:
    """A phone that starts the runner anew for every job.

    Args:
        phone: the phone.
        tool: how to use the runner.
        runner: the program, built for Android.
        libraries: libraries that it needs beside it.
        options: options of the device.
    Raises:
        DeviceError: the phone cannot run it.
    """

    batch = 1
    call_cost = False  # The loop over the runs is on the phone.

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
        """Do the jobs one at a time. After a lost connection, wait for the phone and do the job again.

        Raises:
            DeviceError: the phone does not come back, its storage is full, or the runner lacks the provider.
        """
        return map(self._time, jobs)

    def close(self) -> None:
        """Kill what still runs on the phone and remove the folder, if the phone can be reached."""
        # What remains is removed by a build after a day.
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
        """Check that the phone can start the runner, and taskset where cores are given.

        Raises:
            DeviceError: one of them does not start. The runner may be built for another kind of phone.
        """
        where, name = self._phone.address, self._tool.name
        code, lines = self._phone.run(_TRY, self._folder)
        if unlinked := next((line for line in lines if "CANNOT LINK EXECUTABLE" in line), None):
            raise DeviceError(
                f"{where}: {unlinked}; put the library beside the runner, or name it with --option libraries"
            )
        # The exit codes of shells where a program cannot be started. mksh has 1 for a program of another processor.
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
            DeviceError: it ended with an error that it will have in every job.
        """
        code, lines = self._phone.run(
            _MEASURE,
            *(self._folder, self._tool.model, str(size)),
            *(*self._pin, f"{self._folder}/runner", *arguments),
            timeout_s=self._options.timeout_s + job.duration_ms / 1000,
        )
        parts = _parts(lines)
        if "after" not in parts:  # The script did not end, or did not even begin.
            raise RunnerLost(last(lines), disconnected=True)
        if code:
            if refusal := self._tool.refusal(parts["said"]):
                raise DeviceError(f"{self._phone.address}: {refusal}")
            how = f"signal {code - 128}" if 128 < code < 255 else f"exit code {code}"
            raise RunnerLost(f"the runner ended with {how}: {last(parts['said'])}")
        return Answer(said=parts["said"], result=parts["result"], facts=_facts(parts))


def _parts(lines: Sequence[str]) -> dict[str, list[str]]:
    """The lines that `_MEASURE` printed, by part."""
    parts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("nas-part "):
            current = parts.setdefault(line.removeprefix("nas-part "), [])
        elif line:
            current.append(line)
    return parts


def _facts(parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Whether the phone is awake, and its thermal state, where it reports them."""
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
