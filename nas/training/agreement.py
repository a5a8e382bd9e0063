"""How far the classes of pixels that a network finds agree with those of masks."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.data import UNKNOWN

__all__ = ["agreement", "confusion"]


def confusion(truth: Tensor, found: Tensor, classes: int) -> Tensor:
    """How many pixels of each class (rows) are found to be of each class (columns).

    Pixels whose truth is the number of no class, or 255 as in masks, are left out.
    """
    truth = truth.long()  # A byte cannot be compared with 256.
    known = (truth >= 0) & (truth < classes) & (truth != UNKNOWN)
    pairs = truth[known] * classes + found[known]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def agreement(counts: Tensor) -> dict[str, float]:
    """Figures of a confusion: mean IoU and accuracy of the classes that are there or found, and of all pixels."""
    right, truth, found = counts.diag().double(), counts.sum(1).double(), counts.sum(0).double()
    union = truth + found - right
    iou, accuracy = right[union > 0] / union[union > 0], right[truth > 0] / truth[truth > 0]
    return {
        "miou": float(iou.mean()),
        "class_accuracy": float(accuracy.mean()),
        "pixel_accuracy": float(right.sum() / truth.sum()),
    }
