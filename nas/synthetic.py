"""Pictures made by the project itself: a task for proxy training that needs no download. No torch.

Each picture shows textured discs on a coloured background; the class says which texture is above which. Textures are
fine (waves of four to six pixels) and equal in mean and contrast, so a blurred view cannot tell them apart; which
textures are present says too little without where they are, so a bag of local features cannot either. Colours,
positions and sizes say nothing, and a mirrored picture keeps its class. tests/benchmarks/bench_short_training.py
measures both needs.

Only integers are computed, from the raw stream of PCG64 (which numpy promises never to change, NEP 19): equal seeds
give equal bytes on every machine.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["CLASS_NAMES", "synthetic_images"]

_TEXTURES = ("flat", "upright", "slanted", "checks", "dots")
_PAIRS = tuple(itertools.permutations(range(len(_TEXTURES)), 2))

CLASS_NAMES = tuple(f"{_TEXTURES[upper]} above {_TEXTURES[lower]}" for upper, lower in _PAIRS)

_CHUNK = (
    256  # pictures drawn at once: the working set stays in the cache, and a shorter set is a prefix of a longer one
)

_Integers = npt.NDArray[np.int32]

# One wave in 256 steps, amplitude 127. Rounding hides the last bits in which cosines of two machines may differ.
_WAVE: _Integers = np.array([round(127 * math.cos(2 * math.pi * step / 256)) for step in range(256)], dtype=np.int32)


def synthetic_images(*, count: int, resolution: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draw `count` pictures and their classes: (count, 3, resolution, resolution) bytes and (count,) indices.

    Takes about 0.2 ms a picture at 64 px on one core.
    """
    images = np.empty((count, 3, resolution, resolution), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    for chunk, start in enumerate(range(0, count, _CHUNK)):
        kept = min(_CHUNK, count - start)
        random = _Random(np.random.PCG64([seed, chunk]))
        drawn, classes = _draw_chunk(random, resolution)
        images[start : start + kept] = drawn[:kept]
        labels[start : start + kept] = classes[:kept]
    return images, labels


@dataclass(frozen=True, slots=True)
class _Random:
    """Integers straight from the bit stream; numpy's own `integers` may change between versions."""

    bits: np.random.PCG64

    def integers(self, low: int, high: int, *shape: int) -> _Integers:
        """Uniform over low, ..., high - 1."""
        raw: npt.NDArray[np.uint64] = self.bits.random_raw(math.prod(shape)) >> np.uint64(32)
        return ((raw * np.uint64(high - low)) >> np.uint64(32)).astype(np.int32).reshape(shape) + np.int32(low)

    def noise(self, *shape: int) -> _Integers:
        """Sum of two bytes less its mean: triangular over -255, ..., 255, standard deviation 104."""
        size = math.prod(shape)
        raw = self.bits.random_raw(-(-2 * size // 8)).astype("<u8").view(np.uint8)  # the same bytes on every machine
        return (raw[:size].astype(np.int32) + raw[size : 2 * size] - 255).reshape(shape)


def _draw_chunk(random: _Random, resolution: int) -> tuple[_Integers, npt.NDArray[np.int64]]:
    # n pictures of a chunk, S resolution
    n, size = _CHUNK, resolution
    classes = random.integers(0, len(_PAIRS), n)
    textures = np.array(_PAIRS, dtype=np.int32)[classes]  # (n, 2): of the upper and the lower disc
    picture = _background(random, size)  # (n, 3, S, S)

    radii = random.integers(size * 9 // 64, size * 12 // 64 + 1, n, 2)
    gap = size * 12 // 64
    upper = random.integers(size * 10 // 64, size * 34 // 64, n)
    # the lower disc: anywhere at least `gap` below
    lower = upper + gap + (random.integers(0, 1024, n) * (size - size * 10 // 64 - upper - gap) >> 10)
    rows = np.stack([upper, lower], axis=1)
    columns = random.integers(size * 10 // 64, size - size * 10 // 64, n, 2)
    for disc in range(2):
        _paint_disc(
            picture,
            random,
            texture=textures[:, disc],
            row=rows[:, disc],
            column=columns[:, disc],
            radius=radii[:, disc],
        )
    picture += random.noise(n, 3, size, size) * 30 // 128
    return np.clip(picture, 0, 255), classes.astype(np.int64)


def _background(random: _Random, size: int) -> _Integers:
    """Colours that change slowly over the picture: bilinear between a 4 x 4 grid of random ones."""
    cells = 3
    corners = random.integers(48, 208, _CHUNK, 3, cells + 1, cells + 1)
    position = np.arange(size, dtype=np.int32) * (cells * 256) // size
    cell, part = position >> 8, position & 255
    rows = corners[:, :, cell] * (256 - part)[:, None] + corners[:, :, cell + 1] * part[:, None]  # (n, 3, S, 4)
    return (rows[..., cell] * (256 - part) + rows[..., cell + 1] * part) >> 16


def _paint_disc(
    picture: _Integers, random: _Random, *, texture: _Integers, row: _Integers, column: _Integers, radius: _Integers
) -> None:
    n, size = len(picture), picture.shape[-1]
    reach = int(radius.max())
    offsets = np.arange(-reach, reach + 1, dtype=np.int32)
    waves = _texture(random, texture, offsets)  # (n, D, D)
    tint = random.integers(-40, 41, n, 3)
    contrast = random.integers(28, 57, n, 3)  # of 128
    patch = tint[:, :, None, None] + ((waves[:, None] * contrast[:, :, None, None]) >> 7)  # (n, 3, D, D)
    inside = offsets[:, None] ** 2 + offsets**2 <= (radius**2)[:, None, None]  # (n, D, D)
    y = row[:, None] + offsets  # (n, D)
    x = column[:, None] + offsets
    inside = inside & ((y >= 0) & (y < size))[:, :, None] & ((x >= 0) & (x < size))[:, None, :]
    index, down, across = np.nonzero(inside)
    picture[index, :, y[index, down], x[index, across]] += patch[index, :, down, across]


def _texture(random: _Random, texture: _Integers, offsets: _Integers) -> _Integers:
    """Waves of amplitude about 127 over a square, one texture a picture: (n, D, D)."""
    n = len(texture)
    pitch = random.integers(43, 65, n)[:, None, None]  # 256 / pitch pixels a wave: 4 to 6
    drift = random.integers(-9, 10, n)[:, None, None]  # turns the waves by up to 12 degrees
    phase = random.integers(0, 256, n, 2)[:, :, None, None]
    side = random.integers(0, 2, n)[:, None, None] * 2 - 1
    y, x = offsets[:, None], offsets[None, :]
    diagonal = (pitch * 181) >> 8  # the same pitch along a diagonal: 181 / 256 = 1 / sqrt(2)

    def wave(down: _Integers, across: _Integers, start: _Integers) -> _Integers:
        return _WAVE[(down * y + across * x + start) & 255]

    down, across = wave(pitch, drift, phase[:, 0]), wave(drift, pitch, phase[:, 1])
    slanted = wave(diagonal + drift, side * (diagonal - drift), phase[:, 0])
    # Products have half the power of a wave; sums are scaled to the same: 181 / 256 = 1 / sqrt(2).
    checks = (down * across) * 181 >> 14
    dots = ((down + across) * 181) >> 8
    return np.choose(texture[:, None, None], [down, across, slanted, checks, dots])
