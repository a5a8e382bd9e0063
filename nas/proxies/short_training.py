"""Short training: every candidate learns from the same few thousand images, then is scored on held-out ones.

The recipe is iFormer's own (AdamW, cosine schedule with warm-up, label smoothing) in a hurry. What makes it work in so
few steps is that every residual branch starts at zero: on 8,192 images of Tiny ImageNet (50 classes, 64 px, one seed,
gradients clipped at 1) that took iFormer-T from 7.1 to 13.8 % and iFormer-M from 3.6 to 11.4 %. Clipping itself was
dropped: without it iFormer-M got 14.7 % there, and the same within noise on synthetic pictures.
tests/benchmarks/bench_short_training.py measures the choices again.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from nas.architecture import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.data import ImageSet, Progress, load_images, training_batches, validation_batches
from nas.errors import InputError
from nas.files import Record
from nas.model import Network, build_model, residual_norms
from nas.proxies import Score, ScoringFailed

__all__ = ["Options", "Precision", "Recipe", "ShortTraining", "build", "faster_precision"]

Precision = Literal["fp32", "bf16"]

_RESOLUTION = 64
_VAL_LIMIT = 2048  # the standard error of an accuracy of 50 % is then 1.1 %
_CHECK_EVERY = 10  # steps between looks at the loss: each look waits for a GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a candidate is trained.

    Attributes:
        images: seen in training, counted with repetition, up to a whole number of batches.
        batch_size: images a step.
        learning_rate: at the top of the schedule.
        weight_decay: of matrices and kernels; norms, biases and scales have none.
        warmup: part of the steps in which the learning rate rises from 0; then it falls to 0 along a cosine.
        label_smoothing: share of the target that is spread over all classes.
        zero_branches: start the last norm of every residual branch at 0.
        precision: of matrix products and convolutions; weights, norms and the loss stay in fp32.
    """

    images: int = 4096
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.3
    label_smoothing: float = 0.1
    zero_branches: bool = True
    precision: Precision = "fp32"


_DEFAULT = Recipe()


