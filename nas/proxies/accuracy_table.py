"""The accuracy table as a proxy: the ImageNet top-1 accuracy predicted from published results. Nothing is trained.

It takes no images, and a millisecond a network (nas/accuracy/).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from nas.accuracy import Accuracy, AccuracyTable
from nas.files import Record
from nas.networks import Architecture
from nas.proxies import Inputs, Score

__all__ = ["Options", "PredictedAccuracy", "build"]


class PredictedAccuracy:
    """Scores networks by their predicted ImageNet-1k top-1 accuracy, in %.

    Args:
        table: foretells the accuracy.
        name: by which the table was found.
    """

    def __init__(self, *, table: AccuracyTable, name: str) -> None:
        self.table, self._name = table, name

    def settings(self) -> dict[str, Any]:
        """The table, and how far it can be trusted."""
        return {
            "proxy": "accuracy-table",
            "accuracy_table": self._name,
            "digest": self.table.digest(),
            "trust": self.table.trust,
        }

    def estimate_seconds(self, architecture: Architecture) -> float:
        """Seconds to score this network, measured by scoring it once."""
        return self.score(architecture).seconds

    def score(self, architecture: Architecture) -> Score:
        """The predicted accuracy of a network; its 90 % interval is in the details as `low` and `high`."""
        return self.score_all([architecture])[0]

    def score_all(self, architectures: Sequence[Architecture]) -> list[Score]:
        """The same for many networks at once."""
        start = time.perf_counter()
        found = self.table.predict(architectures)
        seconds = (time.perf_counter() - start) / max(1, len(found))
        return [
            Score(value=one.top1, seconds=seconds, details={"low": one.low, "high": one.high, **_parts(one)})
            for one in found
        ]


def _parts(accuracy: Accuracy) -> dict[str, float]:
    """What each kind of evidence says, with its interval."""
    return {
        f"{name}{end}": value
        for name, part in accuracy.parts.items()
        for end, value in (("", part.top1), (" low", part.low), (" high", part.high))
    }


class Options(Record):
    """Options of the accuracy table.

    Attributes:
        accuracy_table: name of a file in accuracy_tables/, its beginning, or a path.
    """

    accuracy_table: str = "iformer"


def build(options: Options, inputs: Inputs) -> PredictedAccuracy:  # noqa: ARG001 - no images, seed or device matter
    """Read the table.

    Raises:
        InputError: there is no such table, or the file is broken.
    """
    table, path = AccuracyTable.find(options.accuracy_table)
    given = options.accuracy_table
    return PredictedAccuracy(table=table, name=given if "/" in given else path.name.removesuffix(".json"))
