from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from nas.errors import InputError
from nas.latency.published import read_operations
from nas.networks import Architecture, AttentionSpec, ConvSpec, Operation, OperationKind, StageSpec, operations
from nas.networks.modules import build_model, fuse
from nas.networks.modules.trace import traced, traced_operations

BASELINES = Path(__file__).parents[3] / "latency_tables" / "iphone13.baselines.operations.csv"


def _counted(network: Architecture) -> Counter[Operation]:
    return Counter(part for layer in network.layers() for part in operations(layer))


def _traced(network: Architecture) -> Counter[Operation]:
    image = torch.zeros(1, 3, network.resolution, network.resolution)
    return Counter(traced_operations(fuse(build_model(network)), image))


def _kinds(parts: tuple[Operation, ...]) -> list[OperationKind]:
    return [part.kind for part in parts]


class _Steps(nn.Module):
    """A function of one feature map, as a module."""

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class _SqueezeExcite(_Steps):
    """x * sigmoid(W2 relu(W1 mean(x))), one factor a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu())
        return x * gate.sigmoid()


@pytest.mark.parametrize("name", ["t", "m", "l2"])
def test_deployed_network_has_the_operations_that_are_counted(name: str, references: dict[str, Architecture]) -> None:
    assert _counted(references[name]) == _traced(references[name])


def test_every_kind_of_attention_and_windows_have_the_operations_that_are_counted(motley: Architecture) -> None:
    # Folding removes the layer scales of this network.
    assert _counted(motley) == _traced(motley)


def test_windows_in_channel_chunks_move_the_map_once_each_way() -> None:
    unit = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2, window=4)
    convs = StageSpec(channels=32, blocks=(ConvSpec(kernel=3, expansion=1),))
    network = Architecture(resolution=64, stages=(StageSpec(channels=32, blocks=(unit, unit)), convs, convs, convs))
    moved = [part for part in _traced(network).elements() if part.kind == "reshape"]

    assert [Operation(kind="reshape", reads=32 * 16 * 16, writes=32 * 16 * 16)] * 2 == moved


def test_parameters_and_macs_of_timm_networks_are_the_well_known_ones() -> None:
    known = {  # parameters in millions and GMACs, as the networks' papers and model zoos print them
        "MobileNetV2 1.0x": (3.5, 0.30),
        "MobileNetV3-Large 1.0x": (5.5, 0.22),
        "EfficientNet-B0": (5.3, 0.39),
        "RepViT-M1.0": (6.8, 1.1),
        "MobileOne-S2": (7.8, 1.3),
        "ConvNeXt-B": (88.6, 15.4),
    }
    networks = read_operations(BASELINES)
    for name, (params, gmacs) in known.items():
        parts = list(networks[name].elements())
        assert sum(part.weights for part in parts) / 1e6 == pytest.approx(params, rel=0.01), name
        assert sum(part.macs for part in parts) / 1e9 == pytest.approx(gmacs, rel=0.02), name


@pytest.mark.parametrize("name", [("MobileNetV2 1.0x", "mobilenetv2_100"), ("SHViT-S1", "shvit_s1")])
def test_kept_operations_are_those_that_timm_gives(name: tuple[str, str], timm: ModuleType) -> None:
    from timm.utils.model import reparameterize_model

    module = reparameterize_model(timm.create_model(name[1]).eval())

    assert read_operations(BASELINES)[name[0]] == Counter(traced_operations(module, torch.zeros(1, 3, 224, 224)))


def test_timm_twin_of_a_network_has_its_products_and_convolutions(
    references: dict[str, Architecture], timm: ModuleType
) -> None:
    twin = traced_operations(timm.create_model("iformer_t").eval(), torch.zeros(1, 3, 224, 224))
    own = _counted(references["t"])

    # timm adds position encodings instead of folding them. It has no other heavy operations.
    for kind in ("dense", "depthwise", "product", "softmax"):
        assert sum(part.macs for part in own.elements() if part.kind == kind) == sum(
            part.macs for part in twin if part.kind == kind
        )


# Rules, one by one.


def test_batch_norm_is_folded_into_what_stands_beside_it() -> None:
    image = torch.zeros(1, 8, 4, 4)
    behind = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)).eval()
    before = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(128), nn.Linear(128, 2)).eval()
    alone = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU()).eval()

    assert [part.weights for part in traced_operations(behind, image)] == [8 * 8 + 8]
    assert [part.weights for part in traced_operations(before, image)][1:] == [128 * 2 + 2]
    assert _kinds(traced_operations(alone, image)) == ["elementwise"] * 3


def test_convolution_in_groups_is_dense_within_a_group() -> None:
    (part,) = traced_operations(nn.Conv2d(32, 64, 3, padding=1, groups=4), torch.zeros(1, 32, 8, 8))

    assert part == Operation(
        kind="dense",
        macs=64 * 8 * 9 * 64,
        weights=64 * 8 * 9 + 64,
        inputs=8,
        outputs=16,
        reads=32 * 64,
        writes=64 * 64,
    )


def test_squeeze_and_excite_pools_and_multiplies_by_one_number_a_channel() -> None:
    parts = traced_operations(_SqueezeExcite(), torch.zeros(1, 16, 8, 8))

    assert _kinds(parts) == ["pool", "dense", "elementwise", "dense", "elementwise", "elementwise"]
    assert parts[-1] == Operation(kind="elementwise", reads=16 * 64 + 16, writes=16 * 64)


def test_product_of_equal_maps_is_a_gate_and_of_unequal_ones_a_scaling() -> None:
    class Gated(_Steps):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            gate: Tensor = self.gate(x)
            return x * gate.sigmoid()

    image = torch.zeros(1, 16, 8, 8)
    gated, scaled, both = (
        traced(module, image)
        for module in (Gated(), _SqueezeExcite(), nn.Sequential(Gated(), _SqueezeExcite(), Gated()))
    )

    assert (gated.gates, gated.scalings) == (1, 0)
    assert (scaled.gates, scaled.scalings) == (0, 1)
    assert (both.gates, both.scalings) == (2, 1)
    assert gated.operations == traced_operations(Gated(), image)


def test_sums_and_factors_of_parameters_are_no_gates() -> None:
    class Scaled(_Steps):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.map = nn.Parameter(torch.ones(16, 1, 1)), nn.Parameter(torch.ones(16, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.scale).relu() * self.map * 2.0 + x

    seen = traced(Scaled(), torch.zeros(1, 16, 8, 8))

    assert (seen.gates, seen.scalings) == (0, 0)


def test_single_head_modulation_attention_has_one_gate_a_unit(references: dict[str, Architecture]) -> None:
    network = references["t"].at(resolution=64, num_classes=10)
    seen = traced(fuse(build_model(network)), torch.zeros(1, 3, 64, 64))
    units = sum(isinstance(block, AttentionSpec) for stage in network.stages for block in stage.blocks)

    assert (seen.gates, seen.scalings) == (units, 0)


def test_views_and_permutations_between_two_steps_move_once() -> None:
    class Tokens(_Steps):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)  # (B, N, C): one move
            q, k, v = self.linear(tokens).reshape(1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)  # one move for all
            attended = nn.functional.scaled_dot_product_attention(q, k, v)
            return attended.transpose(1, 2).reshape(1, 16, 8).relu()  # one move

    parts = traced_operations(Tokens(), torch.zeros(1, 8, 4, 4))

    assert [part.reads for part in parts if part.kind == "reshape"] == [8 * 16, 24 * 16, 8 * 16]
    assert [part.macs for part in parts if part.kind == "product"] == [2 * 16 * 16 * 4] * 2
    assert [part.writes for part in parts if part.kind == "softmax"] == [2 * 16 * 16]


def test_putting_together_moves_and_slicing_does_not() -> None:
    class Halves(_Steps):
        def forward(self, x: Tensor) -> Tensor:
            first, second = x.chunk(2, dim=1)
            return torch.cat([first.relu(), second], dim=1).relu()

    parts = traced_operations(Halves(), torch.zeros(1, 8, 4, 4))

    assert _kinds(parts) == ["elementwise", "reshape", "elementwise"]
    assert [part.reads for part in parts] == [4 * 16, 8 * 16, 8 * 16]


def test_factor_of_channels_is_folded_and_a_map_of_parameters_is_read() -> None:
    class Scaled(_Steps):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(shape))

        def forward(self, x: Tensor) -> Tensor:
            return ((x * 2.0).relu() * self.scale.square()).relu()

    image = torch.zeros(1, 8, 4, 4)

    assert _kinds(traced_operations(Scaled(8, 1, 1), image)) == ["elementwise"] * 2
    assert [part.weights for part in traced_operations(Scaled(8, 4, 4), image)] == [0, 8 * 16, 0]


def test_layer_norm_is_a_norm() -> None:
    (part,) = traced_operations(nn.LayerNorm(4), torch.zeros(1, 8, 4, 4))

    assert part == Operation(kind="norm", weights=8, reads=8 * 16, writes=8 * 16)


def test_step_without_a_rule_is_named() -> None:
    class Sorted(_Steps):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(-1)

    with pytest.raises(
        InputError, match=r"no rule for the step aten\.cumsum\.default; see nas/networks/modules/trace\.py"
    ):
        traced_operations(Sorted(), torch.zeros(1, 8, 4, 4))
