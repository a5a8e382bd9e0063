"""Mask R-CNN is torchvision's but for what nas/dense/rcnn.py says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.dense import Backbone
from nas.dense.rcnn import Detection, mask_rcnn

Body = Callable[..., Backbone]

SMALL = Detection(
    short=96,
    long=96,
    channels=16,
    box_channels=32,
    proposals=20,
    anchor_samples=16,
    box_samples=16,
    anchors=(8, 16, 32, 64, 96),
)

pytestmark = pytest.mark.usefixtures("operators")


@pytest.fixture
def detector(body: Body) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return mask_rcnn(body(), classes=3, recipe=SMALL)


def targets() -> list[dict[str, Tensor]]:
    masks = torch.zeros(2, 96, 96, dtype=torch.uint8)
    masks[0, 10:40, 10:50] = 1
    masks[1, 50:90, 30:80] = 1
    boxes = torch.tensor([[10.0, 10, 50, 40], [30, 50, 80, 90]])
    return [{"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}]


def image() -> list[Tensor]:
    return [torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(1))]


def test_five_losses_train_every_parameter(detector: nn.Module) -> None:
    losses = detector(image(), targets())

    names = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert names == losses.keys()
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []


def test_a_picture_without_a_positive_proposal_has_losses(detector: nn.Module) -> None:
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": torch.zeros(0, 96, 96)}

    losses = detector(image(), [empty])

    assert losses["loss_mask"].item() == losses["loss_box_reg"].item() == losses["loss_rpn_box_reg"].item() == 0
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]


def test_the_losses_are_those_of_torchvision_but_for_l1(detector: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own classes give the same losses where their smooth L1 is replaced."""
    from torchvision.models.detection.roi_heads import RoIHeads
    from torchvision.models.detection.rpn import RegionProposalNetwork

    def losses() -> dict[str, float]:
        torch.manual_seed(3)  # which anchors and proposals are sampled
        return {name: loss.item() for name, loss in detector(image(), targets()).items()}

    detector.eval()  # batch norms keep their statistics
    heads: Any = detector.roi_heads
    proposals: Any = detector.rpn
    for part in (detector, proposals, heads, detector.transform):
        part.training = True  # type: ignore[union-attr]
    ours = losses()
    heads.__class__, proposals.__class__ = RoIHeads, RegionProposalNetwork

    def l1(found: Tensor, wanted: Tensor, beta: float, reduction: str) -> Tensor:
        return F.l1_loss(found, wanted, reduction=reduction)

    monkeypatch.setattr(F, "smooth_l1_loss", l1)

    assert ours == pytest.approx(losses(), rel=1e-5)


def test_the_defaults_are_those_of_mmdetection(body: Body) -> None:
    """Its mask-rcnn_r50_fpn: 1,000 proposals, 256 anchors and 512 boxes a picture, 7x7 and 14x14 pools."""
    built: Any = mask_rcnn(body(), classes=81, recipe=Detection())

    assert built.rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
    assert built.rpn._post_nms_top_n == {"training": 1000, "testing": 1000}
    assert (built.rpn.fg_bg_sampler.batch_size_per_image, built.rpn.fg_bg_sampler.positive_fraction) == (256, 0.5)
    sampler = built.roi_heads.fg_bg_sampler
    assert (sampler.batch_size_per_image, sampler.positive_fraction) == (512, 0.25)
    assert built.roi_heads.box_coder.weights == (10.0, 10.0, 5.0, 5.0)
    assert (built.roi_heads.box_roi_pool.output_size, built.roi_heads.mask_roi_pool.output_size) == ((7, 7), (14, 14))
    assert (built.transform.min_size, built.transform.max_size) == ((800,), 1333)
    assert (built.roi_heads.score_thresh, built.roi_heads.nms_thresh, built.roi_heads.detections_per_img) == (
        0.05,
        0.5,
        100,
    )


class TestPool:
    def test_a_plane_is_pooled_to_its_values_at_the_centres_of_the_bins(self, detector: Any) -> None:
        """Aligned: pixel i of a map of stride s is at (i + 0.5) * s. torchvision's own pool is half a pixel off."""
        maps = {}
        for name, stride in zip("0123", (4, 8, 16, 32), strict=True):
            side = 512 // stride
            centres = (torch.arange(side) + 0.5) * stride
            maps[name] = torch.stack([centres[None].expand(side, side), centres[:, None].expand(side, side)])[None]
        boxes = torch.tensor([[100.0, 60, 170, 130], [64, 64, 320, 300], [200, 220, 214, 234]])

        pooled = detector.roi_heads.box_roi_pool(maps, [boxes], [(512, 512)])  # (3, 2, 7, 7)

        for box, found in zip(boxes, pooled, strict=True):
            for axis, values in ((0, found[0, 3]), (1, found[1, :, 3])):
                low, high = box[axis], box[axis + 2]
                expected = low + (torch.arange(7) + 0.5) / 7 * (high - low)
                torch.testing.assert_close(values, expected, atol=1e-2, rtol=0)

    def test_levels_are_chosen_by_size(self, detector: Any) -> None:
        maps = {name: torch.full((2, 1, 64, 64), float(level)) for level, name in enumerate("0123")}
        sides = [20.0, 111, 113, 223, 225, 447, 449, 600]
        boxes = torch.tensor([[0, 0, side, side] for side in sides])

        pooled = detector.roi_heads.box_roi_pool(maps, [boxes[:3], boxes[3:]], [(600, 600)] * 2)

        assert [int(one.max()) for one in pooled] == [0, 0, 1, 1, 2, 2, 3, 3]

    def test_no_boxes(self, detector: Any) -> None:
        maps = {name: torch.zeros(1, 5, 8, 8) for name in "0123"}

        assert detector.roi_heads.box_roi_pool(maps, [torch.zeros(0, 4)], [(64, 64)]).shape == (0, 5, 7, 7)


def test_without_the_operators_one_line_says_what_to_install() -> None:
    """As a user meets it: torchvision's operators do not load, and nothing stands in for what they need."""
    code = """
import torch
original = torch.ops.load_library
def refuse(path):
    raise OSError("libcudart.so.13: cannot open shared object file")
torch.ops.load_library = refuse
from nas.dense import backbone
from nas.dense.rcnn import Detection, mask_rcnn
from nas.errors import InputError
try:
    mask_rcnn(backbone("tiny_a"), classes=3, recipe=Detection())
except InputError as error:
    print(error)
backbone("tiny_a").pyramid(8)(torch.zeros(1, 3, 64, 64))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == (
        "detection needs torchvision's compiled operators (nms, roi_align), which do not load beside this torch: "
        "install torch and torchvision from one source, both for this machine"
    )
