"""`nas search`: find the best network inside a latency budget."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options
from nas.cli.asked import Asked, is_complete
from nas.cli.live import search_watch
from nas.cli.next_steps import say_after_search
from nas.cli.results import print_result, result_json, stoppable, write_results
from nas.cli.status import doing
from nas.cli.surveyed import search_images, survey_space
from nas.cli.terminal import end_like_ctrl_c, print_json, say
from nas.errors import InputError, NasError, visible

if TYPE_CHECKING:
    from nas.networks import Architecture, SearchSpace
    from nas.proxies import Proxy
    from nas.search import Run, SearchResult
    from nas.search.deadline import Deadline
    from nas.search.progress import Progress
    from nas.search.shared import Sharing

__all__ = ["search"]

_SPACE, _DENSE_RESOLUTION = "iformer", 512


def search(
    budget_ms: Annotated[
        str | None,
        typer.Option(
            help="Upper limit of the predicted latency in ms, or several: 0.6,0.85,1.1.",
            show_default="the whole front; with --resume that of the run",
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space", help="Search space: a name or a .toml file.", show_default="iformer; at 512 px iformer-512"
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(help="Of the network's input, in pixels.", show_default="224, with --task segment 512"),
    ] = None,
    table: options.Tables = None,
    limit: options.Limit = None,
    objective: options.Objective = None,
    must_fit: options.MustFit = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            help="What scores a candidate, such as short-training. A,B: A screens, and B scores the best of them. A+B: "
            "a panel, the mean of both.",
            show_default="accuracy-table, with --data a supernet",
        ),
    ] = None,
    screen: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Of networks of similar latency, the best 1 in this many go on to the next proxy.",
            show_default="8 with several proxies",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE of the proxy or the data; may be repeated.", show_default=False),
    ] = None,
    effort: options.Effort = None,
    supernet: options.Supernet = None,
    data: options.SearchData = None,
    task: Annotated[
        str,
        typer.Option(help="classify, or segment: --data is a folder of pictures and masks."),
    ] = "classify",
    trials: Annotated[
        int | None,
        typer.Option(min=1, max=10**7, help="Candidates to score.", show_default="20000 by tables, 120 with --data"),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(help="End after this long: 90s, 10m, 2h.", show_default="10m with --proxy, without --trials"),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.999, help="Keep the upper end of this interval inside the budget.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the sampler, the data and the training.")] = 0,
    sampler: options.Sampler = None,
    storage: options.Storage = None,
    workers: options.Workers = None,
    shared: options.Shared = None,
    track: options.Track = None,
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="results/SPACE-BUDGETms")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run: --resume RESULTS takes its other options from there.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Find the best network inside a latency budget.

    Without --data and --proxy nothing is trained: 20,000 networks are evaluated by a latency table, and by an accuracy
    that is predicted from published results. With --data, the best of these are scored on your images: by classes, or
    with --task segment by the pixels of masks (--resolution 512 --task segment --budget-ms 4 --data city/).

    With several budgets, or without any, one run finds the best network of each. --resume may have other budgets.

    Example: nas search --budget-ms 1.1

    Example: nas search --budget-ms 1.1 --data photos/ --time-limit 2h

    Example: nas search --resume results/iformer-1.1ms --budget-ms 0.9
    """
    from nas.networks import SearchSpace
    from nas.search import SearchResult, check_budget, check_folder, default_out, read_budgets
    from nas.search.images import TASKS

    source, option = options.read_data(data, option)
    # Options of a proxy without --proxy are for short training, which alone has any that are needed.
    names = proxy or ("short-training" if option or effort else None)
    if task not in TASKS:
        raise InputError(f"--task must be one of {', '.join(TASKS)}, got {visible(task, limit=50)}")
    if task == "segment" and names is not None:
        raise InputError("--task segment scores by a supernet of its own: leave --proxy, --option and --effort out")
    if task == "segment" and source is None:
        raise InputError(
            "--task segment scores on pictures with masks: give their folder with --data; by tables alone, nas search "
            "--resolution 512 finds networks for it"
        )
    if screen is not None and "," not in (names or ""):
        raise InputError(f"--screen {screen} needs a proxy that screens: --proxy CHEAP,{names or 'DEAR'}")
    end_like_ctrl_c()
    space = space or _default_space(resolution, task)
    search_space = SearchSpace.find(space)
    _check_resolution(resolution, search_space, space)
    tables = options.find_tables(table)
    name, latency_table = next(iter(tables.items()))
    budgets_ms = read_budgets(budget_ms)
    if out is None and resume and budgets_ms is None:
        raise InputError("--resume needs the run to go on with: --out RESULTS, or its --budget-ms")
    out = out or default_out(space, budgets_ms, resume=resume)
    check_folder(out, resume=resume)  # before anything is prepared
    kept = SearchResult.load(out).run if resume else None
    if kept is not None and budgets_ms is None and not kept.whole_front:
        budgets_ms = kept.budgets
    if fit := must_fit or (kept.space.must_fit if kept else None):
        search_space = search_space.fitting(fit)
        say(f"space: only the networks that {fit} can build, as --must-fit says")
    # What cannot be met, or has no table that covers the space, is refused before any image is made or read.
    check_budget(search_space, latency_table, budgets_ms, confidence)
    limits, objectives = options.read_quantities(limit, objective, tables, kept)
    limits.check(search_space)
    for one in objectives:
        one.check(search_space)
    asked = Asked(
        space=search_space,
        table=latency_table,
        names={"space": space, "table": name},
        task=task,
        data=source,
        budgets_ms=budgets_ms,
        confidence=confidence,
        limits=limits,
        objectives=objectives,
        trials=trials,
        time_limit_s=options.read_seconds(time_limit) if time_limit else None,
        seed=seed,
        sampler=sampler,
        storage=storage,
        shared=shared,
        workers=workers,
        track=tuple(track or ()),
        further_tables=dict(list(tables.items())[1:]),
        out=out,
        resume=resume,
    )
    try:
        if names is None and (data is not None or supernet is not None):
            result = search_images(asked, supernet)
        else:
            result = _by_proxies(
                asked,
                names or "accuracy-table",
                settings=options.read_settings(option, effort=effort, supernet=supernet),
                screen=8 if screen is None else screen,
            )
    except KeyboardInterrupt as stopped:
        if not (out / "run.json").exists():
            stopped.args = ("nothing is scored yet: the same command begins again",)
        raise
    doing("writing the report")
    write_results(result)
    if result.winner is None:
        raise NasError(
            f"{asked.out}: no network has a score yet, see its report.md; to go on: nas search --resume {asked.out}"
        )
    if as_json:
        print_json(result_json(result))
        return
    print_result(result)
    say_after_search(result)


