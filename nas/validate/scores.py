"""Scores that are computed once: each score is on disk before the next step."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from nas.files import Record, append_record, digest_of, drop_half_line, read_records, unwritten
from nas.latency.published import PublishedPoint
from nas.networks import Architecture
from nas.proxies import Proxy, Score, ScoringFailed, attempt, identity
from nas.validate.agreement import ScoredNetwork, SeedScore
from nas.validate.baselines import depth, log_weights, macs, params
from nas.validate.ranking import pooled_deviation
from nas.validate.request import Request

__all__ = ["KeptScore", "KeptScores", "Remembering", "names_its_seed", "scored_network"]

_OF_THE_RUN = ("contents", "normalisation")  # kept once, or not needed to compare scores


class KeptScore(Record):
    """A line of scores.jsonl."""

    proxy: str
    seed: int
    id: str
    value: float | None = None
    failure: str | None = None
    seconds: float
    details: dict[str, float | int | str] = Field(default_factory=dict)
    settings: dict[str, Any]


class KeptScores:
    """All finished scores, in memory and in scores.jsonl.

    Proxy, settings, network and seed identify a score. The machine that computed it does not matter, nor do the paths
    of the images and of other files. Scores of earlier versions, which do not say what their images were, count for the
    same words about the images.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise unwritten(path, error) from error
        drop_half_line(path)
        self._path = path
        self._kept: dict[tuple[str, str, str, int], KeptScore] = {}
        self._used: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._last: dict[tuple[str, int], Mapping[str, Any]] = {}
        for line in read_records(path, KeptScore):
            self._remember(line)

    def use(self, name: str, seed: int, proxy: Proxy) -> None:
        """From now on, look for scores of this proxy and seed under its settings."""
        self._used[name, seed] = proxy.settings()

    def use_all(self, seed: int, proxies: Mapping[str, Proxy]) -> None:
        """Do the same for all proxies of a seed."""
        for name, proxy in proxies.items():
            self.use(name, seed, proxy)

    def find(self, name: str, seed: int, network: str) -> KeptScore | None:
        """The score of a network by its id, under the settings of this run.

        If the proxy of a seed is not built yet, the settings of its last kept score are used. They must equal the
        settings of the built proxies, except for the seed.
        """
        settings = self._used.get((name, seed), self._last.get((name, seed)))
        built = (used for (proxy, _), used in self._used.items() if proxy == name)
        if settings is None or any(_apart_from_seed(used) != _apart_from_seed(settings) for used in built):
            return None
        by_content = self._kept.get((name, _settings_digest(settings), network, seed))
        return by_content or self._kept.get((name, _settings_digest(settings, by_content=False), network, seed))

    def add(self, line: KeptScore) -> KeptScore:
        """Keep a score."""
        append_record(self._path, line)
        self._remember(line)
        return line

    def _remember(self, line: KeptScore) -> None:
        self._kept[line.proxy, _settings_digest(line.settings), line.id, line.seed] = line
        self._last[line.proxy, line.seed] = line.settings


class Remembering:
    """A proxy that computes no score twice."""

    def __init__(self, name: str, seed: int, proxy: Proxy, scores: KeptScores) -> None:
        self._name, self._seed, self._proxy, self._scores = name, seed, proxy, scores
        scores.use(name, seed, proxy)

    def settings(self) -> dict[str, Any]:
        """The settings of the proxy."""
        return self._proxy.settings()

    def estimate_seconds(self, architecture: Architecture) -> float:
        """The estimate of the proxy."""
        return self._proxy.estimate_seconds(architecture)

    def score(self, architecture: Architecture) -> Score:
        """The kept score, or else a new score, which is then kept.

        Raises:
            ScoringFailed: the proxy cannot score this network, now or when it was tried before.
        """
        kept, fresh = self._scores.find(self._name, self._seed, architecture.id), None
        if kept is None:
            outcome = attempt(self._proxy, architecture)
            fresh = outcome.score
            kept = self._scores.add(
                KeptScore(
                    proxy=self._name,
                    seed=self._seed,
                    id=architecture.id,
                    value=outcome.value,
                    settings={name: value for name, value in self.settings().items() if name not in _OF_THE_RUN},
                    **outcome.account,
                )
            )
        if kept.value is None:
            raise ScoringFailed(kept.failure or "no score")
        return fresh or Score(value=kept.value, seconds=kept.seconds, details=kept.details)


def scored_network(
    request: Request,
    scores: KeptScores,
    proxy: str,
    label: str,
    network: Architecture,
    point: PublishedPoint | None = None,
) -> ScoredNetwork:
    """A network with its scores so far."""
    lines = [line for seed in request.seeds if (line := scores.find(proxy, seed, network.id))]
    values = [line.value for line in lines if line.value is not None]
    return ScoredNetwork(
        name=label,
        id=network.id,
        summary=network.summary,
        params=params(network),
        macs=macs(network),
        depth=depth(network),
        log_weights=log_weights(network),
        published_ms=point.latency_ms if point else None,
        top1=point.top1 if point else None,
        latency_ms=request.latency_ms(network),
        scores=tuple(SeedScore(seed=s.seed, value=s.value, failure=s.failure, seconds=s.seconds) for s in lines),
        mean=statistics.fmean(values) if values else None,
        deviation=pooled_deviation([values]),
    )


def names_its_seed(settings: Mapping[str, Any]) -> bool:
    """Whether a proxy uses a file with `{seed}` in its name, and so another file for each seed."""
    return any("{seed}" in str(value) for value in settings.values())


def _apart_from_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that proxies of all seeds share. Descriptions of synthetic data and files per seed name the seed."""
    if names_its_seed(settings):  # Each seed's file has its own digest. The name tells that the files belong together.
        settings = {name: value for name, value in settings.items() if name != "digest"}
    own = {name: value for name, value in identity(settings).items() if name != "seed"}
    if "data" in own:
        own["data"] = str(own["data"]).replace(f"seed {settings.get('seed')}:", "")
    return own


def _settings_digest(settings: Mapping[str, Any], *, by_content: bool = True) -> str:
    """Equal for scores that can be compared.

    Args:
        settings: of a proxy.
        by_content: as in `nas.proxies.identity`.
    """
    return digest_of(json.dumps(identity(settings, by_content=by_content), sort_keys=True))
