"""A picture as its annotations see it: pixels of the size that they say, in RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nas.data.pictures import upright, with_rgb
from nas.errors import InputError, visible

__all__ = ["read_picture", "shown"]


def read_picture(path: Path, *, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The pixels of a picture, (3, H, W).

    Annotations are mostly of the pixels as they are stored, whatever EXIF says of turning them. So a picture is turned
    only if that gives it the size of its annotations.

    Args:
        path: the file.
        size: H and W, as the annotations say.
    Raises:
        InputError: it cannot be read, or has another size.
    """
    try:
        with Image.open(path) as opened:
            image = opened if opened.size[::-1] == size else upright(opened)
            if image.size[::-1] != size:
                raise InputError(
                    f"{shown(path)}: has {opened.height} x {opened.width} pixels (height x width), its annotations are "
                    f"of {size[0]} x {size[1]}"
                )
            pixels: npt.NDArray[np.uint8] = np.asarray(with_rgb(image)).transpose(2, 0, 1)
    except InputError:
        raise
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, zlib.error, ...
        reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{shown(path)}: cannot be read ({visible(reason, limit=150)})") from error
    return pixels


def shown(path: Path) -> str:
    """A path in a message."""
    return visible(str(path), limit=150)
