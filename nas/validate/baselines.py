"""What a proxy has to do better than: counts of a network, which need no images and no training.

All are of the deployed form, with batch norms folded, and no torch is needed.
"""

from __future__ import annotations

import math

from nas.networks import Architecture, count, operations

__all__ = ["depth", "log_weights", "macs", "params"]


def params(architecture: Architecture) -> int:
    """Number of parameters."""
    return count(architecture).params


def macs(architecture: Architecture) -> int:
    """Multiply-adds of one image."""
    return count(architecture).macs


def depth(architecture: Architecture) -> int:
    """Number of convolutions and linear layers: 3 in a convolution block, 6 or 7 in an attention unit.

    A count of blocks says far less of published accuracy: tau 0.47 over the twelve rows instead of 0.80, because a step
    of the published ladder puts attention units in the place of more convolution blocks.
    """
    return len(_weights(architecture))


def log_weights(architecture: Architecture) -> float:
    """Sum of the natural logarithms of the numbers of weights of the convolutions and linear layers.

    Many narrow layers have a larger sum than few wide ones with as many parameters. ZiCo is close to this count: it is
    a sum of logarithms over the same layers.
    """
    return math.fsum(math.log(weights) for weights in _weights(architecture))


def _weights(architecture: Architecture) -> list[int]:
    """Numbers of weights, biases included, of all operations that have some."""
    parts = (operation for layer in architecture.layers() for operation in operations(layer))
    return [part.weights for part in parts if part.weights > 0]
