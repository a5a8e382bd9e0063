"""`nas show`, `nas front` and `nas plot`: look at the results of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import options
from nas.cli.config import options_file
from nas.cli.next_steps import say_after_search
from nas.cli.terminal import print_data, print_document, print_json, print_table, say
from nas.cli.validate import print_validation
from nas.errors import InputError, NasError

if TYPE_CHECKING:
    from nas.search import Candidate, SearchResult

__all__ = ["front", "plot", "print_result", "result_json", "show", "stoppable", "write_results"]

_PUBLISHED = ("published_ms", "published_top1")  # of a known network, in ms and %


def plot(
    results: Annotated[list[Path], typer.Argument(help="One or more results folders.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Page or picture to write: .html, .png, .svg or .pdf.",
            show_default="RESULTS/report.html; of several runs, report.html",
        ),
    ] = None,
) -> None:
    """Write the page of one or more runs, or a picture of their candidates and Pareto fronts.

    The page shows the front, every network layer by layer, how the search went, and how far to trust the numbers. Of a
    validation, write its page again.

    Example: nas plot results/iformer-1.1ms --out front.png
    """
    from nas.report import write_plot, write_validation
    from nas.search import SearchResult
    from nas.validate import Validation

    if len(results) == 1 and (results[0] / "validation.json").exists():
        page = out or results[0] / "validation.html"
        if page.suffix != ".html":
            raise InputError(f"{page}: a validation is written as a page, .html")
        write_validation(Validation.load(results[0]), page)
    else:
        page = out or (results[0] / "report.html" if len(results) == 1 else Path("report.html"))
        write_plot([SearchResult.load(path) for path in results], page)
    say(f"written to {page}")


def show(results: options.Results, as_json: options.Json = False) -> None:
    """Show the winner, the front and the references of a run, or what a validation says.

    --json: {"results", "winner" or null, "winners": {BUDGET: network or null}, "front", "references" and "candidates":
    networks}, a network {"id", "name" of a reference, "role" (winner, front, reference, dominated, over budget or
    failed), "latency_ms", "interval_ms", "score" or null, "score_interval" or "score_standard_error", "screened",
    "published_ms", "published_top1" (%), "quantities" and "failure" if known, "architecture"}; of a validation, its
    validation.json.

    Example: nas show results/iformer-1.1ms
    """
    from nas.search import SearchResult
    from nas.validate import Validation

    if (results / "validation.json").exists():
        print_validation(Validation.load(results), as_json=as_json)
        return
    result = SearchResult.load(results)
    if as_json:
        print_json(result_json(result))
    else:
        print_result(result)
        say_after_search(result, is_shown=True)


def front(
    results: options.Results,
    budget_ms: Annotated[
        float | None, typer.Option(help="Latency budget in ms.", show_default="the whole front, as a table")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print the front of a run, or the architecture of its best network inside another budget, as JSON.

    --json: without --budget-ms as nas show --json; with it the network alone, in that form.

    Example: nas front results/iformer-1.1ms --budget-ms 0.9
    """
    from nas import report
    from nas.errors import BudgetError
    from nas.search import SearchResult, check_milliseconds

    if budget_ms is None:
        found = SearchResult.load(results)
        if as_json:
            print_json(result_json(found))
        else:
            print_candidates(found, [*found.front, *found.references])
        return
    check_milliseconds(budget_ms)
    # Roles are about all candidates.
    result = SearchResult.load(results) if as_json else SearchResult.load_best(results, budget_ms)
    best = result.winner_under(budget_ms)
    if best is None:
        found = SearchResult.load(results)
        allowed = [found.run.limited_ms(one) for one in found.scored if found.run.allows(one)]
        raise BudgetError(
            f"{results} has no network of at most {budget_ms:g} ms"
            + (
                f"; its fastest is {min(allowed):.3f} ms"
                if allowed
                else f"; {'its limits admit none' if found.scored else 'nothing is scored yet'}"
            )
        )
    if as_json:
        print_json(_candidate_json(result, best))
        return
    unit = f"predicted ImageNet top-1{report.as_classifier(result)}" if report.is_predicted(result) else "score"
    say(
        f"{best.label}: predicted latency {report.latency_words(best)} ms ({result.run.table.origin}), "
        f"{unit} {report.score_words(best)}"
    )
    print_document(best.architecture.to_json())


