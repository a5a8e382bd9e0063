"""The Pareto plot, as a page and as a still picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nas.errors import InputError, NasError
from nas.report import write_plot
from nas.search import SearchResult

BROWSER = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)


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
