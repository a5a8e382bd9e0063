from __future__ import annotations

from pathlib import Path

import pytest

from nas.data import DataSource
from nas.errors import InputError
from nas.search.images import ScoredImages


@pytest.mark.parametrize("other", ["masks", "annotations"])
def test_masks_are_not_taken_for_two_classes(tmp_path: Path, other: str) -> None:
    for name in ("images", other, ".cache"):
        (tmp_path / "city" / name).mkdir(parents=True)

    with pytest.raises(InputError, match="city: has folders of images and masks, and none of classes: --task segment"):
        ScoredImages(str(tmp_path / "city"), task="classify", seed=0)


def test_classes_with_such_names_among_others_are_classes(tmp_path: Path) -> None:
    for name in ("images", "masks", "hats"):
        (tmp_path / name).mkdir()

    assert ScoredImages(str(tmp_path), task="classify", seed=0).recipe.images == 64_000


def test_a_folder_without_masks_is_none_to_segment(tmp_path: Path) -> None:
    images = ScoredImages(str(tmp_path), task="segment", seed=0)

    with pytest.raises(InputError, match="must have the folders images and masks"):
        images.load()


def test_there_are_no_drawn_masks_and_no_options_of_tables() -> None:
    for source, message in (
        ("synthetic", "--task segment: there are no drawn pictures with masks"),
        (
            DataSource(name="city", label="x"),
            "--option label=x names a column of Parquet files, shards or the hub; city is a",
        ),
        (DataSource(name="city", skip_broken=True), "--option skip_broken=true is of pictures with classes"),
    ):
        with pytest.raises(InputError, match=message):
            ScoredImages(source, task="segment", seed=0)