class ShortTraining:
    """Trains and scores candidates on one set of images, all with the same recipe and the same order of images.

    Args:
        image_set: what to train on and what to score on; moved to `device` once, whole.
        recipe: how to train.
        seed: of the weights, the order of images and the augmentation.
        device: `cpu`, `cuda`, `cuda:1`, ...
    """

    def __init__(self, *, image_set: ImageSet, recipe: Recipe, seed: int, device: str) -> None:
        self._device = torch.device(device)
        self._images = image_set.to(self._device)
        self._recipe = recipe
        self._seed = seed
        self._batch_size = min(recipe.batch_size, len(image_set.train_labels))
        self._steps = math.ceil(recipe.images / self._batch_size)

    def settings(self) -> dict[str, Any]:
        """Recipe, data, seed, and where it ran: what `build` needs to do it again, and what explains a difference."""
        return {
            "proxy": "short-training",
            "data": self._images.description,
            "resolution": self._images.resolution,
            "seed": self._seed,
            **asdict(self._recipe),
            "device": str(self._device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def estimate_seconds(self, architecture: Architecture) -> float:
        """Median of three training steps and one validation batch, times how many there are."""
        with self._failures():
            network, optimizer = self._prepare(architecture)
            batches = training_batches(self._images, batch_size=self._batch_size, steps=4, seed=self._seed)
            seconds = self._timed(lambda: self._step(network, optimizer, *next(batches)), runs=4)
            network.eval()
            held_out = next(validation_batches(self._images, batch_size=self._val_batch_size))
            validation = self._timed(lambda: self._correct(network, *held_out), runs=2)
        share = len(self._images.val_labels) / len(held_out[1])
        return statistics.median(seconds[1:]) * self._steps + validation[-1] * share

    def score(self, architecture: Architecture) -> Score:
        """Train the network from scratch, then count how many held-out images it gets right.

        Raises:
            ScoringFailed: the loss is no longer a number, or memory ran out.
        """
        with self._failures():
            start = time.perf_counter()
            network, optimizer = self._prepare(architecture)
            loss = self._train(network, optimizer)
            trained = time.perf_counter()
            accuracy = self._accuracy(network)
            seconds = time.perf_counter() - start
        images = self._steps * self._batch_size
        return Score(
            value=accuracy,
            seconds=seconds,
            details={
                "images": images,
                "images_per_second": images / (trained - start),
                "training_loss": loss,
                "classes": self._images.num_classes,
                "val_images": len(self._images.val_labels),
                "validation_seconds": seconds - (trained - start),
            },
            # Trained in channels_last, which files do not have.
            weights={name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()},
        )

    def _prepare(self, architecture: Architecture) -> tuple[Network, torch.optim.Optimizer]:
        architecture = architecture.at(resolution=self._images.resolution, num_classes=self._images.num_classes)
        # Weights are drawn from torch's global generator; the caller gets it back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed)
            network = build_model(architecture)
        if self._recipe.zero_branches:
            for norm in residual_norms(network):
                nn.init.zeros_(norm.weight)
        network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        decayed = [weight for weight in network.parameters() if weight.squeeze().ndim > 1]
        others = [weight for weight in network.parameters() if weight.squeeze().ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self._recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return network, torch.optim.AdamW(groups, lr=0.0, fused=True)

    def _train(self, network: Network, optimizer: torch.optim.Optimizer) -> float:
        """Train for all steps; the mean loss of the last ones."""
        batches = training_batches(self._images, batch_size=self._batch_size, steps=self._steps, seed=self._seed)
        recent = []
        for step, (images, labels) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = self._recipe.learning_rate * _schedule(
                    (step + 1) / (self._steps + 1), self._recipe.warmup
                )
            recent.append(self._step(network, optimizer, images, labels))
            if len(recent) == _CHECK_EVERY or step + 1 == self._steps:
                loss = torch.stack(recent).mean().item()
                recent.clear()
                if not math.isfinite(loss):
                    raise ScoringFailed(
                        f"training diverged: the loss is {loss} after {(step + 1) * len(labels)} images"
                    )
        return loss

    def _step(
        self, network: Network, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """One update; the loss before it, not waited for."""
        with self._autocast():
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self._recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def _accuracy(self, network: Network) -> float:
        network.eval()
        batches = validation_batches(self._images, batch_size=self._val_batch_size)
        correct = torch.stack([self._correct(network, images, labels) for images, labels in batches]).sum().item()
        if correct < 0:
            raise ScoringFailed("training diverged: the outputs for held-out images are not numbers")
        return correct / len(self._images.val_labels)

    @torch.inference_mode()
    def _correct(self, network: Network, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """How many are right, far below zero if any output is not a number."""
        with self._autocast():
            logits = network(images)
        finite = logits.isfinite().all()
        return torch.where(finite, (logits.argmax(1) == labels).sum(), -(2**40))

    @property
    def _val_batch_size(self) -> int:
        return 4 * self._recipe.batch_size  # without gradients, in the memory of a training step

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._recipe.precision == "bf16")

    def _timed(self, action: Callable[[], object], *, runs: int) -> list[float]:
        return _timed(action, runs=runs, device=self._device)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Memory that runs out is the candidate's failure; anything else is a bug and passes."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            message = str(error).lower()
            if isinstance(error, RuntimeError) and not any(words in message for words in _MEMORY_WORDS):
                raise
            raise ScoringFailed(
                f"out of memory on {self._device} with {self._batch_size} images a step of {self._images.resolution} px"
            ) from error


class Options(Record):
    """What may be set.

    Attributes:
        images: how many to train on; more than the data has are repeated.
        resolution: height and width of the images in pixels.
        precision: of matrix products; the faster of the two, timed here, by default.
    """

    images: Annotated[int, Field(ge=1)] = _DEFAULT.images
    resolution: Annotated[int, Field(ge=32, multiple_of=32)] = _RESOLUTION
    precision: Precision | None = None


def build(
    *,
    data: str,
    seed: int,
    options: Options,
    device: str | None = None,
    progress: Progress | None = None,
) -> ShortTraining:
    """Load the data and settle on a device and a precision.

    Args:
        data: as `nas.data.load_images` takes it.
        seed: of weights, order of images, augmentation, and the choice of images.
        options: how to train.
        device: where to train; a GPU if there is one, by default.
        progress: told how far loading is.

    Raises:
        InputError: the data cannot be read, or the device cannot be used.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA fails an assertion
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}); try cpu") from error
    image_set = load_images(
        data,
        resolution=options.resolution,
        seed=seed,
        train_limit=options.images,
        val_limit=_VAL_LIMIT,
        progress=progress,
    )
    recipe = Recipe(images=options.images, precision=options.precision or faster_precision(device))
    return ShortTraining(image_set=image_set, recipe=recipe, seed=seed, device=device)


@functools.cache
def faster_precision(device: str) -> Precision:
    """The precision in which a small network trains faster on `device`; takes two seconds on two cores, once a process.

    Steps in fp32 and in bf16 take turns and the fastest of each count, so that a busy machine does not change the
    answer: a search is resumed in the precision in which it began.
    """
    conv = ConvSpec(kernel=7, expansion=4)
    attention = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=3)
    stages = tuple(StageSpec(channels=channels, blocks=(conv, attention)) for channels in (48, 96, 192, 384))
    with torch.random.fork_rng(devices=[]):
        network = build_model(Architecture(resolution=_RESOLUTION, num_classes=10, stages=stages))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(_DEFAULT.batch_size, 3, _RESOLUTION, _RESOLUTION, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def step(*, bf16: bool) -> None:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
            loss = network(images).float().sum()
        loss.backward()
        network.zero_grad()

    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(6):
        for bf16, taken in seconds.items():
            taken += _timed(functools.partial(step, bf16=bf16), runs=1, device=torch.device(device))
    return "bf16" if min(seconds[True]) < 0.97 * min(seconds[False]) else "fp32"


_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def _timed(action: Callable[[], object], *, runs: int, device: torch.device) -> list[float]:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def _schedule(done: float, warmup: float) -> float:
    """Share of the learning rate when `done` of all steps are done: up a line, down half a cosine."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
