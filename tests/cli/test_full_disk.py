"""A disk that fills up: exit code 1 and one line that names the file; with more room the same command goes on.

The results, the cache and the temporary files lie on a disk of 2 MB, of which a file takes all but a little, so that
the runs themselves fill it. By hand, `NAS_DISKS=0,4,8,24,100 pytest tests/cli/test_full_disk.py` tries those KB of room
for each command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nas.latency import LatencyTable, Timing

ROOMS = tuple(int(text) for text in os.environ.get("NAS_DISKS", "").split(",") if text)
TMPFS = ["mount", "-t", "tmpfs", "-o"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command.

    Attributes:
        command: the command line; it writes to `out` in its working directory.
        begun: the file that tells a run to go on with, for --resume; None for a command that goes on by itself.
        room: KB that are free when it begins, so that it gets further than its first file.
        first: Python that runs before the command.
    """

    command: str
    begun: str | None = None
    room: int
    first: str = ""


_SEARCH = "search --budget-ms 0.5 --space tiny --out out"
CASES = {
    "survey": Case(command=f"{_SEARCH} --proxy accuracy-table --trials 200", begun="out/run.json", room=100),
    "search": Case(command=f"{_SEARCH} --proxy fake --trials 20", begun="out/run.json", room=32),
    "training search": Case(
        command=f"{_SEARCH} --proxy short-training --data ../pets --option images=64 --option resolution=32 "
        "--option precision=fp32 --trials 2",
        begun="out/run.json",
        room=600,
    ),
    "table": Case(command="table build --device onnxruntime --space tiny --threads 1 --out out.json", room=200),
    "supernet": Case(
        command="supernet train --space tiny --data ../pets --images 32 --batch-size 8 --resolution 32 --until 0 "
        "--out out.safetensors",
        room=2048,  # all: room for one checkpoint, not for the next beside it
        first="import nas.training.sandwich as sandwich\nsandwich._CHECKPOINT_S = 0.0",
    ),
    "validation": Case(
        command="validate --proxy fake --seeds 2 --band-networks 0 --budgets 1.1 --trials 4 --out out",
        begun="out/scores.jsonl",
        room=60,
    ),
}
BY_HAND = ("survey", "training search", "validation")  # twenty seconds more for CI


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run([*TMPFS, "size=2m", "tmpfs", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path, room: int) -> None:
    """Leave some KB of room."""
    status = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - room * 1024)))


def run(case: Case, disk: Path) -> subprocess.CompletedProcess[str]:
    resume = ["--resume"] if case.begun and (disk / case.begun).exists() else []
    for name in ("cache", "tmp"):
        (disk / name).mkdir(exist_ok=True)
    environment = os.environ | {"NAS_CACHE": str(disk / "cache"), "TMPDIR": str(disk / "tmp")}
    return subprocess.run(
        [sys.executable, "-c", f"{case.first}\nfrom nas.cli import main\nmain()", *case.command.split(), *resume],
        cwd=disk,
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def kept(disk: Path) -> set[str]:
    """What is finished, in words: candidates and scores with values, measured layers, a part of a training."""
    found = set()
    for path in disk.glob("out/**/*.jsonl"):
        for line in map(json.loads, path.read_text().split("\n")[:-1]):
            found.add(f"{path.name} {line.get('kind')} {line.get('seed')} {line.get('id')} {line.get('score')}")
    if (disk / "out.json").exists():
        entries = LatencyTable.load(disk / "out.json").entries
        found |= {key for key, entry in entries.items() if isinstance(entry, Timing)}
    if any((disk / f"out.safetensors{suffix}").exists() for suffix in ("", ".checkpoint")):
        found.add("a part of the training")
    return found


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("name", [name for name in CASES if ROOMS or name not in BY_HAND])
@pytest.mark.parametrize("room", ROOMS or (None,))
def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_room(
    name: str, room: int | None, disk: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    fill(disk, case.room if room is None else room)
    stopped = run(case, disk)
    if room is not None and stopped.returncode == 0:
        pytest.skip(f"{room} KB are enough")
    before = kept(disk)
    (disk / "ballast").unlink()
    subprocess.run([*TMPFS, "remount,size=64m", str(disk)], check=True)
    done = run(case, disk)

    *_, last = stopped.stderr.strip().splitlines()
    assert stopped.returncode == 1, last
    assert "Traceback" not in stopped.stderr
    assert last.startswith(("error: out", f"error: {disk}")) and ("room" in last or "No space left" in last), last
    assert stopped.stderr.count("error: ") == 1
    assert done.returncode == 0, done.stderr
    assert before <= kept(disk)
    assert room is not None or before, "nothing was finished before the disk was full"
    unwanted = (".nas-draft", ".nas-scratch-", ".lock")
    assert not [path for path in disk.rglob("*") if any(words in path.name for words in unwanted)]
