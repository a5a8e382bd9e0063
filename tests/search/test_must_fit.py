"""Searches of which every result is a network that timm's own iFormer can build."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

import nas
from nas.errors import InputError
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace, why_not_timm
from nas.networks.modules import to_timm
from nas.proxies import build_proxies
from nas.proxies.fake import FakeProxy
from nas.search import BatchProxy, SearchResult, plan_guided, plan_survey, run_guided

FITTING = SearchSpace.find("iformer").fitting("timm")


def blocks(network: Architecture) -> int:
    return sum(len(stage.blocks) for stage in network.stages)


def assert_all_fit(result: SearchResult) -> None:
    searched = [one.architecture for one in result.candidates if one.kind == "searched"]

    assert result.run.space.must_fit == "timm"
    assert result.run.space.networks == FITTING.count()
    assert result.front
    assert [why_not_timm(network) for network in searched] == [""] * len(searched)
    to_timm(result.front[0].build())


def test_every_network_of_a_survey_fits_and_timm_loads_the_winner(timm: ModuleType, tmp_path: Path) -> None:
    result = nas.search("iformer", budget_ms=1.1, trials=300, must_fit="timm", out=tmp_path / "run")
    weights, arguments = nas.export(result, "timm", out=tmp_path / "winner.safetensors")
    theirs = timm.models.iformer.IFormer(**json.loads(arguments.read_text()))

    assert_all_fit(result)
    assert "must_fit=timm" in result.run.command
    assert theirs.load_state_dict(load_file(weights)).missing_keys == []


@pytest.mark.parametrize("sampler", ["surrogate", "tpe", "nsga2"])
def test_every_sampler_proposes_networks_that_fit(sampler: str, tmp_path: Path) -> None:
    assert_all_fit(
        nas.search(score=blocks, budget_ms=1.1, trials=14, sampler=sampler, must_fit="timm", out=tmp_path / "run")
    )


def test_every_network_of_a_search_on_images_fits(tmp_path: Path) -> None:
    table = LatencyTable.find("iphone13")[0]
    (foretell,) = build_proxies("accuracy-table", data="synthetic", seed=0).values()
    assert isinstance(foretell, BatchProxy)
    survey = plan_survey(FITTING, table, foretell, budget_ms=1.1, networks=300)
    plan = plan_guided(survey, FakeProxy(), FakeProxy(), trials=12, time_limit_s=None)
    names = {"foretell": "accuracy-table", "scorer": "fake", "settler": "fake2", "space": "iformer", "table": "t"}
    result = run_guided(
        FITTING, table, foretell, FakeProxy(), FakeProxy(), plan=plan, seed=0, out=tmp_path / "run", names=names
    )

    assert_all_fit(result)
    assert len(result.scored) == 12


def test_a_resume_keeps_it_and_a_run_without_it_does_not_get_it(tmp_path: Path) -> None:
    first = nas.search(score=blocks, budget_ms=1.1, trials=2, must_fit="timm", out=tmp_path / "with")
    more = nas.search(score=blocks, trials=4, out=first.path, resume=True)
    without = nas.search(score=blocks, budget_ms=1.1, trials=1, out=tmp_path / "without")

    assert len(more.scored) > len(first.scored)
    assert_all_fit(more)
    assert without.run.space.must_fit is None
    with pytest.raises(InputError, match=r"begun with another space .*must-fit \(None, not timm\)"):
        nas.search(score=blocks, trials=2, must_fit="timm", out=without.path, resume=True)


def test_what_cannot_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^must_fit: timm's iFormer can say no network of this space: stages\[0\]\.conv\.kernel"
    ):
        nas.search("tiny", score=blocks, budget_ms=0.7, must_fit="timm", out=tmp_path / "run")
    with pytest.raises(InputError, match="no tool to fit named 'tim': there is only timm; did you mean"):
        nas.search(score=blocks, budget_ms=1.1, must_fit="tim", out=tmp_path / "run")
