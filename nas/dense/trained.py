"""The weights of a trained detector or segmenter in the folder of its training, and the module made of them again."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from nas.dense.backbones import IMAGENET, Backbone
from nas.dense.rcnn import mask_rcnn
from nas.dense.recipe import DetectionRecipe, SegmentationRecipe
from nas.dense.segmentation import Segmenter
from nas.errors import InputError
from nas.files import write_beside
from nas.networks.modules import build_model
from nas.training.course import Epoch
from nas.training.record import TrainingRecord, read_training

__all__ = ["BEST_WEIGHTS", "LAST_WEIGHTS", "keep", "load"]

BEST_WEIGHTS, LAST_WEIGHTS = "best.safetensors", "last.safetensors"


def keep(folder: Path, record: TrainingRecord, module: nn.Module, epoch: Epoch) -> None:
    """Write the weights of an epoch as the last, and as the best if they are; `nas.backbone` takes these files.

    Raises:
        InputError: the folder cannot be written.
        NasError: the disk is full.
    """
    content = save(
        {name: tensor.contiguous() for name, tensor in module.state_dict().items()},
        {"architecture": record.architecture.to_json(), "task": record.task, "epoch": str(epoch.epoch)},
    )
    for name in (LAST_WEIGHTS, *([BEST_WEIGHTS] if epoch.is_best else [])):
        write_beside(folder / name, content)


def load(folder: str | Path, *, weights: str = BEST_WEIGHTS) -> nn.Module:
    """The trained module of a folder, in eval mode: torchvision's Mask R-CNN, or a `Segmenter`.

    Mask R-CNN takes a list of images in 0..1 and gives boxes, labels from 1, scores and masks of each. A segmenter
    takes normalised images and gives logits at stride 4. The names of the classes are in `class_names`.

    Args:
        folder: of a training of detection or segmentation.
        weights: the file in it.
    Raises:
        InputError: the folder is of no such training, a file is damaged, or the extra [dense] is missing.
    """
    folder = Path(folder)
    found = read_training(folder)
    if found is None or found[0].task == "classify":
        raise InputError(f"{folder}: holds no training of detection or segmentation")
    record, _ = found
    normalisation = record.normalisation or IMAGENET
    body = Backbone(build_model(record.architecture), normalisation=normalisation)
    module: nn.Module
    if record.task == "detect":
        built = DetectionRecipe.model_validate(record.recipe).model
        module = mask_rcnn(body, classes=1 + len(record.classes), recipe=built)
    else:
        recipe = SegmentationRecipe.model_validate(record.recipe).model
        module = Segmenter(body, classes=len(record.classes), recipe=recipe)
    try:
        module.load_state_dict(load_file(folder / weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder / weights}: cannot be read as the weights of this training ({reason})") from error
    module.class_names = record.classes  # type: ignore[assignment]
    return module.eval()
