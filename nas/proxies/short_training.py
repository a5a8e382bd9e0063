"""Short training: every candidate trains on the same few thousand images and is scored on held-out images.

How much a network learns from so few images depends mostly on the recipe. The parts that matter are in
nas/training/recipe.py. results/proxy-study lists what was tried, and compares the ranking of networks with the
published ranking.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from nas.data import ImageSet, Progress, load_images, training_batches, validation_batches
from nas.errors import InputError
from nas.files import Record, digest
from nas.networks import Architecture, SearchSpace
from nas.networks.modules import Network, inherit, load_donor
from nas.proxies import Inputs, Score, ScoringFailed
from nas.proxies._torch import (
    check_images,
    circumstances,
    data_settings,
    held_out,
    no_progress,
    of_seed,
    portable_weights,
)
from nas.training import Supernet, Teacher, is_supernet, load_supernet
from nas.training.recipe import (
    Optimizer,
    Precision,
    autocast,
    calibrate_norms,
    calibration_batches,
    faster_precision,
    initial_network,
    judged,
    memory_failures,
    schedule,
    timed,
    usable_device,
)

__all__ = ["VARIANT", "Options", "Recipe", "ShortTraining", "StartingPoint", "build"]

Effort = Literal["quick", "standard", "thorough"]

# Factor on the learning rates when the weights come from a supernet, which was already trained on this data. Higher
# rates teach little more, and the scores of three seeds then spread four times as far (results/proxy-study).
_FROM_SUPERNET = 0.15
_CHECK_EVERY = 10  # steps between two checks of the loss; each check waits for the GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a candidate is trained.

    Attributes:
        images: number of training images, counted with repetition; rounded up to a whole number of batches.
        batch_size: images per step.
        matrix_rate: peak learning rate of Muon.
        rate: peak learning rate of AdamW.
        weight_decay: weight decay of the parameters that AdamW trains, except vectors.
        warmup: share of the steps in which the learning rates rise from 0. Then they fall to 0.
        label_smoothing: share of the target that is spread over all classes; `build` takes 0 with a teacher.
        calibration_images: number of images to measure the batch norm statistics on again at the end.
        precision: number format of matrix products and convolutions. Weights, norms and the loss stay in fp32.
    """

    images: int = 4096
    batch_size: int = 64
    matrix_rate: float = 0.02
    rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.2
    label_smoothing: float = 0.1
    calibration_images: int = 1024
    precision: Precision = "fp32"


class StartingPoint:
    """Pretrained weights; every candidate takes the part that fits it and starts from there.

    Args:
        name: path of a file with a supernet or with an iFormer, whose parameters have this project's, timm's or the
            authors' names. `{seed}` in the path stands for the seed.
        seed: random seed of the training that starts from these weights.
        weights_key: which weights of a file of several to take, as in `load_donor`.
    Raises:
        InputError: the file holds neither a supernet nor an iFormer.
    """

    def __init__(self, name: Path, *, seed: int, weights_key: str | None = None) -> None:
        self.name, self.path = name, of_seed(name, seed)
        self._donor: Supernet | Network
        if is_supernet(self.path):
            if weights_key:
                raise InputError(f"{self.path} is a supernet, which has no --option weights_key: leave it out")
            self._donor = load_supernet(self.path)
        else:
            self._donor = load_donor(self.path, SearchSpace.find("iformer").references, weights_key=weights_key)
        self.digest = digest(self.path) + (f"#{weights_key}" if weights_key else "")

    @property
    def classes(self) -> int:
        """Number of classes that the weights distinguish."""
        return self._donor.num_classes if isinstance(self._donor, Supernet) else self._donor.architecture.num_classes

    @property
    def split_seed(self) -> int | None:
        """Seed that chose the images held out from a supernet; None for other weights, trained on other images."""
        return self._donor.seed if isinstance(self._donor, Supernet) else None

    @property
    def teacher(self) -> str | None:
        """Name of the teacher that a supernet was trained with; None for labels of the data, and for other weights."""
        return self._donor.teacher if isinstance(self._donor, Supernet) else None

    def check(self, image_set: ImageSet, source: object) -> None:
        """Refuse images that a supernet was not trained on. Other weights may have been trained on any.

        Raises:
            InputError: as `check_images`.
        """
        if isinstance(self._donor, Supernet):
            check_images(self._donor, self.path, image_set, source)

    @property
    def is_supernet(self) -> bool:
        """Whether the weights are a supernet; a supernet only serves its own number of classes."""
        return isinstance(self._donor, Supernet)

    def apply(self, network: Network) -> None:
        """Load the network's part of the weights into it; the network is on the CPU.

        Raises:
            ScoringFailed: the network does not fit into the supernet.
        """
        if isinstance(self._donor, Network):
            inherit(network, self._donor)
            return
        try:
            part = self._donor.weights.part(network)
        except InputError as error:
            raise ScoringFailed(str(error)) from error
        network.load_state_dict(part, strict=False)  # Training fills in the batch norm statistics.


