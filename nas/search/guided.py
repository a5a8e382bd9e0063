"""A search on the user's own images: tables propose, a supernet scores, and training from it settles the last few.

The steps, each of which goes on where it was stopped:

1. a survey of thousands of networks by latency table and accuracy table (survey.py),
2. the best of every band of latency are scored with the weights of a supernet that was trained on the images,
3. the best of these, and a known network beside them, are trained a little from the supernet; that decides. Where
   pixels are classified, the scores of the supernet decide, and there is no third step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from nas.errors import finishing
from nas.latency import LatencyTable
from nas.lock import LOCK_NAME, owned
from nas.networks import Architecture, SearchSpace
from nas.proxies import Proxy, attempt
from nas.search.evolution import Found
from nas.search.folder import ResultsFolder
from nas.search.plan import duration
from nas.search.records import Candidate, Kind, Screening, run_of
from nas.search.result import SearchResult, score_of
from nas.search.survey import BatchProxy, SurveyPlan, look

__all__ = ["SETTLED", "GuidedPlan", "plan_guided", "run_guided", "scored_networks"]

_SCORED = 120  # networks that the supernet scores if time allows; the best of every band are among them
SETTLED = 3  # candidates that are trained at the end
_LARGEST = "budget_ms"  # detail of a screening: the budget of its survey
_NEAR = 0.08  # relative distance to the budget within which every second network is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedPlan:
    """What a search on the user's images is going to do after its survey.

    Attributes:
        survey: the plan of the survey.
        scored: networks to score with the supernet, references included.
        score_s: estimated time of one.
        settled: networks to settle, a reference included. 0 if there is no time for it.
        settle_s: estimated time of one.
        unsettled: why none is settled, in words.
    """

    survey: SurveyPlan
    scored: int
    score_s: float
    settled: int
    settle_s: float
    unsettled: str = "settling: left out, there is no time for it"

    @property
    def seconds(self) -> float:
        """Estimated time of all steps."""
        return self.survey.seconds + self.scored * self.score_s + self.settled * self.settle_s

    def describe(self) -> list[str]:
        """The steps in words, each with its time."""
        settling = (
            f"settling: the best {self.settled - 1} and a reference are trained from the supernet, about "
            f"{duration(self.settled * self.settle_s)}"
            if self.settled
            else self.unsettled
        )
        return [
            f"survey: {self.survey.networks} networks inside {self.survey.budgets.largest_ms:g} ms by tables alone, "
            f"about {duration(self.survey.seconds)}",
            f"scoring: {self.scored} networks, the best of every latency, by the supernet, about "
            f"{duration(self.scored * self.score_s)}",
            settling,
        ]


def plan_guided(
    survey: SurveyPlan, scorer: Proxy, settler: Proxy | None, *, trials: int | None, time_limit_s: float | None
) -> GuidedPlan:
    """Divide the time: half of it at most for settling, the rest for scores by the supernet.

    Args:
        survey: the plan of the survey.
        scorer: scores with the supernet.
        settler: trains from the supernet; None where its scores decide.
        trials: candidates to score besides the references; None for as many as the time allows, 120 with them at most.
        time_limit_s: for the survey, the scores and the settling together.
    """
    timed = list(survey.references.values())[-1:] or [survey.cheapest]
    score_s, settle_s = (max(1e-3, one.estimate_seconds(timed[0]) if one else 0.0) for one in (scorer, settler))
    scored, settled = scored_networks(survey, trials), SETTLED + 1 if settler else 0
    if time_limit_s is not None:
        left_s = max(0.0, time_limit_s - survey.seconds)
        settled = min(settled, int(left_s / 2 / settle_s))
        settled = settled if settled > 1 else 0
        scored = min(scored, max(1, int((left_s - settled * settle_s) / score_s)))
    plan = GuidedPlan(survey=survey, scored=scored, score_s=score_s, settled=settled, settle_s=settle_s)
    return plan if settler else replace(plan, unsettled="the scores of the supernet decide")


def scored_networks(survey: SurveyPlan, trials: int | None) -> int:
    """Networks to score if time allows, references included, when `trials` candidates are asked for."""
    return _SCORED if trials is None else trials + len(survey.references)


def run_guided(
    space: SearchSpace,
    table: LatencyTable,
    foretell: BatchProxy,
    scorer: Proxy,
    settler: Proxy | None,
    *,
    plan: GuidedPlan,
    seed: int,
    out: Path,
    names: Mapping[str, str],
    time_limit_s: float | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    on_survey: Callable[[int, int], None] | None = None,
    on_candidate: Callable[[Candidate], None] | None = None,
    on_settled: Callable[[Candidate, Screening], None] | None = None,
) -> SearchResult:
    """Search on the user's images; every result is on disk before the next network is tried.

    Args:
        space: the networks to choose from.
        table: predicts the latency.
        foretell: ranks the networks of the survey.
        scorer: scores the best of them; its score is the score of a candidate.
        settler: decides between the best candidates; None where the scorer decides.
        plan: from `plan_guided()` with the same arguments.
        seed: random seed of the survey.
        out: the results folder.
        names: names of `space`, `table`, and of `foretell`, `scorer` and, if there is one, `settler`, for run.json.
        time_limit_s: after this many seconds no further network is scored or settled, but for the first two.
        resume: go on with the run in the folder.
        command: the command line, for run.json.
        on_survey: called with the number of networks that the survey looked at, and the number to look at.
        on_candidate: called after every score.
        on_settled: called after every training of the last step.
    Raises:
        InputError: the folder has a run, and `resume` is not set; it belongs to another run; or another process works
            on it.
    """
    started = time.monotonic()
    run = run_of(
        space,
        table,
        scorer,
        budgets=plan.survey.budgets,
        seed=seed,
        names={**names, "proxy": names["scorer"]},
        command=command,
        screens={names["foretell"]: foretell},
        settles=(names["settler"], settler) if settler else None,
    )
    with owned(out, out / LOCK_NAME):
        folder = ResultsFolder(out, run, resume=resume)
        with finishing(folder.finish):
            shortlist = _shortlist(folder, space, table, foretell, plan, seed, names["foretell"], on_survey)
            scores = _Scores(folder, table, scorer, coverage=plan.survey.budgets.confidence, on_kept=on_candidate)

            def is_late(ahead_s: float) -> bool:
                used_s = time.monotonic() - started
                return time_limit_s is not None and scores.kept > 0 and used_s + ahead_s > time_limit_s

            settling_s = plan.settled * plan.settle_s
            asked = {network.id for network in (*shortlist, *plan.survey.references.values())}
            for name, network in plan.survey.references.items():
                if network.id not in scores.known and not is_late(scores.mean_seconds() + settling_s):
                    scores.add(network, kind="reference", name=name)
            for network in shortlist:
                # Those of other budgets, from before a resume, do not count.
                known = len(asked & scores.known.keys())
                enough = known >= plan.scored or is_late(scores.mean_seconds() + settling_s)
                if enough and scores.searched:  # Without a single candidate there would be no winner.
                    break
                if network.id not in scores.searched:
                    scores.add(network, kind="searched")
            if settler and plan.settled:
                _settle(folder, settler, plan, names["settler"], on_settled, is_late)
        return folder.load()


def _shortlist(
    folder: ResultsFolder,
    space: SearchSpace,
    table: LatencyTable,
    foretell: BatchProxy,
    plan: GuidedPlan,
    seed: int,
    name: str,
    on_survey: Callable[[int, int], None] | None,
) -> list[Architecture]:
    """The networks to score, best first: those that are kept, else those of a survey, which are kept then."""
    kept = folder.load().screenings
    budgets = plan.survey.budgets
    is_of_run = folder.before is None or folder.before.budgets == budgets.limits_ms
    if kept and kept[0].details.get(_LARGEST, budgets.largest_ms) == budgets.largest_ms and is_of_run:
        return [one.architecture for one in kept if one.kind == "searched"]
    folder.replace_screenings([])  # A run that is stopped in this survey must not take those of other budgets.
    found, _ = look(space, table, foretell, plan=plan.survey, seed=seed, on_progress=on_survey)
    networks = list(_in_order(found, plan.survey.budgets.largest_ms))
    known = list(plan.survey.references.values())
    scores = foretell.score_all([*networks, *known])
    folder.replace_screenings(
        [
            Screening(
                id=network.id,
                proxy=name,
                kind="searched" if number < len(networks) else "reference",
                value=score.value,
                seconds=score.seconds,
                details={**score.details, _LARGEST: budgets.largest_ms},
                architecture=network,
            )
            for number, (network, score) in enumerate(zip([*networks, *known], scores, strict=True))
        ]
    )
    return networks


class _Scores:
    """The scores of the supernet.

    Args:
        folder: where candidates are kept.
        table: predicts their latency.
        scorer: scores them.
        coverage: of the interval around a latency; None for the table's default.
        on_kept: called after every candidate.

    Attributes:
        known: all candidates by network id, failed ones included.
        searched: ids of those that the survey proposed.
        kept: number of candidates that this process has added.
    """

    def __init__(
        self,
        folder: ResultsFolder,
        table: LatencyTable,
        scorer: Proxy,
        *,
        coverage: float | None,
        on_kept: Callable[[Candidate], None] | None,
    ) -> None:
        self._folder, self._table, self._scorer, self._coverage = folder, table, scorer, coverage
        self._on_kept = on_kept
        candidates = folder.result.candidates
        self.known = {candidate.id: candidate for candidate in candidates}
        self.searched = {candidate.id for candidate in candidates if candidate.kind == "searched"}
        self.kept = 0

    def mean_seconds(self) -> float:
        """Mean time of the scores so far."""
        return statistics.fmean(one.seconds for one in self.known.values()) if self.known else 0.0

    def add(self, network: Architecture, *, kind: Kind, name: str | None = None) -> None:
        """Score a network and keep the result, also if it is a failure. One that is known keeps its score."""
        known, weights = self.known.get(network.id), None
        if known is not None:
            candidate = known.model_copy(update={"kind": kind, "name": name})
        else:
            latency = self._table.latency(network, coverage=self._coverage)
            outcome = attempt(self._scorer, network)
            candidate = Candidate.of(network, latency, kind=kind, name=name, score=outcome.value, **outcome.account)
            weights = outcome.score.weights if outcome.score else None
        self._folder.add(candidate, weights)
        self.known[candidate.id] = candidate
        if kind == "searched":
            self.searched.add(candidate.id)
        self.kept += 1
        if self._on_kept:
            self._on_kept(candidate)


def _in_order(found: Sequence[Found], budget_ms: float) -> Iterator[Architecture]:
    """Networks by rank: in turns one near the budget and one of any faster band, so that the front is known as well."""
    near = sorted((one for one in found if one.latency_ms >= budget_ms * (1 - _NEAR)), key=lambda one: -one.rank)
    rest = [one for one in found if one.latency_ms < budget_ms * (1 - _NEAR)]
    bands: dict[int, list[Found]] = {}
    for one in sorted(rest, key=lambda one: -one.rank):
        bands.setdefault(round(one.latency_ms / budget_ms / _NEAR), []).append(one)
    by_band = [bands[band] for band in sorted(bands, reverse=True)]
    others = [one for level in zip_longest(*by_band) for one in level if one is not None]
    for pair in zip_longest(near, others):
        yield from (one.network for one in pair if one is not None)


def _settle(
    folder: ResultsFolder,
    settler: Proxy,
    plan: GuidedPlan,
    name: str,
    on_settled: Callable[[Candidate, Screening], None] | None,
    is_late: Callable[[float], bool],
) -> None:
    """Let the settler score the best candidates, and the reference nearest to the budget; two of them in any case."""
    result = folder.load()
    budget_ms = plan.survey.budgets.largest_ms
    inside = [c for c in result.scored if result.run.limited_ms(c) <= budget_ms]
    best = sorted(inside, key=score_of, reverse=True)[: plan.settled - 1]
    nearest = sorted(result.references, key=lambda c: c.latency_ms)[-1:]
    proposed = {candidate.id for candidate in best}  # The survey may have found the reference as well.
    beside = [reference for reference in nearest if reference.id not in proposed]
    compared = [*best[:1], *beside, *best[1:]]
    for candidate in compared:
        settled = folder.load().settled
        if candidate.id in settled:
            continue
        seconds = [settled[one.id].seconds for one in compared if one.id in settled]  # not those of other budgets
        if len(seconds) > 1 and is_late(statistics.fmean(seconds)):
            break
        outcome = attempt(settler, candidate.architecture)
        outcome_kept = Screening(
            id=candidate.id,
            proxy=name,
            kind=candidate.kind,
            value=outcome.value,
            architecture=candidate.architecture,
            **outcome.account,
        )
        folder.add_settled(outcome_kept, candidate, outcome.score.weights if outcome.score else None)
        if on_settled:
            on_settled(candidate, outcome_kept)
