"""How a supernet is trained: step after step (step.py), a checkpoint every two minutes, one process or several."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from nas.data import ImageSet, training_batches
from nas.errors import InputError, NasError
from nas.networks import SearchSpace
from nas.training.processes import agreed, join, of_the_first
from nas.training.recipe import Precision, faster_precision, memory_failures, timed, usable_device
from nas.training.step import Limit, Sandwich
from nas.training.supernet import (
    Origin,
    SupernetRecipe,
    checkpoint_path,
    is_supernet,
    read_origin,
    read_supernet,
    write_supernet,
)

__all__ = ["TrainingProgress", "step_seconds", "train_supernet"]

_CHECKPOINT_S = 120.0
_TIMED_S, _TIMED_STEPS = 3.0, 8
_LOOK_STEPS = 25  # between two looks at the held-out images; a look takes as long as a step or two


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """Progress of a supernet's training.

    Attributes:
        done: steps done.
        steps: steps in all; fewer if the training ends early.
        largest: loss of the largest network in the last step.
        smallest: loss of the smallest network in the last step.
        learnt_nats: what the largest network knew about the held-out labels at the last look (`SupernetRecipe.until`);
            None before the first.
    """

    done: int
    steps: int
    largest: float
    smallest: float
    learnt_nats: float | None = None


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
    weights_key: str | None = None,
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
        weights_key: which weights of `init` to take, if the file has several; without it the averaged ones.
        limit: restricts the training to some networks of the space; by default all are trained.
        on_progress: called after every step, in the first process.
    Raises:
        InputError: the file exists already or cannot be written, or its checkpoint belongs to another training.
        BudgetError: `limit` admits none of the randomly drawn networks.
        NasError: training diverged, or memory ran out.
    """
    if path.exists():
        _drop_checkpoint_of(path)
        raise InputError(f"{path} is there already; remove it or choose another --out")
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"{path}: its folder does not exist, or cannot be written to")
    rank, workers = join()
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
    precision = agreed(precision or (begun and begun[1].precision) or faster_precision(str(target)), target)
    origin = Origin.of(
        space,
        image_set,
        recipe=recipe,
        seed=seed,
        workers=workers,
        init=init,
        weights_key=weights_key,
        limit=limit.words if limit else None,
        precision=precision,
    )
    training = Sandwich(space, origin, target, init, limit, weights_key=weights_key)
    if begun is not None:
        training.resume(checkpoint, *begun)
        begun = None  # Free the memory: the checkpoint is as large as the training itself.
    steps = recipe.steps(workers=workers)
    saved, kept = time.monotonic(), training.done
    learnt: float | None = None
    knows_enough = False
    batches = training_batches(images, batch_size=recipe.batch_size, steps=steps, seed=seed * workers + rank, done=kept)
    try:
        for pictures, labels in batches:
            with memory_failures(_where(target, origin), NasError):
                losses = training.losses(pictures, labels)
                training.update(recipe.rates(training.done, steps=steps))
            if recipe.until is not None and training.done % _LOOK_STEPS == 0:
                with memory_failures(_where(target, origin), NasError):
                    learnt, learnable = (of_the_first(nats, target) for nats in training.learnt_nats(images))
                knows_enough = learnt >= min(recipe.until, learnable / 2)
            if not rank:
                on_progress(
                    TrainingProgress(
                        done=training.done, steps=steps, largest=losses[0], smallest=losses[1], learnt_nats=learnt
                    )
                )
            if knows_enough:
                break
            if rank:
                continue
            if time.monotonic() - saved > _CHECKPOINT_S:
                training.save(checkpoint)
                saved, kept = time.monotonic(), training.done
    except KeyboardInterrupt as stopped:
        if training.done > kept and not rank:
            try:
                training.save(checkpoint)
            except NasError as failure:  # A full disk makes no failure of a stop; the command line shows the note.
                stopped.add_note(str(failure))
        raise
    if not rank:
        write_supernet(path, training.result, origin)
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
    training = Sandwich(space, origin, target, None, limit)
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


def _drop_checkpoint_of(path: Path) -> None:
    """Remove the checkpoint that a process left which was killed right after it had written `path`."""
    checkpoint = checkpoint_path(path)
    with suppress(InputError, OSError):
        if is_supernet(path) and is_supernet(checkpoint) and read_origin(path)[0] == read_origin(checkpoint)[0]:
            checkpoint.unlink()


def _where(device: torch.device, origin: Origin) -> str:
    """Where memory ran out, and what to do, for the message."""
    sizes = f"{origin.recipe.batch_size} images a step of {origin.resolution} px"
    return f"{device} with {sizes}; try a smaller --batch-size"
