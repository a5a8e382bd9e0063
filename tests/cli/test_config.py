"""Options from a file, the environment, and the run that is resumed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from nas.cli import app
from nas.cli.config import expanded, options_file
from nas.errors import InputError

Nas = Callable[..., subprocess.CompletedProcess[str]]

FAKE = ("--space", "tiny", "--budget-ms", "1.1", "--proxy", "fake", "--trials", "3")


@pytest.fixture
def group() -> TyperGroup:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    return command


def test_what_is_typed_counts_most_then_the_file_then_the_environment(group: TyperGroup, tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    file.write_text('budget_ms = 0.9\ntrials = 7\nlimit = ["params=9M", "macs=2G"]\n')
    typed = ["search", "--budget-ms", "1.1", "--config", str(file)]
    environment = {"NAS_SPACE": "tiny", "NAS_TRIALS": "5", "NAS_OUT": "x", "NAS_STORAGE": "y", "NAS_NO_OPTION": "z"}

    assert expanded(group, typed, environment) == [
        *("search", "--space", "tiny", "--trials", "7", "--limit", "params=9M", "--limit", "macs=2G"),
        *("--budget-ms", "1.1"),
    ]
    assert expanded(group, ["table", "build"], {"NAS_THREADS": "2"}) == ["table", "build", "--threads", "2"]


@pytest.mark.parametrize(
    "words", [[], ["nope"], ["table"], ["search", "--nope"], ["latency", "x", "--json"], ["--help"]]
)
def test_a_command_line_that_has_all_is_left_alone(group: TyperGroup, words: list[str]) -> None:
    assert expanded(group, words, {}) == words


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("budgetms = 1", r"search\.toml: budgetms is no option of nas search; did you mean budget-ms\?"),
        ("resume = true", r"search\.toml: resume is no option of nas search"),
        ("trials = [1, 2]", r"search\.toml: trials must be one value"),
        ("[space]\nname = 1", r"search\.toml: space must be one value"),
        ("trials = true", r"search\.toml: trials must be a text or a number"),
        ("trials = ", r"search\.toml: not TOML: Invalid value"),
    ],
)
def test_a_file_with_something_else_is_refused(group: TyperGroup, tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "search.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=words):
        expanded(group, ["search", "--config", str(file)], {})


def test_a_file_that_is_not_there_is_refused(group: TyperGroup) -> None:
    with pytest.raises(InputError, match=r"--config none\.toml: No such file or directory"):
        expanded(group, ["search", "--config=none.toml"], {})
    with pytest.raises(InputError, match=r"--config needs the name of a \.toml file"):
        expanded(group, ["search", "--config"], {})
    with pytest.raises(InputError, match="--config twice: give it once"):
        expanded(group, ["search", "--config", "a", "--config", "b"], {})


def test_a_run_goes_on_and_is_repeated_without_another_option(nas: Nas, tmp_path: Path) -> None:
    begun = nas("search", *FAKE, "--out", "run", "--json", cwd=tmp_path)
    resumed = nas("search", "--resume", "run", "--trials", "5", cwd=tmp_path)
    again = nas("search", "--config", "run/run.toml", "--out", "again", cwd=tmp_path)
    command = json.loads((tmp_path / "run" / "run.json").read_text())["command"]

    assert [one.returncode for one in (begun, resumed, again)] == [0, 0, 0], resumed.stderr + again.stderr
    found = [(tmp_path / name / "candidates.jsonl").read_text().count("\n") for name in ("run", "again")]
    assert found == [6, 6]  # the reference is one of them
    assert all(
        f"{option} {value}" in command for option, value in zip(FAKE[::2], FAKE[1::2], strict=True) if value != "3"
    )


def test_a_password_is_not_in_the_file() -> None:
    text = options_file("nas search --storage 'postgresql://me:***@host/db' --data 'a \"b\"' --seed 3")

    assert text.splitlines()[1:] == ['data = "a \\"b\\""', "seed = 3"]
