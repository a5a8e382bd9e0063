from pathlib import Path

import pytest

from nas.dense.coco import CocoFolder
from nas.dense.masks import MaskFolder
from nas.dense.recipe import DetectionRecipe, SegmentationRecipe, fitted
from nas.errors import InputError


def test_the_defaults_are_the_papers() -> None:
    recipe = DetectionRecipe()

    assert (recipe.resolution, recipe.window, recipe.optimisation.epochs) == (512, 16, 12)
    assert SegmentationRecipe().model.steps == 2000


def test_fewer_pictures_make_smaller_steps_and_a_shorter_warm_up(coco: Path, masks: Path) -> None:
    detection, segmentation = fitted(CocoFolder.read(coco), epochs=24), fitted(MaskFolder.read(masks))

    assert isinstance(detection, DetectionRecipe) and isinstance(segmentation, SegmentationRecipe)
    assert (detection.optimisation.batch_size, segmentation.optimisation.batch_size) == (8, 8)
    assert (detection.optimisation.drops, detection.optimisation.warmup_epochs) == ((16, 22), 2.4)


def test_a_file_says_what_differs(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("window = 0\n[optimisation]\nrate = 1e-3\n[model]\nshort = 400\n")

    recipe = DetectionRecipe().changed_by(tmp_path / "r.toml")

    assert (recipe.window, recipe.optimisation.rate, recipe.optimisation.epochs) == (0, 1e-3, 12)
    assert (recipe.model.short, recipe.model.long) == (400, 1333)


@pytest.mark.parametrize(
    ("text", "words"), [("[model]\ncrop = 3\n", "model.crop"), ("norms = 'none'\n", "norms"), ("[", "not TOML")]
)
def test_what_breaks_a_rule_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)

    with pytest.raises(InputError) as caught:
        DetectionRecipe().changed_by(tmp_path / "r.toml")

    assert words in str(caught.value) and "\n" not in str(caught.value)
