"""Recovery: what the searches found, compared with the published variants."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from nas.latency.published import PublishedPoint
from nas.networks import Architecture
from nas.search import Candidate, SearchResult, hypervolume, score_of, undominated
from nas.validate.agreement import ScoredNetwork
from nas.validate.records import Gap, Hypervolumes, Noise, Opinion, RecoveryPart, SearchPart, VariantPart
from nas.validate.request import Request
from nas.validate.scores import KeptScores, scored_network

__all__ = ["Findings", "recovery_part"]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the searches of a validation have found so far, and the networks to compare it with.

    Attributes:
        request: what is asked for.
        scores: scores of the published rows and of the searches.
        results: results of the started searches, by budget.
        ended: budgets of the finished searches.
    """

    request: Request
    scores: KeptScores
    results: Mapping[float, SearchResult]
    ended: frozenset[float]

    @cached_property
    def variants(self) -> dict[str, PublishedPoint]:
        """The published variants of the request."""
        return self.request.variants

    @cached_property
    def compared(self) -> dict[str, Architecture]:
        """The networks to compare, by name: published variants, their rivals, and winners of searches."""
        networks = {name: point.architecture() for name, point in self.variants.items()}
        found = [self.best_rival(self.request.table.latency_ms(network)) for network in networks.values()]
        found += [result.winner for result in self.results.values()]
        return networks | {candidate.id: candidate.architecture for candidate in found if candidate}

    def best_rival(self, latency_ms: float) -> Candidate | None:
        """The best network of at most this latency that any search found."""
        best = [candidate for result in self.results.values() if (candidate := result.best_under(latency_ms))]
        return max(best, key=score_of, default=None)

    def unscored_seeds(self) -> set[int]:
        """Seeds for which a compared network lacks the score of a proxy."""
        return {
            seed
            for seed in self.request.seeds
            if any(
                self.scores.find(proxy, seed, network.id) is None
                for proxy in self.request.proxies
                for network in self.compared.values()
            )
        }


def recovery_part(findings: Findings, noise: Mapping[str, Noise]) -> RecoveryPart:
    """The recovery part of a validation, as far as the searches have come.

    Args:
        findings: what the searches have found.
        noise: noise of one score, by proxy.
    """
    return _Recovery(findings, noise).part()


class _Recovery:
    """The searches with the scores of all compared networks."""

    def __init__(self, findings: Findings, noise: Mapping[str, Noise]) -> None:
        self._findings, self._noise = findings, noise
        self._request = request = findings.request
        self._proxy, self._search_seed = request.proxies[0], request.seeds[0]
        # The search chose its networks partly for their luck under its own seed. The other seeds do not have this bias.
        self._seeds = request.seeds[1:] or request.seeds
        self._networks = {name: self._scored(self._proxy, name) for name in findings.compared}

    def part(self) -> RecoveryPart:
        found = [candidate for result in self._findings.results.values() for candidate in result.scored]
        front = undominated({c.id: c for c in found}.values(), latency=lambda c: c.latency_ms, score=score_of)
        limit_ms, floor = max(self._request.budgets_ms), self._chance()
        return RecoveryPart(
            proxy=self._proxy,
            search_seed=self._search_seed,
            seeds=self._seeds,
            deviation=self._noise[self._proxy].deviation,
            score_floor=floor,
            latency_limit_ms=limit_ms,
            networks=tuple(self._networks.values()),
            searches=tuple(map(self._search, self._request.budgets_ms)),
            variants=tuple(map(self._variant, self._findings.variants)),
            hypervolumes=self._hypervolumes(
                {c.id: (c.latency_ms, score_of(c)) for c in front},
                found={c.id for c in found},
                area=partial(hypervolume, latency_limit=limit_ms, score_floor=floor),
            ),
            front=tuple((c.id, c.latency_ms, score_of(c)) for c in front),
        )

    def _scored(self, proxy: str, name: str) -> ScoredNetwork:
        findings = self._findings
        return scored_network(
            self._request, findings.scores, proxy, name, findings.compared[name], findings.variants.get(name)
        )

    def _opinions(self, found: str | None, variant: str | None) -> tuple[Opinion, ...]:
        if found is None or variant is None:
            return ()
        return tuple(
            Opinion(
                proxy=proxy,
                gap=Gap.between(
                    self._scored(proxy, found),
                    self._scored(proxy, variant),
                    noise=self._noise[proxy],
                    seeds=self._seeds,
                ),
            )
            for proxy in self._request.proxies[1:]
        )

    def _gap(self, found: str | None, variant: str | None) -> Gap | None:
        if found is None or variant is None:
            return None
        networks = self._networks[found], self._networks[variant]
        return Gap.between(*networks, noise=self._noise[self._proxy], seeds=self._seeds)

    def _search(self, budget_ms: float) -> SearchPart:
        result = self._findings.results.get(budget_ms)
        inside = [name for name, point in self._findings.variants.items() if point.latency_ms <= budget_ms]
        found, variant = result.winner.id if result and result.winner else None, inside[-1] if inside else None
        return SearchPart(
            budget_ms=budget_ms,
            trials=self._request.trials,
            time_limit_s=self._request.time_limit_s,
            complete=budget_ms in self._findings.ended,
            networks=len(result.scored) if result else 0,
            failed=sum(c.kind == "searched" and c.score is None for c in result.candidates) if result else 0,
            found=found,
            variant=variant,
            gap=self._gap(found, variant),
            opinions=self._opinions(found, variant),
        )

    def _variant(self, name: str) -> VariantPart:
        rival = self._findings.best_rival(self._networks[name].latency_ms or 0.0)
        gap = self._gap(rival.id if rival else None, name)
        verdict = gap.verdict if gap else None
        if rival is None and self._findings.ended >= set(self._request.budgets_ms):
            verdict = "worse"  # no network that was found is as fast
        return VariantPart(
            variant=name,
            rival=rival.id if rival else None,
            gap=gap,
            on_front=None if verdict is None else verdict != "better",
            matched=None if verdict is None else verdict != "worse",
        )

    def _hypervolumes(
        self,
        front: Mapping[str, tuple[float, float]],
        *,
        found: set[str],
        area: Callable[[Iterable[tuple[float, float]]], float],
    ) -> tuple[Hypervolumes, ...]:
        """Hypervolumes under the seed of the search, and under the other seeds if there are any."""

        def mean_area(names: Iterable[str], seeds: Sequence[int]) -> float:
            networks = map(self._networks.__getitem__, names)
            points = ((n.latency_ms, n.values(seeds).values()) for n in networks)
            return area([(x, statistics.fmean(values)) for x, values in points if x is not None and values])

        own, others = [self._search_seed], self._seeds
        volumes = Hypervolumes(
            scores=f"under seed {self._search_seed}, which chose the found front",
            found=area(front.values()),
            published=mean_area(self._findings.variants, own),
        )
        if self._search_seed in others:
            return (volumes,)
        again = Hypervolumes(
            scores=f"mean of seeds {', '.join(map(str, others))}; found counts only the networks compared here",
            found=mean_area([name for name in self._networks if name in found], others),
            published=mean_area(self._findings.variants, others),
        )
        return volumes, again

    def _chance(self) -> float:
        """The score of guessing: 1 / classes for a proxy that scores held-out images, else 0."""
        for network in self._networks.values():
            line = self._findings.scores.find(self._proxy, self._search_seed, network.id)
            if line and "val_images" in line.details and "classes" in line.details:
                return 1 / float(line.details["classes"])
        return 0.0
