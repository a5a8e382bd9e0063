"""Classification as a task: what every line of a recipe does to pictures and labels, and how a network is judged."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from nas.data import DataSource
from nas.data.protocol import Protocol
from nas.data.stream import PictureSet, open_pictures
from nas.errors import InputError
from nas.networks import Architecture, SearchSpace
from nas.networks.modules import build_model
from nas.training.classify import Classification, _Changed, _Middle
from nas.training.distil import FullTeacher, distillation_loss, full_teacher
from nas.training.full_recipe import Distillation, TrainingRecipe
from nas.training.optimisation import Optimisation
from nas.training.randomness import seed_all

CPU = torch.device("cpu")
SPACE = SearchSpace.find("tiny")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SOFT = torch.tensor([[0.0, 1.0]]).softmax(1)  # of logits 0 and 2 at a temperature of 2
PLAIN: dict[str, Any] = {
    "rand_augment": "",
    "crop_scale": (1.0, 1.0),
    "flip": 0.0,
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}

pytestmark = pytest.mark.usefixtures("timm")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    """Gradients of two colours, 40 by 56 pixels: a mirrored, cropped or turned one differs."""
    folder = tmp_path_factory.mktemp("gradients")
    ramp = np.linspace(0, 255, 56).astype(np.uint8)[None, :].repeat(40, 0)
    for channel, name in enumerate(("blue", "red")):
        for split, count in (("train", 12), ("val", 5)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.zeros((40, 56, 3), dtype=np.uint8)
                pixels[..., 2 * channel] = ramp
                pixels[..., 1] = 20 * index
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return open_pictures(str(folder), seed=0)


@pytest.fixture
def damaged(pictures: PictureSet, tmp_path: Path) -> PictureSet:
    """The same, but the first picture of each split cannot be read."""
    copy = tmp_path / "damaged"
    shutil.copytree(pictures.train.source, copy)
    for split in ("train", "val"):
        (copy / split / "blue" / "0.png").write_bytes(b"broken")
    return open_pictures(DataSource(name=str(copy), skip_broken=True), seed=0)


def recipe(changes: dict[str, Any] | None = None, **others: Any) -> TrainingRecipe:
    optimisation = Optimisation(epochs=2, batch_size=others.pop("batch_size", 8), rate=1e-3, **others.pop("more", {}))
    return TrainingRecipe.model_validate(
        {"optimisation": optimisation, "augmentation": {**PLAIN, **(changes or {})}, **others}
    )


def task(
    pictures: PictureSet, used: TrainingRecipe, *, seed: int = 0, teacher: FullTeacher | None = None, workers: int = 0
) -> Classification:
    network = build_model(architecture(pictures.num_classes), distillation=teacher is not None)
    return Classification(network, pictures, used, seed=seed, device=CPU, teacher=teacher, workers=workers)


def architecture(classes: int) -> Architecture:
    return SPACE.references["tiny_a"].at(resolution=32, num_classes=classes)


class Seen(nn.Module):
    """Keeps the images that it is given, and gives the same logits for all."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.images = torch.empty(0)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.images = images.detach().clone()
        return tuple(torch.tensor([[0.5 + head, -1.0]]).repeat(len(images), 1) for head in range(self.heads))


def seen(pictures: PictureSet, used: TrainingRecipe, *, epoch: int = 0) -> tuple[Tensor, float]:
    """The images of the first batch as the network gets them, and the loss."""
    it, module = task(pictures, used), Seen()
    seed_all(3)
    loss, count = it.loss(module, next(it.batches(epoch, done=0)))
    assert count == 8
    return module.images, float(loss)


