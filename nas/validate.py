"""Published figures x table x proxies -> how far latencies and scores can be trusted.

::

    results/validation/
      scores.jsonl         one finished score a line, appended and flushed as it comes; no score is computed twice
      search-0.60ms/       the results folder of the search inside that budget
      validation.json      the figures with their origin   -+ written after every step,
      validation.html      the same as a page              -+ and at the end

Everything is compared in standard deviations over seeds of one score of one network, pooled over the published rows.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nas import catalog
from nas.architecture import Architecture, HeadLayer
from nas.calibrate import PublishedPoint, read_points
from nas.entries import Agreement
from nas.errors import InputError, MissingLatencyError
from nas.files import Record, append_record, digest_of, drop_half_line, read_records, write_beside
from nas.latency import LatencyTable
from nas.operations import count
from nas.pareto import hypervolume, undominated
from nas.proxies import Proxy, Score, ScoringFailed
from nas.ranking import bootstrap_interval, deviation_within_seeds, kendall_tau_b, pooled_deviation
from nas.result import CIRCUMSTANCES, Candidate, SearchResult, TableUsed
from nas.search import Progress, attempt, check_budget, plan_search, run_search
from nas.space import SearchSpace
from nas.validation import (
    EPOCHS,
    LADDER,
    NEAR_MS,
    RESOLUTION,
    Gap,
    Hypervolumes,
    LatencyPart,
    LatencyRow,
    ProxyPair,
    ProxyPart,
    RankAgreement,
    RecoveryPart,
    ScoredNetwork,
    SearchPart,
    SeedScore,
    Validation,
    VariantPart,
)

__all__ = ["Request", "published_points", "read_budgets", "run_validation", "unlike"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked.

    Attributes:
        space: searched; its references are the published variants.
        table: gives the predicted latencies.
        points: published rows of the table's device; the table may be fitted to them.
        further: other published rows.
        proxies: names, the first being the one that searches.
        seeds: of data and training; the first is the one that searches.
        budgets_ms: one search each; none leaves recovery out.
        trials: candidates of a search.
        time_limit_s: of a search.
        names: what `space`, `table` and `data` are called.
        command: the command line.
    """

    space: SearchSpace
    table: LatencyTable
    points: tuple[PublishedPoint, ...]
    further: tuple[PublishedPoint, ...] = ()
    proxies: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets_ms: tuple[float, ...] = ()
    trials: int | None = None
    time_limit_s: float | None = None
    names: Mapping[str, str]
    command: Sequence[str] = ()

    def latency_ms(self, network: Architecture) -> float | None:
        """Predicted latency; None where the table cannot say."""
        try:
            latency_ms = self.table.latency_ms(network)
        except MissingLatencyError:
            return None
        return latency_ms if math.isfinite(latency_ms) else None

    @property
    def compared(self) -> tuple[PublishedPoint, ...]:
        """The rows that proxies are compared on."""
        return tuple(point for point in (*self.points, *self.further) if unlike(point) is None)

    @property
    def variants(self) -> dict[str, PublishedPoint]:
        """Known networks of the space that are published inside the slowest budget, by name, fastest first.

        One that the table cannot say the latency of is none: nothing found can be beside it.
        """
        published = {
            point.architecture().id: point
            for point in (*self.points, *self.further)
            if point.in_family and point.timed == "network" and point.latency_ms <= max(self.budgets_ms)
        }
        known = {
            name: published[network.id]
            for name, network in self.space.references.items()
            if network.id in published and self.latency_ms(network) is not None
        }
        return dict(sorted(known.items(), key=lambda item: item[1].latency_ms))


