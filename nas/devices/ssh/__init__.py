"""Any host with Python and ONNX Runtime that `ssh` reaches: a Raspberry Pi, a Jetson, a server, a Mac.

The system's own ssh does the talking, with the user's keys, known hosts and aliases; nobody is asked for a password.
On the host everything lies in one temporary folder: the runner, copied once, and the models, each copied once. The
folder goes when the device is closed, and one that a killed build left goes a day later, with the next build there.

Tested against an sshd on this machine, also with an emulated aarch64 Python behind it; on no board or Mac so far.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from nas.devices import Seconds, Threads
from nas.devices._runner import ModelFiles, Runner, RunnerDevice, RunnerLost
from nas.devices.onnxruntime import RUNNER, exported, fingerprint
from nas.errors import DeviceError, InputError
from nas.files import Record

__all__ = ["Address", "Host", "Options", "open_device", "unavailable"]

# No name may begin with a dash: ssh would take it for an option.
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.+-]*)@)?"
    r"(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*)|\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)

_LOST = 255  # what ssh itself ends with when there is no connection, or no more
_LIMIT_BYTES = 256 << 20  # of models on the host, whose /tmp may be in its memory
_LONGEST_PAUSE_S = 8.0

# What runs on the host, through `sh -c`. Each is one line, which every login shell passes on; values come as arguments.

# $1: our folder, empty when there is none yet. Answers with the folder, a new one if it is gone.
_OPEN = (
    'root=${TMPDIR:-/tmp}; find "$root/" -maxdepth 1 -type d -name "nas-ssh.*" -user "$(id -u)" -mmin +1440 '
    "-exec rm -rf {} + 2> /dev/null; "
    # Whoever else made something of our name, such as after a restart of the host, must not feed us a runner, nor lead
    # us by a link into another folder of the user's.
    'if [ -n "$1" ] && [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ]; then echo "$1"; '
    'else mktemp -d "$root/nas-ssh.XXXXXX"; fi'
)
# $@: Python's command line. Answers with nothing when there is no such program.
_ASK = 'command -v "$1" > /dev/null 2>&1 || exit 0; exec "$@"'
# $1: the file, $2: its size, $3...: files that go. A broken connection looks like the end of the file, hence the size.
_COPY = (
    'path=$1; size=$2; shift 2; [ $# -eq 0 ] || rm -f -- "$@"; '
    'cat > "$path.part" && [ $(wc -c < "$path.part") -eq "$size" ] && mv -f "$path.part" "$path"'
)
# $1: our folder. A runner outlives its connection until it has done its job, and would take the time of the next. After
# a restart of the host the number may be another process's: only one with our folder in its command line is ended.
_END = (
    'for file in "$1"/pid.*; do pid=${file##*.}; '
    '{ tr "\\000" " " < "/proc/$pid/cmdline" || ps -ww -o args= -p "$pid"; } 2> /dev/null | grep -qF "$1/" '
    '&& kill -9 "$pid" 2> /dev/null; rm -f "$file"; done; '
)
_REMOVE = _END + 'rm -rf -- "$1"'
# $1: our folder, $2...: the runner's command line. The shell stays: to ssh, a program that a signal ends looks like a
# lost connection. ONNX Runtime leaves a file in the temporary folder, which is ours therefore.
_START = _END + (
    'folder=$1; shift; exec 3<&0; TMPDIR="$folder" "$@" <&3 3<&- & '
    ': > "$folder/pid.$!"; wait $!; code=$?; rm -f "$folder/pid.$!"; exit $code'
)
# For Python: its version, and what it lacks. Old enough for the Pythons that it turns away.
_PROBE = (
    "import sys; print('%d.%d' % sys.version_info[:2]); sys.version_info < (3, 4) and sys.exit(); "
    "import importlib.util as u; "
    "print(' '.join(n for n in ('numpy', 'onnxruntime') if u.find_spec(n) is None))"
)
_OLDEST = (3, 8)
# What `_OPEN` answers with. It is removed in the end, so nothing else will do.
_FOLDER = re.compile(r"/(?:.*/)?nas-ssh\.[A-Za-z0-9]{6}")

# What ssh says, and what it means for the user. {by_hand} is the command line to try.
_CAUSES = (
    (
        "IDENTIFICATION HAS CHANGED",
        "its key is not the one in known_hosts; if the host was set up anew, {by_hand} says how to remove the old key",
    ),
    ("Host key verification failed", "its key is not in known_hosts; connect once by hand to check it: {by_hand}"),
    (
        "Permission denied",
        "it accepts none of the keys, and passwords cannot be asked for; add one with ssh-copy-id, or with ssh-add "
        "where it has a passphrase, until {by_hand} asks for nothing",
    ),
    ("Could not resolve hostname", "the name is unknown; check it with {by_hand}, or give the host's address"),
    ("Connection refused", "it is there, but no sshd listens at this port; start it, or check with {by_hand}"),
    ("timed out", "no answer; check that it is switched on and in this network, with {by_hand}"),
    ("No route to host", "no answer; check that it is switched on and in this network, with {by_hand}"),
    ("Network is unreachable", "this machine has no network that leads there; connect it, and check with {by_hand}"),
)


def _words(value: str) -> str:
    if not shlex.split(value):  # raises ValueError at an open quote
        raise ValueError("must name a program")
    return value


class Options(Record):
    """What `--option` may set.

    Attributes:
        threads: threads inside an operator; operators run one after the other.
        provider: execution provider of ONNX Runtime, which must take the first place in every session.
        python: Python on the host and what comes before its arguments, split as a shell would; a relative path starts
            at the home folder.
        config: configuration file for ssh in place of ~/.ssh/config.
        timeout_s: a layer that takes longer, loading included, has failed; so has copying one to the host.
        reconnect_s: how long to try again after the connection broke.
    """

    threads: Threads = 1
    provider: str = "CPUExecutionProvider"
    python: Annotated[str, AfterValidator(_words)] = "python3"
    config: Path | None = None
    timeout_s: Seconds = 120.0
    reconnect_s: Seconds = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a host is; what is absent is left to the user's ssh configuration.

    Attributes:
        host: name, alias or IP address, without brackets.
        user: name there.
        port: of its sshd.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """What follows ssh:// on the command line.

        Raises:
            InputError: not of the form, or with characters that no host, user or port has.
        """
        match = _ADDRESS.fullmatch(text)
        port = int(match["port"]) if match and match["port"] else None
        if not match or port == 0 or (port or 0) > 65535:
            raise InputError(
                f"--device ssh://{text}: must be ssh://HOST, ssh://USER@HOST or ssh://USER@HOST:PORT, with letters, "
                "digits and .-_ in the names and an IPv6 address in brackets"
            )
        return cls(host=match["host"] or match["ipv6"], user=match["user"], port=port)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"ssh://{user}{f'[{self.host}]' if ':' in self.host else self.host}{port}"


class Host:
    """The way to a host, and one folder on it: `start`, `place` and `forget` for a `RunnerDevice`.

    Args:
        address: where it is.
        options: the device's.
    """

    def __init__(self, address: Address, options: Options) -> None:
        self._address = address
        self._options = options
        # ~/venv/bin/python is what users know; the host's shell sees every word quoted and would look for a folder "~".
        self._python = [re.sub(r"^~/", "./", word) for word in shlex.split(options.python)]
        # A socket's path has room for about 100 bytes, and a temporary folder of the user's may need most of them.
        self._sockets = tempfile.mkdtemp(prefix="nas-ssh-", dir="/tmp")
        self._ssh = self._command_line()
        self._folder = ""
        self._present: set[str] = set()
        self._forgotten: list[str] = []
        self._reached = False  # by the last command

    def start(self) -> Runner:
        """Connect, or connect again, and start the runner; one that still runs there is ended.

        Raises:
            DeviceError: the host cannot be reached or used.
        """
        self._reach()
        command = _remote(_START, self._folder, *self._python, f"{self._folder}/{RUNNER.name}")
        return Runner([*self._ssh, command], disconnect_codes=frozenset({_LOST}))

    def place(self, file: Path) -> str:
        """Copy a file to the host unless it is there, and say its path there.

        Raises:
            RunnerLost: the connection broke.
            DeviceError: it cannot be written there.
        """
        path = f"{self._folder}/{file.name}"
        if file.name not in self._present:
            gone = [f"{self._folder}/{name}" for name in self._forgotten]
            self._run(_remote(_COPY, path, str(file.stat().st_size), *gone), source=file)
            self._present.add(file.name)
            self._forgotten.clear()
        return path

    def forget(self, name: str) -> None:
        """Remove a file from the host with the next copy."""
        if name in self._present:
            self._present.remove(name)
            self._forgotten.append(name)

    def close(self) -> None:
        """Remove the folder on the host, as far as it can be reached, and end the connection."""
        if self._folder and self._reached:
            with contextlib.suppress(RunnerLost, DeviceError):  # What stays is removed by a build of the days to come.
                self._run(_remote(_REMOVE, self._folder))
            self._reached = False
        self._hang_up()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _reach(self) -> None:
        if self._folder:
            self._reach_again()
            return
        try:
            self._open()
        except RunnerLost as lost:
            raise DeviceError(f"{self._address}: {lost}") from lost

    def _reach_again(self) -> None:
        deadline = time.monotonic() + self._options.reconnect_s
        pause = 0.5
        while True:
            self._hang_up()  # What is left of the connection may be a socket that nothing answers.
            try:
                self._open()
                return
            except RunnerLost as lost:
                if time.monotonic() + pause > deadline:
                    raise DeviceError(
                        f"{self._address}: the connection broke and could not be made again within "
                        f"{self._options.reconnect_s:g} s ({lost}); repeat the command to go on from here"
                    ) from lost
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _open(self) -> None:
        """Connect, and see to it that the folder is there with the runner in it."""
        said = self._run(_remote(_OPEN, self._folder))
        folder = said.removesuffix("\n")
        if not _FOLDER.fullmatch(folder):
            raise DeviceError(
                f"{self._address}: its shell prints {said[:60]!r} before any command has run; remove that from what "
                "it reads at its start, such as ~/.bashrc"
            )
        if folder != self._folder:
            self._folder = folder
            self._present.clear()
            self._forgotten.clear()
        if RUNNER.name not in self._present:
            self._check_python()
            self.place(RUNNER)

    def _check_python(self) -> None:
        python = shlex.join(self._python)
        version, _, missing = self._run(_remote(_ASK, *self._python, "-c", _PROBE)).strip().partition("\n")
        if not version:
            raise DeviceError(
                f"{self._address}: no {python} there; install Python 3.8 or later, or name it with --option python=PATH"
            )
        if tuple(int(part) for part in re.findall(r"\d+", version)) < _OLDEST:
            raise DeviceError(
                f"{self._address}: {python} is Python {version}, the runner needs 3.8; "
                "name a newer one with --option python=PATH"
            )
        if missing:
            raise DeviceError(
                f"{self._address}: {python} has no {missing.replace(' ', ' and no ')}; run there "
                f"{python} -m pip install numpy onnxruntime, or name another Python with --option python=PATH"
            )

    def _command_line(self) -> list[str]:
        settings = {
            "BatchMode": "yes",
            "ClearAllForwardings": "yes",
            "ConnectTimeout": "10",
            "ControlMaster": "auto",
            "ControlPath": f"{self._sockets}/%C",
            # Of use after a kill of this process, too: the shared connection then ends by itself.
            "ControlPersist": "60",
            "LogLevel": "ERROR",
            "RemoteCommand": "none",
            "ServerAliveCountMax": "3",
            "ServerAliveInterval": "10",
        }
        return [
            *("ssh", "-T", "-a", "-x"),
            *(f"-o{name}={value}" for name, value in settings.items()),
            *self._where(),
        ]

    def _where(self) -> list[str]:
        address = self._address
        return [
            *(("-F", str(self._options.config)) if self._options.config else ()),
            *(("-p", str(address.port)) if address.port else ()),
            *(("-l", address.user) if address.user else ()),
            "--",
            address.host,
        ]

    def _run(self, command: str, *, source: Path = Path("/dev/null")) -> str:
        """What a command on the host prints, with the content of `source` as its input.

        Raises:
            RunnerLost: there is no connection.
            DeviceError: the command failed.
        """
        # A pipe for the errors would stay open as long as the shared connection that an older ssh leaves behind.
        with source.open("rb") as given, tempfile.TemporaryFile() as errors:
            try:
                done = subprocess.run(  # the address has been checked and the command is quoted
                    [*self._ssh, command],
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    timeout=self._options.timeout_s,
                )
            except subprocess.TimeoutExpired:
                self._reached = False
                raise RunnerLost(f"no answer within {self._options.timeout_s:g} s", disconnected=True) from None
            errors.seek(0)
            words = errors.read().decode(errors="replace").strip()
        self._reached = done.returncode != _LOST
        if not self._reached:
            raise RunnerLost(self._cause(words), disconnected=True)
        if done.returncode:
            last = words.splitlines()[-1].strip() if words else f"exit code {done.returncode}"
            raise DeviceError(f"{self._address}: a command failed there: {last}; look into it with {self._by_hand()}")
        return done.stdout.decode(errors="replace")

    def _cause(self, words: str) -> str:
        by_hand = self._by_hand()
        for sign, cause in _CAUSES:
            if sign in words:
                return cause.format(by_hand=by_hand)
        last = words.splitlines()[-1].strip() if words else "the connection broke"
        return f"{last}; see what {by_hand} says"

    def _by_hand(self) -> str:
        return shlex.join(["ssh", *(word for word in self._where() if word != "--")])

    def _hang_up(self) -> None:
        # A failure means that there is no connection, or one that is stuck and that ssh lets go of by itself.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(  # the address has been checked
                [self._ssh[0], "-Oexit", *self._ssh[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=10,
            )


def open_device(address: str, options: Options) -> RunnerDevice:
    """A host, connected to and with the runner on it.

    Raises:
        InputError: no address, or a wrong one.
        DeviceError: it cannot be reached, or cannot run ONNX Runtime.
    """
    host_address = Address.parse(address)
    if reason := unavailable():
        raise DeviceError(f"{host_address}: {reason}")
    host = Host(host_address, options)
    return RunnerDevice(
        where=str(host_address),
        start=host.start,
        fingerprint=functools.partial(fingerprint, str(host_address), options.provider, options.threads),
        models=ModelFiles(exported, suffix=".onnx", limit_bytes=_LIMIT_BYTES, on_removal=host.forget),
        place=host.place,
        settings={"threads": options.threads, "provider": options.provider},
        timeout_s=options.timeout_s,
        at_close=host.close,
    )


def unavailable() -> str | None:
    """Why this device cannot be used from here and what to do; None when it can."""
    if shutil.which("ssh") is None:
        return "no program ssh on the PATH; install OpenSSH's client, such as the package openssh-client"
    return None


def _remote(script: str, *arguments: str) -> str:
    """A command line for the host's login shell that gives `script` to sh, every argument quoted."""
    return f"exec sh -c {shlex.quote(script)} {shlex.join(['nas', *arguments])}"
