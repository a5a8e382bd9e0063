"""The import order of CONTRIBUTING.md, the public names, and what `import nas` must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nas

PACKAGE = Path(nas.__file__).parent
# Modules of one group do not import each other; each may import from the groups before it.
ORDER = [
    {"errors"},
    {"files", "catalog"},
    {"architecture"},
    {"operations"},
    {"cost_model", "entries"},
    {"space", "latency", "pareto", "fill", "ranking"},
    {"calibrate"},
    {"model", "synthetic"},
    {"data"},
    {"training"},
    {"supernet", "export"},
    {"devices", "proxies"},
    {"result", "timing"},
    {"drift"},
    {"measure", "search", "validation"},
    {"check"},
    {"validate"},
    {"report"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_shipped" not in path.parts)


def module_name(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nas":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nas.")}
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_left_to_right(path: Path) -> None:
    here = module_name(path)
    if here == "__init__":
        return
    wrong = {name for name in imported(path) if name != here and RANK[name] >= RANK[here]}

    assert wrong == set()


def test_every_module_has_its_place_in_the_order() -> None:
    names = {module_name(path) for path in sources()} - {"__init__"}

    assert names == set(RANK)


def test_contributing_names_the_order() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    written = text.split("`errors <")[1].split("`")[0]
    groups = [{name.strip() for name in group.split(",")} for group in ("errors <" + written).split("<")]

    assert groups == ORDER


def test_public_names_are_sorted_and_resolve() -> None:
    assert nas.__all__ == sorted(nas.__all__)
    for name in nas.__all__:
        assert getattr(nas, name).__name__ == name


def test_optuna_and_plotly_have_one_home_each() -> None:
    homes: dict[str, set[str]] = {"optuna": set(), "plotly": set()}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                if module.split(".")[0] in homes:
                    homes[module.split(".")[0]].add(module_name(path))

    assert homes == {"optuna": {"search"}, "plotly": {"report"}}


@pytest.mark.parametrize("statement", ["import nas", "import nas.cli", "import nas.space, nas.latency, nas.operations"])
def test_light_modules_load_no_torch(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(sorted({{'torch', 'optuna', 'plotly', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