def published_points(table: Path, rows: Path | None = None) -> tuple[list[PublishedPoint], list[PublishedPoint]]:
    """The published rows of a table's device (`iphone13.points.csv` for any `iphone13...json`), and those of `rows`.

    Raises:
        InputError: there are none at all, a file cannot be used, or both have a row of one name or of one network.
    """
    files = catalog.files("latency_tables", ".points.csv")
    own = files.get(table.name.split(".")[0])
    if own is None and rows is None:
        raise InputError(
            f"--table {table.name.removesuffix('.json')}: no published figures of its device are at hand, only of "
            f"{', '.join(files) or 'none'}; give some with --rows"
        )
    points = read_points(own) if own else []
    further = read_points(rows) if rows else []
    if twice := sorted({point.name for point in points} & {point.name for point in further}):
        raise InputError(f"{rows}: column name: {twice[0]} is in {own} already")
    compared = [point for point in (*points, *further) if unlike(point) is None]
    known = {point.architecture().id: point.name for point in reversed(compared)}
    for point in further:
        if unlike(point) is None and (name := known[point.architecture().id]) != point.name:
            raise InputError(f"{rows}: row {point.name} is the same network as {name}: it would count twice")
    return points, further


def read_budgets(text: str) -> tuple[float, ...]:
    """`0.60,0.85` as milliseconds, `none` as nothing.

    Raises:
        InputError: anything else.
    """
    if text == "none":
        return ()
    try:
        budgets = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        budgets = (math.nan,)
    if not all(0 < budget < math.inf for budget in budgets):
        raise InputError(f"--budgets must be milliseconds such as 0.60,1.10, or none, got {text!r}")
    return budgets


def unlike(point: PublishedPoint) -> str | None:
    """Why a proxy is not compared on a published row; None where it is."""
    if not point.in_family:
        return point.why_not
    if point.resolution != RESOLUTION:
        return f"{point.resolution} px, the others {RESOLUTION} px"
    if point.top1 is None:
        return "no accuracy is printed"
    if point.epochs != EPOCHS:
        return f"{point.epochs or 'an unknown number of'} epochs, the others {EPOCHS}: accuracies are not comparable"
    return None


class _KeptScore(Record):
    """A line of scores.jsonl."""

    proxy: str
    seed: int
    id: str
    value: float | None = None
    failure: str | None = None
    seconds: float
    details: dict[str, float | int | str] = Field(default_factory=dict)
    settings: dict[str, Any]


