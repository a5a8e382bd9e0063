"""How networks and supernets are trained.

recipe.py has what all trainings share: initial weights, optimizer, schedule, device and number formats. Import these
from nas.training.recipe. supernet.py defines what a supernet is, sandwich.py trains one
step by step (step.py), and kept.py keeps those that
nas trains by itself. teacher.py labels images by a published network.
"""

from __future__ import annotations

from nas.training.kept import estimate_seconds, find_supernet, kept_supernet, kept_supernets
from nas.training.sandwich import TrainingProgress, train_supernet
from nas.training.step import Limit
from nas.training.supernet import Supernet, SupernetRecipe, is_supernet, load_supernet
from nas.training.teacher import Teacher

__all__ = [
    "Limit",
    "Supernet",
    "SupernetRecipe",
    "Teacher",
    "TrainingProgress",
    "estimate_seconds",
    "find_supernet",
    "is_supernet",
    "kept_supernet",
    "kept_supernets",
    "load_supernet",
    "train_supernet",
]
