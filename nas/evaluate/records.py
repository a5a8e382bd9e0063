"""What an evaluation says: shares of images with intervals, the confusion table, and where each number is from."""

from __future__ import annotations

import importlib.metadata
import math
from typing import Literal, Self

from pydantic import Field

from nas.data.protocol import Protocol
from nas.files import Record

__all__ = ["ClassAccuracy", "Confusion", "Evaluation", "Scores", "Share"]

_Z = 1.959964  # of a normal distribution, 95 % within


class Share(Record):
    """A share of images, with Wilson's interval of 95 % (E. B. Wilson, JASA 22, 1927).

    Attributes:
        right: images that count.
        images: all images.
        value: `right / images`.
        low: lower end of the interval.
        high: upper end.
    """

    right: int
    images: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, right: int, images: int) -> Self:
        """The share with its interval.

        Examples:
            >>> share = Share.of(0, 10)
            >>> round(share.low, 3), round(share.high, 3)
            (0.0, 0.278)
        """
        value, square = right / images, _Z**2 / images
        middle = (value + square / 2) / (1 + square)
        half = _Z * math.sqrt(value * (1 - value) / images + square / (4 * images)) / (1 + square)
        low, high = max(0.0, middle - half), min(1.0, middle + half)
        return cls(right=right, images=images, value=value, low=min(low, value), high=max(high, value))

    @property
    def words(self) -> str:
        """In percent, with the interval."""
        return f"{100 * self.value:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"


class ClassAccuracy(Record):
    """Of the images of one class, how many are recognised."""

    name: str
    images: int
    right: int

    @property
    def value(self) -> float:
        """The share."""
        return self.right / self.images


class Confusion(Record):
    """How many images of a class are taken for a class, which may be the same."""

    actual: str
    predicted: str
    images: int


class Scores(Record):
    """How good the network is, where the answer is one of some of its outputs.

    Attributes:
        outputs: number of these.
        top1: images whose class has the highest output.
        top5: images whose class is among the five highest. None if there are five outputs or fewer.
        cross_entropy: mean of -log(probability of the class) in nats, the probabilities over these outputs.
        classes: in the order of the data; those of which there is no image are left out.
        confusions: the whole table, without its zeros; the most frequent mistakes first, then what is right.
    """

    outputs: int
    top1: Share
    top5: Share | None
    cross_entropy: float
    classes: tuple[ClassAccuracy, ...]
    confusions: tuple[Confusion, ...]

    @property
    def mistakes(self) -> tuple[Confusion, ...]:
        """Which classes are taken for which others, the most frequent first."""
        return tuple(one for one in self.confusions if one.actual != one.predicted)


class Evaluation(Record):
    """A network on images.

    Attributes:
        network: what it is called.
        form: what runs: `torch`, `timm`, `onnx` or `coreml`.
        weights: where they are from.
        precision: of the weights, `fp32`, `fp16` or `int8`; empty if it is not known.
        runtime: what ran it, in words.
        data: the source.
        split: which images of it, in words.
        images: number of images that were evaluated.
        broken: number of images that could not be read and were left out.
        class_names: of the data.
        matched: how its classes and the outputs were matched, in words.
        protocol: how images became the input.
        protocol_words: that in a line.
        scores: over all outputs.
        known: over the outputs alone that are classes of the data. None if all are.
        seconds: of reading, decoding and running on this machine.
        images_per_s: throughput in this time; not a latency.
        machine: what it was measured on, in words.
        nas_version: of this package.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    network: str
    form: Literal["torch", "timm", "onnx", "coreml"]
    weights: str
    precision: str
    runtime: str
    data: str
    split: str
    images: int
    broken: int
    class_names: tuple[str, ...]
    matched: str
    protocol: Protocol
    protocol_words: str
    scores: Scores
    known: Scores | None
    seconds: float
    images_per_s: float
    machine: str
    nas_version: str = Field(default_factory=lambda: importlib.metadata.version("nas"))
