"""`nas export`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nas.networks import SearchSpace
from nas.networks.modules import build_model

Nas = Callable[..., subprocess.CompletedProcess[str]]


def test_a_network_is_exported(nas: Nas, tmp_path: Path) -> None:
    done = nas("export", "tiny_a", "--format", "onnx", cwd=tmp_path)

    assert done.stdout.strip() == "tiny_a.onnx"
    assert (tmp_path / "tiny_a.onnx").stat().st_size > 0
    assert "random weights" in done.stderr


def test_weights_of_another_number_of_classes(nas: Nas, refused: Callable[..., str], tmp_path: Path) -> None:
    weights = build_model(SearchSpace.find("tiny").references["tiny_a"].at(num_classes=7)).state_dict()
    torch.save({"state_dict": weights, "state_dict_ema": weights | {}, "args": Path("x")}, tmp_path / "last.ckpt")
    export = ("export", "tiny_a", "--format", "onnx", "--weights", "last.ckpt")

    other = nas(*export, cwd=tmp_path)
    done = nas(*export, "--num-classes", "7", cwd=tmp_path)

    said = "last.ckpt: holds weights under state_dict, state_dict_ema; the averaged weights are taken, state_dict_ema: "
    said += "--weights-key state_dict takes the other (in a search --option weights_key=state_dict)\n"
    assert other.returncode == 2
    assert refused(other).endswith("for its classes: --num-classes 7, or architecture.at(num_classes=7)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "tiny_a.onnx\n", said)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "tiny_a", "--format", "onnx", "--weights-key", "ema"], "--weights-key goes with --weights FILE"),
        (
            ["export", "tiny_a", "--format", "onnx", "--budget-ms", "1"],
            "--budget-ms chooses among the winners of a run, and tiny_a is none: leave it out",
        ),
        (["supernet", "train", "--space", "tiny", "--weights-key", "ema"], "--weights-key goes with --init FILE"),
        (["export", "tiny_a", "--format", "onnx", "--weights", "."], ".: is a folder; name the file of the weights"),
    ],
)
def test_an_option_that_nothing_reads_is_refused(
    arguments: list[str], says: str, nas: Nas, refused: Callable[..., str], tmp_path: Path
) -> None:
    done = nas(*arguments, cwd=tmp_path)

    assert (done.returncode, refused(done)) == (2, f"error: {says}")
