"""The proxies of a search as stages of a funnel: screening stages first, and a last stage that decides.

A screening stage scores networks in rounds. The best network of each round is passed on to the next stage. The score of
a candidate is the score of the last stage. Every result is on disk, with its round, before the search continues. So a
stopped search resumes in the middle of a round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from nas.latency import LatencyTable
from nas.networks import Architecture
from nas.proxies import Proxy, Score, attempt
from nas.search.plan import seconds_with_screening
from nas.search.records import Candidate, Kind, Screening
from nas.search.result import ResultsFolder

if TYPE_CHECKING:  # study.py loads Optuna
    from nas.search.study import Proposal, Study

__all__ = ["Decision", "Funnel", "Screen"]


class Stage(Protocol):
    """A step of the funnel that scores networks, one after the other."""

    def has_searched(self, network_id: str) -> bool:
        """Whether this stage has a result of the network as a proposal of the sampler, not as a reference."""
        ...

    def take(self, network: Architecture, *, trial: int | None) -> None:
        """Score a proposal of the sampler and keep the result. A score that it has as a reference is used again."""
        ...


class Decision:
    """The last stage. Its score is the score of a candidate.

    Args:
        folder: where candidates are kept.
        table: predicts the latency of candidates.
        proxy: scores them.
        coverage: of the interval around a latency; None for the table's default.

    Attributes:
        on_kept: called after every candidate. The owner of the stage may set it.
        result: all that is in the results folder so far.
        known: all candidates by network id, failed ones included.
        kept: number of candidates that this process has added.
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
        """Number of candidates that the sampler proposed, failed ones included."""
        return sum(1 for candidate in self.known.values() if candidate.kind == "searched")

    def has_searched(self, network_id: str) -> bool:
        """Whether this stage has a result of the network as a proposal of the sampler, not as a reference."""
        return _is_searched(self.known, network_id)

    def mean_seconds(self) -> float:
        """Mean time of the scores so far."""
        return _mean_seconds(self.known.values())

    def score_of(self, network_id: str) -> float | None:
        """The score of a network; None if it has none."""
        return self.known[network_id].score if network_id in self.known else None

    def take(self, network: Architecture, *, trial: int | None) -> None:
        """Score a proposal of the sampler. One that was scored as a reference keeps that score."""
        known = self.known.get(network.id)
        if known is None:
            self.score(network, kind="searched", trial=trial)
        else:
            self._keep(known.model_copy(update={"kind": "searched", "name": None, "trial": trial}), None)

    def score(self, network: Architecture, *, kind: Kind, name: str | None = None, trial: int | None = None) -> None:
        """Score a network and keep the result, also if it is a failure."""
        latency = self._table.latency(network, coverage=self._coverage)
        outcome = attempt(self._proxy, network)
        candidate = Candidate.of(
            network, latency, kind=kind, name=name, trial=trial, score=outcome.value, **outcome.account
        )
        self._keep(candidate, outcome.score)

    def _keep(self, candidate: Candidate, score: Score | None) -> None:
        """Add a finished candidate to the results folder first, then to memory."""
        self.result = self._folder.add(candidate, score.weights if score else None)
        self.known[candidate.id] = candidate
        self.kept += 1
        self.on_kept(candidate)


