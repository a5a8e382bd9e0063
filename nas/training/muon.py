"""Muon for matrices, in the number format that this machine multiplies fast.

`torch.optim.Muon` always makes updates orthogonal in bf16. A processor without bf16 emulates it: there one step of
iFormer-M took 20 s on one thread of an AMD EPYC with AVX2 only, and takes 0.9 s in fp32.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonal_precision"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al. 2024; the default of torch.optim.Muon
_STEPS, _EPSILON = 5, 1e-7
_SIDE, _SLOWER = 256, 4.0  # bf16 that is only somewhat slower stays, so that a busy machine changes nothing


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with updates made orthogonal in `orthogonal_precision`; the state is the same.

    Args:
        matrices: parameters with two dimensions.
        momentum: of the gradients, with Nesterov's look ahead.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, momentum: float) -> None:
        super().__init__(list(matrices), momentum=momentum, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                buffer = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                update = _orthogonal(matrix.grad.lerp(buffer, group["momentum"]))
                rows, columns = matrix.shape
                matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


@functools.cache
def orthogonal_precision(device: torch.device) -> torch.dtype:
    """bf16; fp32 on a processor where products in bf16 take four times as long or more. Measured once, in 0.1 s."""
    if device.type != "cpu":
        return torch.bfloat16
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(4):
        for precision, taken in seconds.items():
            matrix = torch.zeros(_SIDE, _SIDE, dtype=precision)
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            taken.append(time.perf_counter() - start)
    is_slow = min(seconds[torch.bfloat16]) > _SLOWER * min(seconds[torch.float32])
    return torch.float32 if is_slow else torch.bfloat16


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, about: five steps of Newton and Schulz (Jordan et al. 2024)."""
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(orthogonal_precision(matrix.device))
    if is_tall:
        x = x.T
    x = x / x.norm().clamp(min=_EPSILON)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
