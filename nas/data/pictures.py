"""One picture of any kind as pixels: which kinds are read, and how formats, modes and orientations become RGB.

Transparent pictures are shown on white. Pictures of deep grey, which is 16 or 32 bits or fractions, keep their values
until the range of the whole set is known (`grey_range`), so that the levels of two pictures stay comparable.
"""

from __future__ import annotations

import ctypes
import functools
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image, ImageCms

__all__ = [
    "CURES",
    "decode",
    "framed",
    "grey_range",
    "picture_readers",
    "picture_suffixes",
    "quiet_pillow",
    "to_bytes",
    "upright",
    "with_rgb",
]

_HEIF = "pip install pillow-heif"
CURES = {  # what is a photo to its owner, though Pillow does not read it
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics", ".heifs"), _HEIF),
    **dict.fromkeys((".avif", ".avifs"), "pip install --upgrade pillow"),
    **dict.fromkeys((".jxl", ".svg", ".svgz", ".pdf", ".eps"), "convert to PNG or JPEG"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"), "convert to PNG or JPEG"),
    **dict.fromkeys((".dcm", ".npy", ".exr"), "convert to PNG or TIFF"),
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Pillow opens these, but cannot load them, or only through another program.
_NOT_LOADED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
_TOPS = (1.0, 2.0**8 - 1, 2.0**12 - 1, 2.0**16 - 1, 2.0**32 - 1)
_LEAST_SHARE = 1 / 8  # of a range that must be used
_OUTLIERS = 0.01  # of the pictures of a set may lie outside its range, such as for a dead pixel


def picture_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of files that Pillow reads here; with those of pillow-heif if that is installed."""
    from PIL import Image

    _register_heif()
    kinds = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in kinds.items() if kind in Image.OPEN and kind not in _NOT_LOADED)


def picture_readers() -> list[str | None]:
    """The versions of Pillow and of its plug-in for HEIC, None if that is not installed."""
    found: list[str | None] = []
    for name in ("pillow", "pillow-heif"):
        try:
            found.append(version(name))
        except PackageNotFoundError:
            found.append(None)
    return found


def _register_heif() -> None:
    with suppress(ImportError):
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]

        register_heif_opener()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Hide what Pillow warns of, such as damaged EXIF: a picture is read, or it is an error. Not inside threads."""
    _silence_libtiff()
    logger, quiet = logging.getLogger("PIL"), logging.NullHandler()
    logger.addHandler(quiet)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(quiet)


@functools.cache
def _silence_libtiff() -> None:
    """The library writes to the file of stderr by itself; what matters is in the errors of Pillow."""
    from PIL import features

    if not (features.check("libtiff") and os.path.exists("/proc/self/maps")):  # noqa: PTH110 - Linux
        return
    with open("/proc/self/maps") as maps, suppress(OSError, AttributeError):  # noqa: PTH123
        loaded = {line.split(maxsplit=5)[-1].strip() for line in maps if "libtiff" in line}
        for library in map(ctypes.CDLL, loaded):
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


def decode(content: bytes, resolution: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """The centre square of a picture, scaled: the first frame, upright, in RGB.

    Args:
        content: the bytes of a file.
        resolution: height and width in pixels.
    Returns:
        (3, resolution, resolution) bytes; of deep grey (resolution, resolution) floats, its own values.
    Raises:
        ValueError: it is not a picture that can be read. The message is one line.
        MemoryError: there is too little memory for it.
    """
    # For large JPEG files, skip detail that scaling removes anyway.
    return framed(content, lambda image: _square(image, resolution), least=2 * resolution)


def framed(
    content: bytes, frame: Callable[[Image.Image], Image.Image], *, least: int | None = None
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """A part of a picture, scaled: the first frame, upright, in RGB.

    Args:
        content: the bytes of a file.
        frame: scales and crops; what it gets may be transparent, or of floating-point grey.
        least: a JPEG file of larger sides may be read with fewer pixels, down to this. None to read every pixel.
    Returns:
        (3, H, W) bytes; of deep grey (H, W) floats, its own values.
    Raises:
        ValueError: it is not a picture that can be read. The message is one line.
        MemoryError: there is too little memory for it.
    """
    from PIL import Image

    from nas.data.misread import meant, prepare, signed

    try:
        with Image.open(io.BytesIO(content)) as opened:
            if least is not None:
                opened.draft("RGB", (least, least))
            deep = opened.mode in ("I", "F") or opened.mode.startswith("I;16")
            _refuse_bomb(opened, share=0.5 if deep else 1)
            prepare(opened)
            opened.load()
            image = upright(opened)
            if deep:
                return _deep(meant(opened, np.asarray(image), content), frame)
            if signed(opened):
                image = image.point([level ^ 128 for level in range(256)])
            part = np.asarray(_on_white(frame(_in_colours(image)))).transpose(2, 0, 1)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise ValueError(_why(error, content)) from error
    return part


def _refuse_bomb(image: Image.Image, *, share: float) -> None:
    """Refuse what Pillow only warns of, at `share` of its number of pixels: a thread needs 12 bytes for each."""
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > share * most:
        raise Image.DecompressionBombError


def _why(error: Exception, content: bytes) -> str:
    from PIL import Image, UnidentifiedImageError

    from nas.data.misread import unread

    if isinstance(error, UnidentifiedImageError):  # its message is the address of a buffer
        if not content:
            return "the file is empty"
        if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
            return f"it holds HEIC: {_HEIF}"
        return unread(content) or "no picture format that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than Pillow takes for safe; scale it down"
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r" \(\d+ bytes.*\)$", "", line)  # one reason for all files that were cut off


def _square(image: Image.Image, resolution: int) -> Image.Image:
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)


def upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says. Damaged EXIF says nothing.

    Unlike `ImageOps.exif_transpose` this does not write EXIF again, which fails if any other part of it is damaged.
    """
    from PIL import Image

    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    try:
        method = turns.get(image.getexif().get(0x0112, 1))
    except Exception:  # struct.error, SyntaxError, TypeError, ... from whatever EXIF holds
        method = None
    return image if method is None else image.transpose(method)


def with_rgb(image: Image.Image) -> Image.Image:
    """A picture in RGB, of any mode but deep grey; what is transparent is white.

    Raises:
        ValueError: Pillow cannot convert this mode; the message names it.
    """
    return _on_white(_in_colours(image))


def _in_colours(image: Image.Image) -> Image.Image:
    """A picture in RGB, or in RGBA if it may be transparent."""
    try:
        if image.mode in ("La", "RGBa"):  # multiplied by their opacity
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        if image.has_transparency_data:
            return image.convert("RGBA")
        return _from_lab(image) if image.mode == "LAB" else image.convert("RGB")
    except (ImportError, ValueError, OSError) as error:
        raise ValueError(f"mode {image.mode}: {error}; convert it to RGB") from error


def _on_white(image: Image.Image) -> Image.Image:
    """Colours of transparent pixels are arbitrary, often black; and the shape may be in the opacity alone."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import Image, ImageCms

    converted = ImageCms.applyTransform(image, _lab_transform())
    assert isinstance(converted, Image.Image)  # None is for changes in place
    return converted


@functools.cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
    from PIL import ImageCms

    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _deep(values: npt.NDArray[Any], frame: Callable[[Image.Image], Image.Image]) -> npt.NDArray[np.float32]:
    from PIL import Image

    if values.dtype != np.float32:
        values = values.astype(np.float32)
    finite = np.isfinite(values)
    if finite.all():
        low, high = values.min(), values.max()
    elif finite.any():
        low, high = values[finite].min(), values[finite].max()
        # One such pixel would spoil those around it.
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    else:
        raise ValueError("no pixel is a finite number")
    scaled: npt.NDArray[np.float32] = np.asarray(frame(Image.fromarray(values)))
    return scaled.clip(low, high)  # without the overshoot of scaling


def grey_range(lowest: Sequence[float], highest: Sequence[float]) -> tuple[float, float]:
    """The values of a set's deep grey pictures that become black and white.

    White is 1, or the greatest value of 8, 12, 16 or 32 bits: the first that no value exceeds. Black is 0, or with
    negative values minus white. Where the values use less than an eighth of that, as those of thermal cameras do, they
    give the range themselves. One picture in a hundred may lie outside.

    Args:
        lowest: the least value of each picture.
        highest: the greatest value of each picture.

    Examples:
        >>> grey_range([0.0, 0.25], [0.75, 1.0])
        (0.0, 1.0)
        >>> grey_range([8000, 11000], [40000, 52000])
        (0.0, 65535.0)
        >>> grey_range([29300], [31000])
        (29300.0, 31000.0)
    """
    low = float(np.quantile(lowest, _OUTLIERS, method="lower"))
    high = float(np.quantile(highest, 1 - _OUTLIERS, method="higher"))
    white = next((top for top in _TOPS if top >= max(high, -low)), max(high, -low))
    black = -white if low < 0 else 0.0
    return (low, high) if 0 < high - low < _LEAST_SHARE * (white - black) else (black, white)


def to_bytes(values: npt.NDArray[np.float32], black: float, white: float) -> npt.NDArray[np.uint8]:
    """Deep grey of any shape as bytes, with `black` at 0 and `white` at 255."""
    shares = (values.astype(np.float64) - black) / (white - black)
    shown: npt.NDArray[np.uint8] = np.rint(shares.clip(0, 1) * 255).astype(np.uint8)
    return shown
