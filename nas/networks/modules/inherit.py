"""How a network starts from the weights of another network, its donor, sliced to its channels, kernels and blocks.

Both networks belong to the iFormer family. They may differ in everything that an architecture describes. What is taken:

- Channels: the most important channels of the donor. The channels of a stage are chosen once for all layers of the
  stage. Inner channels are chosen layer by layer: stem channels, hidden channels, queries with keys, values with gates.
- Importance of a channel: the product of what comes in and what goes out. Both are L1 norms of weights with their batch
  norm folded in (arXiv:1608.08710 ranks filters by the first norm alone). For the channels of a stage, what comes in is
  their standard deviation instead (`_spread`).
- Order: the most important channel comes first. The order does not change what the network computes. But the candidates
  of a supernet (nas/networks/modules/shared.py) take the first channels, and these are then the best channels.
- Where the network has more of something than the donor, the donor's part comes first and the rest stays as it was.
- A smaller kernel is the middle of the donor's kernel. A larger kernel has the donor's kernel in its middle and zeros
  around it.
- Blocks are matched in order, within a stage and a kind. A stage with fewer blocks takes evenly spaced blocks of the
  donor, including the first and the last. A block or a position encoding that the donor lacks starts as the identity:
  its last batch norm is zero.
- Values are copied if both networks have a gate, or if neither has a gate. They are not copied otherwise, because a
  gated value passes through a sigmoid.
- With another number of classes the network keeps its own classifier. A second classifier of the donor alone is
  ignored. A second classifier of the network alone starts from the donor's first classifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.errors import InputError
from nas.networks.architecture import Architecture
from nas.networks.modules.attention import Attention, AttentionUnit
from nas.networks.modules.blocks import (
    ConvBlock,
    ConvNorm,
    Head,
    NormLinear,
    PositionEncoding,
    Residual,
    Stem,
    residual_norms,
)
from nas.networks.modules.checkpoint import read_checkpoint
from nas.networks.modules.network import Network
from nas.networks.modules.weights import model_of

__all__ = ["Inherited", "inherit", "load_donor"]

# Weights of the first classifier, in this project's names, timm's and the authors'.
_CLASSIFIER = re.compile(r"(^|\.)(classifiers\.0\.linear|head\.head\.l|classifier\.l)\.weight$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """How much of a network came from its donor, in number of parameters (without batch norm statistics)."""

    copied: int
    total: int

    @property
    def share(self) -> float:
        """Share of the parameters that came from the donor, in [0, 1]."""
        return self.copied / self.total


class _Pairs(NamedTuple):
    """Channels of the network and, in the same order, the donor's channels that they start from."""

    ours: Tensor
    theirs: Tensor

    def moved(self, ours: int, theirs: int) -> _Pairs:
        return _Pairs(self.ours + ours, self.theirs + theirs)

    @staticmethod
    def joined(parts: Sequence[_Pairs]) -> _Pairs:
        return _Pairs(torch.cat([part.ours for part in parts]), torch.cat([part.theirs for part in parts]))


@torch.no_grad()
def inherit(network: Network, donor: Network) -> Inherited:
    """Start `network` from the weights and batch norm statistics of `donor`; the module docstring says which.

    Between equal architectures this copies the network. If important channels are gone, the batch norm statistics no
    longer fit the remaining channels. In that case, train the network or measure the statistics again before you use
    its outputs.

    Args:
        network: in training form; changed in place.
        donor: in training form.

    Examples:
        >>> from nas.networks.architecture import ConvSpec, StageSpec
        >>> from nas.networks.modules import build_model
        >>> def build(width, kernel):
        ...     block = ConvSpec(kernel=kernel, expansion=2)
        ...     stages = tuple(StageSpec(channels=width, blocks=(block,)) for _ in range(4))
        ...     return build_model(Architecture(resolution=32, num_classes=10, stages=stages))
        >>> inherit(build(8, kernel=3), build(16, kernel=7)).share
        1.0
    """
    ours, theirs = _stages(network), _stages(donor)
    readers = [*(stage[0] for stage in theirs[1:]), donor.layers[-1]]
    copied = 0
    before = None
    for index, (mine, given) in enumerate(zip(ours, theirs, strict=True)):
        importance = _spread(given) * _reading([*given[1:], readers[index]])
        stream = _choose(importance, network.architecture.stages[index].channels)
        match mine[0], given[0]:
            case Stem() as stem, Stem() as other:
                copied += _stem(stem, other, stream)
            case ConvNorm() as downsample, ConvNorm() as other:
                copied += _conv_norm(downsample, other, before, stream)
        for block, donated in _matched(_of(ConvBlock, mine), _of(ConvBlock, given)):
            copied += _conv_block(block, donated, stream) if donated else _silence(block)
        for unit, other_unit in _matched(_of(AttentionUnit, mine), _of(AttentionUnit, given)):
            copied += _attention_unit(unit, other_unit, stream) if other_unit else _silence(unit)
        before = stream
    copied += _head(network.layers[-1], donor.layers[-1], stream)
    return Inherited(copied=copied, total=sum(parameter.numel() for parameter in network.parameters()))


