from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Nas = Callable[..., subprocess.CompletedProcess[str]]
SIZES = ("--resolution", "32", "--batch-size", "8", "--epochs", "1", "--workers", "0", "--precision", "fp32")

pytestmark = pytest.mark.usefixtures("timm")


def test_a_training_prints_its_folder_and_what_comes_next(nas: Nas, pets: Path, tmp_path: Path) -> None:
    done = nas("train", "tiny_a", "--data", "pets", *SIZES, "--track", "tensorboard", cwd=tmp_path)
    folder = tmp_path / "results/tiny_a-trained"

    assert (done.returncode, done.stdout) == (0, "results/tiny_a-trained\n"), done.stderr
    assert "1 epoch of 5 steps with 8 images of 32 px, from random weights, on cpu in fp32" in done.stderr
    assert "epoch 1: loss " in done.stderr
    assert "nas evaluate results/tiny_a-trained --data pets" in done.stderr
    names = {"best.torch", "last.torch", "checkpoint.safetensors", "metrics.jsonl", "training.html", "training.json"}
    assert names | {"tensorboard"} == {entry.name for entry in folder.iterdir() if "lock" not in entry.name}

    again = nas("train", "tiny_a", "--data", "pets", *SIZES, "--json", cwd=tmp_path)
    document = json.loads(again.stdout)
    assert [
        document["folder"],
        document["best"]["epoch"],
        document["last"]["epoch"],
    ] == ["results/tiny_a-trained", 1, 1]
    assert {"top1", "top5", "cross_entropy"} == set(document["best"]["figures"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--precision", "fp8"), "--precision must be fp32 or bf16, got 'fp8'"),
        (("--track", "wandb"), "--track must be tensorboard[:DIR] for a training, got wandb"),
        (("--option", "colour=red"), "--option colour=red: nas train takes image, label and skip_broken, of the data"),
        (("--recipe", "none.toml"), "none.toml"),
    ],
)
def test_bad_options_are_one_line(
    arguments: tuple[str, str], says: str, nas: Nas, refused: Callable[..., str], pets: Path, tmp_path: Path
) -> None:
    done = nas("train", "tiny_a", "--data", "pets", *SIZES, *arguments, cwd=tmp_path)

    assert says in refused(done)


def test_the_winner_of_a_run_is_trained_inside_it(
    nas: Nas, searched: tuple[Path, dict[str, object]], pets: Path, tmp_path: Path
) -> None:
    folder, document = searched
    done = nas("train", str(folder / "results/run"), "--data", "pets", *SIZES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "results/run/trained/winner/training.json").read_text())

    winner = document["winner"]
    assert isinstance(winner, dict)
    assert winner["id"] == record["candidate_id"]

    shown = nas("show", str(folder / "results/run"), cwd=tmp_path)
    page = (folder / "results/run/report.html").read_text()
    assert re.search(
        r"how good it is, by each measure: [\d.]+ by fake; [\d.]+% top-1, epoch 1 of 1 on pets", shown.stdout
    )
    assert "trained in full" in page
