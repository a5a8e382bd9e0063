"""A proxy that computes a made-up score from the architecture alone, at once, to try and to test a search.

The score rises with depth, width and the number of attention units, each with diminishing returns. Any two networks
differ a little. The score says nothing about accuracy.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from nas.files import Record
from nas.networks import Architecture, AttentionSpec
from nas.proxies import NO_IMAGES, Inputs, Score, ScoringFailed

__all__ = ["FakeProxy", "Options", "build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeProxy:
    """Scores without training.

    Attributes:
        data: source that the caller asked for; recorded, but not opened.
        seed: another seed moves every score by up to 0.005.
        failing: ids of networks whose scoring fails.
    """

    data: str = "synthetic"
    seed: int = 0
    failing: Collection[str] = ()

    def settings(self) -> dict[str, Any]:
        """The name and the arguments."""
        recorded = {"data": self.data, "fingerprint": NO_IMAGES}
        return {"proxy": "fake", **recorded, "seed": self.seed, "failing": sorted(self.failing)}

    def estimate_seconds(self, architecture: Architecture) -> float:  # noqa: ARG002 - no network takes any time
        """Zero: scoring takes no time."""
        return 0.0

    def score(self, architecture: Architecture) -> Score:
        """Score between 0 and 1, computed from the stages alone.

        Raises:
            ScoringFailed: the network's id is among `failing`.
        """
        if architecture.id in self.failing:
            raise ScoringFailed(f"{architecture.id} was asked to fail")
        blocks = [(stage.channels, block) for stage in architecture.stages for block in stage.blocks]
        size = sum(channels * block.expansion for channels, block in blocks)
        attention = sum(isinstance(block, AttentionSpec) for _, block in blocks)
        jitter = (int(architecture.id, 16) ^ (self.seed * 0x9E3779B97F4A)) % 1000 / 1000
        value = 0.7 * size / (size + 5000) + 0.2 * attention / (attention + 3) + 0.005 * jitter
        return Score(value=value, seconds=0.0, details={"size": size, "attention_units": attention})


class Options(Record):
    """A fake proxy has no options."""


def build(options: Options, inputs: Inputs) -> FakeProxy:  # noqa: ARG001 - it has no options
    """Build a fake proxy with the interface of every proxy; it does not open the data and ignores the device."""
    return FakeProxy(data=str(inputs.data), seed=inputs.seed)
