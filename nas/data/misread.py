"""What Pillow reads otherwise than its file means it: samples of TIFF, FITS and PNG, put right or refused by name."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    YCBCRSUBSAMPLING,
)

__all__ = ["meant", "prepare", "signed", "unread"]

_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_FORMATS = {_UNSIGNED: "whole", _SIGNED: "signed", _FLOAT: "floating-point"}
_WHITE_IS_ZERO = 0
# libtiff returns samples in the byte order of this machine; Pillow takes these for the order of the file.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_FITS_HEADER = 36 * 80


def prepare(image: Image.Image) -> None:
    """Change how a picture that is opened will be read, where Pillow has it wrong.

    Raises:
        ValueError: Pillow cannot read it right; the message names the kind.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags, codecs = image.tag_v2, {tile.codec_name for tile in image.tile}
    if image.mode == "F" and tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        raise ValueError("a TIFF of floating-point grey where zero is white; convert it to one where zero is black")
    if image.mode == "YCbCr" and "raw" in codecs and tags.get(YCBCRSUBSAMPLING, (1, 1)) != (1, 1):
        raise ValueError("a TIFF of YCbCr with fewer samples of colour, without compression; convert it to RGB")
    modes = [tile.args[0] if isinstance(tile.args, tuple) else tile.args for tile in image.tile]
    if "libtiff" in codecs:
        modes = [_NATIVE.get(mode or "", mode) for mode in modes]
    elif _first(tags.get(BITSPERSAMPLE)) == 16 and set(modes) <= {"R", "G", "B", "A"}:
        # Each channel on its own: Pillow takes its samples for bytes.
        modes = [f"{mode};16{'L' if tags.prefix == b'II' else 'B'}" for mode in modes]
    image.tile = [
        tile._replace(args=(mode, *tile.args[1:])) if isinstance(tile.args, tuple) else tile
        for tile, mode in zip(image.tile, modes, strict=True)
    ]


def signed(image: Image.Image) -> bool:
    """Whether bytes of grey are from -128 to 127."""
    return (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.mode == "L"
        and _first(image.tag_v2.get(SAMPLEFORMAT)) == _SIGNED
    )


def meant(image: Image.Image, values: npt.NDArray[Any], content: bytes) -> npt.NDArray[Any]:
    """The values of deep grey as the file means them.

    Args:
        image: the picture as it was opened, and then loaded.
        values: (H, W), its pixels as Pillow has them.
        content: the bytes of the file.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if image.mode == "I" and _first(tags.get(SAMPLEFORMAT), _UNSIGNED) == _UNSIGNED:
            values = values.astype(np.int32).view(np.uint32)
        if tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
            values = np.iinfo(values.dtype).max - values
    elif image.format == "FITS":
        if image.mode.startswith("I;16"):  # FITS has no other
            values = values.astype(np.uint16).view(np.int16)
        scale, zero = (_card(content, name, default) for name, default in ((b"BSCALE", 1.0), (b"BZERO", 0.0)))
        if (scale, zero) != (1.0, 0.0):
            values = scale * values + zero
    elif image.format == "PNG" and isinstance(clear := image.info.get("transparency"), int):
        values = np.where(values == clear, np.iinfo(np.uint16).max, values)  # as others that are transparent: white
    return values


def unread(content: bytes) -> str:
    """What kind of TIFF it is that Pillow does not know, in words; nothing if it is another format."""
    if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return ""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if b"+" in content[:4] else 8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)  # type: ignore[no-untyped-call, unused-ignore]
        bits = int(_first(tags.get(BITSPERSAMPLE), 1))
        kind = _FORMATS.get(_first(tags.get(SAMPLEFORMAT), _UNSIGNED), "odd")
        photometric, samples = (int(tags.get(tag, 1)) for tag in (PHOTOMETRIC_INTERPRETATION, SAMPLESPERPIXEL))
    except Exception:  # whatever a damaged file makes of it
        return ""
    return (
        f"a TIFF that Pillow does not know: {samples} x {bits}-bit {kind} numbers, photometric {photometric}; convert "
        "it to 8-bit RGB or 16-bit grey"
    )


def _first(values: Any, default: int = 0) -> Any:
    return (values[0] if isinstance(values, tuple) else values) if values else default


def _card(content: bytes, name: bytes, default: float) -> float:
    """A number in the header of a FITS file."""
    cards = (content[start : start + 80] for start in range(0, _FITS_HEADER, 80))
    card = next((card for card in cards if card.startswith(name.ljust(8) + b"=")), b"")
    try:
        return float(card[9:].partition(b"/")[0].upper().replace(b"D", b"E"))
    except ValueError:
        return default
