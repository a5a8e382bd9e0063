import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.networks.modules.blocks import ConvNorm
from nas.networks.modules.depthwise import depthwise, is_slow
from nas.training.recipe import Precision, autocast


@pytest.mark.parametrize("size", [(16, 16), (4, 4), (2, 2), (1, 1), (6, 3)])
@pytest.mark.parametrize("kernel", [3, 7])
def test_gradients_are_those_of_torch(size: tuple[int, int], kernel: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, ahead = (torch.randn(4, 6, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(6, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    x.requires_grad_(), weight.requires_grad_()
    theirs = F.conv2d(x, weight, padding=kernel // 2, groups=6)

    mine = depthwise(x, weight)

    torch.testing.assert_close(mine, theirs)
    for found, expected in zip(
        torch.autograd.grad(mine, (x, weight), ahead), torch.autograd.grad(theirs, (x, weight), ahead), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_under_autocast_gradients_have_the_precision_of_their_tensors() -> None:
    x, weight = torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(4, 1, 3, 3, requires_grad=True)

    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise(x, weight)
    of_x, of_weight = torch.autograd.grad(y.float().square().sum(), (x, weight))

    assert (y.dtype, of_x.dtype, of_weight.dtype) == (torch.bfloat16, torch.float32, torch.float32)


@pytest.mark.parametrize(
    ("conv", "size", "precision", "expected"),
    [
        (nn.Conv2d(8, 8, 7, padding=3, groups=8), 16, "bf16", True),
        (nn.Conv2d(8, 8, 7, padding=3, groups=8), 17, "bf16", False),
        (nn.Conv2d(8, 8, 7, padding=3, groups=8), 6, "fp32", True),
        (nn.Conv2d(8, 8, 7, padding=3, groups=8), 7, "fp32", False),
        (nn.Conv2d(8, 8, 7, stride=2, padding=3, groups=8), 6, "fp32", False),
        (nn.Conv2d(8, 16, 7, padding=3, groups=8), 6, "fp32", False),
        (nn.Conv2d(8, 8, 1), 6, "fp32", False),
    ],
)
def test_small_maps_and_one_kernel_a_channel(conv: nn.Conv2d, size: int, precision: Precision, expected: bool) -> None:
    with autocast(torch.device("cpu"), precision):
        assert is_slow(conv, torch.zeros(1, 8, size, size)) is expected


def test_gradients_have_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradgradcheck(depthwise, (x, weight))


def test_torch_func_takes_gradients() -> None:
    x, weight = torch.randn(2, 4, 8, 8), torch.randn(4, 1, 3, 3)

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return depthwise(x, weight).square().sum()

    expected = torch.autograd.grad(loss(weight.requires_grad_()), weight)[0]
    torch.testing.assert_close(torch.func.grad(loss)(weight.detach()), expected)


@pytest.mark.parametrize("strict", [True, False])
def test_export_in_train_mode_keeps_the_gradients(strict: bool) -> None:
    block = ConvNorm(inputs=8, outputs=8, kernel=7, groups=8).train()
    x = torch.randn(2, 8, 8, 8)

    exported = torch.export.export(block, (x,), strict=strict).module()
    exported(x).square().sum().backward()

    found = exported.get_parameter("conv.weight").grad
    block(x).square().sum().backward()
    assert block.conv.weight.grad is not None
    torch.testing.assert_close(found, block.conv.weight.grad, rtol=1e-4, atol=1e-4)


def test_a_block_trains_alike() -> None:
    torch.manual_seed(0)
    block = ConvNorm(inputs=8, outputs=8, kernel=7, groups=8).train()
    x = torch.randn(4, 8, 8, 8)
    block(x).square().sum().backward()
    mine = block.conv.weight.grad

    block.conv.weight.grad = None
    block.norm(block.conv(x)).square().sum().backward()

    torch.testing.assert_close(mine, block.conv.weight.grad, rtol=1e-4, atol=1e-4)
