"""The proxies of a search as a funnel of stages: those that screen, in rounds, and the one that decides.

Of every round of networks that a screening stage has scored, the best is passed on to the next stage. The score of a
candidate is that of the last. Every result is on disk, with its round, before the search goes on, so that a search that
was stopped finds its place again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from nas.latency import LatencyTable
from nas.networks import Architecture
from nas.proxies import Proxy, Score, ScoringFailed
from nas.search.plan import seconds_with_screening
from nas.search.records import Candidate, Screening
from nas.search.result import ResultsFolder
from nas.search.study import Proposal, Study

__all__ = ["Attempt", "Decision", "Funnel", "Screen", "attempt"]

Kind = Literal["searched", "reference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of scoring a network once.

    Attributes:
        score: by the proxy; None where it failed.
        failure: why there is no score.
        seconds: time spent on it.
    """

    score: Score | None
    failure: str | None
    seconds: float

    @property
    def value(self) -> float | None:
        """The value of the score, if there is one."""
        return self.score.value if self.score else None

    @property
    def details(self) -> dict[str, float | int | str]:
        """The details of the score; empty where there is none."""
        return dict(self.score.details) if self.score else {}


def attempt(proxy: Proxy, network: Architecture) -> Attempt:
    """Score a network; a failure is an outcome, too."""
    start = time.monotonic()
    try:
        score = proxy.score(network)
    except ScoringFailed as error:
        return Attempt(score=None, failure=str(error), seconds=time.monotonic() - start)
    return Attempt(score=score, failure=None, seconds=score.seconds)


class Stage(Protocol):
    """What scores networks, one after the other."""

    def has_searched(self, network_id: str) -> bool:
        """Whether a network of the sampler has its result here; what a reference was given is apart."""
        ...

    def take(self, network: Architecture, *, trial: int | None) -> None:
        """Score a network of the sampler, unless it was scored before as a reference, and keep the result."""
        ...


class Decision:
    """The last stage, whose score is the score of a candidate.

    Args:
        folder: where candidates are kept.
        table: predicts their latency.
        proxy: scores them.
        coverage: of the interval around a latency; None for what the table knows well.

    Attributes:
        on_kept: called after every candidate; may be set.
        known: every candidate by the id of its network, failed ones included.
        kept: candidates of this process so far.
    """

    def __init__(
        self,
        folder: ResultsFolder,
        table: LatencyTable,
        proxy: Proxy,
        *,
        coverage: float | None,
    ) -> None:
        self._folder, self._table, self._proxy, self._coverage = folder, table, proxy, coverage
        self.on_kept: Callable[[Candidate], None] = _ignore
        self.result = folder.load()
        self.known = {candidate.id: candidate for candidate in self.result.candidates}
        self.kept = 0

    @property
    def searched(self) -> int:
        """How many networks of the sampler have come here, failed ones included."""
        return sum(1 for candidate in self.known.values() if candidate.kind == "searched")

    def has_searched(self, network_id: str) -> bool:
        """Whether a network of the sampler has its result here."""
        return network_id in self.known and self.known[network_id].kind == "searched"

    def mean_seconds(self) -> float:
        """What a score took so far."""
        return _mean_seconds(self.known.values())

    def score_of(self, network_id: str) -> float | None:
        """The score of a network, if it has one."""
        return self.known[network_id].score if network_id in self.known else None

    def take(self, network: Architecture, *, trial: int | None) -> None:
        """Score a network of the sampler; one that was scored as a reference keeps that score."""
        known = self.known.get(network.id)
        if known is None:
            self.score(network, kind="searched", trial=trial)
        else:
            self._keep(known.model_copy(update={"kind": "searched", "name": None, "trial": trial}), None)

    def score(self, network: Architecture, *, kind: Kind, name: str | None = None, trial: int | None = None) -> None:
        """Score a network and keep the result; a failure is a result, too."""
        latency = self._table.latency(network, coverage=self._coverage)
        outcome = attempt(self._proxy, network)
        candidate = Candidate(
            id=network.id,
            kind=kind,
            name=name,
            trial=trial,
            latency_ms=latency.latency_ms,
            low_ms=latency.low_ms,
            high_ms=latency.high_ms,
            score=outcome.value,
            failure=outcome.failure,
            seconds=outcome.seconds,
            details=outcome.details,
            architecture=network,
        )
        self._keep(candidate, outcome.score)

    def _keep(self, candidate: Candidate, score: Score | None) -> None:
        """Put a finished candidate on disk, then into memory."""
        self.result = self._folder.add(candidate, score.weights if score else None)
        self.known[candidate.id] = candidate
        self.kept += 1
        self.on_kept(candidate)


