from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from nas.data import ImageSet
from nas.errors import InputError
from nas.networks import SearchSpace
from nas.proxies import ScoringFailed, build_proxies
from nas.proxies.supernet import InheritedWeights
from nas.training import load_supernet

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


def _draw(folder: Path, *, classes: tuple[str, ...]) -> None:
    """A folder of class folders with twelve black images each."""
    for name in classes:
        (folder / name).mkdir()
        for index in range(12):
            Image.new("RGB", (32, 32)).save(folder / name / f"{index}.png")
