from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas.dense import Backbone
from nas.dense.coco import CocoFolder
from nas.dense.detection import DETECTION, Detection, DetectionTask
from nas.errors import InputError
from nas.networks import Architecture
from nas.networks.modules import build_model, load_weights
from nas.training.loop import train
from nas.training.optimisation import Optimisation

Body = Callable[..., Backbone]

SMALL = Detection(
    short=96,
    long=96,
    channels=32,
    box_channels=128,
    proposals=50,
    anchor_samples=32,
    box_samples=32,
    anchors=(8, 16, 32, 64, 96),
)
STEPS = 160  # 57 s; at 100 the AP of the boxes was 0.897 on one processor and 0.994 on another
FAST = Optimisation(epochs=1, batch_size=8, rate=3e-3, weight_decay=1e-4)

pytestmark = pytest.mark.usefixtures("operators")


def task(body: Backbone, source: CocoFolder | Path, seed: int = 0) -> DetectionTask:
    return DetectionTask.of(body, source, recipe=SMALL, optimisation=FAST, seed=seed)


def test_eight_pictures_are_learnt_by_heart(body: Body, coco: Path, tmp_path: Path, architecture: Architecture) -> None:
    folder = CocoFolder.read(coco)
    made = task(body(), replace(folder, train=folder.train * STEPS))

    (epoch,) = train(
        made,
        FAST,
        tmp_path,
        identity={},
        seed=0,
        device=torch.device("cpu"),
        precision="fp32",
        keep=lambda module, epoch: torch.save({"state_dict": module.state_dict()}, tmp_path / "best.pth"),
        on_step=lambda step: None,
        on_epoch=lambda epoch: None,
    )

    assert made.steps == STEPS
    assert epoch.figures["mask_ap"] > 0.9
    assert epoch.figures["box_ap"] > 0.9
    # What was learnt goes back into a network.
    network = build_model(architecture)
    load_weights(network, tmp_path / "best.pth")
    stem = made.module.state_dict()["backbone.body.network.layers.0.first.conv.weight"]
    assert torch.equal(stem, network.state_dict()["layers.0.first.conv.weight"])


def test_the_defaults_are_those_of_the_paper() -> None:
    assert (DETECTION.epochs, DETECTION.drops, DETECTION.schedule) == (12, (8, 11), "step")
    assert (DETECTION.batch_size, DETECTION.rate, DETECTION.weight_decay) == (16, 2e-4, 0.05)
    assert round(DETECTION.warmup_epochs * (117_266 // 16)) == 500  # of COCO's pictures with objects
    assert (Detection().short, Detection().long) == (800, 1333)


def test_objects_are_mirrored_with_their_pictures(body: Body, coco: Path) -> None:
    made = task(body(), coco)
    mirrored = set()
    for epoch in range(4):
        for picture, target in next(iter(made.batches(epoch, done=0))):
            assert (picture.dtype, picture.shape) == (torch.uint8, (3, 96, 96))
            assert target["labels"].tolist() == [1, 2]
            for index, (box, mask) in enumerate(zip(target["boxes"], target["masks"], strict=True)):
                rows, columns = torch.where(mask > 0)
                drawn = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
                torch.testing.assert_close(drawn, box, atol=1.0, rtol=0)
                assert picture[index, mask > 0].float().mean() > 180  # red squares, green discs
            mirrored.add(float(target["boxes"][0, 0]))
    assert len(mirrored) > 8


def test_batches_are_the_same_for_a_seed(body: Body, coco: Path) -> None:
    def first(seed: int) -> Tensor:
        return torch.stack([picture for picture, _ in next(iter(task(body(), coco, seed).batches(0, done=0)))])

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_workers_can_be_spawned(body: Body, coco: Path, request: pytest.FixtureRequest) -> None:
    made = task(body(), coco)
    here = next(iter(made.batches(0, done=0)))
    request.getfixturevalue("spawned")

    there = next(iter(made.batches(0, done=0)))

    for (picture, target), (other, others) in zip(here, there, strict=True):
        assert torch.equal(picture, other)
        assert all(torch.equal(tensor, others[name]) for name, tensor in target.items())


def test_what_is_there_has_an_ap_of_one(body: Body, coco: Path) -> None:
    made = task(body(), coco)
    pictures = iter(CocoFolder.read(coco).val)

    class Oracle(nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            objects = next(pictures).instances
            return [
                {
                    "boxes": torch.tensor([one.box for one in objects]),
                    "labels": torch.tensor([one.label for one in objects]),
                    "scores": torch.ones(len(objects)),
                    "masks": torch.stack([torch.from_numpy(one.outline.mask()).float()[None] for one in objects]),
                }
            ]

    names = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")
    assert made.judge(Oracle()) == pytest.approx(dict.fromkeys(names, 1.0), abs=1e-6)


def test_the_same_weights_for_a_seed(body: Body, coco: Path) -> None:
    first, again = (task(body(), coco).module.state_dict() for _ in range(2))

    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_without_the_library_one_line_says_what_to_install(
    body: Body, coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("faster_coco_eval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)

    with pytest.raises(InputError) as caught:
        task(body(), coco)

    assert str(caught.value) == "detection needs faster-coco-eval: pip install 'nas[dense]'"
