"""Detection as a task of the training loop: boxes and masks of objects, learnt and judged as on COCO.

The defaults are those of the paper's runs: 12 epochs of 16 pictures a step, scaled to 800 x 1333 and mirrored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nas.dense.average_precision import Found, average_precision, truth_of
from nas.dense.backbones import Backbone
from nas.dense.coco import CocoFolder, Pictured
from nas.dense.outlines import coco_library, encoded
from nas.dense.picture import read_picture
from nas.dense.rcnn import Detection, detection_parts, mask_rcnn
from nas.dense.stream import Stream
from nas.networks.modules.outside import torchvision_part
from nas.training.optimisation import Optimisation
from nas.training.processes import processes, rank

__all__ = ["DETECTION", "Detection", "DetectionTask"]

# 500 steps of warm-up: COCO has 7,329 steps an epoch.
DETECTION = Optimisation(
    epochs=12, batch_size=16, rate=2e-4, weight_decay=0.05, schedule="step", drops=(8, 11), warmup_epochs=0.0682
)

Target = dict[str, Tensor]


class DetectionTask:
    """A detector, the pictures it is trained on, and those it is judged on; `of` makes one.

    Attributes:
        module: torchvision's Mask R-CNN.
        best: AP of the masks.
        steps: of an epoch.
        class_names: of the labels, from 1.
    """

    best = "mask_ap"

    def __init__(
        self,
        module: nn.Module,
        source: CocoFolder,
        *,
        optimisation: Optimisation,
        device: torch.device,
        seed: int,
        workers: int = 0,
    ) -> None:
        coco_library("core.mask")  # Not only after the first epoch is it said that it is missing.
        self.module = module
        self.class_names = source.class_names
        self._source, self._device = source, device
        self.steps = max(1, len(source.train) // optimisation.batch_size)
        self._truth: dict[str, Any] | None = None
        self._stream = Stream(
            read=_Reader(pictures=source.train),
            images=len(source.train),
            batch_size=optimisation.batch_size,
            steps=self.steps,
            seed=seed,
            accumulate=optimisation.accumulate,
            workers=workers,
        )

    @classmethod
    def of(
        cls,
        network: Backbone,
        source: CocoFolder | Path,
        *,
        recipe: Detection | None = None,
        optimisation: Optimisation = DETECTION,
        device: torch.device | str = "cpu",
        seed: int = 0,
        workers: int = 0,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Self:
        """A task for a network of `nas.backbone`; the other weights are drawn from `seed`.

        Args:
            network: to train further.
            source: a folder in COCO's format, or what `CocoFolder.read` found in it.
            recipe: how the detector is built; by default as in the paper.
            optimisation: of the loop.
            device: of the training.
            seed: of weights, order and changes.
            workers: processes that decode; 0 decodes in this one.
            progress: called before and after the annotations are read.
        Raises:
            InputError: the folder cannot be used, the batch cannot be divided, or what the extra [dense] brings is
                missing or does not load.
        """
        detection_parts()  # What is missing is said before a large file is read.
        if progress is not None:
            progress("reading annotations", 0, 1)
        folder = source if isinstance(source, CocoFolder) else CocoFolder.read(source, seed=seed)
        if progress is not None:
            progress("reading annotations", 1, 1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = mask_rcnn(network, classes=1 + len(folder.class_names), recipe=recipe or Detection())
        module.to(device)
        return cls(module, folder, optimisation=optimisation, device=torch.device(device), seed=seed, workers=workers)

    def batches(self, epoch: int, *, done: int) -> Iterator[Any]:
        """Pictures as bytes (3, H, W), with boxes, labels and masks of their objects."""
        return self._stream.batches(epoch, done=done)

    def loss(self, module: nn.Module, batch: list[tuple[Tensor, Target]]) -> tuple[Tensor, int]:
        """The sum of Mask R-CNN's five losses."""
        images = [picture.to(self._device).float() / 255 for picture, _ in batch]
        targets = [{name: tensor.to(self._device) for name, tensor in target.items()} for _, target in batch]
        losses: dict[str, Tensor] = module(images, targets)
        return torch.stack([one.float() for one in losses.values()]).sum(), len(batch)

    def judge(self, module: nn.Module) -> dict[str, float]:
        """AP, AP50 and AP75 of boxes and of masks on the held-out pictures, in 0..1."""
        found: dict[int, Found] = {}
        for number in range(rank(), len(self._source.val), processes()):
            picture = torch.from_numpy(_pixels(self._source.val[number])).to(self._device)
            (one,) = module([picture.float() / 255])
            masks = (one["masks"][:, 0] > 0.5).cpu().numpy()  # (N, H, W)
            found[number] = Found(
                boxes=one["boxes"].float().cpu().numpy(),
                scores=one["scores"].float().cpu().numpy(),
                labels=one["labels"].cpu().numpy(),
                masks=tuple(encoded(mask) for mask in masks),
            )
        if dist.is_initialized():
            parts: list[dict[int, Found]] = [{} for _ in range(processes())]
            dist.all_gather_object(parts, found)  # between processes of one training, through no file
            found = {number: one for part in parts for number, one in part.items()}
        if self._truth is None:
            self._truth = truth_of(self._source.val, len(self.class_names))
        kinds = {"box": average_precision(self._truth, found, "bbox")}
        kinds["mask"] = average_precision(self._truth, found, "segm")
        return {f"{kind}_{name}": value for kind, figures in kinds.items() for name, value in figures.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Pictures with their objects, mirrored at random. It is pickled to workers, so torchvision is not part of it."""

    pictures: tuple[Pictured, ...]

    def __call__(self, index: int) -> tuple[Tensor, Target]:
        flip = torchvision_part("torchvision.transforms.v2").RandomHorizontalFlip()
        tensors = torchvision_part("torchvision.tv_tensors")
        picture = self.pictures[index]
        objects = picture.learnt
        size = (picture.height, picture.width)
        target = {
            "boxes": tensors.BoundingBoxes([one.box for one in objects], format="XYXY", canvas_size=size),
            "labels": torch.tensor([one.label for one in objects]),
            "masks": tensors.Mask(np.stack([one.outline.mask() for one in objects])),
        }
        image, target = flip(tensors.Image(_pixels(picture)), target)
        plain = {name: tensor.as_subclass(Tensor) for name, tensor in target.items()}
        return image.as_subclass(Tensor), plain | {"boxes": plain["boxes"].float()}


def _pixels(picture: Pictured) -> np.typing.NDArray[np.uint8]:
    return read_picture(picture.path, size=(picture.height, picture.width)).copy()  # writable, as torch wants it
