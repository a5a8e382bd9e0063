"""Whether a device still runs as fast as it did: a reference layer, timed before every few others.

When the reference gets slower for good, so has the device, and the times around it are divided by that drift. When it
is slow for a moment, something else ran, and the times beside it are in doubt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from nas.architecture import ConvLayer, Layer, Subject
from nas.devices import Device, Job, Run
from nas.entries import ReferenceTime
from nas.errors import DeviceError
from nas.operations import operations
from nas.timing import TimingProtocol, read_runs

__all__ = ["DriftWatch", "interleaved", "reference_layer"]

S = TypeVar("S", bound=Subject)

_GROUP = 6  # subjects between two times of the reference
_DISTURBED = 1.03
_DRIFT = 0.01  # less is noise of the reference itself


def reference_layer(layers: Sequence[Layer]) -> Layer:
    """The convolution block that is the median of its kind in multiply-adds, or of all layers where there is none."""
    blocks: Sequence[Layer] = [layer for layer in layers if isinstance(layer, ConvLayer)] or layers
    ranked = sorted(blocks, key=lambda layer: (sum(part.macs for part in operations(layer)), layer.key))
    return ranked[len(ranked) // 2]


class DriftWatch:
    """What the reference layer tells of a device.

    Args:
        device: where it runs.
        layer: the reference.
        protocol: how it is timed.
        known: its time when the table was begun; timed now where there is none.
    Raises:
        DeviceError: the reference cannot be timed.
    """

    def __init__(
        self, device: Device, layer: Layer, protocol: TimingProtocol, known: ReferenceTime | None = None
    ) -> None:
        self.job: Job = protocol.job(layer)
        self._levels: deque[float] = deque(maxlen=3)
        if known is None:
            runs = device.time([protocol.job(layer)] * 3)
            known = ReferenceTime(key=layer.key, latency_ms=min(self._read(run) for run in runs))
        self.reference = known

    def see(self, run: Run) -> None:
        """Take in another time of the reference."""
        self._levels.append(self._read(run))

    @property
    def drift(self) -> float:
        """Time of the reference now over its time when the table was begun; 1 where they differ by noise only."""
        drift = min(self._levels, default=self.reference.latency_ms) / self.reference.latency_ms
        return 1.0 if abs(drift - 1) < _DRIFT else round(drift, 4)

    @property
    def disturbed(self) -> bool:
        """Whether the last time was slower than those just before it."""
        return self._levels[-1] > min(self._levels) * _DISTURBED

    def _read(self, run: Run) -> float:
        if run.failure is not None:
            raise DeviceError(f"the reference layer {self.job.subject.key} failed: {run.failure}")
        return read_runs(run.times_ms).minimum_ms


def interleaved(
    device: Device, subjects: Sequence[S], jobs: Callable[[S], Sequence[Job]], watch: DriftWatch
) -> Iterator[tuple[S, list[Run], list[S]]]:
    """Do the jobs of each subject, with the reference before every few of them.

    Args:
        device: where.
        subjects: in the order to be timed.
        jobs: of one subject.
        watch: is told of every time of the reference.
    Yields:
        The subject, what came of its jobs, and the subjects in doubt since the last: the reference was slow after them.
    """
    size = max(_GROUP, device.batch // 2)
    before: Sequence[S] = ()
    for start in range(0, len(subjects), size):
        group = subjects[start : start + size]
        todo = [(subject, list(jobs(subject))) for subject in group]
        runs = iter(device.time([watch.job, *(job for _, each in todo for job in each)]))
        watch.see(next(runs))
        doubt = [*before, *group] if watch.disturbed else []
        for subject, each in todo:
            yield subject, list(islice(runs, len(each))), doubt
            doubt = []
        before = group
