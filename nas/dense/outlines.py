"""Masks of objects as COCO writes them: polygons, and run lengths that count zeros and ones down the columns.

Run lengths are decoded here and not in C, so that no file can write past the end of a mask. Polygons become masks as in
pycocotools, through faster-coco-eval.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nas.errors import InputError

__all__ = ["Mask", "Outline", "Polygons", "RunLengths", "coco_library", "encoded"]

Mask = npt.NDArray[np.uint8]

_BITS, _SIGN, _MORE, _OFFSET = 5, 0x10, 0x20, 48  # of a character of compressed run lengths
_MOST_GROUPS = 7  # of characters for one number


def coco_library(part: str) -> Any:
    """Import a module of faster-coco-eval.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(f"faster_coco_eval.{part}")
    except ImportError as error:
        raise InputError("detection needs faster-coco-eval: pip install 'nas[dense]'") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Polygons:
    """Corners of an object's parts.

    Attributes:
        parts: x and y in turn, of each part.
        size: height and width of the picture.
    """

    parts: tuple[npt.NDArray[np.float32], ...]
    size: tuple[int, int]

    def encoded(self) -> dict[str, Any]:
        """Compressed run lengths, as faster-coco-eval takes them."""
        library, (height, width) = coco_library("core.mask"), self.size
        # Drawing takes memory by the length of an edge, so no corner is far outside.
        limits = np.tile([width, height], 1)
        parts = [
            part.reshape(-1, 2).astype(np.float64).clip(-limits, 2 * limits).reshape(-1).tolist() for part in self.parts
        ]
        made: dict[str, Any] = library.merge(library.frPyObjects(parts, height, width))
        return made

    def mask(self) -> Mask:
        """Ones inside the object, (H, W)."""
        decoded: Mask = coco_library("core.mask").decode(self.encoded())
        return decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLengths:
    """Lengths of the runs of zeros and ones in turn, zeros first, down the columns.

    Attributes:
        counts: the lengths.
        size: height and width of the picture.
    """

    counts: npt.NDArray[np.int64]
    size: tuple[int, int]

    @classmethod
    def of(cls, counts: str | Sequence[int], size: tuple[int, int]) -> Self:
        """Run lengths, or the text that they are compressed to.

        Raises:
            ValueError: they do not add up to the picture, or the text is none.
        """
        given = _decompressed(counts) if isinstance(counts, str) else counts
        if any(not 0 <= count <= size[0] * size[1] for count in given):  # which may be too large for int64
            raise ValueError("counts must be run lengths inside the picture")
        numbers = np.asarray(given, dtype=np.int64)
        if numbers.sum() != size[0] * size[1]:
            raise ValueError(f"counts must add up to {size[0]} x {size[1]} pixels, got {numbers.sum()}")
        return cls(counts=numbers, size=size)

    def encoded(self) -> dict[str, Any]:
        """Compressed run lengths, as faster-coco-eval takes them."""
        return encoded(self.mask())

    def mask(self) -> Mask:
        """Ones inside the object, (H, W)."""
        values = (np.arange(len(self.counts)) % 2).astype(np.uint8)
        return np.repeat(values, self.counts).reshape(self.size, order="F")


Outline = Polygons | RunLengths


def encoded(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """A mask (H, W) of zeros and ones as compressed run lengths."""
    made: dict[str, Any] = coco_library("core.mask").encode(np.asfortranarray(mask, dtype=np.uint8))
    return made


def _decompressed(text: str) -> list[int]:
    """Numbers of five bits a character, the lowest first; from the fourth on, each is added to that two before."""
    numbers: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = ord(character) - _OFFSET
        if not 0 <= code < 64 or shift >= _BITS * _MOST_GROUPS:
            raise ValueError("counts are not compressed run lengths")
        value |= (code & 0x1F) << shift
        shift += _BITS
        if not code & _MORE:
            if code & _SIGN:
                value -= 1 << shift
            numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
            value, shift = 0, 0
    if shift:
        raise ValueError("counts end in the middle of a number")
    return numbers
