"""Pictures of three classes, and how they are normalised."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nas.data import Normalisation

CLASSES = ("cat", "cow", "dog")
NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.25, 0.3, 0.2))
SIDE = 64


def draw_picture(width: int, height: int, *, seed: int) -> Image.Image:
    """Smooth colours with some noise, such as a photo has them."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(coarse).astype(int) + random.integers(-20, 21, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
