"""Against a real sshd on 127.0.0.1, with keys and a configuration that the tests make."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from nas.devices import Job, Run, open_device, sampled
from nas.devices._runner import RunnerDevice, RunnerLost
from nas.devices.ssh import Address, Host, Options, unavailable
from nas.errors import DeviceError, InputError
from nas.networks import SearchSpace, Stack, Subject

LAYERS = {type(layer).__name__: layer for layer in SearchSpace.find("tiny").layers}
CONV = LAYERS["ConvLayer"]

_SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_MISSING = "sshd" if _SSHD is None else "ssh" if shutil.which("ssh") is None else None

needs_sshd = pytest.mark.skipif(_MISSING is not None, reason=f"{_MISSING} is not installed (package openssh-server)")


class Server:
    """An sshd of our own, and the client's side of it: a key, known hosts and a configuration."""

    def __init__(self, folder: Path, *, command: str = "") -> None:
        self.folder = folder
        self.temporary = folder / "remote"
        self.config = folder / "ssh_config"
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self.temporary.mkdir()
        self.key("client_key")
        self.key("host_key")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.know("host_key")
        self.config.write_text(f"""
            IdentityFile {folder}/client_key
            IdentitiesOnly yes
            IdentityAgent none
            UserKnownHostsFile {folder}/known_hosts
            GlobalKnownHostsFile /dev/null
            Host board
                HostName 127.0.0.1
                Port {self.port}
        """)
        (folder / "sshd_config").write_text(f"""
            ListenAddress 127.0.0.1
            Port {self.port}
            HostKey {folder}/host_key
            AuthorizedKeysFile {folder}/client_key.pub
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            UsePAM no
            StrictModes no
            PidFile {folder}/sshd.pid
            SetEnv TMPDIR={self.temporary}
            {f"ForceCommand {command}" if command else ""}
        """)
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def key(self, name: str) -> None:
        """Make a key pair."""
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True)

    def know(self, name: str) -> None:
        """Let the client expect this key of the host."""
        public = (self.folder / f"{name}.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")

    def start(self) -> None:
        """Start listening."""
        assert _SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks itself up
        self._process = subprocess.Popen(
            [_SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "sshd.log")]
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, (self.folder / "sshd.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop listening; connections go on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
            deadline = time.monotonic() + 10
            while self._listens():  # A process that sshd just forked has the port a moment longer.
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def cut(self) -> None:
        """Break the connections there are, as when the host's network fails."""
        assert self._process is not None
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        children: dict[int, list[int]] = {}
        for line in listing.splitlines():
            process, parent = map(int, line.split())
            children.setdefault(parent, []).append(process)
        first = children.get(self._process.pid, [])
        for process in [*first, *(second for parent in first for second in children.get(parent, []))]:
            with_name = Path(f"/proc/{process}/comm")
            if not with_name.exists() or with_name.read_text().startswith("sshd"):
                os.kill(process, signal.SIGKILL)

    def folders(self) -> list[Path]:
        """What lies in the host's temporary folder."""
        return sorted(self.temporary.iterdir())

    def open(self, address: str = "", **options: object) -> RunnerDevice:
        """The device, as the command line opens it."""
        given = {
            name: str(value) for name, value in {"config": self.config, "python": sys.executable, **options}.items()
        }
        device = open_device(f"ssh://{address or self.address}", given)
        assert isinstance(device, RunnerDevice)
        return device


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("sshd"))
    yield server
    server.cut()
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """One that a test may stop."""
    server = Server(tmp_path)
    yield server
    if server._process is not None:
        server.cut()
        server.stop()


@pytest.fixture
def host(server: Server) -> Iterator[Host]:
    host = Host(Address.parse(server.address), Options(config=server.config, python=sys.executable))
    yield host
    host.close()


def job(subject: Subject = CONV, *, duration_ms: float = 1.0, verify: bool = False) -> Job:
    return Job(subject=subject, duration_ms=duration_ms, minimum_runs=3, maximum_runs=10**6, verify=verify)


def time_one(device: RunnerDevice, what: Job) -> Run:
    return next(device.time([what]))


