"""Space x table x proxy x budget -> results: Optuna proposes, the table decides, the proxy scores.

With several proxies the cheap ones screen: of every round of networks that one has scored, the best is passed on to the
next, and a candidate's score is that of the last. Every screening is kept with its round, so that a search that was
stopped finds its place again.

This is the only module that imports Optuna.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from nas.architecture import Architecture
from nas.errors import BudgetError, InputError, NasError
from nas.latency import LatencyTable
from nas.proxies import Proxy, Score, ScoringFailed
from nas.result import Candidate, ResultsFolder, Run, Screening, SearchResult, SpaceUsed, TableUsed
from nas.space import Choose, SearchSpace, random_choice

__all__ = ["Plan", "Progress", "attempt", "check_budget", "plan_search", "run_search"]

T = TypeVar("T")
# Proposals in a row that may be over the budget, or repeat a scored network, before the search looks for a new one by
# itself, and how many networks it then draws. Under the iPhone table 205 proposals gave 20 networks within 1.3 times
# the cheapest; closer to the cheapest the sampler finds hardly any, and in a small space it keeps to those it knows.
_PROPOSALS = 100
_REPEATS = 5
_DRAWS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search is going to do, known before it starts.

    Attributes:
        networks: size of the space.
        layers: number of distinct layers in it.
        inside: share of random networks inside the budget, from 1000 samples.
        cheapest_ms: predicted latency of the cheapest network of the space.
        budget_ms: upper limit of the predicted latency.
        confidence: with it the upper end of an interval of this coverage is limited, not the prediction itself.
        origin: where the latencies come from, and how far they can be trusted.
        data: what the proxy scores on.
        trained_for: networks that a supernet was trained for, where it serves as a proxy and was not for all.
        references: known networks inside the budget, by name.
        candidates: networks to score besides the references; None where only the time limit ends the search.
        screen: networks that a proxy screens for each one that it passes on.
        screens_s: estimated time of one score, by name of each proxy that screens.
        each_s: estimated time of one candidate, with the screening before it.
        seconds: estimated time of the search, at most the time limit.
    """

    networks: int
    layers: int
    inside: float
    cheapest_ms: float
    budget_ms: float
    confidence: float | None
    origin: str
    data: str
    trained_for: str | None
    references: dict[str, Architecture]
    candidates: int | None
    screen: int
    screens_s: dict[str, float]
    each_s: float
    seconds: float

    def describe(self) -> list[str]:
        """The plan in words, a line a fact."""
        known = ", ".join(self.references) or "none"
        number = f"{self.candidates}" if self.candidates is not None else "as many as fit"
        if self.candidates is None and self.each_s:
            number += f", about {max(1, round(self.seconds / self.each_s) - len(self.references))}"
        return [
            f"space: {self.networks:.2e} networks of {self.layers} distinct layers; "
            f"{self.inside:.0%} of random ones run in {self.budget_ms:g} ms, the cheapest in {self.cheapest_ms:.3f} ms",
            f"latency: {self.origin}"
            + (f"; upper end at {self.confidence:.0%} inside the budget" if self.confidence else ""),
            f"data: {self.data}",
            *([f"supernet: trained for networks of {self.trained_for}"] if self.trained_for else []),
            f"candidates: {number}; for comparison {known}",
            *(
                f"screening: the best of every {self.screen} networks by {name}, about {seconds:.1f} s each, goes on"
                for name, seconds in self.screens_s.items()
            ),
            f"time: about {self.each_s:.0f} s each, {self.seconds / 60:.1f} min in all",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a running search stands.

    Attributes:
        scored: candidates scored in this run so far, references included.
        proposed: networks that Optuna proposed.
        over_budget: of these, the ones the table turned away.
        screened: of these, the ones that were screened, with those of the run that this one goes on with.
        last: the candidate just finished; None at the end.
        ended: why the search ended; None while it runs.
        best: the best candidate inside the budget so far.
    """

    scored: int
    proposed: int
    over_budget: int
    screened: int = 0
    last: Candidate | None = None
    ended: str | None = None
    best: Candidate | None = None


def _ignore(progress: Progress) -> None:
    """Watch nothing."""


def check_budget(space: SearchSpace, table: LatencyTable, budget_ms: float, confidence: float | None = None) -> float:
    """Latency of the cheapest network of the space, in ms; with a confidence the upper end of its interval.

    Raises:
        BudgetError: it is over the budget.
        InputError: the budget is not a positive number, or the table has no interval for this confidence.
        MissingLatencyError: the table does not cover the space.
    """
    if not 0 < budget_ms < float("inf"):
        raise InputError(f"--budget-ms must be a positive number of milliseconds, got {budget_ms:g}")
    cheapest_ms = _limited_ms(table, space.extreme(table.layer_ms), confidence)
    if cheapest_ms > budget_ms:
        raise BudgetError(
            f"no network of the space runs in {budget_ms:g} ms: the cheapest is predicted at {cheapest_ms:.3f} ms; "
            "raise --budget-ms, or widen the space downwards"
        )
    return cheapest_ms


def plan_search(
    space: SearchSpace,
    table: LatencyTable,
    proxy: Proxy,
    *,
    screens: Mapping[str, Proxy] | None = None,
    screen: int = 8,
    budget_ms: float,
    confidence: float | None = None,
    trials: int | None,
    time_limit_s: float | None,
) -> Plan:
    """Work out what a search will do, and refuse one that cannot end well.

    Raises:
        BudgetError: the cheapest network of the space is over the budget.
        InputError: the budget is not a positive number, fewer than two networks are screened for one, or neither
            trials nor a time limit end the search.
        MissingLatencyError: the table does not cover the space.
        NasError: the proxy cannot score any of the networks tried.
    """
    if trials is None and time_limit_s is None:
        raise InputError("a search needs an end: give --trials, --time-limit or both")
    if screen < 2:
        raise InputError(f"--screen must be at least 2 networks for each one passed on, got {screen}")
    cheapest_ms = check_budget(space, table, budget_ms, confidence)
    choose = random_choice(seed=0)
    sampled = [space.sample(choose) for _ in range(1000)]
    inside = [network for network in sampled if _limited_ms(table, network, confidence) <= budget_ms]
    references = {
        name: network
        for name, network in space.references.items()
        if _known_ms(table, network, confidence) <= budget_ms
    }
    timed = [*references.values(), *inside[:3]] or [space.extreme(table.layer_ms)]
    settings = [one.settings() for one in (*(screens or {}).values(), proxy)]
    screens_s = {name: _estimate(cheap, timed) for name, cheap in (screens or {}).items()}
    last_s = _estimate(proxy, timed)
    each_s = _with_screening(last_s, list(screens_s.values()), screen=screen)
    references_s = len(references) * (last_s + sum(screens_s.values()))
    total_s = references_s + each_s * trials if trials is not None else float("inf")
    return Plan(
        networks=space.count(),
        layers=len(space.layers),
        inside=len(inside) / len(sampled),
        cheapest_ms=cheapest_ms,
        budget_ms=budget_ms,
        confidence=confidence,
        origin=f"{table.provenance.label}; {table.trust}",
        data=str(settings[-1].get("data", "none")),
        trained_for=next((own["trained_for"] for own in settings if "trained_for" in own), None),
        references=references,
        candidates=trials,
        screen=screen,
        screens_s=screens_s,
        each_s=each_s,
        seconds=min(total_s, time_limit_s if time_limit_s is not None else float("inf")),
    )


def _estimate(proxy: Proxy, networks: Sequence[Architecture]) -> float:
    """Mean estimate over those networks that the proxy can score at all."""
    estimates, failure = [], None
    for network in networks:
        try:
            estimates.append(proxy.estimate_seconds(network))
        except ScoringFailed as error:
            failure = error
    if not estimates:
        raise NasError(f"none of the networks tried can be scored: {failure}") from failure
    return sum(estimates) / len(estimates)


def _with_screening(last_s: float, screens_s: Sequence[float], *, screen: int, begun: Sequence[int] = ()) -> float:
    """Time until a candidate has its score: that of the score itself, and of the screening still to come before it.

    Args:
        last_s: time of a score by the last proxy.
        screens_s: time of a score by each proxy before it.
        screen: networks in a round.
        begun: how many of these the open round of each proxy has already.
    """
    total_s, missing = last_s, 1
    for stage in reversed(range(len(screens_s))):
        missing = max(0, missing * screen - (begun[stage] if begun else 0))
        total_s += missing * screens_s[stage]
    return total_s


def run_search(
    space: SearchSpace,
    table: LatencyTable,
    proxy: Proxy,
    *,
    screens: Mapping[str, Proxy] | None = None,
    plan: Plan,
    seed: int,
    out: Path,
    names: dict[str, str],
    time_limit_s: float | None = None,
    storage: str | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    on_progress: Callable[[Progress], None] = _ignore,
) -> SearchResult:
    """Search until the plan's candidates are scored, the time is up, or no further network is found.

    The first candidate comes first, then the references, then the other candidates.

    Everything finished is in the results folder before the next network is tried: a search stopped in any way goes on
    from there with `resume`. Equal networks are scored once.

    Args:
        space: the networks to choose from.
        table: decides, before any training, whether a network meets the budget.
        proxy: scores the rest.
        screens: proxies that score first, by name, in order; `proxy` then scores only what they pass on.
        plan: from `plan_search()` with the same arguments; holds the budget.
        seed: of the sampler.
        out: the results folder.
        names: what `space`, `table` and `proxy` are called, for run.json.
        time_limit_s: beyond the first candidate, nothing is begun that would likely end after this many seconds.
        storage: an Optuna storage URL; by default a journal in the results folder.
        resume: go on with what the folder holds.
        command: the command line, for run.json.
        on_progress: called after every score, and at the end.
    Raises:
        InputError: the folder or the storage holds another run.
        KeyboardInterrupt: passed on after the files of what is finished are written.
    """
    started, budget_ms = time.monotonic(), plan.budget_ms
    screens = screens or {}
    run = _describe(space, table, proxy, screens, plan=plan, seed=seed, names=names, command=command)
    if storage is not None:  # A storage that cannot be used is met before the folder is made.
        study = _open_study(storage, run, name=out.name, seed=seed, resume=resume)
        folder = ResultsFolder(out, run, resume=resume)
    else:
        folder = ResultsFolder(out, run, resume=resume)
        study = _open_study(_journal(out), run, name=out.name, seed=seed, resume=True)
    state = _State(
        folder=folder,
        table=table,
        proxy=proxy,
        screens=screens,
        screen=plan.screen,
        confidence=plan.confidence,
        on_progress=on_progress,
    )
    state.adopt_finished(study)

    def is_late(ahead_s: float) -> bool:
        return bool(state.scored) and time_limit_s is not None and time.monotonic() - started + ahead_s > time_limit_s

    def ended() -> str | None:
        if plan.candidates is not None and state.candidates >= plan.candidates:
            return "all candidates are scored"
        return "the time limit" if is_late(state.next_seconds()) else None

    try:
        exhausted = not state.candidates and not _next_candidate(study, space, state, budget_ms)
        for name, network in plan.references.items():
            if network.id not in state.known and not is_late(state.mean_seconds()):
                for stage in range(len(screens)):
                    if network.id not in state.screened[stage]:
                        state.screen(network, stage=stage, kind="reference")
                state.score(network, kind="reference", name=name)
        while not exhausted and ended() is None:
            exhausted = not _next_candidate(study, space, state, budget_ms)
        state.report(ended="no further network inside the budget was found" if exhausted else ended())
    finally:
        result = folder.finish()
    return result


class _State:
    """What a running search knows: scores by architecture id, the rounds of screening, and its progress."""

    def __init__(
        self,
        *,
        folder: ResultsFolder,
        table: LatencyTable,
        proxy: Proxy,
        screens: Mapping[str, Proxy],
        screen: int,
        confidence: float | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.folder, self.table, self.proxy, self.on_progress = folder, table, proxy, on_progress
        self.screens, self.screen_size, self.confidence = list(screens.items()), screen, confidence
        self.result = folder.load()
        self.known = {candidate.id: candidate for candidate in self.result.candidates}
        self.screened: list[dict[str, Screening]] = [{} for _ in screens]
        self.rounds: list[list[Screening]] = [[] for _ in screens]
        for screening in self.result.screenings:
            self._remember(screening, list(screens).index(screening.proxy))
        self.open_trials: dict[str, int] = {}  # by id of the network, which waits for the end of its round
        self.scored = self.proposed = self.over_budget = 0

    @property
    def candidates(self) -> int:
        """Searched networks so far, failed ones included."""
        return sum(1 for c in self.known.values() if c.kind == "searched")

    def limited_ms(self, network: Architecture) -> float:
        """What the budget limits."""
        return _limited_ms(self.table, network, self.confidence)

    def mean_seconds(self) -> float:
        return _mean_seconds(self.known.values())

    def next_seconds(self) -> float:
        """Likely time until the next candidate has its score."""
        means = [_mean_seconds(screened.values()) for screened in self.screened]
        begun = [len(self.open_round(stage)) for stage in range(len(self.screens))]
        return _with_screening(self.mean_seconds(), means, screen=self.screen_size, begun=begun)

    def is_found(self, network_id: str, stage: int = 0) -> bool:
        """Whether the sampler's networks that a stage scored include this one; what a reference was given is apart."""
        scored = self.screened[stage] if stage < len(self.screens) else self.known
        return network_id in scored and scored[network_id].kind == "searched"

    def open_round(self, stage: int) -> list[Screening]:
        """The networks of the last round that a stage screened, as long as none of them was passed on."""
        searched = self.rounds[stage]
        latest = [one for one in searched if one.round == searched[-1].round]
        return [] if any(self.is_found(one.id, stage + 1) for one in latest) else latest

    def adopt_finished(self, study: optuna.Study) -> None:
        """Close the trials that a killed run left open: told where the folder has their score, else failed.

        Those of open rounds stay open.
        """
        by_trial = {c.trial: c for c in self.result.candidates if c.trial is not None}
        waiting = {one.trial: one.id for stage in range(len(self.screens)) for one in self.open_round(stage)}
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if trial.number in waiting:
                self.open_trials[waiting[trial.number]] = trial.number
            else:
                _tell(study, trial.number, by_trial.get(trial.number))

    def take(self, network: Architecture, *, trial: int | None, stage: int = 0) -> None:
        """Let a stage score a network of the sampler; as a reference it may have its score already."""
        known = self.known.get(network.id)
        if stage < len(self.screens):
            self.screen(network, stage=stage, kind="searched", trial=trial)
        elif known is None:
            self.score(network, kind="searched", trial=trial)
        else:
            self.keep(known.model_copy(update={"kind": "searched", "name": None, "trial": trial}), None)

    def pass_on(self, study: optuna.Study, *, early: bool = False) -> bool:
        """Let the best network of a full round go on to the next stage; `early`, of one that is not full yet."""
        for stage in range(len(self.screens)):
            latest = self.open_round(stage)
            if latest and (early or len(latest) == self.screen_size):
                # Where all have failed, the first goes on: that a cheap proxy fails says little.
                best = max(latest, key=lambda one: -math.inf if one.value is None else one.value)
                self.take(best.architecture, trial=best.trial, stage=stage + 1)
                for one in latest:
                    if one is not best or stage + 1 == len(self.screens):
                        self.close_trial(study, one)
                return True
        return False

    def screen(self, network: Architecture, *, stage: int, kind: str, trial: int | None = None) -> None:
        """Let a proxy that screens score a network, unless it has done so, and keep the result."""
        name, proxy = self.screens[stage]
        known = self.screened[stage].get(network.id)
        competes = {"kind": kind, "trial": trial, "round": self._round(stage) if kind == "searched" else None}
        if known is None:
            score, failure, seconds = attempt(proxy, network)
            screening = Screening.model_validate(
                {
                    "id": network.id,
                    "proxy": name,
                    **competes,
                    "value": score.value if score else None,
                    "failure": failure,
                    "seconds": seconds,
                    "details": dict(score.details) if score else {},
                    "architecture": network,
                }
            )
        else:  # A reference that the sampler found by itself.
            screening = known.model_copy(update=competes)
        self.folder.add_screening(screening)
        self._remember(screening, stage)

    def _round(self, stage: int) -> int:
        """Number of the round that the next network of a stage belongs to: the open one, else a new one."""
        searched = self.rounds[stage]
        last = -1 if not searched or searched[-1].round is None else searched[-1].round
        return last if self.open_round(stage) else last + 1

    def close_trial(self, study: optuna.Study, screening: Screening) -> None:
        """Tell the study how the trial of a screened network ended: with its score by the last proxy, else failed."""
        # TPE leaves failed trials out, so that it learns on one scale and from what decides.
        number = self.open_trials.pop(screening.id, None)
        if number is not None:
            _tell(study, number, self.known.get(screening.id))

    def _remember(self, screening: Screening, stage: int) -> None:
        self.screened[stage][screening.id] = screening
        if screening.kind == "searched":
            self.rounds[stage].append(screening)

    def score(
        self, network: Architecture, *, kind: str, name: str | None = None, trial: int | None = None
    ) -> Candidate:
        """Score a network with the proxy that decides and keep the result; a failure is a result, too."""
        latency = self.table.latency(network, coverage=self.confidence)
        score, failure, seconds = attempt(self.proxy, network)
        candidate = Candidate.model_validate(
            {
                "id": network.id,
                "kind": kind,
                "name": name,
                "trial": trial,
                "latency_ms": latency.latency_ms,
                "low_ms": latency.low_ms,
                "high_ms": latency.high_ms,
                "score": score.value if score else None,
                "failure": failure,
                "seconds": seconds,
                "details": dict(score.details) if score else {},
                "architecture": network,
            }
        )
        self.keep(candidate, score)
        return candidate

    def keep(self, candidate: Candidate, score: Score | None) -> None:
        """Put a finished candidate on disk, then into memory."""
        self.result = self.folder.add(candidate, score.weights if score else None)
        self.known[candidate.id] = candidate
        self.scored += 1
        self.report(last=candidate)

    def report(self, *, last: Candidate | None = None, ended: str | None = None) -> None:
        """Tell whoever watches."""
        self.on_progress(
            Progress(
                scored=self.scored,
                proposed=self.proposed,
                over_budget=self.over_budget,
                screened=len(self.rounds[0]) if self.rounds else 0,
                last=last,
                ended=ended,
                best=self.result.winner,
            )
        )


def _next_candidate(study: optuna.Study, space: SearchSpace, state: _State, budget_ms: float) -> bool:
    """Find networks until one more has its score from the last proxy; False when there seem to be none left."""
    before = state.candidates
    while state.candidates == before:
        if state.pass_on(study) or _next_network(study, space, state, budget_ms):
            continue
        # The round will not fill any more.
        if not state.pass_on(study, early=True):
            return False
    return True


def _next_network(study: optuna.Study, space: SearchSpace, state: _State, budget_ms: float) -> bool:
    """Ask until a new network inside the budget comes up, and score it; False when there seems to be none left."""
    repeats = 0
    for _ in range(_PROPOSALS):
        outcome = _try(study.ask(), study, space, state, budget_ms)
        if outcome == "scored":
            return True
        repeats += outcome == "repeated"
        if repeats == _REPEATS:
            break
    overlooked = _overlooked(space, state, budget_ms)
    if overlooked is None:
        return False
    study.enqueue_trial(_as_parameters(space, space.choices(overlooked)))
    return _try(study.ask(), study, space, state, budget_ms) == "scored"


def _try(
    trial: optuna.Trial, study: optuna.Study, space: SearchSpace, state: _State, budget_ms: float
) -> Literal["scored", "repeated", "over budget"]:
    """Score the network of a trial by the first proxy if it is new and inside the budget, and tell the study."""
    state.proposed += 1
    network = space.sample(_choose_by(trial))
    latency_ms = state.limited_ms(network)
    trial.set_constraint("latency_ms_over_budget", latency_ms - budget_ms)
    if latency_ms > budget_ms:
        state.over_budget += 1
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return "over budget"
    if state.is_found(network.id):
        _tell(study, trial.number, state.known.get(network.id))
        return "repeated"
    try:
        state.take(network, trial=trial.number)
    except BaseException:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise
    if state.screens:
        state.open_trials[network.id] = trial.number
    else:
        _tell(study, trial.number, state.known[network.id])
    return "scored"


def _overlooked(space: SearchSpace, state: _State, budget_ms: float) -> Architecture | None:
    """A network inside the budget that is not scored yet: a random one, or at last the cheapest of the space."""

    def is_new(network: Architecture) -> bool:
        return not state.is_found(network.id) and state.limited_ms(network) <= budget_ms

    choose = random_choice(seed=len(state.known) + sum(map(len, state.screened)))
    for _ in range(_DRAWS):
        network = space.sample(choose)
        if is_new(network):
            return network
    cheapest = space.extreme(state.table.layer_ms)
    return cheapest if is_new(cheapest) else None


def attempt(proxy: Proxy, network: Architecture) -> tuple[Score | None, str | None, float]:
    """The score, or why there is none, and the seconds that it took."""
    start = time.monotonic()
    try:
        score = proxy.score(network)
    except ScoringFailed as error:
        return None, str(error), time.monotonic() - start
    return score, None, score.seconds


def _mean_seconds(scored: Collection[Candidate | Screening]) -> float:
    return sum(one.seconds for one in scored) / len(scored) if scored else 0.0


def _tell(study: optuna.Study, trial: int, candidate: Candidate | None) -> None:
    if candidate is None or candidate.score is None:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, candidate.score)


