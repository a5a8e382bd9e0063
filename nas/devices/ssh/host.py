"""A folder on a remote host, with the runner program and the models in it."""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from pathlib import Path

from nas.devices._runner import RUNNER_PROGRAM, Runner, RunnerLost
from nas.devices.ssh.connection import Address, Connection
from nas.devices.ssh.options import Options
from nas.errors import DeviceError

__all__ = ["Host"]

_LONGEST_PAUSE_S = 8.0  # between two attempts to connect again

# The scripts that run on the host. Their values come as arguments.

# $1: our folder, empty when there is none yet. Prints the folder, or a new one if it is gone.
_OPEN = (
    'root=${TMPDIR:-/tmp}; find "$root/" -maxdepth 1 -type d -name "nas-ssh.*" -user "$(id -u)" -mmin +1440 '
    "-exec rm -rf {} + 2> /dev/null; "
    # After a restart of the host, another user may have made a folder or a link of this name. That folder could hold a
    # false runner. The link could lead to another folder of this user.
    'if [ -n "$1" ] && [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ]; then echo "$1"; '
    'else mktemp -d "$root/nas-ssh.XXXXXX"; fi'
)
# $@: Python's command line. Prints nothing when there is no such program.
_ASK = 'command -v "$1" > /dev/null 2>&1 || exit 0; exec "$@"'
# $1: the file, $2: its size, $3...: files to remove. A broken connection looks like the end of the file, so the size is
# checked.
_COPY = (
    'path=$1; size=$2; shift 2; [ $# -eq 0 ] || rm -f -- "$@"; '
    'cat > "$path.part" && [ $(wc -c < "$path.part") -eq "$size" ] && mv -f "$path.part" "$path"'
)
# $1: our folder. Kills the runners in it: after its connection broke, a runner continues its job, and would slow down
# the next one. After a restart of the host, the process number may belong to another process. So a process is killed
# only if our folder is in its command line.
_END = (
    'for file in "$1"/pid.*; do pid=${file##*.}; '
    '{ tr "\\000" " " < "/proc/$pid/cmdline" || ps -ww -o args= -p "$pid"; } 2> /dev/null | grep -qF "$1/" '
    '&& kill -9 "$pid" 2> /dev/null; rm -f "$file"; done; '
)
_REMOVE = _END + 'rm -rf -- "$1"'
# $1: our folder, $2...: the runner's command line. The shell waits for the runner: if a signal ended the remote
# command itself, ssh would report it like a lost connection. ONNX Runtime leaves a file in the temporary folder, so our
# folder is set as such.
_START = _END + (
    'folder=$1; shift; exec 3<&0; TMPDIR="$folder" "$@" <&3 3<&- & '
    ': > "$folder/pid.$!"; wait $!; code=$?; rm -f "$folder/pid.$!"; exit $code'
)
# For Python: prints its version and the packages that it lacks. It also runs on the versions that are refused.
_PROBE = (
    "import sys; print('%d.%d' % sys.version_info[:2]); sys.version_info < (3, 4) and sys.exit(); "
    "import importlib.util as u; "
    "print(' '.join(n for n in ('numpy', 'onnxruntime') if u.find_spec(n) is None))"
)
_OLDEST = (3, 8)
# What `_OPEN` prints. The folder is removed in the end, so no other path is accepted.
_FOLDER = re.compile(r"/(?:.*/)?nas-ssh\.[A-Za-z0-9]{6}")


class Host:
    """A folder on a remote host. Its `start`, `place` and `forget` are what a `RunnerDevice` needs.

    Args:
        address: address of the host.
        options: options of the device.
    """

    def __init__(self, address: Address, options: Options) -> None:
        self._address = address
        self._options = options
        # Users write ~/venv/bin/python. On the host every word is quoted, so its shell would look for a folder "~".
        self._python = [re.sub(r"^~/", "./", word) for word in shlex.split(options.python)]
        self._connection = Connection(address, config=options.config, timeout_s=options.timeout_s)
        self._folder = ""
        self._present: set[str] = set()
        self._forgotten: list[str] = []

    def start(self) -> Runner:
        """Connect, or connect again, and start the runner. A runner that still runs there is killed.

        Raises:
            DeviceError: the host cannot be reached or used.
        """
        self._reach()
        return self._connection.start(
            _START, self._folder, *self._python, f"{self._folder}/{RUNNER_PROGRAM.name}", "onnxruntime"
        )

    def place(self, file: Path) -> str:
        """Copy a file to the host unless it is there, and return its path there.

        Raises:
            RunnerLost: the connection broke.
            DeviceError: it cannot be written there.
        """
        path = f"{self._folder}/{file.name}"
        if file.name not in self._present:
            gone = [f"{self._folder}/{name}" for name in self._forgotten]
            self._connection.run(_COPY, path, str(file.stat().st_size), *gone, source=file)
            self._present.add(file.name)
            self._forgotten.clear()
        return path

    def forget(self, name: str) -> None:
        """Remove a file from the host together with the next copy."""
        if name in self._present:
            self._present.remove(name)
            self._forgotten.append(name)

    def close(self) -> None:
        """Remove the folder on the host if it can be reached, and end the connection."""
        if self._folder and self._connection.is_up:
            with contextlib.suppress(RunnerLost, DeviceError):  # What remains is removed by a build after a day.
                self._connection.run(_REMOVE, self._folder)
        self._connection.close()

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
            self._connection.hang_up()  # A broken connection may have left a socket that nothing answers.
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
        """Connect, and make the folder with the runner in it where it is missing."""
        said = self._connection.run(_OPEN, self._folder)
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
        if RUNNER_PROGRAM.name not in self._present:
            self._check_python()
            self.place(RUNNER_PROGRAM)

    def _check_python(self) -> None:
        python = shlex.join(self._python)
        version, _, missing = self._connection.run(_ASK, *self._python, "-c", _PROBE).strip().partition("\n")
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
