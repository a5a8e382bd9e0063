"""The course of a full training in numbers: where it stands, and what every epoch gave."""

from __future__ import annotations

import time
from dataclasses import dataclass

from nas.files import Record

__all__ = ["Epoch", "Step", "Watch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a training stands.

    Attributes:
        done: optimizer steps.
        steps: in all.
        epoch: from 1.
        epochs: in all.
        loss: of the last step.
        images_per_s: of all processes, in this epoch so far.
    """

    done: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    images_per_s: float


class Epoch(Record):
    """A line of metrics.jsonl: what an epoch gave.

    Attributes:
        epoch: from 1.
        step: optimizer steps so far.
        images: seen so far.
        loss: mean of the epoch's steps; of a resumed epoch, since it was resumed.
        rate: learning rate of its last step.
        seconds: of training in this epoch, without judging; of a resumed epoch, since it was resumed.
        images_per_s: in the same way.
        figures: of the held-out data.
        is_best: no earlier epoch was better.
    """

    epoch: int
    step: int
    images: int
    loss: float
    rate: float
    seconds: float
    images_per_s: float
    figures: dict[str, float]
    is_best: bool


class Watch:
    """Images, losses and seconds of the epoch that runs."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self.begin()

    def begin(self) -> None:
        """An epoch begins."""
        self._started, self._ended = time.monotonic(), 0.0
        self._images, self._losses = 0, list[float]()

    def count(self, images: int, loss: float) -> None:
        """A step is done."""
        self._images += images
        self._losses.append(loss)

    def end(self) -> float:
        """The training of the epoch ends; returns its seconds."""
        self._ended = time.monotonic()
        return self._ended - self._started

    @property
    def images_per_s(self) -> float:
        """Of all processes, in this epoch so far."""
        seconds = (self._ended or time.monotonic()) - self._started
        return self._images * self._processes / max(seconds, 1e-9)

    @property
    def mean_loss(self) -> float:
        """Of the steps of this epoch."""
        return sum(self._losses) / max(len(self._losses), 1)