class _Scores:
    """Every score that is finished, on disk before anything else is done.

    A score is known by proxy, settings, network and seed; where it was computed may differ.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise InputError(f"{path.parent}: cannot be written ({error.strerror})") from error
        drop_half_line(path)
        self._path = path
        self._kept: dict[tuple[str, str, str, int], _KeptScore] = {}
        self._used: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._last: dict[tuple[str, int], Mapping[str, Any]] = {}
        for line in read_records(path, _KeptScore):
            self._remember(line)

    def use(self, name: str, seed: int, proxy: Proxy) -> None:
        """From now on scores of this proxy and seed are those with its settings."""
        self._used[name, seed] = proxy.settings()

    def find(self, name: str, seed: int, network: str) -> _KeptScore | None:
        """The score of a network by its id, under the settings used in this run.

        For a seed whose proxy is not built yet, those of the last score count, if they differ from the settings of the
        built ones in nothing but the seed.
        """
        settings = self._used.get((name, seed), self._last.get((name, seed)))
        built = (used for (proxy, _), used in self._used.items() if proxy == name)
        if settings is None or any(_apart_from_seed(used) != _apart_from_seed(settings) for used in built):
            return None
        return self._kept.get((name, _digest(settings), network, seed))

    def add(self, line: _KeptScore) -> _KeptScore:
        """Keep a score."""
        append_record(self._path, line)
        self._remember(line)
        return line

    def _remember(self, line: _KeptScore) -> None:
        self._kept[line.proxy, _digest(line.settings), line.id, line.seed] = line
        self._last[line.proxy, line.seed] = line.settings


class _Remembering:
    """A proxy that computes no score twice."""

    def __init__(self, name: str, seed: int, proxy: Proxy, scores: _Scores) -> None:
        self._name, self._seed, self._proxy, self._scores = name, seed, proxy, scores
        scores.use(name, seed, proxy)

    def settings(self) -> dict[str, Any]:
        return self._proxy.settings()

    def estimate_seconds(self, architecture: Architecture) -> float:
        return self._proxy.estimate_seconds(architecture)

    def score(self, architecture: Architecture) -> Score:
        kept, fresh = self._scores.find(self._name, self._seed, architecture.id), None
        if kept is None:
            fresh, failure, seconds = attempt(self._proxy, architecture)
            kept = self._scores.add(
                _KeptScore(
                    proxy=self._name,
                    seed=self._seed,
                    id=architecture.id,
                    value=fresh.value if fresh else None,
                    failure=failure,
                    seconds=seconds,
                    details=dict(fresh.details) if fresh else {},
                    settings=self.settings(),
                )
            )
        if kept.value is None:
            raise ScoringFailed(kept.failure or "no score")
        return fresh or Score(value=kept.value, seconds=kept.seconds, details=kept.details)


def _ignore(what: object) -> None:
    """Tell nobody."""


def run_validation(
    request: Request,
    build: Callable[[int], Mapping[str, Proxy]],
    *,
    out: Path,
    resume: bool = False,
    say: Callable[[str], None] = _ignore,
    on_search: Callable[[Progress], None] = _ignore,
) -> Validation:
    """Compare latencies, score the published rows, search, and score what was found; whatever is finished is kept.

    Args:
        request: what is asked.
        build: makes the proxies of a seed, by name; called for one seed after the other, so that one is in memory.
        out: the folder.
        resume: go on with what the folder holds. More seeds, proxies, rows or trials than before are welcome.
        say: told every finished score, and what comes next, in words.
        on_search: called as `run_search` does.
    Raises:
        InputError: no seed is asked for, the folder holds a validation and `resume` is not set, or none and it is.
        BudgetError: a budget that no network of the space meets.
        KeyboardInterrupt: passed on after the files of what is finished are written.
    """
    started, seeds = time.monotonic(), request.seeds
    if not seeds:
        raise InputError("--seeds must be at least 1")
    for budget_ms in request.budgets_ms:
        check_budget(request.space, request.table, budget_ms)
    begun = (out / "scores.jsonl").exists()
    if begun and not resume:
        raise InputError(f"{out} holds a validation already: go on with it (--resume), or choose another --out")
    if resume and not begun:
        raise InputError(f"{out} holds no validation to go on with: leave --resume out to begin one")
    # What cannot be built or gone on with is refused before the folder is touched.
    built = {seeds[0]: build(seeds[0])}
    ended = _ended_searches(request, built[seeds[0]], out)
    latency = _latency_part(request)
    scores = _Scores(out / "scores.jsonl")
    for name, proxy in built[seeds[0]].items():
        scores.use(name, seeds[0], proxy)

    def keep() -> Validation:
        validation = _assemble(request, latency, scores, out, ended, seconds=time.monotonic() - started)
        content = validation.model_dump_json(by_alias=True, exclude_none=True, indent=1)
        write_beside(out / "validation.json", content.encode() + b"\n")
        return validation

    try:
        keep()
        networks = {point.name: point.architecture() for point in request.compared}
        for seed in seeds:
            _score(networks, built.pop(seed) if seed in built else build(seed), seed, scores, say=say)
            keep()
        for budget_ms in request.budgets_ms:
            if budget_ms not in ended:
                _search(request, build(seeds[0]), budget_ms, scores, out, say=say, on_search=on_search)
                ended.add(budget_ms)
                keep()
        if request.budgets_ms:
            name, compared = request.proxies[0], _compared(request, _results(request, out).values())
            for seed in seeds:
                if any(scores.find(name, seed, network.id) is None for network in compared.values()):
                    _score(compared, {name: build(seed)[name]}, seed, scores, say=say)
                    keep()
    finally:
        validation = keep()
    return validation


def _score(
    networks: Mapping[str, Architecture],
    proxies: Mapping[str, Proxy],
    seed: int,
    scores: _Scores,
    *,
    say: Callable[[str], None],
) -> None:
    """Score networks by every proxy of a seed."""
    for proxy_name, proxy in proxies.items():
        remembering = _Remembering(proxy_name, seed, proxy, scores)
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
    scores: _Scores,
    out: Path,
    *,
    say: Callable[[str], None],
    on_search: Callable[[Progress], None],
) -> None:
    """Search inside a budget with the first proxy, in a results folder of its own."""
    name, seed = request.proxies[0], request.seeds[0]
    proxy = _Remembering(name, seed, proxies[name], scores)
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
        on_progress=on_search,
    )


def _search_folder(out: Path, budget_ms: float) -> Path:
    text = f"{budget_ms:.2f}"
    return out / f"search-{text if float(text) == budget_ms else f'{budget_ms:g}'}ms"


def _ended_searches(request: Request, proxies: Mapping[str, Proxy], out: Path) -> set[float]:
    """Budgets whose search came to its end before, asked for in the same way.

    Raises:
        InputError: a search was begun in another way.
    """
    limits, name = (request.trials, request.time_limit_s), request.proxies[0]
    asked = {
        "space": request.space.digest,
        "table": request.table.digest(),
        "first seed": request.seeds[0],
        "first proxy": _digest({"name": name, **proxies[name].settings()}),
    }
    begun = _results(request, out)
    for result in begun.values():
        run = result.run
        before = (run.space.digest, run.table.digest, run.seed, _digest(run.proxy))
        if other := [what for (what, value), old in zip(asked.items(), before, strict=True) if value != old]:
            raise InputError(
                f"{result.path} was begun with another {', '.join(other)}: repeat its options (run.json has them), "
                "choose another --out, or leave the searches out (--budgets none)"
            )
    recovery = Validation.load(out).recovery if (out / "validation.json").exists() else None
    searches = recovery.searches if recovery else ()
    ended = {part.budget_ms for part in searches if part.complete and (part.trials, part.time_limit_s) == limits}
    return ended & set(begun)


def _results(request: Request, out: Path) -> dict[float, SearchResult]:
    """The searches that have begun, by budget."""
    folders = {budget_ms: _search_folder(out, budget_ms) for budget_ms in request.budgets_ms}
    return {budget: SearchResult.load(path) for budget, path in folders.items() if (path / "run.json").exists()}


def _compared(request: Request, results: Iterable[SearchResult]) -> dict[str, Architecture]:
    """What recovery compares, by name: the published variants, their rivals and the winners."""
    results = list(results)
    networks = {name: point.architecture() for name, point in request.variants.items()}
    found = [_rival(results, request.table.latency_ms(network)) for network in networks.values()]
    found += [result.winner for result in results]
    return networks | {candidate.id: candidate.architecture for candidate in found if candidate}


def _rival(results: Iterable[SearchResult], latency_ms: float) -> Candidate | None:
    """The best that any search found among the networks of at most this latency."""
    best = [candidate for result in results if (candidate := result.best_under(latency_ms))]
    return max(best, key=lambda candidate: candidate.score or -math.inf, default=None)


def _assemble(
    request: Request, latency: LatencyPart, scores: _Scores, out: Path, ended: set[float], *, seconds: float
) -> Validation:
    """Everything that can be said so far."""
    libraries = ("nas", "torch", "optuna", "numpy")
    proxies = tuple(_proxy_part(request, scores, name) for name in request.proxies)
    recovery = None
    unfinished = {
        f"proxy {part.proxy}": f"{there} of {part.wanted} scores are there"
        for part in proxies
        if (there := sum(len(row.scores) for row in part.rows)) < part.wanted
    }
    if request.budgets_ms:
        recovery = _recovery_part(request, scores, _results(request, out), ended, proxies[0].deviation)
        if open_ := sum(not search.complete for search in recovery.searches):
            unfinished["recovery"] = f"{open_} of {len(recovery.searches)} searches are not at their end"
        elif any(len(network.scores) < len(request.seeds) for network in recovery.networks):
            unfinished["recovery"] = "some of the networks compared lack the score of a seed"
    return Validation(
        command=shlex.join(request.command),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        versions={"python": platform.python_version()}
        | {library: importlib.metadata.version(library) for library in libraries},
        data=request.names["data"],
        space=request.names["space"],
        table=TableUsed(
            name=request.names["table"],
            digest=request.table.digest(),
            origin=request.table.provenance.label,
            trust=request.table.trust,
        ),
        seeds=request.seeds,
        unfinished=unfinished,
        latency=latency,
        left_out={point.name: reason for point in (*request.points, *request.further) if (reason := unlike(point))},
        proxies=proxies,
        pairs=tuple(_pair(one, other) for one, other in combinations(proxies, 2)),
        recovery=recovery,
    )


def _latency_part(request: Request) -> LatencyPart:
    rows = [_latency_row(point, request.table, calibrates=True) for point in request.points]
    rows += [_latency_row(point, request.table, calibrates=False) for point in request.further]
    pairs = [(row.predicted_ms, row.published_ms) for row in rows if row.predicted_ms is not None]
    unseen = [(row.left_out_ms or row.predicted_ms, row.published_ms) for row in rows if row.predicted_ms is not None]
    return LatencyPart(rows=tuple(rows), agreement=_agreement(pairs), unseen=_agreement(unseen))


def _agreement(pairs: Sequence[tuple[float, float]]) -> Agreement | None:
    return Agreement.of(*map(list, zip(*pairs, strict=True))) if len(pairs) > 1 else None


def _latency_row(point: PublishedPoint, table: LatencyTable, *, calibrates: bool) -> LatencyRow:
    """A row of the table's own points that was not fitted to is none that it can express."""
    predicted_ms, skipped = None, point.why_not if calibrates or not point.in_family else ""
    if not skipped:
        try:
            predicted_ms = table.latency(point.architecture()).latency_ms
            if point.timed == "backbone":
                heads = [layer for layer in point.architecture().layers() if isinstance(layer, HeadLayer)]
                predicted_ms -= sum(map(table.layer_ms, heads))
        except MissingLatencyError as error:
            skipped = str(error)
    fitted = {row.name: row.left_out_ms for row in table.model.rows} if table.model and calibrates else {}
    return LatencyRow(
        name=point.name,
        resolution=point.resolution,
        timed=point.timed,
        published_ms=point.latency_ms,
        predicted_ms=predicted_ms,
        error=None if predicted_ms is None else predicted_ms / point.latency_ms - 1,
        left_out_ms=fitted.get(point.name),
        skipped=skipped or None,
        source=point.source,
    )


