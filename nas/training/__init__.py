"""How networks and supernets are trained.

recipe.py has what all trainings share: initial weights, optimizer, schedule, device and number formats. Import these
from nas.training.recipe. supernet.py defines what a supernet is, and sandwich.py trains a supernet.
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
