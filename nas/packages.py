"""Packages that are functions too: `nas.search(...)`, `nas.latency(...)`, `nas.export(...)`, `nas.evaluate(...)`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["also_function"]


def also_function(package: str, home: str) -> None:
    """Let a package be called as the function of its own name.

    Args:
        package: the package, such as `nas.search`, while it is imported.
        home: the module that has the function. It is imported at the first call: it may come after the package in the
            order of imports.
    """
    sys.modules[package].__class__ = _class_of(package, home)


def _class_of(package: str, home: str) -> type[ModuleType]:
    name = package.rpartition(".")[2]

    def function() -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(importlib.import_module(home), name)
        return found

    # A module may have a class of its own (Python Reference, 3.3.2.1).
    class FunctionPackage(ModuleType):
        @property
        def __signature__(self) -> inspect.Signature:
            """What notebooks show beside the opening parenthesis."""
            return inspect.signature(function())

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            return function()(*arguments, **named)

    return FunctionPackage