def _proxy_part(request: Request, scores: _Scores, name: str) -> ProxyPart:
    rows = {
        point.name: _scored(request, scores, name, point.name, point.architecture(), point)
        for point in request.compared
    }
    found = [scores.find(name, seed, row.id) for row in rows.values() for seed in request.seeds]
    lines = [line for line in found if line]
    circumstances = {
        json.dumps(part, sort_keys=True): part
        for line in lines
        if (part := {key: line.settings[key] for key in CIRCUMSTANCES if key in line.settings})
    }
    deviation = pooled_deviation(list(row.values().values()) for row in rows.values())
    rungs = [rows[rung] for rung in LADDER if rung in rows]
    near = [row for row in rows.values() if _is_near(row)]
    return ProxyPart(
        proxy=name,
        settings={key: value for key, value in lines[0].settings.items() if key not in CIRCUMSTANCES} if lines else {},
        circumstances=tuple(circumstances.values()),
        rows=tuple(rows.values()),
        wanted=len(found),
        failed=sum(line.value is None for line in lines),
        deviation=deviation,
        within_seeds=deviation_within_seeds(row.values() for row in rows.values()),
        all_rows=_rank_agreement(list(rows.values()), request.seeds),
        near_rows=_rank_agreement(near, request.seeds),
        ladder=tuple(
            Gap.between(above, below, deviation=deviation, seeds=request.seeds) for below, above in pairwise(rungs)
        ),
        seconds=round(math.fsum(line.seconds for line in lines), 3),
    )


