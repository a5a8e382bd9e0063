"""What about a network foretells its accuracy: a few numbers from its operations. No torch.

The same numbers describe an architecture of this project and any traced network, so accuracies that others published
can say something about networks of a space. Sums over operations (a *tally*) add up layer by layer; the traits are
logarithms and shares of these sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nas.networks import Architecture, AttentionLayer, Layer, Operation, operations

__all__ = ["TALLY", "TRAITS", "of_layer", "tally", "traits", "traits_of"]

Array = npt.NDArray[np.float64]

_STAGES = 4  # feature maps at strides up to 4, at 8, at 16, and above

# Columns of a tally.
TALLY = (
    "macs",
    "weights",
    "activations",  # elements written by dense and depthwise operations
    *(f"macs_{stage}" for stage in range(1, _STAGES + 1)),
    *(f"mixers_{stage}" for stage in range(1, _STAGES + 1)),  # operations that mix positions: kernels, attention
    "dense",  # dense operations on feature maps
    "dense_3",  # those of stage 3
    "log_width_3",  # sum of their log channels
    "depthwise_macs",
    "depthwise",
    "kernel",  # sum of the sides of the depthwise kernels
    "spatial_macs",  # dense operations with a kernel larger than 1 x 1
    "grouped_macs",
    "attentions",
    "log_heads",  # sum over the attentions
    "gates",  # products of two feature maps of equal size, element by element
    "scalings",  # feature maps scaled by computed factors per channel (squeeze-and-excitation)
    "norms",  # norms that cannot be folded, such as layer norms
)
_AT = {name: column for column, name in enumerate(TALLY)}

# Columns of the traits. Stages are 1 to 4, as in a tally.
TRAITS = (
    "log macs",
    "log weights",
    "log activations",
    "log resolution",
    *(f"log share of macs in stage {stage}" for stage in range(1, _STAGES + 1)),
    "log dense operations",
    "log mixers in stage 3",
    "log mixers in stage 4",
    "log width in stage 3",
    "share of depthwise macs",
    "depthwise kernel",
    "share of spatial macs",
    "share of grouped macs",
    "share of attention among mixers",
    "log heads",
    "has attention",
    "log gates",
    "log scalings",
    "log norms",
)


def tally(parts: Iterable[Operation], *, resolution: int, gates: int = 0, scalings: int = 0, windows: int = 1) -> Array:
    """Sums over some operations of a network, (len(TALLY),).

    Args:
        parts: operations in the order in which they run; attention comes after the projection that feeds it.
        resolution: height and width of the network's image.
        gates: products of two feature maps among the operations. An operation does not tell a product from a sum.
        scalings: feature maps scaled by computed factors per channel.
        windows: number of windows that attention works in; an operation does not tell windows from heads.
    """
    sums = np.zeros(len(TALLY))

    def add(name: str, value: float) -> None:
        sums[_AT[name]] += value

    positions, products = float(resolution**2), 0
    for part in parts:
        add("macs", part.macs)
        add("weights", part.weights)
        if part.kind == "norm":
            add("norms", 1)
        elif part.kind == "product":
            stage = _stage(resolution, positions)
            add(f"macs_{stage}", part.macs)
            products += 1
            if products % 2:  # queries times keys; the second product is attention times values
                add(f"mixers_{stage}", 1)
                add("attentions", 1)
                add("log_heads", math.log(max(1.0, _heads(part) / windows)))
        elif part.kind in ("dense", "depthwise"):
            kernel, groups = _kernel_and_groups(part)
            size = part.writes / max(part.outputs, 1) / groups
            add("activations", part.writes)
            if size <= 1:  # the classifier, and what is computed from pooled features
                continue
            positions, stage = size, _stage(resolution, size)
            add(f"macs_{stage}", part.macs)
            if part.kind == "depthwise":
                add("depthwise_macs", part.macs)
                add("depthwise", 1)
                add("kernel", math.sqrt(kernel))
                add(f"mixers_{stage}", 1)
                continue
            add("dense", 1)
            if stage == 3:
                add("dense_3", 1)
                add("log_width_3", math.log(part.writes / size))
            if groups > 1:
                add("grouped_macs", part.macs)
            if kernel > 1.5:
                add("spatial_macs", part.macs)
                add(f"mixers_{stage}", 1)
    add("gates", gates)
    add("scalings", scalings)
    return sums


def traits(sums: Array, resolutions: Sequence[int] | Array) -> Array:
    """The traits of networks, (N, len(TRAITS)).

    Args:
        sums: a tally per network, (N, len(TALLY)).
        resolutions: height and width of each network's image, (N,).
    """

    def of(name: str) -> Array:
        return sums[:, _AT[name]]

    def ratio(above: Array, below: Array) -> Array:
        return np.divide(above, below, out=np.zeros_like(above), where=below > 0)

    stages = range(1, _STAGES + 1)
    mixers = np.sum([of(f"mixers_{stage}") for stage in stages], axis=0)
    columns = [
        np.log(of("macs")),
        np.log(of("weights")),
        np.log(of("activations")),
        np.log(np.asarray(resolutions, dtype=np.float64) / 224),
        *(np.log(of(f"macs_{stage}") / of("macs") + 0.01) for stage in stages),
        np.log1p(of("dense")),
        np.log1p(of("mixers_3")),
        np.log1p(of("mixers_4")),
        ratio(of("log_width_3"), of("dense_3")),
        of("depthwise_macs") / of("macs"),
        ratio(of("kernel"), of("depthwise")),
        of("spatial_macs") / of("macs"),
        of("grouped_macs") / of("macs"),
        ratio(of("attentions"), mixers),
        ratio(of("log_heads"), of("attentions")),
        (of("attentions") > 0).astype(np.float64),
        np.log1p(of("gates")),
        np.log1p(of("scalings")),
        np.log1p(of("norms")),
    ]
    return np.stack(columns, axis=1)


def traits_of(networks: Sequence[Architecture]) -> Array:
    """The traits of architectures, (N, len(TRAITS)). 20,000 networks of a space take a few seconds."""
    sums = np.stack([np.sum([of_layer(layer, n.resolution) for layer in n.layers()], axis=0) for n in networks])
    return traits(sums, [network.resolution for network in networks])


@lru_cache(maxsize=16384)
def of_layer(layer: Layer, resolution: int) -> Array:
    """The tally of a layer in a network of this resolution, (len(TALLY),)."""
    if not isinstance(layer, AttentionLayer):
        return tally(operations(layer), resolution=resolution)
    windows = layer.height * layer.width // layer.spec.window**2 if layer.spec.window else 1
    gates = int(layer.spec.attention == "shma")
    return tally(operations(layer), resolution=resolution, gates=gates, windows=windows)


def _stage(resolution: int, positions: float) -> int:
    """Stage 1 to 4 of a feature map, by its stride; strides between two powers of two go to the nearer one."""
    stride = resolution / math.sqrt(positions)
    return 1 if stride < 5.6 else 2 if stride < 11.3 else 3 if stride < 22.6 else 4


def _kernel_and_groups(part: Operation) -> tuple[float, int]:
    """Positions that a kernel covers, and the number of its groups; (1, 1) where the image is read."""
    if part.kind == "depthwise":
        return part.macs / part.writes, 1
    if not part.inputs:
        return 1.0, 1
    kernel = part.macs / (part.inputs * part.writes)
    groups = part.weights / (part.inputs * part.outputs * kernel)  # biases add less than a half
    return kernel, round(groups) if groups > 1.5 else 1


def _heads(part: Operation) -> float:
    """Heads of an attention, from its first product: H heads of width d on N tokens.

    It takes H N N d multiply-adds, reads 2 H N d elements and writes H N N.
    """
    width = part.macs / part.writes
    rows = part.reads / (2 * width)
    return rows * rows / part.writes
