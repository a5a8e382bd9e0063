"""`nas search`: find the best network inside a latency budget."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from nas.cli import options
from nas.cli.results import print_result, result_json
from nas.cli.terminal import data_watch, print_json, say, say_progress
from nas.errors import InputError, NasError

__all__ = ["search"]


def search(
    budget_ms: Annotated[float, typer.Option(help="Upper limit of the predicted latency in ms.", show_default=False)],
    space: options.Space = "iformer",
    table: options.Table = "iphone13",
    proxy: Annotated[
        str, typer.Option(help="What scores a candidate; of CHEAP,DEAR the cheap one screens and the dear one decides.")
    ] = "short-training",
    screen: Annotated[
        int | None,
        typer.Option(min=2, help="Networks to screen for each one passed on.", show_default="8 with several proxies"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE of the proxy; may be repeated.", show_default=False),
    ] = None,
    effort: options.Effort = None,
    supernet: options.Supernet = None,
    data: options.Data = "synthetic",
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates to score.", show_default=False)] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="End after this long: 90s, 10m, 2h.", show_default="10m without --trials")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.999, help="Keep the upper end of this interval inside the budget.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the sampler, the data and the training.")] = 0,
    storage: Annotated[
        str | None, typer.Option(help="Optuna storage URL.", show_default="a journal in the results folder")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="results/SPACE-BUDGETms")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the results folder.")] = False,
    as_json: options.Json = False,
) -> None:
    """Find the best network inside a latency budget.

    Example: nas search --budget-ms 1.1
    """
    from nas.latency import LatencyTable
    from nas.networks import SearchSpace
    from nas.proxies import build_proxies
    from nas.report import write_report
    from nas.search import SearchResult, check_budget, plan_search
    from nas.search.run import run_search

    if screen is not None and "," not in proxy:
        raise InputError(f"--screen {screen} needs a proxy that screens: --proxy CHEAP,{proxy}")
    # SIGTERM ends a search as Ctrl-C does: the files of the finished part are written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    limit_s = options.read_seconds(time_limit) if time_limit else None if trials else 600.0
    search_space = SearchSpace.find(space)
    latency_table, table_path = LatencyTable.find(table)
    folder = out or _default_out(space, budget_ms, resume=resume)
    # A budget that cannot be met is refused before any image is made or read.
    check_budget(search_space, latency_table, budget_ms, confidence)
    with data_watch() as watch:
        built = build_proxies(
            proxy,
            data=data,
            seed=seed,
            options=options.read_settings(option, effort=effort, supernet=supernet),
            progress=watch,
        )
    decides, last = built.popitem()
    planned = plan_search(
        search_space,
        latency_table,
        last,
        screens=built,
        screen=8 if screen is None else screen,
        budget_ms=budget_ms,
        confidence=confidence,
        trials=trials,
        time_limit_s=limit_s,
    )
    for line in planned.describe():
        say(line)
    say(f"results: {folder}")
    try:
        result = run_search(
            search_space,
            latency_table,
            last,
            screens=built,
            plan=planned,
            seed=seed,
            out=folder,
            names={"space": space, "table": table_path.name.removesuffix(".json"), "proxy": decides},
            time_limit_s=limit_s,
            storage=storage,
            resume=resume,
            command=["nas", *sys.argv[1:]],
            on_progress=say_progress,
        )
    except KeyboardInterrupt:
        write_report(SearchResult.load(folder))
        say(f"\nstopped; go on with: nas search --resume --out {folder} and the same options")
        raise
    write_report(result)
    if result.winner is None:
        raise NasError(f"{folder}: no network has a score yet; see its report.md for the reasons")
    if as_json:
        print_json(result_json(result))
    else:
        print_result(result)


def _default_out(space: str, budget_ms: float, *, resume: bool) -> Path:
    """The folder results/SPACE-BUDGETms, with a number if it is taken. With --resume, the last such folder."""
    first = Path("results") / f"{Path(space).stem}-{budget_ms:g}ms"
    path, number, last = first, 1, first
    while (path / "run.json").exists():
        number, last = number + 1, path
        path = first.with_name(f"{first.name}-{number}")
    return last if resume else path
