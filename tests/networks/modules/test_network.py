import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas.networks import (
    Architecture,
    AttentionLayer,
    AttentionSpec,
    ConvLayer,
    ConvSpec,
    DownsampleLayer,
    HeadLayer,
    Layer,
    StageSpec,
    StemLayer,
    StemSpec,
    count,
)
from nas.networks.modules import Network, build_layer, build_model, example_input, fuse, residual_norms
from nas.networks.modules.blocks import Residual

# paper/FACTS.md: million parameters and GMACs, with batch norms folded.
PUBLISHED = {
    "t": ("2.873", "0.530"),
    "s": ("6.540", "1.092"),
    "m": ("8.879", "1.640"),
    "l": ("14.738", "2.827"),
    "l2": ("24.455", "4.531"),
    "h": ("99.436", "15.53"),
}

Trained = Callable[[nn.Module], nn.Module]


def attention(**changes: object) -> AttentionSpec:
    spec = {"attention": "shma", "query_reduction": 2, "modulation": 1.0, "expansion": 3}
    return AttentionSpec.model_validate(spec | changes)


CONV = ConvSpec(kernel=7, expansion=4)
MHA = attention(attention="mha", heads=2, position_kernel=5)
ODD = {
    "mixed order": ((CONV, attention(), CONV), (attention(), CONV), (CONV, attention(), CONV, attention()), (CONV,)),
    "mha": ((CONV,), (MHA, MHA), (CONV, MHA), (MHA,)),
    "sha": ((attention(attention="sha"),), (CONV,), (CONV,), (attention(attention="sha", query_reduction=4),)),
    "half modulation": ((CONV,), (CONV,), (attention(modulation=0.5),), (attention(modulation=0.25), CONV)),
    "no position encoding": ((CONV,), (CONV,), (attention(position_kernel=0),) * 2, (CONV,)),
    "windows": (
        (attention(window=16), attention(window=16), attention(attention="mha", heads=4, window=8)),
        (CONV, attention(window=8), CONV),
        (attention(attention="sha", window=4),) * 3 + (attention(),),
        (attention(window=4), CONV),
    ),
    "other kernels": ((ConvSpec(kernel=3, expansion=1),), (ConvSpec(kernel=9, expansion=2),), (CONV,), (MHA,)),
}


def odd(name: str) -> Architecture:
    stages = tuple(StageSpec(channels=c, blocks=b) for c, b in zip((16, 24, 48, 80), ODD[name], strict=True))
    return Architecture(resolution=256, num_classes=7, stem=StemSpec(kernel=3, expansion=6), stages=stages)