class ShortTraining:
    """Trains and scores candidates on one set of images, all with the same recipe and the same order of images.

    Args:
        image_set: images to train on and to score on. The whole set moves to `device` once.
        recipe: how to train.
        seed: random seed of the weights, the order of images and the augmentation.
        device: `cpu`, `cuda`, `cuda:1`, ...
        init: weights to start from instead of random ones.
        progress: called after every step of a training.
    Raises:
        InputError: `init` is a supernet for another number of classes, or there are fewer than two training images.
    """

    def __init__(
        self,
        *,
        image_set: ImageSet,
        recipe: Recipe,
        seed: int,
        device: str,
        init: StartingPoint | None = None,
        progress: Progress | None = None,
    ) -> None:
        if len(image_set.train_labels) < 2:
            raise InputError(f"{image_set.description}: short training needs two images at least")  # for batch norm
        if init and init.is_supernet and init.classes != image_set.num_classes:
            raise InputError(
                f"{init.path} was trained for {init.classes} classes, the data has {image_set.num_classes}"
            )
        self._device = torch.device(device)
        self._data = data_settings(image_set)
        self._images = image_set.to(self._device)
        self._recipe = recipe
        self._seed = seed
        self._init = init
        self._progress = progress or no_progress
        self._batch_size = min(recipe.batch_size, len(image_set.train_labels))
        self._steps = math.ceil(recipe.images / self._batch_size)
        self._calibration = calibration_batches(self._images, images=recipe.calibration_images, seed=seed)

    def settings(self) -> dict[str, Any]:
        """Recipe, data, seed and environment: what `build` needs to score again, and what explains a difference."""
        return {
            "proxy": "short-training",
            **self._data,
            "resolution": self._images.resolution,
            "seed": self._seed,
            **asdict(self._recipe),
            **({"teacher": self._images.teacher} if self._images.teacher else {}),
            **({"init": str(self._init.name), "digest": self._init.digest} if self._init else {}),
            **circumstances(self._device),
        }

    def estimate_seconds(self, architecture: Architecture) -> float:
        """Seconds to train and to validate a network, extrapolated from a few batches.

        Times four training steps and takes the median of the last three. Times one validation batch without gradients
        twice and takes the second. Multiplies each by the number of such batches; calibration counts as validation.
        """
        with memory_failures(self._where, ScoringFailed):
            network, optimizer = self._prepare(architecture)
            batches = training_batches(self._images, batch_size=self._batch_size, steps=4, seed=self._seed)
            seconds = timed(
                lambda: self._step(network, optimizer, *next(batches), share=0.5), runs=4, device=self._device
            )
            network.eval()
            first = next(validation_batches(self._images, batch_size=self._val_batch_size))
            validation = timed(
                lambda: judged(network, *first, precision=self._recipe.precision), runs=2, device=self._device
            )
        share = (len(self._images.val_labels) + sum(map(len, self._calibration))) / len(first[1])
        return statistics.median(seconds[1:]) * self._steps + validation[-1] * share

    def score(self, architecture: Architecture) -> Score:
        """Train the network, measure its batch norm statistics, and score it by its likelihood on the held-out images.

        Raises:
            ScoringFailed: the loss is no longer finite, or memory ran out.
        """
        with memory_failures(self._where, ScoringFailed):
            start = time.perf_counter()
            network, optimizer = self._prepare(architecture)
            loss = self._train(network, optimizer)
            trained = time.perf_counter()
            calibrate_norms(network, self._calibration, precision=self._recipe.precision)
            seen = held_out(
                network, self._images,
                batch_size=self._val_batch_size, precision=self._recipe.precision, progress=self._progress,
            )  # fmt: skip
            seconds = time.perf_counter() - start
        images = self._steps * self._batch_size
        return Score(
            value=seen.likelihood,
            seconds=seconds,
            details={
                "images": images,
                "images_per_second": images / (trained - start),
                "training_loss": loss,
                "validation_seconds": seconds - (trained - start),
                **seen.details(self._images),
            },
            weights=portable_weights(network),
        )

    def _prepare(self, architecture: Architecture) -> tuple[Network, Optimizer]:
        scaled = architecture.at(resolution=self._images.resolution, num_classes=self._images.num_classes)
        network = initial_network(scaled, seed=self._seed)
        if self._init:
            self._init.apply(network)
        network.to(self._device)
        recipe = self._recipe
        optimizer = Optimizer(
            network.parameters(), matrix_rate=recipe.matrix_rate, rate=recipe.rate, weight_decay=recipe.weight_decay
        )
        return network, optimizer

    def _train(self, network: Network, optimizer: Optimizer) -> float:
        """Train for all steps; return the mean loss since the last check."""
        batches = training_batches(self._images, batch_size=self._batch_size, steps=self._steps, seed=self._seed)
        recent = []
        for step, (images, labels) in enumerate(batches):
            share = schedule((step + 1) / (self._steps + 1), warmup=self._recipe.warmup)
            recent.append(self._step(network, optimizer, images, labels, share=share))
            self._progress("step", step + 1, self._steps)
            if len(recent) == _CHECK_EVERY or step + 1 == self._steps:
                loss = torch.stack(recent).mean().item()
                recent.clear()
                if not math.isfinite(loss):
                    raise ScoringFailed(
                        f"training diverged: the loss is {loss} after {(step + 1) * len(labels)} images"
                    )
        return loss

    def _step(
        self, network: Network, optimizer: Optimizer, images: torch.Tensor, labels: torch.Tensor, *, share: float
    ) -> torch.Tensor:
        """Update once with `share` of the learning rates; return the loss before it, without waiting for the GPU."""
        with autocast(self._device, self._recipe.precision):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self._recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(share)
        return loss.detach()

    @property
    def _val_batch_size(self) -> int:
        return 4 * self._recipe.batch_size  # Without gradients this fits in the memory of a training step.

    @property
    def _where(self) -> str:
        return f"{self._device} with {self._batch_size} images a step of {self._images.resolution} px"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Preset:
    """Number of training images (half as many from a supernet), their size in pixels, and the number to score on."""

    images: int
    resolution: int = 64
    val_images: int = 5000


