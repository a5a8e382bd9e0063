"""Distillation: a teacher of any kind as logits of the student's classes, and the loss of learning from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data.classes import are_wordnet_ids, match_classes
from nas.errors import InputError, visible
from nas.networks.modules.checkpoint import read_checkpoint
from nas.networks.modules.outside import timm_part
from nas.training.full_recipe import Distillation
from nas.training.teacher import RELEASED, released

__all__ = ["FullTeacher", "distillation_loss", "full_teacher"]

_TIMM = "timm:"
_IMAGENET = 1000  # classes
_LONGEST = 200  # characters of a library's reason
_LEAST = 128  # pixels that EfficientNet-Lite needs, as in teacher.py
_LITE = (127 / 255,) * 3, (128 / 255,) * 3  # of EfficientNet-Lite's input


class FullTeacher:
    """A network that says of a student's batch how likely each of the student's classes is.

    Args:
        name: for messages and records.
        network: images to logits, in eval mode.
        mean: of its own input, in 0..1.
        std: in the same way.
        student: mean and std of the student's batches.
        outputs: which of its logits are the student's classes, in their order; None for all of them.
        least: side in pixels to which smaller images are scaled up.
        size: side in pixels to which all images are scaled, of a network that takes no other; 0 for any.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        student: tuple[Sequence[float], Sequence[float]],
        outputs: Sequence[int] | None = None,
        least: int = 0,
        size: int = 0,
        device: torch.device,
    ) -> None:
        self.name, self._least, self._size = name, least, size
        self._network = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        own_mean, own_std, its_mean, its_std = (
            torch.tensor(list(values), device=device).view(1, 3, 1, 1) for values in (mean, std, *student)
        )
        # own = (pixel - mean) / std, and pixel = student's * its std + its mean
        self._scale, self._offset = its_std / own_std, (its_mean - own_mean) / own_std
        self._outputs = None if outputs is None else torch.tensor(list(outputs), device=device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images that are normalised for the student (B, 3, H, H)."""
        own = images * self._scale + self._offset
        side = self._size or max(own.shape[-1], self._least)
        if side != own.shape[-1]:
            own = F.interpolate(own, size=(side, side), mode="bicubic", antialias=True)
        logits: Tensor = self._network(own).float()
        return logits if self._outputs is None else logits[:, self._outputs]


def distillation_loss(logits: Tensor, taught: Tensor, distillation: Distillation) -> Tensor:
    """What the student's second classifier has yet to learn of the teacher.

    Hard: cross-entropy with the teacher's likeliest class (arXiv:2012.12877, section 4). Soft: Kullback-Leibler
    divergence at a temperature, times its square (arXiv:1503.02531).

    Args:
        logits: of the student, (B, classes).
        taught: of the teacher, (B, classes).
        distillation: which, and at what temperature.
    """
    if distillation.kind == "hard":
        return F.cross_entropy(logits, taught.argmax(1))
    heat = distillation.temperature
    student, teacher = (F.log_softmax(values / heat, dim=1) for values in (logits, taught))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * heat**2


def full_teacher(
    name: str,
    *,
    class_names: Sequence[str],
    student: tuple[Sequence[float], Sequence[float]],
    device: torch.device,
    weights: Path | None = None,
) -> FullTeacher:
    """Find a teacher.

    One of ImageNet's 1000 classes teaches images whose classes are named by WordNet ids (n01440764), by those of its
    outputs; any other must have as many outputs as there are classes, in their order.

    Args:
        name: `efficientnet-lite0`, `efficientnet-lite2`, or `timm:NAME` for any network of timm.
        class_names: of the student.
        student: mean and std of its batches.
        device: to run on.
        weights: file of a timm network; without one timm downloads its own.
    Raises:
        InputError: there is none, its packages are missing, or its classes are not the student's.
    """
    least = size = 0
    if name.startswith(_TIMM):
        network, count = _of_timm(name.removeprefix(_TIMM), weights)
        config: Any = network.pretrained_cfg
        mean, std = config["mean"], config["std"]
        size = config["input_size"][-1] if config.get("fixed_input_size") else 0
    elif name in RELEASED:
        if weights is not None:
            raise InputError(f"--teacher {name} has its own weights: leave --teacher-weights out")
        network, _ = released(name)
        (mean, std), least, count = _LITE, _LEAST, _IMAGENET
    else:
        known = " or ".join(RELEASED)
        raise InputError(f"--teacher {name}: no teacher of this name; give {known}, or timm:NAME for one of timm")
    return FullTeacher(
        name,
        network,
        mean=mean,
        std=std,
        student=student,
        outputs=_matched(name, count, class_names),
        least=least,
        size=size,
        device=device,
    )


def _of_timm(name: str, weights: Path | None) -> tuple[nn.Module, int]:
    """A network of timm with its weights, and its number of classes."""
    timm = timm_part(needed_for=f"--teacher {_TIMM}{name}", extra="train")
    if not timm.is_model(name):
        raise InputError(f"--teacher {_TIMM}{name}: timm has no such network; timm.list_models() has all names")
    try:
        if weights is None:
            network = timm.create_model(name, pretrained=True)
        else:
            tensors = dict(read_checkpoint(weights).tensors)
            classifier = timm.get_pretrained_cfg(name).classifier
            last = tensors.get(f"{classifier}.weight") if isinstance(classifier, str) else None
            network = timm.create_model(name, **({} if last is None else {"num_classes": len(last)}))
            network.load_state_dict(tensors)
    except InputError:
        raise
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).strip().splitlines()[1:3]) or str(error)
        where = weights or "its weights"
        raise InputError(
            f"--teacher {_TIMM}{name}: {where} cannot be loaded ({visible(reason, limit=_LONGEST)})"
        ) from error
    except Exception as error:  # the hub's client raises many kinds
        raise InputError(
            f"--teacher {_TIMM}{name}: its weights cannot be downloaded ({type(error).__name__}); give them as "
            "--teacher-weights"
        ) from error
    return network, int(network.num_classes)


def _matched(name: str, count: int, class_names: Sequence[str]) -> list[int] | None:
    """Which outputs of a teacher are the student's classes; None for all in order."""
    if count == _IMAGENET and are_wordnet_ids(class_names):
        found = match_classes(class_names, count, (), source="the images", network=f"--teacher {name}")
        return [int(place) for place in found.outputs]
    if count != len(class_names):
        raise InputError(
            f"--teacher {name}: has {count} classes, the images have {len(class_names)}; a teacher of ImageNet teaches "
            "classes that are named by WordNet ids such as n01440764, any other must have the same classes"
        )
    return None
