from __future__ import annotations

import pytest
import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from nas.networks import (
    Architecture,
    AttentionLayer,
    AttentionSpec,
    ConvLayer,
    DownsampleLayer,
    HeadLayer,
    Layer,
    StemLayer,
    count,
    count_layer,
)
from nas.networks.modules import build_layer, example_shape, fuse


def attention(channels: int, size: int, *, partitions: bool = False, merges: bool = False, **spec) -> AttentionLayer:
    own = {"attention": "shma", "query_reduction": 2, "modulation": 1.0, "expansion": 1, **spec}
    unit = AttentionSpec.model_validate(own)
    return AttentionLayer(channels=channels, spec=unit, height=size, width=size, partitions=partitions, merges=merges)


# By hand, in elements: every tensor that is alive during the operation that needs most.
BY_HAND: dict[str, tuple[Layer, int]] = {
    # The image 3 x 32 x 32 with 8 x 16 x 16; 8 x 16 x 16 with 32 x 8 x 8 (both 2048); 32 x 8 x 8 with 16 x 8 x 8.
    "stem: the image and the first map": (
        StemLayer(channels=16, kernel=5, expansion=4, height=32, width=32),
        3072 + 2048,
    ),
    # Narrow at first: 4 x 16 x 16 with 64 x 8 x 8.
    "stem: the second map": (
        StemLayer(channels=8, kernel=3, expansion=16, height=32, width=32),
        1024 + 4096,
    ),
    "downsample: before and behind": (
        DownsampleLayer(in_channels=8, channels=24, kernel=3, height=16, width=16),
        8 * 256 + 24 * 64,
    ),
    # The residual, the map behind the depthwise or the last convolution, and between them four times as many channels.
    "conv: residual, hidden, map": (
        ConvLayer(channels=8, kernel=7, expansion=4, height=16, width=16),
        (8 + 32 + 8) * 256,
    ),
    # 64 tokens. The map, queries and keys of 8, values and gate of 16, and 64 x 64 weights.
    "attention: before queries and keys are gone": (
        attention(16, 8),
        (16 + 8 + 8 + 2 * 16) * 64 + 64 * 64,
    ),
    # With one query channel: behind the weights, values and their result count more than queries and keys.
    "attention: weights with values and result": (
        attention(16, 8, query_reduction=16),
        (16 + 2 * 16 + 16) * 64 + 64 * 64,
    ),
    "attention without gate, several heads": (
        attention(16, 8, attention="mha", heads=2, query_reduction=8),
        (16 + 16 + 16) * 64 + 2 * 64 * 64,
    ),
    # 2 x 2 windows of 4 x 4: 64 tokens that attend to 16 each.
    "attention in windows": (
        attention(16, 8, window=4, partitions=True, merges=True),
        (16 + 8 + 8 + 2 * 16) * 64 + 64 * 16,
    ),
    # On a map of four tokens the weights are small, and the feed-forward part needs most.
    "attention: residual, hidden, map of the feed-forward part": (
        attention(16, 2, expansion=4),
        (16 + 64 + 16) * 4,
    ),
    "head: the map and its mean": (HeadLayer(channels=16, num_classes=10, height=2, width=2), 16 * 4 + 16),
    "head: the mean and the logits": (HeadLayer(channels=16, num_classes=1000, height=2, width=2), 16 + 1000),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_peak_memory_is_that_counted_by_hand(name: str) -> None:
    layer, elements = BY_HAND[name]

    assert 2 * elements == count_layer(layer).memory_bytes


def test_the_peak_of_iformer_m_is_a_convolution_block_of_the_first_stage(references: dict[str, Architecture]) -> None:
    # Its input, four times its channels, and its output, 56 x 56 each.
    by_hand = (48 + 4 * 48 + 48) * 56 * 56 * 2

    assert by_hand == count(references["m"]).memory_bytes


def test_large_images_are_dominated_by_attention(references: dict[str, Architecture]) -> None:
    tokens = (1024 // 16) ** 2
    # Stage 3: the map, queries and keys of half its channels, values and gate; and a weight for each pair of tokens.
    by_hand = ((192 + 96 + 96 + 2 * 192) * tokens + tokens**2) * 2

    assert by_hand == count(references["m"].at(resolution=1024)).memory_bytes


def test_a_network_is_the_sum_of_its_layers_and_its_peak_the_greatest(motley: Architecture) -> None:
    parts = [count_layer(layer, scaled=True) for layer in motley.layers()]
    counts = count(motley)

    assert (sum(part.params for part in parts), sum(part.macs for part in parts)) == (counts.params, counts.macs)
    assert max(part.memory_bytes for part in parts) == counts.memory_bytes


ALIKE: dict[str, Layer] = {
    "stem": StemLayer(channels=16, kernel=5, expansion=4, height=32, width=32),
    "narrow stem": StemLayer(channels=8, kernel=3, expansion=16, height=32, width=32),
    "downsample": DownsampleLayer(in_channels=8, channels=24, kernel=3, height=16, width=16),
    "conv": ConvLayer(channels=8, kernel=3, expansion=3, height=8, width=8),
    "shma": attention(16, 8),
    "shma of few values": attention(16, 8, modulation=0.5, query_reduction=1, expansion=3),
    "shma of many values": attention(16, 4, modulation=4.0, query_reduction=8),
    "shma of a small map": attention(16, 2, expansion=4),
    "sha": attention(16, 8, attention="sha"),
    "sha without positions": attention(16, 4, attention="sha", position_kernel=0, query_reduction=1),
    "mha": attention(16, 8, attention="mha", heads=2),
    "inside windows": attention(16, 8, window=4),
    "head": HeadLayer(channels=16, num_classes=10, height=2, width=2),
    "head of many classes": HeadLayer(channels=16, num_classes=1000, height=2, width=2),
}


@pytest.mark.parametrize("name", ALIKE)
def test_peak_memory_is_that_of_the_graph_that_torch_runs(name: str) -> None:
    layer = ALIKE[name]
    module = fuse(build_layer(layer))
    graph = make_fx(module)(torch.zeros(example_shape(layer)))

    assert 2 * peak_elements(graph) == count_layer(layer).memory_bytes


IN_PLACE = {"add", "gelu", "mul", "sigmoid", "_softmax"}
VIEWS = {"_unsafe_view", "expand", "getitem", "split", "transpose", "view"}


def peak_elements(graph: GraphModule) -> int:
    """The largest sum of tensors alive at once, weights left out; element-wise steps write over what they read last."""
    owner: dict[Node, Node] = {}  # of each activation: the one that has its memory, another one only for a view
    read: dict[Node, set[Node]] = {}
    last_use: dict[Node, Node] = {}
    for node in graph.graph.nodes:
        read[node] = {owner[one] for one in node.all_input_nodes if one in owner}
        last_use |= dict.fromkeys(read[node], node)
        if node.op == "placeholder" or (node.op == "call_function" and read[node]):
            owner[node] = next(iter(read[node])) if name_of(node) in VIEWS else node
    alive: dict[Node, int] = {}
    peak = 0
    for node in graph.graph.nodes:
        size = elements(node) if owner.get(node) is node else 0
        gone = [one for one in read[node] if last_use[one] is node]
        reused = name_of(node) in IN_PLACE and any(alive[one] >= size for one in gone)
        peak = max(peak, sum(alive.values()) + (0 if reused else size))
        alive |= {node: size} if size else {}
        for one in gone:
            del alive[one]
    return peak


def name_of(node: Node) -> str:
    """`add` for aten.add.Tensor."""
    return str(getattr(node.target, "__name__", node.name)).partition(".")[0]


def elements(node: Node) -> int:
    return int(node.meta["val"].numel())
