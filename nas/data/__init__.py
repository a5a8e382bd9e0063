"""Images for proxy training: read from anywhere, decoded once, returned as augmented batches of tensors.

A source is the word `synthetic`, a folder of class folders, Parquet files in the Hugging Face image convention,
WebDataset shards, or the name of a data set on the Hugging Face hub. All sources except `synthetic` are decoded once.
The decoded bytes are cached under `$NAS_CACHE` (default `~/.cache/nas`) and memory-mapped from there.

Examples:
    >>> image_set = load_images("synthetic", resolution=32, seed=0, train_limit=64, val_limit=32)
    >>> image_set.description
    'synthetic, seed 0: 64 train and 32 val images of 20 classes at 32 px'
    >>> images, labels = next(training_batches(image_set, batch_size=16, steps=4, seed=0))
    >>> images.shape, images.dtype, labels.shape
    (torch.Size([16, 3, 32, 32]), torch.float32, torch.Size([16]))
"""

from __future__ import annotations

from nas.data.contents import Contents
from nas.data.image_set import UNKNOWN, ImageSet, fingerprint, training_batches, validation_batches
from nas.data.load import load_images
from nas.data.normalisation import Normalisation
from nas.data.rows import Progress
from nas.data.sources import DataSource

__all__ = [
    "UNKNOWN",
    "Contents",
    "DataSource",
    "ImageSet",
    "Normalisation",
    "Progress",
    "fingerprint",
    "load_images",
    "training_batches",
    "validation_batches",
]
