"""The examples in --help: all of them are read by their commands, and those that take seconds are run, one by one."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from nas import cli

ROOT = Path(__file__).parents[2]
NOT_RUN = {  # beginning -> why; all others are run
    "nas search --budget-ms 1.1 --data": "needs images, and hours",
    "nas worker": "needs a search to join",
    "nas supernet train": "trains",
    "nas train": "trains; test_train.py runs the first",
    "nas validate --proxy": "needs images, and hours",
    "nas table build": "needs a device, and minutes",
    "nas table check": "needs a device, and minutes",
    "nas evaluate": "needs images, and a network that was trained",
    "nas export": "is run by test_export.py, with its runtime",
    "nas table calibrate": "is run by test_calibrate.py; takes seconds",
    "nas plot": "needs a browser",
}


def _commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands(command, (*path, name))
        else:
            assert isinstance(command, TyperCommand)
            yield (*path, name), command


def _group() -> TyperGroup:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    return group


COMMANDS = dict(_commands(_group()))
EXAMPLES = {
    path: re.findall(r"^ *Example: (nas .+)$", command.help or "", re.MULTILINE) for path, command in COMMANDS.items()
}
EACH = [(path, example) for path, examples in EXAMPLES.items() for example in examples]


@pytest.mark.parametrize("path", EXAMPLES, ids=" ".join)
def test_every_command_has_one_to_three_examples_of_its_own(path: tuple[str, ...]) -> None:
    assert 1 <= len(EXAMPLES[path]) <= 3
    assert all(example.startswith(" ".join(["nas", *path])) for example in EXAMPLES[path])


@pytest.mark.parametrize(("path", "example"), EACH, ids=lambda value: value if isinstance(value, str) else "")
def test_every_example_is_read(path: tuple[str, ...], example: str) -> None:
    words = shlex.split(example)[1 + len(path) :]
    if "--resume" in words:  # whose folder is an option of its own (cli/config.py)
        words[words.index("--resume") + 1] = "--out=run"
    COMMANDS[path].make_context(path[-1], words)


def test_every_example_that_takes_seconds_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, as some of them use what others write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_TRIALS", "60")  # in place of 20,000
    monkeypatch.setenv("NAS_SURVEY", "60")
    monkeypatch.setattr("sys.argv", ["nas"])
    shutil.copytree(ROOT / "latency_tables", "latency_tables", ignore=shutil.ignore_patterns("*.json"))
    examples = [example for _, example in EACH]
    skipped = {example: next((begin for begin in NOT_RUN if example.startswith(begin)), None) for example in examples}

    assert {*skipped.values()} - {None} == {*NOT_RUN}
    # The search comes first, which writes the results that others show; the cache is looked at while it is empty.
    for example in [one for one in examples if skipped[one] is None]:
        if "winner.json" in example:
            shutil.copy("results/iformer-1.1ms/winner.json", "winner.json")
        assert cli._run(shlex.split(example)[1:]) in (None, 0), example
