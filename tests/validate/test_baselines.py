"""Counts of a network that a proxy has to do better than."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import kendalltau

from nas.latency.published import read_points
from nas.networks import Architecture, AttentionSpec, BlockSpec, ConvSpec, StageSpec, count
from nas.validate import unlike
from nas.validate.baselines import depth, log_weights, macs, params

POINTS = Path(__file__).parents[2] / "latency_tables" / "iphone13.points.csv"
# A supernet of the iFormer space has no place for ladder_mha, so the issue and results/validation speak of eleven rows.
ELEVEN = [point for point in read_points(POINTS) if unlike(point) is None and point.name != "ladder_mha"]
CONV = ConvSpec(kernel=3, expansion=2)


def network(*last: BlockSpec) -> Architecture:
    """A network of one block a stage, with the given blocks in the last stage."""
    blocks: list[tuple[BlockSpec, ...]] = [(CONV,), (CONV,), (CONV,), last]
    widths = (16, 32, 64, 128)
    return Architecture(stages=tuple(StageSpec(channels=c, blocks=b) for c, b in zip(widths, blocks, strict=True)))


def attention(position_kernel: int) -> AttentionSpec:
    return AttentionSpec(
        attention="shma", query_reduction=4, modulation=1.0, expansion=2, position_kernel=position_kernel
    )


def test_depth_counts_convolutions_and_linear_layers() -> None:
    # 3 in the stem, 3 in each of the four blocks, 3 between the stages, 1 classifier
    assert depth(network(CONV)) == 3 + 4 * 3 + 3 + 1
    assert depth(network(CONV, CONV)) - depth(network(CONV)) == 3
    # query, key, value with gate, output and two of the feed-forward part; a position encoding is one more
    assert depth(network(CONV, attention(0))) - depth(network(CONV)) == 6
    assert depth(network(CONV, attention(3))) - depth(network(CONV)) == 7


def test_the_logarithms_are_of_the_weights_of_each_layer() -> None:
    channels, hidden = 128, 256
    layers = (channels * 9 + channels, channels * hidden + hidden, hidden * channels + channels)

    more = log_weights(network(CONV, CONV)) - log_weights(network(CONV))

    assert more == pytest.approx(sum(map(math.log, layers)))


def test_parameters_and_macs_are_those_of_the_network() -> None:
    counts = count(network(CONV))

    assert (params(network(CONV)), macs(network(CONV))) == (counts.params, counts.macs)


@pytest.mark.parametrize(
    ("baseline", "tau", "near_tau"),
    [(depth, 0.79, 0.87), (log_weights, 0.80, 0.88), (params, 0.76, 0.39), (macs, 0.80, 0.49)],
)
def test_the_baselines_order_the_published_networks_as_well_as_this(
    baseline: Callable[[Architecture], float], tau: float, near_tau: float
) -> None:
    near = [point for point in ELEVEN if 0.95 <= point.latency_ms <= 1.20]
    found = [
        kendalltau([baseline(point.architecture()) for point in rows], [point.top1 for point in rows]).statistic
        for rows in (ELEVEN, near)
    ]

    assert (len(ELEVEN), len(near)) == (11, 7)
    assert (tau, near_tau) == tuple(round(float(value), 2) for value in found)
