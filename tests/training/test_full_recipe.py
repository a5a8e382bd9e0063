"""The recipe of a full training: what it is by default, and how a file changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.errors import InputError
from nas.training.full_recipe import TrainingRecipe

WHOLE = """
label_smoothing = 0.2
drop_path = 0.3
crop = 0.9
[optimisation]
epochs = 7
batch_size = 16
rate = 0.002
lowest_rate = 1e-5
weight_decay = 0.01
betas = [0.8, 0.95]
schedule = "step"
warmup_epochs = 0.5
drops = [3, 5]
ema = 0.99
clip = 1.5
accumulate = 2
[augmentation]
rand_augment = ""
crop_scale = [0.5, 0.9]
flip = 0.1
interpolation = "bilinear"
erasing = 0.3
mixup = 0.4
cutmix = 0.6
switch = 0.7
[distillation]
kind = "soft"
alpha = 0.9
temperature = 3.0
"""


def test_on_imagenet_it_is_the_papers() -> None:
    recipe = TrainingRecipe.fitted(1_281_167)
    optimisation, changes = recipe.optimisation, recipe.augmentation

    assert (
        optimisation.epochs,
        optimisation.batch_size,
        optimisation.rate,
        optimisation.weight_decay,
        optimisation.betas,
        optimisation.schedule,
        optimisation.warmup_epochs,
    ) == (300, 4096, 4e-3, 0.05, (0.9, 0.999), "cosine", 20.0)
    assert (optimisation.ema, optimisation.clip) == (0.0, 0.0)
    assert (
        changes.rand_augment,
        changes.interpolation,
        changes.erasing,
        changes.mixup,
        changes.cutmix,
        changes.switch,
    ) == ("rand-m9-mstd0.5-inc1", "bicubic", 0.25, 0.8, 1.0, 0.5)
    assert (recipe.label_smoothing, recipe.distillation.kind, recipe.distillation.alpha) == (0.1, "hard", 0.5)


@pytest.mark.parametrize(
    ("images", "batch", "rate"),
    [(100, 32, 3.54e-4), (9_469, 128, 7.1e-4), (100_000, 1024, 2e-3), (204_800, 4096, 4e-3)],
)
def test_fewer_images_make_smaller_steps(images: int, batch: int, rate: float) -> None:
    optimisation = TrainingRecipe.fitted(images).optimisation

    assert batch == optimisation.batch_size
    assert optimisation.rate == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    ("epochs", "erasing", "mixup", "cutmix"), [(300, 0.25, 0.8, 1.0), (100, 0, 0.1, 1.0), (20, 0, 0, 0)]
)
def test_short_trainings_change_images_less(epochs: int, erasing: float, mixup: float, cutmix: float) -> None:
    changes = TrainingRecipe.fitted(10_000, epochs=epochs).augmentation

    assert (erasing, mixup, cutmix) == (changes.erasing, changes.mixup, changes.cutmix)


def test_every_line_of_a_file_counts(tmp_path: Path) -> None:
    import tomllib

    (tmp_path / "r.toml").write_text(WHOLE)
    recipe = TrainingRecipe.of_file(tmp_path / "r.toml", 1_000)

    def lists(value: object) -> object:
        if isinstance(value, dict):
            return {name: lists(one) for name, one in value.items()}
        return list(value) if isinstance(value, tuple) else value

    assert tomllib.loads(WHOLE) == lists(recipe.model_dump())  # all lines, and no field without one


def test_a_file_may_say_a_part_only(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[optimisation]\nrate = 0.5\n")
    fitted = TrainingRecipe.fitted(1_000)
    recipe = TrainingRecipe.of_file(tmp_path / "r.toml", 1_000)

    assert recipe.optimisation.rate == 0.5
    assert fitted == recipe.model_copy(update={"optimisation": fitted.optimisation})


def test_what_follows_from_the_epochs_of_a_file_is_fitted_to_them(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[optimisation]\nepochs = 10\n")
    recipe = TrainingRecipe.of_file(tmp_path / "r.toml", 1_000)

    assert recipe == TrainingRecipe.fitted(1_000, epochs=10)
    with pytest.raises(InputError, match=r"optimisation.epochs is in it: leave --epochs or the line out"):
        TrainingRecipe.of_file(tmp_path / "r.toml", 1_000, epochs=20)


def test_large_networks_have_stochastic_depth() -> None:
    assert [TrainingRecipe.fitted(1_000, params=params).drop_path for params in (8_900_000, 14_700_000)] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rate = ", "r.toml: not TOML"),
        ("[optimisation]\nrat = 1", r"r.toml: optimisation.rat: "),
        ("[optimisation]\nepochs = 0", r"r.toml: optimisation.epochs: input should be greater than 0, got 0"),
        ("[augmentation]\nflip = 2", r"r.toml: augmentation.flip: input should be less than or equal to 1, got 2"),
        ("optimisation = 3", r"r.toml: optimisation: "),
        (
            "[augmentation]\ncrop_scale = [1.0, 0.08]",
            r"augmentation: crop_scale must be two shares above 0, the smaller",
        ),
        (
            "[augmentation]\ncrop_scale = [0.0, 0.5]",
            r"augmentation: crop_scale must be two shares above 0, the smaller",
        ),
        ("[augmentation]\nmixup = 1e300", r"augmentation.mixup: input should be less than or equal to 100"),
        ("crop = 1e-9", r"r.toml: crop: input should be greater than or equal to 0.1"),
        ("[optimisation]\ndrops = [5, -1]", r"r.toml: optimisation.drops\[1\]: input should be greater than 0"),
        ("[optimisation]\nepochs = 1000001", r"r.toml: optimisation.epochs: input should be less than or equal to 1"),
        (f"[optimisation]\nbatch_size = {10**400}", r"r.toml: optimisation.batch_size: "),
        ("[optimisation]\nepochs = 'ten'", r"r.toml: optimisation.epochs: "),
        ("[optimisation]\nepochs = 3\nwarmup_epochs = 3", r"warmup_epochs must be fewer than the 3 epochs, got 3"),
        ("[distillation]\nkind = 'cold'", r"r.toml: distillation.kind: "),
    ],
)
def test_bad_files_are_one_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)

    with pytest.raises(InputError, match=says) as caught:
        TrainingRecipe.of_file(tmp_path / "r.toml", 1_000)
    assert "\n" not in str(caught.value)