def load_donor(path: Path, known: Mapping[str, Architecture], *, weights_key: str | None = None) -> Network:
    """The network that a checkpoint holds, with all its weights.

    Args:
        path: a file of this project, which contains its architecture; or one in timm's or the authors' names, which
            does not. Its own name does not matter.
        known: by name, the architectures that a file of the second kind may have, with any number of classes; the
            first that fits is used.
        weights_key: which weights to take, if the file has several, as in `read_checkpoint`.
    Returns:
        The network, with one class if the file has no classifier.
    Raises:
        InputError: the file cannot be read, holds something other than weights, or fits no known network.
    """
    checkpoint = read_checkpoint(path, weights_key=weights_key)
    if written := checkpoint.metadata.get("architecture"):
        return model_of(checkpoint, Architecture.from_json(written, where=f"{path}: architecture"))
    classes = next((len(tensor) for name, tensor in checkpoint.tensors.items() if _CLASSIFIER.search(name)), None)
    for architecture in known.values():
        with suppress(InputError):
            # A backbone has no classifier to give. No data has a single class, so nothing inherits a random one.
            return model_of(checkpoint, architecture.at(num_classes=classes or 1), head=classes is not None)
    raise InputError(f"{path}: names no architecture, and its weights fit none of the known ones: {', '.join(known)}")


# Which channels and blocks are taken.


def _stages(network: Network) -> list[list[nn.Module]]:
    """The layers of each stage: its stem or downsample, then its blocks."""
    layers = iter(network.layers)
    return [list(islice(layers, 1 + len(stage.blocks))) for stage in network.architecture.stages]


def _spread(stage: list[nn.Module]) -> Tensor:
    """Standard deviation of each channel (C,), if the changes that the layers add to it are independent."""
    entry = stage[0].project if isinstance(stage[0], Stem) else stage[0]
    assert isinstance(entry, ConvNorm)
    variance = entry.norm.weight.square()
    for part in nn.ModuleList(stage[1:]).modules():
        match part:
            case Residual():
                variance = variance + (_convs(part)[-1].norm.weight * _scale(part)).square()
            case PositionEncoding():
                variance = variance + part.encode.norm.weight.square()
    return variance.sqrt()


def _reading(layers: list[nn.Module]) -> Tensor:
    """How strongly layers read each channel (C,); each reader is scaled to a total of one.

    Without this scale the widest reader would decide alone, because a layer with many outputs has the largest sums.
    """
    norms = [norm for layer in layers for norm in _readers(layer)]
    return torch.stack([norm / norm.sum().clamp(min=1e-30) for norm in norms]).sum(0)


def _readers(layer: nn.Module) -> Iterator[Tensor]:
    """L1 norm of the weights that read each channel (C,), for every part of a layer that reads the residual stream."""
    match layer:
        case ConvBlock():
            depthwise, widen, _ = _convs(layer)
            yield _strength(depthwise)[:, 0] * _strength(widen).sum(0)
        case AttentionUnit():
            core = _core(layer)
            for part in (core.query, core.key, core.value, _convs(layer.feed_forward)[0]):
                yield _strength(part).sum(0)
        case ConvNorm():
            yield _strength(layer).sum(0)
        case Head():
            for classifier in _of(NormLinear, layer.classifiers):
                yield classifier.linear.weight.abs().sum(0) * _gain(classifier.norm)


def _strength(part: ConvNorm) -> Tensor:
    """L1 norm of each kernel with the batch norm folded in, (C_out, C_in / groups)."""
    return part.conv.weight.abs().sum((2, 3)) * _gain(part.norm)[:, None]


