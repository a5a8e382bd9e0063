"""The supernet as a proxy: a candidate takes its part of trained weights, without training of its own.

Only the batch norm statistics are measured again for each candidate.

`nas supernet train` makes the file (nas/training/supernet.py).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from nas.data import ImageSet, Progress, fingerprint, load_images
from nas.errors import InputError
from nas.files import Record, digest
from nas.networks import Architecture
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
from nas.training import Supernet, Teacher, load_supernet
from nas.training.recipe import (
    Precision,
    calibrate_norms,
    calibration_batches,
    faster_precision,
    memory_failures,
    usable_device,
)

__all__ = ["InheritedWeights", "Options", "build", "score_pixels"]

_BATCH_SIZE = 128
_CALIBRATION_IMAGES = 1024
_VAL_LIMIT = 2048


class InheritedWeights:
    """Scores networks with the weights that they have in a supernet.

    Args:
        supernet: a trained supernet, on `device`.
        image_set: held-out images to score on, and training images for the batch norm statistics.
        source: path of the supernet's file; `{seed}` in the path stands for the seed.
        precision: number format of matrix products and convolutions.
        seed: random seed that chooses the images for the batch norm statistics.
        device: `cpu`, `cuda`, `cuda:1`, ...
        progress: called after every batch of a score.
    """

    def __init__(
        self,
        *,
        supernet: Supernet,
        image_set: ImageSet,
        source: Path,
        precision: Precision,
        seed: int,
        device: str,
        progress: Progress | None = None,
    ) -> None:
        self._supernet, self._source, self._precision, self._seed = supernet, source, precision, seed
        self._digest = digest(of_seed(source, seed))
        self._progress = progress or no_progress
        self._device = torch.device(device)
        self._data = data_settings(image_set)
        self._images = image_set.to(self._device)
        self._calibration = calibration_batches(self._images, images=_CALIBRATION_IMAGES, seed=seed)

    def settings(self) -> dict[str, Any]:
        """The supernet, data, seed and environment."""
        return {
            "proxy": "supernet",
            **self._data,
            **({"task": self._supernet.task} if self._images.has_masks else {}),
            "resolution": self._images.resolution,
            "seed": self._seed,
            "supernet": str(self._source),
            "digest": self._digest,
            **({"trained_for": self._supernet.limit} if self._supernet.limit else {}),
            **({"teacher": self._images.teacher} if self._images.teacher else {}),
            "calibration_images": sum(map(len, self._calibration)),
            "precision": self._precision,
            **circumstances(self._device),
        }

    def estimate_seconds(self, architecture: Architecture) -> float:
        """Seconds to score this network, measured by scoring it once."""
        return self.score(architecture).seconds

    def score(self, architecture: Architecture) -> Score:
        """Take the network's part of the weights, measure its batch norm statistics, and score the held-out images.

        Raises:
            ScoringFailed: the network does not fit into the supernet, its outputs are not finite, or memory ran out.
        """
        start = time.perf_counter()
        with memory_failures(
            f"{self._device} with {_BATCH_SIZE} images of {self._images.resolution} px", ScoringFailed
        ):
            try:
                network = self._supernet.network(architecture)
            except InputError as error:
                raise ScoringFailed(str(error)) from error
            calibrate_norms(network, self._calibration, precision=self._precision)
            seen = held_out(
                network,
                self._images,
                batch_size=_BATCH_SIZE,
                precision=self._precision,
                progress=self._progress,
            )
        return Score(
            value=seen.likelihood,
            seconds=time.perf_counter() - start,
            details=seen.details(self._images),
            # A network that classifies pixels is none that is exported: its decoder is the supernet's.
            weights=None if self._images.has_masks else portable_weights(network),
        )


class Options(Record):
    """Options of the supernet proxy.

    Attributes:
        supernet: file that `nas supernet train` wrote; required. `{seed}` in the path stands for the seed.
        precision: number format of matrix products. The default is the faster of fp32 and bf16, timed on this machine.
    """

    supernet: Path | None = None
    precision: Precision | None = None


def build(options: Options, inputs: Inputs) -> InheritedWeights:
    """Read the supernet, and the data at the supernet's resolution; its teacher labels them if it has one.

    Raises:
        InputError: no supernet is given, the supernet or the data cannot be read, their classes differ, the teacher is
            not installed, or the device cannot be used.
    """
    if options.supernet is None:
        raise InputError("--proxy supernet: give --supernet FILE; nas supernet train makes one")
    device, seed = usable_device(inputs.device), inputs.seed
    file = of_seed(options.supernet, seed)
    supernet = load_supernet(file, device=device)
    images = load_images(
        inputs.data,
        resolution=supernet.resolution,
        seed=seed,
        split_seed=supernet.seed,
        train_limit=_CALIBRATION_IMAGES,
        val_limit=_VAL_LIMIT,
        progress=inputs.progress,
    )
    if supernet.teacher:
        images = Teacher(supernet.teacher, device=device).labelled(images, progress=inputs.progress)
    check_images(supernet, file, images, inputs.data)
    return InheritedWeights(
        supernet=supernet,
        image_set=images,
        source=options.supernet,
        precision=options.precision or faster_precision(device),
        seed=seed,
        device=device,
        progress=inputs.progress,
    )


def score_pixels(
    supernet: Path,
    images: ImageSet,
    *,
    source: str,
    seed: int,
    device: str | None = None,
    progress: Progress | None = None,
) -> InheritedWeights:
    """The proxy for a supernet of the task `segment`, on pictures with masks.

    Args:
        supernet: its file.
        images: with masks.
        source: where they are from, in words.
        seed: chooses the images for the batch norm statistics.
        device: where to run; by default a GPU if there is one.
        progress: called after every batch of a score.
    Raises:
        InputError: the supernet cannot be read, is of another task, or of other classes or sizes.
    """
    device = usable_device(device)
    found = load_supernet(supernet, task="segment", device=device)
    check_images(found, supernet, images, source)
    if found.resolution != images.resolution:
        raise InputError(
            f"{supernet} was trained at {found.resolution} px, and these images are of {images.resolution}"
        )
    if found.fingerprint != fingerprint(images):  # With other pictures held out, some that it knows would judge it.
        raise InputError(
            f"{supernet} was trained on other pictures than {source} has now, or on another part of them: give the "
            f"pictures that it was trained on, and --seed {found.seed}"
        )
    return InheritedWeights(
        supernet=found,
        image_set=images,
        source=supernet,
        precision=faster_precision(device),
        seed=seed,
        device=device,
        progress=progress,
    )
