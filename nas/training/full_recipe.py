"""The recipe of a full training, as a TOML file says it: what is done to images, labels and weights.

For ImageNet it is the paper's (Table 9, and the released code): 300 epochs of 4096 images a step. What changes with
fewer images or epochs is this project's choice, and `TrainingRecipe.fitted` says it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nas.files import Record
from nas.training.optimisation import Optimisation
from nas.training.recipe_file import recipe_of_file

__all__ = ["Augmentation", "Distillation", "TrainingRecipe"]

Probability = Annotated[float, Field(ge=0, le=1)]

_PAPER_BATCH, _PAPER_RATE, _PAPER_EPOCHS = 4096, 4e-3, 300
_STEPS = 50  # an epoch has at least about as many
_LEAST_BATCH = 32
_WARMUP = 20 / 300  # of the epochs
_LONG, _MIDDLE = 200, 50  # epochs
_LARGE, _DROP_PATH = 12e6, 0.1  # weights: L has 14.7 million


class Augmentation(Record):
    """What is done to the images of a training, in timm's words.

    Attributes:
        rand_augment: timm's string, such as `rand-m9-mstd0.5-inc1`; empty for none.
        crop_scale: share of the area that a random crop has.
        flip: probability of mirroring.
        interpolation: of the crop, as Pillow names it.
        erasing: probability that a rectangle is erased.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none.
        switch: probability of CutMix where both are on.
    """

    rand_augment: str = "rand-m9-mstd0.5-inc1"
    crop_scale: tuple[Probability, Probability] = (0.08, 1.0)
    flip: Probability = 0.5
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    erasing: Probability = 0.25
    mixup: float = Field(0.8, ge=0, le=100)
    cutmix: float = Field(1.0, ge=0, le=100)
    switch: Probability = 0.5

    @model_validator(mode="after")
    def _check(self) -> Self:
        least, most = self.crop_scale
        if not 0 < least <= most:
            raise ValueError(f"crop_scale must be two shares above 0, the smaller first, got {least:g} and {most:g}")
        return self


class Distillation(Record):
    """How a teacher is learned from, by a second classifier that is folded into the first at export.

    Attributes:
        kind: `hard`, its likeliest class (the paper's, after DeiT), or `soft`, its probabilities.
        alpha: weight of the teacher's part of the loss.
        temperature: of both sides where it is soft.
    """

    kind: Literal["hard", "soft"] = "hard"
    alpha: Probability = 0.5
    temperature: float = Field(1.0, gt=0)


class TrainingRecipe(Record):
    """How a network is trained in full.

    Attributes:
        optimisation: of the weights.
        augmentation: of the images.
        distillation: from a teacher, if one is given.
        label_smoothing: share of every label that goes to all classes.
        drop_path: stochastic depth of the last block, rising from 0 at the first.
        crop: share of the short side that the middle crop has where the network is judged.
    """

    optimisation: Optimisation
    augmentation: Augmentation = Augmentation()
    distillation: Distillation = Distillation()
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    crop: float = Field(0.875, ge=0.1, le=1)

    @classmethod
    def fitted(
        cls, images: int, *, epochs: int | None = None, batch_size: int | None = None, params: int = 0
    ) -> TrainingRecipe:
        """The recipe for a number of training images.

        With 200,000 images and more it is the paper's. With fewer, a step has as many images as make 50 steps an epoch
        (a power of 2, at least 32), and the rate falls with the square root of that number, as is usual for AdamW
        (arXiv:2205.10287). With fewer than 200 epochs images are changed less, as timm's short recipes do
        (arXiv:2110.00476, procedure A3): RandAugment of magnitude 6, mixup 0.1, no erasing; with fewer than 50 neither
        mixup nor CutMix.

        Args:
            images: to train on.
            epochs: 300 by default.
            batch_size: images of a step.
            params: of the network; with more than 12 million it has the paper's stochastic depth of L.

        Examples:
            >>> recipe = TrainingRecipe.fitted(1_281_167)
            >>> recipe.optimisation.batch_size, recipe.optimisation.rate, recipe.optimisation.warmup_epochs
            (4096, 0.004, 20.0)
            >>> TrainingRecipe.fitted(9_469, epochs=30).optimisation.batch_size
            128
        """
        epochs = epochs or _PAPER_EPOCHS
        if batch_size is None:
            batch_size = _LEAST_BATCH
            while batch_size < _PAPER_BATCH and 2 * batch_size * _STEPS <= images:
                batch_size *= 2
        optimisation = Optimisation(
            epochs=epochs,
            batch_size=batch_size,
            rate=_PAPER_RATE * (batch_size / _PAPER_BATCH) ** 0.5,
            warmup_epochs=round(epochs * _WARMUP, 2),
        )
        drop_path = _DROP_PATH if params > _LARGE else 0.0
        if epochs >= _LONG:
            return cls(optimisation=optimisation, drop_path=drop_path)
        augmentation = Augmentation(
            rand_augment="rand-m6-mstd0.5-inc1",
            erasing=0.0,
            mixup=0.1 if epochs >= _MIDDLE else 0.0,
            cutmix=1.0 if epochs >= _MIDDLE else 0.0,
        )
        return cls(optimisation=optimisation, augmentation=augmentation, drop_path=drop_path)

    @classmethod
    def of_file(
        cls, path: Path, images: int, *, epochs: int | None = None, batch_size: int | None = None, params: int = 0
    ) -> TrainingRecipe:
        """The recipe for a number of images with what a TOML file says in place of its own.

        What follows from epochs and batch size is fitted to those of the file.

        Args:
            path: of the file.
            images: to train on.
            epochs: as of `fitted`; not where the file says them.
            batch_size: in the same way.
            params: as of `fitted`.
        Raises:
            InputError: the file is no TOML, has a key that no recipe has, a value breaks a rule, or the file and an
                argument say the same.
        """
        fit = functools.partial(cls.fitted, images, params=params)
        return recipe_of_file(path, fit, epochs=epochs, batch_size=batch_size)
