from __future__ import annotations

import pytest
import torch

from nas.data.image_set import MASK_STRIDE
from nas.errors import InputError
from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.modules import PixelNetwork, SharedWeights, build_model, build_pixel_model, skeleton

CONV = ConvSpec(kernel=3, expansion=2)
UNIT = AttentionSpec(attention="shma", query_reduction=1, modulation=1.0, expansion=3)


def network(width: int, classes: int = 5) -> Architecture:
    stages = tuple(StageSpec(channels=width * 2**i, blocks=(CONV, UNIT) if i > 1 else (CONV,)) for i in range(4))
    return Architecture(resolution=64, num_classes=classes, stages=stages)


@pytest.mark.parametrize("size", [(64, 96), (70, 50)])
def test_every_fourth_pixel_has_logits(size: tuple[int, int]) -> None:
    module = build_pixel_model(network(8)).eval()

    logits = module(torch.randn(2, 3, *size))

    assert logits.shape == (2, 5, *(-(-side // MASK_STRIDE) for side in size))


def test_all_four_maps_are_used_and_the_layers_of_the_backbone_are_those_of_any_network() -> None:
    module = build_pixel_model(network(8))
    module(torch.randn(2, 3, 64, 64)).square().mean().backward()

    assert all(bool(scale.conv.weight.grad.any()) for scale in module.layers[-1].scales)
    own, others = (
        {name: p.shape for name, p in one.named_parameters() if not name.startswith(f"layers.{len(one.layers) - 1}.")}
        for one in (module, build_model(network(8)))
    )
    assert own == others


def test_a_narrower_network_takes_the_first_channels_of_the_shared_decoder() -> None:
    wide = build_pixel_model(network(16))
    shared = SharedWeights.holding([wide])

    part = shared.part(skeleton(network(8), build_pixel_model))
    narrow = build_pixel_model(network(8))
    narrow.load_state_dict(part, strict=False)

    last = f"layers.{len(narrow.layers) - 1}"
    held, taken = (
        wide.get_parameter(f"{last}.scales.2.conv.weight"),
        narrow.get_parameter(f"{last}.scales.2.conv.weight"),
    )
    assert torch.equal(taken, held[:, : taken.shape[1]])
    assert torch.equal(narrow.get_parameter(f"{last}.classify.weight"), wide.get_parameter(f"{last}.classify.weight"))


def test_the_weights_of_a_classifier_hold_no_decoder() -> None:
    shared = SharedWeights.holding([build_model(network(8))])

    with pytest.raises(InputError, match=r"does not fit into the supernet: layers.\d+.scales.0.conv.weight"):
        shared.part(skeleton(network(8), build_pixel_model))


def test_a_pixel_network_is_a_network() -> None:
    module = skeleton(network(8), build_pixel_model)

    assert isinstance(module, PixelNetwork)
    assert module.architecture == network(8)
