"""The figures of pages, and still pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nas.errors import InputError, NasError
from nas.report import validation_sections, write_plot
from nas.report.contents import page_contents
from nas.report.front import front_figures
from nas.report.literature import LITERATURE, published_networks
from nas.search import SearchResult
from nas.validate import Validation

PROGRAM = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
KEPT = Path(__file__).parents[2] / "results"


def test_several_runs_share_a_plot(result: SearchResult, tmp_path: Path) -> None:
    shutil.copytree(result.path, tmp_path / "other")
    (figure, published) = front_figures([result, SearchResult.load(tmp_path / "other")], published_networks(result))
    names = [trace["name"] for trace in figure["data"]]

    assert [name for name in names if "front" in name] == ["run: Pareto front", "other: Pareto front"]
    assert published["layout"]["yaxis"]["title"]["text"] == "published ImageNet top-1, %"


def test_scores_in_different_units_share_no_axis() -> None:
    survey, trained = (SearchResult.load(KEPT / name) for name in ("survey-1.1ms", "tiny50-1.1ms"))
    figures = front_figures([survey, trained], published_networks(survey))

    assert [figure["layout"]["yaxis"]["title"]["text"] for figure in figures] == [
        "ImageNet top-1, %",
        "supernet score (held-out likelihood)",
    ]
    assert any(trace["name"] == f"published: {LITERATURE}" for trace in figures[0]["data"])
    assert not any("published" in trace["name"] for trace in figures[1]["data"])


def test_every_figure_is_one_that_plotly_knows() -> None:
    import plotly.graph_objects as go

    results = [SearchResult.load(KEPT / name) for name in ("survey-1.1ms", "tiny50-1.1ms")]
    validation = [one.figure() for one in validation_sections(Validation.load(KEPT / "validation")) if one.figure]
    for figure in (*page_contents(results)["script"]["figures"].values(), *validation):
        go.Figure({"data": figure["data"], "layout": figure["layout"]})


@pytest.mark.skipif(PROGRAM is None, reason="a still picture needs a Chrome or Chromium browser")
@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_still_picture_has_the_format_of_its_suffix(
    suffix: str, start: bytes, result: SearchResult, tmp_path: Path
) -> None:
    write_plot([result], tmp_path / f"front.{suffix}")

    assert (tmp_path / f"front.{suffix}").read_bytes().startswith(start)


def test_a_still_picture_without_a_browser_says_what_to_do(
    result: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plotly import io

    def no_browser(*args: object, **options: object) -> bytes:
        raise RuntimeError("no browser")

    monkeypatch.setattr(io, "to_image", no_browser)
    with pytest.raises(NasError, match=r"front\.svg: a still picture needs a Chrome or Chromium browser"):
        write_plot([result], tmp_path / "front.svg")

    assert list(tmp_path.glob("*.svg")) == []


def test_another_suffix_is_refused(result: SearchResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"front\.jpg: a plot is written as \.html, \.png, \.svg, \.pdf"):
        write_plot([result], tmp_path / "front.jpg")
