"""Without the extras the main job is done, and what needs one says which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

HIDDEN = (
    "coremltools",
    "datasets",
    "huggingface_hub",
    "kaleido",
    "pyarrow",
    "pandas",
    "timm",
    "psycopg",
    "tensorboard",
)
SCRIPT = """
import sys
from importlib.machinery import PathFinder

class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden)
from nas.cli import main
main()
"""


def bare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """nas where no extra is installed."""
    command = [sys.executable, "-c", SCRIPT.format(hidden=set(HIDDEN)), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200)


def test_the_first_command_needs_no_extra(tmp_path: Path) -> None:
    done = bare(tmp_path, "search", "--budget-ms", "1.1", "--trials", "300", "--out", "run")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()


def test_images_in_folders_need_no_extra(tmp_path: Path) -> None:
    for name, colour in (("red", 200), ("blue", 40)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (32, 32), (colour, number, 255 - colour)).save(
                tmp_path / "photos" / name / f"{number}.png"
            )
    options = ("--space", "tiny", "--budget-ms", "1.1", "--proxy", "zero-cost:naswot", "--trials", "2")
    done = bare(tmp_path, "search", *options, "--data", "photos")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "tiny_a", "--format", "coreml"), "Core ML needs coremltools: pip install 'nas[coreml]'"),
        (("search", "--budget-ms", "1.1", "--data", "some/set"), "data sets of the hub need pip install 'nas[data]'"),
        (("search", "--budget-ms", "1.1", "--data", "rows.parquet"), "needs the package pyarrow"),
    ],
    ids=["coreml", "hub", "parquet"],
)
def test_what_needs_an_extra_says_which(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    done = bare(tmp_path, *arguments)

    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1], done.stderr
