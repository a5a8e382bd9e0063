"""`nas search`: find the best network inside a latency budget."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options
from nas.cli.results import print_result, result_json, stoppable
from nas.cli.supernet import supernet_watch
from nas.cli.terminal import data_watch, end_like_ctrl_c, print_json, say, say_candidate, say_progress, say_settled
from nas.errors import InputError, NasError

if TYPE_CHECKING:
    from nas.data import DataSource
    from nas.latency import LatencyTable
    from nas.networks import SearchSpace
    from nas.proxies import Proxy
    from nas.search import BatchProxy, SearchResult, SurveyPlan

__all__ = ["search"]

_ON_IMAGES = "supernet,short-training:standard"  # scores, and settles
_RESOLUTION = 64  # of the supernet's images
_SPACE_LINES = 3  # of the plan of a survey: those about the space and its tables
_LEAST_S = 120.0  # for scores by a supernet; with less, training one is not worth it
# What a score and a settling take, in steps of the supernet's training (results/validation: 4 and 46 s beside 3.5 s).
_SCORE_STEPS, _SETTLE_STEPS = 1.2, 13.0


def search(
    budget_ms: Annotated[float, typer.Option(help="Upper limit of the predicted latency in ms.", show_default=False)],
    space: options.Space = "iformer",
    table: options.Table = "iphone13",
    proxy: Annotated[
        str | None,
        typer.Option(
            help="What scores a candidate; of A,B the first screens and the second decides, A+B is a panel.",
            show_default="accuracy-table, with --data a supernet",
        ),
    ] = None,
    screen: Annotated[
        int | None,
        typer.Option(min=2, help="Networks to screen for each one passed on.", show_default="8 with several proxies"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE of the proxy or the data; may be repeated.", show_default=False),
    ] = None,
    effort: options.Effort = None,
    supernet: options.Supernet = None,
    data: options.SearchData = None,
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
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="results/SPACE-BUDGETms")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the results folder.")] = False,
    as_json: options.Json = False,
) -> None:
    """Find the best network inside a latency budget.

    Without --data and --proxy nothing is trained: 20,000 networks are looked at by their latency table and by what
    published results foretell of their accuracy. With --data, the best of these are scored on your images.

    Example: nas search --budget-ms 1.1
    """
    from nas.latency import LatencyTable
    from nas.networks import SearchSpace
    from nas.report import write_report
    from nas.search import check_budget

    source, option = options.read_data(data, option)
    # Options of a proxy without --proxy are for short training, which alone has any that are needed.
    names = proxy or ("short-training" if option or effort else None)
    if screen is not None and "," not in (names or ""):
        raise InputError(f"--screen {screen} needs a proxy that screens: --proxy CHEAP,{names or 'DEAR'}")
    end_like_ctrl_c()
    search_space = SearchSpace.find(space)
    latency_table, table_path = LatencyTable.find(table)
    # A budget that cannot be met is refused before any image is made or read.
    check_budget(search_space, latency_table, budget_ms, confidence)
    asked = _Asked(
        space=search_space,
        table=latency_table,
        names={"space": space, "table": table if "/" in table else table_path.name.removesuffix(".json")},
        data=source,
        budget_ms=budget_ms,
        confidence=confidence,
        trials=trials,
        time_limit_s=options.read_seconds(time_limit) if time_limit else None,
        seed=seed,
        sampler=sampler,
        storage=storage,
        out=out or _default_out(space, budget_ms, resume=resume),
        resume=resume,
    )
    if names is None and (data is not None or supernet is not None):
        result = _guided(asked, supernet)
    else:
        result = _by_proxies(
            asked,
            names or "accuracy-table",
            settings=options.read_settings(option, effort=effort, supernet=supernet),
            screen=8 if screen is None else screen,
        )
    write_report(result)
    if result.winner is None:
        raise NasError(f"{asked.out}: no network has a score yet; see its report.md for the reasons")
    if as_json:
        print_json(result_json(result))
    else:
        print_result(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The options of a search that do not belong to its proxies."""

    space: SearchSpace
    table: LatencyTable
    names: dict[str, str]
    data: DataSource | None
    budget_ms: float
    confidence: float | None
    trials: int | None
    time_limit_s: float | None
    seed: int
    sampler: str | None
    storage: str | None
    out: Path
    resume: bool

    @property
    def command(self) -> list[str]:
        return options.command_line()


