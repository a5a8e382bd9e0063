"""How an ONNX file becomes one of 8 bits, by images; and what that does to its accuracy, its latency and its size."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from nas.data import ImageSet, validation_batches
from nas.errors import InputError
from nas.export._card import RANDOM, Card
from nas.export._say import Say
from nas.export._session import session_of

__all__ = ["quantise"]

_CALIBRATION_IMAGES = 128
_WARM_UP, _RUNS = 5, 30


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Training images as the network gets them, in batches of the size that a file takes.

    Attributes:
        count: number of images.
    """

    def __init__(self, images: ImageSet, batch: int) -> None:
        # The first ones of a set may all be of one class.
        step = max(1, len(images.train_images) // _CALIBRATION_IMAGES)
        some = slice(None, step * _CALIBRATION_IMAGES, step)
        chosen = replace(images, val_images=images.train_images[some], val_labels=images.train_labels[some])
        whole = len(chosen.val_images) // batch
        self.count = whole * batch
        self._batches = islice(validation_batches(chosen, batch_size=batch), whole)

    def get_next(self) -> dict[str, Any] | None:
        for inputs, _ in self._batches:
            return {"image": inputs.contiguous().numpy()}
        return None


def quantise(path: Path, images: ImageSet, *, card: Card, batch: int | Literal["dynamic"], say: Say) -> None:
    """Replace an ONNX file in float32 by one of 8 bits, and say what this changes.

    Weights have one scale per channel, maps one each, from the range that images of the training set give (QDQ form).

    Args:
        path: the file, from `image` to `logits`.
        images: to calibrate with, and to measure the accuracy on if they have the classes of the network.
        card: of the network.
        batch: of the file.
        say: gets the table, line by line.
    Raises:
        InputError: there are fewer images than a batch has.
    """
    size = 1 if batch == "dynamic" else batch
    before = _measured(path, images, card, size)
    small = path.with_suffix(".int8.onnx")
    calibration = _Images(images, size)
    if not calibration.count:
        raise InputError(f"--int8 needs {size} training images at least, got {len(images.train_images)}")
    with _quiet():
        quantize_static(
            path,
            small,
            calibration,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    small.replace(path)
    after = _measured(path, images, card, size)
    say(f"{'':8s}  {'size':>9s}  {'accuracy':>8s}  {'latency':>9s}")
    for name, row in (("fp32", before), ("int8", after)):
        say(f"{name:8s}  {row[0]:>9s}  {row[1]:>8s}  {row[2]:>9s}")
    kept = f"{len(images.val_labels)} held-out images" if before[1] != "-" else "not measured: " + _why(images, card)
    say(f"accuracy: {kept}; calibrated with {calibration.count} training images; {images.description}")
    say(
        f"latency: measured here, ONNX Runtime {onnxruntime.__version__} CPUExecutionProvider, 1 thread, batch {size}, "
        f"median of {_RUNS} runs after {_WARM_UP}"
    )


def _measured(path: Path, images: ImageSet, card: Card, batch: int) -> tuple[str, str, str]:
    """Size, accuracy and latency of a file, as shown."""
    session = session_of(path)
    side = images.resolution
    noise = np.random.default_rng(0).standard_normal((batch, 3, side, side), dtype=np.float32)
    times = []
    for _ in range(_WARM_UP + _RUNS):
        start = time.perf_counter()
        session.run(None, {"image": noise})
        times.append(time.perf_counter() - start)
    latency = f"{statistics.median(times[_WARM_UP:]) * 1e3:.2f} ms"
    accuracy = "-" if _why(images, card) else f"{_accuracy(session, images, batch):.1%}"
    return f"{path.stat().st_size / 1e6:.2f} MB", accuracy, latency


def _why(images: ImageSet, card: Card) -> str:
    """Why there is no accuracy; empty if there is."""
    if card.weights == RANDOM:
        return "random weights"
    if images.num_classes != card.architecture.num_classes:
        return f"the data have {images.num_classes} classes, the network {card.architecture.num_classes}"
    return ""


def _accuracy(session: Any, images: ImageSet, batch: int) -> float:
    """Share of the held-out images that a file classifies correctly; an incomplete last batch is left out."""
    right = total = 0
    for inputs, labels in validation_batches(images, batch_size=batch):
        if len(labels) == batch:
            (logits,) = session.run(None, {"image": inputs.contiguous().numpy()})
            right += int((logits.argmax(1) == labels.numpy()).sum())
            total += batch
    return right / max(total, 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice of the quantisation to prepare the file, which is prepared."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
