"""How a supernet is trained: the sandwich rule, a checkpoint every two minutes, one process or several.

Each step trains the largest network on the labels. Then it trains the smallest network and two random networks on the
largest network's predictions for the same images. This is the sandwich rule with in-place distillation
(arXiv:1903.05134). With a latency budget, only networks inside the budget are drawn, and the largest of 200 such
networks replaces the largest network of the space.
"""

from __future__ import annotations

import math
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from nas.data import ImageSet, training_batches
from nas.errors import BudgetError, InputError, NasError
from nas.networks import Architecture, Layer, SearchSpace, count, operations, random_choice
from nas.networks.modules import SharedWeights, inherit, load_donor, skeleton
from nas.training.recipe import (
    Optimizer,
    Precision,
    autocast,
    faster_precision,
    initial_network,
    memory_failures,
    schedule,
    timed,
    usable_device,
)
from nas.training.supernet import Origin, SupernetRecipe, checkpoint_path, read_supernet, write_supernet

__all__ = ["Limit", "TrainingProgress", "step_seconds", "train_supernet"]

T = TypeVar("T")
_CHECKPOINT_S = 120.0
_POOL = 200
_POOL_DRAWS = 100_000  # drawing them takes a minute or two
_STEP_DRAWS = 500
_TIMED_S, _TIMED_STEPS = 3.0, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A rule that restricts a supernet to some networks of its space.

    Attributes:
        admits: returns whether the supernet is for this network.
        words: the rule in words, such as "at most 1.1 ms under iphone13.coreml.fp16 (DIGEST)".
    """

    admits: Callable[[Architecture], bool]
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """Progress of a supernet's training: steps done and in total, and the last step's losses of two networks."""

    done: int
    steps: int
    largest: float
    smallest: float


def train_supernet(
    space: SearchSpace,
    image_set: ImageSet,
    path: Path,
    *,
    recipe: SupernetRecipe,
    seed: int,
    device: str | None = None,
    precision: Precision | None = None,
    init: Path | None = None,
    limit: Limit | None = None,
    on_progress: Callable[[TrainingProgress], None],
) -> Path:
    """Train a supernet for a space, and write it to `path`.

    A checkpoint beside `path` is saved every two minutes, and when the training is interrupted. The same call resumes
    from the checkpoint, in the same precision; the images may have moved, if their content is the same. Under torchrun
    every process trains on its own images, and the gradients are averaged. Only the first process writes.

    Args:
        space: search space of the networks to train.
        image_set: images to train on; their resolution becomes the supernet's resolution.
        path: file to write, .safetensors.
        recipe: how to train.
        seed: random seed of weights, networks, and the order of images.
        device: `cpu` or `cuda`; by default a GPU if there is one. Under torchrun each process uses its own GPU.
        precision: number format of matrix products and convolutions. The default is the faster of fp32 and bf16,
            timed on this machine.
        init: file of the weights to start from: an iFormer whose parameters have this project's, timm's or the authors'
            names.
        limit: restricts the training to some networks of the space; by default all are trained.
        on_progress: called after every step, in the first process.
    Raises:
        InputError: the file exists already or cannot be written, or its checkpoint belongs to another training.
        BudgetError: `limit` admits none of the randomly drawn networks.
        NasError: training diverged, or memory ran out.
    """
    if path.exists():
        raise InputError(f"{path} is there already; remove it or choose another --out")
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"{path}: its folder does not exist, or cannot be written to")
    rank, workers = _join()
    device = usable_device(device)
    if workers > 1 and device == "cuda":
        device = usable_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    target = torch.device(device)
    images = image_set.to(target)
    checkpoint = checkpoint_path(path)
    begun = read_supernet(checkpoint) if checkpoint.exists() else None
    if workers > 1:
        dist.barrier()  # Every process looks for the checkpoint before the first process may remove it.
    precision = _agreed(precision or (begun and begun[1].precision) or faster_precision(str(target)), target)
    origin = Origin.of(
        space,
        image_set,
        recipe=recipe,
        seed=seed,
        workers=workers,
        init=init,
        limit=limit.words if limit else None,
        precision=precision,
    )
    training = _Training(space, origin, target, init, limit)
    if begun is not None:
        training.resume(checkpoint, *begun)
        begun = None  # Free the memory: the checkpoint is as large as the training itself.
    steps = recipe.steps(workers=workers)
    saved, kept = time.monotonic(), training.done
    batches = training_batches(images, batch_size=recipe.batch_size, steps=steps, seed=seed * workers + rank, done=kept)
    try:
        for pictures, labels in batches:
            with memory_failures(_where(target, origin), NasError):
                losses = training.losses(pictures, labels)
                training.update(schedule((training.done + 1) / (steps + 1), warmup=recipe.warmup))
            if rank:
                continue
            on_progress(TrainingProgress(done=training.done, steps=steps, largest=losses[0], smallest=losses[1]))
            if time.monotonic() - saved > _CHECKPOINT_S:
                training.save(checkpoint)
                saved, kept = time.monotonic(), training.done
    except KeyboardInterrupt:
        if training.done > kept and not rank:
            training.save(checkpoint)
        raise
    if not rank:
        write_supernet(path, training.weights.tensors, origin)
        checkpoint.unlink(missing_ok=True)
    if workers > 1:
        dist.barrier()
        dist.destroy_process_group()
    return path


def step_seconds(
    space: SearchSpace,
    image_set: ImageSet,
    *,
    recipe: SupernetRecipe,
    seed: int,
    device: str | None = None,
    precision: Precision | None = None,
    limit: Limit | None = None,
) -> float:
    """Seconds that one step of `train_supernet` with these arguments takes in one process, measured on this machine.

    After one pass for warm-up, which is a third slower, as many steps are timed as begin within three seconds, at most
    8; their median is returned. For the iFormer space at 64 px that took 18 s on one thread of a busy machine. The
    exceptions are those of `train_supernet`.
    """
    target = torch.device(usable_device(device))
    precision = precision or faster_precision(str(target))
    origin = Origin.of(space, image_set, recipe=recipe, seed=seed, precision=precision)
    training = _Training(space, origin, target, None, limit)
    images, steps = image_set.to(target), 1 + _TIMED_STEPS
    batches = training_batches(images, batch_size=recipe.batch_size, steps=steps, seed=seed)

    def step() -> None:
        training.losses(*next(batches))
        training.update(share=0.0)

    seconds: list[float] = []
    with memory_failures(_where(target, origin), NasError):
        training.losses(*next(batches))
        while len(seconds) < _TIMED_STEPS and sum(seconds) < _TIMED_S:
            seconds += timed(step, runs=1, device=target)
    return statistics.median(seconds)


def _where(device: torch.device, origin: Origin) -> str:
    """Where memory ran out, and what to do, for the message."""
    sizes = f"{origin.recipe.batch_size} images a step of {origin.resolution} px"
    return f"{device} with {sizes}; try a smaller --batch-size"


class _Training:
    """Weights and optimizer of a supernet during training, and the number of steps done."""

    def __init__(
        self,
        space: SearchSpace,
        origin: Origin,
        device: torch.device,
        init: Path | None,
        limit: Limit | None,
    ) -> None:
        self._space, self._origin, self._device = space, origin, device
        self.done = 0
        recipe = origin.recipe
        sizes = {"resolution": origin.resolution, "num_classes": origin.num_classes}
        kinds: set[str] = {
            kind for stage in space.stages if any(stage.attention.depth) for kind in stage.attention.kind
        }
        largest = [_largest(space, kind).at(**sizes) for kind in sorted(kinds) or ["none"]]
        networks = [initial_network(network, seed=origin.seed) for network in largest]
        if init is not None:
            donor = load_donor(init, space.references | SearchSpace.find("iformer").references)
            for network in networks:
                inherit(network, donor)
        weights = SharedWeights.holding(networks)
        self.weights = SharedWeights(
            {name: nn.Parameter(_laid_out(tensor.to(device))) for name, tensor in weights.tensors.items()}
        )
        self._optimizer = Optimizer(
            self.weights.tensors.values(),
            matrix_rate=recipe.matrix_rate,
            rate=recipe.rate,
            weight_decay=recipe.weight_decay,
        )
        self._limit, self._sizes = limit, sizes
        self._pool = self._wanted(seed=-1, number=_POOL, draws=_POOL_DRAWS) if limit else []
        if limit and not self._pool:
            raise BudgetError(f"of {_POOL_DRAWS} random networks of the space none is {limit.words}")
        teacher = max(self._pool, key=lambda network: count(network).macs, default=largest[-1])
        self._ends = (teacher, space.extreme(_macs).at(**sizes))

    def losses(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Add up the gradients of all networks of the sandwich; return the losses of the largest and the smallest."""
        recipe = self._origin.recipe
        drawn = self._drawn(seed=self.done, number=recipe.random_networks)
        logits = self._logits(self._ends[0], images)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        told = logits.detach().softmax(1)
        losses = [loss.item()]
        for architecture in (self._ends[1], *drawn):
            loss = F.cross_entropy(self._logits(architecture, images), told)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
        if not all(map(math.isfinite, losses)):
            raise NasError(
                f"training diverged in step {self.done + 1}: the losses are {losses}; remove the checkpoint, "
                "and try another --seed or a larger --batch-size"
            )
        return losses[0], losses[1]

    def update(self, share: float) -> None:
        """Update the weights by the mean gradients of all processes, with `share` of the learning rates."""
        self._average()
        with _uninterrupted():  # A training cannot resume from weights that are only partly updated.
            self._optimizer.step(share)
            self.done += 1

    def _drawn(self, *, seed: int, number: int) -> list[Architecture]:
        """Random networks of the space that the limit admits; the same networks in every process."""
        fresh = self._wanted(seed=seed, number=number, draws=_STEP_DRAWS * number)
        missing = number - len(fresh)
        return fresh + random.Random(seed).choices(self._pool, k=missing) if missing else fresh

    def _wanted(self, *, seed: int, number: int, draws: int) -> list[Architecture]:
        choose = random_choice(seed=self._origin.seed * 1_000_003 + seed)
        sampled = (self._space.sample(choose) for _ in range(draws))
        wanted = (network for network in sampled if self._limit is None or self._limit.admits(network))
        return [network.at(**self._sizes) for network in islice(wanted, number)]

    def _logits(self, architecture: Architecture, images: Tensor) -> Tensor:
        network = skeleton(architecture)
        with autocast(self._device, self._origin.precision or "fp32"):
            logits: Tensor = functional_call(network, self.weights.part(network), (images,))
        return logits.float()

    def _average(self) -> None:
        """Replace the gradients of every process by their mean over all processes."""
        if not dist.is_initialized():
            return
        for tensor in self.weights.tensors.values():
            if tensor.grad is not None:
                dist.all_reduce(tensor.grad)
                tensor.grad /= dist.get_world_size()

    def save(self, path: Path) -> None:
        """Save everything that the next step needs."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.tensors.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self._optimizer.state().items()}
        write_supernet(path, tensors, self._origin, done=self.done)

    def resume(self, path: Path, tensors: Mapping[str, Tensor], origin: Origin, done: int) -> None:
        """Resume from a checkpoint, as `read_supernet` returns it."""
        if differing := self._origin.differing(origin):
            raise InputError(
                f"{path} is of a training with another {', '.join(differing)}: repeat its options, "
                "or remove it to begin anew"
            )
        self.done = done
        with torch.no_grad():
            for name, tensor in self.weights.tensors.items():
                tensor.copy_(tensors[f"weights/{name}"])
        own = (name for name in tensors if name.startswith("optimizer/"))
        self._optimizer.load({name.removeprefix("optimizer/"): tensors[name] for name in own})


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay SIGINT (Ctrl-C) and SIGTERM (sent by `kill`) until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # Only the main thread handles signals.
        yield
        return
    arrived: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])


def _join() -> tuple[int, int]:
    """Join the process group of torchrun and return this process's rank and the number of processes.

    Without torchrun these are 0 and 1.
    """
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    if workers == 1:
        return 0, 1
    if missing := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise InputError(f"WORLD_SIZE is {workers}, and {min(missing)} is not set: start the processes with torchrun")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), workers


def _agreed(precision: Precision, device: torch.device) -> Precision:
    """The precision that the first process chose, for all processes."""
    if not dist.is_initialized():
        return precision
    choice = torch.tensor(precision == "bf16", dtype=torch.int64, device=device)
    dist.broadcast(choice, 0)
    return "bf16" if choice.item() else "fp32"


def _largest(space: SearchSpace, kind: str) -> Architecture:
    """The network whose every tensor has the largest size, with attention of `kind` wherever the space allows it."""

    def choose(name: str, options: Sequence[T]) -> T:
        if name.endswith("attention.kind"):
            return next((option for option in options if option == kind), options[0])
        if name.endswith("placement"):
            return options[0]
        if name.endswith(("query_reduction", "head_channels")):
            return min(options)  # type: ignore[type-var]
        return max(options)  # type: ignore[type-var]

    return space.sample(choose)


def _macs(layer: Layer) -> float:
    return sum(operation.macs for operation in operations(layer))


def _laid_out(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor.contiguous()
