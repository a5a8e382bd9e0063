"""COCO's average precision of boxes and masks, by faster-coco-eval, with the figures of pycocotools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nas.dense.coco import Pictured
from nas.dense.outlines import coco_library

__all__ = ["Found", "Kind", "average_precision", "truth_of"]

Kind = Literal["bbox", "segm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a detector finds in one picture, N objects.

    Attributes:
        boxes: left, top, right and bottom (N, 4).
        scores: in 0..1 (N,).
        labels: from 1 (N,).
        masks: compressed run lengths of each.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    masks: tuple[dict[str, Any], ...]


def truth_of(pictures: Sequence[Pictured], classes: int) -> dict[str, Any]:
    """What is in pictures, in the form of COCO's JSON; the number of a picture is its id."""
    annotations: list[dict[str, Any]] = []
    for image, picture in enumerate(pictures):
        for one in picture.instances:
            left, top, right, bottom = one.box
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would mean that nothing matches
                    "image_id": image,
                    "category_id": one.label,
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": one.outline.encoded(),
                    "area": one.area,
                    "iscrowd": int(one.is_crowd),
                }
            )
    return {
        "images": [{"id": i, "height": one.height, "width": one.width} for i, one in enumerate(pictures)],
        "annotations": annotations,
        "categories": [{"id": label, "name": str(label)} for label in range(1, classes + 1)],
    }


def average_precision(truth: Mapping[str, Any], found: Mapping[int, Found], kind: Kind) -> dict[str, float]:
    """AP over IoU 0.50 to 0.95, AP50 and AP75 in 0..1, as `ap`, `ap50` and `ap75`.

    Args:
        truth: of `truth_of`.
        found: by the number of the picture.
        kind: by boxes or by masks.
    Raises:
        InputError: faster-coco-eval is not installed.
    """
    coco, evaluation = coco_library("core.coco"), coco_library("core.faster_eval_api")
    known = coco.COCO(dict(truth))
    results = [
        {"image_id": image, "category_id": int(label), "score": float(score), **what}
        for image, one in sorted(found.items())
        for label, score, what in zip(one.labels, one.scores, _what(one, kind), strict=True)
    ]
    evaluator = evaluation.COCOeval_faster(known, known.loadRes(results), kind, print_function=_quiet)
    evaluator.run()
    # COCO says -1 where there is nothing to find.
    return {name: max(0.0, float(evaluator.stats[index])) for index, name in enumerate(("ap", "ap50", "ap75"))}


def _what(found: Found, kind: Kind) -> list[dict[str, Any]]:
    """Boxes or masks alone: sizes are those of what is judged."""
    if kind == "segm":
        return [{"segmentation": mask} for mask in found.masks]
    left, top, right, bottom = found.boxes.T.astype(float)
    return [{"bbox": box} for box in np.stack([left, top, right - left, bottom - top], axis=1).tolist()]


def _quiet(*words: object) -> None:
    """Its tables are for terminals."""
