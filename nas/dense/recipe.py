"""The recipe of a detector's or a segmenter's training, as a TOML file says it. The defaults are the paper's."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal, assert_never

from pydantic import Field

from nas.dense.backbones import Norms
from nas.dense.coco import CocoFolder
from nas.dense.detection import DETECTION, Detection
from nas.dense.masks import MaskFolder
from nas.dense.segmentation import SEGMENTATION, Segmentation
from nas.files import Record
from nas.training.optimisation import Optimisation
from nas.training.recipe_file import recipe_of_file

__all__ = ["DenseRecipe", "DenseTask", "DetectionRecipe", "SegmentationRecipe", "fitted", "of_file"]

DenseTask = Literal["detect", "segment"]

_WARM_STEPS, _MOST_WARM = 500, 0.1  # of detection; at most this share of the training


class DenseRecipe(Record):
    """What both tasks are trained by.

    Attributes:
        optimisation: of the weights.
        resolution: size of the pictures that windows are chosen for.
        window: of the attention, as of `nas.backbone`; None as the architecture says.
        norms: of the backbone, as of `nas.backbone`.
        drop_path: stochastic depth of the last block, rising from 0 at the first.
    """

    optimisation: Optimisation
    resolution: int = Field(512, gt=0)
    window: int | None = Field(16, ge=0)
    norms: Norms = "batch"
    drop_path: float = Field(0.0, ge=0, lt=1)


class DetectionRecipe(DenseRecipe):
    """How a detector is trained.

    Attributes:
        model: how it is built, and at which size.
    """

    optimisation: Optimisation = DETECTION
    model: Detection = Detection()


class SegmentationRecipe(DenseRecipe):
    """How a segmenter is trained.

    Attributes:
        model: how it is built, and what its pictures are changed by.
    """

    optimisation: Optimisation = SEGMENTATION
    model: Segmentation = Segmentation()


def fitted(
    source: CocoFolder | MaskFolder, *, epochs: int | None = None, batch_size: int | None = None
) -> DetectionRecipe | SegmentationRecipe:
    """The recipe for a folder of pictures: the paper's for COCO and ADE20K.

    With fewer pictures a step has no more of them than there are. With other epochs the rate falls in the same parts of
    the training. Warm-up has 500 steps, or a tenth of the training if that is less.

    Args:
        source: what is trained on.
        epochs: by default the paper's: 12 passes for detection, 20 times 2,000 steps for segmentation.
        batch_size: images of a step; by default 16 for detection and 32 for segmentation.
    """
    changes: dict[str, Any] = {}
    match source:
        case MaskFolder():
            own = SEGMENTATION
        case CocoFolder():
            own = DETECTION
            total = epochs or own.epochs
            changes["drops"] = tuple(round(drop * total / own.epochs) for drop in own.drops)
        case _:
            assert_never(source)
    changes["epochs"] = epochs or own.epochs
    changes["batch_size"] = batch_size or min(own.batch_size, len(source.train))
    if isinstance(source, CocoFolder):
        steps = max(1, len(source.train) // changes["batch_size"])
        changes["warmup_epochs"] = round(min(_WARM_STEPS / steps, _MOST_WARM * changes["epochs"]), 4)
    optimisation = Optimisation.model_validate(own.model_dump() | changes)
    if isinstance(source, MaskFolder):
        return SegmentationRecipe(optimisation=optimisation)
    return DetectionRecipe(optimisation=optimisation)


def of_file(
    path: Path, source: CocoFolder | MaskFolder, *, epochs: int | None = None, batch_size: int | None = None
) -> DetectionRecipe | SegmentationRecipe:
    """The recipe for a folder of pictures with what a TOML file says in place of its own.

    Where the rate falls and how long warm-up is are fitted to epochs and batch size of the file, unless it says them.

    Args:
        path: of the file.
        source: what is trained on.
        epochs: as of `fitted`; not where the file says them.
        batch_size: in the same way.
    Raises:
        InputError: the file is no TOML, has a key that no recipe has, a value breaks a rule, or the file and an
            argument say the same.
    """
    return recipe_of_file(path, functools.partial(fitted, source), epochs=epochs, batch_size=batch_size)
