from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nas.data import ImageSet
from nas.networks import Architecture, AttentionSpec, ConvSpec, SearchSpace, StageSpec
from nas.networks.modules import residual_norms
from nas.training import load_supernet
from nas.training.recipe import Optimizer, calibrate_norms, faster_precision, initial_network, judged, schedule

CONV = ConvSpec(kernel=3, expansion=2)
ATTENTION = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)
TINY = Architecture(
    resolution=64, num_classes=4, stages=tuple(StageSpec(channels=c, blocks=(CONV, ATTENTION)) for c in (8, 16, 16, 32))
)


def _optimizer(parameters: list[torch.Tensor], *, weight_decay: float = 0.0) -> Optimizer:
    # One parameter for Muon and one for AdamW, both without gradients.
    idle = [nn.Parameter(torch.ones(8, 8, 1, 1)), nn.Parameter(torch.ones(8, 8))]
    return Optimizer([*parameters, *idle], matrix_rate=0.5, rate=0.25, weight_decay=weight_decay)


def _stepped(parameter: torch.Tensor, gradient: torch.Tensor, *, share: float = 1.0) -> torch.Tensor:
    """Take one step and return the change of the parameter."""
    before = parameter.detach().clone()
    parameter.grad = gradient
    _optimizer([parameter]).step(share)
    return parameter.detach() - before


class TestOptimizer:
    def test_kernel_that_mixes_channels_gets_an_orthogonal_step(self) -> None:
        gradient = torch.randn(8, 16, 1, 1) * torch.logspace(-1, 1, 8)[:, None, None, None]
        change = _stepped(nn.Parameter(torch.zeros(8, 16, 1, 1)), gradient).flatten(1)

        # Newton-Schulz in bf16 brings singular values near 1, not exactly to 1.
        lengths = torch.linalg.svdvals(change) / 0.5
        assert lengths.min() > 0.5
        assert lengths.max() < 1.5
        assert torch.linalg.svdvals(gradient.flatten(1)).max() > 20 * torch.linalg.svdvals(gradient.flatten(1)).min()

    @pytest.mark.parametrize("shape", [(8, 1, 3, 3), (8, 3, 5, 5), (4, 16), (8,)], ids=str)
    def test_everything_else_gets_the_step_of_adam(self, shape: tuple[int, ...]) -> None:
        gradient = torch.randn(shape)

        change = _stepped(nn.Parameter(torch.zeros(shape)), gradient)

        # The first step of Adam is the sign of the gradient times the learning rate.
        torch.testing.assert_close(-0.25 * gradient.sign(), change, rtol=1e-3, atol=1e-3)

    def test_share_scales_both_rates(self) -> None:
        for shape in ((8, 16, 1, 1), (4, 16)):
            gradient = torch.randn(shape)
            whole = _stepped(nn.Parameter(torch.zeros(shape)), gradient)
            half = _stepped(nn.Parameter(torch.zeros(shape)), gradient, share=0.5)

            torch.testing.assert_close(whole / 2, half)

    def test_kernels_in_channels_last_are_trained_in_place(self) -> None:
        kernel = nn.Parameter(torch.randn(8, 16, 3, 3).contiguous(memory_format=torch.channels_last))

        change = _stepped(kernel, torch.randn(8, 16, 3, 3))

        assert change.abs().min() > 0

    def test_kernels_in_another_layout_are_refused(self) -> None:
        with pytest.raises(ValueError, match="must be laid out in channels_last"):
            _optimizer([nn.Parameter(torch.ones(8, 8, 3, 3))])

    def test_norms_and_biases_do_not_decay(self) -> None:
        parameters = [nn.Parameter(torch.ones(shape)) for shape in ((4, 16), (16,), (1, 16, 1, 1))]
        optimizer = _optimizer(parameters, weight_decay=0.5)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)

        optimizer.step(1.0)

        assert [parameter.mean().item() for parameter in parameters] == [0.875, 1.0, 1.0]

    def test_training_goes_on_from_its_state_as_if_it_had_not_stopped(self) -> None:
        random = torch.Generator().manual_seed(0)
        gradients = [[torch.randn(s, generator=random) for s in ((8, 16, 1, 1), (4, 16))] for _ in range(4)]

        def train(parts: list[range]) -> list[torch.Tensor]:
            parameters: list[torch.Tensor] = [nn.Parameter(torch.ones(shape)) for shape in ((8, 16, 1, 1), (4, 16))]
            state: dict[str, torch.Tensor] = {}
            for part in parts:
                optimizer = _optimizer(parameters)
                if state:
                    optimizer.load(state)
                for step in part:
                    for parameter, gradient in zip(parameters, gradients[step], strict=True):
                        parameter.grad = gradient.clone()
                    optimizer.step(1.0)
                state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
            return parameters

        for straight, resumed in zip(train([range(4)]), train([range(2), range(2, 4)]), strict=True):
            assert torch.equal(straight, resumed)