class Screen:
    """A screening stage: it scores networks in rounds, and the best of each round is passed on.

    Args:
        name: of the proxy.
        proxy: scores the networks.
        size: networks in a round.
        folder: where screenings are kept.
        kept: screenings of this stage from before a resume, in order.

    Attributes:
        following: the stage that gets the best networks.
        known: all screenings by network id.
        searched: screenings of proposals of the sampler, in order.
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
        """Whether this stage has a result of the network as a proposal of the sampler, not as a reference."""
        return _is_searched(self.known, network_id)

    def mean_seconds(self) -> float:
        """Mean time of the scores so far."""
        return _mean_seconds(self.known.values())

    def open_round(self) -> list[Screening]:
        """The screenings of the last round, if none of its networks is passed on yet; else nothing."""
        latest = [one for one in self.searched if one.round == self.searched[-1].round]
        return [] if any(self.following.has_searched(one.id) for one in latest) else latest

    def full_round(self, *, early: bool) -> list[Screening]:
        """The open round if it is full, or with `early` in any case; else nothing."""
        latest = self.open_round()
        return latest if early or len(latest) == self._size else []

    def take(self, network: Architecture, *, trial: int | None) -> None:
        """Score a proposal of the sampler in the open round, or as the first network of a new round."""
        self.score(network, kind="searched", trial=trial)

    def score(self, network: Architecture, *, kind: Kind, trial: int | None = None) -> None:
        """Score a network, unless it has a score, and keep the result."""
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
                architecture=network,
                **outcome.account,
            )
        else:  # A reference that the sampler proposed, too.
            screening = known.model_copy(update={"kind": kind, "trial": trial, "round": number})
        self._folder.add_screening(screening)
        self._remember(screening)

    def _round(self) -> int:
        """Number of the round of the next network: the open round, else a new one."""
        last = -1 if not self.searched or self.searched[-1].round is None else self.searched[-1].round
        return last if self.open_round() else last + 1

    def _remember(self, screening: Screening) -> None:
        self.known[screening.id] = screening
        if screening.kind == "searched":
            self.searched.append(screening)


class Funnel:
    """All stages of a search in order, and the open trials of the study.

    Args:
        folder: results folder of the search.
        study: gets scores of the last stage only. So it learns from one scale, and from the score that decides.
        decision: the last stage.
        screens: proxies of the screening stages, by name.
        size: networks in a round.

    Attributes:
        decision: the last stage.
        screens: the screening stages, in order, without the last stage.
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
        self._waiting: dict[str, int] = {}  # open trials by network id; each is closed at the end of its round
        self._adopt_open_trials()
        self._learn()

    @property
    def results(self) -> int:
        """Number of results of all stages."""
        return len(self.decision.known) + sum(len(screen.known) for screen in self.screens)

    def has_searched(self, network_id: str) -> bool:
        """Whether the first stage has scored this network as a proposal of the sampler."""
        return self._first.has_searched(network_id)

    def next_seconds(self) -> float:
        """Expected time until the next candidate has its score."""
        return seconds_with_screening(
            self.decision.mean_seconds(),
            [screen.mean_seconds() for screen in self.screens],
            screen=self._size,
            begun=[len(screen.open_round()) for screen in self.screens],
        )

    def take(self, proposal: Proposal) -> None:
        """Let the first stage score a proposal. Without screening its trial is closed now, else after its screening."""
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
        """Close the trial of a proposal: with the score of the last stage, or as failed if it has none."""
        self._close(proposal.trial, proposal.network.id)

    def score_reference(self, name: str, network: Architecture) -> None:
        """Let every stage score a reference. It competes with no other network."""
        for screen in self.screens:
            if network.id not in screen.known:
                screen.score(network, kind="reference")
        self.decision.score(network, kind="reference", name=name)
        self._learn()

    def pass_on(self, *, early: bool = False) -> bool:
        """Pass the best network of a full round on to the next stage. With `early`, the round need not be full."""
        for screen in self.screens:
            if latest := screen.full_round(early=early):
                # If all have failed, the first is passed on: a failure of a cheap proxy says little.
                best = max(latest, key=lambda one: -math.inf if one.value is None else one.value)
                screen.following.take(best.architecture, trial=best.trial)
                for one in latest:
                    closes = one is not best or screen.following is self.decision
                    # A run that has lost its journal has no trials of the screenings before.
                    if closes and (trial := self._waiting.pop(one.id, None)) is not None:
                        self._close(trial, one.id)
                return True
        return False

    def _close(self, trial: int, network_id: str) -> None:
        self._study.tell(trial, self.decision.score_of(network_id))

    def _learn(self) -> None:
        """Tell the study scores that are of no trial: of references, and all of a run that has lost its journal."""
        known = self.decision.known.values()
        self._study.learn((one.trial, one.architecture, one.score) for one in known if one.score is not None)

    def _adopt_open_trials(self) -> None:
        """Close the trials that a killed process left open, except the trials of open rounds."""
        scores = {c.trial: c.score for c in self.decision.result.candidates if c.trial is not None}
        waiting = {one.trial: one.id for screen in self.screens for one in screen.open_round()}
        for trial in self._study.open_trials():
            if trial in waiting:
                self._waiting[waiting[trial]] = trial
            else:
                self._study.tell(trial, scores.get(trial))


def _is_searched(known: Mapping[str, Candidate] | Mapping[str, Screening], network_id: str) -> bool:
    return network_id in known and known[network_id].kind == "searched"


def _mean_seconds(scored: Collection[Candidate | Screening]) -> float:
    return sum(one.seconds for one in scored) / len(scored) if scored else 0.0


def _ignore(candidate: Candidate) -> None:
    """Do nothing."""
