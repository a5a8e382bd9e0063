"""A panel: several proxies score each network, and their disagreement is the uncertainty of the score.

This file is where scores of different proxies become comparable. Every member of a panel scores the same random
networks of the latency band. A score of the member then becomes a z-score: the number of standard deviations above the
mean of these networks. The panel's score is the mean of the members' z-scores. All members have the same weight.

Choose members that differ in bias. Members that share a bias agree, and are wrong together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from functools import cached_property
from statistics import NormalDist
from typing import Any, TypeVar

from nas.errors import InputError
from nas.files import digest_of
from nas.networks import Architecture
from nas.proxies._base import CIRCUMSTANCES, NO_IMAGES, Inputs, Proxy, Score, ScoringFailed

__all__ = ["Panel"]

T = TypeVar("T")

# Settings that a panel gives once for all members, under the name that they have in the settings of a single proxy. A
# resume looks for the circumstances there, a validation for a digest that differs from seed to seed.
_ONCE = ("trained_for", "digest", *CIRCUMSTANCES)
# What the images of the source are is the same for all members that use any.
_OF_THE_IMAGES = ("fingerprint", "contents", "normalisation")


class Panel:
    """Scores a network by the mean of its members' z-scores over random networks of the band.

    The band is scored once, at the first estimate or score; `inputs.progress` hears of every network. This takes as
    long as scoring that many networks. A search estimates before it starts, so the user waits for it before the plan
    appears, and neither the plan nor the time limit includes it.

    Args:
        members: the proxies by name, two or more.
        inputs: what the members were built from. The panel uses the band, the seed and the progress.
    Raises:
        InputError: the band has fewer than two networks.
    """

    def __init__(self, members: Mapping[str, Proxy], inputs: Inputs) -> None:
        self._members = dict(members)
        self._name = "+".join(members)
        self._band = {network.id: network for network in inputs.band}
        self._seed, self._progress = inputs.seed, inputs.progress
        if len(self._band) < 2:
            raise InputError(
                f"--proxy {self._name}: a panel needs a band, two random networks or more to compare scores with; "
                f"got {len(self._band)}"
            )

    def settings(self) -> dict[str, Any]:
        """Settings of the members, and the band.

        A member's own setting is named after it, such as `zero-cost:naswot resolution`. `data` is that of the first
        member that has any; a member with other data has its own.
        """
        of_member = {member: proxy.settings() for member, proxy in self._members.items()}
        data = next((own["data"] for own in of_member.values() if "data" in own), "none")
        settings: dict[str, Any] = {
            "proxy": "panel",
            "data": data,
            "seed": self._seed,
            "band": digest_of(" ".join(sorted(self._band))),
            "band_networks": len(self._band),
        }
        for member, own in of_member.items():
            if own.get("data", data) != data:
                # Without the seed in the words about synthetic data: all other seeds of a validation have these too.
                settings[f"{member} data"] = own["data"].replace(f", seed {self._seed}:", ":")
            elsewhere = ("proxy", "data", "seed", *_OF_THE_IMAGES, *_ONCE)
            settings |= {f"{member} {name}": value for name, value in own.items() if name not in elsewhere}
        known = [own for own in of_member.values() if "fingerprint" in own]
        for own in sorted(known, key=lambda own: own["fingerprint"] == NO_IMAGES)[:1]:
            settings |= {name: own[name] for name in _OF_THE_IMAGES if name in own}
        for name in _ONCE:
            values = {member: own[name] for member, own in of_member.items() if name in own}
            if len(set(values.values())) == 1:
                settings[name] = next(iter(values.values()))
            elif values:
                settings[name] = ", ".join(f"{member} {value}" for member, value in values.items())
        return settings

    def estimate_seconds(self, architecture: Architecture) -> float:
        """The sum of the members' estimates. The first call scores the band.

        Raises:
            ScoringFailed: a member cannot score this network.
            InputError: the scores of the band give no scale.
        """
        # Through the scales, so that the band is scored before a plan is made, and mistakes in the panel are met there.
        return math.fsum(
            self._ask(member, self._members[member].estimate_seconds, architecture) for member in self._scales
        )

    def score(self, architecture: Architecture) -> Score:
        """Score with every member; the value is the mean of the z-scores. The first call scores the band.

        `details` has the score of each member under its name, and its z-score as `NAME z`. `standard_error` is the
        disagreement of the members: the standard deviation of their z-scores (with n - 1), divided by the square root
        of the number of members. `band_networks` is the number of networks that the z-scores refer to. The weights are
        those of the first member that has any.

        Raises:
            ScoringFailed: a member cannot score this network.
            InputError: the scores of the band give no scale.
        """
        scales = self._scales
        scores = self._scores(architecture)
        standard = {member: scale.zscore(scores[member].value) for member, scale in scales.items()}
        details: dict[str, float | int | str] = {}
        for member, score in scores.items():
            details |= {member: score.value, f"{member} z": standard[member]}
        details["standard_error"] = statistics.stdev(standard.values()) / math.sqrt(len(standard))
        details["band_networks"] = len(self._band_scores)
        return Score(
            value=statistics.fmean(standard.values()),
            seconds=math.fsum(score.seconds for score in scores.values()),
            details=details,
            weights=next((score.weights for score in scores.values() if score.weights is not None), None),
        )

    @cached_property
    def _scales(self) -> dict[str, NormalDist]:
        """Mean and standard deviation of each member over the band."""
        columns = zip(*self._band_scores, strict=True)
        scales = dict(zip(self._members, map(NormalDist.from_samples, columns), strict=True))
        for member, scale in scales.items():
            if not scale.stdev:
                raise InputError(
                    f"--proxy {self._name}: {member} gives all {len(self._band_scores)} random networks of the band "
                    f"the score {scale.mean:g}, so it cannot tell networks apart there; leave it out of the panel"
                )
        return scales

    @cached_property
    def _band_scores(self) -> list[tuple[float, ...]]:
        """The members' scores of each network of the band. A network that a member cannot score is left out."""
        rows, failure = [], None
        for done, network in enumerate(self._band.values(), start=1):
            try:
                rows.append(tuple(score.value for score in self._scores(network).values()))
            except ScoringFailed as error:
                failure = error
            if self._progress:
                self._progress(f"Scoring random networks of the band with {self._name}", done, len(self._band))
        # Networks that fail may differ from the rest. With most of them left out, the scale is not that of the band.
        if len(rows) < max(2, len(self._band) / 2):
            raise InputError(
                f"--proxy {self._name}: only {len(rows)} of the {len(self._band)} random networks of the band have a "
                f"score by every member; the last failure: {failure}"
            ) from failure
        return rows

    def _scores(self, network: Architecture) -> dict[str, Score]:
        return {member: self._ask(member, proxy.score, network) for member, proxy in self._members.items()}

    @staticmethod
    def _ask(member: str, question: Callable[[Architecture], T], network: Architecture) -> T:
        """What a member answers about a network; its failure names the member."""
        try:
            return question(network)
        except ScoringFailed as error:
            raise ScoringFailed(f"{member}: {error}") from error
