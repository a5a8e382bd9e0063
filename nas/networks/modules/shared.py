"""One set of weights for many networks: each takes its part of the same tensors (arXiv:1908.09791, arXiv:2003.11142).

Each layer of a candidate has a *slot*: the stem, the downsampling before a stage, the n-th convolution block or n-th
attention unit of a stage, or the head. The layer takes a part of the shared layer in its slot: the first channels, the
first hidden, query and value channels, and the middle of the kernel. The attention kinds share everything except the
layers of values and output projection. These two work on other numbers with a gate than without. The forward pass is
the candidate's own, so the weights learnt here fit the network that is built from the candidate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import assert_never

import torch
from torch import Tensor, nn

from nas.errors import InputError
from nas.networks.architecture import Architecture
from nas.networks.layers import AttentionLayer, ConvLayer, DownsampleLayer, HeadLayer, StemLayer
from nas.networks.modules.network import Network, build_model

__all__ = ["SharedWeights", "skeleton"]

# Parts of an attention unit that the attention kinds do not share.
_OF_KIND = ("attention.branch.0.value.", "attention.branch.1.")
_VALUE = "attention.branch.0.value."


class SharedWeights:
    """The tensors that a family of networks shares.

    Args:
        tensors: by shared name; training changes them in place.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    @classmethod
    def holding(cls, networks: Iterable[Network]) -> SharedWeights:
        """Weights large enough for each of these networks and every smaller one; they start from the networks' values.

        Args:
            networks: where two networks have the same tensor, the tensor with more elements is taken.
        """
        tensors: dict[str, Tensor] = {}
        for network in networks:
            parameters = dict(network.named_parameters())
            for name, shared in _shared_names(network.architecture, parameters):
                mine, held = parameters[name].detach(), tensors.get(shared)
                if held is None or mine.numel() > held.numel():
                    tensors[shared] = mine
        return cls(tensors)

    def part(self, network: Network) -> dict[str, Tensor]:
        """The parameters of a network, by name: views of the shared tensors, or copies that gradients pass through.

        Raises:
            InputError: a tensor of the network is larger than the shared tensor, or there is no such shared tensor.
        """
        architecture = network.architecture
        shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        part = {}
        for name, shared in _shared_names(architecture, shapes):
            held = self.tensors.get(shared)
            if (
                held is None
                or held.ndim != len(shapes[name])
                or any(wanted > most for wanted, most in zip(shapes[name], held.shape, strict=True))
            ):
                most = "no such tensor" if held is None else f"at most {tuple(held.shape)}"
                raise InputError(
                    f"{architecture.summary} does not fit into the supernet: {name} is {shapes[name]}, "
                    f"the supernet has {most}"
                )
            # Values and gates are the two halves of one tensor. The network takes the first channels of each half.
            halves = 2 if ".shma." in shared and _VALUE in shared else 1
            part[name] = _slice(held, shapes[name], halves=halves)
        return part


def skeleton(architecture: Architecture, build: Callable[[Architecture], Network] = build_model) -> Network:
    """The modules of a network on the meta device, without memory, for `torch.func.functional_call`.

    Its batch norms use the statistics of the batch.
    """
    with torch.device("meta"):
        network = build(architecture)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return network


def _shared_names(architecture: Architecture, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The name of each parameter of a network, with its name among the shared tensors."""
    slots = list(_slots(architecture))
    for name in names:
        _, position, rest = name.split(".", 2)
        slot, kind = slots[int(position)]
        yield name, f"{slot}.{kind}.{rest}" if kind and rest.startswith(_OF_KIND) else f"{slot}.{rest}"


def _slots(architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Slot of each layer, with the attention kind of an attention unit (empty for other layers)."""
    stage, seen = 0, Counter[str]()
    for layer in architecture.layers():
        match layer:
            case StemLayer():
                yield "stem", ""
            case DownsampleLayer():
                stage += 1
                yield f"stages.{stage}.downsample", ""
            case ConvLayer():
                slot = f"stages.{stage}.conv"
                yield f"{slot}.{seen[slot]}", ""
                seen[slot] += 1
            case AttentionLayer():
                slot = f"stages.{stage}.attention"
                yield f"{slot}.{seen[slot]}", layer.spec.attention
                seen[slot] += 1
            case HeadLayer():
                yield "head", ""
            case _:
                assert_never(layer)


def _slice(held: Tensor, shape: tuple[int, ...], *, halves: int) -> Tensor:
    """The first `shape[:2]` channels (of each half, if `halves` is 2) and the middle of the kernel."""
    if halves > 1:
        first = (shape[0] // halves, *shape[1:])
        return torch.cat([_slice(half, first, halves=1) for half in held.chunk(halves)])
    corners = [0 if axis < 2 else (held.shape[axis] - size) // 2 for axis, size in enumerate(shape)]
    return held[tuple(slice(corner, corner + size) for corner, size in zip(corners, shape, strict=True))]
