"""Files to read: the report of a search in its results folder, plots of several, and the page of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nas.errors import InputError
from nas.files import write_beside
from nas.report.contents import page_contents
from nas.report.figures import COLOURS, STILLS, Figure, as_plotly, plotly_script, write_still
from nas.report.front import front_figures
from nas.report.literature import published_networks
from nas.report.predicted import is_predicted
from nas.report.sections import validation_sections
from nas.report.trained import training_contents
from nas.report.words import markdown
from nas.search import SearchResult
from nas.validate import Validation

__all__ = ["plot_of", "write_plot", "write_report", "write_training", "write_validation"]


def write_report(result: SearchResult) -> None:
    """Write report.html and report.md into the results folder."""
    write_plot([result], result.path / "report.html")
    write_beside(result.path / "report.md", markdown(result).encode())


def write_plot(results: Sequence[SearchResult], out: Path) -> None:
    """Show some runs on a self-contained page, or their candidates and fronts as a still picture.

    Args:
        results: the runs. Each has its own colour and symbol.
        out: an .html, .png, .svg or .pdf file.
    Raises:
        InputError: the suffix is another one.
        NasError: a still picture needs a browser, and there is none.
    """
    if out.suffix == ".html":
        write_beside(out, _render("report.html", **page_contents(results)))
    elif out.suffix in STILLS:
        figures, origins = _still(results)
        write_still(figures, out, origins=origins)
    else:
        raise InputError(f"{out}: a plot is written as {', '.join(('.html', *STILLS))}")


def plot_of(results: Sequence[SearchResult]) -> Any:
    """The candidates and fronts of some runs as a `plotly.graph_objects.Figure`, as in a still picture.

    Raises:
        InputError: Plotly is not installed.
    """
    return as_plotly(*_still(results))


def _still(results: Sequence[SearchResult]) -> tuple[list[Figure], list[str]]:
    """The figures of a still picture, and where their numbers come from."""
    published = {one.name: one for result in results for one in published_networks(result)}
    origins = dict.fromkeys(line for result in results for line in _origins(result))
    return front_figures(results, list(published.values())), list(origins)


def _origins(result: SearchResult) -> tuple[str, str]:
    """Where latency and score of a run come from, in a line each."""
    run = result.run
    data = "predicted from published accuracies" if is_predicted(result) else f"on {run.proxy.get('data', 'no data')}"
    return f"latency: {run.table.origin} (predicted)", f"score: {run.proxy['name']}, {data}"


def write_validation(validation: Validation, out: Path) -> None:
    """Write a validation as a self-contained page."""
    sections = validation_sections(validation)
    figures = {f"figure-{number}": one.figure() for number, one in enumerate(sections) if one.figure}
    script = {"figures": figures, "colours": COLOURS}
    write_beside(out, _render("validation.html", sections=sections, script=script))


def write_training(folder: Path) -> Path:
    """Write the page of a full training, training.html, into its folder.

    Raises:
        InputError: the folder is none of a training, or no epoch of it has ended.
    """
    from nas.training.record import read_training  # which loads torch

    found = read_training(folder)
    if found is None or not found[1]:
        raise InputError(f"{folder}: no training of which an epoch has ended")
    if found[0].task != "classify":
        raise InputError(
            f"{folder}: is a training to {found[0].task}, which has no page; its figures are in metrics.jsonl"
        )
    contents = training_contents(*found)
    page = folder / "training.html"
    write_beside(page, _render("training.html", **contents | {"script": contents["script"] | {"colours": COLOURS}}))
    return page


def _render(template: str, **contents: Any) -> bytes:
    """A page as bytes. What comes from outside is escaped: by the template, and as JSON for the script."""
    own = {name: Markup(_file(name)) for name in ("style.css", "figures.js", "networks.js", "report.js")}  # noqa: S704 - our own files
    plotly = Markup(plotly_script())  # noqa: S704 - Plotly's own file
    return _environment().get_template(template).render(own=own, plotly=plotly, **contents).encode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("nas.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The filter `tojson` escapes <, > and &, so that no text ends a script element.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


@cache
def _file(name: str) -> str:
    return (files("nas.report") / "templates" / name).read_text(encoding="utf-8")
