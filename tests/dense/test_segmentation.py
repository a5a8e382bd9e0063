from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nas.data import UNKNOWN
from nas.dense import Backbone
from nas.dense.masks import MaskFolder
from nas.dense.segmentation import SEGMENTATION, Segmentation, SegmentationTask, Segmenter
from nas.errors import InputError
from nas.training.agreement import confusion
from nas.training.loop import train
from nas.training.optimisation import Optimisation

Body = Callable[..., Backbone]

SMALL = Segmentation(
    steps=40, crop=96, short=96, long=96, scales=(0.9, 1.2), most_of_a_class=1, channels=32, decoder=32
)
FAST = Optimisation(epochs=2, batch_size=8, rate=5e-3, lowest_rate=1e-5, weight_decay=1e-4, schedule="poly")


def task(body: Backbone, folder: Path, recipe: Segmentation = SMALL, seed: int = 0) -> SegmentationTask:
    return SegmentationTask.of(body, folder, recipe=recipe, optimisation=FAST, seed=seed)


def test_eight_pictures_are_learnt_by_heart(body: Body, masks: Path, tmp_path: Path) -> None:
    history = train(
        task(body(), masks),
        FAST,
        tmp_path,
        identity={},
        seed=0,
        device=torch.device("cpu"),
        precision="fp32",
        keep=lambda module, epoch: None,
        on_step=lambda step: None,
        on_epoch=lambda epoch: None,
    )

    assert history[1].figures["miou"] > 0.9
    assert history[0].figures["miou"] < history[1].figures["miou"]


def test_the_defaults_are_those_of_the_paper() -> None:
    recipe = Segmentation()

    assert recipe.steps is not None and recipe.steps * SEGMENTATION.epochs == 40_000
    assert (SEGMENTATION.batch_size, SEGMENTATION.rate, SEGMENTATION.weight_decay) == (32, 2e-4, 1e-4)
    assert (SEGMENTATION.schedule, SEGMENTATION.lowest_rate) == ("poly", 1e-6)
    assert (recipe.crop, recipe.scales, recipe.most_of_a_class) == (512, (0.5, 2.0), 0.75)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (96, 160), (75, 101)])
def test_logits_have_stride_4(height: int, width: int, body: Body) -> None:
    module = Segmenter(body(), classes=5, recipe=SMALL).eval()

    assert module(torch.rand(1, 3, height, width)).shape == (1, 5, -(-height // 4), -(-width // 4))


def test_the_decoder_is_that_of_mmsegmentation(body: Body) -> None:
    """Its FPNHead: 1, 1, 2 and 3 convolutions 3x3 without bias, from 256 channels to 128."""
    decoder = Segmenter(body(), classes=150, recipe=Segmentation()).decoder
    expected = 4 * (256 * 128 * 9 + 256) + 3 * (128 * 128 * 9 + 256) + 128 * 150 + 150

    assert [sum(isinstance(p, nn.Conv2d) for p in scale.modules()) for scale in decoder.scales.children()] == [
        1,
        1,
        2,
        3,
    ]
    assert expected == sum(parameter.numel() for parameter in decoder.parameters())


def test_crops_show_picture_and_mask_at_one_place(body: Body, masks: Path) -> None:
    recipe = SMALL.model_copy(update={"crop": 64, "scales": (0.5, 2.0), "distort": False})

    for picture, mask in next(iter(task(body(), masks, recipe).batches(0, done=0))):
        assert (picture.dtype, picture.shape) == (torch.uint8, (3, 64, 64))
        red, green = picture[0].int() - picture[1].int(), picture[1].int() - picture[0].int()
        for label, colour in ((1, red), (2, green)):
            inside = mask == label
            assert inside.sum() == 0 or colour[inside].float().mean() > 100
        assert (colour[mask == 0].abs() < 60).float().mean() > 0.9
        assert (picture[:, mask == UNKNOWN] == 0).all()


def test_crops_of_one_class_are_avoided(body: Body, masks: Path) -> None:
    def worst(share: float) -> float:
        recipe = SMALL.model_copy(update={"crop": 40, "scales": (1.0, 1.0), "most_of_a_class": share})
        crops = [mask for batch in task(body(), masks, recipe).batches(0, done=0) for _, mask in batch]
        return float(np.mean([float(torch.bincount(mask.flatten().long()).max()) / 1600 > 0.75 for mask in crops]))

    assert worst(0.75) < 0.5 * worst(1.0)


def test_batches_are_the_same_for_a_seed(body: Body, masks: Path) -> None:
    first, again, other = (
        torch.stack([picture for picture, _ in next(iter(task(body(), masks, seed=seed).batches(1, done=2)))])
        for seed in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_workers_can_be_spawned(body: Body, masks: Path, request: pytest.FixtureRequest) -> None:
    made = task(body(), masks)
    here = next(iter(made.batches(0, done=0)))
    request.getfixturevalue("spawned")

    there = next(iter(made.batches(0, done=0)))

    assert all(
        torch.equal(a, b) for one, other in zip(here, there, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_a_broken_picture_is_one_line(body: Body, masks: Path) -> None:
    (masks / "images" / "train" / "3.png").write_bytes(b"none")
    made = SegmentationTask.of(body(), masks, recipe=SMALL, optimisation=FAST, workers=1)

    with pytest.raises(InputError) as caught:
        next(iter(made.batches(0, done=0)))

    message = str(caught.value)
    assert message.startswith(f"{masks}/images/train/3.png: cannot be read (")
    assert "\n" not in message


def test_unknown_pixels_are_neither_learnt_nor_counted(body: Body, masks: Path) -> None:
    made = task(body(), masks)
    picture = torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)
    mask = torch.randint(0, 3, (96, 96), dtype=torch.uint8)
    made.module.eval()
    upper, lower = mask.clone(), mask.clone()
    upper[48:], lower[:48] = UNKNOWN, UNKNOWN

    with torch.no_grad():
        losses = [
            made.loss(made.module, [(picture, known)])[0].item()
            for known in (mask, upper, lower, torch.full_like(mask, UNKNOWN))
        ]

    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2)
    assert losses[3] == 0
    assert confusion(lower, mask, 3).sum() == 48 * 96


class TestFigures:
    def test_whole_pictures_are_judged_at_their_own_size(self, body: Body, masks: Path) -> None:
        for kind in ("images", "masks"):
            for path in (masks / kind / "val").iterdir():
                with Image.open(path) as opened:
                    larger = opened.resize((200, 130), Image.Resampling.NEAREST)
                larger.save(path)
        made = task(body(), masks)
        seen: list[torch.Size] = []

        class Oracle(nn.Module):
            """All pixels are background."""

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                seen.append(images.shape)
                return torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, *images.shape[2:])

        figures = made.judge(Oracle())

        background = np.mean([(pair.mask() == 0).mean() for pair in MaskFolder.read(masks).val])
        assert set(seen) == {torch.Size([1, 3, 62, 96])}  # the long side is 96
        assert figures["pixel_accuracy"] == pytest.approx(background)
        assert figures["miou"] == pytest.approx(background / 3)


def test_an_index_of_no_class_is_named(body: Body, masks: Path) -> None:
    (masks / "classes.txt").write_text("background\nsquare\n")

    with pytest.raises(InputError) as caught:
        next(iter(task(body(), masks).batches(0, done=0)))

    assert str(caught.value).endswith("png: has the index 2, and there are 2 classes, 0 to 1")
