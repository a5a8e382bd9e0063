"""Distillation: a teacher of any kind as logits of the student's classes, and the loss of learning from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data.classes import match_classes
from nas.errors import InputError
from nas.networks.modules.outside import timm_part
from nas.training.full_recipe import Distillation
from nas.training.teacher import RELEASED, released

__all__ = ["FullTeacher", "distillation_loss", "full_teacher"]

_TIMM = "timm:"
_IMAGENET = 1000  # classes
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
        device: torch.device,
    ) -> None:
        self.name, self._least = name, least
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
        if own.shape[-1] < self._least:
            own = F.interpolate(own, size=(self._least, self._least), mode="bicubic", antialias=True)
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
    if name.startswith(_TIMM):
        network, mean, std = _of_timm(name.removeprefix(_TIMM), weights)
        least = 0
    elif name in RELEASED:
        if weights is not None:
            raise InputError(f"--teacher {name} has its own weights: leave --teacher-weights out")
        network, _ = released(name)
        (mean, std), least = _LITE, 128
    else:
        known = " or ".join(RELEASED)
        raise InputError(f"--teacher {name}: no teacher of this name; give {known}, or timm:NAME for one of timm")
    count = _outputs(network)
    return FullTeacher(
        name,
        network,
        mean=mean,
        std=std,
        student=student,
        outputs=_matched(name, count, class_names),
        least=least,
        device=device,
    )


def _of_timm(name: str, weights: Path | None) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    timm = timm_part(needed_for=f"--teacher {_TIMM}{name}", extra="train")
    if not timm.is_model(name):
        raise InputError(f"--teacher {_TIMM}{name}: timm has no such network; timm.list_models() has all names")
    try:
        network = timm.create_model(name, pretrained=weights is None, checkpoint_path="")
        if weights is not None:
            from nas.networks.modules.checkpoint import read_checkpoint

            network.load_state_dict(dict(read_checkpoint(weights).tensors))
    except InputError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--teacher {_TIMM}{name}: {weights or 'its weights'} cannot be loaded ({reason})") from error
    except Exception as error:  # the hub's client raises many kinds
        raise InputError(
            f"--teacher {_TIMM}{name}: its weights cannot be downloaded ({type(error).__name__}); give them as "
            "--teacher-weights"
        ) from error
    config = network.pretrained_cfg
    return network, config["mean"], config["std"]


def _outputs(network: nn.Module) -> int:
    """The number of logits, asked by a small image."""
    network.eval()
    with torch.no_grad():
        return int(network(torch.zeros(1, 3, 224, 224)).shape[1])


def _matched(name: str, count: int, class_names: Sequence[str]) -> list[int] | None:
    """Which outputs of a teacher are the student's classes; None for all in order."""
    if count == _IMAGENET and all(one[0] == "n" and one[1:9].isdecimal() for one in class_names):
        found = match_classes(class_names, count, (), source="the images", network=f"--teacher {name}")
        return [int(place) for place in found.outputs]
    if count != len(class_names):
        raise InputError(
            f"--teacher {name}: has {count} classes, the images have {len(class_names)}; a teacher of ImageNet teaches "
            "classes that are named by WordNet ids such as n01440764, any other must have the same classes"
        )
    return None
