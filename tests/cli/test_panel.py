"""`nas search --proxy NAME+NAME`: a panel scores, and random networks below the budget are its scale."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.search import SearchResult

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]
PANEL = "fake+zero-cost:params"
# All networks of the tiny space are in the band below 0.23 ms; below 0.3 ms there would be none, and faster ones serve.
SEARCH = ["search", "--budget-ms", "0.23", "--space", "tiny", "--proxy", PANEL, "--out", "run"]


@pytest.fixture(scope="module")
def searched(nas: Nas, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("panel")
    return folder, nas(*SEARCH, "--trials", "4", cwd=folder)


def test_a_panel_is_named_with_its_band_and_the_settings_of_its_members(
    searched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = searched
    proxy = json.loads((folder / "run" / "run.json").read_text())["proxy"]

    assert done.returncode == 0, done.stderr
    assert (proxy["name"], proxy["proxy"], proxy["data"], proxy["band_networks"]) == (PANEL, "panel", "synthetic", 24)
    assert proxy["zero-cost:params measure"] == "params"
    assert f"score: {PANEL} on synthetic" in done.stdout


def test_every_candidate_has_the_scores_of_the_members_and_their_disagreement(
    searched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    result = SearchResult.load(searched[0] / "run")

    assert (len(result.scored), len(result.references)) == (4, 1)
    for one in (*result.scored, *result.references):
        standard = [float(one.details[f"{member} z"]) for member in ("fake", "zero-cost:params")]
        assert one.score == pytest.approx(sum(standard) / 2)
        assert one.details["standard_error"] == pytest.approx(abs(standard[0] - standard[1]) / 2)
    assert result.winner is not None
    assert f"score {result.winner.score:.4f} +- {result.winner.details['standard_error']:.4f}" in searched[1].stdout


def test_a_resume_compares_on_the_same_band(
    searched: tuple[Path, subprocess.CompletedProcess[str]], nas: Nas, refused: Refused
) -> None:
    folder, _ = searched
    kept = SearchResult.load(folder / "run").candidates
    other = nas(*SEARCH[:5], "--proxy", "fake+zero-cost:macs", "--out", "run", "--trials", "6", "--resume", cwd=folder)
    done = nas(*SEARCH, "--trials", "6", "--resume", cwd=folder)
    result = SearchResult.load(folder / "run")

    assert other.returncode == 2
    assert f"proxy name ({PANEL}, not fake+zero-cost:macs)" in refused(other)
    assert done.returncode == 0, done.stderr
    assert result.candidates[: len(kept)] == kept
    assert len(result.scored) == 6


def test_a_panel_where_the_budget_is_far_above_all_networks_still_searches(nas: Nas, tmp_path: Path) -> None:
    done = nas(*SEARCH[:1], "--budget-ms", "0.3", *SEARCH[3:], "--data", "synthetic", "--trials", "1", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert SearchResult.load(tmp_path / "run").run.proxy["band_networks"] == 24


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("fake+", "--proxy fake+: a panel is written NAME+NAME"),
        ("fake+fake", "--proxy fake+fake: fake twice in a panel"),
        ("fake+zerocost", "did you mean 'zero-cost'?"),
    ],
)
def test_a_panel_that_is_none_is_refused(nas: Nas, refused: Refused, tmp_path: Path, proxy: str, words: str) -> None:
    done = nas("search", "--budget-ms", "0.23", "--space", "tiny", "--proxy", proxy, "--trials", "1", cwd=tmp_path)

    assert done.returncode == 2
    assert words in refused(done)
    assert not (tmp_path / "results").exists()
