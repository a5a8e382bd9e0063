"""How pixels become the input of a network: what is subtracted from each channel, and what it is divided by."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from nas.data.image_set import ImageSet
from nas.files import Record

__all__ = ["Normalisation"]

_Mean = Annotated[float, Field(ge=0, le=1)]
_Deviation = Annotated[float, Field(gt=0, le=1)]
_LEAST = 1 / 255  # a channel may be constant


class Normalisation(Record):
    """The input is (pixel - mean) / std for each channel, in the order red, green, blue, with pixels in 0..1."""

    mean: tuple[_Mean, _Mean, _Mean]
    std: tuple[_Deviation, _Deviation, _Deviation]

    @classmethod
    def of(cls, image_set: ImageSet) -> Self:
        """What batches of a set are normalised by."""
        red, green, blue = (max(value, _LEAST) for value in image_set.std)
        return cls(mean=image_set.mean, std=(red, green, blue))