def sizes_by_torch(architecture: Architecture, *, distillation: bool = False) -> tuple[int, int]:
    """Parameters and multiply-adds of the deployed network; the meta device computes shapes without numbers."""
    with torch.device("meta"):
        deployed = fuse(build_model(architecture, distillation=distillation))
        image = torch.empty(1, 3, architecture.resolution, architecture.resolution)
    with FlopCounterMode(display=False) as counter:
        deployed(image)
    return sum(parameter.numel() for parameter in deployed.parameters()), counter.get_total_flops() // 2


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def assert_close(expected: Tensor, actual: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def attention_layer(spec: AttentionSpec, **windows: bool) -> AttentionLayer:
    return AttentionLayer(channels=16, spec=spec, height=8, width=8, **windows)


LAYERS: dict[str, Layer] = {
    "stem": StemLayer(channels=16, kernel=5, expansion=4, height=32, width=32),
    "downsample": DownsampleLayer(in_channels=8, channels=16, kernel=3, height=8, width=8),
    "conv": ConvLayer(channels=16, kernel=7, expansion=3, height=8, width=8),
    "shma": attention_layer(attention(modulation=0.5)),
    "sha": attention_layer(attention(attention="sha", position_kernel=0)),
    "mha": attention_layer(MHA),
    "windows": attention_layer(attention(window=4), partitions=True, merges=True),
    "inside windows": attention_layer(attention(window=4)),
    "head": HeadLayer(channels=16, num_classes=5, height=8, width=8),
}


class TestSize:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_references_have_the_published_size(self, name: str, references: dict[str, Architecture]) -> None:
        params, gmacs = PUBLISHED[name]
        counts = count(references[name])

        assert params == f"{counts.params / 1e6:.3f}"
        assert gmacs == f"{counts.macs / 1e9:.{len(gmacs.partition('.')[2])}f}"

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_deployed_references_are_as_large_as_counted(self, name: str, references: dict[str, Architecture]) -> None:
        architecture = references[name]
        folded = count(architecture.model_copy(update={"layer_scale": 0.0}))

        assert (folded.params, folded.macs) == sizes_by_torch(architecture)

    @pytest.mark.parametrize("name", ODD)
    def test_deployed_networks_of_any_kind_are_as_large_as_counted(self, name: str) -> None:
        counts = count(odd(name))

        assert (counts.params, counts.macs) == sizes_by_torch(odd(name))

    def test_distillation_costs_nothing_once_deployed(self) -> None:
        assert sizes_by_torch(odd("mha")) == sizes_by_torch(odd("mha"), distillation=True)

    def test_layer_scale_is_counted_as_trained(self, motley: Architecture) -> None:
        with torch.device("meta"):
            scales = [p.numel() for name, p in build_model(motley).named_parameters() if name.endswith(".scale")]
        without = count(motley.model_copy(update={"layer_scale": 0.0}))

        assert sum(scales) == count(motley).params - without.params


class TestFuse:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_deployed_references_compute_the_same(
        self, name: str, references: dict[str, Architecture], trained: Trained
    ) -> None:
        network = trained(build_model(references[name].at(resolution=64)))
        images = noise(2, 3, 64, 64)

        with torch.no_grad():
            assert_close(network(images), fuse(network)(images))

    @pytest.mark.parametrize("distillation", [False, True])
    def test_deployed_network_of_all_kinds_computes_the_same(
        self, distillation: bool, motley: Architecture, trained: Trained
    ) -> None:
        network = trained(build_model(motley, distillation=distillation))
        deployed = fuse(network)
        images = noise(2, 3, 64, 64)

        assert_close(network(images), deployed(images))
        assert not [part for part in deployed.modules() if "Norm" in type(part).__name__]

    @pytest.mark.parametrize("name", LAYERS)
    def test_deployed_layer_computes_the_same(self, name: str, trained: Trained) -> None:
        layer = LAYERS[name]
        module = trained(build_layer(layer, layer_scale=0.5, distillation=True))
        x = example_input(layer)

        assert_close(module(x), fuse(module)(x))

    def test_original_is_left_as_it_was(self, motley: Architecture) -> None:
        network = build_model(motley, distillation=True)
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}

        fuse(network)

        assert network.training
        assert all(parameter.requires_grad for parameter in network.parameters())
        after = network.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)

    def test_deployed_form_stays_as_it_is(self, motley: Architecture, trained: Trained) -> None:
        once = fuse(trained(build_model(motley, distillation=True)))
        twice = fuse(once)
        images = noise(1, 3, 64, 64)

        assert torch.equal(once(images), twice(images))


