from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.networks import find_network

Nas = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = """
resolution = 64
[optimisation]
epochs = 1
[model]
steps = 1
crop = 64
short = 64
channels = 8
decoder = 8
"""


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    for name in ("images", "masks"):
        (tmp_path / "shapes" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 2, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "shapes" / name / f"{number}.png")
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def test_a_segmenter_is_trained_and_printed(nas: Nas, masks: Path) -> None:
    command = ("train", "tiny_a", "--data", "shapes", "--task", "segment", "--recipe", "r.toml", "--workers", "0")

    done = nas(*command, cwd=masks)

    assert (done.returncode, done.stdout) == (0, "results/tiny_a-segment\n"), done.stderr
    assert "the training of a segmenter over tiny_a begins: 1 epochs of 1 steps with 2 images" in done.stderr
    assert "epoch 1: loss " in done.stderr and "mIoU " in done.stderr
    document = json.loads(nas(*command, "--json", cwd=masks).stdout)
    assert {"miou", "class_accuracy", "pixel_accuracy"} == set(document["best"]["figures"])


def test_the_network_is_read_from_stdin(nas: Nas, masks: Path) -> None:
    _, architecture = find_network("tiny_a")
    options = ("--data", "shapes", "--task", "segment", "--recipe", "r.toml", "--workers", "0")

    done = nas("train", "-", *options, cwd=masks, stdin=architecture.to_json())

    assert (done.returncode, done.stdout) == (0, "results/stdin-segment\n"), done.stderr
    assert "the training of a segmenter over stdin begins" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--task", "detct"), "--task must be classify, detect or segment, got 'detct'"),
        (("--task", "segment", "--teacher", "efficientnet-lite0"), "--teacher is of --task classify"),
        (("--task", "segment", "--resolution", "64"), "--resolution is of --task classify"),
        (
            ("--task", "segment", "--recipe", "r.toml", "--epochs", "2"),
            "r.toml: optimisation.epochs is in it: leave --epochs or the line out",
        ),
    ],
)
def test_bad_options_are_one_line(
    arguments: tuple[str, ...], says: str, nas: Nas, refused: Callable[..., str], masks: Path
) -> None:
    assert says in refused(nas("train", "tiny_a", "--data", "shapes", *arguments, cwd=masks))
