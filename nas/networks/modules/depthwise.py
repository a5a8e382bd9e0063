"""Depthwise convolutions whose gradients are fast on a CPU.

The gradients of oneDNN take up to fifty times as long as the convolution itself. On small maps those here take a half
to a tenth of that (tests/benchmarks/bench_depthwise.py), and differ by rounding only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["depthwise", "is_slow"]

# Pairs of positions are counted one by one: on larger maps oneDNN is faster, in fp32 sooner than in bf16.
_MOST_POSITIONS = {torch.bfloat16: 16 * 16, torch.float32: 6 * 6}


def is_slow(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether `depthwise` computes this convolution of a map (B, C, H, W), and its gradients faster than torch."""
    # A strict torch.export would keep a function of its own as a call without gradients.
    return not torch.compiler.is_exporting() and (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.stride == (1, 1)
        and conv.kernel_size[0] > 1
        and x.device.type == "cpu"
        and x.shape[2] * x.shape[3] <= _MOST_POSITIONS.get(_dtype(x), 0)
    )


def _dtype(x: Tensor) -> torch.dtype:
    """What a convolution computes in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve each channel with its own kernel; the padding keeps the size.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, k, k), k odd.
    """
    return _Depthwise.apply(x, weight)  # type: ignore[no-untyped-call,no-any-return]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        # Apart from `forward`, as torch.func.grad requires.
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        # Behind autocast the gradient has another precision than what was saved.
        kernel = weight.to(gradient.dtype).flip(2, 3)
        of_x = F.conv2d(gradient, kernel, padding=kernel.shape[-1] // 2, groups=len(kernel))
        return of_x.to(x.dtype), _of_kernel(x.to(gradient.dtype), gradient, size=kernel.shape[-1]).to(weight.dtype)


def _of_kernel(x: Tensor, gradient: Tensor, *, size: int) -> Tensor:
    """(C, 1, k, k): element (i, j) is the sum over all outputs of gradient times the input that is (i, j) away."""
    height, width = x.shape[2:]
    pairs = gradient.flatten(2).permute(1, 2, 0) @ x.flatten(2).permute(1, 0, 2)  # (C, H * W, H * W)
    pairs = torch.unflatten(torch.unflatten(pairs, 2, (height, width)), 1, (height, width))  # (C, H, W, H, W)
    precise = torch.promote_types(x.dtype, torch.float32)
    sums = torch.zeros(size, size, x.shape[1], dtype=precise)
    half = size // 2
    for i in range(max(-half, 1 - height), min(half, height - 1) + 1):
        rows = pairs.diagonal(i, 1, 3).sum(-1, dtype=precise)  # (C, W, W)
        for j in range(max(-half, 1 - width), min(half, width - 1) + 1):
            sums[i + half, j + half] = rows.diagonal(j, 1, 2).sum(-1)
    return sums.permute(2, 0, 1)[:, None]
