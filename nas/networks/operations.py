"""What a layer is made of: its operations after folding, with their multiply-adds, weights and traffic. No torch.

All counts describe the deployed form: batch norms are folded into the convolutions and the classifier, and the
residual of a position encoding is folded into its kernel. MACs follow the convention of the paper's tables: one
multiply-add is one MAC, the two attention products count, and element-wise work does not. Traffic is in tensor elements
at batch 1.

Peak activation memory is the largest sum of tensors that are alive at once while the operations run in this order, at
batch 1 and two bytes an element (fp16); weights are not part of it. A tensor lives from the operation that writes it to
the last one that reads it, so the input of a residual lives until it is added; the image counts as well. Element-wise
operations and the softmax write over a tensor that they read, as in the runtimes; everything else needs its inputs and
its output side by side. MCUNet (arXiv:2007.10319) counts in the same way, with one byte an element.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from nas.networks.architecture import Architecture
from nas.networks.layers import AttentionLayer, ConvLayer, DownsampleLayer, HeadLayer, Layer, StemLayer

__all__ = ["Counts", "Operation", "OperationKind", "count", "count_layer", "operations"]

OperationKind = Literal["dense", "depthwise", "product", "elementwise", "softmax", "norm", "reshape", "pool"]

_ELEMENT_BYTES = 2  # fp16


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
    """Size of a network or of one layer.

    Attributes:
        params: parameters with batch norms folded.
        macs: multiply-adds of one image.
        memory_bytes: peak activation memory of one image at fp16, as the top of this file defines it.
    """

    params: int
    macs: int
    memory_bytes: int


def count(architecture: Architecture) -> Counts:
    """Size of a network; between two layers nothing is alive but the output of the first.

    Layer-scale factors count as parameters, as in the paper's tables, although folding removes them.

    Examples:
        >>> from nas.networks import SearchSpace
        >>> count(SearchSpace.find("iformer").references["iformer_m"])
        Counts(params=8879128, macs=1639944384, memory_bytes=1806336)
    """
    scaled = architecture.layer_scale > 0
    parts = [count_layer(layer, scaled=scaled) for layer in architecture.layers()]
    return Counts(
        params=sum(part.params for part in parts),
        macs=sum(part.macs for part in parts),
        memory_bytes=max(part.memory_bytes for part in parts),
    )


def count_layer(layer: Layer, *, scaled: bool = False) -> Counts:
    """Size of one layer.

    Args:
        layer: what to count.
        scaled: count the layer-scale factors of its residual branches as parameters.
    """
    steps = tuple(_steps(layer))
    branches = {ConvLayer: 1, AttentionLayer: 2}.get(type(layer), 0) if scaled else 0
    return Counts(
        params=sum(step.operation.weights for step in steps) + branches * layer.channels,
        macs=sum(step.operation.macs for step in steps),
        memory_bytes=_ELEMENT_BYTES * max(step.alive for step in steps),
    )


def operations(layer: Layer) -> tuple[Operation, ...]:
    """The operations of one layer in the order they run."""
    return tuple(step.operation for step in _steps(layer))


@dataclass(frozen=True, slots=True)
class _Step:
    """An operation at its place in a layer, where `held` elements that it does not touch are needed later."""

    operation: Operation
    held: int = 0

    @property
    def alive(self) -> int:
        """Elements that are alive while the operation runs."""
        in_place = self.operation.kind in ("elementwise", "softmax")
        return self.held + self.operation.reads + (0 if in_place else self.operation.writes)


def _steps(layer: Layer) -> Iterator[_Step]:
    match layer:
        case StemLayer():
            yield from map(_Step, _stem(layer))
        case DownsampleLayer():
            size = layer.height * layer.width
            yield _Step(_dense(layer.in_channels, layer.channels, layer.kernel, size, size // 4))
        case ConvLayer():
            size = layer.height * layer.width
            yield _Step(_depthwise(layer.channels, layer.kernel, size))
            yield from _feed_forward(layer.channels, layer.expansion, size, held=layer.channels * size)
        case AttentionLayer():
            yield from _attention(layer)
        case HeadLayer():
            size = layer.height * layer.width
            yield _Step(Operation(kind="pool", reads=layer.channels * size, writes=layer.channels))
            yield _Step(_dense(layer.channels, layer.num_classes, 1, 1, 1))
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


def _attention(layer: AttentionLayer) -> Iterator[_Step]:
    spec, channels = layer.spec, layer.channels
    size = layer.height * layer.width
    query, value = channels // spec.query_reduction, spec.value_channels(channels)
    tile = spec.window**2 if spec.window else size
    scores = (spec.heads or 1) * tile * size
    # What is held: the map until it is added behind the attention, and of queries, keys, values and gate those to come.
    whole, queries, values = channels * size, query * size, value * size
    if spec.position_kernel:
        yield _Step(_depthwise(channels, spec.position_kernel, size))
    if layer.partitions:
        yield _Step(_reshape(whole))
    yield _Step(_dense(channels, query, 1, size, size))
    yield _Step(_dense(channels, query, 1, size, size), queries)
    gated = spec.attention == "shma"
    gate = values if gated else 0
    yield _Step(_dense(channels, 2 * value if gated else value, 1, size, size), 2 * queries)
    if gated:
        yield _Step(_elementwise(2 * values), whole + 2 * queries)
    if spec.attention == "mha":
        yield _Step(_reshape(queries), whole + queries + values)
        yield _Step(_reshape(queries), whole + queries + values)
        yield _Step(_reshape(values), whole + 2 * queries)
    yield _Step(
        Operation(kind="product", macs=query * tile * size, reads=2 * queries, writes=scores), whole + values + gate
    )
    yield _Step(Operation(kind="softmax", reads=scores, writes=scores), whole + values + gate)
    yield _Step(Operation(kind="product", macs=value * tile * size, reads=values + scores, writes=values), whole + gate)
    if spec.attention == "mha":
        yield _Step(_reshape(values), whole)
    if gated:
        yield _Step(_elementwise(values, inputs=2), whole)
    yield _Step(_dense(value, channels, 1, size, size), whole)
    yield _Step(_elementwise(whole, inputs=2))
    yield from _feed_forward(channels, spec.expansion, size)
    if layer.merges:
        yield _Step(_reshape(whole))


def _feed_forward(channels: int, expansion: int, size: int, *, held: int = 0) -> Iterator[_Step]:
    """The two 1x1 convolutions of a block and its residual.

    Args:
        channels: C.
        expansion: hidden channels in multiples of C.
        size: height times width.
        held: elements of the input of the residual, if the first convolution does not read it itself.
    """
    hidden = expansion * channels
    yield _Step(_dense(channels, hidden, 1, size, size), held)
    yield _Step(_elementwise(hidden * size), channels * size)
    yield _Step(_dense(hidden, channels, 1, size, size), channels * size)
    yield _Step(_elementwise(channels * size, inputs=2))


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
