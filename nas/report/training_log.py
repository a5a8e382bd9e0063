"""The epochs of a full training for TensorBoard, as scalars over optimizer steps."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from nas.errors import InputError
from nas.training.course import Epoch

__all__ = ["TrainingLog"]

_KIND = "tensorboard"


class TrainingLog:
    """Writes an epoch at a time; a training that goes on hides what was written of later epochs than it begins with.

    Args:
        track: `tensorboard`, or `tensorboard:DIR` for another folder than tensorboard/ of the training.
        folder: of the training.
    Raises:
        InputError: it is something else, or tensorboard is not installed.
    """

    def __init__(self, track: str, folder: Path) -> None:
        kind, _, where = track.partition(":")
        if kind != _KIND:
            raise InputError(f"--track must be {_KIND}[:DIR] for a training, got {track}")
        try:
            self._library = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise InputError(f"--track {_KIND} needs the package {_KIND}: pip install 'nas[{_KIND}]'") from error
        self._folder = Path(where) if where else folder / _KIND
        self._writer: Any = None

    def write(self, epoch: Epoch) -> None:
        """Write the scalars of an epoch: loss, rate, images_per_s, and every figure by its name."""
        if self._writer is None:
            self._writer = self._library.SummaryWriter(str(self._folder), purge_step=epoch.step)
        scalars = {"loss": epoch.loss, "rate": epoch.rate, "images_per_s": epoch.images_per_s, **epoch.figures}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch.step)
        self._writer.flush()
