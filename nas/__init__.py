"""Latency-aware neural architecture search over the iFormer family of mobile vision networks.

The public names are resolved on first use, so that `import nas` loads neither torch nor pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.architecture import Architecture
    from nas.check import check_table
    from nas.latency import Latency, LatencyTable
    from nas.measure import build_table
    from nas.model import build_model, fuse
    from nas.operations import count
    from nas.report import write_plot
    from nas.result import Candidate, SearchResult
    from nas.search import plan_search, run_search
    from nas.space import SearchSpace

__all__ = [
    "Architecture",
    "Candidate",
    "Latency",
    "LatencyTable",
    "SearchResult",
    "SearchSpace",
    "build_model",
    "build_table",
    "check_table",
    "count",
    "fuse",
    "plan_search",
    "run_search",
    "write_plot",
]

_HOMES = {
    "Architecture": "architecture",
    "Candidate": "result",
    "Latency": "latency",
    "LatencyTable": "latency",
    "SearchResult": "result",
    "SearchSpace": "space",
    "build_model": "model",
    "build_table": "measure",
    "check_table": "check",
    "count": "operations",
    "fuse": "model",
    "plan_search": "search",
    "run_search": "search",
    "write_plot": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nas.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
