"""The tree that CONTRIBUTING.md shows, and the fields that search_spaces/README.md documents, are those there are."""

from __future__ import annotations

import re
from pathlib import Path

from nas.networks import SearchSpace
from nas.networks.choices import AttentionChoices, ConvChoices, DownsampleChoices, StageChoices, StemChoices

ROOT = Path(__file__).parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


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