def runners(folder: Path) -> list[str]:
    """The command lines of the runners that are at work in a folder of the host."""
    return [line for line in _working(f"{folder}/_runner_program.py") if "sh -c" not in line]


def stand_in(folder: Path, first_time: str) -> str:
    """A Python whose first runner does `first_time` instead of its first measurement."""
    script = folder / "stand_in.py"
    flag = folder / "done"
    script.write_text(
        textwrap.dedent(f"""
            import importlib.util, os, pathlib, signal, sys, time

            if sys.argv[1] == "-c":
                exec(sys.argv[2])
            else:
                spec = importlib.util.spec_from_file_location("runner", sys.argv[1])
                runner = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(runner)
                flag = pathlib.Path({str(flag)!r})
                if not flag.exists():
                    flag.touch()
                    runner.OPERATIONS["time"] = lambda runtime, request: {first_time}
                runner.main(sys.argv[2])
        """)
    )
    return shlex.join([sys.executable, str(script)])


@pytest.fixture(scope="class")
def device(server: Server) -> Iterator[RunnerDevice]:
    device = server.open(threads=2)
    yield device
    device.close()


@needs_sshd
class TestAHost:
    @pytest.mark.parametrize("subject", [*LAYERS.values(), Stack(layer=CONV, count=4)], ids=lambda subject: subject.key)
    def test_it_times_what_torch_computes(self, device: RunnerDevice, subject: Subject) -> None:
        from nas.networks.modules import build_deployed, example_input

        run = time_one(device, job(subject, verify=True))
        expected = sampled(build_deployed(subject)(example_input(subject)).detach().numpy())
        assert run.output is not None, run.failure
        error = np.abs(run.output - expected).max() / np.abs(expected).max()

        assert len(run.times_ms) >= 3
        assert min(run.times_ms) > 0
        assert error < 1e-4

    def test_it_describes_the_host(self, device: RunnerDevice) -> None:
        import onnxruntime

        description = device.describe()

        assert description.kind == "ssh"
        assert description.model
        assert description.os.startswith(os.uname().sysname)
        assert description.versions == {"onnxruntime": onnxruntime.__version__}
        assert description.runtime == "onnxruntime CPUExecutionProvider"
        assert description.threads == 2

    def test_everything_goes_through_one_connection(self, server: Server) -> None:
        log = server.folder / "sshd.log"
        before = log.read_text().count("Accepted publickey")
        with closing(server.open()) as device:
            time_one(device, job())
        after = log.read_text().count("Accepted publickey")

        assert after - before == 1

    def test_an_alias_of_the_users_configuration_is_enough(self, server: Server) -> None:
        with closing(server.open("board")) as device:
            kind = device.describe().kind

        assert kind == "ssh"

    def test_python_may_lie_in_the_home_folder(self, server: Server) -> None:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir).resolve()
        with closing(server.open(python=f"~/{os.path.relpath(sys.executable, home)}")) as device:
            kind = device.describe().kind

        assert kind == "ssh"


