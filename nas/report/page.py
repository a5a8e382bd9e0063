"""Files to read: the report of a search in its results folder, and the page of a validation."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from nas.files import write_beside
from nas.report.figures import write_plot
from nas.report.sections import validation_sections
from nas.report.words import markdown
from nas.search import SearchResult
from nas.validate import Validation

__all__ = ["write_report", "write_validation"]


def write_report(result: SearchResult) -> None:
    """Write pareto.html and report.md into the results folder."""
    write_plot([result], result.path / "pareto.html")
    write_beside(result.path / "report.md", markdown(result).encode())


def write_validation(validation: Validation, out: Path) -> None:
    """Write a validation as a self-contained page."""
    parts = ["<h1>How far can the numbers be trusted?</h1>"]
    is_first = True
    for section in validation_sections(validation):
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(note)}</p>" for note in section.notes]
        if section.header:
            parts.append(f"<table>{_cells('th', section.header)}{''.join(_cells('td', row) for row in section.rows)}")
            parts.append("</table>")
        if section.figure:
            parts.append(section.figure().to_html(include_plotlyjs=is_first, full_html=False))
            is_first = False
    style = (
        "body{font:15px/1.4 sans-serif;margin:2em auto;max-width:72em;padding:0 1em}p{margin:.3em 0}"
        "table{border-collapse:collapse;margin:.8em 0}td,th{padding:.15em .8em .15em 0;text-align:left}"
        "tr{border-bottom:1px solid #ddd}"
    )
    head = f'<head><meta charset="utf-8"><title>nas validate</title><style>{style}</style></head>'
    page = f'<!doctype html>\n<html lang="en">{head}<body>\n' + "\n".join(parts) + "\n</body></html>\n"
    write_beside(out, page.encode())


def _cells(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