class TestBatches:
    def test_every_picture_is_seen_once_an_epoch_and_in_another_order_in_the_next(self, pictures: PictureSet) -> None:
        it = task(pictures, recipe())
        first, second = (list(it.batches(epoch, done=0)) for epoch in (0, 1))

        assert it.steps == len(first) == 3
        both = [torch.cat([pixels for pixels, _ in epoch]).flatten(1) for epoch in (first, second)]
        rows = [{tuple(row) for row in pixels.tolist()} for pixels in both]
        assert len(rows[0]) == 24
        assert rows[0] == rows[1]
        assert not torch.equal(*both)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_batches_from_a_step_on_are_those_of_the_whole_epoch(self, workers: int, pictures: PictureSet) -> None:
        used = recipe({"rand_augment": "rand-m9-mstd0.5-inc1", "crop_scale": (0.1, 1.0), "flip": 0.5})
        whole = list(task(pictures, used).batches(1, done=0))
        rest = list(task(pictures, used, workers=workers).batches(1, done=1))

        for (pixels, labels), (same, known) in zip(whole[1:], rest, strict=True):
            assert torch.equal(pixels, same)
            assert torch.equal(labels, known)

    def test_another_seed_gives_other_batches(self, pictures: PictureSet) -> None:
        one, other = (next(task(pictures, recipe(), seed=seed).batches(0, done=0))[0] for seed in (0, 1))

        assert not torch.equal(one, other)

    def test_accumulated_parts_are_the_batch(self, pictures: PictureSet) -> None:
        whole = next(task(pictures, recipe()).batches(0, done=0))
        parts = next(task(pictures, recipe(more={"accumulate": 2})).batches(0, done=0))

        assert [len(labels) for _, labels in parts] == [4, 4]
        assert torch.equal(whole[0], torch.cat([pixels for pixels, _ in parts]))

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_broken_picture_is_one_line_from_any_process(self, workers: int, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / "train" / name).mkdir(parents=True)
            (tmp_path / "val" / name).mkdir(parents=True)
            for split in ("train", "val"):
                for index in range(8):
                    Image.new("RGB", (40, 40)).save(tmp_path / split / name / f"{index}.png")
        (tmp_path / "train/b/3.png").write_bytes(b"no picture")
        it = task(open_pictures(str(tmp_path), seed=0), recipe(), workers=workers)

        with pytest.raises(InputError, match=r"^\S+: \S+/3.png cannot be read \([^\n]*\); remove it[^\n]*$"):
            list(it.batches(0, done=0))

    def test_what_workers_read_can_be_sent_to_them(self, pictures: PictureSet) -> None:
        """Where processes do not begin as copies: macOS, Windows, Python 3.14."""
        used = recipe({"rand_augment": "rand-m9-mstd0.5-inc1"})
        change = task(pictures, used)._change
        for frame, seed in ((change, 0), (_Middle(Protocol(resolution=32)), None)):
            dataset = _Changed(pictures.train, frame, None, seed)
            sent = pickle.loads(pickle.dumps(dataset))
            (one, _), (other, _) = dataset[0, 3], sent[0, 3]
            assert torch.equal(one, other)

    @pytest.mark.parametrize(
        ("used", "says"),
        [
            (recipe(batch_size=32), "fewer than the 32 of a step; give a smaller --batch-size"),
            (recipe(batch_size=9, more={"accumulate": 2}), "batch_size 9: must be a multiple of 2, for 1 processes"),
            (recipe({"mixup": 0.5}, batch_size=9), "batch_size 9: must be a multiple of 2, .* mixing in pairs"),
        ],
    )
    def test_batches_that_do_not_fit_are_refused(self, used: TrainingRecipe, says: str, pictures: PictureSet) -> None:
        with pytest.raises(InputError, match=says):
            task(pictures, used)