@contextmanager
def stoppable(out: Path) -> Iterator[None]:
    """After Ctrl-C or a failure of a search, write the report of what its folder holds, and say how to go on."""
    from nas.search import SearchResult

    try:
        yield
    except (KeyboardInterrupt, NasError) as error:
        if isinstance(error, NasError) and error.exit_code != 1:  # Nothing was begun.
            raise
        if (out / "run.json").exists():
            with suppress(NasError, OSError):  # The disk may be full; what ended the search is what to say.
                write_results(SearchResult.load(out))
        say(f"stopped; go on with: nas search --resume {shlex.quote(str(out))}")
        raise


def write_results(result: SearchResult) -> None:
    """Write into a results folder what people read: the report, and the options as run.toml."""
    from nas.files import write_beside
    from nas.report import write_report

    write_report(result)
    if result.run.command.startswith("nas search "):  # and not from Python
        write_beside(result.path / "run.toml", options_file(result.run.command).encode())


def result_json(result: SearchResult) -> dict[str, Any]:
    """The winner, that of each budget, the front, the references and all candidates, as `--json` prints them."""
    winner = result.winner

    def networks(candidates: Iterable[Candidate]) -> list[dict[str, Any]]:
        return [_candidate_json(result, candidate) for candidate in candidates]

    return {
        "results": str(result.path),
        "winner": _candidate_json(result, winner) if winner else None,
        "winners": {
            f"{budget_ms:g}": one and _candidate_json(result, one) for budget_ms, one in result.winners.items()
        },
        "front": networks(result.front),
        "references": networks(result.references),
        "candidates": networks(result.candidates),
    }


def _candidate_json(result: SearchResult, candidate: Candidate) -> dict[str, Any]:
    from nas.report import standard_error

    interval = [candidate.details[end] for end in ("low", "high") if end in candidate.details]
    error = standard_error(candidate) if candidate.score is not None and not interval else 0.0
    screened = result.screened.get(candidate.id)
    return {
        "id": candidate.id,
        **({"name": candidate.name} if candidate.name else {}),
        "role": result.role_of[candidate.kind, candidate.id],
        "latency_ms": round(candidate.latency_ms, 6),
        "interval_ms": [round(candidate.low_ms, 6), round(candidate.high_ms, 6)],
        "score": candidate.score,
        **({"score_interval": interval} if interval else {}),
        **({"score_standard_error": error} if error else {}),
        **({"screened": screened} if screened else {}),
        **{name: candidate.details[name] for name in _PUBLISHED if name in candidate.details},
        **({"quantities": dict(candidate.quantities)} if candidate.quantities else {}),
        **({"failure": candidate.failure} if candidate.failure else {}),
        "architecture": candidate.architecture.to_dict(),
    }


def print_result(result: SearchResult) -> None:
    """The outcome of a run in words, its front as a table, and what comes next."""
    from nas import report

    for line in report.outcome(result):
        print_data(line)
    if len(result.run.budgets) > 1:
        print_data("the winner of each budget, and the slowest reference inside it:")
        print_table(*report.winners_table(result))
        print_data("the front and the references:")
    shown, front_ids = report.shown_front(result), {one.id for one in result.front}
    print_candidates(result, [*shown, *result.references])
    count = sum(one.id in front_ids for one in shown)
    if count < len(front_ids):
        print_data(f"{count} of {len(front_ids)} networks of the front are shown; all of them:")
        print_data(f"  nas front {shlex.quote(str(result.path))}")
    for line in report.survey_steps(result):
        print_data(line)


def print_candidates(result: SearchResult, candidates: Sequence[Candidate]) -> None:
    """Networks of a run as a table, fastest first, and how their blocks are written. Nothing if there are none."""
    from nas import report

    if not candidates:
        return
    print_table(*report.candidates_table(result, candidates))
    print_data(report.BLOCKS)
