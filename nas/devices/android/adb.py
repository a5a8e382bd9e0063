"""adb: how this machine reaches a phone, and what the states of a phone mean."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas.devices._runner import RunnerLost, RunnerTimeout
from nas.errors import DeviceError, InputError

__all__ = ["ROOT", "Phone", "choose_phone", "last", "no_phone"]

ROOT = "/data/local/tmp"  # the only folder where adb's user may write and execute files

_CONTROL_S = 20.0  # timeout of a command that does almost nothing
_COPY_S = 600.0

_NO_ADB = "adb is not installed; apt-get install adb, or put Android's platform-tools on the PATH"
_NO_PHONE = "no phone is connected; plug one in and switch on USB debugging in its developer options"
# State as adb names it -> what it means and the fix.
_AILMENTS = {
    "unauthorized": "does not trust this computer; unlock it and accept its question about USB debugging",
    "authorizing": "is asking whether to trust this computer; unlock it and accept",
    "offline": "does not answer adb; unplug it, unlock it and plug it in again",
    "no permissions": "may not be opened by this user; apt-get install android-sdk-platform-tools-common for its udev "
    "rules, join the group plugdev and plug it in again",
}


class Phone:
    """One phone.

    Args:
        adb: path of the program adb.
        serial: serial number of the phone.
        reconnect_s: how long `mend` retries.
    """

    def __init__(self, adb: str, serial: str, *, reconnect_s: float) -> None:
        self.address = f"android://{serial}"
        self._adb = adb
        self._serial = serial
        self._reconnect_s = reconnect_s

    def run(self, script: str, *arguments: str, timeout_s: float = _CONTROL_S) -> tuple[int, list[str]]:
        """Run a script in sh, and return its exit code and the lines that it printed.

        adb passes one line of text to the phone's shell, so every argument is quoted. The exit code is printed as the
        last line, because some phones lose it otherwise. An answer without that line is incomplete.

        Raises:
            RunnerLost: the connection broke.
            RunnerTimeout: the script takes longer.
        """
        command = shlex.join(["sh", "-c", script, "nas", *arguments])
        done = self._do("shell", f'{command}; code=$?; echo; echo "nas-end $code"', timeout_s=timeout_s)
        lines = [line.rstrip() for line in done.stdout.splitlines()]
        end = re.fullmatch(r"nas-end (\d+)", lines[-1]) if lines else None
        if end is None:
            words = last(done.stderr.splitlines(), f"adb shell ended with exit code {done.returncode}")
            raise RunnerLost(words, disconnected=True)
        return int(end[1]), lines[:-1]

    def push(self, file: Path, path: str) -> None:
        """Copy a file to the phone.

        Raises:
            RunnerLost: the connection broke.
            RunnerTimeout: copying takes longer than ten minutes.
            DeviceError: the phone refuses the file, for example because its storage is full.
        """
        done = self._do("push", str(file.resolve()), path, timeout_s=_COPY_S)
        if done.returncode == 0:
            return
        # Version 29 prints the error to stdout, and after it how many files it copied.
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        words = next((line for line in lines if "error:" in line), last(lines))
        if "No space left" in words:
            size_mb = math.ceil(file.stat().st_size / 1e6)
            raise DeviceError(f"{self.address}: its storage is full; make room for {size_mb} MB and repeat the command")
        if ": remote " in words:  # The error is from the phone itself.
            raise DeviceError(
                f"{self.address}: {file.name} cannot be copied there ({words.rpartition(': remote ')[2]}); see what "
                f"{shlex.join(['adb', '-s', self._serial, 'shell', 'ls', '-ld', ROOT])} says"
            )
        raise RunnerLost(words, disconnected=True)

    def mend(self, script: str, *arguments: str) -> None:
        """Wait until the phone is back and has run a script.

        Raises:
            DeviceError: it does not come back in time.
        """
        deadline = time.monotonic() + self._reconnect_s
        pause = 0.1
        while True:
            try:
                self._do("wait-for-device", timeout_s=max(deadline - time.monotonic(), 0.1))
                self.run(script, *arguments)
                return
            except (RunnerLost, RunnerTimeout) as lost:
                if time.monotonic() + pause > deadline:
                    raise DeviceError(
                        f"{self.address}: lost, and not back within {self._reconnect_s:g} s ({self._trouble(lost)}), "
                        "then repeat the command to go on from here"
                    ) from lost
            time.sleep(pause)
            pause *= 2

    def _trouble(self, lost: Exception) -> str:
        state = _states(self._adb).get(self._serial)
        if state is None:
            return "it is not connected; plug it in again"
        return f"{lost}; restart it" if state == "device" else f"it {_ailment(state)}"

    def _do(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return _run(self._adb, "-s", self._serial, *arguments, timeout_s=timeout_s)


def no_phone() -> str | None:
    """Why no phone can be used from here and what to do; None when one can. Starts adb's server if necessary."""
    adb = shutil.which("adb")
    if adb is None:
        return _NO_ADB
    try:
        states = _states(adb)
    except DeviceError as error:
        return str(error).removeprefix("android: ")
    if not states:
        return _NO_PHONE
    if "device" in states.values():
        return None
    serial, state = next(iter(states.items()))
    return f"phone {serial} {_ailment(state)}"


def choose_phone(serial: str, *, reconnect_s: float) -> Phone:
    """The phone with this serial number. Without a number, the only one that is connected.

    Raises:
        InputError: several are connected and none is named.
        DeviceError: adb is missing, there is no phone, this one is not connected, or it cannot be used.
    """
    adb = shutil.which("adb")
    if adb is None:
        raise DeviceError(f"android: {_NO_ADB}")
    states = _states(adb)
    if not states:
        raise DeviceError(f"android: {_NO_PHONE}")
    if serial and serial not in states:
        raise DeviceError(f"android://{serial}: not connected, there are {', '.join(states)}; plug it in or choose one")
    usable = [name for name, state in states.items() if state == "device"]
    if not serial and len(usable) > 1:
        raise InputError(
            f"--device android: {len(usable)} phones are connected ({', '.join(usable)}); say which, as in "
            f"--device android://{usable[0]}"
        )
    serial = serial or next(iter(usable or states))
    if states[serial] != "device":
        raise DeviceError(f"android://{serial}: the phone {_ailment(states[serial])}")
    return Phone(adb, serial, reconnect_s=reconnect_s)


def last(lines: Sequence[str], default: str = "no word of why") -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(lines) if line.strip()), default)


def _states(adb: str) -> Mapping[str, str]:
    """Serial number -> state of every phone that adb lists.

    Raises:
        DeviceError: adb does not work.
    """
    try:
        done = _run(adb, "devices", "-l", timeout_s=_CONTROL_S)
    except RunnerTimeout as late:
        raise DeviceError(f"android: adb devices gives {late}; try adb kill-server") from late
    if done.returncode:
        raise DeviceError(f"android: adb devices says {last(done.stderr.splitlines())}; try adb kill-server")
    listed = (line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith(("*", "List of")))
    return {
        words[0]: "no permissions" if words[1].startswith("no permissions") else words[1].split()[0]
        for words in listed
        if len(words) == 2
    }


def _run(adb: str, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run adb until it ends, with any exit code.

    Raises:
        RunnerTimeout: it takes longer.
        DeviceError: it cannot be started.
    """
    try:
        return subprocess.run(
            [adb, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise RunnerTimeout(f"no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise DeviceError(f"android: {adb} cannot be started ({error.strerror}); install it anew") from error


def _ailment(state: str) -> str:
    return _AILMENTS.get(state, f"is in the state {state!r}; start Android on it, and see what adb devices -l says")