def _by_proxies(asked: _Asked, names: str, *, settings: dict[str, str], screen: int) -> SearchResult:
    """A search by the proxies that are named."""
    from nas.proxies import build_proxies
    from nas.search import BatchProxy, check_folder, check_sampler, random_inside

    if asked.sampler is not None:
        check_sampler(asked.sampler)
    check_folder(asked.out, resume=asked.resume)  # before images are read
    # Any panel compares its members on the same random networks, those that a resume compares them on as well.
    band = random_inside(asked.space, asked.table, asked.budget_ms, asked.confidence) if "+" in names else ()
    with data_watch() as watch:
        built = build_proxies(
            names, data=asked.data or "synthetic", seed=asked.seed, options=settings, progress=watch, band=band
        )
    decides, last = built.popitem()
    if isinstance(last, BatchProxy) and not built:
        return _survey(asked, last, decides)
    return _search(asked, last, decides, screens=built, screen=screen)


def _guided(asked: _Asked, supernet: Path | None) -> SearchResult:
    """A search on the user's images, with a supernet that is found or trained."""
    from nas.proxies import build_proxies
    from nas.search import BatchProxy, check_folder, plan_guided, plan_survey, run_guided

    started = time.monotonic()
    _refuse_optuna(asked)
    check_folder(asked.out, resume=asked.resume)  # before the hour that a supernet may take
    data = asked.data or "synthetic"
    (foretell,) = build_proxies("accuracy-table", data=data, seed=asked.seed).values()
    assert isinstance(foretell, BatchProxy)
    survey = plan_survey(asked.space, asked.table, foretell, budget_ms=asked.budget_ms, confidence=asked.confidence)
    for line in survey.describe()[:_SPACE_LINES]:
        say(line)
    if supernet is None:
        supernet = _supernet_of_images(asked, data, survey, started)
    if supernet is None:
        left_s = None if asked.time_limit_s is None else max(1.0, asked.time_limit_s - (time.monotonic() - started))
        return _survey(replace(asked, trials=None, time_limit_s=left_s), foretell, "accuracy-table", said=_SPACE_LINES)
    settings = {"supernet": str(supernet), "init": str(supernet)}
    with data_watch() as watch:
        built = build_proxies(_ON_IMAGES, data=data, seed=asked.seed, options=settings, progress=watch)
    scorer, settler = built.values()
    limit_s = None if asked.time_limit_s is None else max(1.0, asked.time_limit_s - (time.monotonic() - started))
    planned = plan_guided(survey, scorer, settler, trials=asked.trials, time_limit_s=limit_s)
    for line in (*planned.describe(), f"results: {asked.out}"):
        say(line)
    names = dict(zip(("scorer", "settler"), built, strict=True)) | {"foretell": "accuracy-table", **asked.names}
    with stoppable(asked.out), data_watch() as watch:
        return run_guided(
            asked.space,
            asked.table,
            foretell,
            scorer,
            settler,
            plan=planned,
            seed=asked.seed,
            out=asked.out,
            names=names,
            time_limit_s=limit_s,
            resume=asked.resume,
            command=asked.command,
            on_survey=lambda done, total: watch("Looking at networks", done, total),
            on_candidate=say_candidate,
            on_settled=say_settled,
        )


def _supernet_of_images(asked: _Asked, data: DataSource | str, survey: SurveyPlan, started: float) -> Path | None:
    """The supernet of the images: found, or trained now. None if there is too little time for the shortest."""
    from nas.data import load_images
    from nas.search import check_folder, duration
    from nas.search.guided import SETTLED, scored_networks
    from nas.training import SupernetRecipe, estimate_seconds, find_supernet, kept_supernet

    with data_watch() as watch:
        images = load_images(data, resolution=_RESOLUTION, seed=asked.seed, progress=watch)
    say(f"data: {images.description}")
    check_folder(asked.out, resume=asked.resume, contents=images.contents)  # before a supernet of other images
    if asked.resume:
        return _supernet_of_run(asked)
    # With a time limit, a training that sees fewer images may be all that fits in.
    recipes = SupernetRecipe().lengths[: None if asked.time_limit_s else 1]
    for recipe in recipes:
        if found := find_supernet(asked.space, images, recipe=recipe, seed=asked.seed):
            say(f"supernet: of these images, {found}")
            return found
    estimates = estimate_seconds(asked.space, images, recipes=recipes, seed=asked.seed)
    left_s = math.inf
    if asked.time_limit_s is not None:
        left_s = asked.time_limit_s - (time.monotonic() - started) - survey.seconds - _LEAST_S
    fitting = [(recipe, most_s) for recipe, most_s in zip(recipes, estimates, strict=True) if most_s <= left_s]
    if not fitting:
        say(
            f"supernet: its training would take about {duration(estimates[-1])}, which does not fit into "
            "--time-limit; the accuracy table alone decides, and your images are not used"
        )
        return None
    recipe, most_s = fitting[0]
    shorter = ", as --time-limit allows" if recipe is not recipes[0] else ""
    say(
        f"supernet: trained on these images now, once, at most about {duration(most_s)}; sees {recipe.images} images "
        f"at most{shorter}, fewer if they are learnt sooner; kept in the cache"
    )
    step_s = most_s / recipe.steps()
    scored = scored_networks(survey, asked.trials)
    say(
        f"then: survey, about {duration(survey.seconds)}; scoring of {scored} networks, about "
        f"{duration(scored * _SCORE_STEPS * step_s)}; settling of {SETTLED + 1}, about "
        f"{duration((SETTLED + 1) * _SETTLE_STEPS * step_s)}"
    )
    try:
        with supernet_watch() as watch_training:
            return kept_supernet(
                asked.space,
                images,
                recipe=recipe,
                seed=asked.seed,
                on_progress=watch_training,
                on_wait=lambda: say("another process trains this supernet: waiting for it"),
            )
    except KeyboardInterrupt:
        say("stopped; the same command goes on with the training of the supernet")
        raise


