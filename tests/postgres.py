"""A real PostgreSQL server for tests: one in a session, and a database of its own for each test."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["Postgres", "database", "postgres", "serving"]

_DEBIAN = Path("/usr/lib/postgresql")  # and a version, and bin/; not on PATH
_WAIT_S = 60.0
_MISSING = "PostgreSQL is not installed; Debian: apt-get install postgresql"


class Postgres:
    """A PostgreSQL server on a free port of 127.0.0.1, without a Unix socket. It writes to disk as by default.

    PostgreSQL does not run as root. Then it runs as the user postgres, or else nobody.

    Args:
        programs: folder of `initdb` and `postgres`.
        folder: for its data; of its user, who must be able to reach it.
    Attributes:
        user: the superuser.
        password: of the superuser; made up.
        port: the same for the whole session.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._process: subprocess.Popen[bytes] | None = None
        self.user, self.password = "nas", secrets.token_hex(8)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        password = folder / "password"
        password.write_text(self.password)
        # Nobody but who knows the password gets in: other users of the machine can reach 127.0.0.1 as well.
        # --no-sync saves seconds here. What the server itself writes is on the disk when it says so.
        command = ["initdb", "--pgdata=data", f"--username={self.user}", "--auth=scram-sha-256", "--pwfile=password"]
        with self._begin([*command, "--encoding=UTF8", "--locale=C", "--no-sync"]) as process:
            assert process.wait() == 0, self.log()
        self.start()

    def url(self, database: str, *, user: str = "", password: str = "") -> str:
        """Of a database, for `--storage`."""
        return f"postgresql+psycopg://{user or self.user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def is_running(self) -> bool:
        """Whether the server was started and not stopped."""
        return self._process is not None

    def start(self) -> None:
        """Start the server and wait until it answers. From the main thread: it ends with the thread that started it."""
        assert not self.is_running and threading.current_thread() is threading.main_thread()
        # What kills the tests must not leave a server behind; SIGINT lets it close its files.
        with_tests = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
        settings = ["listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories="]
        options = [word for setting in settings for word in ("-c", setting)]
        self._process = self._begin([*with_tests, "postgres", "-D", "data", *options])
        deadline = time.monotonic() + _WAIT_S
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server: at once, with every connection cut.

        Args:
            crash: leave the files as they are. The next start mends them, which takes it some seconds.
        """
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        self._process.wait(_WAIT_S)
        self._process = None

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[object, ...]]:
        """The rows of an SQL statement."""
        import psycopg

        url = self.url(database).replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def log(self) -> str:
        """What the server said."""
        return (self._folder / "log").read_text(errors="replace")

    def _begin(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a program as a user that PostgreSQL runs as."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment |= {"PATH": f"{self._programs}:{os.environ.get('PATH', os.defpath)}", "LC_ALL": "C"}
        command = [shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]]
        with (self._folder / "log").open("ab") as log:
            if (user := _other_user()) is None:
                return subprocess.Popen(command, cwd=self._folder, env=environment, stdout=log, stderr=log)
            return subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=log, stderr=log,
                user=user.pw_uid, group=user.pw_gid, extra_groups=[],
            )  # fmt: skip

    def _answers(self) -> bool:
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs: Debian's newest, or the one on PATH."""
    folders = [path for path in _DEBIAN.glob("*/bin") if path.parent.name.isdecimal()]
    folders.sort(key=lambda path: int(path.parent.name), reverse=True)
    if (found := shutil.which("postgres")) is not None:
        folders.append(Path(found).resolve().parent)
    complete = (path for path in folders if (path / "postgres").exists() and (path / "initdb").exists())
    return next(complete, None)


def _other_user() -> pwd.struct_passwd | None:
    """Who PostgreSQL runs as where the tests run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


@contextlib.contextmanager
def serving() -> Iterator[Postgres]:
    """A server in a temporary folder, for the length of a block. The test is skipped where there can be none."""
    pytest.importorskip("psycopg", reason="psycopg is not installed; the extra [postgres] brings it")
    if (programs := _programs()) is None:
        pytest.skip(_MISSING)
    # Not in the folder of pytest, which only its own user can enter.
    with tempfile.TemporaryDirectory(prefix="nas-postgres-") as name:
        folder = Path(name)
        if (user := _other_user()) is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
            if subprocess.run(["test", "-w", folder], user=user.pw_uid, group=user.pw_gid, extra_groups=[]).returncode:
                pytest.skip(f"the user {user.pw_name} cannot enter {folder}; set TMPDIR to a folder that all can enter")
        server = Postgres(programs, folder)
        try:
            yield server
        finally:
            if server.is_running:
                server.stop(crash=True)  # nobody needs the files


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole session. A test that stops it starts it again."""
    with serving() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """Name of a new database on the server, for `Postgres.url` and `Postgres.execute`."""
    name = f"test_{secrets.token_hex(4)}"
    postgres.execute(f"CREATE DATABASE {name}")
    yield name  # It is not dropped: that takes a second, and the server goes with all its files soon.
    if not postgres.is_running:  # a test that failed in between
        postgres.start()
