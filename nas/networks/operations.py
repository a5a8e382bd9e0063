"""What a layer is made of: its operations after folding, with their multiply-adds, weights and traffic. No torch.

All counts describe the deployed form: batch norms are folded into the convolutions and the classifier, and the
residual of a position encoding is folded into its kernel. MACs follow the convention of the paper's tables: one
multiply-add is one MAC, the two attention products count, and element-wise work does not. Traffic is in tensor elements
at batch 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from nas.networks.architecture import Architecture
from nas.networks.layers import AttentionLayer, ConvLayer, DownsampleLayer, HeadLayer, Layer, StemLayer
from nas.networks.specs import AttentionSpec

__all__ = ["Counts", "Operation", "OperationKind", "count", "operations"]

OperationKind = Literal["dense", "depthwise", "product", "elementwise", "softmax", "norm", "reshape", "pool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the deployed network at batch 1.

    Attributes:
        kind: `dense` (convolution or linear layer across channels), `depthwise`, `product` (of two activations), ...;
            `norm` is a norm that cannot be folded, and no layer of this project has one.
        macs: multiply-adds.
        weights: parameters, bias included.
        inputs: channels that a `dense` or `depthwise` operation reads. A `dense` operation with groups counts the
            channels of one group. 0 for the other kinds. 0 also where the input is the image, because the image is
            not in the runtime's channel layout.
        outputs: channels that a `dense` or `depthwise` operation writes, counted in the same way; 0 for the other
            kinds.
        reads: activation elements read.
        writes: activation elements written.
    """

    kind: OperationKind
    macs: int = 0
    weights: int = 0
    inputs: int = 0
    outputs: int = 0
    reads: int
    writes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Size of a network: parameters with batch norms folded, and multiply-adds of one image."""

    params: int
    macs: int


def count(architecture: Architecture) -> Counts:
    """Parameters and multiply-adds of a network.

    Layer-scale factors count as parameters, as in the paper's tables, although folding removes them.
    """
    parts = [operation for layer in architecture.layers() for operation in operations(layer)]
    scales = 0
    if architecture.layer_scale:
        for stage in architecture.stages:
            branches = sum(2 if isinstance(block, AttentionSpec) else 1 for block in stage.blocks)
            scales += branches * stage.channels
    return Counts(params=sum(part.weights for part in parts) + scales, macs=sum(part.macs for part in parts))


def operations(layer: Layer) -> tuple[Operation, ...]:
    """The operations of one layer in the order they run."""
    match layer:
        case StemLayer():
            return tuple(_stem(layer))
        case DownsampleLayer():
            size = layer.height * layer.width
            return (_dense(layer.in_channels, layer.channels, layer.kernel, size, size // 4),)
        case ConvLayer():
            size = layer.height * layer.width
            return (
                _depthwise(layer.channels, layer.kernel, size),
                *_feed_forward(layer.channels, layer.expansion, size),
            )
        case AttentionLayer():
            return tuple(_attention(layer))
        case HeadLayer():
            size = layer.height * layer.width
            return (
                Operation(kind="pool", reads=layer.channels * size, writes=layer.channels),
                _dense(layer.channels, layer.num_classes, 1, 1, 1),
            )
        case _:
            assert_never(layer)


def _stem(layer: StemLayer) -> Iterator[Operation]:
    size = layer.height * layer.width
    half = layer.channels // 2
    yield replace(_dense(3, half, layer.kernel, size, size // 4), inputs=0)
    yield _elementwise(half * size // 4)
    yield _dense(half, layer.expansion * half, layer.kernel, size // 4, size // 16)
    yield _elementwise(layer.expansion * half * size // 16)
    yield _dense(layer.expansion * half, layer.channels, 1, size // 16, size // 16)


def _attention(layer: AttentionLayer) -> Iterator[Operation]:
    spec, channels = layer.spec, layer.channels
    size = layer.height * layer.width
    query, value = channels // spec.query_reduction, spec.value_channels(channels)
    tile = spec.window**2 if spec.window else size
    scores = (spec.heads or 1) * tile * size
    if layer.partitions:
        yield _reshape(channels * size)
    if spec.position_kernel:
        yield _depthwise(channels, spec.position_kernel, size)
    yield _dense(channels, query, 1, size, size)
    yield _dense(channels, query, 1, size, size)
    gated = spec.attention == "shma"
    yield _dense(channels, 2 * value if gated else value, 1, size, size)
    if gated:
        yield _elementwise(2 * value * size)
    if spec.attention == "mha":
        for width in (query, query, value):
            yield _reshape(width * size)
    yield Operation(kind="product", macs=query * tile * size, reads=2 * query * size, writes=scores)
    yield Operation(kind="softmax", reads=scores, writes=scores)
    yield Operation(kind="product", macs=value * tile * size, reads=value * size + scores, writes=value * size)
    if spec.attention == "mha":
        yield _reshape(value * size)
    if gated:
        yield _elementwise(value * size, inputs=2)
    yield _dense(value, channels, 1, size, size)
    yield _elementwise(channels * size, inputs=2)
    yield from _feed_forward(channels, spec.expansion, size)
    if layer.merges:
        yield _reshape(channels * size)


def _feed_forward(channels: int, expansion: int, size: int) -> Iterator[Operation]:
    yield _dense(channels, expansion * channels, 1, size, size)
    yield _elementwise(expansion * channels * size)
    yield _dense(expansion * channels, channels, 1, size, size)
    yield _elementwise(channels * size, inputs=2)


def _dense(inputs: int, outputs: int, kernel: int, in_size: int, out_size: int) -> Operation:
    weights = inputs * outputs * kernel**2
    return Operation(
        kind="dense",
        macs=weights * out_size,
        weights=weights + outputs,
        inputs=inputs,
        outputs=outputs,
        reads=inputs * in_size,
        writes=outputs * out_size,
    )


def _depthwise(channels: int, kernel: int, size: int) -> Operation:
    weights = channels * kernel**2
    return Operation(
        kind="depthwise",
        macs=weights * size,
        weights=weights + channels,
        inputs=channels,
        outputs=channels,
        reads=channels * size,
        writes=channels * size,
    )


def _elementwise(elements: int, *, inputs: int = 1) -> Operation:
    return Operation(kind="elementwise", reads=inputs * elements, writes=elements)


def _reshape(elements: int) -> Operation:
    return Operation(kind="reshape", reads=elements, writes=elements)
