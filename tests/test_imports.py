"""The import order of CONTRIBUTING.md, who may use which name, and what `import nas` must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nas

PACKAGE = Path(nas.__file__).parent
# Wings of one group do not import each other. Each may import from the groups before it.
ORDER = [
    {"errors", "masking"},
    {"files", "catalog", "packages"},
    {"lock", "scratch"},
    {"networks"},
    {"accuracy", "data", "model"},
    {"training", "export"},
    {"evaluate"},
    {"devices", "proxies", "dense"},
    {"latency"},
    {"search"},
    {"validate"},
    {"report"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
LONGEST_FILE = 400  # lines


@dataclass(frozen=True)
class Use:
    """A name that a file takes from a module of this package; without a name, the module itself."""

    module: str
    name: str | None
    line: int

    def __str__(self) -> str:
        return f"line {self.line}: {self.module}{f'.{self.name}' if self.name else ''}"


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_shipped" not in path.parts)


def module_of(path: Path) -> str:
    """`nas.latency.table` for nas/latency/table.py, `nas.latency` for nas/latency/__init__.py."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_of(path): path for path in sources()}


def folder_of(module: str) -> str:
    """The package that a module lies in; a package lies in itself."""
    return module if PATHS[module].name == "__init__.py" else module.rpartition(".")[0]


def wing_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "nas"


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text())


@cache
def public_names(module: str) -> frozenset[str]:
    """What `__all__` of a module says."""
    for node in tree_of(module).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


@cache
def uses(module: str) -> tuple[Use, ...]:
    """All that a file imports from this package, at its top or inside functions."""
    return tuple(_uses(tree_of(module)))


def _uses(tree: ast.Module) -> Iterator[Use]:
    for node in ast.walk(tree):
        assert not getattr(node, "level", 0), f"line {getattr(node, 'lineno', 0)}: a relative import"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nas":
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Use(inner, None, node.lineno) if inner in PATHS else Use(node.module, alias.name, node.lineno)
        elif isinstance(node, ast.Import):
            yield from (Use(alias.name, None, node.lineno) for alias in node.names if alias.name.split(".")[0] == "nas")


def imported_as(module: str) -> dict[str, str]:
    """What a file calls the names and modules of this package that it imports, and what these are."""
    found = {}
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nas":
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.split(".")[0] == "nas"]
            found |= {alias.asname or alias.name: alias.name for alias in names}
    return found


def is_inside(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


MODULES = [module for module in PATHS if module != "nas"]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_left_to_right(module: str) -> None:
    here = wing_of(module)
    wrong = [
        str(use) for use in uses(module) if wing_of(use.module) != here and RANK[wing_of(use.module)] >= RANK[here]
    ]

    assert wrong == []


def test_no_imports_run_in_circles() -> None:
    graph = {module: {use.module for use in uses(module)} for module in MODULES}
    try:
        circle = []
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]

    assert circle == []


@pytest.mark.parametrize("module", MODULES)
def test_no_file_reaches_for_a_private_name_of_another(module: str) -> None:
    """A file `_name.py` belongs to the folder it lies in, and a name `_name` to its file."""
    reached = []
    for use in uses(module):
        owner, *inner = use.module.split("._")
        if (inner and not is_inside(module, owner)) or (use.name and is_private(use.name)):
            reached.append(str(use))
    imported = imported_as(module)
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = ast.unparse(node.value)
            if root in imported or root.split(".")[0] == "nas":
                reached.append(f"line {node.lineno}: {root}.{node.attr}")

    assert reached == []


@pytest.mark.parametrize("module", MODULES)
def test_other_folders_are_used_by_their_public_names(module: str) -> None:
    """A name comes from the `__init__.py` of its folder where that has it, else from `__all__` of its file."""
    wrong = []
    imported = imported_as(module)
    through_modules = [
        Use(imported[ast.unparse(node.value)], node.attr, node.lineno)
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Attribute) and imported.get(ast.unparse(node.value)) in PATHS
    ]
    for use in (*uses(module), *through_modules):
        folder = folder_of(use.module)
        if use.name in (None, "__all__") or (folder != "nas" and is_inside(module, folder)):
            continue
        if use.name == "*" and module == "nas.model":
            continue
        if use.name not in public_names(use.module):
            wrong.append(f"{use} is not in its __all__")
        elif use.module != folder and use.name in public_names(folder):
            wrong.append(f"{use} has a place in {folder}")

    assert wrong == []


def test_every_wing_has_its_place_in_the_order() -> None:
    assert {wing_of(module) for module in MODULES} == set(RANK)


def test_contributing_names_the_order() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    written = text.split("`errors, masking <")[1].split("`")[0]
    groups = [{name.strip() for name in group.split(",")} for group in ("errors, masking <" + written).split("<")]

    assert groups == ORDER


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long_to_read_at_once(path: Path) -> None:
    lines = path.read_text().splitlines()

    assert len(lines) <= LONGEST_FILE
    assert lines[0].startswith('"""')


def test_public_names_are_sorted_and_resolve() -> None:
    assert nas.__all__ == sorted(nas.__all__)
    for name in nas.__all__:
        assert getattr(nas, name).__name__ == name


def test_the_former_name_of_the_modules_works_and_is_used_by_nothing_here() -> None:
    from nas.model import load_weights

    assert load_weights is nas.model.load_weights
    assert [module for module in PATHS if any(use.module == "nas.model" for use in uses(module))] == []


def test_optuna_and_plotly_have_their_homes() -> None:
    homes: dict[str, set[str]] = {"optuna": set(), "plotly": set()}
    for module in PATHS:
        for node in ast.walk(tree_of(module)):
            libraries = []
            if isinstance(node, ast.ImportFrom) and node.module:
                libraries = [node.module]
            elif isinstance(node, ast.Import):
                libraries = [alias.name for alias in node.names]
            for library in libraries:
                if library.split(".")[0] in homes:
                    homes[library.split(".")[0]].add(module)

    own = {f"nas.search.{name}" for name in ("parameters", "sampler", "storage", "study")}
    assert homes == {"optuna": own, "plotly": {"nas.report.figures"}}


@pytest.mark.parametrize(
    "statement", ["import nas", "import nas.cli", "import nas.networks, nas.latency, nas.search, nas.report"]
)
def test_light_modules_load_no_torch(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(sorted({{'torch', 'optuna', 'plotly', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