class TestNetwork:
    def test_features_have_strides_4_8_16_and_32(self, motley: Architecture) -> None:
        network = build_model(motley).eval()

        shapes = [tuple(x.shape) for x in network.features(noise(2, 3, 64, 64))]

        assert shapes == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 40, 4, 4), (2, 64, 2, 2)]

    def test_images_of_a_batch_do_not_meet(self, motley: Architecture, trained: Trained) -> None:
        network = trained(build_model(motley))
        images = noise(3, 3, 64, 64)

        assert_close(torch.cat([network(image[None]) for image in images]), network(images), 1e-5)

    def test_each_layer_fits_the_next(self, motley: Architecture) -> None:
        for layer, following in itertools.pairwise(motley.layers()):
            output = build_layer(layer).eval()(example_input(layer))

            assert example_input(following).shape == output.shape

    def test_every_weight_learns(self, motley: Architecture) -> None:
        network = build_model(motley, distillation=True)

        network(noise(4, 3, 64, 64)).square().sum().backward()

        # A shift of all keys does not change the softmax, so the bias of the keys cannot learn.
        idle = [
            name
            for name, parameter in network.named_parameters()
            if not name.endswith("key.norm.bias") and (parameter.grad is None or not parameter.grad.any())
        ]
        assert idle == []

    def test_weights_start_from_a_narrow_normal_distribution(self, references: dict[str, Architecture]) -> None:
        torch.manual_seed(0)
        network = build_model(references["t"])

        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and parameter.numel() > 10_000:
                assert pytest.approx(parameter.std().item(), rel=0.05) == 0.02, name

    def test_equal_seeds_build_equal_networks(self, motley: Architecture) -> None:
        states = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            states.append(build_model(motley).layers[0].state_dict()["first.conv.weight"])

        assert torch.equal(states[0], states[1])
        assert not torch.equal(states[0], states[2])

    def test_distilled_network_averages_two_classifiers(self, motley: Architecture, trained: Trained) -> None:
        network = trained(build_model(motley, distillation=True))
        assert isinstance(network, Network)
        images = noise(2, 3, 64, 64)
        labels, teacher = network.head_logits(images)

        assert not torch.allclose(labels, teacher)
        assert_close((labels + teacher) / 2, network(images), 1e-6)

    def test_zeroed_residual_norms_make_every_block_the_identity(self, motley: Architecture, trained: Trained) -> None:
        network = trained(build_model(motley))
        for norm in residual_norms(network):
            nn.init.zeros_(norm.weight)
            nn.init.zeros_(norm.bias)
        blocks = [
            (layer, module)
            for layer, module in zip(motley.layers(), network.layers, strict=True)
            if isinstance(layer, ConvLayer) or (isinstance(layer, AttentionLayer) and layer.partitions == layer.merges)
        ]

        assert blocks
        for layer, module in blocks:
            x = example_input(layer)
            assert torch.equal(x, module(x)), layer.key

    def test_residual_norms_are_one_for_each_branch(self, motley: Architecture) -> None:
        # A convolution block has one branch. An attention unit has two, or three with position encoding.
        blocks = [block for stage in motley.stages for block in stage.blocks]
        branches = sum(1 if isinstance(b, ConvSpec) else 3 if b.position_kernel else 2 for b in blocks)

        assert branches == len(list(residual_norms(build_model(motley))))


class TestDropPath:
    def test_training_drops_whole_samples_and_keeps_the_mean(self) -> None:
        torch.manual_seed(0)
        block = build_layer(LAYERS["conv"], drop_path=0.25)
        assert isinstance(block, Residual)
        block.branch = nn.Sequential(nn.Identity())
        x = torch.ones(4000, 16, 1, 1)

        change = (block(x) - x).flatten(1)

        assert pytest.approx(change.unique().tolist()) == [0, 4 / 3]
        assert torch.equal(change.amin(1), change.amax(1))
        assert pytest.approx(change.mean().item(), abs=0.05) == 1

    def test_evaluation_drops_nothing(self) -> None:
        block = build_layer(LAYERS["conv"], drop_path=0.9).eval()
        x = noise(8, 16, 8, 8)

        assert torch.equal(block(x), block(x))

    def test_rate_rises_from_the_first_block_to_the_last(self, references: dict[str, Architecture]) -> None:
        with torch.device("meta"):
            network = build_model(references["t"], drop_path=0.2)
        rates = [part.drop_path for part in network.modules() if isinstance(part, Residual)]

        assert (rates[0], rates[-1]) == (0, 0.2)
        assert sorted(rates) == rates