def _scored(
    request: Request,
    scores: _Scores,
    proxy: str,
    label: str,
    network: Architecture,
    point: PublishedPoint | None = None,
) -> ScoredNetwork:
    """A network with the scores that there are of it."""
    counts = count(network)
    lines = [line for seed in request.seeds if (line := scores.find(proxy, seed, network.id))]
    values = [line.value for line in lines if line.value is not None]
    return ScoredNetwork(
        name=label,
        id=network.id,
        summary=network.summary,
        params=counts.params,
        macs=counts.macs,
        published_ms=point.latency_ms if point else None,
        top1=point.top1 if point else None,
        latency_ms=request.latency_ms(network),
        scores=tuple(SeedScore(seed=s.seed, value=s.value, failure=s.failure, seconds=s.seconds) for s in lines),
        mean=statistics.fmean(values) if values else None,
        deviation=pooled_deviation([values]),
    )


def _rank_agreement(rows: Sequence[ScoredNetwork], seeds: Sequence[int]) -> RankAgreement:
    scored = [row for row in rows if row.mean is not None]
    rankings: dict[str, Callable[[ScoredNetwork], float | None]] = {
        "params": lambda row: row.params,
        "macs": lambda row: row.macs,
        "published latency": lambda row: row.published_ms,
    }
    rankers = {name: _tau(scored, ranking) for name, ranking in rankings.items()}
    by_seed = {seed: _tau(rows, partial(_seed_value, seed=seed)) for seed in seeds}
    low, high = bootstrap_interval(*_against_top1(scored, lambda row: row.mean)) or (None, None)
    return RankAgreement(
        networks=len(scored),
        tau=_tau(scored, lambda row: row.mean),
        seeds={seed: tau for seed, tau in by_seed.items() if tau is not None},
        low=low,
        high=high,
        rankers={name: tau for name, tau in rankers.items() if tau is not None},
    )


