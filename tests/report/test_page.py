"""The files that a search leaves for reading."""

from __future__ import annotations

import re

from nas.report import write_report
from nas.search import SearchResult


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
