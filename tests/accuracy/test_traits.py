from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from nas.accuracy.traits import TALLY, TRAITS, tally, traits, traits_of
from nas.networks import Architecture, AttentionSpec, Operation, StageSpec
from nas.networks.modules import build_model, fuse
from nas.networks.modules.trace import traced

Array = npt.NDArray[np.float64]


def _with_attention(network: Architecture, **changes: object) -> Architecture:
    """The same network with other attention units."""
    stages = tuple(
        StageSpec(
            channels=stage.channels,
            blocks=tuple(
                AttentionSpec.model_validate(block.model_dump() | changes)
                if isinstance(block, AttentionSpec)
                else block
                for block in stage.blocks
            ),
        )
        for stage in network.stages
    )
    return network.model_copy(update={"stages": stages})


@pytest.fixture(scope="module")
def networks(references: dict[str, Architecture], motley: Architecture) -> dict[str, Architecture]:
    small = references["t"].at(resolution=64, num_classes=10)
    return {
        "iformer_t": small,
        "sha": _with_attention(small, attention="sha", position_kernel=0),
        "mha": _with_attention(small, attention="mha", heads=8),
        "convolutions alone": small.model_copy(update={"stages": small.stages[:2] * 2}),
        "windows and every attention": motley,
    }


def _by_tracing(network: Architecture) -> Array:
    """The traits of its module. In the products of a module, an attention has its heads in each window."""
    module = fuse(build_model(network))
    seen = traced(module, torch.zeros(1, 3, network.resolution, network.resolution))
    sums = tally(seen.operations, resolution=network.resolution, gates=seen.gates, scalings=seen.scalings)
    for number, stage in enumerate(network.stages):
        side = network.resolution // (4 * 2**number)
        windows = [block.window for block in stage.blocks if isinstance(block, AttentionSpec) and block.window]
        sums[TALLY.index("log_heads")] -= sum(2 * math.log(side / window) for window in windows)
    return traits(sums[None], [network.resolution])


def _trait(name: str, *of: Architecture) -> list[float]:
    return [float(value) for value in traits_of(of)[:, TRAITS.index(name)]]


@pytest.mark.parametrize("name", ["iformer_t", "sha", "mha", "convolutions alone", "windows and every attention"])
def test_a_network_has_the_traits_of_its_traced_module(name: str, networks: dict[str, Architecture]) -> None:
    network = networks[name]

    np.testing.assert_allclose(_by_tracing(network), traits_of([network]), rtol=1e-12, atol=1e-12)


def test_every_network_has_its_own_row_of_numbers(networks: dict[str, Architecture]) -> None:
    together = traits_of(list(networks.values()))

    assert (len(networks), len(TRAITS)) == together.shape
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(np.concatenate([traits_of([one]) for one in networks.values()]), together)


def test_traits_tell_kinds_of_attention_and_their_heads_apart(networks: dict[str, Architecture]) -> None:
    kinds = [networks[name] for name in ("iformer_t", "sha", "mha", "convolutions alone")]

    assert _trait("has attention", *kinds) == [1, 1, 1, 0]
    assert pytest.approx([math.log1p(5), 0, 0, 0]) == _trait("log gates", *kinds)  # T has 3 + 2 attention units
    assert pytest.approx([0, 0, math.log(8), 0]) == _trait("log heads", *kinds)


def test_traits_of_size_are_those_of_the_image_too(references: dict[str, Architecture]) -> None:
    usual, large = references["m"], references["m"].at(resolution=448)
    at_large, at_usual = _trait("log macs", large, usual)

    assert pytest.approx([0, math.log(2)]) == _trait("log resolution", usual, large)
    assert _trait("log weights", usual) == _trait("log weights", large)
    assert (
        math.log(4) < at_large - at_usual < math.log(4.5)
    )  # four times the positions; products of attention grow faster


# Tallies of single operations. Maps of 16 x 16 positions of an image of 64 pixels are in stage 1.


def _tally(module: nn.Module, *, channels: int = 16, side: int = 16, resolution: int = 64) -> dict[str, float]:
    """What is not zero in the tally of a module."""
    seen = traced(module.eval(), torch.zeros(1, channels, side, side))
    sums = tally(seen.operations, resolution=resolution, gates=seen.gates, scalings=seen.scalings)
    return {name: value for name, value in zip(TALLY, sums.tolist(), strict=True) if value}


