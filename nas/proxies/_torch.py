"""What proxies share that run networks in torch: where to run, which failures are the candidate's own, and accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nas.data import ImageSet, validation_batches
from nas.errors import InputError
from nas.model import Network
from nas.proxies import ScoringFailed
from nas.training import Precision, autocast

__all__ = ["accuracy", "correct", "memory_failures", "usable_device"]

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def usable_device(device: str | None) -> str:
    """The device asked for, tried; by default a GPU if there is one.

    Raises:
        InputError: it cannot be used.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA fails an assertion
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}); try cpu") from error
    return device


@contextmanager
def memory_failures(where: str) -> Iterator[None]:
    """Memory that runs out is the candidate's failure; anything else is a bug and passes.

    Args:
        where: device and sizes, to end the sentence "out of memory on".
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        message = str(error).lower()
        if isinstance(error, RuntimeError) and not any(words in message for words in _MEMORY_WORDS):
            raise
        raise ScoringFailed(f"out of memory on {where}") from error


def accuracy(network: Network, image_set: ImageSet, *, batch_size: int, precision: Precision) -> float:
    """Share of the held-out images that the network gets right, in eval mode.

    Raises:
        ScoringFailed: an output is not a number.
    """
    network.eval()
    batches = validation_batches(image_set, batch_size=batch_size)
    right = torch.stack([correct(network, images, labels, precision=precision) for images, labels in batches])
    if (total := right.sum().item()) < 0:
        raise ScoringFailed("training diverged: the outputs for held-out images are not numbers")
    return total / len(image_set.val_labels)


@torch.inference_mode()
def correct(network: Network, images: torch.Tensor, labels: torch.Tensor, *, precision: Precision) -> torch.Tensor:
    """How many images of a batch are right, far below zero if any output is not a number."""
    with autocast(images.device, precision):
        logits = network(images)
    finite = logits.isfinite().all()
    return torch.where(finite, (logits.argmax(1) == labels).sum(), -(2**40))