def _is_near(row: ScoredNetwork) -> bool:
    return NEAR_MS[0] <= (row.published_ms or 0) <= NEAR_MS[1]


def _pair(one: ProxyPart, other: ProxyPart) -> ProxyPair:
    both = [(a, b) for a, b in zip(one.rows, other.rows, strict=True) if a.mean is not None and b.mean is not None]
    near = [(a, b) for a, b in both if _is_near(a)]

    def tau(rows: Sequence[tuple[ScoredNetwork, ScoredNetwork]]) -> float | None:
        return _defined(kendall_tau_b([a.mean or 0.0 for a, _ in rows], [b.mean or 0.0 for _, b in rows]))

    return ProxyPair(
        proxy=one.proxy,
        other=other.proxy,
        networks=len(both),
        tau=tau(both),
        near_networks=len(near),
        near_tau=tau(near),
    )


def _defined(tau: npt.NDArray[np.float64]) -> float | None:
    return None if math.isnan(tau) else float(tau)


def _seed_value(row: ScoredNetwork, *, seed: int) -> float | None:
    return row.values().get(seed)


def _against_top1(
    rows: Iterable[ScoredNetwork], ranking: Callable[[ScoredNetwork], float | None]
) -> tuple[list[float], list[float]]:
    """What a ranking says of the rows that it ranks, and their published accuracy."""
    pairs = [(value, row.top1) for row in rows if (value := ranking(row)) is not None and row.top1 is not None]
    return [value for value, _ in pairs], [top1 for _, top1 in pairs]


def _tau(rows: Iterable[ScoredNetwork], ranking: Callable[[ScoredNetwork], float | None]) -> float | None:
    return _defined(kendall_tau_b(*_against_top1(rows, ranking)))


