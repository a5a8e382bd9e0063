"""Mutated pictures and tables are read or refused in one line: no other error, no word on stderr.

A few hundred in CI. By hand, `NAS_MUTATIONS=50000 pytest tests/data/test_mutations.py` tries as many pictures, and a
quarter as many tables.
"""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nas.data import load_images
from nas.data.pictures import decode, quiet_pillow
from nas.errors import InputError

MUTATIONS = int(os.environ.get("NAS_MUTATIONS", "400"))
MODES = {
    "PNG": ("RGB", "P", "LA", "1"),
    "JPEG": ("RGB", "L", "CMYK"),
    "TIFF": ("RGB", "P", "I", "F", "CMYK"),
    "WEBP": ("RGBA",),
    "AVIF": ("RGB",),
    "GIF": ("P",),
    "BMP": ("RGB", "P"),
    "JPEG2000": ("RGB",),
    "ICO": ("RGBA",),
    "PPM": ("RGB", "L"),
    "TGA": ("RGB",),
    "DDS": ("RGBA",),
}


def test_mutated_pictures(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    originals = [_picture(kind, mode) for kind, modes in MODES.items() for mode in modes]
    with quiet_pillow():
        for seed in range(MUTATIONS):
            mutated = _mutated(originals[seed % len(originals)], random.Random(seed))
            try:
                shape = decode(mutated, 32).shape
            except ValueError as error:
                assert str(error).isprintable(), seed
                assert 0 < len(str(error)) < 300, seed
            else:
                assert shape in ((3, 32, 32), (32, 32)), seed

    assert capfd.readouterr().err == ""
    assert not recwarn.list


def test_mutated_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    pictures = [_picture("PNG", "RGB", shade) for shade in range(8)]
    structs = [{"bytes": content, "path": "x.png"} for content in pictures]
    originals = []
    for images, labels in ((pictures, [0, 1] * 4), (structs, ["cat", "dog"] * 4)):
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "x.parquet")
        originals.append((tmp_path / "x.parquet").read_bytes())
    for seed in range(MUTATIONS // 4):  # each takes 25 ms
        (tmp_path / "x.parquet").write_bytes(_mutated(originals[seed % 2], random.Random(seed), tail=1500))
        try:
            load_images(str(tmp_path / "x.parquet"), resolution=32, seed=0)
        except InputError as error:
            assert "\n" not in str(error), seed
            assert len(str(error)) < 600, seed


def _picture(kind: str, mode: str, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture = picture.convert("L").convert(mode) if mode in ("1", "I", "F", "LA") else picture.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    compression = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    picture.save(
        buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP", "AVIF") else {}), **compression
    )
    return buffer.getvalue()


def _mutated(original: bytes, chance: random.Random, tail: int = 0) -> bytes:
    """A few bytes changed, cut out or put in, mostly where the format keeps what it says of itself."""
    content = bytearray(original)
    for _ in range(chance.randint(1, 4)):
        where = chance.randrange(len(content))
        if chance.random() < 0.7:
            where = chance.randrange(max(0, len(content) - tail), len(content)) if tail else where % 200
        match chance.randrange(8):
            case 0:
                del content[where : where + chance.randint(1, 30)]
            case 1:
                content[where:where] = chance.randbytes(chance.randint(1, 8))
            case _:
                content[where % len(content)] = chance.choice((0, 127, 128, 255, chance.randrange(256)))
    return bytes(content)
