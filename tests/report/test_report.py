from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from nas.errors import InputError, NasError
from nas.networks import Architecture, SearchSpace, random_choice
from nas.report import summary, write_plot, write_report
from nas.search import Candidate, ResultsFolder, Run, SearchResult, SpaceUsed, TableUsed

TINY = SearchSpace.find("tiny")
BROWSER = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)


def candidate(network: Architecture, latency_ms: float, score: float, name: str | None = None) -> Candidate:
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
        folder.add(candidate(TINY.sample(choose).at(num_classes=10 + number), latency_ms, score), None)
    folder.add(candidate(TINY.references["tiny_a"], 0.95, 0.48, name="tiny_a"), None)
    return folder.finish()


def test_the_summary_names_winner_reference_origin_and_noise(result: SearchResult) -> None:
    text = "\n".join(summary(result))

    assert f"winner {result.candidates[2].id}: 0.900 ms [0.810, 0.990] of 1 ms, score 0.5000 +- 0.0250" in text
    assert "beside tiny_a (0.950 ms, score 0.4800 +- 0.0250): +0.0200, within noise" in text
    assert "3 networks scored, 0 failed, 2 on the front" in text
    assert "calibrated: iPhone 13 (predicted; see the table for its errors)" in text
    assert "fake on synthetic" in text


def test_a_large_gap_is_not_called_noise(result: SearchResult) -> None:
    folder = ResultsFolder(result.path, result.run, resume=True)
    folder.add(candidate(TINY.references["tiny_a"].at(num_classes=3), 0.9, 0.1, name="weak"), None)
    text = "\n".join(summary(folder.load()))

    assert "beside weak (0.900 ms, score 0.1000 +- 0.0150): +0.4000, better" in text


def test_the_page_is_self_contained_and_tells_the_network_on_hover(result: SearchResult) -> None:
    write_report(result)
    page = (result.path / "pareto.html").read_text()

    assert re.findall(r'<(?:script|link)[^>]+(?:src|href)="', page) == []
    assert result.candidates[0].id in page
    assert "expansion" in page
    assert "iformer_m" in page  # the published points


def test_report_md_lists_the_front_and_the_settings(result: SearchResult) -> None:
    write_report(result)
    text = (result.path / "report.md").read_text()

    assert "| tiny_a | 0.950 | 0.855 to 1.045 | 0.4800 +- 0.0250 |" in text
    assert result.candidates[1].id not in text
    assert "| command | `nas search --budget-ms 1` |" in text
    assert "predicted by the table, not measured" in text


def test_several_runs_share_a_plot(result: SearchResult, tmp_path: Path) -> None:
    shutil.copytree(result.path, tmp_path / "other")
    out = tmp_path / "both.html"
    write_plot([result, SearchResult.load(tmp_path / "other")], out)
    page = out.read_text()

    assert "run: Pareto front" in page
    assert "other: Pareto front" in page


@pytest.mark.skipif(BROWSER is None, reason="a still picture needs a Chrome or Chromium browser")
def test_a_still_picture_is_a_png(result: SearchResult, tmp_path: Path) -> None:
    write_plot([result], tmp_path / "front.png")

    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_still_picture_without_a_browser_says_what_to_do(
    result: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import plotly.graph_objects as go

    def no_browser(*args: object, **options: object) -> bytes:
        raise RuntimeError("no browser")

    monkeypatch.setattr(go.Figure, "to_image", no_browser)
    with pytest.raises(NasError, match=r"front\.svg: a still picture needs a Chrome or Chromium browser"):
        write_plot([result], tmp_path / "front.svg")

    assert list(tmp_path.glob("*.svg")) == []


def test_another_suffix_is_refused(result: SearchResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"front\.jpg: a plot is written as \.html, \.png, \.svg"):
        write_plot([result], tmp_path / "front.jpg")
