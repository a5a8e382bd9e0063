"""`nas evaluate`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from nas.cli import main
from nas.evaluate import Evaluation

Command = Callable[..., tuple[int, str, str]]
NORMAL = ("--mean", "0,0,0", "--std", "1,1,1")
CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of three colours, one of which lies, and networks that tell red, green and blue apart."""
    folder = tmp_path_factory.mktemp("place")
    for channel, name in enumerate(CLASSES):
        (folder / "val" / name).mkdir(parents=True)
        for index in range(4):
            colour = [20 * index, 20 * index, 20 * index]
            colour[channel if (name, index) != ("blue", 3) else 0] = 200
            Image.new("RGB", (40, 40), tuple(colour)).save(folder / "val" / name / f"{index}.png")
    _write_onnx(folder / "colours.onnx", 3)
    _write_onnx(folder / "many.onnx", 1000)
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    (folder / "words.txt").write_text("not an ONNX file\n")
    (folder / "broken.onnx").write_bytes(b"not an ONNX file")
    (folder / "weights.pth").write_bytes(b"x")
    (folder / "net.pte").write_bytes(b"x")
    (folder / "empty").mkdir()
    return folder


def _write_onnx(path: Path, outputs: int) -> None:
    """The mean of each channel as the first three outputs."""
    weight = numpy_helper.from_array(np.eye(3, outputs, dtype=np.float32), "w")
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
    found = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])
    graph = helper.make_graph(nodes, "g", [given], [found], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.fixture
def command(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run `nas evaluate` in this process: its exit code, stdout and stderr."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nas", "evaluate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_words_say_the_scores_and_where_they_are_from(command: Command) -> None:
    code, out, err = command("colours.onnx", "--data", "val", "--classes", "classes.txt", *NORMAL)

    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("network: colours.onnx, ONNX Runtime ")
    assert lines[0].endswith(", CPUExecutionProvider, weights in fp32")
    assert lines[1:5] == [
        "weights: those in the file",
        "data: val, val: 12 images of 3 classes",
        "protocol: decoded, upright, RGB; short side scaled to 36 px (bicubic); middle 32 px cut out (crop 0.875); "
        "normalised by mean (0, 0, 0) and std (1, 1, 1) as asked for",
        "classes: matched by their names",
    ]
    assert lines[6].split() == ["3", "91.67", "%", "[64.61,", "98.51]", "-", lines[6].split()[-2], "nats"]
    assert "images/s in " in lines[7]
    assert lines[7].endswith("batches of 32); not a latency")
    assert [line.split() for line in lines[9:12]] == [
        ["blue", "75.0", "%", "3", "4"],
        ["green", "100.0", "%", "4", "4"],
        ["red", "100.0", "%", "4", "4"],
    ]
    assert lines[12] == "the most frequent confusions, 1 of 1:"
    assert lines[14].split() == ["blue", "red", "1"]


def test_document_has_all_of_it(command: Command) -> None:
    code, out, _ = command("colours.onnx", "--data", "val", "--classes", "classes.txt", *NORMAL, "--json")

    found = Evaluation.model_validate(json.loads(out))
    assert code == 0
    assert found.scores.top1.right == 11
    assert {(one.actual, one.predicted): one.images for one in found.scores.confusions} == {
        ("blue", "red"): 1,
        ("red", "red"): 4,
        ("green", "green"): 4,
        ("blue", "blue"): 3,
    }


def test_predictions_go_to_a_file(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "found.csv"

    code, _, _ = command("colours.onnx", "--data", "val", "--classes", "classes.txt", *NORMAL, "--out", str(out))

    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert code == 0
    assert [row["actual"] for row in rows if row["rank"] != "1"] == ["blue"]
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["found.confusion.csv", "found.csv"]


def test_of_more_outputs_than_classes_both_scores_are_shown(command: Command, place: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join([*CLASSES, *(f"other {place}" for place in range(997))]))

    code, out, _ = command("many.onnx", "--data", "val", "--classes", str(names), *NORMAL)

    lines = out.splitlines()
    assert code == 0
    assert lines[6].startswith(" of all 1000 ")
    assert lines[7].startswith(" of the 3 of the data ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("nowhere.onnx --data val", "nowhere.onnx: no such file"),
        ("broken.onnx --data val", "broken.onnx: ONNX Runtime does not load it ("),
        ("nowhere.torch --data val", "nowhere.torch/config.json: cannot be read (No such file or directory)"),
        ("words.txt --data val", "words.txt: "),
        ("iformer_x --data val", "no network named 'iformer_x': there are "),
        (
            "iformer_m --data val",
            "iformer_m: has no weights of its own: give --weights FILE, or --weights timm for the",
        ),
        ("iformer_m --data val --weights-key ema", "--weights-key goes with --weights FILE"),
        (
            "iformer_m --data val --weights weights.pth",
            "weights.pth: not loaded, it is neither a safetensors nor a tor",
        ),
        ("iformer_m --data val --weights gone.pth", "gone.pth: cannot be read (no such file)"),
        (
            "weights.pth --data val",
            "weights.pth: is weights alone: nas evaluate NETWORK --weights weights.pth, with th",
        ),
        ("net.pte --data val", "net.pte: files of ExecuTorch are not run here; export the network to ONNX as well"),
        (
            "empty --data val",
            "empty: neither a results folder (run.json), nor a .torch folder (config.json), nor one o",
        ),
        (
            "colours.onnx --data val",
            "colours.onnx: the mean and std of its images are not known: give --mean and --std",
        ),
        ("colours.onnx --data val --mean 0,0,0", "--mean and --std go together"),
        ("colours.onnx --data val --mean 0,0 --std 1,1", "--mean must be three numbers such as 0.485,0.456,0.406, got"),
        ("colours.onnx --data val --mean 0,0,9 --std 1,1,1", "--mean and --std: mean[2]: input should be less than or"),
        ("colours.onnx --data val --weights weights.pth", "colours.onnx has its weights and classes: leave --weights"),
        ("colours.onnx --data gone/ NORMAL", "gone/: not a file or folder here"),
        ("colours.onnx --data val --resolution 64 NORMAL", "colours.onnx: takes images of 32 px only: leave --resolut"),
        ("colours.onnx --data val --crop 2 NORMAL", "the protocol: crop: input should be less than or equal to 1, got"),
        ("colours.onnx --data val --interpolation cubic NORMAL", "--interpolation must be one of nearest, bilinear, b"),
        ("colours.onnx --data val --split test NORMAL", "--split must be one of val, train, all, got 'test'"),
        ("colours.onnx --data val --option size=3 NORMAL", "--option size=3 is no option of the data"),
        ("colours.onnx --data val --out x.txt NORMAL", "x.txt: --out is a .csv file in a folder that is there"),
        ("colours.onnx --data val --classes gone.txt NORMAL", "gone.txt: cannot be read (No such file or directory)"),
        ("many.onnx --data val NORMAL", "many.onnx: the names of its 1000 outputs are not known, and val has 3 classe"),
        ("many.onnx --data val --classes classes.txt NORMAL", "many.onnx: has 1000 outputs and 3 names of classes"),
        ("colours.onnx --data synthetic NORMAL", "--data synthetic: its images are drawn and no file; give images, su"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: str, says: str, command: Command, place: Path) -> None:
    before = sorted(place.rglob("*"))

    code, out, err = command(*(word for part in arguments.split() for word in (NORMAL if part == "NORMAL" else [part])))

    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {says}")
    assert "Traceback" not in err
    assert sorted(place.rglob("*")) == before


def test_a_run_that_trained_nothing_is_refused(
    searched: tuple[Path, dict[str, Any]], command: Command, place: Path
) -> None:
    folder, document = searched

    code, _, err = command(str(folder / "results" / "run"), "--data", "val")

    assert code == 2
    assert f"run: has no weights of its winner {document['winner']['id']}, as nothing was trained" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("net.mlpackage --data val", "net.mlpackage: a Core ML package runs on a Mac only"),
        ("colours.onnx --data val --device cuda", "ONNX Runtime has no CUDAExecutionProvider here, only "),
    ],
)
def test_what_is_not_here_to_run_it_ends_with_its_own_code(
    arguments: str, says: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    (tmp_path / "net.mlpackage").mkdir()
    (tmp_path / "colours.onnx").write_bytes((place / "colours.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # without the program of every macOS

    code, _, err = command(*arguments.split())

    assert code == 5
    assert err.splitlines()[-1].startswith(f"error: {says}")


def test_it_is_a_process_like_any_other(nas: Callable[..., subprocess.CompletedProcess[str]], place: Path) -> None:
    done = nas("evaluate", "colours.onnx", "--data", "val", *NORMAL, "--json", cwd=place)

    found = json.loads(done.stdout)
    assert (done.returncode, found["images"], found["form"]) == (0, 12, "onnx")
    assert found["matched"].startswith("by order: the outputs have no names")
    assert found["scores"]["top1"]["right"] == 5  # blue is taken for red: the greens are right, and the one that lies
