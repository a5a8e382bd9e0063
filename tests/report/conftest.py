"""A small finished search to report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nas.networks import Architecture, SearchSpace, random_choice
from nas.search import Candidate, ResultsFolder, Run, SearchResult, SpaceUsed, TableUsed

TINY = SearchSpace.find("tiny")


def _candidate(network: Architecture, latency_ms: float, score: float, name: str | None = None) -> Candidate:
    return Candidate(
        id=network.id,
        kind="reference" if name else "searched",
        name=name,
        latency_ms=latency_ms,
        low_ms=0.9 * latency_ms,
        high_ms=1.1 * latency_ms,
        score=score,
        seconds=1.0,
        details={"val_images": 400},
        architecture=network,
    )


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    """Make a scored candidate; with a name, a reference."""
    return _candidate


@pytest.fixture
def result(tmp_path: Path) -> SearchResult:
    run = Run(
        command="nas search --budget-ms 1",
        started="2026-01-01T00:00:00+00:00",
        versions={"python": "3.11"},
        space=SpaceUsed(name="tiny", digest="0", networks=224),
        table=TableUsed(name="iphone13.coreml.fp16", digest="0", origin="calibrated: iPhone 13"),
        budget_ms=1.0,
        proxy={"name": "fake", "data": "synthetic"},
        seed=0,
    )
    folder = ResultsFolder(tmp_path / "run", run, resume=False)
    choose = random_choice(seed=0)
    for number, (latency_ms, score) in enumerate([(0.5, 0.40), (0.7, 0.35), (0.9, 0.50)]):
        folder.add(_candidate(TINY.sample(choose).at(num_classes=10 + number), latency_ms, score), None)
    folder.add(_candidate(TINY.references["tiny_a"], 0.95, 0.48, name="tiny_a"), None)
    return folder.finish()
