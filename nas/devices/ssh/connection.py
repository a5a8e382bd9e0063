"""The connection to a remote host: its address, and the system's ssh that runs commands there."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nas.devices._runner import Runner, RunnerLost
from nas.errors import DeviceError, InputError

__all__ = ["Address", "Connection"]

# No name may begin with a dash: ssh would take it for an option.
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.+-]*)@)?"
    r"(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*)|\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)

_LOST = 255  # ssh's own exit code where the connection fails or breaks

# What ssh prints -> what it means for the user. {by_hand} is the command line to try.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Address of a host. The user's ssh configuration decides what is absent.

    Attributes:
        host: name, alias or IP address, without brackets.
        user: name of the user there.
        port: port of its sshd.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that follows ssh:// on the command line.

        Raises:
            InputError: not of this form, or with characters that no host, user or port has.
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


class Connection:
    """One shared ssh connection to a host. The first command opens it.

    Scripts run on the host through `sh -c`, with their arguments as $1, $2 and so on. A script must be a single line,
    which every login shell passes on.

    Args:
        address: address of the host.
        config: configuration file for ssh in place of the user's.
        timeout_s: timeout of `run`.
    Attributes:
        is_up: whether the last `run` reached the host.
    """

    def __init__(self, address: Address, *, config: Path | None, timeout_s: float) -> None:
        self.is_up = False
        self._address = address
        self._config = config
        self._timeout_s = timeout_s
        # The path of a socket is limited to about 100 bytes. The user's temporary folder may take most of them.
        self._sockets = tempfile.mkdtemp(prefix="nas-ssh-", dir="/tmp")
        self._ssh = self._command_line()

    def run(self, script: str, *arguments: str, source: Path = Path("/dev/null")) -> str:
        """What a script on the host prints, with the content of `source` as its stdin.

        Raises:
            RunnerLost: there is no connection.
            DeviceError: the script failed.
        """
        # A pipe for stderr would stay open as long as the shared connection that an older ssh leaves behind.
        with source.open("rb") as given, tempfile.TemporaryFile() as errors:
            try:
                done = subprocess.run(  # The address has been checked, and the command is quoted.
                    [*self._ssh, _remote(script, *arguments)],
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    timeout=self._timeout_s,
                )
            except subprocess.TimeoutExpired:
                self.is_up = False
                raise RunnerLost(f"no answer within {self._timeout_s:g} s", disconnected=True) from None
            errors.seek(0)
            words = errors.read().decode(errors="replace").strip()
        self.is_up = done.returncode != _LOST
        if not self.is_up:
            raise RunnerLost(self._cause(words), disconnected=True)
        if done.returncode:
            last = words.splitlines()[-1].strip() if words else f"exit code {done.returncode}"
            raise DeviceError(f"{self._address}: a command failed there: {last}; look into it with {self._by_hand()}")
        return done.stdout.decode(errors="replace")

    def start(self, script: str, *arguments: str) -> Runner:
        """Start a runner by a script.

        Raises:
            DeviceError: ssh cannot be started.
        """
        return Runner([*self._ssh, _remote(script, *arguments)], disconnect_codes=frozenset({_LOST}))

    def hang_up(self) -> None:
        """End the shared connection. The next command opens another."""
        # A failure means that there is no connection, or a stuck one, which ssh ends by itself.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(  # The address has been checked.
                [self._ssh[0], "-Oexit", *self._ssh[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=10,
            )

    def close(self) -> None:
        """End the connection and remove its files here."""
        self.is_up = False
        self.hang_up()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _command_line(self) -> list[str]:
        settings = {
            "BatchMode": "yes",
            "ClearAllForwardings": "yes",
            "ConnectTimeout": "10",
            "ControlMaster": "auto",
            "ControlPath": f"{self._sockets}/%C",
            # If this process is killed, the shared connection ends by itself after this time.
            "ControlPersist": "60",
            "LogLevel": "ERROR",
            "RemoteCommand": "none",
            "ServerAliveCountMax": "3",
            "ServerAliveInterval": "10",
        }
        return [
            *("ssh", "-T", "-a", "-x"),
            *(f"-o{name}={value}" for name, value in settings.items()),
            *self._destination(),
        ]

    def _destination(self) -> list[str]:
        address = self._address
        return [
            *(("-F", str(self._config)) if self._config else ()),
            *(("-p", str(address.port)) if address.port else ()),
            *(("-l", address.user) if address.user else ()),
            "--",
            address.host,
        ]

    def _cause(self, words: str) -> str:
        by_hand = self._by_hand()
        for sign, cause in _CAUSES:
            if sign in words:
                return cause.format(by_hand=by_hand)
        last = words.splitlines()[-1].strip() if words else "the connection broke"
        return f"{last}; see what {by_hand} says"

    def _by_hand(self) -> str:
        """The command line with which the user can try the same."""
        return shlex.join(["ssh", *(word for word in self._destination() if word != "--")])


def _remote(script: str, *arguments: str) -> str:
    """A command line for the host's login shell that passes `script` to sh, with every argument quoted."""
    return f"exec sh -c {shlex.quote(script)} {shlex.join(['nas', *arguments])}"
