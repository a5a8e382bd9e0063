"""A whole search in one call: `nas.search(...)`, what `nas search` does from the shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import InputError
from nas.latency import LatencyTable
from nas.masking import is_masked
from nas.networks import SearchSpace
from nas.proxies import FunctionProxy, Proxy, Scorer, build_proxies
from nas.search.budget import check_budget, read_budgets
from nas.search.folder import check_folder, default_out
from nas.search.limits import Limits, find_quantities
from nas.search.plan import plan_search, random_inside
from nas.search.progress import Progress
from nas.search.records import Run
from nas.search.result import SearchResult
from nas.search.run import run_search
from nas.search.survey import NETWORKS, BatchProxy, plan_survey, run_survey

if TYPE_CHECKING:
    from nas.data import DataSource

__all__ = ["search"]

_TIME_LIMIT_S = 600.0  # where neither trials nor a time limit end a search


def search(
    space: str | Path | SearchSpace = "iformer",
    table: str | Path | LatencyTable = "iphone13",
    *,
    budget_ms: float | str | Iterable[float] | None = None,
    score: Scorer | None = None,
    proxy: str | Proxy | None = None,
    screens: str | None = None,
    screen: int = 8,
    options: Mapping[str, str] | None = None,
    data: str | DataSource | None = None,
    trials: int | None = None,
    time_limit_s: float | None = None,
    confidence: float | None = None,
    limits: Sequence[str] = (),
    objectives: Sequence[str] = (),
    must_fit: str | None = None,
    seed: int = 0,
    sampler: str | None = None,
    storage: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    on_progress: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005
) -> SearchResult:
    """Find the best network inside a latency budget.

    With `score`, a function of one's own decides. Without `score` and `proxy` nothing is trained: 20,000 networks are
    evaluated by a latency table, and by an accuracy that is predicted from published results, in a minute or two. The
    search on images that trains a supernet first is `nas search --data` from the shell.

    Every result is in the folder before the next network is tried. After Ctrl-C or an error the same call with `out`
    and `resume=True` goes on.

    Args:
        space: the networks to choose from: a name, a .toml file, or a space.
        table: predicts their latency: a name or its beginning, a .json file, or a table.
        budget_ms: upper limit of the predicted latency in ms, or several. By default the whole front up to the slowest
            known network of the space.
        score: takes an `Architecture` and gives a number, or a `nas.proxies.Score`; higher is better. How failures are
            told is in `nas.proxies.FunctionProxy`. It may be defined anywhere, also in a cell of a notebook. A run is
            resumed with a function of the same module and name.
        proxy: in place of `score`, what `--proxy` takes, such as `"short-training"`, `"accuracy-table,./mine.py"` or
            `"zero-cost:naswot+zero-cost:zico"`; or a proxy.
        screens: proxies that score before `score` or `proxy` does, as `--proxy` names them, such as `"accuracy-table"`:
            of networks of similar latency the best go on.
        screen: networks to screen for each one passed on.
        options: what `--option` sets of the proxies that are named.
        data: images for the proxies that are named; by default synthetic ones.
        trials: candidates to score. By default 20,000 by tables, else as many as the time limit allows.
        time_limit_s: end after this many seconds. By default 600 without `trials`, where tables alone do not decide.
        confidence: keep the upper end of the interval of this coverage inside the budget, instead of the prediction.
        limits: further limits, such as `["params=9M", "memory=2MB"]`. With `resume`, by default those of the run;
            `["none"]` drops them.
        objectives: what the front shows besides latency and score, such as `["macs"]`. With `resume`, as `limits`.
        must_fit: `"timm"` for only those networks that timm's own iFormer can build, so that `nas.export(result,
            "timm")` takes the winner. With `resume`, by default that of the run.
        seed: of the sampler, the data and the training.
        sampler: what proposes the networks, one of `nas.search.SAMPLERS`; by default the first, or that of the run to
            go on with.
        storage: an Optuna storage URL; by default a journal in the folder.
        out: the results folder; by default a new one, results/SPACE-BUDGETms, or with `resume` the last such folder.
        resume: go on with the run in the folder; its budgets may be others.
        say: gets the plan and messages, line by line, such as `print`.
        on_progress: called after every score; a survey by tables does not call it.
    Returns:
        The run and its candidates. `winner` is the best network inside the budget, `front` what no other beats in both
        latency and score.
    Raises:
        BudgetError: no network of the space is as fast as a budget.
        InputError: an argument cannot be used, or the folder belongs to another run.
        MissingLatencyError: the table does not cover the space.
        NasError: an error in `score`, or no network can be scored.

    Examples:
        >>> import tempfile, nas
        >>> def depth(network):
        ...     return sum(len(stage.blocks) for stage in network.stages)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = nas.search("tiny", "iphone13", budget_ms=0.7, score=depth, trials=8, out=folder)
        >>> result.winner.latency_ms <= 0.7
        True
    """
    if score is not None and proxy is not None:
        raise InputError("score and proxy: give one of them; screens takes the names of proxies that score before it")
    if trials is not None and trials < 1:
        raise InputError(f"trials must be 1 at least, got {trials}")
    if time_limit_s is not None and not time_limit_s > 0:
        raise InputError(f"time_limit_s must be a positive number of seconds, got {time_limit_s}")
    _refuse_unused(score, proxy, screens, data, options)
    space_name, the_space = ("space", space) if isinstance(space, SearchSpace) else _space(str(space))
    table_name, the_table = ("table", table) if isinstance(table, LatencyTable) else _table(str(table))
    budgets_ms = _budgets_ms(budget_ms)
    folder = Path(out) if out is not None else default_out(space_name, budgets_ms, resume=resume)
    check_folder(folder, resume=resume)
    kept = SearchResult.load(folder).run if resume else None
    if fit := must_fit or (kept.space.must_fit if kept else None):
        the_space = the_space.fitting(fit, where="must_fit")
    if kept is not None and budgets_ms is None and not kept.whole_front:
        budgets_ms = kept.budgets
    budgets, _ = check_budget(the_space, the_table, budgets_ms, confidence)

    def build(names: str) -> dict[str, Proxy]:
        band_ms = (kept.band_ms or kept.budget_ms) if kept else budgets.largest_ms
        band = random_inside(the_space, the_table, band_ms, confidence) if "+" in names else ()
        return build_proxies(names, data=data or "synthetic", seed=seed, options=options, band=band)

    proxies = _proxies(build, score, proxy, screens)
    name, decides = proxies.popitem()
    names = {"space": space_name, "table": table_name, "proxy": name}
    command = _command(names, budgets_ms, trials, time_limit_s, seed, must_fit)
    if isinstance(decides, BatchProxy) and not proxies:
        given_in_vain = {"limits": limits, "objectives": objectives, "sampler": sampler, "storage": storage}
        for argument, value in given_in_vain.items():
            if value:
                raise InputError(f"{argument} is for searches by score or by a proxy that trains: leave it out")
        survey = plan_survey(
            the_space, the_table, decides,
            budget_ms=budgets_ms, confidence=confidence, networks=trials or NETWORKS, time_limit_s=time_limit_s,
        )  # fmt: skip
        _say(say, survey.describe(), folder)
        return run_survey(
            the_space, the_table, decides,
            plan=survey, seed=seed, out=folder, names=names, time_limit_s=time_limit_s, resume=resume, command=command,
        )  # fmt: skip
    limit_s = time_limit_s if time_limit_s is not None or trials is not None else _TIME_LIMIT_S
    tables = {table_name: the_table}
    plan = plan_search(
        the_space, the_table, decides,
        screens=proxies, screen=screen, budget_ms=budgets_ms, confidence=confidence,
        limits=_limits(limits, tables, kept),
        objectives=find_quantities(objectives or (kept.objectives if kept else ()), tables, where="objectives"),
        trials=trials, time_limit_s=limit_s, before=SearchResult.load(folder) if resume else None,
    )  # fmt: skip
    _say(say, plan.describe(), folder)
    return run_search(
        the_space, the_table, decides,
        screens=proxies, plan=plan, seed=seed, out=folder, names=names, time_limit_s=limit_s, sampler=sampler,
        storage=_storage(storage, kept), resume=resume, command=command, say=say,
        on_progress=on_progress,
    )  # fmt: skip


def _storage(given: str | None, kept: Run | None) -> str | None:
    """The storage of the study: what is given, else that of the run to go on with.

    Raises:
        InputError: the run does not keep the password of its storage.
    """
    used = given or (kept.storage if kept else None)
    if used is not None and is_masked(used):
        raise InputError(f"storage: the run keeps no password ({used}): give the whole URL again")
    return used


def _space(name: str) -> tuple[str, SearchSpace]:
    return name, SearchSpace.find(name)


def _table(name: str) -> tuple[str, LatencyTable]:
    found, path = LatencyTable.find(name)
    return name if "/" in name else path.name.removesuffix(".json"), found


def _budgets_ms(given: float | str | Iterable[float] | None) -> tuple[float, ...] | None:
    """The budgets, ascending; None for the whole front."""
    if given is None or isinstance(given, str):
        return read_budgets(given)
    try:
        budgets = tuple(map(float, given)) if isinstance(given, Iterable) else (float(given),)
    except (TypeError, ValueError) as error:
        raise InputError(f"budget_ms must be a number of milliseconds, or several, got {given!r}") from error
    if not budgets:
        raise InputError("budget_ms has no budget in it: leave it out for the whole front")
    return tuple(sorted(set(budgets)))


def _proxies(
    build: Callable[[str], dict[str, Proxy]],
    score: Scorer | None,
    proxy: str | Proxy | None,
    screens: str | None,
) -> dict[str, Proxy]:
    """The proxies by name, in order; the last one decides."""
    if score is None and (proxy is None or isinstance(proxy, str)):
        return build(",".join(names for names in (screens, proxy or "accuracy-table") if names))
    found = build(screens) if screens else {}
    if score is not None:
        decides: Proxy = FunctionProxy(score)
    else:
        assert proxy is not None and not isinstance(proxy, str)
        decides = proxy
    name = decides.name if isinstance(decides, FunctionProxy) else str(decides.settings().get("proxy", "proxy"))
    if name in found:
        raise InputError(f"screens and proxy: {name} twice; leave one out")
    return found | {name: decides}


def _refuse_unused(
    score: Scorer | None,
    proxy: str | Proxy | None,
    screens: str | None,
    data: str | DataSource | None,
    options: Mapping[str, str] | None,
) -> None:
    """Refuse images and options where nothing takes them."""
    if data is not None and score is None and proxy is None and screens is None:
        raise InputError("data needs a proxy that uses it, such as proxy='short-training'; see also nas search --data")
    if screens is None and (score is not None or not (proxy is None or isinstance(proxy, str))):
        for name, value in (("data", data), ("options", options)):
            if value is not None:
                raise InputError(f"{name} is for proxies that are named; what scores here has its own: leave it out")


def _limits(texts: Sequence[str], tables: Mapping[str, LatencyTable], kept: Run | None) -> Limits:
    """The limits; without any, those of the run to go on with."""
    if not texts and kept is not None and kept.limits:
        return Limits.of_record(kept.limits, tables, where="run.json")
    return Limits.parse(texts, tables, where="limits")


def _say(say: Callable[[str], None], plan: Sequence[str], folder: Path) -> None:
    for line in (*plan, f"results: {folder}"):
        say(line)


def _command(
    names: Mapping[str, str],
    budgets_ms: Sequence[float] | None,
    trials: int | None,
    time_limit_s: float | None,
    seed: int,
    must_fit: str | None,
) -> list[str]:
    """The call in words, for run.json."""
    budgets = None if budgets_ms is None else ",".join(f"{budget_ms:g}" for budget_ms in budgets_ms)
    facts = {"budget_ms": budgets, "trials": trials, "time_limit_s": time_limit_s, "seed": seed, "must_fit": must_fit}
    given = {**names, **facts}
    return ["nas.search", *(f"{name}={value}" for name, value in given.items() if value is not None)]
