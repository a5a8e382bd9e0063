"""The protocol: how every image becomes the input of the network, the same for all forms of a network.

A picture is decoded whole, upright and in RGB; its short side is scaled to `resolution / crop`; the middle square of
`resolution` is cut out; its pixels are normalised. For a picture in plain RGB these are to the bit the pixels of timm's
`create_transform(..., is_training=False)` with crop mode `center` (tests/data/test_protocol.py). Others differ, as
nas/data/pictures.py reads what it means: what is turned by EXIF, transparent (white here), CMYK or 16-bit grey.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nas.data.normalisation import Normalisation
from nas.files import Record

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Interpolation", "Protocol"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_MOST_SIDE = 4  # of the long side to the short one; of a longer picture only the middle is scaled


class Protocol(Record):
    """How an image becomes the input.

    Attributes:
        resolution: height and width of the input in pixels.
        crop: share of the scaled picture's short side that is kept.
        interpolation: of the scaling, Pillow's with antialiasing.
        normalisation: None if the network normalises pixels itself.
        normalised_by: where mean and std are from, in words.
    """

    resolution: Annotated[int, Field(ge=1, le=4096)]
    crop: Annotated[float, Field(gt=0, le=1)] = 0.875
    interpolation: Interpolation = "bicubic"
    normalisation: Normalisation | None = None
    normalised_by: str = ""

    @property
    def short_side(self) -> int:
        """What the short side of a picture is scaled to; rounded down, as timm does."""
        return math.floor(self.resolution / self.crop)

    @property
    def words(self) -> str:
        """The protocol in a line."""
        if self.normalisation is None:
            normalised = "normalised by the network itself"
        else:
            mean, std = (
                ", ".join(f"{value:.4g}" for value in part)
                for part in (self.normalisation.mean, self.normalisation.std)
            )
            normalised = f"normalised by mean ({mean}) and std ({std}) {self.normalised_by}".rstrip()
        return (
            f"decoded, upright, RGB; short side scaled to {self.short_side} px ({self.interpolation}); middle "
            f"{self.resolution} px cut out (crop {self.crop:g}); {normalised}"
        )

    def frame(self, picture: Image.Image) -> Image.Image:
        """The part of a picture that is used, scaled: the size of the input."""
        from PIL import Image

        how = Image.Resampling[self.interpolation.upper()]
        short, size = self.short_side, self.resolution
        width, height = picture.size
        least = min(width, height)
        # As torchvision's Resize and CenterCrop have it.
        scaled = [short if side == least else int(short * side / least) for side in (width, height)]
        left, top = (round((side - size) / 2.0) for side in scaled)
        if max(scaled) > _MOST_SIDE * short:
            x, y = width / scaled[0], height / scaled[1]
            return picture.resize((size, size), how, box=(left * x, top * y, (left + size) * x, (top + size) * y))
        return picture.resize((scaled[0], scaled[1]), how).crop((left, top, left + size, top + size))

    def normalised(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Pixels (B, 3, H, W) in bytes as the network's input, float32; as they are if it normalises them itself."""
        if self.normalisation is None:
            return pixels
        mean, std = (
            np.array(part, dtype=np.float32).reshape(1, 3, 1, 1)
            for part in (self.normalisation.mean, self.normalisation.std)
        )
        return (pixels.astype(np.float32) / 255 - mean) / std
