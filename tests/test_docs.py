"""What the documentation says must be so: every command runs, or is marked with what it needs."""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from nas.cli import app
from nas.cli.config import expanded

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST = "nas search --budget-ms 1.1"
FEW = "--trials=300"  # networks of a survey, which are 20,000 by default
PROXY = "def score(network):\n    return float(sum(1 for _ in network.layers()))\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of commands: ```sh, or with what it needs ```sh title="needs a phone"."""

    needs: str | None
    commands: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    found = re.findall(r'^```sh(?: title="((?:needs|takes) [^"]+)")?\n(.*?)^```$', page.read_text(), re.M | re.S)
    return [Block(needs=needs or None, commands=tuple(lines.splitlines())) for needs, lines in found]


def nas_commands(line: str) -> list[list[str]]:
    """The arguments of the nas commands in a line of a shell."""
    words = list(shlex.shlex(line, posix=True, punctuation_chars=True))
    parts = [shlex.split(part) for part in line.split("&&")]
    assert words
    return [part[1:] for part in parts if part[0].rpartition("/")[2] == "nas"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_can_be_parsed(page: Path) -> None:
    group = typer.main.get_command(app)
    for block in blocks(page):
        for arguments in (one for line in block.commands for one in nas_commands(line)):
            if "--config" in arguments:  # a file that only a run leaves
                arguments = arguments[: arguments.index("--config")]
            rest = expanded(group, arguments, {})
            context, command = group.make_context("nas", list(rest)), group
            while isinstance(command, click.Group | typer.core.TyperGroup):
                name, command, rest = command.resolve_command(context, rest)
                assert name is not None and command is not None
                context = command.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not block.needs for block in blocks(page))], ids=lambda page: page.stem
)
def test_every_command_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for block in blocks(page) if not block.needs for line in block.commands]
    prepare(tmp_path, is_first=FIRST in lines)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    group = typer.main.get_command(app)
    for line in lines:
        (arguments,) = nas_commands(line)
        is_survey = arguments[0] == "search" and not {"--proxy", "--data", "--resume", "--trials", "--config"} & set(
            arguments
        )
        whole = expanded(group, [*arguments, FEW] if is_survey else arguments, {})
        monkeypatch.setattr(sys, "argv", ["nas", *whole])
        done = CliRunner().invoke(app, whole)

        assert done.exit_code == 0, (line, done.output, done.exception)


@pytest.mark.parametrize("page", [page for page in PAGES if ">>> " in page.read_text()], ids=lambda page: page.stem)
def test_every_example_in_python_is_right(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert doctest.testfile(str(page), module_relative=False).failed == 0


def prepare(folder: Path, *, is_first: bool) -> None:
    """What a reader has: the results of the first search and of a validation, a proxy and a space of one's own."""
    (folder / "results").mkdir()
    shutil.copytree(ROOT / "results" / "validation", folder / "results" / "validation")
    if not is_first:
        shutil.copytree(ROOT / "results" / "survey-1.1ms", folder / "results" / "iformer-1.1ms")
    (folder / "my_proxy.py").write_text(PROXY)
    text = (ROOT / "search_spaces" / "README.md").read_text()
    (folder / "my_space.toml").write_text(text.split("```toml\n")[1].split("```")[0])


def test_every_command_there_is_is_shown() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"nas {name}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_commands_that_set_up_install_with_the_constraints() -> None:
    text = "".join(page.read_text() for page in PAGES)
    commands = re.findall(r"^python3 -m venv .*$", text, flags=re.MULTILINE)

    assert len(commands) == 3
    assert all("pip install -c constraints.txt" in command for command in commands)
