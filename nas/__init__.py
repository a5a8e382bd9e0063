"""Latency-aware neural architecture search over the iFormer family of mobile vision networks.

The public names are resolved on first use, so that `import nas` loads neither torch nor pydantic. `nas.search`,
`nas.latency`, `nas.export` and `nas.evaluate` are packages and functions as well:
`nas.search("iformer", "iphone13", budget_ms=1.1)`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.dense import backbone
    from nas.export.torch import load
    from nas.latency import Latency, LatencyTable
    from nas.latency.api import latency as latency
    from nas.latency.check import check_table
    from nas.latency.measure import build_table
    from nas.networks import Architecture, SearchSpace, count
    from nas.networks.modules import build_model, fuse
    from nas.report import write_plot
    from nas.search import Candidate, SearchResult, plan_search
    from nas.search.api import search as search
    from nas.search.evaluate import evaluate as evaluate
    from nas.search.export import export as export
    from nas.search.run import run_search
    from nas.search.train import train

__all__ = [
    "Architecture",
    "Candidate",
    "Latency",
    "LatencyTable",
    "SearchResult",
    "SearchSpace",
    "backbone",
    "build_model",
    "build_table",
    "check_table",
    "count",
    "fuse",
    "load",
    "plan_search",
    "run_search",
    "train",
    "write_plot",
]

_HOMES = {
    "Architecture": "networks",
    "Candidate": "search",
    "Latency": "latency",
    "LatencyTable": "latency",
    "SearchResult": "search",
    "SearchSpace": "networks",
    "backbone": "dense",
    "build_model": "networks.modules",
    "build_table": "latency.measure",
    "check_table": "latency.check",
    "count": "networks",
    "fuse": "networks.modules",
    "load": "export.torch",
    "plan_search": "search",
    "run_search": "search.run",
    "train": "search.train",
    "write_plot": "report",
}

_PACKAGES = (
    "evaluate",
    "export",
    "latency",
    "model",
    "search",
)  # such as `nas.model.load_weights` and `nas.search(...)`


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"nas.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nas.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "evaluate", "export", "latency", "search"])
