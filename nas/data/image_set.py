"""A set of images as bytes, and its batches: whole tensors are augmented and normalised at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from nas.files import digest_of

if TYPE_CHECKING:
    import torch

    from nas.data.contents import Contents

__all__ = [
    "MASK_STRIDE",
    "UNKNOWN",
    "ImageSet",
    "channel_statistics",
    "fingerprint",
    "middle_pixels",
    "training_batches",
    "validation_batches",
]

UNKNOWN = 255  # in masks: pixels that are neither learnt nor counted
MASK_STRIDE = 4  # of the pixels whose classes a batch has; they are the middle ones of squares
_MIDDLE = slice(MASK_STRIDE // 2, None, MASK_STRIDE)
_IGNORED = -100  # of such pixels in a batch, as torch's cross-entropy expects it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class ImageSet:
    """Training images and held-out images, all of the same size, as bytes.

    Attributes:
        train_images: (N, 3, H, H) uint8.
        train_labels: (N,) int64, indices into `class_names`; with a teacher (N, classes) float32, probabilities; masks
            are (N, H, H) uint8, with `UNKNOWN` where nothing is known.
        val_images: (M, 3, H, H) uint8, never trained on.
        val_labels: (M,) int64, (M, classes) float32, or (M, H, H) uint8.
        class_names: one name per class.
        description: the source and what was taken from it, in words.
        mean: mean of each channel over the training images, in 0..1.
        std: standard deviation of each channel over the training images, in 0..1.
        teacher: name of the network that gave the labels (nas/training/teacher.py); None for the images' own labels.
        contents: all images of the source, of which these may be a part; None if there is no source.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    val_images: torch.Tensor
    val_labels: torch.Tensor
    class_names: tuple[str, ...]
    description: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    teacher: str | None = None
    contents: Contents | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def has_masks(self) -> bool:
        """Whether pixels are labelled, not images."""
        return self.train_labels.ndim > 2

    @property
    def resolution(self) -> int:
        """Height and width of every image in pixels."""
        return self.train_images.shape[-1]

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with all its tensors on `device`; batches are then made on that device."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            val_images=self.val_images.to(device),
            val_labels=self.val_labels.to(device),
        )


_FINGERPRINTS: WeakKeyDictionary[ImageSet, str] = WeakKeyDictionary()


def fingerprint(image_set: ImageSet) -> str:
    """Digest of the content: class names, labels, and the size and bytes of the images of both splits.

    The description, and with it the path of the source, does not matter: a copy of a folder has the same fingerprint.
    The name of a teacher stands for its labels, which follow from the images, but not to the last bit everywhere.
    The first call for a set reads all its images: 25,000 of 64 px (307 MB) take 0.25 s on one thread of an AMD EPYC.
    """
    if known := _FINGERPRINTS.get(image_set):
        return known
    parts = [image_set.train_images, image_set.train_labels, image_set.val_images, image_set.val_labels]
    if image_set.teacher:
        parts = [image_set.train_images, image_set.val_images]
    digests = [(list(part.shape), hashlib.sha256(part.cpu().contiguous().numpy().data).hexdigest()) for part in parts]
    words = [image_set.teacher] if image_set.teacher else []
    return _FINGERPRINTS.setdefault(image_set, digest_of(json.dumps([image_set.class_names, digests, *words])))


def training_batches(
    image_set: ImageSet, *, batch_size: int, steps: int, seed: int, done: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `steps` batches of shuffled, shifted and mirrored training images, normalised, with their labels.

    The first `done` batches are left out, for a training that resumes.

    Every image is seen once before any image is seen again. Each image is shifted by up to a sixteenth of its size in
    each direction (reflected at the border) and mirrored with probability 1/2, independently of the other images. This
    runs on the device of the set. Images are float32 (B, 3, H, H) in channels_last. The same seed gives the same
    batches on every device. Masks are changed as their images are, and become int64 (B, H/4, H/4), with -100 where
    nothing is known.
    """
    import torch

    # B batch, S resolution
    images, labels = image_set.train_images, image_set.train_labels
    device, size, reach = images.device, image_set.resolution, max(1, image_set.resolution // 16)
    random = torch.Generator().manual_seed(seed)
    passes = -(-steps * batch_size // len(images))
    # Drawn on the CPU for the whole run at once: equal on every device, and no copy or wait inside the loop.
    order = torch.cat([torch.randperm(len(images), generator=random) for _ in range(passes)]).to(device)
    count = steps * batch_size
    shifts = torch.randint(-reach, reach + 1, (2, count), generator=random).to(device)
    mirrored = (torch.rand(count, generator=random) < 0.5).to(device)
    normalise = _Normalise(image_set)
    pixels = torch.arange(size, device=device)
    for start in range(done * batch_size, count, batch_size):
        batch = slice(start, start + batch_size)
        index = order[batch]
        rows = _reflect(pixels + shifts[0, batch, None], size)  # (B, S)
        columns = _reflect(pixels + shifts[1, batch, None], size)  # (B, S)
        columns = torch.where(mirrored[batch, None], columns.flip(1), columns)
        # Index tensors around a slice put the slice last: (B, S, S, 3). Permuted to (B, 3, S, S), it is channels_last.
        taken = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if image_set.has_masks:
            pixel_rows, pixel_columns = (places[:, _MIDDLE] for places in (rows, columns))
            masks = labels[index[:, None, None], pixel_rows[:, :, None], pixel_columns[:, None, :]]
            yield normalise(taken), _classes(masks)
        else:
            yield normalise(taken), labels[index]


def validation_batches(image_set: ImageSet, *, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the validation images once, in order, normalised and in channels_last, with their labels."""
    import torch

    normalise = _Normalise(image_set)
    for start in range(0, len(image_set.val_labels), batch_size):
        batch = slice(start, start + batch_size)
        images = image_set.val_images[batch].contiguous(memory_format=torch.channels_last)
        labels = image_set.val_labels[batch]
        if image_set.has_masks:
            labels = _classes(middle_pixels(labels))
        yield normalise(images), labels


class _Normalise:
    """Convert bytes to floats with mean 0 and standard deviation 1 per channel over the training set."""

    def __init__(self, image_set: ImageSet) -> None:
        import torch

        device = image_set.train_images.device
        std = torch.tensor(image_set.std, device=device).clamp(min=1 / 255)  # a channel may be constant
        self._scale = (1 / (255 * std)).view(1, 3, 1, 1)
        self._offset = (-torch.tensor(image_set.mean, device=device) / std).view(1, 3, 1, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mul_(self._scale).add_(self._offset)


def middle_pixels(masks: torch.Tensor) -> torch.Tensor:
    """The pixels of masks (N, H, W) whose classes a batch has, (N, H/4, W/4)."""
    return masks[:, _MIDDLE, _MIDDLE]


def _classes(masks: torch.Tensor) -> torch.Tensor:
    return masks.long().masked_fill_(masks == UNKNOWN, _IGNORED)


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror positions at the border pixels, such as -1 -> 1, -2 -> 2 and size -> size - 2."""
    index = index.abs()
    return (size - 1) - ((size - 1) - index).abs()


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel in 0..1, computed from exact counts of each value."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(images), 1024):
        for channel in range(3):
            counts[channel] += np.bincount(images[start : start + 1024, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    std = np.sqrt(np.maximum(counts @ values**2 / counts.sum(axis=1) - mean**2, 0))
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))
