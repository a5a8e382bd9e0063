"""Whether a device is still as fast as before: a reference layer is timed before and after every few other subjects.

Each measured time is stored with the time of the reference layer around it. The drift of the device is the time of the
reference layer divided by its usual time. A lookup divides by the drift (`LatencyTable.drift`).

A shared machine can be slow for some seconds, and not equally slow for every layer. This is not drift. It is a reason
to time a layer again. So the time of the reference layer is the median of its last nine times.
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

_GROUP = 6  # subjects between two timings of the reference layer
_LATEST = 9  # timings of the reference layer that the median is taken of
_LEAST = 3  # timings of the reference layer before the first subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit(Generic[S]):
    """A subject, timed between two timings of the reference layer.

    Attributes:
        subject: what was timed.
        runs: the results of its jobs.
        reference_ms: median of the latest times of the reference layer, including the one after the jobs.
    """

    subject: S
    runs: tuple[Run, ...]
    reference_ms: float


def reference_layer(layers: Sequence[Layer]) -> Layer:
    """The convolution block with the median number of multiply-adds, or the median of all layers if there is none."""
    blocks: Sequence[Layer] = [layer for layer in layers if isinstance(layer, ConvLayer)] or layers
    ranked = sorted(blocks, key=lambda layer: (sum(part.macs for part in operations(layer)), layer.key))
    return ranked[len(ranked) // 2]


def interleaved(
    device: Device, subjects: Sequence[S], jobs: Callable[[S], Sequence[Job]], reference: Job, levels: deque[float]
) -> Iterator[Visit[S]]:
    """Run the jobs of each subject, and time the reference layer before the first subject and after every few subjects.

    A visit is yielded after the next timing of the reference layer.

    Args:
        device: runs the jobs.
        subjects: what to time, in this order.
        jobs: returns the jobs of one subject.
        reference: the job of the reference layer.
        levels: latest times of the reference layer, from `latest_levels`. This call adds to them, and the next call
            continues with them.
    Raises:
        DeviceError: the device is gone, or cannot time the reference layer.
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
    """A new, empty store for the latest times of the reference layer. The median of these times is used."""
    return deque(maxlen=_LATEST)


def _level(run: Run, reference: Job) -> float:
    if run.failure is not None:
        raise DeviceError(f"the reference layer {reference.subject.key} failed: {run.failure}")
    timing = read_run(run)
    return timing.minimum_ms if timing.confirmed else timing.p10_ms
