from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nas import scratch
from nas.files import write_beside
from nas.scratch import ScratchFolder, sweep


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the system of the test's own, for processes that it starts as well."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def killed(program: str, *arguments: str) -> str:
    """What a program says before it is killed with SIGKILL, while it waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    return said


HOLD = """
import sys
from pathlib import Path
from nas.scratch import ScratchFolder
folder = ScratchFolder("models", within=Path(sys.argv[1]) if sys.argv[1:] else None)
(folder.path / "part").mkdir()
(folder.path / "part" / "model.onnx").write_bytes(bytes(1000))
print(folder.path, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_at_the_next_start(temporary: Path) -> None:
    left = Path(killed(HOLD))
    assert (left / "part" / "model.onnx").exists()
    sweep()

    assert not left.exists()
    assert left.is_relative_to(temporary)


def test_the_next_folder_sweeps_where_it_is_made(tmp_path: Path) -> None:
    left = Path(killed(HOLD, str(tmp_path)))
    with ScratchFolder("models", within=tmp_path) as folder:
        assert not left.exists()
        assert folder.path.is_dir()
    assert not folder.path.exists()


def test_the_folder_of_a_living_process_stays() -> None:
    with ScratchFolder("models") as folder:
        subprocess.run([sys.executable, "-c", "from nas.scratch import sweep; sweep()"], check=True)
        sweep()

        assert folder.path.is_dir()


def test_a_folder_that_nobody_closes_is_removed_at_exit(temporary: Path) -> None:
    program = "from nas.scratch import ScratchFolder; folder = ScratchFolder('x'); (folder.path / 'file').touch()"
    subprocess.run([sys.executable, "-c", program], check=True)

    assert list(temporary.iterdir()) == []


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    for name in ("nas-scratch-x", "results", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / ".nas-scratch-link").symlink_to(tmp_path / "results")
    sweep(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} >= {"nas-scratch-x", "results", ".hidden"}


def test_a_folder_of_somebody_else_at_the_users_place_is_not_used(temporary: Path) -> None:
    scratch._own_path().symlink_to(temporary.parent)
    with ScratchFolder("models") as folder:
        assert folder.path.parent == temporary


DRAFT = """
import os, sys
from pathlib import Path
os.fsync = lambda handle: (print("draft", flush=True), sys.stdin.read())
from nas.files import write_beside
write_beside(Path(sys.argv[1]), bytes(1000))
"""


def test_the_draft_of_a_killed_process_is_removed_by_the_next_writer_of_the_file(tmp_path: Path) -> None:
    path, other = tmp_path / "supernet.checkpoint", tmp_path / ".supernet.checkpoint.settings"
    other.touch()
    assert killed(DRAFT, str(path)) == "draft"
    (left,) = tmp_path.glob(".supernet.checkpoint.*.nas-draft")
    write_beside(tmp_path / "another", b"")
    assert left.exists()
    write_beside(path, b"whole")

    assert not left.exists()
    assert other.exists()
    assert path.read_bytes() == b"whole"
