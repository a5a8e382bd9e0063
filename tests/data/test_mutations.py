"""Mutated pictures, tables and annotations are read or refused in one line: no other error, no word on stderr.

A few hundred in CI. By hand, `NAS_MUTATIONS=50000 pytest tests/data/test_mutations.py` tries as many pictures, and a
quarter as many tables and annotations each.
"""

from __future__ import annotations

import io
import json
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
    "PNG": ("RGB", "P", "LA", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "TIFF": ("RGB", "P", "I", "I;16", "F", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB",),
    "GIF": ("P",),
    "BMP": ("RGB", "P"),
    "JPEG2000": ("RGB", "I;16"),
    "MPO": ("RGB",),
    "ICO": ("RGBA",),
    "PPM": ("RGB", "L", "I", "1"),
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


def test_mutated_tables(tmp_path: Path) -> None:
    pictures = [_picture("PNG", "RGB", shade) for shade in range(8)]
    for index, content in enumerate(pictures):
        (tmp_path / f"{index}.png").write_bytes(content)
    paths = [f"{index}.png" for index in range(8)]
    structs = [{"bytes": content, "path": "x.png"} for content in pictures]
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    originals = []
    for images, labels, metadata in (
        (pictures, [0, 1] * 4, None),
        (structs, ["cat", "dog"] * 4, None),
        (structs, [0, 1] * 4, note),
        (paths, [0, 1] * 4, None),
        ([{"bytes": None, "path": path} for path in paths], [0, 1] * 4, note),
    ):
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / "x.parquet")
        originals.append((tmp_path / "x.parquet").read_bytes())
    for seed in range(MUTATIONS // 4):  # each takes 25 ms
        content = originals[seed % len(originals)]
        (tmp_path / "x.parquet").write_bytes(_mutated(content, random.Random(seed), tail=1500))
        _load(tmp_path / "x.parquet", seed)


def test_mutated_annotations(tmp_path: Path) -> None:
    """Of pictures in one folder, and of two with the same name in two folders."""
    lines = []
    for index in range(4):
        for split, name in (("train", ("cat", "dog")[index % 2]), ("val", f"images{index // 2}")):
            path = tmp_path / split / name / f"{index % 2 if split == 'val' else index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_picture("PNG", "RGB", len(lines) + 10 * len(split)))
            if split == "val":
                lines.append(f"{name}/{path.name}\t{('cat', 'dog')[index % 2]}\t0\t32\t44\t62\n")
    for seed in range(MUTATIONS // 4):  # each takes 10 ms
        mutated = _mutated("".join(lines).encode(), random.Random(seed))
        (tmp_path / "val" / "val_annotations.txt").write_bytes(mutated)
        _load(tmp_path, seed)


def _load(source: Path, seed: int) -> None:
    try:
        load_images(str(source), resolution=32, seed=0)
    except InputError as error:
        assert "\n" not in str(error), seed
        assert len(str(error)) < 600, seed


def _picture(kind: str, mode: str, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture = picture.convert("L").convert(mode) if mode in ("1", "I", "I;16", "F", "LA") else picture.convert(mode)
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
