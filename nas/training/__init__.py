"""How anything here is trained.

recipe.py has what all trainings share: first weights, optimizer, schedule, device and number formats. supernet.py is
what a supernet is, and sandwich.py how one is trained.
"""

from __future__ import annotations

from nas.training.recipe import (
    Optimizer,
    Precision,
    autocast,
    batch_norms,
    calibrate_norms,
    calibration_batches,
    faster_precision,
    initial_network,
    memory_failures,
    schedule,
    seeded_network,
    timed,
    usable_device,
)
from nas.training.sandwich import Limit, TrainingProgress, train_supernet
from nas.training.supernet import Supernet, SupernetRecipe, is_supernet, load_supernet

__all__ = [
    "Limit",
    "Optimizer",
    "Precision",
    "Supernet",
    "SupernetRecipe",
    "TrainingProgress",
    "autocast",
    "batch_norms",
    "calibrate_norms",
    "calibration_batches",
    "faster_precision",
    "initial_network",
    "is_supernet",
    "load_supernet",
    "memory_failures",
    "schedule",
    "seeded_network",
    "timed",
    "train_supernet",
    "usable_device",
]
