from __future__ import annotations

import numpy as np
import pytest

from nas.accuracy import AccuracyTable, beyond, differences
from nas.accuracy.structure import NUMBERS, numbers, numbers_of_rows, ranges, structure
from nas.networks import Architecture, AttentionSpec, ConvSpec, SearchSpace, StageSpec, StemSpec
from nas.networks.encoding import Encoding


def _with_stage(network: Architecture, number: int, stage: StageSpec) -> Architecture:
    stages = (*network.stages[: number - 1], stage, *network.stages[number:])
    return network.model_copy(update={"stages": stages})


def test_two_published_networks_differ_where_the_paper_says(references: dict[str, Architecture]) -> None:
    """The fourth attention unit of stage 3 moves the mean place of them, among 14 blocks instead of 13."""
    expected = [
        "stage 1 channels 48 (32)",
        "stage 2 channels 96 (64)",
        "stage 3 channels 192 (176)",
        "stage 3 attention units 4 (3)",
        "stage 3 place of attention 0.81 (0.83)",
        "stage 4 channels 384 (320)",
    ]

    assert expected == differences(references["m"], references["s"])
    assert differences(references["m"], references["m"]) == []


def test_what_one_network_lacks_is_none(references: dict[str, Architecture]) -> None:
    network = references["m"]
    convolutions = StageSpec(channels=384, blocks=(ConvSpec(kernel=5, expansion=4),) * 3)

    expected = [
        "stage 4 convolution blocks 3 (0)",
        "stage 4 attention units 0 (2)",
        "stage 4 kernel 5 (none)",
        "stage 4 convolution expansion 4 (none)",
        "stage 4 attention none (shma)",
        "stage 4 query reduction none (4)",
        "stage 4 modulation none (1)",
        "stage 4 attention expansion none (3)",
        "stage 4 position kernel none (3)",
        "stage 4 place of attention none (0.5)",
        "stage 4 window none (0)",
        "stage 4 heads none (1)",
    ]

    assert expected == differences(_with_stage(network, 4, convolutions), network)


def test_kinds_of_attention_and_halves_are_told(references: dict[str, Architecture]) -> None:
    network = references["m"]
    unit = AttentionSpec(attention="sha", query_reduction=4, modulation=0.5, expansion=3)
    other = _with_stage(network, 4, StageSpec(channels=384, blocks=(unit, unit)))

    assert differences(other, network) == ["stage 4 attention sha (shma)", "stage 4 modulation 0.5 (1)"]


def test_resolution_downsampling_windows_and_heads_are_told(references: dict[str, Architecture]) -> None:
    network = references["m"]
    unit = AttentionSpec(attention="mha", query_reduction=4, modulation=1.0, expansion=3, heads=8, window=4)
    downsample = network.downsample.model_copy(update={"kernel": 5})
    other = _with_stage(network, 4, StageSpec(channels=384, blocks=(unit, unit)))
    other = other.at(resolution=256).model_copy(update={"downsample": downsample})
    expected = [
        "resolution 256 (224)",
        "downsample kernel 5 (3)",
        "stage 4 attention mha (shma)",
        "stage 4 window 4 (0)",
        "stage 4 heads 8 (1)",
    ]

    assert expected == differences(other, network)


def test_published_networks_are_not_beyond_the_published_ones(
    table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    known = table.published.ranges

    assert [beyond(references[name], known) for name in ("t", "s", "m", "l")] == [[], [], [], []]
    assert known["stage 1 channels"] == (32, 48)


def test_numbers_outside_the_published_ones_are_named_with_their_range(
    table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    wide = StageSpec(channels=64, blocks=(ConvSpec(kernel=3, expansion=4),) * 2)
    network = _with_stage(references["m"], 1, wide).model_copy(update={"stem": StemSpec(kernel=5, expansion=2)})

    expected = ["stem expansion 2 (4)", "stage 1 channels 64 (32 to 48)", "stage 1 kernel 3 (7)"]

    assert expected == beyond(network, table.published.ranges)
    assert beyond(references["m"].at(resolution=256), table.published.ranges) == ["resolution 256 (224)"]


def test_the_ends_of_a_range_are_inside_it(references: dict[str, Architecture]) -> None:
    known = {"stage 1 channels": (32.0, 48.0), "stage 3 attention units": (5.0, 9.0), "stage 9 channels": (1.0, 2.0)}

    assert beyond(references["t"], known) == ["stage 3 attention units 3 (5 to 9)"]  # 32 channels


def test_ranges_span_all_networks_and_know_numbers_alone(references: dict[str, Architecture]) -> None:
    found = ranges(references[name] for name in ("t", "m", "l"))

    assert found["stage 3 channels"] == (128, 256)
    assert found["stage 3 attention units"] == (3, 8)
    assert found["stage 3 attention expansion"] == (2, 3)
    assert "stage 3 attention" not in found  # a kind, not a number
    assert "stage 4 kernel" not in found  # no network has convolutions there
    assert structure(references["m"])["stage 3 attention"] == "shma"
    assert ranges([]) == {}


def test_numbers_tell_where_attention_stands(references: dict[str, Architecture]) -> None:
    late = references["m"]
    stage = late.stages[2]
    turned = stage.model_copy(update={"blocks": stage.blocks[::-1]})
    early = late.model_copy(update={"stages": (*late.stages[:2], turned, late.stages[3])})
    rows = numbers([late, early])
    different = [name for name, one, other in zip(NUMBERS, *rows, strict=True) if one != other]

    assert rows.shape == (2, len(NUMBERS))
    assert different == ["stage 3 place of attention"]
    assert rows[0][NUMBERS.index("stage 3 place of attention")] > 0.5 > rows[1][NUMBERS.index(different[0])]


def test_numbers_are_what_a_network_is_made_of(references: dict[str, Architecture]) -> None:
    row = dict(zip(NUMBERS, numbers([references["m"]])[0].tolist(), strict=True))

    assert (row["stem kernel"], row["stem expansion"]) == (5, 4)
    assert row["stage 3 log channels"] == pytest.approx(np.log(192))
    assert (row["stage 3 convolution blocks"], row["stage 3 attention units"]) == (10, 4)
    assert row["stage 3 log blocks"] == pytest.approx(np.log(14))
    assert (row["stage 3 kernel"], row["stage 3 convolution expansion"], row["stage 3 query reduction"]) == (7, 4, 2)
    assert (row["stage 3 shma"], row["stage 3 sha"], row["stage 3 mha"]) == (1, 0, 0)
    assert (row["stage 1 shma"], row["stage 1 query reduction"], row["stage 1 place of attention"]) == (0, 0, 0.5)


@pytest.mark.parametrize("name", ["iformer", "tiny"])
def test_rows_are_made_of_what_their_networks_are_made_of(name: str) -> None:
    encoding = Encoding(SearchSpace.find(name))
    rows = encoding.draw(200, np.random.default_rng(0))

    np.testing.assert_allclose(numbers([encoding.decode(row) for row in rows]), numbers_of_rows(encoding, rows))