def _default_space(resolution: int | None, task: str) -> str:
    """The space of a search that names none."""
    wanted = resolution or (_DENSE_RESOLUTION if task == "segment" else None)
    return f"{_SPACE}-{wanted}" if wanted == _DENSE_RESOLUTION else _SPACE


def _check_resolution(resolution: int | None, space: SearchSpace, name: str) -> None:
    """Refuse a resolution that the space has not: the networks of another one may differ, as windows do."""
    if resolution is not None and resolution not in space.resolution:
        sizes = ", ".join(map(str, space.resolution))
        raise InputError(
            f"--resolution {resolution}: the space {visible(name, limit=100)} is of {sizes} px; nas space list "
            "names others. One of your own says its resolution itself, and needs a --table of it"
        )


def _by_proxies(asked: Asked, names: str, *, settings: dict[str, str], screen: int) -> SearchResult:
    """A search by the proxies that are named."""
    from nas.proxies import build_proxies
    from nas.search import BatchProxy, SearchResult, check_budget, check_sampler, random_inside
    from nas.search.deadline import Deadline
    from nas.search.store import Store

    if asked.sampler is not None:
        check_sampler(asked.sampler)
    if asked.shared is not None:
        Store(asked.shared)  # one that there is not is refused before anything is begun
    # Any panel compares its members on the same random networks, also after a resume with another budget.
    before = SearchResult.load(asked.out) if asked.resume else None
    kept = before.run if before else None
    if before is not None and is_complete(before, asked) and ".py" not in names:  # a file may have changed
        options.read_storage(asked.storage, kept)  # another one is refused
        say(f"all {asked.trials} candidates of {asked.out} are scored")
        return before
    band_ms = (kept.band_ms or kept.budget_ms) if kept else None
    band: tuple[Architecture, ...] = ()
    if "+" in names:
        budgets, _ = check_budget(asked.space, asked.table, asked.budgets_ms, asked.confidence)
        band = random_inside(asked.space, asked.table, band_ms or budgets.largest_ms, asked.confidence)
    deadline = Deadline(doing)
    built = build_proxies(
        names, data=asked.data or "synthetic", seed=asked.seed, options=settings, progress=deadline, band=band
    )
    decides, last = built.popitem()
    if isinstance(last, BatchProxy) and not built:
        return survey_space(asked, last, decides)
    from nas.search.shared import Sharing  # loads Optuna, which a survey has no use for

    sharing = Sharing(
        proxies=names,
        options=settings,
        data=asked.data,
        tables=asked.further_tables,
        url=asked.shared,
        workers=asked.workers or 1,
    )
    return _search(asked, last, decides, screens=built, screen=screen, kept=kept, sharing=sharing, deadline=deadline)


def _search(
    asked: Asked,
    proxy: Proxy,
    name: str,
    *,
    screens: dict[str, Proxy],
    screen: int,
    kept: Run | None,
    sharing: Sharing,
    deadline: Deadline,
) -> SearchResult:
    """A search with a study, by proxies that take their time."""
    from nas.report import open_tracker
    from nas.search import SearchResult, plan_search
    from nas.search.run import run_search

    storage = options.read_storage(asked.storage, kept)
    limit_s = asked.time_limit_s or (None if asked.trials else 600.0)
    doing(f"timing {name} on a few networks")
    planned = plan_search(
        asked.space,
        asked.table,
        proxy,
        screens=screens,
        screen=screen,
        budget_ms=asked.budgets_ms,
        confidence=asked.confidence,
        limits=asked.limits,
        objectives=asked.objectives,
        trials=asked.trials,
        time_limit_s=limit_s,
        workers=sharing.workers,
        before=SearchResult.load(asked.out) if asked.resume else None,
    )
    for line in (*planned.describe(), f"results: {asked.out}"):
        say(line)
    with stoppable(asked.out), ExitStack() as stack, search_watch() as watch:
        trackers = [stack.enter_context(closing(open_tracker(one, out=asked.out, say=say))) for one in asked.track]

        def on_progress(progress: Progress) -> None:
            watch(progress)
            for tracker in trackers:
                tracker.on_progress(progress)

        return run_search(
            asked.space,
            asked.table,
            proxy,
            screens=screens,
            plan=planned,
            seed=asked.seed,
            out=asked.out,
            names={**asked.names, "proxy": name},
            time_limit_s=limit_s,
            sampler=asked.sampler,
            storage=storage,
            resume=asked.resume,
            command=asked.command,
            say=say,
            sharing=sharing,
            deadline=deadline,
            on_progress=on_progress,
        )