# README.md has the cost and the rank correlation of each preset, from a supernet and from scratch.
_PRESETS: dict[Effort, _Preset] = {
    "quick": _Preset(images=4096, val_images=2048),
    "standard": _Preset(images=8192),
    "thorough": _Preset(images=25_000),
}


VARIANT = "effort"


class Options(Record):
    """Options of short training.

    Attributes:
        effort: sets the number of images to score on, and the number of training images unless `images` sets it. From
            a supernet `effort` takes half as many training images.
        images: number of training images. If the data has fewer images, they are repeated.
        resolution: height and width of the images in pixels.
        precision: number format of matrix products. The default is the faster of fp32 and bf16, timed on this machine.
        init: file of the weights to start from: a supernet, or an iFormer whose parameters have this project's, timm's
            or the authors' names. `{seed}` in the path stands for the seed.
        weights_key: which weights of `init` to take, if the file has several; without it the averaged ones.
        teacher: network whose soft labels take the place of the data's labels: efficientnet-lite0 or -lite2. From a
            supernet it is that of the supernet.
    """

    effort: Effort = "quick"
    images: Annotated[int | None, Field(ge=2)] = None
    resolution: Annotated[int | None, Field(ge=32, multiple_of=32)] = None
    precision: Precision | None = None
    init: Path | None = None
    weights_key: str | None = None
    teacher: str | None = None


def build(options: Options, inputs: Inputs) -> ShortTraining:
    """Load the data, choose the device and the precision, and build the proxy.

    Raises:
        InputError: the data or the weights to start from cannot be read, the teacher is unknown, not installed or not
            that of the supernet, or the device cannot be used.
    """
    device, seed = usable_device(inputs.device), inputs.seed
    preset = _PRESETS[options.effort]
    if options.weights_key and not options.init:
        raise InputError("--option weights_key goes with --option init=FILE")
    init = StartingPoint(options.init, seed=seed, weights_key=options.weights_key) if options.init else None
    from_supernet = init is not None and init.is_supernet
    name = options.teacher or (init.teacher if init else None)
    if init and from_supernet and name != init.teacher:
        raise InputError(
            f"--option teacher={name}: {init.path} was trained on the labels of {init.teacher or 'its data'}; "
            "leave the teacher out to train on these"
        )
    teacher = Teacher(name, device=device) if name else None
    images = options.images or (preset.images // 2 if from_supernet else preset.images)
    image_set = load_images(
        inputs.data,
        resolution=options.resolution or preset.resolution,
        seed=seed,
        split_seed=init.split_seed if init else None,
        train_limit=images,
        val_limit=preset.val_images,
        progress=inputs.progress,
    )
    progress = inputs.progress or no_progress
    progress("timing fp32 and bf16", 0, 0)
    recipe = Recipe(images=images, precision=options.precision or faster_precision(device))
    if teacher:
        image_set = teacher.labelled(image_set, progress=inputs.progress)
        recipe = replace(recipe, label_smoothing=0.0)  # soft already, and what is scored
    if init:
        init.check(image_set, inputs.data)
    if from_supernet:
        matrix_rate, rate = (_FROM_SUPERNET * rate for rate in (recipe.matrix_rate, recipe.rate))
        recipe = replace(recipe, matrix_rate=matrix_rate, rate=rate)
    return ShortTraining(
        image_set=image_set, recipe=recipe, seed=seed, device=device, init=init, progress=inputs.progress
    )
