"""How weights are changed: optimizer, schedule and moving average of a full training, as a record.

AdamW and the average are torch's, the schedules timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Self, assert_never

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nas.errors import InputError
from nas.files import Record
from nas.networks.modules.outside import timm_part

__all__ = ["MOST", "Optimisation", "adamw", "check_sizes", "moving_average", "rates"]

Share = Annotated[float, Field(ge=0, lt=1)]
MOST = 10**6  # epochs, and images of a step


def check_sizes(*, epochs: int | None, batch_size: int | None) -> None:
    """Refuse numbers that no training has.

    Raises:
        InputError: one is not from 1 to a million.
    """
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if number is not None and not 1 <= number <= MOST:
            raise InputError(f"{name} must be from 1 to {MOST:,}")


class Optimisation(Record):
    """How weights are changed.

    Attributes:
        epochs: passes over the training data.
        batch_size: images of a step, of all processes together.
        rate: highest learning rate of AdamW.
        lowest_rate: at the end of the schedule; for `step` it is not used.
        weight_decay: of matrices and kernels; norms and biases have none.
        betas: of AdamW.
        schedule: `cosine`, `poly` with power 0.9, or `step`, which divides the rate by 10 at `drops`.
        warmup_epochs: in which the rate rises from a thousandth of `rate`; may be a fraction.
        drops: epochs.
        ema: decay of a moving average of the weights at every step, which is then what is judged; 0 for none.
        clip: largest norm of all gradients; 0 for none.
        accumulate: parts that a batch is worked on in, where memory is short.
    """

    epochs: int = Field(gt=0, le=MOST)
    batch_size: int = Field(gt=0, le=MOST)
    rate: float = Field(gt=0)
    lowest_rate: float = Field(0.0, ge=0)
    weight_decay: float = Field(0.05, ge=0, le=10)
    betas: tuple[Share, Share] = (0.9, 0.999)
    schedule: Literal["cosine", "poly", "step"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0)
    drops: tuple[Annotated[int, Field(gt=0)], ...] = ()
    ema: Share = 0.0
    clip: float = Field(0.0, ge=0)
    accumulate: int = Field(1, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be fewer than the {self.epochs} epochs, got {self.warmup_epochs:g}")
        return self


def adamw(module: nn.Module, optimisation: Optimisation) -> torch.optim.AdamW:
    """AdamW for all parameters that have gradients."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.squeeze().ndim > 1], "weight_decay": optimisation.weight_decay},
        {"params": [p for p in parameters if p.squeeze().ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optimisation.rate, betas=optimisation.betas, fused=True)


def moving_average(module: nn.Module, decay: float) -> AveragedModel | None:
    """A moving average of a module, batch norm statistics as well; None for a decay of 0."""
    if not decay:
        return None
    change = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(module, multi_avg_fn=change, use_buffers=True)


def rates(optimizer: torch.optim.Optimizer, optimisation: Optimisation, steps: int) -> Callable[[int], None]:
    """What sets the learning rate before a step, counted from 0, with `steps` in an epoch.

    Raises:
        InputError: timm is missing.
    """
    schedulers = timm_part("timm.scheduler", needed_for="a full training", extra="train")
    warmup = round(optimisation.warmup_epochs * steps)
    shared = {
        "warmup_t": warmup,
        "warmup_lr_init": optimisation.rate / 1000,
        "t_in_epochs": False,
        "warmup_prefix": False,
    }
    total = optimisation.epochs * steps
    match optimisation.schedule:
        case "cosine":
            made = schedulers.CosineLRScheduler(optimizer, t_initial=total, lr_min=optimisation.lowest_rate, **shared)
        case "poly":
            made = schedulers.PolyLRScheduler(
                optimizer, t_initial=total, power=0.9, lr_min=optimisation.lowest_rate, **shared
            )
        case "step":
            drops = [drop * steps + 1 for drop in optimisation.drops]  # timm drops a step early
            made = schedulers.MultiStepLRScheduler(optimizer, decay_t=drops, decay_rate=0.1, **shared)
        case _:
            assert_never(optimisation.schedule)
    return made.step_update  # type: ignore[no-any-return]
