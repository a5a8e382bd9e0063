"""Muon: the updates of torch's own, in another number format."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from nas.training import muon
from nas.training.muon import Muon, orthogonal_precision


@pytest.fixture(params=[(12, 5), (5, 12), (8, 8)], ids=str)
def matrix(request: pytest.FixtureRequest) -> nn.Parameter:
    return nn.Parameter(torch.randn(request.param, generator=torch.Generator().manual_seed(0)))


def updated(optimizer: Callable[..., torch.optim.Optimizer], start: nn.Parameter, **settings: float) -> torch.Tensor:
    parameter = nn.Parameter(start.detach().clone())
    made = optimizer([parameter], momentum=0.9, **settings)
    made.param_groups[0]["lr"] = 0.02
    for seed in range(3):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        made.step()
    return parameter.detach()


def test_in_bf16_the_updates_are_those_of_torch(matrix: nn.Parameter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "orthogonal_precision", lambda device: torch.bfloat16)

    expected = updated(torch.optim.Muon, matrix, weight_decay=0.0)
    assert torch.equal(expected, updated(Muon, matrix))


def test_fp32_changes_the_updates_by_the_rounding_of_bf16_only(
    matrix: nn.Parameter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "orthogonal_precision", lambda device: torch.float32)
    expected = updated(torch.optim.Muon, matrix, weight_decay=0.0)
    moved = (expected - matrix.detach()).norm()

    assert (updated(Muon, matrix) - expected).norm() < 0.03 * moved


def test_a_matrix_without_a_gradient_stays(matrix: nn.Parameter) -> None:
    before = matrix.detach().clone()
    Muon([matrix], momentum=0.9).step()

    assert torch.equal(before, matrix.detach())


def test_precision_is_one_of_two_and_bf16_on_a_gpu() -> None:
    assert orthogonal_precision(torch.device("cuda")) == torch.bfloat16
    assert orthogonal_precision(torch.device("cpu")) in (torch.bfloat16, torch.float32)
