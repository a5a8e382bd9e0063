"""`nas export`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.export.torch import load
from nas.networks import SearchSpace
from nas.networks.modules import build_model
from nas.search import SearchResult

Nas = Callable[..., subprocess.CompletedProcess[str]]


def test_a_network_is_exported(nas: Nas, tmp_path: Path) -> None:
    done = nas("export", "tiny_a", "--format", "onnx", "--batch", "dynamic", "--opset", "18", cwd=tmp_path)

    assert done.stdout.strip() == "tiny_a.onnx"
    assert " and torch differ by " in done.stderr
    assert (tmp_path / "tiny_a.onnx").stat().st_size > 0
    assert "random weights" in done.stderr


def test_weights_of_another_number_of_classes(
    nas: Nas, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    weights = build_model(SearchSpace.find("tiny").references["tiny_a"].at(num_classes=7)).state_dict()
    torch.save({"state_dict": weights, "state_dict_ema": weights | {}, "args": Path("x")}, tmp_path / "last.ckpt")
    export = ("tiny_a", "--format", "torch", "--weights", "last.ckpt")

    other, _, refused = command(*export)
    named = ("--num-classes", "7", "--mean", "0.5,0.5,0.5", "--std", "1,1,1")
    done = nas("export", *export, *named, cwd=tmp_path)

    said = "last.ckpt: holds weights under state_dict, state_dict_ema; the averaged weights are taken, state_dict_ema: "
    said += "--weights-key state_dict takes the other (in a search --option weights_key=state_dict)\n"
    assert other == 2
    assert refused.splitlines()[-1].endswith("for its classes: --num-classes 7, or architecture.at(num_classes=7)")
    assert (done.returncode, done.stdout.splitlines()[0], done.stderr) == (0, "tiny_a.torch", said)


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
        (
            ["export", "tiny_a", "--format", "timm", "--batch", "2"],
            "--batch is no option of --format timm, which has none of its own",
        ),
    ],
)
def test_an_option_that_nothing_reads_is_refused(
    arguments: list[str], says: str, nas: Nas, refused: Callable[..., str], tmp_path: Path
) -> None:
    done = nas(*arguments, cwd=tmp_path)

    assert (done.returncode, refused(done)) == (2, f"error: {says}")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("onnx --batch many", "--format onnx: batch: must be 1 to 4096 images, or dynamic, got 'many'"),
        ("onnx --batch 0", "--format onnx: batch: must be 1 to 4096 images, or dynamic, got '0'"),
        ("onnx --opset 17", "--format onnx: opset: input should be greater than or equal to 18, got 17"),
        ("onnx --precision int4", "--format onnx: precision: input should be 'fp16' or 'fp32', got 'int4'"),
        ("onnx --int8", "--int8 needs images to calibrate with: give --data"),
        ("onnx --int8 --features", "--int8 is for whole networks in fp32: leave --precision fp16 and --features out"),
        ("onnx --input image", "--input is no option of --format onnx, which has --batch, --opset, --precision, "),
        ("onnx --mean 0.5,0.5 --std 1,1,1", "--mean must be three numbers such as 0.485,0.456,0.406, got '0.5,0.5'"),
        ("onnx --classes none.txt", "none.txt: cannot be read (No such file or directory)"),
        ("onnx --classes three.txt", "three.txt: has 3 names of classes, the network has 10 outputs"),
        ("onnx --resolution 100", "--resolution: resolution must be divisible by 32, got 100"),
        ("onnx --option image=x", "--option image=x says how images are read: give --data as well"),
        ("onnx --data pets --option size=3", "--option size=3 is no option of the data"),
        ("coreml --output classifier", "--output classifier needs the names of the classes: give --classes FILE or "),
        ("coreml --input image", "--input image needs the mean and std of the training images: give --data, or "),
        ("coreml --deployment-target iOS12", "--format coreml: deployment_target: input should be 'iOS16', 'iOS17'"),
        ("torch --push-to-hub a/b/c", "--format torch: push_to_hub: must be the name of a repository such as USER/"),
        ("timm", "timm's iFormer cannot express this network: stem must be kernel=5 expansion=4, got kernel=3 "),
        ("tim", "no export format named 'tim': there are coreml, executorch, onnx, timm, torch; did you mean"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    options: str, says: str, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "three.txt").write_text("a\nb\nc\n")

    code, out, err = command("tiny_a", "--format", *options.split())

    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {says}")
    assert [path.name for path in tmp_path.iterdir()] == ["three.txt"]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `nas export` in this process, in the folder of the test: its exit code, stdout and stderr."""
    from nas.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path.parent / "cache"))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nas", "export", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_all_files_of_a_folder_are_named(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("tiny_a", "--format", "torch", "--num-classes", "3", "--resolution", "96")

    assert code == 0
    names = ["", "/README.md", "/architecture.json", "/config.json", "/model.safetensors"]
    assert out.splitlines() == [f"tiny_a.torch{name}" for name in names]


