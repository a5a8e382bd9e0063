"""The shipped accuracy table, and what it is made from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from nas.accuracy import AccuracyTable

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def table() -> AccuracyTable:
    return AccuracyTable.find("iformer")[0]


@pytest.fixture(scope="session")
def maker() -> ModuleType:
    """The program that made the table: it knows the rows of the family and what each of them varies."""
    spec = importlib.util.spec_from_file_location("fit_accuracy", ROOT / "tests" / "benchmarks" / "fit_accuracy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
