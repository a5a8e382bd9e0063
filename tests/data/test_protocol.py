"""How a picture becomes the input, beside what timm does."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from nas.data import Normalisation
from nas.data.pictures import framed
from nas.data.protocol import Protocol
from tests.evaluate.pictures import draw_picture

SHAPES = [(224, 224), (333, 250), (250, 333), (40, 71), (500, 375), (257, 256), (31, 100)]


def content(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def by_timm(timm: ModuleType, data: bytes, protocol: Protocol) -> np.ndarray:
    """The pixels of timm's transform for evaluation, as bytes (3, H, W)."""
    from timm.data.transforms_factory import create_transform

    size = protocol.resolution
    transform = create_transform(
        (3, size, size),
        is_training=False,
        interpolation=protocol.interpolation,
        crop_pct=protocol.crop,
        normalize=False,
    )
    return np.asarray(transform(Image.open(io.BytesIO(data)).convert("RGB")))


def difference(timm: ModuleType, data: bytes, protocol: Protocol) -> int:
    """The largest difference of two pixels from timm's, of 255."""
    return int(np.abs(framed(data, protocol.frame).astype(int) - by_timm(timm, data, protocol).astype(int)).max())


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop", [0.875, 0.95, 1.0])
def test_plain_pictures_are_those_of_timm_to_the_bit(
    timm: ModuleType, kind: str, interpolation: str, crop: float
) -> None:
    protocol = Protocol(resolution=96, crop=crop, interpolation=interpolation)

    found = [
        difference(timm, content(draw_picture(*shape, seed=seed), kind), protocol) for seed, shape in enumerate(SHAPES)
    ]

    assert found == [0] * len(SHAPES)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_other_modes_are_those_of_timm_as_well(timm: ModuleType, mode: str) -> None:
    data = content(draw_picture(70, 90, seed=1).convert(mode), "JPEG" if mode == "CMYK" else "PNG")

    assert difference(timm, data, Protocol(resolution=64)) == 0


def test_what_differs_from_timm_is_what_nas_reads_as_it_is_meant(timm: ModuleType) -> None:
    """timm's transform gets a picture that its data set has only converted to RGB."""
    protocol = Protocol(resolution=64)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = content(draw_picture(80, 80, seed=2), "JPEG", exif=exif)
    clear = Image.new("RGBA", (80, 80), (0, 0, 0, 0))
    deep = Image.fromarray(np.full((80, 80), 30_000, dtype=np.uint16))

    upright = content(Image.open(io.BytesIO(turned)).transpose(Image.Transpose.ROTATE_270), "PNG")
    assert difference(timm, turned, protocol) > 100
    np.testing.assert_array_equal(framed(turned, protocol.frame), by_timm(timm, upright, protocol))
    assert framed(content(clear, "PNG"), protocol.frame).min() == 255  # white, and black for timm
    assert difference(timm, content(clear, "PNG"), protocol) == 255
    assert framed(content(deep, "PNG"), protocol.frame).max() == 30_000  # a range comes later; timm has 255 for all
    assert by_timm(timm, content(deep, "PNG"), protocol).min() == 255


def test_normalised_pixels_are_those_of_timm(timm: ModuleType) -> None:
    from timm.data.transforms_factory import create_transform

    pair: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    protocol = Protocol(resolution=64, normalisation=Normalisation(**pair))
    data = content(draw_picture(90, 70, seed=3), "PNG")
    transform = create_transform((3, 64, 64), is_training=False, interpolation="bicubic", crop_pct=0.875, **pair)

    found = protocol.normalised(framed(data, protocol.frame)[None].astype(np.uint8))

    expected = transform(Image.open(io.BytesIO(data)))[None].numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-7)


@pytest.mark.parametrize("shape", [(3000, 20), (20, 3000)])
def test_of_a_very_long_picture_only_the_middle_is_scaled(shape: tuple[int, int]) -> None:
    protocol = Protocol(resolution=32)
    long = draw_picture(*shape, seed=4)
    width, height = (36 if side == 20 else 36 * side // 20 for side in shape)
    whole = long.resize((width, height), Image.Resampling.BICUBIC)
    left, top = ((side - 32) / 2 for side in whole.size)

    found = protocol.frame(long)

    expected = whole.crop((int(left), int(top), int(left) + 32, int(top) + 32))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 2


def test_pixels_are_left_to_a_network_that_normalises_them() -> None:
    pixels = np.zeros((1, 3, 8, 8), dtype=np.uint8)

    assert Protocol(resolution=8).normalised(pixels) is pixels
    assert Protocol(resolution=8).words.endswith("normalised by the network itself")


def test_the_words_say_every_step() -> None:
    normalisation = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    protocol = Protocol(resolution=224, normalisation=normalisation, normalised_by="of its card")

    assert protocol.words == (
        "decoded, upright, RGB; short side scaled to 256 px (bicubic); middle 224 px cut out (crop 0.875); normalised "
        "by mean (0.5, 0.5, 0.5) and std (0.25, 0.25, 0.25) of its card"
    )


@pytest.mark.parametrize("crop", [0, -1, 1.01])
def test_a_crop_is_a_share(crop: float) -> None:
    with pytest.raises(ValidationError):
        Protocol(resolution=224, crop=crop)