class TestAttention:
    def test_shma_gates_attended_sigmoids(self, trained: Trained) -> None:
        core = trained(build_layer(LAYERS["shma"])).attention.branch[0]
        x = noise(2, 16, 8, 8)

        q, k = core.query(x), core.key(x)
        v, g = torch.sigmoid(core.value(x)).split(8, dim=1)
        scores = torch.einsum("bcij,bckl->bijkl", q, k) / 8**0.5
        weights = scores.flatten(3).softmax(-1).unflatten(3, (8, 8))
        expected = torch.einsum("bijkl,bckl->bcij", weights, v) * g

        assert_close(expected, core(x), 1e-5)

    @pytest.mark.parametrize(("kind", "heads"), [("sha", 1), ("mha", 2)])
    def test_plain_attention_equals_torch(self, kind: str, heads: int, trained: Trained) -> None:
        core = trained(build_layer(LAYERS[kind])).attention.branch[0]
        x = noise(2, 16, 8, 8)

        tokens = [
            part(x).flatten(2).unflatten(1, (heads, -1)).transpose(2, 3) for part in (core.query, core.key, core.value)
        ]
        expected = F.scaled_dot_product_attention(*tokens).transpose(2, 3).reshape(2, 16, 8, 8)

        assert_close(expected, core(x), 1e-5)

    def test_run_of_windowed_units_works_on_each_tile_alone_behind_the_first_position_encoding(
        self, trained: Trained
    ) -> None:
        flags = [(True, False), (False, False), (False, True)]
        run = [trained(build_layer(attention_layer(attention(window=4), partitions=p, merges=m))) for p, m in flags]
        alone = [build_layer(AttentionLayer(channels=16, spec=attention(), height=4, width=4)).eval() for _ in run]
        for unit, other in zip(run, alone, strict=True):
            other.load_state_dict(unit.state_dict())
        x = noise(2, 16, 8, 8)

        # The authors' order: the whole map passes the first position encoding; a tile passes everything else.
        inside = nn.Sequential(alone[0].attention, alone[0].feed_forward, *alone[1:])
        rows = [row.split(4, dim=3) for row in alone[0].position(x).split(4, dim=2)]
        expected = torch.cat([torch.cat([inside(tile) for tile in row], dim=3) for row in rows], dim=2)

        assert_close(expected, nn.Sequential(*run)(x), 1e-5)

    @pytest.mark.parametrize("size", [(8, 8), (6, 11), (3, 2)])
    def test_windows_pad_a_map_on_the_right_and_at_the_bottom(self, size: tuple[int, int], trained: Trained) -> None:
        flags = [(True, False), (False, True)]
        run = [trained(build_layer(attention_layer(attention(window=4), partitions=p, merges=m))) for p, m in flags]
        alone = [build_layer(AttentionLayer(channels=16, spec=attention(), height=4, width=4)).eval() for _ in run]
        for unit, other in zip(run, alone, strict=True):
            other.load_state_dict(unit.state_dict())
        x, (height, width) = noise(2, 16, *size), size

        expected = torch.empty_like(x)
        positioned = F.pad(alone[0].position(x), (0, 4, 0, 4))
        for top in range(0, height, 4):
            for left in range(0, width, 4):
                tile = positioned[:, :, top : top + 4, left : left + 4]
                done = alone[1](alone[0].feed_forward(alone[0].attention(tile)))
                bottom, right = min(top + 4, height), min(left + 4, width)
                expected[:, :, top:bottom, left:right] = done[:, :, : bottom - top, : right - left]

        assert_close(expected, run[1](run[0](x, size), size), 1e-5)

    def test_features_of_images_that_are_not_square_nor_divided_by_windows(self, trained: Trained) -> None:
        windowed, everywhere = attention(window=4), attention()
        convs = StageSpec(channels=16, blocks=(CONV,))
        stages = (convs, StageSpec(channels=16, blocks=(windowed, windowed, everywhere)), convs, convs)
        network = trained(build_model(Architecture(resolution=128, stages=stages)))

        shapes = [tuple(x.shape[2:]) for x in network.features(noise(1, 3, 200, 336))]

        assert shapes == [(50, 84), (25, 42), (13, 21), (7, 11)]
