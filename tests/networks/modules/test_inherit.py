from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nas.errors import InputError
from nas.networks import Architecture, AttentionSpec, ConvSpec, DownsampleSpec, StageSpec, StemSpec
from nas.networks.modules import Network, build_model, inherit, load_donor, save_weights, to_timm
from nas.networks.modules.attention import Attention, AttentionUnit
from nas.networks.modules.blocks import (
    ConvBlock,
    ConvNorm,
    Head,
    PositionEncoding,
    Residual,
    Stem,
)

Trained = Callable[[nn.Module], nn.Module]

SHMA = {"attention": "shma"}
SHA = {"attention": "sha"}
MHA = {"attention": "mha", "heads": 2}


def architecture(
    *blocks: str,
    widths: tuple[int, ...] = (8, 8, 16, 24),
    kernel: int = 3,
    expansion: int = 1,
    unit: dict[str, Any] | None = None,
    **changes: Any,
) -> Architecture:
    """Four stages of blocks such as `CAC` (C: convolution block, A: attention unit).

    Images of 64 px leave 2x2 tokens in stage 4. With a single token the queries would not affect the output.
    """
    fields = {"query_reduction": 4, "modulation": 0.5, "expansion": 1, "position_kernel": 3} | SHMA | (unit or {})
    kinds = {"C": ConvSpec(kernel=kernel, expansion=expansion), "A": AttentionSpec.model_validate(fields)}
    order = blocks or ("C", "CC", "CAC", "AA")
    stages = tuple(StageSpec(channels=c, blocks=tuple(map(kinds.get, b))) for c, b in zip(widths, order, strict=True))
    small = {"resolution": 64, "num_classes": 10, "stem": StemSpec(kernel=3, expansion=2)}
    return Architecture(**small | {"stages": stages} | changes)


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def outputs(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network.eval()(images())


def assert_equal_outputs(expected: nn.Module, actual: nn.Module) -> None:
    # Sums of permuted channels round otherwise: by up to 5e-5 on a processor with AVX2 only.
    torch.testing.assert_close(outputs(actual), outputs(expected), rtol=1e-3, atol=2e-4)


@pytest.fixture(scope="session")
def lively(trained: Trained) -> Callable[..., Network]:
    """Build a network that looks trained, with weights so large that every channel affects the output."""

    def build(architecture: Architecture, *, seed: int = 0, distillation: bool = False) -> Network:
        torch.manual_seed(seed)
        network = build_model(architecture, distillation=distillation)
        for parameter in network.parameters():
            if parameter.ndim > 1 and parameter[0].numel() > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        for classifier in network.layers[-1].classifiers:
            nn.init.normal_(classifier.linear.bias)
        trained(network)
        return network

    return build


Lively = Callable[..., Network]


class Embedding:
    """Copies a small network into random channels of a larger network, so that both compute the same.

    The remaining channels have large values but do not affect the output. No layer reads the remaining channels of a
    stage. Some remaining inner channels are read only for outputs that are remaining channels themselves. The others
    are zero, and the weights that read them are large.
    """

    def __init__(self, small: Network, large: Network, kept: dict[int, list[int]]) -> None:
        self.generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            self.network(small, large, kept)

    def network(self, small: Network, large: Network, kept: dict[int, list[int]]) -> None:
        small_layers, large_layers = iter(small.layers), iter(large.layers)
        before = torch.arange(3)
        pairs = zip(small.architecture.stages, large.architecture.stages, strict=True)
        for index, (small_stage, large_stage) in enumerate(pairs):
            stream = self.places(small_stage.channels, large_stage.channels)
            self.entry(next(small_layers), next(large_layers), before, stream)
            for position in range(len(large_stage.blocks)):
                block = next(large_layers)
                if position in kept.get(index, range(len(large_stage.blocks))):
                    self.block(next(small_layers), block, stream)
                else:
                    self.identity(block, stream)
            before = stream
        self.head(small.layers[-1], large.layers[-1], before)

    def places(self, count: int, total: int) -> Tensor:
        return torch.randperm(total, generator=self.generator)[:count].sort().values

    def entry(self, small: nn.Module, large: nn.Module, before: Tensor, stream: Tensor) -> None:
        if isinstance(small, Stem) and isinstance(large, Stem):
            narrow = self.places(small.first.conv.out_channels, large.first.conv.out_channels)
            wide = self.places(small.second.conv.out_channels, large.second.conv.out_channels)
            self.conv(small.first, large.first, before, narrow)
            self.conv(small.second, large.second, narrow, wide)
            self.conv(small.project, large.project, wide, stream)
        else:
            self.ignore_beside(large, before)
            self.conv(small, large, before, stream)

    def block(self, small: nn.Module, large: nn.Module, stream: Tensor) -> None:
        if isinstance(small, ConvBlock) and isinstance(large, ConvBlock):
            self.depthwise(small.branch[0], large.branch[0], stream)
            self.feed_forward(small, large, stream)
        if isinstance(small, AttentionUnit) and isinstance(large, AttentionUnit):
            if isinstance(large.position, PositionEncoding):
                self.depthwise(small.position.encode, large.position.encode, stream)
            self.attention(small.attention, large.attention, stream)
            self.feed_forward(small.feed_forward, large.feed_forward, stream)

    def identity(self, block: nn.Module, stream: Tensor) -> None:
        for part in block.modules():
            if isinstance(part, PositionEncoding | Residual):
                last = part.encode if isinstance(part, PositionEncoding) else part.branch[-1]
                nn.init.zeros_(last.norm.weight)
                nn.init.zeros_(last.norm.bias)
            if isinstance(part, Attention):
                for reader in (part.query, part.key, part.value):
                    self.ignore_beside(reader, stream)
            elif isinstance(part, Residual) and not isinstance(part.branch[0], Attention):
                self.ignore_beside(part.branch[-3], stream)

    def attention(self, small: Residual, large: Residual, stream: Tensor) -> None:
        mine, its = small.branch[0], large.branch[0]
        heads = self.places(mine.heads, its.heads)
        queries = self.in_heads(heads, mine.query.conv.out_channels, its.query.conv.out_channels, its.heads)
        value, its_value = (part.branch[1].conv.in_channels for part in (small, large))
        values = both = self.in_heads(heads, value, its_value, its.heads)
        if its.kind == "shma":
            both = torch.cat([values, values + its_value])
        for part, its_part, rows in (
            (mine.query, its.query, queries),
            (mine.key, its.key, queries),
            (mine.value, its.value, both),
        ):
            self.ignore_beside(its_part, stream)
            self.conv(part, its_part, stream, rows)
        self.silence(its.query, self.beside(queries, its.query.conv.out_channels))
        for parameter in (its.query.norm.weight, its.query.norm.bias):
            parameter[queries] *= mine.temperature / its.temperature
        self.end(small, large, values, stream)

    def feed_forward(self, small: Residual, large: Residual, stream: Tensor) -> None:
        widen, narrow = large.branch[-3], large.branch[-1]
        hidden = self.places(small.branch[-3].conv.out_channels, widen.conv.out_channels)
        self.ignore_beside(widen, stream)
        self.conv(small.branch[-3], widen, stream, hidden)
        self.end(small, large, hidden, stream)
        silent = self.beside(hidden, widen.conv.out_channels)[::2]
        self.silence(widen, silent)
        narrow.conv.weight[:, silent] = 10.0

    def head(self, small: Head, large: Head, stream: Tensor) -> None:
        (mine,), (its,) = small.classifiers, large.classifiers
        its.linear.weight[:] = 0
        its.linear.weight[:, stream] = mine.linear.weight
        its.linear.bias.copy_(mine.linear.bias)
        self.norm(mine.norm, its.norm, stream)

    def end(self, small: Residual, large: Residual, inputs: Tensor, stream: Tensor) -> None:
        self.conv(small.branch[-1], large.branch[-1], inputs, stream)
        if large.scale is not None:
            large.scale[:, stream] = small.scale

    def in_heads(self, heads: Tensor, small: int, large: int, large_heads: int) -> Tensor:
        width = large // large_heads
        return torch.cat([head * width + self.places(small // len(heads), width) for head in heads])

    def depthwise(self, small: ConvNorm, large: ConvNorm, stream: Tensor) -> None:
        large.conv.weight[stream] = self.padded(small, large)
        self.norm(small.norm, large.norm, stream)

    def conv(self, small: ConvNorm, large: ConvNorm, inputs: Tensor, rows: Tensor) -> None:
        large.conv.weight[rows] = 0
        large.conv.weight[rows[:, None], inputs] = self.padded(small, large)
        self.norm(small.norm, large.norm, rows)

    @staticmethod
    def padded(small: ConvNorm, large: ConvNorm) -> Tensor:
        edge = (large.conv.kernel_size[0] - small.conv.kernel_size[0]) // 2
        return nn.functional.pad(small.conv.weight, (edge, edge, edge, edge))

    def norm(self, small: nn.Module, large: nn.Module, rows: Tensor) -> None:
        large.weight.mul_(10)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(large, name)[rows] = getattr(small, name)

    def ignore_beside(self, reader: ConvNorm, stream: Tensor) -> None:
        reader.conv.weight[:, self.beside(stream, reader.conv.in_channels)] = 0

    @staticmethod
    def beside(places: Tensor, total: int) -> Tensor:
        return torch.tensor([place for place in range(total) if place not in places.tolist()], dtype=torch.long)

    @staticmethod
    def silence(conv: ConvNorm, rows: Tensor) -> None:
        conv.conv.weight[rows] = 0
        conv.norm.bias[rows] = 0
        conv.norm.running_mean[rows] = 0


@dataclass(frozen=True, kw_only=True)
class Larger:
    """A donor that differs from `architecture()`; `kept` says, by stage, which blocks are the small network's."""

    changes: dict[str, Any] = field(default_factory=dict)
    unit: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    kept: dict[int, list[int]] = field(default_factory=dict)


WIDTHS = {"widths": (12, 16, 24, 40)}
KERNELS = {"kernel": 7, "stem": StemSpec(kernel=5, expansion=2), "downsample": DownsampleSpec(kernel=5)}
DEEPER = {"blocks": ("CCC", "CCCC", "CACAACCC", "AAAA"), "kept": {0: [0], 1: [0, 3], 2: [0, 1, 7], 3: [0, 3]}}
LARGER = {
    "width": Larger(changes=WIDTHS),
    "kernel": Larger(changes=KERNELS, unit={"position_kernel": 5}),
    "expansion": Larger(changes={"expansion": 3, "stem": StemSpec(kernel=3, expansion=4)}, unit={"expansion": 2}),
    "depth": Larger(**DEEPER),
    "query reduction": Larger(unit={"query_reduction": 1}),
    "modulation": Larger(unit={"modulation": 1.5}),
    "everything": Larger(
        changes=WIDTHS | KERNELS | {"expansion": 2, "stem": StemSpec(kernel=7, expansion=5)},
        unit={"position_kernel": 7, "expansion": 2, "query_reduction": 1, "modulation": 1.5},
        **DEEPER,
    ),
}


class TestSlicing:
    @pytest.mark.parametrize("distillation", [False, True])
    def test_equal_architectures_become_equal_networks(
        self, distillation: bool, motley: Architecture, lively: Lively
    ) -> None:
        donor = lively(motley, distillation=distillation)
        network = build_model(motley, distillation=distillation)

        assert inherit(network, donor).share == 1
        assert_equal_outputs(donor, network)

    @pytest.mark.parametrize("kind", [SHMA, SHA, MHA], ids=["shma", "sha", "mha"])
    @pytest.mark.parametrize("larger", LARGER.values(), ids=LARGER.keys())
    def test_what_matters_is_found_in_a_larger_donor(
        self, larger: Larger, kind: dict[str, Any], lively: Lively
    ) -> None:
        small = lively(architecture(unit=kind, layer_scale=0.5))
        donor = lively(architecture(*larger.blocks, unit=kind | larger.unit, **larger.changes, layer_scale=0.5), seed=1)
        Embedding(small, donor, larger.kept)
        network = build_model(small.architecture)

        assert_equal_outputs(small, donor)
        assert inherit(network, donor).share == 1
        assert_equal_outputs(small, network)

    def test_whole_heads_are_found_among_more(self, lively: Lively) -> None:
        small = lively(architecture(unit=MHA))
        donor = lively(architecture(unit=MHA | {"heads": 4, "query_reduction": 1, "modulation": 1.5}), seed=1)
        Embedding(small, donor, {})
        network = build_model(small.architecture)

        assert_equal_outputs(small, donor)
        assert inherit(network, donor).share == 1
        assert_equal_outputs(small, network)

    def test_shorter_rows_take_evenly_spaced_blocks(self, lively: Lively) -> None:
        small = lively(architecture("C", "CCC", "CA", "A"))
        donor = lively(architecture("C", "CCCCCC", "CA", "A"), seed=1)
        Embedding(small, donor, {1: [0, 2, 5]})
        network = build_model(small.architecture)
        inherit(network, donor)

        assert_equal_outputs(small, network)

    def test_donor_stays_as_it_was(self, lively: Lively) -> None:
        donor = lively(architecture(layer_scale=0.1))
        before = {name: tensor.clone() for name, tensor in donor.state_dict().items()}
        inherit(build_model(architecture(widths=(4, 4, 8, 8))), donor)

        assert all(torch.equal(before[name], tensor) for name, tensor in donor.state_dict().items())


def kept_channels(donor: Network) -> list[int]:
    """Channels of stage 1 that a network with half the width there takes, in the order of that network."""
    first, *others = (stage.channels for stage in donor.architecture.stages)
    donor.layers[0].project.norm.bias.data = torch.arange(float(first))
    network = build_model(architecture("C", "C", "C", "C", widths=(first // 2, *others)))
    inherit(network, donor)
    return network.layers[0].project.norm.bias.long().tolist()


class TestImportance:
    @pytest.fixture
    def donor(self) -> Network:
        """A donor whose channels 0, 1, 2 and 3 of stage 1 are less and less important to both of their readers."""
        network = build_model(architecture("C", "C", "C", "C", widths=(4, 8, 8, 8)))
        with torch.no_grad():
            self.depthwise, self.widen = network.layers[1].branch[:2]
            self.downsample = network.layers[2]
            self.depthwise.conv.weight.fill_(1)
            for reader in (self.widen, self.downsample):
                reader.conv.weight[:] = torch.tensor([4.0, 3, 2, 1])[:, None, None]
        return network

    @pytest.mark.parametrize("sign", [1, -1])
    def test_most_important_comes_first(self, sign: int, donor: Network) -> None:
        for reader in (self.widen, self.downsample):
            reader.conv.weight.data = sign * reader.conv.weight.data.flip(1)

        assert kept_channels(donor) == [3, 2]

    @pytest.mark.parametrize("part", ["depthwise kernel", "depthwise gain", "depthwise variance", "hidden gains"])
    def test_folded_weights_count(self, part: str, donor: Network) -> None:
        self.downsample.conv.weight.data[:] = 1
        match part:
            case "depthwise kernel":
                self.depthwise.conv.weight.data[0] = 0
            case "depthwise gain":
                self.depthwise.norm.weight.data[0] = 0
            case "depthwise variance":
                self.depthwise.norm.running_var[0] = 1e8
            case "hidden gains":  # The only hidden channel with a gain does not read channel 0.
                self.widen.norm.weight.data[1:] = 0
                self.widen.conv.weight.data[0, 0] = 0

        assert kept_channels(donor) == [1, 2]

    def test_channel_that_hardly_varies_matters_little(self, donor: Network) -> None:
        donor.layers[0].project.norm.weight.data[0] = 0.01
        donor.layers[1].branch[-1].norm.weight.data[0] = 0.01

        assert kept_channels(donor) == [1, 2]

    def test_channel_that_one_block_makes_vary_matters(self, donor: Network) -> None:
        donor.layers[0].project.norm.weight.data[0] = 0.01

        assert kept_channels(donor) == [1, 0]

    def test_channel_that_a_position_encoding_makes_vary_matters(self) -> None:
        donor = build_model(architecture("A", "C", "C", "C", widths=(4, 8, 8, 8)))
        unit = donor.layers[1]
        for reader in (*(part for part in unit.modules() if isinstance(part, ConvNorm)), donor.layers[2]):
            nn.init.ones_(reader.conv.weight)
        for last in (unit.attention.branch[-1], unit.feed_forward.branch[-1]):
            nn.init.zeros_(last.norm.weight)
        donor.layers[0].project.norm.weight.data = torch.tensor([0.35, 0, 0, 0])
        unit.position.encode.norm.weight.data = torch.tensor([0.1, 0.4, -0.3, 0.2])

        assert kept_channels(donor) == [1, 0]

    def test_reader_of_large_weights_does_not_decide_alone(self, donor: Network) -> None:
        self.downsample.conv.weight.data[:] = 1000 * torch.tensor([1.0, 1, 1, 1.2])[:, None, None]

        assert kept_channels(donor) == [0, 1]

    def test_every_part_that_reads_a_channel_counts(self, lively: Lively) -> None:
        donor = lively(architecture("C", "C", "CA", "A", widths=(8, 8, 12, 8)))
        _, conv, unit, downsample = donor.layers[4:8]
        core = unit.attention.branch[0]
        readers = [conv.branch[1], core.query, core.key, core.value, unit.feed_forward.branch[0], downsample]
        channels = [11, 9, 6, 4, 2, 7]
        for reader, channel in zip(readers, channels, strict=True):
            reader.conv.weight.data[:, [other for other in range(12) if other != channel]] = 0
        network = build_model(architecture("C", "C", "CA", "A", widths=(8, 8, 6, 8), unit={"query_reduction": 2}))
        inherit(network, donor)

        expected = donor.layers[4].norm.bias[channels].sort().values
        assert torch.equal(expected, network.layers[4].norm.bias.sort().values)

    def test_values_and_gates_count_both(self) -> None:
        donor = build_model(architecture("C", "C", "C", "A"))
        attention = donor.layers[-2].attention
        value, project = attention.branch[0].value, attention.branch[1]
        nn.init.ones_(project.conv.weight)
        nn.init.ones_(value.conv.weight)
        value.conv.weight.data[[7, 12 + 4]] = 3  # the value of channel 7, the gate of channel 4
        value.norm.bias.data = torch.arange(24.0)
        network = build_model(architecture("C", "C", "C", "A", unit={"modulation": 1 / 12}))
        inherit(network, donor)

        assert network.layers[-2].attention.branch[0].value.norm.bias.tolist() == [4, 7, 16, 19]

    def test_classifier_reads_the_last_stage(self, lively: Lively) -> None:
        donor = lively(architecture("C", "C", "C", "C", widths=(8, 8, 8, 8)))
        donor.layers[7].branch[1].conv.weight.data[:] = 0
        classifier = donor.layers[-1].classifiers[0]
        classifier.linear.weight.data[:, [0, 3, 5, 6]] = 0
        classifier.norm.weight.data[1] = 0
        network = build_model(architecture("C", "C", "C", "C", widths=(8, 8, 8, 3)))
        inherit(network, donor)

        expected = donor.layers[6].norm.bias[[2, 4, 7]].sort().values
        assert torch.equal(expected, network.layers[6].norm.bias.sort().values)


class TestLargerThanTheDonor:
    @pytest.mark.parametrize(
        "target",
        [
            architecture("C", "C", "CA", "CA", kernel=7, unit={"position_kernel": 5}),
            architecture(
                "C", "C", "CA", "CA", stem=StemSpec(kernel=7, expansion=2), downsample=DownsampleSpec(kernel=5)
            ),
            architecture("CC", "CA", "CCAA", "CAAC"),
            architecture("C", "C", "CA", "CA", layer_scale=1e-6),
        ],
        ids=["kernels", "stem and downsample", "blocks", "layer scale"],
    )
    def test_zeros_around_kernels_and_identities_change_nothing(self, target: Architecture, lively: Lively) -> None:
        donor = lively(architecture("C", "C", "CA", "CA"))
        network = lively(target, seed=1)

        copied = inherit(network, donor).copied

        assert_equal_outputs(donor, network)
        scales = sum(parameter.numel() for name, parameter in network.named_parameters() if name.endswith(".scale"))
        assert copied == sum(parameter.numel() for parameter in donor.parameters()) + scales

    def test_position_encoding_of_no_donor_starts_as_the_identity(self, lively: Lively) -> None:
        donor = lively(architecture(unit={"position_kernel": 0}))
        network = lively(architecture(), seed=1)
        inherit(network, donor)

        assert_equal_outputs(donor, network)

    def test_layer_scale_folds_where_there_is_none(self, lively: Lively) -> None:
        donor = lively(architecture(layer_scale=0.1))
        network = build_model(architecture())
        inherit(network, donor)

        assert_equal_outputs(donor, network)

    def test_the_donors_come_first_and_the_rest_stays(self, lively: Lively) -> None:
        donor = lively(architecture(unit=SHA, expansion=2))
        wider = architecture(unit=SHA | {"query_reduction": 2, "expansion": 2}, expansion=3, widths=(12, 16, 24, 40))
        network = lively(wider, seed=1)
        before = {name: parameter.clone() for name, parameter in network.named_parameters()}

        inherited = inherit(network, donor)

        changed = {name: (parameter != before[name]).nonzero() for name, parameter in network.named_parameters()}
        sizes = {name: parameter.shape for name, parameter in donor.named_parameters()}
        assert sizes == {name: tuple(places.amax(0) + 1) for name, places in changed.items()}
        assert inherited.copied == sum(len(places) for places in changed.values())
        assert inherited.copied == sum(parameter.numel() for parameter in donor.parameters())
        assert inherited.share == inherited.copied / sum(parameter.numel() for parameter in network.parameters())
        assert outputs(network).isfinite().all()

    def test_gates_stay_beside_their_values(self, lively: Lively) -> None:
        donor = lively(architecture("C", "C", "C", "A"))
        network = lively(architecture("C", "C", "C", "A", unit={"modulation": 1.0}), seed=1)
        inherit(network, donor)

        values, gates = network.layers[-2].attention.branch[0].value.norm.bias.view(2, 24)[:, :12].tolist()
        expected = donor.layers[-2].attention.branch[0].value.norm.bias.view(2, 12).tolist()
        assert set(zip(*expected, strict=True)) == set(zip(values, gates, strict=True))


class TestAttentionKinds:
    @pytest.mark.parametrize(("kind", "given"), [(SHMA, SHA), (SHA, SHMA), (MHA, SHMA)])
    def test_gated_and_plain_values_are_not_exchanged(
        self, kind: dict[str, Any], given: dict[str, Any], lively: Lively
    ) -> None:
        donor, network = lively(architecture(unit=given)), lively(architecture(unit=kind), seed=1)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        inherit(network, donor)

        kept = {name for name, tensor in network.state_dict().items() if torch.equal(before[name], tensor)}
        assert {name for name in before if ".value." in name or name.endswith("num_batches_tracked")} == kept

    def test_one_head_is_the_same_in_either_kind(self, lively: Lively) -> None:
        donor = lively(architecture(unit=SHA))
        network = build_model(architecture(unit=MHA | {"heads": 1}))

        assert inherit(network, donor).share == 1
        assert_equal_outputs(donor, network)

    @pytest.mark.parametrize(("kind", "given"), [(MHA, SHA), (SHA, MHA)])
    def test_one_head_and_several_share_all_channels(
        self, kind: dict[str, Any], given: dict[str, Any], lively: Lively
    ) -> None:
        donor, network = lively(architecture(unit=given)), build_model(architecture(unit=kind))

        assert inherit(network, donor).share == 1
        assert (
            donor.layers[-2].attention.branch[0].value.norm.bias.sort().values.tolist()
            == network.layers[-2].attention.branch[0].value.norm.bias.sort().values.tolist()
        )


class TestClassifier:
    def test_other_classes_keep_theirs(self, lively: Lively) -> None:
        donor, network = lively(architecture()), build_model(architecture(num_classes=7)).eval()
        before = {name: tensor.clone() for name, tensor in network.layers[-1].state_dict().items()}

        inherited = inherit(network, donor)

        head = network.layers[-1].state_dict()
        assert all(torch.equal(before[name], tensor) for name, tensor in head.items())
        assert inherited.total - inherited.copied == sum(
            parameter.numel() for parameter in network.layers[-1].parameters()
        )
        expected, actual = (part.features(images())[-1].sum(1) for part in (donor, network))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)

    def test_one_classifier_starts_from_the_first_of_two(self, lively: Lively) -> None:
        donor, network = lively(architecture(), distillation=True), build_model(architecture()).eval()
        inherit(network, donor)

        torch.testing.assert_close(network(images()), donor.head_logits(images())[0], rtol=1e-4, atol=1e-5)

    def test_two_classifiers_start_from_the_same_one(self, lively: Lively) -> None:
        donor, network = lively(architecture()), build_model(architecture(), distillation=True).eval()
        inherit(network, donor)

        for logits in network.head_logits(images()):
            torch.testing.assert_close(logits, donor(images()), rtol=1e-4, atol=1e-5)


class TestLoadDonor:
    @pytest.fixture
    def known(self) -> dict[str, Architecture]:
        """Networks that timm can express."""
        timm_widths = {"widths": (8, 12, 16, 24)}
        build = {"kernel": 7, "stem": StemSpec(), "num_classes": 1000}
        return {
            "deep": architecture("C", "CC", "CAC", "A", **build, **timm_widths),
            "wide": architecture("C", "C", "CAC", "A", **build, widths=(8, 12, 16, 32)),
            "right": architecture("C", "C", "CAC", "A", **build, **timm_widths),
        }

    def test_own_files_say_what_they_are(self, motley: Architecture, lively: Lively, tmp_path: Path) -> None:
        network = lively(motley)
        save_weights(network, tmp_path / "w.safetensors", metadata={})

        donor = load_donor(tmp_path / "w.safetensors", {})

        assert motley == donor.architecture
        assert torch.equal(outputs(network), outputs(donor))

    @pytest.mark.parametrize(
        ("head", "distillation", "ending"),
        [
            ("head.head.", False, ".safetensors"),
            ("head.head.", True, ".safetensors"),
            ("classifier.classifier.", True, ".pth"),
            ("classifier.", False, ".pth"),
        ],
    )
    def test_files_of_others_are_matched_with_the_known(
        self, head: str, distillation: bool, ending: str, known: dict[str, Architecture], lively: Lively, tmp_path: Path
    ) -> None:
        network = lively(known["right"].at(num_classes=7), distillation=distillation)
        weights = {name.replace("head.head.", head): tensor for name, tensor in to_timm(network)[0].items()}
        path = tmp_path / f"w{ending}"
        if ending == ".pth":
            torch.save({"model": weights}, path)
        else:
            save_file(weights, path, {"format": "pt"})

        donor = load_donor(path, known)

        assert known["right"].at(num_classes=7) == donor.architecture
        assert torch.equal(outputs(network), outputs(donor))

    def test_published_networks_can_be_donors(
        self, references: dict[str, Architecture], lively: Lively, tmp_path: Path
    ) -> None:
        network = lively(references["t"].at(resolution=64))
        save_file(to_timm(network)[0], tmp_path / "w.safetensors")
        known = {name: reference.at(resolution=64) for name, reference in references.items() if name in "tm"}

        donor = load_donor(tmp_path / "w.safetensors", known)
        smaller = build_model(known["t"].at(num_classes=10))

        assert known["t"] == donor.architecture
        assert inherit(smaller, donor).copied == sum(
            parameter.numel() for name, parameter in donor.named_parameters() if "classifiers" not in name
        )

    @pytest.mark.parametrize("content", ["other network", "no network"])
    def test_weights_of_something_else(
        self, content: str, known: dict[str, Architecture], lively: Lively, tmp_path: Path
    ) -> None:
        path = tmp_path / "w.safetensors"
        right = known.pop("right")
        save_file(to_timm(lively(right))[0] if content == "other network" else {"a": torch.zeros(1)}, path)

        with pytest.raises(InputError) as caught:
            load_donor(path, known)

        assert f"{path}: names no architecture, and its weights fit none of the known ones: deep, wide" == str(
            caught.value
        )

    def test_broken_architecture_in_a_file(self, known: dict[str, Architecture], tmp_path: Path) -> None:
        path = tmp_path / "w.safetensors"
        save_file({"a": torch.zeros(1)}, path, {"architecture": '{"schema": 2}'})

        with pytest.raises(InputError) as caught:
            load_donor(path, known)

        assert str(caught.value).startswith(f"{path}: architecture: schema: ")
        assert "\n" not in str(caught.value)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"w\.pth: cannot be read \("):
            load_donor(tmp_path / "w.pth", {})