@needs_sshd
class TestTheFolderOnTheHost:
    def test_a_model_is_copied_once_though_timed_thrice(self, server: Server) -> None:
        copies = set()
        with closing(server.open()) as device:
            (folder,) = server.folders()
            mode = folder.stat().st_mode & 0o777
            for run in device.time([job()] * 3):
                assert run.failure is None
                status = (folder / f"{CONV.key}.onnx").stat()
                copies.add((status.st_ino, status.st_mtime_ns))

        assert len(copies) == 1
        assert mode == 0o700

    def test_nothing_is_left_after_close(self, server: Server) -> None:
        with closing(server.open()) as device:
            time_one(device, job())
            (folder,) = server.folders()
        device.close()
        _wait_until(lambda: not runners(folder))

        assert server.folders() == []

    def test_an_interrupted_job_leaves_nothing(self, server: Server) -> None:
        folders: list[Path] = []

        def interrupt() -> None:
            _wait_until((folders[0] / f"{CONV.key}.onnx").exists)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt), closing(server.open()) as device:
            folders = server.folders()
            threading.Thread(target=interrupt).start()
            time_one(device, job(duration_ms=60000))
        _wait_until(lambda: not runners(folders[0]))

        assert server.folders() == []

    def test_what_the_cache_evicts_goes_from_the_host(self, server: Server, host: Host, tmp_path: Path) -> None:
        files = [tmp_path / name for name in ("a.onnx", "b.onnx")]
        for file in files:
            file.write_text(file.name)
        host.start().close()
        host.place(files[0])
        host.forget("a.onnx")
        host.place(files[1])
        (folder,) = server.folders()

        assert not (folder / "a.onnx").exists()
        assert (folder / "b.onnx").read_text() == "b.onnx"

    def test_names_are_never_commands(self, server: Server, host: Host, tmp_path: Path) -> None:
        names = ["$(touch pwned)", "a;touch pwned", "'; touch pwned; '", '"`touch pwned`"', "-rf", "a b\n*", "ä"]
        host.start().close()
        (folder,) = server.folders()
        for name in names:
            (tmp_path / name).write_text(name)
            remote = host.place(tmp_path / name)

            assert remote == f"{folder}/{name}"
            assert (folder / name).read_text() == name
        for name in names:
            host.forget(name)
        (tmp_path / "last").touch()
        host.place(tmp_path / "last")

        assert [name for name in names if (folder / name).exists()] == []
        assert (folder / "last").exists()
        assert not (Path(pwd.getpwuid(os.getuid()).pw_dir) / "pwned").exists()  # where a command begins

    def test_folders_of_killed_builds_go_after_a_day(self, server: Server, host: Host) -> None:
        old, new, other = (server.temporary / name for name in ("nas-ssh.old", "nas-ssh.new", "other"))
        for folder in (old, new, other):
            folder.mkdir()
            (folder / "model.onnx").touch()
        for folder in (old, other):
            os.utime(folder, (0, time.time() - 90000))
        host.start().close()
        kept = [folder.name for folder in (old, new, other) if folder.exists()]
        for folder in (new, other):
            shutil.rmtree(folder)

        assert kept == ["nas-ssh.new", "other"]

    def test_a_process_that_got_the_number_of_a_runner_lives_on(self, server: Server, host: Host) -> None:
        host.start().close()
        (folder,) = server.folders()
        with subprocess.Popen(["sleep", "60"]) as other:
            (folder / f"pid.{other.pid}").touch()
            host.close()
            state = other.poll()
            other.kill()

        assert state is None
        assert server.folders() == []

    def test_a_link_in_place_of_the_folder_is_not_followed(self, server: Server, host: Host, tmp_path: Path) -> None:
        host.start().close()
        (folder,) = server.folders()
        shutil.rmtree(folder)
        (tmp_path / "pid.1").touch()
        folder.symlink_to(tmp_path)
        host.start().close()
        host.close()
        folder.unlink()

        assert [file.name for file in tmp_path.iterdir()] == ["pid.1"]
        assert server.folders() == []

    def test_the_way_here_leaves_nothing_either(self, server: Server) -> None:
        before = set(Path("/tmp").glob("nas-ssh-*"))
        with closing(server.open()):
            during = set(Path("/tmp").glob("nas-ssh-*"))

        assert len(during - before) == 1
        assert set(Path("/tmp").glob("nas-ssh-*")) <= before


