from pathlib import Path

import pytest

from nas.dense.coco import CocoFolder
from nas.dense.masks import MaskFolder
from nas.dense.recipe import DetectionRecipe, SegmentationRecipe, fitted, of_file
from nas.errors import InputError


def read(text: str, coco: Path, folder: Path, **sizes: int) -> DetectionRecipe | SegmentationRecipe:
    (folder / "r.toml").write_text(text)
    return of_file(folder / "r.toml", CocoFolder.read(coco), **sizes)


def test_the_defaults_are_the_papers() -> None:
    recipe = DetectionRecipe()

    assert (recipe.resolution, recipe.window, recipe.optimisation.epochs) == (512, 16, 12)
    assert SegmentationRecipe().model.steps == 2000


def test_fewer_pictures_make_smaller_steps_and_a_shorter_warm_up(coco: Path, masks: Path) -> None:
    detection, segmentation = fitted(CocoFolder.read(coco), epochs=24), fitted(MaskFolder.read(masks))

    assert isinstance(detection, DetectionRecipe) and isinstance(segmentation, SegmentationRecipe)
    assert (detection.optimisation.batch_size, segmentation.optimisation.batch_size) == (8, 8)
    assert (detection.optimisation.drops, detection.optimisation.warmup_epochs) == ((16, 22), 2.4)


def test_a_file_says_what_differs(coco: Path, tmp_path: Path) -> None:
    recipe = read("window = 0\n[optimisation]\nrate = 1e-3\n[model]\nshort = 400\n", coco, tmp_path)

    assert isinstance(recipe, DetectionRecipe)
    assert (recipe.window, recipe.optimisation.rate, recipe.optimisation.epochs) == (0, 1e-3, 12)
    assert (recipe.model.short, recipe.model.long) == (400, 1333)


def test_the_rest_is_fitted_to_epochs_and_batch_size_of_the_file(coco: Path, tmp_path: Path) -> None:
    recipe = read("[optimisation]\nepochs = 24\nbatch_size = 2\n", coco, tmp_path)

    assert recipe == fitted(CocoFolder.read(coco), epochs=24, batch_size=2)
    assert recipe.optimisation.drops == (16, 22)


def test_the_file_wins_over_what_is_fitted(coco: Path, tmp_path: Path) -> None:
    text = "[optimisation]\nepochs = 24\ndrops = [20]\nwarmup_epochs = 0.5\n"
    optimisation = read(text, coco, tmp_path, batch_size=4).optimisation

    assert (optimisation.epochs, optimisation.batch_size) == (24, 4)
    assert (optimisation.drops, optimisation.warmup_epochs) == ((20,), 0.5)


@pytest.mark.parametrize(("name", "option"), [("epochs", "--epochs"), ("batch_size", "--batch-size")])
def test_file_and_option_do_not_say_the_same(name: str, option: str, coco: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(f"[optimisation]\n{name} = 4\n", coco, tmp_path, **{name: 4})

    assert str(caught.value) == f"{tmp_path}/r.toml: optimisation.{name} is in it: leave {option} or the line out"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[model]\ncrop = 3\n", "model.crop"),
        ("norms = 'none'\n", "norms"),
        ("[", "not TOML"),
        ("optimisation = 3\n", "optimisation"),
        ("[optimisation]\nepochs = 'all'\n", "optimisation.epochs"),
        ("[optimisation]\nbatch_size = 0\n", "optimisation.batch_size"),
    ],
)
def test_what_breaks_a_rule_is_named(text: str, words: str, coco: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(text, coco, tmp_path)

    assert words in str(caught.value) and "\n" not in str(caught.value)
