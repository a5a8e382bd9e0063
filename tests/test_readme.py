"""What the README says must be so: its commands, its tree, its links, and the fields of the space format."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from nas.cli import app
from nas.networks import SearchSpace
from nas.networks.choices import AttentionChoices, ConvChoices, DownsampleChoices, StageChoices, StemChoices

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_command_it_shows_exists() -> None:
    group = typer.main.get_command(app)
    shown = set(re.findall(r"(?:^|/)nas ([a-z]+(?: [a-z]+)?)", README, flags=re.MULTILINE))
    commands = set(group.commands)  # type: ignore[attr-defined]

    assert shown
    for words in shown:
        first, *rest = words.split()
        assert first in commands
        nested = getattr(group.commands[first], "commands", {})  # type: ignore[attr-defined]
        assert not nested or rest[0] in nested


def test_every_command_there_is_is_shown() -> None:
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"nas {name}" in README


def test_the_tree_names_every_module_and_only_these() -> None:
    tree = README.split("```\nnas/\n")[1].split("```")[0].split("search_spaces/")[0]
    written = {line.split()[0].strip("/") for line in tree.splitlines() if line.strip()}
    aside = {"__init__.py", "__pycache__", "_shipped"}
    there = {path.name for path in (ROOT / "nas").iterdir()} - aside

    assert there == written


def test_the_tree_of_contributing_names_every_file_and_only_these() -> None:
    tree = CONTRIBUTING.split("```\nnas/\n")[1].split("search_spaces/")[0]
    folders, written = [ROOT / "nas"], set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        first, *words = line.split()
        if first.endswith("/"):
            folders[depth:] = [folders[depth - 1] / first]
        else:
            folders[depth:] = []
            words.append(first)
        written |= {folders[-1] / word for word in words if word.endswith((".py", ".mjs", ".html"))}
    there = {path for suffix in ("py", "mjs", "html") for path in (ROOT / "nas").rglob(f"*.{suffix}")}
    plain = {path for path in there if path.name == "__init__.py"} - written

    assert there - plain == written


def test_links_lead_somewhere() -> None:
    for path in (ROOT / "README.md", ROOT / "search_spaces/README.md", ROOT / "latency_tables/README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_both_set_up_commands_install_with_the_constraints() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)

    assert len(commands) == 2
    assert all("pip install -c constraints.txt" in command for command in commands)


def test_the_space_readme_documents_every_field() -> None:
    text = (ROOT / "search_spaces" / "README.md").read_text()
    fields = {name if name != "schema_version" else "schema" for name in SearchSpace.model_fields} - {"reference"}
    fields |= {"channels", "placement"}
    for prefix, choices in (
        ("stem", StemChoices),
        ("downsample", DownsampleChoices),
        ("conv", ConvChoices),
        ("attention", AttentionChoices),
    ):
        fields |= {f"{prefix}.{name}" for name in choices.model_fields}
    fields -= {"stem", "downsample"}
    documented = set(re.findall(r"^\| `([a-z_.]+)` \|", text, flags=re.MULTILINE))
    placements = {"late", "end", "interleaved", "start"}

    assert fields | placements == documented
    assert set(StageChoices.model_fields) == {"channels", "conv", "attention", "placement"}


def test_the_example_space_of_the_readme_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "search_spaces" / "README.md").read_text()
    path = tmp_path / "camera.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0])

    assert SearchSpace.load(path).count() > 1
