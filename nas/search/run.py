"""The search loop: a sampler proposes networks, the table rejects those over the budget, the proxies score the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from nas.errors import finishing
from nas.latency import LatencyTable
from nas.lock import LOCK_NAME, owned
from nas.networks import Architecture, SearchSpace, random_choice
from nas.networks.encoding import Encoding
from nas.proxies import Proxy
from nas.search.plan import SAMPLERS, Plan, check_sampler, limited_ms
from nas.search.proposer import Proposer, proposer_by_table
from nas.search.records import Candidate, run_of
from nas.search.result import ResultsFolder, SearchResult
from nas.search.sampler import make_sampler
from nas.search.stages import Decision, Funnel
from nas.search.study import Study

__all__ = ["Progress", "run_search"]

# After _PROPOSALS proposals in a row without a new network inside the budget, or _REPEATS repeated networks among them,
# the search itself draws up to _DRAWS random networks. Optuna's own samplers know nothing of latency: with the iPhone
# table, 205 proposals of TPE gave 20 networks within 1.3 times the cheapest latency, and closer to it hardly any.
# In a small space any sampler repeats the networks that it knows.
_PROPOSALS = 100
_REPEATS = 5
_DRAWS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The state of a running search.

    Attributes:
        scored: candidates that this process has scored, references included.
        proposed: networks that the sampler proposed.
        over_budget: proposed networks that the table rejected.
        screened: proposed networks that were screened, those of a resumed run included.
        last: the candidate that was just finished. None at the end.
        ended: why the search ended. None while it runs.
        best: the best candidate inside the budget so far.
    """

    scored: int
    proposed: int
    over_budget: int
    screened: int = 0
    last: Candidate | None = None
    ended: str | None = None
    best: Candidate | None = None


def _ignore(what: object) -> None:
    """Do nothing."""


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
    sampler: str | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    say: Callable[[str], None] = _ignore,
    on_progress: Callable[[Progress], None] = _ignore,
) -> SearchResult:
    """Search until the plan's candidates are scored, the time is up, or no further network is found.

    The order is: the first candidate, the references, the other candidates. Equal networks are scored once.

    Every result is in the results folder before the next network is tried. So a search can be stopped in any way, and
    `resume` continues from the last result.

    Args:
        space: the networks to choose from.
        table: decides, before any training, whether a network is inside the budget.
        proxy: scores the networks inside the budget.
        screens: screening proxies by name, in order. If given, `proxy` only scores the networks that they pass on.
        plan: from `plan_search()` with the same arguments; contains the budget.
        seed: random seed of the sampler.
        out: the results folder.
        names: names of `space`, `table` and `proxy`, for run.json.
        time_limit_s: after the first candidate, nothing is started that would probably end after this many seconds.
        storage: an Optuna storage URL. By default a journal in the results folder.
        sampler: name of what proposes the networks, one of `SAMPLERS`. By default the first, or that of the run to
            continue.
        resume: continue the run in the folder.
        command: the command line, for run.json.
        say: gets a line when the storage is locked or away.
        on_progress: called after every score, and at the end.
    Raises:
        InputError: there is no such sampler, the folder or the storage belongs to another run, or another process works
            on the folder.
        NasError: the storage stays locked or away for a minute. The files of the finished part are written.
        KeyboardInterrupt: passed on after the files of the finished part are written.
    """
    started = time.monotonic()
    sampler = sampler or _sampler_of(out, resume=resume)
    check_sampler(sampler)
    screens = screens or {}
    run = run_of(
        space,
        table,
        proxy,
        budget_ms=plan.budget_ms,
        confidence=plan.confidence,
        seed=seed,
        names=names,
        command=command,
        screens=screens,
        screen=plan.screen,
        storage=storage,
        sampler=sampler,
    )
    encoding = Encoding(space)

    def by_table(own_seed: int) -> Proposer:
        return proposer_by_table(encoding, table, budget_ms=plan.budget_ms, confidence=plan.confidence, seed=own_seed)

    def over_ms(network: Architecture) -> float:
        return limited_ms(table, network, plan.confidence) - plan.budget_ms

    open_study = partial(
        Study.open,
        run=run,
        space=space,
        name=out.name,
        over_ms=over_ms,
        sampler=lambda own_seed: make_sampler(sampler, encoding, by_table, seed=own_seed),
        seed=seed,
        say=say,
    )
    with owned(out, out / LOCK_NAME):
        if storage is not None:  # So that an unusable storage is reported before anything is written.
            study = open_study(storage, resume=resume)
            folder = ResultsFolder(out, run, resume=resume)
        else:
            folder = ResultsFolder(out, run, resume=resume)
            study = open_study(out / "study.journal", resume=True)
        decision = Decision(folder, table, proxy, coverage=plan.confidence)
        funnel = Funnel(folder, study, decision, screens, size=plan.screen)
        search = _Search(space=space, table=table, over_ms=over_ms, study=study, funnel=funnel, on_progress=on_progress)

        def is_late(ahead_s: float) -> bool:
            return (
                bool(decision.kept) and time_limit_s is not None and time.monotonic() - started + ahead_s > time_limit_s
            )

        def ended() -> str | None:
            if plan.candidates is not None and decision.searched >= plan.candidates:
                return "all candidates are scored"
            return "the time limit" if is_late(funnel.next_seconds()) else None

        with finishing(folder.finish):
            exhausted = not decision.searched and not search.next_candidate()
            for name, network in plan.references.items():
                if network.id not in decision.known and not is_late(decision.mean_seconds()):
                    funnel.score_reference(name, network)
            while not exhausted and ended() is None:
                exhausted = not search.next_candidate()
            search.report(ended="no further network inside the budget was found" if exhausted else ended())
        return folder.load()


