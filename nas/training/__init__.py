"""How anything here is trained.

recipe.py has what all trainings share: first weights, optimizer, schedule, device and number formats. Import these by
file. supernet.py is what a supernet is, and sandwich.py how one is trained.
"""

from __future__ import annotations

from nas.training.sandwich import Limit, TrainingProgress, train_supernet
from nas.training.supernet import Supernet, SupernetRecipe, is_supernet, load_supernet

__all__ = [
    "Limit",
    "Supernet",
    "SupernetRecipe",
    "TrainingProgress",
    "is_supernet",
    "load_supernet",
    "train_supernet",
]
