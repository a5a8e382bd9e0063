"""Mask R-CNN (arXiv:1703.06870) of torchvision over a backbone, changed to what mmdetection trains for the paper.

- Objects are pooled by aligned ROI align with as many samples as an object has pixels. torchvision's own pooling is
  shifted by half a pixel, and takes four samples.
- Boxes are learnt by L1. torchvision's smooth L1 has a beta of 1/9.
- 1,000 proposals are trained on, not 2,000.

torchvision is loaded when a detector is built, so its classes are extended inside functions.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.dense.backbones import STRIDES, Backbone
from nas.errors import InputError
from nas.files import Record
from nas.networks.modules.outside import has_operators, torchvision_part

__all__ = ["Detection", "detection_parts", "mask_rcnn"]

_ANCHORS = (32, 64, 128, 256, 512)  # pixels, at each level of the pyramid
_CANONICAL, _CANONICAL_LEVEL = 224, 4  # an object of 224 px is pooled from stride 2**4 (arXiv:1612.03144, eq. 1)


class Detection(Record):
    """How a detector is built.

    Attributes:
        short: pixels of a picture's short side.
        long: most pixels of its long side.
        channels: of the feature pyramid, and of the convolutions for masks.
        box_channels: of the two linear layers for boxes.
        proposals: of a picture, that boxes are made of.
        anchor_samples: anchors of a picture that a step learns from.
        box_samples: proposals of a picture that a step learns from.
        anchors: sizes in pixels, one for each stride from 4 to 64.
    """

    short: int = Field(800, gt=0)
    long: int = Field(1333, gt=0)
    channels: int = Field(256, gt=0)
    box_channels: int = Field(1024, gt=0)
    proposals: int = Field(1000, gt=0)
    anchor_samples: int = Field(256, gt=0)
    box_samples: int = Field(512, gt=0)
    anchors: tuple[int, int, int, int, int] = _ANCHORS


def mask_rcnn(body: Backbone, *, classes: int, recipe: Detection) -> nn.Module:
    """A torchvision detector: in training (images, targets) to a dictionary of losses, else images to what is found.

    Images are a list of (3, H, W) in 0..1; they are scaled and normalised inside.

    Args:
        body: of `nas.backbone`.
        classes: with the background.
        recipe: how it is built.
    Raises:
        InputError: torchvision is missing, does not load, or has no compiled operators.
    """
    parts = detection_parts()
    pool, rpn, heads = _classes()
    faster, masks = parts["faster_rcnn"], parts["mask_rcnn"]
    channels = recipe.channels
    names = [str(index) for index in range(len(STRIDES))]
    built = masks.MaskRCNN(
        body.pyramid(channels),
        None,  # of the predictors
        min_size=recipe.short,
        max_size=recipe.long,
        image_mean=list(body.normalisation.mean),
        image_std=list(body.normalisation.std),
        rpn_anchor_generator=parts["anchor_utils"].AnchorGenerator(
            tuple((size,) for size in recipe.anchors), ((0.5, 1.0, 2.0),) * len(recipe.anchors)
        ),
        rpn_pre_nms_top_n_train=2 * recipe.proposals,
        rpn_post_nms_top_n_train=recipe.proposals,
        rpn_pre_nms_top_n_test=recipe.proposals,
        rpn_post_nms_top_n_test=recipe.proposals,
        rpn_batch_size_per_image=recipe.anchor_samples,
        box_batch_size_per_image=recipe.box_samples,
        box_roi_pool=pool(names, 7, 0),
        box_head=faster.TwoMLPHead(channels * 7**2, recipe.box_channels),
        box_predictor=faster.FastRCNNPredictor(recipe.box_channels, classes),
        mask_roi_pool=pool(names, 14, 0),
        mask_head=masks.MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=masks.MaskRCNNPredictor(channels, channels, classes),
    )
    built.rpn.__class__, built.roi_heads.__class__ = rpn, heads  # subclasses that change methods alone
    return built  # type: ignore[no-any-return]


@cache
def detection_parts() -> dict[str, Any]:
    """Modules of torchvision by the last part of their names.

    Raises:
        InputError: torchvision is missing, does not load, or has no compiled operators.
    """
    names = ["faster_rcnn", "mask_rcnn", "anchor_utils", "roi_heads", "rpn"]
    found = {name: torchvision_part(f"torchvision.models.detection.{name}", needed_for="detection") for name in names}
    if not has_operators():
        raise InputError(
            "detection needs torchvision's compiled operators (nms, roi_align), which do not load beside this torch: "
            "install torch and torchvision from one source, both for this machine"
        )
    return {**found, "ops": torchvision_part("torchvision.ops")}


@cache
def _classes() -> tuple[type[Any], type[Any], type[Any]]:
    """The three parts that are changed: pooling, region proposals, and heads."""
    parts = detection_parts()
    ops, roi_heads = parts["ops"], parts["roi_heads"]

    class AlignedPool(ops.MultiScaleRoIAlign):  # type: ignore[misc, name-defined]
        """Aligned, with a sample for every pixel."""

        def forward(self, x: OrderedDict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:  # noqa: ARG002
            rois = torch.cat([F.pad(one, (1, 0), value=float(index)) for index, one in enumerate(boxes)])
            sizes = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
            levels = _CANONICAL_LEVEL - 2 + (sizes / _CANONICAL + 1e-6).log2().floor()
            levels = levels.clamp(0, len(STRIDES) - 1)
            first = x[self.featmap_names[0]]
            pooled = first.new_zeros(len(rois), first.shape[1], *self.output_size)
            for level, (name, stride) in enumerate(zip(self.featmap_names, STRIDES, strict=True)):
                chosen = torch.where(levels == level)[0]
                part = ops.roi_align(x[name], rois[chosen].to(x[name].dtype), self.output_size, 1 / stride, 0, True)
                pooled = pooled.index_put((chosen,), part.to(pooled.dtype))
            return pooled

    class Proposals(parts["rpn"].RegionProposalNetwork):  # type: ignore[misc]
        """Boxes are learnt by L1."""

        def compute_loss(
            self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
        ) -> tuple[Tensor, Tensor]:
            positive, negative = (torch.where(torch.cat(one))[0] for one in self.fg_bg_sampler(labels))
            sampled, wanted = torch.cat([positive, negative]), torch.cat(labels)
            deltas = F.l1_loss(pred_bbox_deltas[positive], torch.cat(regression_targets)[positive], reduction="sum")
            scores = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], wanted[sampled])
            return scores, deltas / max(1, len(sampled))

    class Heads(roi_heads.RoIHeads):  # type: ignore[misc, name-defined]
        """Boxes are learnt by L1; what is found is torchvision's own."""

        def forward(self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None) -> Any:
            if not self.training:
                return super().forward(features, proposals, image_shapes, targets)
            proposals, matched, labels, deltas = self.select_training_samples(proposals, targets)
            logits, found = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
            wanted = torch.cat(labels)
            positive = torch.where(wanted > 0)[0]
            own = found.view(len(found), -1, 4)[positive, wanted[positive]]  # each class has boxes of its own
            losses = {
                "loss_classifier": F.cross_entropy(logits, wanted),
                "loss_box_reg": F.l1_loss(own, torch.cat(deltas)[positive], reduction="sum") / max(1, len(wanted)),
            }
            inside = [torch.where(one > 0)[0] for one in labels]
            boxes = [one[chosen] for one, chosen in zip(proposals, inside, strict=True)]
            masks = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
            losses["loss_mask"] = roi_heads.maskrcnn_loss(
                masks,
                boxes,
                [one["masks"] for one in targets],
                [one["labels"] for one in targets],
                [one[chosen] for one, chosen in zip(matched, inside, strict=True)],
            )
            return [], losses

    return AlignedPool, Proposals, Heads
