"""Run a validation: score the published rows, search, and score what was found. Every result is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nas.data import Contents
from nas.errors import InputError, finishing
from nas.files import Record, append_record, drop_half_line, read_records, write_beside
from nas.lock import LOCK_NAME, owned, refuse_if_owned
from nas.networks import Architecture
from nas.proxies import Proxy, ScoringFailed, differing
from nas.search import SearchResult, check_budget, plan_search
from nas.search.progress import Progress
from nas.search.run import run_search
from nas.validate.accuracy import AccuracyPart
from nas.validate.agreement import NEAR_MS
from nas.validate.assemble import assemble, latency_part
from nas.validate.records import Validation
from nas.validate.recovery import Findings
from nas.validate.request import Request
from nas.validate.scores import KeptScores, Remembering
from nas.validate.widths import FEWEST, draw_networks

__all__ = ["run_validation"]


class _EndedSearch(Record):
    """A line of searches.jsonl: a search that reached the end that was asked for."""

    budget_ms: float
    trials: int | None = None
    time_limit_s: float | None = None


def _ignore(what: object) -> None:
    """Do nothing."""


def run_validation(
    request: Request,
    build: Callable[[int], Mapping[str, Proxy]],
    *,
    out: Path,
    foretell: Callable[[], AccuracyPart] | None = None,
    resume: bool = False,
    say: Callable[[str], None] = _ignore,
    on_search: Callable[[Progress], None] = _ignore,
) -> Validation:
    """Compare latencies, score the published rows, search, and score what was found. Every result is kept.

    Args:
        request: what is asked.
        build: makes the proxies of a seed, by name. It is called for one seed after the other, so that the proxies of
            one seed are in memory at a time.
        out: the folder.
        foretell: computes what an accuracy table predicts, if that is asked for.
        resume: continue the validation in the folder. Seeds, proxies, rows or trials may be added.
        say: gets a line of text for every finished score and every next step.
        on_search: gets the progress of the searches, as `run_search` reports it.
    Raises:
        InputError: there is no seed; the random networks are too few for a regression; the folder has a validation and
            `resume` is not set; `resume` is set and the folder has none; or another process works on it.
        BudgetError: no network of the space meets a budget.
        KeyboardInterrupt: passed on after the files of the finished part are written.
    """
    started, seeds = time.monotonic(), request.seeds
    if not seeds:
        raise InputError("--seeds must be at least 1")
    for budget_ms in request.budgets_ms:
        check_budget(request.space, request.table, budget_ms)
    band = draw_networks(request.space, request.latency_ms, NEAR_MS, request.band_networks)
    refuse_if_owned(out, out / LOCK_NAME)
    begun = (out / "scores.jsonl").exists()
    if begun and not resume:
        raise InputError(f"{out} holds a validation already: go on with it (--resume), or choose another --out")
    if resume and not begun:
        raise InputError(f"{out} holds no validation to go on with: leave --resume out to begin one")
    with owned(out, out / LOCK_NAME):
        # Proxies that cannot be built and searches that cannot be resumed are refused before the folder is touched.
        built = {seeds[0]: build(seeds[0])}
        before = Validation.load(out) if (out / "validation.json").exists() else None
        contents = _contents(built[seeds[0]], before, out)
        ended = _ended_searches(request, built[seeds[0]], out)
        latency = latency_part(request)
        # What an earlier run of the command found out stays.
        accuracy = foretell() if foretell else before and before.accuracy
        drop_half_line(out / "searches.jsonl")
        scores = KeptScores(out / "scores.jsonl")
        scores.use_all(seeds[0], built[seeds[0]])

        def findings() -> Findings:
            return Findings(request=request, scores=scores, results=_results(request, out), ended=frozenset(ended))

        def keep() -> Validation:
            validation = assemble(findings(), latency, band, seconds=time.monotonic() - started)
            validation = validation.model_copy(update={"accuracy": accuracy, "contents": contents})
            content = validation.model_dump_json(by_alias=True, exclude_none=True, indent=1)
            write_beside(out / "validation.json", content.encode() + b"\n")
            return validation

        def score_first(proxies: Mapping[str, Proxy], seed: int) -> None:
            """Score the published rows, and under the first seed the random networks of the band as well."""
            _score({point.name: point.architecture() for point in request.compared}, proxies, seed, scores, say=say)
            keep()
            if seed == seeds[0] and len(band) >= FEWEST:
                _score({f"random {name}": network for name, network in band.items()}, proxies, seed, scores, say=say)
                keep()

        with finishing(keep):
            keep()
            if request.band_networks and request.proxies:
                say(_band_plan(request, band, built[seeds[0]], scores))
            for seed in seeds:
                score_first(built.pop(seed) if seed in built else build(seed), seed)
            for budget_ms in request.budgets_ms:
                if budget_ms not in ended:
                    _search(request, build(seeds[0]), budget_ms, scores, out, say=say, on_search=on_search)
                    ended.add(budget_ms)
                    end = _EndedSearch(budget_ms=budget_ms, trials=request.trials, time_limit_s=request.time_limit_s)
                    append_record(out / "searches.jsonl", end)
                    keep()
            if request.budgets_ms:
                found = findings()
                for seed in sorted(found.unscored_seeds()):
                    _score(found.compared, build(seed), seed, scores, say=say)
                    keep()
        return Validation.load(out)


def _contents(proxies: Mapping[str, Proxy], before: Validation | None, out: Path) -> Contents | None:
    """What the images of the proxies are; without proxies that use images, what it was before.

    Raises:
        InputError: the images are not those of before.
    """
    found = next((own["contents"] for proxy in proxies.values() if "contents" in (own := proxy.settings())), None)
    kept = before.contents if before else None
    if found is None:
        return kept
    contents = Contents.model_validate(found)
    if before and kept and (words := kept.difference(contents)):
        raise InputError(
            f"{out}: the images differ from those that it was begun with ({before.data}): {words}; give the same "
            "images, in whatever folder, or choose another --out"
        )
    return contents


def _band_plan(
    request: Request, band: Mapping[str, Architecture], proxies: Mapping[str, Proxy], scores: KeptScores
) -> str:
    """What the random networks are, and how long the scores that are still missing take."""
    where = f"predicted at {NEAR_MS[0]:.2f} to {NEAR_MS[1]:.2f} ms"
    if len(band) < FEWEST:
        return (
            f"widths: only {len(band)} of {request.band_networks} random networks {where} were found in the space "
            f"{request.names['space']}: too few to say what stage widths explain"
        )
    times = []
    for name, proxy in proxies.items():
        missing = [network for network in band.values() if scores.find(name, request.seeds[0], network.id) is None]
        each_s = _seconds_each(proxy, missing[:3])
        times.append(f"{name} " + ("unknown" if each_s is None else f"{each_s * len(missing) / 60:.1f} min"))
    return (
        f"widths: {len(band)} random networks {where}, scored once the published ones have their first score; "
        f"time about {', '.join(times)}; --band-networks 0 leaves them out"
    )


def _seconds_each(proxy: Proxy, networks: Sequence[Architecture]) -> float | None:
    """Estimated time of one score, from the first network that the proxy can score. None if it can score none."""
    for network in networks:
        try:
            return proxy.estimate_seconds(network)
        except ScoringFailed:
            continue
    return None if networks else 0.0


def _score(
    networks: Mapping[str, Architecture],
    proxies: Mapping[str, Proxy],
    seed: int,
    scores: KeptScores,
    *,
    say: Callable[[str], None],
) -> None:
    """Score networks with every proxy of a seed."""
    for proxy_name, proxy in proxies.items():
        remembering = Remembering(proxy_name, seed, proxy, scores)
        for number, (name, network) in enumerate(networks.items(), start=1):
            kept = "  (kept)" if scores.find(proxy_name, seed, network.id) else ""
            try:
                score = remembering.score(network)
                outcome = f"score {score.value:.6g}  {score.seconds:.1f} s"
            except ScoringFailed as error:
                outcome = f"failed: {error}"
            say(f"{proxy_name}, seed {seed}, {number} of {len(networks)}: {name}  {outcome}{kept}")


def _search(
    request: Request,
    proxies: Mapping[str, Proxy],
    budget_ms: float,
    scores: KeptScores,
    out: Path,
    *,
    say: Callable[[str], None],
    on_search: Callable[[Progress], None],
) -> None:
    """Search inside a budget with the first proxy, in its own results folder."""
    name, seed = request.proxies[0], request.seeds[0]
    proxy = Remembering(name, seed, proxies[name], scores)
    plan = plan_search(
        request.space,
        request.table,
        proxy,
        budget_ms=budget_ms,
        trials=request.trials,
        time_limit_s=request.time_limit_s,
    )
    folder = _search_folder(out, budget_ms)
    say(f"search inside {budget_ms:g} ms with {name}, in {folder}")
    run_search(
        request.space,
        request.table,
        proxy,
        plan=plan,
        seed=seed,
        out=folder,
        names={"space": request.names["space"], "table": request.names["table"], "proxy": name},
        time_limit_s=request.time_limit_s,
        resume=(folder / "run.json").exists(),
        command=request.command,
        say=say,
        on_progress=on_search,
    )


def _ended_searches(request: Request, proxies: Mapping[str, Proxy], out: Path) -> set[float]:
    """Budgets whose search is finished and was asked for with the same limits.

    Raises:
        InputError: a search was started with other settings.
    """
    if not request.budgets_ms:
        return set()
    limits, name = (request.trials, request.time_limit_s), request.proxies[0]
    asked = {
        "space": request.space.digest,
        "table": request.table.digest(),
        "first seed": request.seeds[0],
    }
    settings = {"name": name, **proxies[name].settings()}
    begun = _results(request, out)
    for result in begun.values():
        run = result.run
        before = (run.space.digest, run.table.digest, run.seed)
        other = [what for (what, value), old in zip(asked.items(), before, strict=True) if value != old]
        if other := other + (["first proxy"] if differing(run.proxy, settings) else []):
            raise InputError(
                f"{result.path} was begun with another {', '.join(other)}: repeat its options (run.json has them), "
                "choose another --out, or leave the searches out (--budgets none)"
            )
    ended = read_records(out / "searches.jsonl", _EndedSearch)
    return {one.budget_ms for one in ended if (one.trials, one.time_limit_s) == limits} & set(begun)


def _results(request: Request, out: Path) -> dict[float, SearchResult]:
    """Results of the started searches, by budget."""
    folders = {budget_ms: _search_folder(out, budget_ms) for budget_ms in request.budgets_ms}
    return {budget: SearchResult.load(path) for budget, path in folders.items() if (path / "run.json").exists()}


def _search_folder(out: Path, budget_ms: float) -> Path:
    text = f"{budget_ms:.2f}"
    return out / f"search-{text if float(text) == budget_ms else f'{budget_ms:g}'}ms"