def _recovery_part(
    request: Request,
    scores: _Scores,
    results: Mapping[float, SearchResult],
    ended: set[float],
    deviation: float | None,
) -> RecoveryPart:
    proxy, search_seed, limit_ms = request.proxies[0], request.seeds[0], max(request.budgets_ms)
    # The search chose its networks also for their luck under its own seed: the other seeds tell without that.
    seeds = request.seeds[1:] or request.seeds
    variants = request.variants
    networks = {
        name: _scored(request, scores, proxy, name, network, variants.get(name))
        for name, network in _compared(request, results.values()).items()
    }

    def gap(found: str | None, variant: str | None) -> Gap | None:
        if found is None or variant is None:
            return None
        return Gap.between(networks[found], networks[variant], deviation=deviation, seeds=seeds)

    def search_part(budget_ms: float) -> SearchPart:
        result = results.get(budget_ms)
        inside = [name for name, point in variants.items() if point.latency_ms <= budget_ms]
        found, variant = result.winner.id if result and result.winner else None, inside[-1] if inside else None
        return SearchPart(
            budget_ms=budget_ms,
            trials=request.trials,
            time_limit_s=request.time_limit_s,
            complete=budget_ms in ended,
            networks=len(result.scored) if result else 0,
            failed=sum(c.kind == "searched" and c.score is None for c in result.candidates) if result else 0,
            found=found,
            variant=variant,
            gap=gap(found, variant),
        )

    def variant_part(name: str) -> VariantPart:
        rival = _rival(results.values(), networks[name].latency_ms or 0.0)
        difference = gap(rival.id if rival else None, name)
        verdict = difference.verdict if difference else None
        if rival is None and ended >= set(request.budgets_ms):
            verdict = "worse"  # nothing that was found is as fast
        return VariantPart(
            variant=name,
            rival=rival.id if rival else None,
            gap=difference,
            on_front=None if verdict is None else verdict != "better",
            matched=None if verdict is None else verdict != "worse",
        )

    found = {c.id: c for result in results.values() for c in result.scored}
    front = undominated(found.values(), latency=lambda c: c.latency_ms, score=lambda c: c.score or -math.inf)
    floor = _chance(scores, proxy, search_seed, networks.values())

    def area(points: Iterable[tuple[float | None, float | None]]) -> float:
        known = [(x, y) for x, y in points if x is not None and y is not None]
        return hypervolume(known, latency_limit=limit_ms, score_floor=floor)

    def mean_area(chosen: Iterable[ScoredNetwork], seeds: Sequence[int]) -> float:
        return area((n.latency_ms, statistics.fmean(values.values())) for n in chosen if (values := n.values(seeds)))

    published = [networks[name] for name in variants]
    hypervolumes = [
        Hypervolumes(
            scores=f"under seed {search_seed}, which chose the found front",
            found=area((c.latency_ms, c.score) for c in front),
            published=mean_area(published, [search_seed]),
        )
    ]
    if search_seed not in seeds:
        again = [network for name, network in networks.items() if name in found]
        hypervolumes.append(
            Hypervolumes(
                scores=f"mean of seeds {', '.join(map(str, seeds))}, of what was found only the networks compared here",
                found=mean_area(again, seeds),
                published=mean_area(published, seeds),
            )
        )
    return RecoveryPart(
        proxy=proxy,
        search_seed=search_seed,
        seeds=seeds,
        deviation=deviation,
        score_floor=floor,
        latency_limit_ms=limit_ms,
        networks=tuple(networks.values()),
        searches=tuple(map(search_part, request.budgets_ms)),
        variants=tuple(map(variant_part, variants)),
        hypervolumes=tuple(hypervolumes),
        front=tuple((c.id, c.latency_ms, c.score) for c in front if c.score is not None),
    )


def _chance(scores: _Scores, proxy: str, seed: int, networks: Iterable[ScoredNetwork]) -> float:
    """What guessing scores: one over the classes of a proxy that tells a share of held-out images, else 0."""
    for network in networks:
        line = scores.find(proxy, seed, network.id)
        if line and "val_images" in line.details and "classes" in line.details:
            return 1 / float(line.details["classes"])
    return 0.0


def _apart_from_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What proxies of all seeds have in common; the words for synthetic data tell the seed, too."""
    own = {name: value for name, value in settings.items() if name not in {*CIRCUMSTANCES, "seed"}}
    return own | {"data": str(settings.get("data")).replace(f"seed {settings.get('seed')}:", "")}


def _digest(settings: Mapping[str, Any]) -> str:
    """Equal for scores that may stand beside each other."""
    own = {name: value for name, value in settings.items() if name not in CIRCUMSTANCES}
    return digest_of(json.dumps(own, sort_keys=True))
