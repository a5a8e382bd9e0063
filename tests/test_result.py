from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nas.errors import InputError
from nas.result import Candidate, ResultsFolder, Run, SearchResult
from nas.space import SearchSpace, random_choice

TINY = SearchSpace.find("tiny")
RUN = Run(
    command="nas search",
    started="2026-01-01T00:00:00+00:00",
    versions={"python": "3.11"},
    space={"name": "tiny"},
    table={"name": "t", "origin": "analytic"},
    budget_ms=1.0,
    proxy={"name": "fake"},
    seed=0,
)
CHOOSE = random_choice(seed=0)
NETWORKS = list({network.id: network for network in (TINY.sample(CHOOSE) for _ in range(100))}.values())


def candidate(number: int, latency_ms: float, score: float | None, **changes: Any) -> Candidate:
    network = NETWORKS[number]
    fields = {
        "id": network.id,
        "kind": "searched",
        "trial": number,
        "latency_ms": latency_ms,
        "low_ms": latency_ms,
        "high_ms": latency_ms,
        "score": score,
        "failure": None if score is not None else "diverged",
        "seconds": 1.0,
        "architecture": network,
    }
    return Candidate.model_validate(fields | changes)


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2,), value)}


def test_candidates_come_back_as_they_were_kept(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    kept = [candidate(0, 0.5, 0.3), candidate(1, 0.6, None), candidate(2, 0.7, 0.5, kind="reference", name="r")]
    for one in kept:
        folder.add(one, None)
    result = SearchResult.load(tmp_path / "run")

    assert tuple(kept) == result.candidates
    assert result.run == RUN


def test_the_winner_is_the_best_inside_the_budget_and_of_equals_the_faster(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    for one in (candidate(0, 0.9, 0.5), candidate(1, 0.4, 0.5), candidate(2, 1.1, 0.9), candidate(3, 0.3, 0.2)):
        folder.add(one, None)
    result = folder.load()

    assert result.winner is not None
    assert result.winner.id == NETWORKS[1].id
    assert [c.id for c in result.front] == [NETWORKS[3].id, NETWORKS[1].id, NETWORKS[2].id]
    best = result.best_under(0.35)
    assert best is not None
    assert best.id == NETWORKS[3].id
    assert result.best_under(0.1) is None


def test_only_the_weights_of_the_best_are_kept(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.3), weights(1.0))
    folder.add(candidate(1, 0.5, 0.6), weights(2.0))
    folder.add(candidate(2, 0.5, 0.4), weights(3.0))
    folder.add(candidate(3, 0.5, 0.9, kind="reference", name="r"), weights(4.0))
    files = [path.stem for path in (tmp_path / "run" / "weights").iterdir()]

    assert files == [NETWORKS[1].id]


def test_finish_writes_the_winner_its_weights_and_the_front(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.3), weights(1.0))
    folder.finish()
    path = tmp_path / "run"

    assert NETWORKS[0].to_json() == (path / "winner.json").read_text()
    assert torch.equal(load_file(path / "winner.safetensors")["w"], torch.ones(2))
    header, row = (path / "front.csv").read_text().splitlines()
    assert header == "id,latency_ms,low_ms,high_ms,score,params,macs,network"
    assert row.startswith(f"{NETWORKS[0].id},0.5000,0.5000,0.5000,0.3000,")


def test_half_a_line_is_dropped_when_the_run_goes_on(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.3), None)
    with (tmp_path / "run" / "candidates.jsonl").open("ab") as file:
        file.write(b'{"id": "half')

    assert len(SearchResult.load(tmp_path / "run").candidates) == 1
    resumed = ResultsFolder(tmp_path / "run", RUN, resume=True)
    resumed.add(candidate(1, 0.5, 0.4), None)
    assert [c.id for c in resumed.load().candidates] == [NETWORKS[0].id, NETWORKS[1].id]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.3), None)
    with (tmp_path / "run" / "candidates.jsonl").open("ab") as file:
        file.write(b'{"id": 5}\n')
    with pytest.raises(InputError, match=r"candidates\.jsonl, line 2: id: input should be a valid string, got 5"):
        SearchResult.load(tmp_path / "run")


def test_a_run_is_not_overwritten_without_resume(tmp_path: Path) -> None:
    ResultsFolder(tmp_path / "run", RUN, resume=False)
    with pytest.raises(InputError, match=r"holds a run already: go on with it \(--resume\)"):
        ResultsFolder(tmp_path / "run", RUN, resume=False)


def test_another_search_is_not_mixed_into_a_run(tmp_path: Path) -> None:
    ResultsFolder(tmp_path / "run", RUN, resume=False)
    other = RUN.model_copy(update={"budget_ms": 2.0, "seed": 1})
    with pytest.raises(InputError, match="was begun with another budget_ms, seed"):
        ResultsFolder(tmp_path / "run", other, resume=True)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a results folder \(it has no run\.json\)"):
        SearchResult.load(tmp_path)


def test_the_winner_cannot_be_built_without_its_weights(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    with pytest.raises(InputError, match="has no winner yet"):
        folder.load().build_winner()
    folder.add(candidate(0, 0.5, 0.3), None)
    with pytest.raises(InputError, match=r"has no winner\.safetensors"):
        folder.finish().build_winner()