def _choose_by(trial: optuna.Trial) -> Choose:
    """Let Optuna choose. Numbers are chosen by index, so that the sampler knows 7 to be nearer to 5 than to 3."""

    def choose(name: str, options: Sequence[T]) -> T:
        if _are_numbers(options):
            return options[trial.suggest_int(name, 0, len(options) - 1)]
        return options[options.index(trial.suggest_categorical(name, options))]  # type: ignore[arg-type]

    return choose


def _as_parameters(space: SearchSpace, answers: dict[str, object]) -> dict[str, Any]:
    """Answers to `space.sample` as the values of Optuna parameters."""
    parameters: dict[str, Any] = {}

    def choose(name: str, options: Sequence[T]) -> T:
        index = list(options).index(answers[name])  # type: ignore[arg-type]
        parameters[name] = index if _are_numbers(options) else options[index]
        return options[index]

    space.sample(choose)
    return parameters


def _are_numbers(options: Sequence[object]) -> bool:
    return all(isinstance(option, int | float) for option in options)


def _journal(out: Path) -> JournalStorage:
    """The default storage. A lock that a killed process left is broken after three seconds, not after thirty."""
    path = str(out / "study.journal")
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path, grace_period=3)))


def _open_study(storage: JournalStorage | str, run: Run, *, name: str, seed: int, resume: bool) -> optuna.Study:
    """The study of a run: a new one, or with `resume` the one that the run began."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=resume)
        known = study.user_attrs.setdefault("run", run.digest)
        study.set_user_attr("run", known)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise InputError(f"--storage has a study {name!r} already: --resume it, or choose another --out") from error
    except Exception as error:  # Storages raise whatever their driver raises.
        where = f"--storage {storage}" if isinstance(storage, str) else f"{name}/study.journal"
        raise InputError(f"{where}: cannot be used ({str(error).splitlines()[0]})") from error
    if known != run.digest:
        raise InputError(f"the study {name!r} in --storage belongs to another search: choose another --out")
    with warnings.catch_warnings():
        # group=True keeps parameters that are asked together in one joint model; it is marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # A resumed search draws on, it does not repeat the draws of its first part.
        drawn = (seed + len(study.trials)) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=drawn, multivariate=True, group=True)
    return study


def _describe(
    space: SearchSpace,
    table: LatencyTable,
    proxy: Proxy,
    screens: Mapping[str, Proxy],
    *,
    plan: Plan,
    seed: int,
    names: dict[str, str],
    command: Sequence[str],
) -> Run:
    screening = {
        "screens": [{"name": name, **cheap.settings()} for name, cheap in screens.items()],
        "screen": plan.screen,
    }
    libraries = ("nas", "torch", "optuna", "datasets", "numpy")
    return Run(
        command=shlex.join(command or sys.argv),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()}
        | {library: importlib.metadata.version(library) for library in libraries},
        space=SpaceUsed(
            name=names["space"],
            digest=space.digest,
            networks=space.count(),
        ),
        table=TableUsed(name=names["table"], digest=table.digest(), origin=table.provenance.label, trust=table.trust),
        budget_ms=plan.budget_ms,
        confidence=plan.confidence,
        proxy={"name": names["proxy"], **proxy.settings(), **(screening if screens else {})},
        seed=seed,
    )


def _limited_ms(table: LatencyTable, network: Architecture, confidence: float | None) -> float:
    """What a budget limits: the predicted latency, or with a confidence the upper end of its interval."""
    return table.latency_ms(network) if confidence is None else table.upper_ms(network, confidence)


def _known_ms(table: LatencyTable, network: Architecture, confidence: float | None) -> float:
    """The lower of the predicted and the published latency: a reference is inside a budget by either."""
    predicted = _limited_ms(table, network, confidence)
    published = table.published.get(network.id)
    return min(predicted, published.latency_ms) if published else predicted