class Screen:
    """A stage before the last: it scores networks in rounds, of which the best is passed on.

    Args:
        name: of the proxy.
        proxy: scores the networks.
        size: networks in a round.
        folder: where screenings are kept.
        kept: what this stage screened before, in order.
        following: the stage that the best networks are passed on to.

    Attributes:
        known: every screening by the id of its network.
        searched: those of networks of the sampler, in order.
    """

    def __init__(
        self, name: str, proxy: Proxy, *, size: int, folder: ResultsFolder, kept: Iterable[Screening], following: Stage
    ) -> None:
        self._name, self._proxy, self._size, self._folder = name, proxy, size, folder
        self.following = following
        self.known: dict[str, Screening] = {}
        self.searched: list[Screening] = []
        for screening in kept:
            self._remember(screening)

    def has_searched(self, network_id: str) -> bool:
        """Whether a network of the sampler has its result here."""
        return network_id in self.known and self.known[network_id].kind == "searched"

    def mean_seconds(self) -> float:
        """What a score took so far."""
        return _mean_seconds(self.known.values())

    def open_round(self) -> list[Screening]:
        """The networks of the last round, as long as none of them was passed on."""
        latest = [one for one in self.searched if one.round == self.searched[-1].round]
        return [] if any(self.following.has_searched(one.id) for one in latest) else latest

    def full_round(self, *, early: bool) -> list[Screening]:
        """The open round if it is full; with `early` also one that is not."""
        latest = self.open_round()
        return latest if early or len(latest) == self._size else []

    def take(self, network: Architecture, *, trial: int | None) -> None:
        """Score a network of the sampler in the open round, or as the first of a new one."""
        self.score(network, kind="searched", trial=trial)

    def score(self, network: Architecture, *, kind: Kind, trial: int | None = None) -> None:
        """Score a network, unless it has its score, and keep the result."""
        known = self.known.get(network.id)
        number = self._round() if kind == "searched" else None
        if known is None:
            outcome = attempt(self._proxy, network)
            screening = Screening(
                id=network.id,
                proxy=self._name,
                kind=kind,
                trial=trial,
                round=number,
                value=outcome.value,
                failure=outcome.failure,
                seconds=outcome.seconds,
                details=outcome.details,
                architecture=network,
            )
        else:  # A reference that the sampler found by itself.
            screening = known.model_copy(update={"kind": kind, "trial": trial, "round": number})
        self._folder.add_screening(screening)
        self._remember(screening)

    def _round(self) -> int:
        """Number of the round that the next network belongs to: the open one, else a new one."""
        last = -1 if not self.searched or self.searched[-1].round is None else self.searched[-1].round
        return last if self.open_round() else last + 1

    def _remember(self, screening: Screening) -> None:
        self.known[screening.id] = screening
        if screening.kind == "searched":
            self.searched.append(screening)


class Funnel:
    """All stages of a search in their order, and the trials of the study that wait for the end of a round.

    Args:
        folder: of the search.
        study: is told the score of the last stage, and no other: it then learns on one scale, from what decides.
        decision: the last stage.
        screens: proxies of the stages before it, by name.
        size: networks in a round.
    """

    def __init__(
        self, folder: ResultsFolder, study: Study, decision: Decision, screens: Mapping[str, Proxy], *, size: int
    ) -> None:
        self._study, self._size = study, size
        self.decision = decision
        self.screens: list[Screen] = []
        following: Stage = decision
        for name, proxy in reversed(list(screens.items())):
            kept = [screening for screening in decision.result.screenings if screening.proxy == name]
            following = Screen(name, proxy, size=size, folder=folder, kept=kept, following=following)
            self.screens.insert(0, following)
        self._first = following
        self._waiting: dict[str, int] = {}  # trial by id of the network, which waits for the end of its round
        self._adopt_open_trials()

    @property
    def results(self) -> int:
        """How many results all stages have."""
        return len(self.decision.known) + sum(len(screen.known) for screen in self.screens)

    def has_searched(self, network_id: str) -> bool:
        """Whether the first stage has scored this network of the sampler."""
        return self._first.has_searched(network_id)

    def next_seconds(self) -> float:
        """Likely time until the next candidate has its score."""
        return seconds_with_screening(
            self.decision.mean_seconds(),
            [screen.mean_seconds() for screen in self.screens],
            screen=self._size,
            begun=[len(screen.open_round()) for screen in self.screens],
        )

    def take(self, proposal: Proposal) -> None:
        """Let the first stage score a network of the sampler; its trial is closed once the last stage has decided."""
        try:
            self._first.take(proposal.network, trial=proposal.trial)
        except BaseException:
            self._study.tell(proposal.trial, None)
            raise
        if self.screens:
            self._waiting[proposal.network.id] = proposal.trial
        else:
            self.close(proposal)

    def close(self, proposal: Proposal) -> None:
        """Close the trial of a network by its score; without one it counts as failed."""
        self._study.tell(proposal.trial, self.decision.score_of(proposal.network.id))

    def score_reference(self, name: str, network: Architecture) -> None:
        """Let every stage score a known network, which competes with none."""
        for screen in self.screens:
            if network.id not in screen.known:
                screen.score(network, kind="reference")
        self.decision.score(network, kind="reference", name=name)

    def pass_on(self, *, early: bool = False) -> bool:
        """Let the best network of a full round go on to the next stage; `early`, of one that is not full yet."""
        for screen in self.screens:
            if latest := screen.full_round(early=early):
                # Where all have failed, the first goes on: that a cheap proxy fails says little.
                best = max(latest, key=lambda one: -math.inf if one.value is None else one.value)
                screen.following.take(best.architecture, trial=best.trial)
                for one in latest:
                    if one is not best or screen.following is self.decision:
                        self._close_waiting(one.id)
                return True
        return False

    def _close_waiting(self, network_id: str) -> None:
        """Close the trial of a screened network; without a score by the last stage it counts as failed."""
        if (trial := self._waiting.pop(network_id, None)) is not None:
            self._study.tell(trial, self.decision.score_of(network_id))

    def _adopt_open_trials(self) -> None:
        """Close the trials that a killed process left open, except those of open rounds."""
        scores = {c.trial: c.score for c in self.decision.result.candidates if c.trial is not None}
        waiting = {one.trial: one.id for screen in self.screens for one in screen.open_round()}
        for trial in self._study.open_trials():
            if trial in waiting:
                self._waiting[waiting[trial]] = trial
            else:
                self._study.tell(trial, scores.get(trial))


def _mean_seconds(scored: Collection[Candidate | Screening]) -> float:
    return sum(one.seconds for one in scored) / len(scored) if scored else 0.0


def _ignore(candidate: Candidate) -> None:
    """Watch nothing."""
