"""Run the commands as a user types them: real processes, real files."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

COMMAND = [sys.executable, "-c", "from nas.cli import main; main()"]


def _nas(*arguments: str, cwd: Path, stdin: str = "", columns: int = 200) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NAS_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1", "COLUMNS": str(columns)}
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, input=stdin, capture_output=True, text=True, timeout=120, env=environment
    )


def _refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused command prints; never a traceback."""
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("error: ")
    return last


@pytest.fixture(scope="session")
def nas() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a folder."""
    return _nas


@pytest.fixture(scope="session")
def refused() -> Callable[[subprocess.CompletedProcess[str]], str]:
    """Take the one line that a refused command prints."""
    return _refused


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A small finished search with the fake proxy, and what its --json printed."""
    folder = tmp_path_factory.mktemp("searched")
    options = ["--space", "tiny", "--proxy", "fake", "--trials", "6", "--out", "results/run", "--json"]
    done = _nas("search", "--budget-ms", "1.1", *options, cwd=folder)
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
