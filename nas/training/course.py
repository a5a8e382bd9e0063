"""The course of a full training in numbers: where it stands, and what every epoch gave."""

from __future__ import annotations

import time
from dataclasses import dataclass

from nas.files import Record

__all__ = ["Begun", "Epoch", "Step", "Watch"]


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
        loss: mean of the epoch's steps.
        rate: learning rate of its last step.
        seconds: of training in this epoch, without judging; steps that were done again after a kill count once.
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


class Begun(Record):
    """The part of an epoch that is done.

    Attributes:
        steps: optimizer steps.
        loss: sum of their losses.
        images: seen, by all processes.
        seconds: of training.
    """

    steps: int = 0
    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0


class Watch:
    """Images, losses and seconds of the epoch that runs, with what was done of it before a stop."""

    def __init__(self) -> None:
        self.begin(Begun())

    def begin(self, before: Begun) -> None:
        """An epoch begins, or goes on."""
        self._before, self._steps, self._loss, self._images = before.seconds, before.steps, before.loss, before.images
        self._started, self._ended = time.monotonic(), 0.0

    def count(self, images: int, loss: float) -> None:
        """A step is done, in which all processes together saw so many images."""
        self._steps, self._loss, self._images = self._steps + 1, self._loss + loss, self._images + images

    def end(self) -> None:
        """The training of the epoch ends."""
        self._ended = time.monotonic()

    @property
    def begun(self) -> Begun:
        """What is done of the epoch."""
        return Begun(steps=self._steps, loss=self._loss, images=self._images, seconds=self.seconds)

    @property
    def seconds(self) -> float:
        """Of training in this epoch so far."""
        return self._before + (self._ended or time.monotonic()) - self._started

    @property
    def images_per_s(self) -> float:
        """Of all processes, in this epoch so far."""
        return self._images / max(self.seconds, 1e-9)

    @property
    def mean_loss(self) -> float:
        """Of the steps of this epoch."""
        return self._loss / max(self._steps, 1)
