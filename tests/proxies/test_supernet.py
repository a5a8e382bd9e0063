from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from nas.data import ImageSet
from nas.errors import InputError
from nas.networks import SearchSpace
from nas.proxies import ScoringFailed, build_proxies
from nas.proxies.supernet import InheritedWeights
from nas.training import SupernetRecipe, Teacher, load_supernet, train_supernet

SPACE = SearchSpace.find("tiny")


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
    """A folder of class folders with twelve black images each."""
    for name in classes:
        (folder / name).mkdir()
        for index in range(12):
            Image.new("RGB", (32, 32)).save(folder / name / f"{index}.png")