def _gain(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    return norm.weight.abs() * (norm.running_var + norm.eps).rsqrt()


def _choose(importance: Tensor, count: int) -> _Pairs:
    """The `count` most important channels (all if there are fewer), the most important first."""
    kept = importance.argsort(descending=True, stable=True)[:count].cpu()
    return _Pairs(torch.arange(len(kept)), kept)


def _choose_in_heads(importance: Tensor, heads: _Pairs, count: int) -> _Pairs:
    """As `_choose`, inside each head; `importance` is (donor's heads, channels per head), `count` is per head."""
    return _Pairs.joined(
        [
            _choose(importance[theirs], count).moved(ours * count, theirs * importance.shape[1])
            for ours, theirs in zip(heads.ours.tolist(), heads.theirs.tolist(), strict=True)
        ]
    )


M = TypeVar("M", bound=nn.Module)


def _of(kind: type[M], modules: Sequence[nn.Module] | nn.ModuleList) -> list[M]:
    return [module for module in modules if isinstance(module, kind)]


def _matched(ours: list[M], theirs: list[M]) -> Iterator[tuple[M, M | None]]:
    """Each block of the network with the donor's block that it starts from, if any."""
    last, steps = len(theirs) - 1, len(ours) - 1
    if last > steps:
        theirs = [theirs[place * last // max(steps, 1)] for place in range(len(ours))]
    return zip_longest(ours, theirs)


# Copying, layer by layer. Each function returns how many parameters it copied.


def _stem(ours: Stem, theirs: Stem, stream: _Pairs) -> int:
    # From the last convolution to the first, so that only outputs to channels that stay count.
    project, second, first = (_strength(part) for part in (theirs.project, theirs.second, theirs.first))
    wide = _choose(second.sum(1) * project[stream.theirs].sum(0), ours.second.conv.out_channels)
    narrow = _choose(first.sum(1) * second[wide.theirs].sum(0), ours.first.conv.out_channels)
    return (
        _conv_norm(ours.first, theirs.first, None, narrow)
        + _conv_norm(ours.second, theirs.second, narrow, wide)
        + _conv_norm(ours.project, theirs.project, wide, stream)
    )


def _conv_block(ours: ConvBlock, theirs: ConvBlock, stream: _Pairs) -> int:
    depthwise = _conv_norm(_convs(ours)[0], _convs(theirs)[0], None, stream)
    return depthwise + _feed_forward(ours, theirs, stream)


def _attention_unit(ours: AttentionUnit, theirs: AttentionUnit, stream: _Pairs) -> int:
    copied = 0
    match ours.position, theirs.position:
        case PositionEncoding() as position, PositionEncoding() as other:
            copied += _conv_norm(position.encode, other.encode, None, stream)
        case PositionEncoding() as position, _:
            _silence(position)
    copied += _attention(ours, theirs, stream)
    return copied + _feed_forward(ours.feed_forward, theirs.feed_forward, stream)


def _attention(ours: AttentionUnit, theirs: AttentionUnit, stream: _Pairs) -> int:
    mine, given = _core(ours), _core(theirs)
    queries, values = mine.query.conv.out_channels, _convs(ours.attention)[0].conv.in_channels
    their_values = _convs(theirs.attention)[0].conv.in_channels
    query, key, value = (_strength(part)[:, stream.theirs].sum(1) for part in (given.query, given.key, given.value))
    if given.kind == "shma":
        value = value[:their_values] + value[their_values:]  # value and gate of a channel stay together
    incoming = value * _strength(_convs(theirs.attention)[0])[stream.theirs].sum(0)
    # If both networks have several heads, whole heads are taken. If either has a single head, channels are taken one
    # by one: a single head splits into several, or several heads form a single one.
    several = min(mine.heads, given.heads) > 1
    heads, their_heads = (mine.heads, given.heads) if several else (1, 1)
    by_value, by_query = (torch.unflatten(x, 0, (their_heads, -1)) for x in (incoming, query * key))
    chosen = _choose(by_value.sum(1), heads)
    query_pairs = _choose_in_heads(by_query, chosen, queries // heads)
    value_pairs = _choose_in_heads(by_value, chosen, values // heads)
    copied = _conv_norm(mine.query, given.query, stream, query_pairs)
    copied += _conv_norm(mine.key, given.key, stream, query_pairs)
    # Attention divides the logits by the square root of the channels per head. The scale here keeps the remaining
    # terms of each logit at their size.
    for parameter in (mine.query.norm.weight, mine.query.norm.bias):
        parameter[query_pairs.ours] *= given.temperature / mine.temperature
    if mine.kind == given.kind == "shma":
        gates = value_pairs.moved(values, their_values)
        copied += _conv_norm(mine.value, given.value, stream, _Pairs.joined([value_pairs, gates]))
    elif "shma" not in (mine.kind, given.kind):
        copied += _conv_norm(mine.value, given.value, stream, value_pairs)
    return copied + _end(ours.attention, theirs.attention, value_pairs, stream)


def _feed_forward(ours: Residual, theirs: Residual, stream: _Pairs) -> int:
    """1x1 to the hidden channels and back: the last two convolutions of a branch."""
    widen, narrow = _convs(theirs)[-2:]
    importance = _strength(widen)[:, stream.theirs].sum(1) * _strength(narrow)[stream.theirs].sum(0)
    hidden = _choose(importance, _convs(ours)[-2].conv.out_channels)
    return _conv_norm(_convs(ours)[-2], widen, stream, hidden) + _end(ours, theirs, hidden, stream)


def _end(ours: Residual, theirs: Residual, inputs: _Pairs, stream: _Pairs) -> int:
    """The last convolution of a branch, with the donor's layer scale.

    The scale goes into the network's own layer scale. A network without layer scale takes it into the batch norm.
    """
    last, scale = _convs(ours)[-1], _scale(theirs)
    copied = _conv_norm(last, _convs(theirs)[-1], inputs, stream)
    if ours.scale is not None:
        return copied + _copy(ours.scale.flatten(), scale, stream)
    for parameter in (last.norm.weight, last.norm.bias):
        parameter[stream.ours] *= scale[stream.theirs].to(parameter)
    return copied


def _head(ours: nn.Module, theirs: nn.Module, stream: _Pairs) -> int:
    assert isinstance(ours, Head) and isinstance(theirs, Head)
    classifiers = _of(NormLinear, theirs.classifiers)
    copied = 0
    for index, mine in enumerate(_of(NormLinear, ours.classifiers)):
        given = classifiers[min(index, len(classifiers) - 1)]
        classes = mine.linear.out_features
        if given.linear.out_features == classes:
            every = _Pairs(torch.arange(classes), torch.arange(classes))
            copied += _norm(mine.norm, given.norm, stream)
            copied += _copy(mine.linear.weight, given.linear.weight, every, stream)
            copied += _copy(mine.linear.bias, given.linear.bias, every)
    return copied


def _silence(block: nn.Module) -> int:
    """Make the output of every residual branch of a block zero; copies nothing."""
    for norm in residual_norms(block):
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    return 0


def _conv_norm(ours: ConvNorm, theirs: ConvNorm, inputs: _Pairs | None, outputs: _Pairs) -> int:
    """`inputs` is None for the convolution that reads the images, and for a depthwise convolution."""
    return _copy(ours.conv.weight, theirs.conv.weight, outputs, inputs) + _norm(ours.norm, theirs.norm, outputs)


def _norm(ours: nn.BatchNorm1d | nn.BatchNorm2d, theirs: nn.BatchNorm1d | nn.BatchNorm2d, channels: _Pairs) -> int:
    for mine, given in ((ours.running_mean, theirs.running_mean), (ours.running_var, theirs.running_var)):
        assert mine is not None and given is not None
        _copy(mine, given, channels)
    return _copy(ours.weight, theirs.weight, channels) + _copy(ours.bias, theirs.bias, channels)


def _copy(ours: Tensor, theirs: Tensor, outputs: _Pairs, inputs: _Pairs | None = None) -> int:
    """Copy channels of (outputs[, inputs[, kernel, kernel]]); returns how many numbers came from the donor."""
    ours_at: tuple[Tensor, ...] = (outputs.ours,)
    theirs_at: tuple[Tensor, ...] = (outputs.theirs,)
    if inputs is not None:
        ours_at = (outputs.ours[:, None], inputs.ours)
        theirs_at = (outputs.theirs[:, None], inputs.theirs)
    piece = theirs[theirs_at]
    count = piece.numel()
    if piece.ndim == 4:
        piece = F.pad(piece, ((ours.shape[-1] - piece.shape[-1]) // 2,) * 4)  # negative padding crops
    ours[ours_at] = piece.to(ours)
    return min(count, piece.numel())


def _convs(residual: Residual) -> list[ConvNorm]:
    return _of(ConvNorm, list(residual.branch))


def _core(unit: AttentionUnit) -> Attention:
    core = unit.attention.branch[0]
    assert isinstance(core, Attention)
    return core


def _scale(residual: Residual) -> Tensor:
    """The layer scale of each channel (C,); ones if the branch has no layer scale."""
    if residual.scale is None:
        return torch.ones_like(_convs(residual)[-1].norm.weight)
    return residual.scale.flatten()