def _supernet_of_run(asked: _Asked) -> Path | None:
    """The supernet that a run to go on with was begun with. None if it was begun without one.

    Raises:
        InputError: its file is gone, or is another now. Scores of two supernets cannot be compared.
    """
    from nas.files import digest
    from nas.search import SearchResult

    settings = SearchResult.load(asked.out).run.proxy
    if "supernet" not in settings:
        say("supernet: none, as in the run to go on with; the accuracy table alone decides")
        return None
    path = Path(str(settings["supernet"]))
    gone = "is gone" if not path.is_file() else "is another now" if digest(path) != settings.get("digest") else ""
    if gone:
        raise InputError(
            f"{path}: the supernet of {asked.out} {gone}, and another one's scores cannot be compared with those it "
            "has: give a copy of it (--supernet FILE), or choose another --out"
        )
    say(f"supernet: of this run, {path}")
    return path


def _refuse_optuna(asked: _Asked) -> None:
    """Refuse options of Optuna where it proposes nothing."""
    for name, value in (("--storage", asked.storage), ("--sampler", asked.sampler)):
        if value is not None:
            raise InputError(f"{name} is for searches by --proxy that train; this one has no use for it: leave it out")


def _survey(asked: _Asked, proxy: BatchProxy, name: str, *, said: int = 0) -> SearchResult:
    """A search that trains nothing; `said` lines of its plan have been said before."""
    from nas.search import NETWORKS, plan_survey, run_survey

    _refuse_optuna(asked)
    planned = plan_survey(
        asked.space,
        asked.table,
        proxy,
        budget_ms=asked.budget_ms,
        confidence=asked.confidence,
        networks=asked.trials or NETWORKS,
        time_limit_s=asked.time_limit_s,
    )
    for line in (*planned.describe()[said:], f"results: {asked.out}"):
        say(line)
    with data_watch() as watch:
        return run_survey(
            asked.space,
            asked.table,
            proxy,
            plan=planned,
            seed=asked.seed,
            out=asked.out,
            names={**asked.names, "proxy": name},
            time_limit_s=asked.time_limit_s,
            resume=asked.resume,
            command=asked.command,
            on_progress=lambda done, total: watch("Looking at networks", done, total),
        )


def _search(asked: _Asked, proxy: Proxy, name: str, *, screens: dict[str, Proxy], screen: int) -> SearchResult:
    """A search by Optuna, with proxies that take their time."""
    from nas.search import SearchResult, plan_search
    from nas.search.run import run_search

    kept = SearchResult.load(asked.out).run if asked.resume else None
    storage = options.read_storage(asked.storage, kept)
    limit_s = asked.time_limit_s or (None if asked.trials else 600.0)
    planned = plan_search(
        asked.space,
        asked.table,
        proxy,
        screens=screens,
        screen=screen,
        budget_ms=asked.budget_ms,
        confidence=asked.confidence,
        trials=asked.trials,
        time_limit_s=limit_s,
    )
    for line in (*planned.describe(), f"results: {asked.out}"):
        say(line)
    with stoppable(asked.out):
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
            on_progress=say_progress,
        )


def _default_out(space: str, budget_ms: float, *, resume: bool) -> Path:
    """The folder results/SPACE-BUDGETms, with a number if it is taken. With --resume, the last such folder."""
    first = Path("results") / f"{Path(space).stem}-{budget_ms:g}ms"
    path, number, last = first, 1, first
    while (path / "run.json").exists():
        number, last = number + 1, path
        path = first.with_name(f"{first.name}-{number}")
    return last if resume else path
