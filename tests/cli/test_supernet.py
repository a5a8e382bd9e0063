"""`nas supernet`: what it trains, prints and refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from nas.cli.supernet import supernet_list
from nas.training.supernet import read_supernet

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]


def test_a_supernet_scores_the_data_that_it_was_trained_on_and_no_renamed_class(
    nas: Nas, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # Tiny networks are much slower on several threads of a busy machine.
    _draw(tmp_path / "pets", classes=("cat", "dog"))
    small = ["--space", "tiny", "--resolution", "32", "--images", "32", "--batch-size", "16", "--out", "x.safetensors"]
    trained = nas("supernet", "train", "--data", "pets", *small, cwd=tmp_path)
    shutil.copytree(tmp_path / "pets", tmp_path / "copy")
    scoring = [
        "--budget-ms",
        "1.1",
        "--space",
        "tiny",
        "--trials",
        "1",
        "--proxy",
        "supernet",
        "--option",
        "precision=fp32",
    ]
    scored = nas("search", *scoring, "--supernet", "x.safetensors", "--data", "copy", cwd=tmp_path)
    (tmp_path / "copy" / "dog").rename(tmp_path / "copy" / "hound")
    renamed = nas("search", *scoring, "--supernet", "x.safetensors", "--data", "copy", cwd=tmp_path)

    assert (trained.returncode, trained.stdout) == (0, "x.safetensors\n"), trained.stderr
    assert "--data pets" in trained.stderr
    assert read_supernet(tmp_path / "x.safetensors")[1].class_names == ("cat", "dog")
    assert scored.returncode == 0, scored.stderr
    (tmp_path / "cache" / "supernets").mkdir(parents=True)
    shutil.copy(tmp_path / "x.safetensors", tmp_path / "cache" / "supernets" / "kept.safetensors")
    (kept,) = json.loads(nas("supernet", "list", "--json", cwd=tmp_path).stdout)["supernets"]
    assert (kept["space"], kept["classes"], kept["resolution"], kept["seed"]) == ("tiny", 2, 32, 0)
    assert kept["data"].startswith("pets: ")
    assert renamed.returncode == 2
    assert refused(renamed) == (
        "error: x.safetensors was trained on other images than copy has now: class 'dog' is called 'hound'; give the "
        "images that it was trained on, with the same names of classes, or train a supernet on these"
    )


def test_kept_supernets_are_listed_also_broken_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    supernet_list()
    none = capsys.readouterr()
    broken = tmp_path / "supernets" / "half.safetensors"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"half")
    supernet_list()
    shown = capsys.readouterr().out
    supernet_list(as_json=True)

    assert none.out == ""
    assert none.err == "no supernet is kept yet: nas search --budget-ms 1.1 --data IMAGES trains one\n"
    assert f"{broken} is damaged, or no supernet" in shown
    assert json.loads(capsys.readouterr().out)["supernets"][0]["supernet"] == str(broken)


def test_a_file_that_is_no_safetensors_is_refused(nas: Nas, refused: Refused, tmp_path: Path) -> None:
    done = nas("supernet", "train", "--space", "tiny", "--out", "x.pth", cwd=tmp_path)

    assert (done.returncode, refused(done)) == (2, "error: x.pth: a supernet is a .safetensors file")


def test_a_resolution_that_cannot_be_halved_five_times_is_refused(nas: Nas, refused: Refused, tmp_path: Path) -> None:
    done = nas("supernet", "train", "--space", "tiny", "--resolution", "48", cwd=tmp_path)

    assert (done.returncode, refused(done)) == (2, "error: --resolution must be a multiple of 32, got 48")


def test_a_supernet_may_learn_the_labels_of_a_teacher(
    nas: Nas, fake_teacher: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    _draw(tmp_path / "pets", classes=("cat", "dog"))
    small = ["--space", "tiny", "--resolution", "32", "--images", "32", "--batch-size", "16", "--out", "x.safetensors"]
    trained = nas("supernet", "train", "--data", "pets", *small, "--teacher", "efficientnet-lite0", cwd=tmp_path)

    assert (trained.returncode, trained.stdout) == (0, "x.safetensors\n"), trained.stderr
    _, origin, _ = read_supernet(tmp_path / "x.safetensors")
    assert (origin.teacher, origin.num_classes, origin.recipe.label_smoothing) == ("efficientnet-lite0", 1000, 0.0)
    assert origin.data == "pets: 22 train and 2 val images of 2 classes at 32 px, labels by efficientnet-lite0"


def test_an_unknown_teacher_is_refused_before_any_image_is_read(nas: Nas, refused: Refused, tmp_path: Path) -> None:
    done = nas("supernet", "train", "--space", "tiny", "--data", "nothing", "--teacher", "resnet", cwd=tmp_path)

    expected = "error: no teacher named 'resnet': there are efficientnet-lite0, efficientnet-lite2"
    assert (done.returncode, refused(done)) == (2, expected)


def _draw(folder: Path, *, classes: tuple[str, ...]) -> None:
    """A folder of class folders with twelve images each, brighter and brighter."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(12):
            Image.new("RGB", (32, 32), (20 * index, 100, 100)).save(folder / name / f"{index}.png")