def test_pixels_are_judged_in_every_image_by_those_that_are_known() -> None:
    logits = torch.zeros(2, 3, 1, 4)
    logits[:, 1] = 2.0
    labels = torch.tensor([[[1, 1, 0, -100]], [[-100, -100, -100, -100]]])

    found = judged(nn.Identity(), logits, labels, precision="fp32")

    chance = torch.tensor([0.0, 2.0, 0.0]).log_softmax(0)
    torch.testing.assert_close(found.entropies, torch.tensor([-(2 * chance[1] + chance[0]).item() / 3, 0.0]))
    torch.testing.assert_close(found.right, torch.tensor([2 / 3, 0.0]))
    assert found.found.shape == (2, 1, 4)


def test_a_network_is_right_if_it_names_the_class_or_the_likeliest_one_of_a_soft_label() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    soft = torch.tensor([[0.75, 0.25], [0.75, 0.25]])

    entropies, right, _ = judged(nn.Identity(), logits, soft, precision="fp32")

    assert (
        right.tolist() == judged(nn.Identity(), logits, torch.tensor([0, 0]), precision="fp32").right.tolist() == [1, 0]
    )
    torch.testing.assert_close(entropies, -(soft * logits.log_softmax(1)).sum(1))


def test_schedule_rises_and_falls_along_lines() -> None:
    assert [schedule(done, warmup=0.2) for done in (0.1, 0.2, 0.6, 1.0)] == [0.5, 1.0, 0.5, 0.0]


class TestInitialNetwork:
    def test_seed_decides(self) -> None:
        first, again, other = (initial_network(TINY, seed=seed) for seed in (0, 0, 1))

        name = "layers.0.first.conv.weight"
        assert torch.equal(first.state_dict()[name], again.state_dict()[name])
        assert not torch.equal(first.state_dict()[name], other.state_dict()[name])

    def test_generator_of_the_caller_is_left_alone(self) -> None:
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)

        initial_network(TINY, seed=5)

        assert expected == torch.rand(1)

    def test_every_residual_branch_starts_at_zero(self) -> None:
        network = initial_network(TINY, seed=0)

        assert [0.0] * sum(1 for _ in residual_norms(network)) == [
            norm.weight.abs().max().item() for norm in residual_norms(network)
        ]


def test_faster_precision_is_settled_once() -> None:
    first = faster_precision("cpu")

    assert first in ("fp32", "bf16")
    assert first == faster_precision("cpu")
    assert faster_precision.cache_info().misses == 1


class TestCalibration:
    def test_statistics_are_the_means_over_the_batches(self, tiny_supernet: Path) -> None:
        network = load_supernet(tiny_supernet).network(SearchSpace.find("tiny").references["tiny_a"])
        batches = [torch.randn(16, 3, 32, 32) + shift for shift in (0, 1, 5)]

        calibrate_norms(network, batches, precision="fp32")

        stem = network.layers[0].first
        means = [stem.conv(batch).mean((0, 2, 3)) for batch in batches]
        torch.testing.assert_close(torch.stack(means).mean(0), stem.norm.running_mean)
        assert not network.training

    def test_score_does_not_depend_on_what_was_scored_before(self, tiny_supernet: Path, colours: ImageSet) -> None:
        network = load_supernet(tiny_supernet).network(SearchSpace.find("tiny").references["tiny_a"])
        batches = [torch.randn(16, 3, 32, 32)]

        calibrate_norms(network, batches, precision="fp32")
        first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        calibrate_norms(network, [batches[0] + 9], precision="fp32")
        calibrate_norms(network, batches, precision="fp32")

        assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in first.items())