class TestChanges:
    def test_without_changes_a_picture_is_only_scaled_and_normalised(self, pictures: PictureSet) -> None:
        it = task(pictures, recipe())
        pixels, _ = next(it.batches(0, done=0))
        images, _ = seen(pictures, recipe())

        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
        torch.testing.assert_close((pixels / 255 - mean) / std, images)

    @pytest.mark.parametrize(
        "changes",
        [
            {"rand_augment": "rand-m9-mstd0.5-inc1"},
            {"crop_scale": (0.1, 0.3)},
            {"flip": 1.0},
            {"interpolation": "bilinear"},
            {"erasing": 1.0},
            {"mixup": 1.0},
            {"cutmix": 1.0},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_every_line_changes_the_images(self, changes: dict[str, Any], pictures: PictureSet) -> None:
        plain, _ = seen(pictures, recipe())
        changed, _ = seen(pictures, recipe(changes))

        assert plain.shape == changed.shape
        assert not torch.equal(plain, changed)

    def test_what_timm_cannot_read_is_named(self, pictures: PictureSet) -> None:
        with pytest.raises(InputError, match="rand_augment: timm cannot read 'banana'"):
            task(pictures, recipe({"rand_augment": "banana"}))

    @pytest.mark.parametrize(("batch_size", "accumulate", "parts"), [(1, 1, 1), (8, 8, 8)])
    def test_a_part_of_one_image_has_no_batch_norm(
        self, batch_size: int, accumulate: int, parts: int, pictures: PictureSet
    ) -> None:
        with pytest.raises(InputError, match=rf"each of {parts} parts of a step needs 2 images"):
            task(pictures, recipe(batch_size=batch_size, more={"accumulate": accumulate}))

    def test_rand_augment_posterizes_to_any_number_of_bits(self, pictures: PictureSet) -> None:
        it = task(pictures, recipe({"rand_augment": "rand-m10-n1-inc1-p1.0"}))
        ops = next(part.ops for part in it._change.transforms if hasattr(part, "ops"))
        posterize = next(op for op in ops if op.name.startswith("Posterize"))
        picture = pictures.train.picture(0)
        assert picture is not None

        assert posterize.level_fn(10, {})[0] == 0  # what timm asks for
        posterize.prob = 1.0
        assert posterize(picture).getextrema() == ((0, 0),) * 3
        assert set(np.unique(np.asarray(posterize.aug_fn(picture, 1))[..., 0])) == {0, 128}
        assert posterize.aug_fn(picture, 8) is picture

    @pytest.mark.parametrize(("switch", "is_cut"), [(0.0, False), (1.0, True)])
    def test_switch_chooses_between_mixup_and_cutmix(self, switch: float, is_cut: bool, pictures: PictureSet) -> None:
        plain, _ = seen(pictures, recipe())
        both, _ = seen(pictures, recipe({"mixup": 1.0, "cutmix": 1.0, "switch": switch}))
        values = {round(value, 4) for value in plain.flatten().tolist()}
        old = [round(value, 4) in values for value in both.flatten().tolist()]

        assert all(old) == is_cut  # CutMix moves pixels, mixup makes new ones

    def test_flip_mirrors(self, pictures: PictureSet) -> None:
        plain, mirrored = (seen(pictures, recipe({"flip": chance}))[0] for chance in (0.0, 1.0))

        torch.testing.assert_close(plain.flip(3), mirrored, atol=0.02, rtol=0)  # scaling rounds bytes

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_labels_are_smoothed(self, smoothing: float, pictures: PictureSet) -> None:
        it = task(pictures, recipe(label_smoothing=smoothing))
        batch = next(it.batches(0, done=0))
        loss, _ = it.loss(Seen(), batch)
        logits = torch.tensor([[0.5, -1.0]]).repeat(8, 1)

        assert float(F.cross_entropy(logits, batch[1], label_smoothing=smoothing)) == pytest.approx(float(loss))

    def test_mixed_labels_are_smoothed_as_well(self, pictures: PictureSet) -> None:
        sharp, smooth = (seen(pictures, recipe({"cutmix": 1.0}, label_smoothing=each))[1] for each in (0.0, 0.4))

        assert sharp != smooth


class TestJudge:
    def test_figures_are_of_all_held_out_pictures(self, pictures: PictureSet) -> None:
        it = task(pictures, recipe(batch_size=4))
        network = it.module.network.eval()  # type: ignore[union-attr]
        with torch.no_grad():
            figures = it.judge(it.module.eval())
            logits, labels = [], []
            for position in range(len(pictures.val)):
                picture = pictures.val.picture(position)  # 56 x 40, to 50 x 36, of which the middle
                assert picture is not None
                part = np.asarray(picture.resize((50, 36), Image.Resampling.BICUBIC).crop((9, 2, 41, 34))).copy()
                mean, std = (torch.tensor(values) for values in IMAGENET)
                image = ((torch.from_numpy(part) / 255 - mean) / std).permute(2, 0, 1)
                logits.append(network(image[None])[0])
                labels.append(pictures.val.label(position))
        stacked, known = torch.stack(logits), torch.tensor(labels)

        assert figures["top1"] == pytest.approx(float((stacked.argmax(1) == known).float().mean()))
        assert figures["cross_entropy"] == pytest.approx(float(F.cross_entropy(stacked, known)), rel=1e-4)
        assert figures["top5"] == 1.0

    def test_a_picture_that_cannot_be_read_is_not_judged(self, damaged: PictureSet) -> None:
        rows = damaged.val.rows.take(np.arange(1, len(damaged.val)))
        rest = task(replace(damaged, val=replace(damaged.val, rows=rows)), recipe(batch_size=4))
        it = task(damaged, recipe(batch_size=4))
        rest.module.load_state_dict(it.module.state_dict())
        with torch.inference_mode():
            figures, expected = (one.judge(one.module.eval()) for one in (it, rest))

        assert figures == pytest.approx(expected)
        assert (it.unread, rest.unread) == (1, 0)

    def test_nothing_to_judge_is_said(self, damaged: PictureSet) -> None:
        it = task(replace(damaged, val=replace(damaged.val, rows=damaged.val.rows.take(np.array([0])))), recipe())

        with pytest.raises(InputError, match="no held-out picture can be read"):
            it.judge(it.module.eval())

    def test_in_place_of_a_picture_that_cannot_be_read_the_next_is_learnt_from(self, damaged: PictureSet) -> None:
        seen = _Changed(damaged.train, np.asarray, None, 0)
        first, second = seen[0, 0], seen[0, 1]

        assert not isinstance(first, InputError)
        assert not isinstance(second, InputError)
        assert np.array_equal(first[0], second[0])
        assert first[1] == second[1]


class TestTeacher:
    @pytest.mark.parametrize(
        ("distillation", "expected"),
        [
            (Distillation(kind="hard"), F.cross_entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))),
            (
                Distillation(kind="soft", temperature=2.0),
                4
                * F.kl_div(
                    torch.tensor([[0.5, 0.0]]).log_softmax(1), torch.tensor([[0.0, 1.0]]).softmax(1), reduction="sum"
                ),
            ),
        ],
    )
    def test_losses(self, distillation: Distillation, expected: Tensor) -> None:
        found = distillation_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), distillation)

        torch.testing.assert_close(expected, found)

    def test_the_second_classifier_learns_from_it_by_alpha(self, pictures: PictureSet) -> None:
        teacher = FullTeacher("it", _Says(), mean=(0.5,) * 3, std=(0.5,) * 3, student=IMAGENET, device=CPU)
        losses = []
        for alpha in (0.0, 0.5, 1.0):
            it = task(pictures, recipe(distillation=Distillation(alpha=alpha)), teacher=teacher)
            losses.append(float(it.loss(Seen(heads=2), next(it.batches(0, done=0)))[0]))

        assert losses[0] != losses[2]
        assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-5)

    def test_it_sees_the_pixels_in_its_own_normalisation(self) -> None:
        says = _Says()
        teacher = FullTeacher("it", says, mean=(0.5,) * 3, std=(0.25,) * 3, student=IMAGENET, device=CPU, least=64)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
        teacher((torch.full((2, 3, 32, 32), 0.75) - mean) / std)

        torch.testing.assert_close(torch.ones(2, 3, 64, 64), says.images)

    def test_one_of_imagenet_knows_classes_by_wordnet_ids(self, fake_teacher: object) -> None:
        names = ("n01440764 tench", "n02102040 English springer")
        teacher = full_teacher("efficientnet-lite0", class_names=names, student=IMAGENET, device=CPU)
        images = torch.rand(3, 3, 32, 32)

        assert teacher(images).shape == (3, 2)
        assert torch.equal(teacher._outputs, torch.tensor([0, 217]))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("efficientnet-lite9", "no teacher of this name; give efficientnet-lite0 or efficientnet-lite2, or timm:"),
            ("timm:no_such_net", "timm has no such network"),
            ("efficientnet-lite0", "has 1000 classes, the images have 2; a teacher of ImageNet"),
        ],
    )
    def test_others_are_refused(self, name: str, says: str, fake_teacher: object) -> None:
        with pytest.raises(InputError, match=says):
            full_teacher(name, class_names=("cat", "dog"), student=IMAGENET, device=CPU)

    @pytest.mark.parametrize(("name", "classes"), [("test_resnet", 1000), ("test_resnet", 3), ("test_vit", 3)])
    def test_one_of_timm_reads_its_weights_from_a_file(
        self, name: str, classes: int, tmp_path: Path, timm: Any
    ) -> None:
        """Of any number of classes; one of a fixed size gets images of that size."""
        from safetensors.torch import save_file

        network = timm.create_model(name, num_classes=classes)
        save_file(network.state_dict(), tmp_path / "w.safetensors")
        teacher = full_teacher(
            f"timm:{name}",
            class_names=[str(number) for number in range(classes)],
            student=IMAGENET,
            device=CPU,
            weights=tmp_path / "w.safetensors",
        )

        assert teacher(torch.rand(2, 3, 64, 64)).shape == (2, classes)


class _Says(nn.Module):
    """Always the second class; keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.images = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        self.images = images
        return torch.tensor([[0.0, 1.0]]).repeat(len(images), 1)