def test_a_dense_kernel_mixes_positions_and_a_point_does_not() -> None:
    macs, point_macs = 16 * 32 * 9 * 256, 16 * 32 * 256
    shared = {"activations": 32 * 256, "dense": 1}

    assert shared | {
        "macs": macs,
        "macs_1": macs,
        "spatial_macs": macs,
        "mixers_1": 1,
        "weights": 16 * 32 * 9 + 32,
    } == _tally(nn.Conv2d(16, 32, 3, padding=1))
    assert shared | {"macs": point_macs, "macs_1": point_macs, "weights": 16 * 32 + 32} == _tally(nn.Conv2d(16, 32, 1))


def test_groups_and_depthwise_kernels_are_told_from_dense_ones() -> None:
    grouped = _tally(nn.Conv2d(16, 32, 3, padding=1, groups=4))
    depthwise = _tally(nn.Conv2d(16, 16, 7, padding=3, groups=16))

    assert grouped["grouped_macs"] == grouped["spatial_macs"] == grouped["macs"] == 4 * 32 * 9 * 256
    assert (grouped["dense"], grouped["mixers_1"], "depthwise" in grouped) == (1, 1, False)
    assert depthwise["depthwise_macs"] == depthwise["macs"] == 16 * 49 * 256
    assert (depthwise["depthwise"], depthwise["kernel"], depthwise["mixers_1"]) == (1, 7, 1)
    assert not {"dense", "grouped_macs", "spatial_macs"} & set(depthwise)


@pytest.mark.parametrize(("side", "stage"), [(32, 1), (16, 1), (8, 2), (4, 3), (2, 4)])
def test_strides_of_4_8_16_and_more_are_stages(side: int, stage: int) -> None:
    sums = _tally(nn.Conv2d(16, 16, 1), side=side)

    assert f"macs_{stage}" in sums
    assert sums[f"macs_{stage}"] == sums["macs"]


def test_width_is_that_of_stage_3() -> None:
    layers = nn.Sequential(nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1))
    sums = _tally(layers, side=4)
    width = traits(np.asarray([[sums.get(name, 0.0) for name in TALLY]]), [64])[0, TRAITS.index("log width in stage 3")]

    assert sums["dense_3"] == 2
    assert sums["log_width_3"] == pytest.approx(math.log(64) + math.log(16))
    assert math.exp(width) == pytest.approx(32)
    assert "dense_3" not in _tally(layers, side=8)


def test_a_classifier_has_weights_and_no_place_in_a_stage() -> None:
    sums = _tally(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)))

    assert sums == {"macs": 160, "weights": 170, "activations": 10}


def test_norms_that_cannot_be_folded_count_and_batch_norms_do_not() -> None:
    layer_norm = nn.Sequential(nn.Conv2d(16, 16, 1), nn.GroupNorm(1, 16))
    batch_norm = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))

    assert _tally(layer_norm)["norms"] == 1
    assert "norms" not in _tally(batch_norm)


def test_an_attention_is_two_products_after_its_projection() -> None:
    tokens, width, heads = 16, 8, 4
    projection = Operation(
        kind="dense",
        macs=32 * 96 * tokens,
        weights=32 * 96,
        inputs=32,
        outputs=96,
        reads=32 * tokens,
        writes=96 * tokens,
    )
    scores = heads * tokens * tokens
    keys = Operation(kind="product", macs=scores * width, reads=2 * heads * width * tokens, writes=scores)
    values = Operation(kind="product", macs=scores * width, reads=scores, writes=heads * width * tokens)
    sums = dict(zip(TALLY, tally([projection, keys, values], resolution=64), strict=True))
    in_windows = dict(zip(TALLY, tally([projection, keys, values], resolution=64, windows=2), strict=True))

    assert (sums["attentions"], sums["mixers_3"]) == (1, 1)
    assert sums["log_heads"] == pytest.approx(math.log(heads))
    assert sums | {"log_heads": pytest.approx(math.log(heads / 2))} == in_windows
    assert sums["macs_3"] == projection.macs + 2 * scores * width


def test_gates_and_scalings_are_told_by_the_caller() -> None:
    sums = dict(zip(TALLY, tally([], resolution=64, gates=2, scalings=3), strict=True))

    assert {name: value for name, value in sums.items() if value} == {"gates": 2, "scalings": 3}
