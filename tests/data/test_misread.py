"""Kinds of files that Pillow reads otherwise than they mean it: put right, or refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.data.pictures import decode

N = 32
RAMP = np.tile(np.linspace(0, 1, N), (N, 1))  # from left to right
COLOURS = np.stack([RAMP, 1 - RAMP, np.full_like(RAMP, 0.5)], 2)
WHOLE, SIGNED, FLOAT = 1, 2, 3


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("order", "kind", "photometric", "form"),
    [
        ("<", "u2", 1, WHOLE),
        (">", "u2", 1, WHOLE),
        ("<", "i2", 1, SIGNED),
        (">", "i2", 1, SIGNED),
        ("<", "u4", 1, WHOLE),
        ("<", "i4", 1, SIGNED),
        (">", "i4", 1, SIGNED),
        ("<", "f4", 1, FLOAT),
        (">", "f4", 1, FLOAT),
        ("<", "u2", 0, WHOLE),
    ],
)
def test_deep_grey_of_tiff_keeps_its_values(
    order: str, kind: str, photometric: int, form: int, compressed: bool
) -> None:
    top = 1.0 if form == FLOAT else np.iinfo(kind).max
    values = ((RAMP * 2 - 1) * top if form == SIGNED else RAMP * top).astype(order + kind)
    content = _tiff(
        order, [values.tobytes()], form=form, bits=8 * int(kind[1]), photometric=photometric, deflate=compressed
    )

    found = decode(content, N)

    np.testing.assert_allclose(found, (top - values) if photometric == 0 else values, rtol=1e-6)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_bytes_are_grey_around_zero(order: str, compressed: bool) -> None:
    values = (RAMP * 255 - 128).astype("i1")

    found = decode(_tiff(order, [values.tobytes()], form=SIGNED, bits=8, deflate=compressed), N)

    np.testing.assert_array_equal(found[0], values.astype(int) + 128)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_where_zero_is_white(bits: int) -> None:
    values = np.rint(RAMP * (2**bits - 1)).astype(int)
    packed = int("".join(f"{value:0{bits}b}" for value in values.ravel()), 2).to_bytes(N * N * bits // 8, "big")

    found = decode(_tiff("<", [packed], bits=bits, photometric=0), N)

    np.testing.assert_allclose(found[0], 255 - values * 255 / (2**bits - 1), atol=1)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("order", "kind"), [("<", "u1"), ("<", "u2"), (">", "u2")])
def test_colours_of_tiff_together_and_apart(order: str, kind: str, apart: bool, compressed: bool) -> None:
    values = (COLOURS * np.iinfo(kind).max).astype(order + kind)
    strips = [values[..., band].tobytes() for band in range(3)] if apart else [values.tobytes()]

    found = decode(_tiff(order, strips, bits=8 * int(kind[1]), photometric=2, samples=3, deflate=compressed), N)

    np.testing.assert_allclose(found.transpose(1, 2, 0), COLOURS * 255, atol=1.5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"bits": 64, "form": FLOAT},
            "a TIFF that Pillow does not know: 1 x 64-bit floating-point numbers",
        ),
        ({"bits": 64}, "1 x 64-bit whole numbers, photometric 1; convert it to 8-bit RGB or 16-bit grey"),
        ({"bits": 32, "order": ">"}, "1 x 32-bit whole numbers, photometric 1; convert it"),
        ({"bits": 16, "photometric": 0, "form": SIGNED}, "1 x 16-bit signed numbers, photometric 0; convert it"),
        ({"bits": 16, "form": FLOAT}, "1 x 16-bit floating-point numbers, photometric 1; convert it"),
        (
            {"bits": 32, "form": FLOAT, "photometric": 2, "samples": 3},
            "3 x 32-bit floating-point numbers, photom",
        ),
        (
            {"bits": 32, "form": FLOAT, "photometric": 0},
            "a TIFF of floating-point grey where zero is white; conv",
        ),
        (
            {"bits": 8, "photometric": 6, "samples": 3, "more": {530: (3, [2, 2])}},
            "a TIFF of YCbCr with fewer samples of colour, without compression; convert it to RGB",
        ),
    ],
)
def test_kinds_of_tiff_that_are_not_read_are_named(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(_tiff(options.pop("order", "<"), [bytes(8 * N * N * 3)], **options), N)


@pytest.mark.parametrize(
    ("bits", "values", "cards", "expected"),
    [
        (16, (RAMP * 2 - 1) * 32_767, {}, (RAMP * 2 - 1) * 32_767),
        (16, RAMP * 65_535 - 32_768, {"BZERO": "32768"}, RAMP * 65_535),
        (16, RAMP * 1000, {"BSCALE": "1.5D0", "BZERO": "7 / offset"}, RAMP * 1500 + 7),
        (32, (RAMP * 2 - 1) * 2e9, {}, (RAMP * 2 - 1) * 2e9),
        (-32, RAMP, {}, RAMP),
    ],
)
def test_fits_keeps_its_values(bits: int, values: Any, cards: dict[str, str], expected: Any) -> None:
    shape = {"BITPIX": bits, "NAXIS": 2, "NAXIS1": N, "NAXIS2": N}
    lines = [
        "SIMPLE  =                    T",
        *(f"{name:8}= {value:>20}" for name, value in {**shape, **cards}.items()),
    ]
    header = "".join(line.ljust(80) for line in [*lines, "END"]).ljust(2880).encode()
    kind = {16: ">i2", 32: ">i4", -32: ">f4"}[bits]

    found = decode(header + values.astype(kind).tobytes() + bytes(2880), N)

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2)


@pytest.mark.parametrize(
    ("bits", "kind", "values", "clear", "expected"),
    [
        (16, 0, RAMP, None, RAMP * 65_535),
        (16, 0, RAMP, [0], np.where(RAMP == 0, 65_535, RAMP * 65_535)),
        (16, 2, COLOURS, None, COLOURS * 255),
        (16, 4, np.stack([RAMP, np.ones_like(RAMP)], 2), None, RAMP[..., None].repeat(3, 2) * 255),
        (8, 4, np.stack([RAMP, np.zeros_like(RAMP)], 2), None, np.full((N, N, 3), 255)),
    ],
    ids=["grey", "grey, one clear", "RGB", "LA", "clear LA"],
)
def test_deep_png(bits: int, kind: int, values: Any, clear: list[int] | None, expected: Any) -> None:
    raw = (values * (2**bits - 1)).astype(">u2" if bits == 16 else "u1")
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", N, N, bits, kind, 0, 0, 0))]
    chunks += [(b"tRNS", struct.pack(f">{len(clear)}H", *clear))] if clear else []
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in raw))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]

    found = decode(b"\x89PNG\r\n\x1a\n" + b"".join(parts), N)

    np.testing.assert_allclose(found if found.ndim == 2 else found.transpose(1, 2, 0), expected, atol=1.5)


@pytest.mark.parametrize("transform", ["CMYK", "YCCK"])
def test_jpeg_of_four_channels_as_adobe_writes_it(transform: str) -> None:
    """All four inverted; of YCCK the first three are YCbCr of cyan, magenta and yellow."""
    cmyk = np.concatenate([1 - COLOURS, np.zeros((N, N, 1))], 2)
    values = Image.fromarray(np.rint(cmyk * 255).astype(np.uint8), "CMYK")
    if transform == "YCCK":
        luma = Image.fromarray(np.rint((1 - COLOURS) * 255).astype(np.uint8)).convert("YCbCr")
        values = Image.merge(
            "CMYK", [*(band.point([255 - level for level in range(256)]) for band in luma.split()), values.split()[3]]
        )
    buffer = io.BytesIO()
    values.save(buffer, "JPEG", quality=100, subsampling=0)
    content = bytearray(buffer.getvalue())
    content[content.index(b"Adobe") + 11] = 2 if transform == "YCCK" else 0

    found = decode(bytes(content), N)

    np.testing.assert_allclose(found.transpose(1, 2, 0), COLOURS * 255, atol=6)


def test_the_first_picture_of_a_stereo_camera_is_taken_upright() -> None:
    first, second = (Image.fromarray((part * 255).astype(np.uint8)) for part in (COLOURS, 1 - COLOURS))
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 2
    first.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        buffer, "MPO", save_all=True, append_images=[second], exif=exif, quality=100, subsampling=0
    )

    found = decode(buffer.getvalue(), N)

    np.testing.assert_allclose(found.transpose(1, 2, 0), COLOURS * 255, atol=6)


def _tiff(
    order: str,
    strips: Sequence[bytes],
    *,
    bits: int,
    form: int = WHOLE,
    photometric: int = 1,
    samples: int = 1,
    deflate: bool = False,
    more: dict[int, tuple[int, list[int]]] | None = None,
) -> bytes:
    """A TIFF file by hand: Pillow does not write most kinds. Several strips are channels, each on its own."""
    data = [zlib.compress(strip) for strip in strips] if deflate else list(strips)
    tags = {256: (4, [N]), 257: (4, [N]), 258: (3, [bits] * samples), 259: (3, [8 if deflate else 1])}
    tags |= {262: (3, [photometric]), 277: (3, [samples]), 278: (4, [N]), 284: (3, [1 if len(data) == 1 else 2])}
    tags |= {273: (4, [0] * len(data)), 279: (4, list(map(len, data))), 339: (3, [form] * samples), **(more or {})}
    codes, start = {3: "H", 4: "I"}, 8 + 2 + 12 * len(tags) + 4
    sizes = {tag: struct.calcsize(f"{len(values)}{codes[kind]}") for tag, (kind, values) in tags.items()}
    first = start + sum(size for size in sizes.values() if size > 4)
    tags[273] = (4, [first + sum(map(len, data[:index])) for index in range(len(data))])
    entries = outside = b""
    for tag, (kind, values) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}{codes[kind]}", *values)
        if len(raw) > 4:
            raw, outside = struct.pack(f"{order}I", start + len(outside)), outside + raw
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + bytes(4) + outside + b"".join(data)