@needs_sshd
class TestALostConnection:
    def test_the_job_is_done_again_without_copying_its_model_again(self, server: Server) -> None:
        runs: list[Run] = []
        with closing(server.open()) as device:
            time_one(device, job())
            (folder,) = server.folders()
            before = (folder / f"{CONV.key}.onnx").stat()
            thread = threading.Thread(target=lambda: runs.append(time_one(device, job(duration_ms=800))))
            thread.start()
            for _ in range(2):
                known = _numbers(folder)
                time.sleep(0.2)
                server.cut()
                _wait_until(lambda known=known: bool(_numbers(folder) - known))
            thread.join()
            after = (folder / f"{CONV.key}.onnx").stat()

        assert runs[0].failure is None
        assert sum(runs[0].times_ms) >= 800
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
        assert server.folders() == []

    def test_a_host_that_lost_its_folder_gets_it_again(self, server: Server) -> None:
        with closing(server.open()) as device:
            time_one(device, job())
            (folder,) = server.folders()
            shutil.rmtree(folder)
            server.cut()
            run = time_one(device, job())
            (again,) = server.folders()

        assert run.failure is None
        assert again != folder
        assert server.folders() == []

    def test_a_host_that_comes_back_late_is_waited_for(self, own_server: Server) -> None:
        with closing(own_server.open()) as device:
            own_server.cut()
            own_server.stop()
            threading.Timer(1.0, own_server.start).start()
            run = time_one(device, job())

        assert run.failure is None

    def test_a_host_that_stays_away_stops_the_build(self, own_server: Server) -> None:
        with closing(own_server.open(reconnect_s=1)) as device:
            own_server.cut()
            own_server.stop()
            with pytest.raises(DeviceError) as raised:
                time_one(device, job())

        assert str(raised.value) == (
            f"ssh://{own_server.address}: the connection broke and could not be made again within 1 s (it is there, "
            "but no sshd listens at this port; start it, or check with "
            f"ssh -F {own_server.config} -p {own_server.port} 127.0.0.1); repeat the command to go on from here"
        )

    def test_a_copy_that_breaks_off_is_not_taken_for_a_model(self, server: Server, host: Host, tmp_path: Path) -> None:
        host.start().close()
        (folder,) = server.folders()
        large = tmp_path / "large.onnx"
        with large.open("wb") as file:
            file.truncate(1 << 30)

        def cut_halfway() -> None:
            _wait_until(lambda: (folder / "large.onnx.part").exists())
            server.cut()

        thread = threading.Thread(target=cut_halfway)
        thread.start()
        with pytest.raises(RunnerLost) as raised:
            host.place(large)
        thread.join()
        _wait_until(lambda: not _working(f"{folder}/large.onnx"))
        with large.open("r+b") as file:
            file.truncate(1000)
        host.start().close()

        assert raised.value.disconnected
        assert not (folder / "large.onnx").exists()
        assert Path(host.place(large)).stat().st_size == 1000


@needs_sshd
class TestARunner:
    def test_one_that_crashes_is_not_a_lost_connection(self, server: Server, tmp_path: Path) -> None:
        python = stand_in(tmp_path, "(flag.unlink(), os.kill(os.getpid(), signal.SIGSEGV))")
        with closing(server.open(python=python)) as device:
            run = time_one(device, job())

        assert run.failure is not None
        assert run.failure.startswith("the runner ended with exit code 139")

    def test_one_that_hangs_is_ended_on_the_host(self, server: Server, tmp_path: Path) -> None:
        with closing(server.open(python=stand_in(tmp_path, "time.sleep(600)"), timeout_s=3)) as device:
            (folder,) = server.folders()
            late, then = device.time([job(), job()])
            _wait_until(lambda: len(runners(folder)) == 1)  # An earlier one would take the time of the next.

        assert late.failure == "no answer within 3.001 s"
        assert then.failure is None


