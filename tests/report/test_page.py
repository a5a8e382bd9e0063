"""The files that a search leaves for reading."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas.data.contents import ClassContents, Contents
from nas.report import write_plot, write_report
from nas.report.contents import page_contents
from nas.search import Candidate, SearchResult

KEPT = Path(__file__).parents[2] / "results"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
MOST_BYTES = 2e6  # of a page, without Plotly's own script


def data_of(page: str, name: str) -> Any:
    """The JSON that a page has for its script."""
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    return json.loads(text)


def test_the_page_is_self_contained(result: SearchResult) -> None:
    write_report(result)
    page = (result.path / "report.html").read_text()

    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="', page) == []
    assert "default-src 'none'" in page
    assert result.candidates[0].id in data_of(page, "networks")["networks"]["id"]
    assert "iformer_m" in data_of(page, "networks")["published"]


def test_the_page_says_what_a_score_is_and_what_it_is_not(result: SearchResult) -> None:
    (run,) = page_contents([result])["runs"]

    assert run["score_note"].startswith("fake score (held-out accuracy) on synthetic. It orders networks.")
    assert "not an ImageNet accuracy" in run["score_note"]
    assert run["latency_note"].startswith("Predicted from the layers in iphone13.coreml.fp16, not measured as a whole.")


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.6, "No network better than tiny_a was found"), (0.4, " is the best")]
)
def test_a_reference_that_is_better_in_both_is_said_plainly(
    score: float, verdict: str, result: SearchResult, candidate: Callable[..., Candidate]
) -> None:
    (reference,) = result.references
    beside = candidate(reference.architecture, 0.5, score, name="tiny_a")
    changed = SearchResult(path=result.path, run=result.run, candidates=(*result.candidates[:3], beside))

    assert verdict in page_contents([changed])["runs"][0]["verdict"]


def test_every_winner_has_its_export_command(result: SearchResult) -> None:
    run = result.run.model_copy(update={"budgets_ms": (0.6, 1.0)})
    script = page_contents([SearchResult(path=result.path, run=run, candidates=result.candidates)])["script"]
    (shared,) = script["runs"]

    assert shared["winners"] == {0: f"{result.path} --budget-ms 0.6", 2: str(result.path)}
    assert shared["formats"] == ["onnx", "coreml", "torch", "executorch", "timm"]
    assert set(script["fits"]["timm"][: len(result.candidates)]) == {"0"}  # a stem of 3x3
    assert len(script["fits"]["timm"]) == len(script["networks"]["id"])


def test_names_from_outside_are_only_ever_text(
    result: SearchResult, candidate: Callable[..., Candidate], tmp_path: Path
) -> None:
    (reference,) = result.references
    hostile = candidate(reference.architecture, 0.5, 0.1, name=HOSTILE)
    failed = result.candidates[0].model_copy(update={"score": None, "failure": HOSTILE})
    contents = Contents(fingerprint="0", classes=(ClassContents(name=HOSTILE, train=1, val=1, digest="0"),))
    run = result.run.model_copy(
        update={"command": HOSTILE, "contents": contents, "proxy": {"name": HOSTILE, "data": HOSTILE, HOSTILE: HOSTILE}}
    )
    folder = tmp_path / "<b>run"
    folder.mkdir()
    write_plot(
        [SearchResult(path=folder, run=run, candidates=(failed, *result.candidates[1:], hostile))], tmp_path / "p.html"
    )
    page = (tmp_path / "p.html").read_text()
    networks = data_of(page, "networks")

    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<b>run" not in page
    assert networks["networks"]["some"]["failure"] == {"0": HOSTILE}
    assert HOSTILE in networks["networks"]["some"]["name"].values()
    assert not any("<" in trace.get("name", "") for one in data_of(page, "figures").values() for trace in one["data"])


@pytest.mark.parametrize("name", ["survey-1.1ms", "tiny50-1.1ms"])
def test_the_pages_of_real_runs_are_small(name: str, tmp_path: Path) -> None:
    from nas.report.figures import plotly_script

    write_plot([SearchResult.load(KEPT / name)], tmp_path / "page.html")

    assert (tmp_path / "page.html").stat().st_size - len(plotly_script().encode()) < MOST_BYTES / 10


def test_report_md_lists_the_front_and_the_settings(result: SearchResult) -> None:
    write_report(result)
    text = (result.path / "report.md").read_text()

    assert "| tiny_a | reference | 0.950 [0.855, 1.045] | 0.4800 +- 0.0250 |" in text
    assert result.candidates[1].id not in text
    assert "| command | `nas search --budget-ms 1` |" in text
    assert "predicted by the table, not measured" in text
