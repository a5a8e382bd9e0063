"""Where nas keeps the supernets that it trains by itself: in the cache, found again by all that they depend on.

The file's name is a digest of the space, the content of the images, the seed, the recipe and the limit. Number format
and device are not part of it: they change how long a training takes, and the weights by no more than rounding.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nas.data import ImageSet, fingerprint
from nas.errors import InputError
from nas.files import cache_folder, digest_of, take_lock, unwritten
from nas.networks import SearchSpace
from nas.training.sandwich import TrainingProgress, step_seconds, train_supernet
from nas.training.step import Limit
from nas.training.supernet import Origin, SupernetRecipe, checkpoint_path, is_supernet, read_origin

__all__ = ["estimate_seconds", "find_supernet", "kept_supernet", "kept_supernets"]

_FORMAT = 1  # part of every name; increase it when the same settings give other weights
_PART = "supernets"


def kept_supernet(
    space: SearchSpace,
    image_set: ImageSet,
    *,
    recipe: SupernetRecipe,
    seed: int,
    device: str | None = None,
    limit: Limit | None = None,
    on_progress: Callable[[TrainingProgress], None],
    on_wait: Callable[[], None] | None = None,
) -> Path:
    """The file of the supernet with these settings: the one that is kept, or else a new one, trained now.

    A training that was stopped goes on from its checkpoint. While another process trains the same supernet, this one
    waits for it. If that process ends early, this one goes on in its place.

    Args:
        space: search space of the networks to train.
        image_set: images to train on. A copy of the same images at another path has the same supernet.
        recipe: how to train.
        seed: random seed of weights, networks, and the order of images.
        device: `cpu` or `cuda`; by default a GPU if there is one.
        limit: restricts the training to some networks of the space; by default all are trained.
        on_progress: called after every step; not called if the supernet is there already.
        on_wait: called once if another process trains this supernet, before waiting for it.
    Raises:
        InputError: the cache cannot be written, the device cannot be used, or torchrun started this process.
        BudgetError: `limit` admits none of the randomly drawn networks.
        NasError: training diverged, or memory ran out.
    """
    path = _place(space, image_set, recipe, seed, limit)
    if _is_there(path):
        return path
    if os.environ.get("WORLD_SIZE", "1") != "1":  # Processes that wait for each other here would never train together.
        raise InputError("under torchrun only nas supernet train trains a supernet; give its file with --supernet")
    cache_folder(_PART, keeps="supernets")
    with _alone(path.with_suffix(".lock"), on_wait):
        if not is_supernet(path):  # Another process may have finished it in the meantime.
            path.unlink(missing_ok=True)  # a file that is damaged
            train_supernet(
                space,
                image_set,
                path,
                recipe=recipe,
                seed=seed,
                device=device,
                limit=limit,
                on_progress=on_progress,
            )
    return path


def find_supernet(
    space: SearchSpace, image_set: ImageSet, *, recipe: SupernetRecipe, seed: int, limit: Limit | None = None
) -> Path | None:
    """The file that `kept_supernet` would return at once; None if it would have to train."""
    path = _place(space, image_set, recipe, seed, limit)
    return path if _is_there(path) else None


def kept_supernets() -> list[tuple[Path, Origin | InputError]]:
    """The finished supernets of the cache with what each was trained for, or why it cannot be read; newest first."""

    def origin(path: Path) -> Origin | InputError:
        try:
            return read_origin(path)[0]
        except InputError as error:
            return error

    paths = sorted(cache_folder(_PART).glob("*.safetensors"), key=lambda path: -path.stat().st_mtime)
    return [(path, origin(path)) for path in paths]


def estimate_seconds(
    space: SearchSpace,
    image_set: ImageSet,
    *,
    recipes: Sequence[SupernetRecipe],
    seed: int,
    device: str | None = None,
    limit: Limit | None = None,
) -> list[float]:
    """How long `kept_supernet` would train at most by each recipe: the missing steps, times that of a step.

    The time of a step is measured here, once (`step_seconds`), so the recipes must be alike but for their length. 0 for
    a supernet that is there. The steps of a checkpoint are not missing.

    Raises:
        InputError: the device cannot be used, or a checkpoint cannot be read.
        BudgetError: `limit` admits none of the randomly drawn networks.
        NasError: memory ran out.
    """
    missing, precision = [], None
    for recipe in recipes:
        path, done = _place(space, image_set, recipe, seed, limit), 0
        if checkpoint_path(path).exists():
            origin, done = read_origin(checkpoint_path(path))
            precision = precision or origin.precision
        missing.append(0 if is_supernet(path) else recipe.steps() - done)
    if not any(missing):
        return [0.0 for _ in missing]
    step_s = step_seconds(
        space, image_set, recipe=recipes[0], seed=seed, device=device, precision=precision, limit=limit
    )
    return [steps * step_s for steps in missing]


def _is_there(path: Path) -> bool:
    """Whether a training is finished. A process that was killed right after that left its checkpoint, which goes."""
    if not is_supernet(path):
        return False
    with suppress(OSError):
        checkpoint_path(path).unlink()
    return True


def _place(space: SearchSpace, image_set: ImageSet, recipe: SupernetRecipe, seed: int, limit: Limit | None) -> Path:
    """Where the supernet with these settings is kept, whether it is there or not."""
    words = limit.words if limit else None
    key = json.dumps([_FORMAT, space.digest, fingerprint(image_set), seed, recipe.model_dump(), words])
    return cache_folder(_PART) / f"{digest_of(key)}.safetensors"


@contextmanager
def _alone(lock: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Let one process at a time into the block, and call `on_wait` if this one has to wait.

    The system takes the lock from a process that ends, however it ends. The empty file stays. Where the disk has no
    locks, nobody waits.
    """
    while True:
        try:
            file = lock.open("w")
        except OSError as error:
            raise unwritten(lock, error) from error
        with file:
            state = take_lock(file.fileno(), lock)
            if state == "in use":
                if on_wait:
                    on_wait()
                    on_wait = None
                state = take_lock(file.fileno(), lock, wait_s=math.inf)
            if state == "gone":  # Somebody emptied the cache.
                continue
            yield
            return