@needs_sshd
class TestWhatCannotBeUsed:
    def test_a_wrong_key(self, server: Server) -> None:
        server.key("other_key")
        config = server.folder / "wrong_key"
        config.write_text(server.config.read_text().replace("client_key", "other_key"))

        assert _refusal(server, config=config) == (
            f"ssh://{server.address}: it accepts none of the keys, and passwords cannot be asked for; add one with "
            f"ssh-copy-id, or with ssh-add where it has a passphrase, until ssh -F {config} -p {server.port} 127.0.0.1 "
            "asks for nothing"
        )

    def test_an_unknown_host(self, server: Server) -> None:
        config = server.folder / "unknown_host"
        config.write_text(server.config.read_text().replace("known_hosts", "no_hosts"))

        assert _refusal(server, config=config) == (
            f"ssh://{server.address}: its key is not in known_hosts; connect once by hand to check it: "
            f"ssh -F {config} -p {server.port} 127.0.0.1"
        )

    def test_a_host_with_another_key_than_before(self, own_server: Server) -> None:
        own_server.key("other_key")
        own_server.know("other_key")

        assert "its key is not the one in known_hosts; if the host was set up anew" in _refusal(own_server)

    def test_a_host_that_does_not_answer(self, own_server: Server) -> None:
        own_server.stop()

        assert "no sshd listens at this port" in _refusal(own_server)

    def test_a_host_of_an_unknown_name(self, server: Server) -> None:
        assert "ssh://nowhere.invalid: the name is unknown" in _refusal(server, "nowhere.invalid")

    def test_a_host_without_python(self, server: Server) -> None:
        assert _refusal(server, python="/nowhere/python3") == (
            f"ssh://{server.address}: no /nowhere/python3 there; install Python 3.8 or later, or name it with "
            "--option python=PATH"
        )

    def test_a_python_without_the_packages(self, server: Server) -> None:
        python = f"{sys.executable} -I -S"

        assert _refusal(server, python=python) == (
            f"ssh://{server.address}: {python} has no numpy and no onnxruntime; run there {python} -m pip install "
            "numpy onnxruntime, or name another Python with --option python=PATH"
        )
        assert server.folders() == []

    def test_a_python_that_is_too_old(self, server: Server, tmp_path: Path) -> None:
        python = tmp_path / "python3"
        python.write_text("#!/bin/sh\necho 3.6\n")
        python.chmod(0o755)

        assert "is Python 3.6, the runner needs 3.8" in _refusal(server, python=python)

    def test_a_provider_that_is_not_there(self, server: Server) -> None:
        assert _refusal(server, provider="NoneExecutionProvider").startswith(
            f"ssh://{server.address}: no NoneExecutionProvider in this ONNX Runtime; there are "
        )

    @pytest.mark.parametrize(
        ("command", "said"), [('echo Welcome; eval "$SSH_ORIGINAL_COMMAND"', "Welcome"), ("echo /home", "/home")]
    )
    def test_a_shell_that_talks(self, tmp_path: Path, command: str, said: str) -> None:
        server = Server(tmp_path, command=command)
        refusal = _refusal(server)
        server.cut()
        server.stop()

        assert f"its shell prints '{said}" in refusal


def test_without_ssh_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    reason = "no program ssh on the PATH; install OpenSSH's client, such as the package openssh-client"
    assert unavailable() == reason
    with pytest.raises(DeviceError, match=f"ssh://pi: {reason}"):
        open_device("ssh://pi", {})


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("pi", None, "pi", None),
        ("pi@raspberry-pi.local", "pi", "raspberry-pi.local", None),
        ("first.last@10.0.0.7:2222", "first.last", "10.0.0.7", 2222),
        ("[fe80::1%eth0]", None, "fe80::1%eth0", None),
        ("me@[::1]:22", "me", "::1", 22),
    ],
)
def test_an_address_names_user_host_and_port(text: str, user: str | None, host: str, port: int | None) -> None:
    address = Address.parse(text)

    assert address == Address(user=user, host=host, port=port)
    assert str(address) == f"ssh://{text}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "-oProxyCommand=touch pwned", "-oProxyCommand=x@pi", "pi@-oProxyCommand=x", "a;b", "$(x)", "`x`", "a b"),
        *(
            "a\nb",
            "pi\n",
            "pi:0",
            "pi:65536",
            "pi:",
            "pi:22:22",
            "pi:-p",
            "@pi",
            "a@b@c",
            "::1",
            "[pi]",
            "[-x]",
            "pi/x",
        ),
        *("user:secret@pi", "pï", "%h", "pi:٢٢"),
    ],
)
def test_an_address_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="must be ssh://HOST, ssh://USER@HOST or ssh://USER@HOST:PORT"):
        open_device(f"ssh://{text}", {})


@pytest.mark.parametrize("python", ["", " ", "python3 'open"])
def test_a_python_that_is_no_command_line_is_refused(python: str) -> None:
    with pytest.raises(InputError, match="python: "):
        open_device("ssh://pi", {"python": python})


def _numbers(folder: Path) -> set[str]:
    """The process numbers of the runners that were started in a folder of the host and not ended."""
    return {file.name for file in folder.glob("pid.*")}


def _working(part: str) -> list[str]:
    """The command lines of the processes here, ssh's own aside, that have a part."""
    listing = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if part in line and not line.startswith("ssh")]


def _refusal(server: Server, address: str = "", **options: object) -> str:
    with pytest.raises(DeviceError) as raised:
        server.open(address, **options).close()
    return str(raised.value)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
