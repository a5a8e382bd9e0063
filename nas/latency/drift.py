"""Whether a device still runs as fast as it did: a reference layer, timed before and after every few others.

Each time is kept with that of the reference around it. What the reference differs from its usual time is the drift of
the device, and a look-up divides by it (`LatencyTable.drift`). A shared machine is slow for seconds, and not for every
layer alike: that is no drift, but a reason to visit again. So the reference is the median of its last nine times.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nas.devices import Device, Job, Run
from nas.errors import DeviceError
from nas.latency.timing import read_run
from nas.networks import ConvLayer, Layer, Subject, operations

__all__ = ["Visit", "interleaved", "latest_levels", "reference_layer"]

S = TypeVar("S", bound=Subject)

_GROUP = 6  # subjects between two times of the reference
_LATEST = 9
_LEAST = 3  # times before the first subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit(Generic[S]):
    """A subject, timed between two times of the reference.

    Attributes:
        subject: what was timed.
        runs: what came of its jobs.
        reference_ms: median of the latest times of the reference, the one after the jobs included.
    """

    subject: S
    runs: tuple[Run, ...]
    reference_ms: float


def reference_layer(layers: Sequence[Layer]) -> Layer:
    """The convolution block that is the median of its kind in multiply-adds, or of all layers where there is none."""
    blocks: Sequence[Layer] = [layer for layer in layers if isinstance(layer, ConvLayer)] or layers
    ranked = sorted(blocks, key=lambda layer: (sum(part.macs for part in operations(layer)), layer.key))
    return ranked[len(ranked) // 2]


def interleaved(
    device: Device, subjects: Sequence[S], jobs: Callable[[S], Sequence[Job]], reference: Job, levels: deque[float]
) -> Iterator[Visit[S]]:
    """Do the jobs of each subject, with the reference before the first and after every few.

    A visit is yielded once the reference after it is known.

    Args:
        device: where.
        subjects: in the order to be timed.
        jobs: of one subject.
        reference: the job of the reference layer.
        levels: its latest times, from `latest_levels`, which the next call goes on with.
    Raises:
        DeviceError: the device is gone, or cannot time the reference.
    """
    most = max((len(jobs(subject)) for subject in subjects), default=1)
    size = max(_GROUP, (device.batch - 1) // most)
    while subjects and len(levels) < _LEAST:
        levels.append(_level(next(iter(device.time([reference]))), reference))
    for start in range(0, len(subjects), size):
        group = subjects[start : start + size]
        todo = [list(jobs(subject)) for subject in group]
        runs = list(device.time([*(job for mine in todo for job in mine), reference]))
        levels.append(_level(runs.pop(), reference))
        for subject, mine in zip(group, todo, strict=True):
            own, runs = tuple(runs[: len(mine)]), runs[len(mine) :]
            yield Visit(subject=subject, runs=own, reference_ms=round(statistics.median(levels), 6))


def latest_levels() -> deque[float]:
    """The times of the reference that its median is of: none yet."""
    return deque(maxlen=_LATEST)


def _level(run: Run, reference: Job) -> float:
    if run.failure is not None:
        raise DeviceError(f"the reference layer {reference.subject.key} failed: {run.failure}")
    timing = read_run(run)
    return timing.minimum_ms if timing.confirmed else timing.p10_ms