def test_an_exported_folder_is_exported_again(command: Callable[..., tuple[int, str, str]]) -> None:
    command("tiny_a", "--format", "torch", "--num-classes", "3")

    code, out, err = command("tiny_a.torch", "--format", "torch", "--resolution", "96", "--out", "b.torch")

    assert (code, out.splitlines()[0], err) == (0, "b.torch", "")
    a, b = load(Path("tiny_a.torch")), load(Path("b.torch"))
    assert (b.card.resolution, b.card.weights_sha256) == (96, a.card.weights_sha256)


def test_run_without_weights_exports_its_architecture(
    searched: tuple[Path, dict[str, Any]], command: Callable[..., tuple[int, str, str]]
) -> None:
    folder, document = searched

    code, out, err = command(str(folder / "results" / "run"), "--format", "torch")

    assert (code, out.splitlines()[0]) == (0, "run.torch")
    assert f"has no weights of {document['winner']['id']}: the file gets random weights, good for timing only" in err


def test_a_run_on_images_brings_its_classes_and_their_normalisation(
    pets: Path, nas: Nas, command: Callable[..., tuple[int, str, str]]
) -> None:
    options = [
        "--space",
        "tiny",
        "--budget-ms",
        "0.6",
        "--proxy",
        "short-training",
        "--trials",
        "1",
        "--out",
        "results/zoo",
    ]
    small = ["--option", "images=64", "--option", "resolution=32"]
    done = nas("search", *options, "--data", "pets", *small, cwd=pets.parent)
    assert done.returncode == 0, done.stderr

    code, out, err = command("results/zoo", "--format", "torch")

    assert (code, out.splitlines()[0], err) == (0, "zoo.torch", "")
    card = load(Path("zoo.torch")).card
    assert card.class_names == ("cat", "dog")
    assert card.weights == "proxy training in zoo"
    assert card.score_source.startswith("short-training, pets: ")
    run = SearchResult.load(Path("results/zoo")).run
    assert card.normalisation == run.normalisation
    assert run.normalisation is not None
    assert run.normalisation.mean[0] > run.normalisation.mean[2]  # cats are red, dogs are green


def test_the_winner_of_a_search_that_must_fit_timm_is_written_for_it(
    nas: Nas, command: Callable[..., tuple[int, str, str]]
) -> None:
    options = ["--budget-ms", "1.1", "--must-fit", "timm", "--trials", "60", "--out", "fits"]
    done = nas("search", *options, cwd=Path())
    assert done.returncode == 0, done.stderr
    more = nas("search", "--resume", "fits", cwd=Path())

    code, out, err = command("fits", "--format", "timm")

    said = "space: only the networks that timm can build, as --must-fit says"
    assert said in done.stderr
    assert said in more.stderr
    assert SearchResult.load(Path("fits")).run.space.must_fit == "timm"
    assert 'must-fit = "timm"' in Path("fits/run.toml").read_text()
    assert "all of which fit timm" in Path("fits/report.md").read_text()
    assert (code, out.splitlines()) == (0, ["fits.safetensors", "fits.timm.json"])
    assert "random weights" in err


def test_what_timm_cannot_build_is_refused_with_two_ways_on(
    searched: tuple[Path, dict[str, Any]], command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = command(str(searched[0] / "results" / "run"), "--format", "timm")

    assert code == 2
    assert "timm's iFormer cannot express this network: stem must be" in err
    assert err.endswith(
        "; --format torch takes every network, and a search --must-fit timm finds none but those that fit\n"
    )


def test_help_says_what_timm_can_express(nas: Nas, tmp_path: Path) -> None:
    words = " ".join(nas("export", "--help", cwd=tmp_path).stdout.replace("│", " ").split())

    assert "torch (takes every network) or timm (only 5x5 stem, 7x7 convolutions" in words
