"""All commands: each has help with an example, and bad input gets one line and its exit code."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]
ROOT = Path(__file__).parents[2]
FAST = ["--space", "tiny", "--proxy", "fake", "--trials", "1"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["search", "--budget-ms", "0.1"], 4, "the cheapest is predicted at 0."),
        (["search", "--budget-ms", "-1"], 2, "--budget-ms must be a positive number"),
        (["search", "--budget-ms", "1", "--space", "iformr"], 2, "did you mean 'iformer'?"),
        (["latency", "iformer_x"], 2, "there are iformer_t"),
        (["latency", "none.json"], 2, "none.json: cannot be read"),
        (["latency", "iformer_m", "--table", "nokia"], 2, "no latency table named 'nokia'"),
        (["latency", "iformer_m", "--table", "none.json"], 2, "none.json: no such latency table file"),
        (["table", "build", "--device", "toaster"], 2, "no device named 'toaster'"),
        (["table", "build", "--device", "ssh://-oProxyCommand=x"], 2, "--device ssh://-oProxyCommand=x"),
        (["table", "build", "--device", "fake", "--option", "speed"], 2, "--option must be NAME=VALUE, got 'speed'"),
        (["table", "build", "--device", "fake", "--option", "speed=1"], 2, "its options are threads, noise"),
        (["table", "build", "--device", "fake", "--until-error", "two"], 2, "--until-error must be a share such as 2%"),
        (["table", "build", "--device", "fake", "--out", "t.csv"], 2, "t.csv: a table is a .json file"),
        (["table", "build", "--device", "onnxruntime", "--option", "provider=X"], 5, "no X in this ONNX Runtime"),
        (["table", "check", "iphone13"], 2, "was not measured by a device of this project"),
        (["table", "check", "nokia"], 2, "no latency table named 'nokia'"),
        (["table", "calibrate", "none.csv", "--out", "x.json"], 2, "none.csv"),
        (["show", "nowhere"], 2, "not a results folder"),
        (["plot", "nowhere"], 2, "not a results folder"),
        (["export", "tiny_a", "--format", "onyx"], 2, "did you mean 'onnx'?"),
        (["export", "tiny_a", "--format", "timm", "--out", "t.safetensors"], 2, "timm's iFormer cannot express"),
        (["export", "tiny_a", "--format", "onnx", "--out", "a.txt"], 2, "a.txt: --format onnx writes a .onnx file"),
        (["latency", "x" * 300], 2, "File name too long: give a shorter name"),
        (["space", "show", "own.toml"], 2, "own.toml: no such search space file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_gets_one_line_and_its_exit_code(
    nas: Nas, refused: Refused, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    done = nas(*arguments, cwd=tmp_path)

    assert done.returncode == code
    assert words in refused(done)


def test_a_typo_in_a_space_and_a_broken_table_name_the_place(nas: Nas, refused: Refused, tmp_path: Path) -> None:
    shipped = (ROOT / "search_spaces" / "tiny.toml").read_text()
    (tmp_path / "own.toml").write_text(shipped.replace("depth = 1, kernel", "depht = 1, kernel", 1))
    (tmp_path / "own.json").write_text('{"provenance": ')
    space = nas("space", "show", "own.toml", cwd=tmp_path)
    table = nas("latency", "iformer_m", "--table", "own.json", cwd=tmp_path)

    assert (space.returncode, table.returncode) == (2, 2)
    assert refused(space) == "error: own.toml: stages[0].conv.depht: unknown key; did you mean depth?"
    assert refused(table).startswith("error: own.json: Invalid JSON: EOF while parsing a value at line 1")


def test_the_exit_codes_of_the_errors_are_those_of_the_design() -> None:
    from nas import errors

    named = {name: getattr(errors, name) for name in errors.__all__}
    codes = {name: error.exit_code for name, error in named.items() if isinstance(error, type)}

    assert codes == {"NasError": 1, "InputError": 2, "MissingLatencyError": 3, "BudgetError": 4, "DeviceError": 5}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["search"],
        ["latency"],
        ["table", "build"],
        ["table", "check"],
        ["table", "list"],
        ["table", "show"],
        ["table", "calibrate"],
        ["devices"],
        ["plot"],
        ["show"],
        ["front"],
        ["export"],
        ["space", "show"],
    ],
    ids=" ".join,
)
def test_every_command_has_help_with_an_example(nas: Nas, tmp_path: Path, arguments: list[str]) -> None:
    done = nas(*arguments, "--help", cwd=tmp_path)

    assert done.returncode == 0
    assert "Usage" in done.stdout
    if arguments:
        assert f"Example: nas {' '.join(arguments)}" in done.stdout
