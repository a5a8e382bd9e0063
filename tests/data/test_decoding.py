"""Pictures of a source as the pixels of a set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import ImageSet, load_images
from nas.errors import InputError


class TestDecoding:
    @pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1", "CMYK"])
    def test_every_mode_becomes_rgb(self, folder: Path, mode: str) -> None:
        suffix = "jpg" if mode == "CMYK" else "png"
        if mode == "I;16":
            grey = Image.fromarray(np.full((40, 40), 32768, dtype=np.uint16))
        else:
            grey = Image.new("L", (40, 40), 128).convert("RGB").convert(mode)
        grey.save(folder / "cat" / f"grey.{suffix}")

        images = _load(folder)

        found = torch.cat([images.train_images, images.val_images]).float().mean((2, 3))  # (N, 3)
        target = torch.tensor([255.0, 255.0, 255.0] if mode == "1" else [128.0, 128.0, 128.0])
        if mode == "1":  # dithered to black and white
            target = torch.tensor([127.5, 127.5, 127.5])
        assert (found - target).abs().amax(1).min() < 3

    def test_centre_of_the_short_side_is_kept(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            for index in range(2):
                wide = np.zeros((32, 96, 3), dtype=np.uint8)
                wide[:, 32:64] = 200
                wide[0, 40] = 210  # a set of one colour is refused
                Image.fromarray(wide).save(tmp_path / name / f"{index}.png")

        image_set = _load(tmp_path)

        assert image_set.train_images.float().mean() > 190

    def test_camera_orientation_is_followed(self, tmp_path: Path) -> None:
        upright = np.zeros((64, 64, 3), dtype=np.uint8)
        upright[:32] = 255
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            for index in range(2):
                exif = Image.Exif()
                exif[0x0112] = 3  # orientation: rotated by 180 degrees
                Image.fromarray(upright).save(tmp_path / name / f"{index}.jpg", exif=exif)

        image_set = _load(tmp_path)

        assert image_set.train_images[0, :, 20:].float().mean() > 240

    def test_statistics_are_those_of_the_training_images(self, folder: Path) -> None:
        image_set = _load(folder)

        pixels = image_set.train_images.double().div(255).transpose(0, 1).flatten(1)
        assert image_set.mean == pytest.approx(pixels.mean(1).tolist())
        assert image_set.std == pytest.approx(pixels.std(1, correction=0).tolist())


class TestContrast:
    @pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
    def test_levels_of_deep_grey_tell_classes(self, tmp_path: Path, kind: type) -> None:
        scale = 1 / 65_535 if kind is np.float32 else 1
        for name, level in (("cold", 12_000), ("hot", 40_000)):
            (tmp_path / name).mkdir()
            for index in range(4):
                values = np.random.default_rng(index).normal(level, 2000, (48, 48)) * scale
                Image.fromarray(values.astype(kind)).save(tmp_path / name / f"{index}.tif")

        image_set = _load(tmp_path)

        means = image_set.train_images.float().mean((1, 2, 3))
        for mean, label in zip(means.tolist(), image_set.train_labels.tolist(), strict=True):
            assert abs(mean - (47, 156)[label]) < 2
        assert image_set.train_images[0].float().std() > 3

    def test_deep_grey_beside_colours_is_on_the_same_scale(self, pets: Path) -> None:
        for index in range(4):
            (pets / "fog").mkdir(exist_ok=True)
            Image.fromarray(np.full((40, 40), 32_768, dtype=np.uint16)).save(pets / "fog" / f"{index}.png")

        image_set = _load(pets)

        fog = image_set.train_images[image_set.train_labels == image_set.class_names.index("fog")]
        assert fog.unique().tolist() == [128]

    def test_a_set_of_one_colour_is_refused(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            for index in range(3):
                Image.new("RGB", (40, 40), (9, 20, 255)).save(tmp_path / name / f"{index}.png")

        with pytest.raises(InputError, match=r"one and the same plain colour \(R, G, B 9, 20, 255 of 255\)"):
            _load(tmp_path)


def _load(source: Path, *, seed: int = 0, **options: object) -> ImageSet:
    return load_images(str(source), resolution=32, seed=seed, **options)