def _sampler_of(out: Path, *, resume: bool) -> str:
    """The sampler to use if none is asked for."""
    if not resume or not (out / "run.json").exists():
        return SAMPLERS[0]
    return SearchResult.load(out).run.sampler or "tpe"  # which the versions used that did not keep it


@dataclass(slots=True, kw_only=True)
class _Search:
    """A running search: the study proposes networks, and those inside the budget go into the funnel.

    Attributes:
        proposed: networks that the study proposed so far.
        over_budget: how many of them are over the budget.
    """

    space: SearchSpace
    table: LatencyTable
    over_ms: Callable[[Architecture], float]
    study: Study
    funnel: Funnel
    on_progress: Callable[[Progress], None]
    proposed: int = 0
    over_budget: int = 0
    rejected: set[str] = field(default_factory=set)  # ids of networks over the budget

    def __post_init__(self) -> None:
        self.funnel.decision.on_kept = lambda candidate: self.report(last=candidate)

    def next_candidate(self) -> bool:
        """Score networks until the last stage has one more; False if there seem to be no networks left."""
        before = self.funnel.decision.searched
        while self.funnel.decision.searched == before:
            if self.funnel.pass_on() or self._next_network():
                continue
            # No network is left to fill the round.
            if not self.funnel.pass_on(early=True):
                return False
        return True

    def report(self, *, last: Candidate | None = None, ended: str | None = None) -> None:
        """Call `on_progress`."""
        decision, screens = self.funnel.decision, self.funnel.screens
        self.on_progress(
            Progress(
                scored=decision.kept,
                proposed=self.proposed,
                over_budget=self.over_budget,
                screened=len(screens[0].searched) if screens else 0,
                last=last,
                ended=ended,
                best=decision.result.winner,
            )
        )

    def _next_network(self) -> bool:
        """Find a new network inside the budget and put it into the funnel; False if there seems to be none left."""
        repeats = 0
        for _ in range(_PROPOSALS):
            outcome = self._try()
            if outcome == "scored":
                return True
            repeats += outcome == "repeated"
            if repeats == _REPEATS:
                break
        overlooked = self._overlooked()
        if overlooked is None:
            return False
        self.study.propose_next(overlooked)
        return self._try() == "scored"

    def _try(self) -> Literal["scored", "repeated", "over budget"]:
        """Take one proposal of the study; the first stage scores it if it is new and inside the budget."""
        self.proposed += 1
        proposal = self.study.propose()
        if proposal.over_ms > 0:
            self.over_budget += 1
            if proposal.network.id in self.rejected:  # as by a sampler that learns from scores alone
                return "repeated"
            self.rejected.add(proposal.network.id)
            return "over budget"
        if self.funnel.has_searched(proposal.network.id):
            self.funnel.close(proposal)
            return "repeated"
        self.funnel.take(proposal)
        return "scored"

    def _overlooked(self) -> Architecture | None:
        """A network inside the budget that is not scored yet: a random one, or else the cheapest of the space."""

        def is_new(network: Architecture) -> bool:
            return not self.funnel.has_searched(network.id) and self.over_ms(network) <= 0

        choose = random_choice(seed=self.funnel.results)
        for _ in range(_DRAWS):
            network = self.space.sample(choose)
            if is_new(network):
                return network
        cheapest = self.space.extreme(self.table.layer_ms)
        return cheapest if is_new(cheapest) else None
