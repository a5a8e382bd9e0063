"""Every mode, orientation and kind of file becomes what a person sees, or is refused by name."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageCms

from nas.data.pictures import decode, grey_range, picture_suffixes, quiet_pillow, to_bytes, upright, with_rgb

SIZE = 48
RED = (200, 60, 60)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
)
def test_a_picture_looks_the_same_in_every_mode(mode: str) -> None:
    picture = _quarters()
    if mode == "LAB":
        kept = ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), _lab(), outputMode="LAB")
    elif mode in ("La", "RGBa"):
        kept = picture.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    elif mode in ("P", "PA"):
        kept = picture.quantize(16).convert(mode)
    else:
        kept = picture.convert(mode)
    grey = mode in ("1", "L", "LA", "La")
    expected = picture.convert("1" if mode == "1" else "L").convert("RGB") if grey else picture

    found = np.asarray(with_rgb(kept), dtype=int)

    assert np.abs(found - np.asarray(expected, dtype=int)).mean() < 4


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_what_is_transparent_is_white(mode: str) -> None:
    hole = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
    hole.paste((40, 40, 40, 255), (0, 0, SIZE // 2, SIZE))
    if mode == "PA":  # Pillow loses the opacity on the way there
        hole = _palette(hole.convert("LA"))
    else:
        hole = hole.convert("LA").convert(mode) if mode == "La" else hole.convert(mode)

    found = np.asarray(with_rgb(hole))

    assert abs(int(found[:, : SIZE // 2].mean()) - 40) < 2
    assert found[:, SIZE // 2 :].min() == 255


@pytest.mark.parametrize("kind", ["index", "bytes", "colour", "grey"])
def test_transparency_beside_the_pixels_is_white(kind: str, tmp_path: Path) -> None:
    shades = Image.new("L", (SIZE, SIZE), 0)
    shades.paste(40, (0, 0, SIZE // 2, SIZE))
    picture, transparency = {
        "index": (_palette(shades), 0),
        "bytes": (_palette(shades), bytes([0]) + bytes([255]) * 255),
        "colour": (shades.convert("RGB"), (0, 0, 0)),
        "grey": (shades, 0),
    }[kind]
    picture.save(tmp_path / "x.png", transparency=transparency)

    found = decode((tmp_path / "x.png").read_bytes(), 32)

    assert abs(int(found[:, :, :14].mean()) - 40) < 2
    assert found[:, :, 18:].min() == 255


def test_half_transparent_is_mixed_with_white() -> None:
    found = np.asarray(with_rgb(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))

    assert found[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_camera_is_followed(orientation: int, suffix: str, tmp_path: Path) -> None:
    picture = _quarters()
    exif = Image.Exif()
    exif[0x0112] = orientation
    _turned_back(picture, orientation).save(tmp_path / f"x.{suffix}", exif=exif, quality=95)

    found = decode((tmp_path / f"x.{suffix}").read_bytes(), SIZE)

    assert np.abs(found.astype(int) - np.asarray(picture).transpose(2, 0, 1)).mean() < 12


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16L", "I;16B", "I;16N"])
def test_deep_grey_keeps_its_values(mode: str) -> None:
    values = np.linspace(0, 40_000, SIZE * SIZE).reshape(SIZE, SIZE)
    kinds = {"I": "<i4", "F": "<f4", "I;16B": ">u2"}
    picture = Image.frombytes(mode, (SIZE, SIZE), values.astype(kinds.get(mode, "<u2")).tobytes())
    buffer = io.BytesIO()
    if mode in ("I", "F", "I;16", "I;16B"):  # as a file; the others exist in memory only
        picture.save(buffer, "TIFF")
        found = decode(buffer.getvalue(), SIZE)
    else:
        from nas.data.pictures import _deep

        found = _deep(np.asarray(picture), lambda whole: whole)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values, atol=1)


def test_deep_grey_without_numbers_is_refused_and_single_gaps_are_filled(tmp_path: Path) -> None:
    values = np.full((SIZE, SIZE), 0.5, dtype=np.float32)
    values[3, 4], values[5, 6], values[7, 8] = np.nan, np.inf, 0.75
    Image.fromarray(values).save(tmp_path / "gaps.tif")
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(tmp_path / "none.tif")

    found = decode((tmp_path / "gaps.tif").read_bytes(), SIZE)

    assert (found.min(), found.max()) == (0.5, 0.75)
    with pytest.raises(ValueError, match="no pixel is a finite number"):
        decode((tmp_path / "none.tif").read_bytes(), 32)


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [
        ([0.0, 0.1], [0.5, 1.0], (0, 1)),
        ([0.5], [0.5], (0, 1)),
        ([0, 3], [200, 255], (0, 255)),
        ([0], [4000], (0, 4095)),
        ([0, 11_000], [60_000, 40_000], (0, 65_535)),
        ([32_768], [32_768], (0, 65_535)),
        ([0], [2.0**31], (0, 2.0**32 - 1)),
        ([-0.5], [1.0], (-1, 1)),
        ([-1024], [3071], (-4095, 4095)),
        ([29_300, 29_400], [30_900, 31_000], (29_300, 31_000)),  # a thermal camera
        ([0], [1e12], (0, 1e12)),
        ([0] * 100 + [-9999], [255] * 100 + [65_535], (0, 255)),  # one picture with a dead pixel
    ],
)
def test_range_of_deep_grey_keeps_its_contrast(lowest: list, highest: list, expected: tuple) -> None:
    assert grey_range(lowest, highest) == expected


def test_deep_grey_becomes_bytes_by_its_range() -> None:
    assert to_bytes(np.array([0, 32_768, 65_535, 70_000], dtype=np.float32), 0, 65_535).tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "avif"])
def test_an_animation_is_its_first_frame(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])

    red, green, blue = decode((tmp_path / f"x.{suffix}").read_bytes(), 32).mean((1, 2))

    assert red > 240
    assert max(green, blue) < 15


def test_damaged_exif_is_quiet_and_what_can_be_read_of_it_is_followed(
    recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    pointer = struct.pack(">HHIHH", 0x8769, 4, 1, 0xFFFF, 0xFFF0)  # to a part far behind the end
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + pointer
    buffer = io.BytesIO()
    _turned_back(_quarters(), 6).save(buffer, "JPEG", exif=exif, quality=95)
    garbage = io.BytesIO()
    _quarters().save(garbage, "JPEG", exif=b"Exif\0\0" + bytes(range(200, 256)), quality=95)

    with quiet_pillow():
        found = [decode(kept.getvalue(), SIZE) for kept in (buffer, garbage)]

    for picture in found:
        assert np.abs(picture.astype(int) - np.asarray(_quarters()).transpose(2, 0, 1)).mean() < 12
    assert not recwarn.list
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>", "no picture format that Pillow knows"),
        (b"", "the file is empty"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(300), "it holds HEIC: pip install pillow-heif"),
    ],
)
def test_why_a_picture_cannot_be_read(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode(content, 32)

    assert str(caught.value) == reason


def test_a_file_cut_off_gives_the_same_reason_wherever_it_ends() -> None:
    buffer = io.BytesIO()
    _quarters().resize((400, 400)).save(buffer, "JPEG")

    for cut in (200, 300):
        with pytest.raises(ValueError, match=r"^image file is truncated$"):
            decode(buffer.getvalue()[:-cut], 32)


@pytest.mark.parametrize("most", [SIZE * SIZE // 3, SIZE * SIZE - 1])
def test_decompression_bombs_are_refused(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that Pillow refuses, and those that it only warns of."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    buffer = io.BytesIO()
    _quarters().save(buffer, "PNG")

    with quiet_pillow(), pytest.raises(ValueError, match="more pixels than Pillow takes for safe"):
        decode(buffer.getvalue(), 32)


@pytest.mark.skipif(sys.platform != "linux", reason="libtiff is found by what Linux says of this process")
def test_libtiff_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    _quarters().save(buffer, "TIFF", compression="tiff_deflate")
    content = bytearray(buffer.getvalue())
    content[8:40] = bytes(32)

    with quiet_pillow(), pytest.raises(ValueError):
        decode(bytes(content), 32)
    assert capfd.readouterr().err == ""


def test_a_mode_that_cannot_be_converted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("no littlecms")

    monkeypatch.setattr("nas.data.pictures._from_lab", fail)

    with pytest.raises(ValueError, match="mode LAB: no littlecms; convert it to RGB"):
        with_rgb(Image.new("LAB", (4, 4)))


def test_kinds_that_pillow_cannot_load_are_no_pictures() -> None:
    kinds = picture_suffixes()

    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".bmp", ".gif", ".avif", ".jp2"} <= kinds
    assert not kinds & {".mpg", ".hdf", ".h5", ".eps", ".pdf", ".heic", ".parquet"}


def test_heic_is_read_where_the_plug_in_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: monkeypatch.setitem(Image.EXTENSION, ".heic", "PNG")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)

    assert ".heic" in picture_suffixes()


def test_exif_of_another_type_says_nothing() -> None:
    picture = _quarters()
    picture.getexif()[0x0112] = "6"

    assert upright(picture) is picture


def _quarters() -> Image.Image:
    """Four quarters of different colours, so that every way to turn it shows."""
    picture = Image.new("RGB", (SIZE, SIZE), RED)
    half = SIZE // 2
    picture.paste((60, 200, 60), (half, 0, SIZE, half))
    picture.paste((60, 60, 200), (0, half, half, SIZE))
    picture.paste((220, 220, 220), (half, half, SIZE, SIZE))
    return picture


def _turned_back(picture: Image.Image, orientation: int) -> Image.Image:
    turn = Image.Transpose
    methods = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE}
    methods |= {6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270}
    return picture.transpose(methods[orientation]) if orientation > 1 else picture


def _palette(shades: Image.Image) -> Image.Image:
    """Indices that are grey levels, with their opacity if the shades have any."""
    picture = Image.frombytes(shades.mode.replace("L", "P"), shades.size, shades.tobytes())
    picture.putpalette([level for level in range(256) for _ in range(3)])
    return picture


def _lab() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
