"""Run the commands as a user types them: real processes, real files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

COMMAND = [sys.executable, "-c", "from nas.cli import main; main()"]


class _Forks:
    """Runs commands in processes that forked.py forks, one after the other."""

    def __init__(self) -> None:
        environment, self._path = os.environ | {"HF_HUB_OFFLINE": "1"}, os.environ.get("PYTHONPATH")
        command = [sys.executable, str(Path(__file__).with_name("forked.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self._answer()

    def run(self, *arguments: str, cwd: Path, stdin: str = "", columns: int = 200) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"NAS_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1", "COLUMNS": str(columns)}
        if os.environ.get("PYTHONPATH") != self._path:  # Another package of this name may be loaded already.
            return subprocess.run(
                [*COMMAND, *arguments], cwd=cwd, input=stdin, capture_output=True, text=True, timeout=120,
                env=environment,
            )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder, name) for name in ("stdin", "stdout", "stderr")}
            for name, path in files.items():
                path.write_text(stdin if name == "stdin" else "")
            asked = {"arguments": arguments, "cwd": cwd.absolute(), "environment": environment, **files}
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(asked, default=str) + "\n")
            self.process.stdin.flush()
            code = int(self._answer())
            out, words = (files[name].read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(["nas", *arguments], code, out, words)

    def end(self) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()

    def _answer(self) -> str:
        """The next line, within two minutes."""
        killer = threading.Timer(120, os.killpg, (self.process.pid, signal.SIGKILL))
        killer.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        killer.cancel()
        assert line, "a command took more than two minutes"
        return line


def _refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused command prints; never a traceback."""
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("error: ")
    return last


@pytest.fixture(scope="session")
def nas() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a command in a folder."""
    forks = _Forks()
    yield forks.run
    forks.end()


@pytest.fixture(scope="session")
def refused() -> Callable[[subprocess.CompletedProcess[str]], str]:
    """Take the one line that a refused command prints."""
    return _refused


@pytest.fixture(scope="session")
def searched(
    nas: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A small finished search with the fake proxy, and what its --json printed."""
    folder = tmp_path_factory.mktemp("searched")
    options = ["--space", "tiny", "--proxy", "fake", "--trials", "6", "--out", "results/run", "--json"]
    done = nas("search", "--budget-ms", "1.1", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A few pictures of two classes, in the folder pets of the test: synthetic images take their time to be made."""
    draw = random.Random(0)
    for channel, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(24):
            colour = [draw.randrange(200) for _ in range(3)]
            colour[channel] = 255
            Image.new("RGB", (32, 32), tuple(colour)).save(tmp_path / "pets" / name / f"{index}.png")
    return tmp_path / "pets"
