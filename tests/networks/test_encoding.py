from __future__ import annotations

import math

import numpy as np
import pytest

from nas.accuracy.structure import numbers
from nas.accuracy.traits import tally
from nas.latency import LatencyTable
from nas.networks import SearchSpace, count, count_layer, operations, random_choice
from nas.networks.encoding import Encoding

_ODD = """
schema = 1
resolution = [64, 96]

[stem]
kernel = [3, 5]

[downsample]
kernel = [3, 5]

[[stages]]
channels = [16, 32]
conv = { depth = [1, 2] }

[[stages]]
channels = 32
attention = { depth = [1, 2], kind = ["shma", "mha"], head_channels = [8, 16], modulation = [0.5, 1.0] }

[[stages]]
channels = [48, 64]
placement = ["start", "late", "end", "interleaved"]
conv = { depth = [3, 0, 1], kernel = [7, 3] }
attention = { depth = [2, 0, 1], kind = ["mha", "sha"], head_channels = [16, 8] }

[[stages]]
channels = 64
placement = ["end", "start"]
conv = { depth = [0, 2], expansion = [2, 3] }
attention = { depth = [0, 3], position_kernel = [0, 3] }
"""


# Maps of 8 and 12, 4 and 6, 2 and 3: in the last stage no map is larger than the window.
_WINDOWS = (
    _ODD.replace("depth = [1, 2], kind", "depth = [1, 2, 4], window = 4, kind")
    .replace("depth = [2, 0, 1], kind", "depth = [2, 0, 4], window = 2, kind")
    .replace("depth = [0, 3], position", "depth = [0, 3], window = 3, position")
)


@pytest.fixture(params=["iformer", "tiny", "odd", "windows"])
def space(request, tmp_path) -> SearchSpace:
    if request.param in ("iformer", "tiny"):
        return SearchSpace.find(request.param)
    (tmp_path / "own.toml").write_text(_ODD if request.param == "odd" else _WINDOWS)
    return SearchSpace.load(tmp_path / "own.toml")


def sampled(space, number, seed=0):
    choose = random_choice(seed=seed)
    return [space.sample(choose) for _ in range(number)]


def test_a_row_is_decoded_to_the_network_that_was_encoded(space):
    networks, encoding = sampled(space, 200), Encoding(space)

    assert [one.id for one in networks] == [encoding.decode(row).id for row in encoding.encode(networks)]


def test_equal_networks_have_equal_rows_and_others_have_not(space):
    encoding = Encoding(space)
    rows = encoding.draw(400, np.random.default_rng(0))
    ids = [encoding.decode(row).id for row in rows]

    assert len(set(ids)) == len({row.tobytes() for row in rows})
    assert np.array_equal(rows, encoding.encode([encoding.decode(row) for row in rows]))


def test_drawn_rows_reach_every_option(space):
    encoding = Encoding(space)
    rows = encoding.draw(4000, np.random.default_rng(0))
    reached = [len(np.unique(rows[:, encoding.at("channels", stage)])) for stage in range(len(space.stages))]

    assert all(encoding.decode(row) in space for row in rows[:100])
    assert [len(stage.channels) for stage in space.stages] == reached


def test_sums_are_those_of_the_layers(space):
    networks, encoding = sampled(space, 100, seed=1), Encoding(space)
    rows = encoding.encode(networks)
    table, _ = LatencyTable.find("iphone13")
    macs = encoding.sums(lambda layer, _: sum(operation.macs for operation in operations(layer)))
    milliseconds = encoding.sums(lambda layer, _: table.layer_ms(layer))

    assert [count(network).macs for network in networks] == macs(rows).tolist()
    assert [sum(map(table.layer_ms, one.layers())) for one in networks] == pytest.approx(milliseconds(rows))


def test_maxima_are_those_of_the_layers(space):
    networks, encoding = sampled(space, 100, seed=1), Encoding(space)
    memory = encoding.maxima(lambda layer, _: count_layer(layer).memory_bytes)
    several = encoding.maxima(lambda layer, _: np.asarray([count_layer(layer).memory_bytes, count_layer(layer).macs]))
    rows = encoding.encode(networks)
    macs = [max(count_layer(layer).macs for layer in network.layers()) for network in networks]

    assert [count(network).memory_bytes for network in networks] == memory(rows).tolist()
    assert np.stack([memory(rows), macs], axis=1).tolist() == several(rows).tolist()


def test_a_layer_is_asked_for_once_and_none_outside_the_space(space):
    asked = []
    Encoding(space).sums(lambda layer, resolution: asked.append((layer, resolution)) or 0.0)

    assert len(asked) == len(set(asked))
    assert {layer for layer, _ in asked} == set(space.layers)


def test_several_sums_are_added_up_at_once(space):
    networks, encoding = sampled(space, 50), Encoding(space)
    tallies = encoding.sums(lambda layer, resolution: tally(operations(layer), resolution=resolution))
    expected = [
        sum(tally(operations(layer), resolution=network.resolution) for layer in network.layers())
        for network in networks
    ]

    assert np.stack(expected) == pytest.approx(tallies(encoding.encode(networks)))


def test_a_layer_that_failed_makes_only_the_networks_with_it_infinite(space):
    encoding = Encoding(space)
    rows = encoding.encode(networks := sampled(space, 100))
    failed = next(iter(networks[0].layers()))
    sums = encoding.sums(lambda layer, _: math.inf if layer == failed else 1.0)

    assert [failed in network.layers() for network in networks] == np.isinf(sums(rows)).tolist()
    assert not np.isnan(sums(rows)).any()


def test_the_place_of_attention_is_that_of_the_accuracy_table():
    space = SearchSpace.find("iformer")
    networks, encoding = sampled(space, 100), Encoding(space)
    rows = encoding.encode(networks)
    per_stage = (numbers(networks).shape[1] - 2) // len(space.stages)

    for stage in range(len(space.stages)):
        place = numbers(networks)[:, 2 + stage * per_stage + 10]
        assert place == pytest.approx(encoding.place(rows, stage))
