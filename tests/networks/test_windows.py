from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest

from nas.errors import InputError
from nas.files import digest_of
from nas.latency import LatencyTable
from nas.latency.published import read_points
from nas.networks import (
    Architecture,
    AttentionLayer,
    AttentionSpec,
    ConvSpec,
    Layer,
    SearchSpace,
    StageSpec,
    in_windows,
    random_choice,
    why_not_timm,
    windowed,
)
from nas.networks.stages import extreme_stage, sample_stage
from nas.networks.windows import Tiling, tilings

T = TypeVar("T")
ROOT = Path(__file__).parents[2]

# Maps of 16, 8, 4 and 2: windows of 2 are in the first three.
SPACE = """
resolution = 64
[[stages]]
channels = 8
conv = { depth = 1, kernel = 3, expansion = 2 }
[[stages]]
channels = 16
conv = { depth = 1, kernel = 3, expansion = 2 }
[[stages]]
channels = 32
placement = ["late", "end", "interleaved", "start"]
conv = { depth = [0, 2], kernel = 3, expansion = 2 }
attention = { depth = [0, 1, 2, 4], query_reduction = [1, 2], expansion = [2, 3], window = 2 }
[[stages]]
channels = 64
attention = { depth = [1, 3], query_reduction = 4, expansion = 2, window = 2 }
[reference.known]
stages = [
    { channels = 8, conv = { depth = 1 } },
    { channels = 16, conv = { depth = 1 } },
    { channels = 32, attention = { depth = 3, window = 2 } },
    { channels = 64, attention = { depth = 2, window = 2 } },
]
"""


def load(text: str, folder: Path) -> SearchSpace:
    (folder / "own.toml").write_text(text)
    return SearchSpace.load(folder / "own.toml")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> SearchSpace:
    return load(SPACE, tmp_path_factory.mktemp("windows"))


def windows(network: Architecture) -> list[list[int]]:
    return [[block.window for block in stage.blocks if isinstance(block, AttentionSpec)] for stage in network.stages]


def windows_cost_least(layer: Layer) -> float:
    """A unit in windows costs less the larger its expansion, one with attention everywhere more."""
    if not isinstance(layer, AttentionLayer):
        return 1.0
    return 10.0 - 3 * layer.spec.expansion if layer.spec.window else float(layer.spec.expansion)


def test_all_units_but_the_last_have_windows_where_the_map_is_larger() -> None:
    unit, conv = (
        AttentionSpec(attention="sha", query_reduction=1, modulation=1.0, expansion=2),
        ConvSpec(kernel=3, expansion=2),
    )
    stage = StageSpec(channels=8, blocks=(unit, conv, unit, unit, conv))

    def found(window: int, size: int) -> list[int | None]:
        return [getattr(block, "window", None) for block in in_windows(stage, window, size).blocks]

    assert found(4, 8) == [4, None, 4, 0, None]
    assert found(8, 8) == found(16, 8) == found(0, 8) == [0, None, 0, 0, None]
    assert in_windows(in_windows(stage, 4, 8), 0, 8) == stage


def test_units_beside_each_other_share_a_tiling() -> None:
    first, inner, last = Tiling(16, partitions=True), Tiling(16), Tiling(16, merges=True)
    alone = Tiling(16, partitions=True, merges=True)

    assert tilings("CAAAAC", 16, 32) == {first: 1, inner: 1, last: 1, Tiling(): 1}
    assert tilings("CACACA", 16, 32) == {alone: 2, Tiling(): 1}
    assert tilings("CAAAAC", 16, 16) == tilings("CAAAAC", 0, 32) == {Tiling(): 4}
    assert tilings("CC", 16, 32) == {}


def test_published_networks_at_512_px_are_those_of_the_space() -> None:
    space = SearchSpace.find("iformer-512")
    points = {point.name: point for point in read_points(ROOT / "latency_tables" / "iphone13.points.csv")}

    for name, network in space.references.items():
        assert points[f"{name}_chunked"].architecture().id == network.id
    assert {name: network in space for name, network in space.references.items()} == {
        "iformer_m_512": True,
        "iformer_l_512": True,
        "iformer_l2_512": False,
    }


def test_published_times_at_512_px_are_predicted_within_five_percent() -> None:
    table, _ = LatencyTable.find("iphone13")

    for network in SearchSpace.find("iformer-512").references.values():
        published = table.published[network.id].latency_ms
        assert table.latency(network).latency_ms == pytest.approx(published, rel=0.05)


def test_the_space_is_that_at_224_px_with_windows() -> None:
    small, large = SearchSpace.find("iformer"), SearchSpace.find("iformer-512")
    network = large.sample(random_choice(seed=1))

    assert small.count() == large.count()
    assert windowed(network, 0).at(resolution=224) in small
    assert windowed(network, 16).id == network.id


def test_every_drawn_network_has_its_windows(space: SearchSpace) -> None:
    choose = random_choice(seed=0)
    drawn = [space.sample(choose) for _ in range(50)]

    assert all(windows(network)[2][:-1] == [2] * (len(windows(network)[2]) - 1) for network in drawn)
    assert all(set(windows(network)[3]) == {0} for network in drawn)
    assert {0, 2} == {window for network in drawn for window in windows(network)[2]}


def test_other_windows_are_not_of_the_space(space: SearchSpace, tmp_path: Path) -> None:
    network = next(network for network in map(space.sample, map(random_choice, range(50))) if 2 in windows(network)[2])

    assert network in space
    assert windowed(network, 0) not in space
    assert windowed(network, 0) in load(SPACE.replace("window = 2", "window = 0"), tmp_path)
    assert network not in load(SPACE.replace("window = 2", "window = 0"), tmp_path)


def test_windows_are_no_parameter(space: SearchSpace) -> None:
    asked: set[str] = set()

    def choose(name: str, options: Sequence[T]) -> T:
        asked.add(name)
        return options[-1]

    network = space.sample(choose)

    assert not [name for name in (*asked, *space.choices(network)) if "window" in name]


def test_the_layers_are_those_of_its_networks(space: SearchSpace) -> None:
    choose = random_choice(seed=0)
    used = {layer for _ in range(1500) for layer in space.sample(choose).layers()}

    assert set(space.layers) == used


@pytest.mark.parametrize("dearest", [False, True])
@pytest.mark.parametrize("combine", [sum, max])
def test_an_extreme_may_depend_on_how_many_units_have_windows(
    space: SearchSpace,
    *,
    dearest: bool,
    combine: Callable[[Iterable[float]], float],
) -> None:
    choose = random_choice(seed=0)
    totals = [combine(map(windows_cost_least, space.sample(choose).layers())) for _ in range(1500)]
    extreme = space.extreme(windows_cost_least, dearest=dearest, combine=combine)

    assert extreme in space
    assert combine(map(windows_cost_least, extreme.layers())) == (max if dearest else min)(totals)


def test_a_stage_is_drawn_for_the_size_of_its_map(space: SearchSpace) -> None:
    def last(name: str, options: Sequence[T]) -> T:
        return options[-1]

    stages = [sample_stage("stage", space.stages[2], last, size=size) for size in (4, 2)]
    _, dearest = extreme_stage(space.stages[2], 4, channels=32, costs=lambda _: 1.0, combine=sum, sign=-1)

    assert [len({block.window for block in stage.blocks if isinstance(block, AttentionSpec)}) for stage in stages] == [
        2,
        1,
    ]
    assert len(dearest.blocks) == 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2, window = 2 }\n[ref", "2, window = [1, 2] }\n[ref", "stages[3].attention.window: input should be a valid"),
        ("2, window = 2 }\n[ref", "2, window = -1 }\n[ref", "stages[3].attention.window: input should be greater"),
        ("2, window = 2 }\n[ref", "2, windows = 2 }\n[ref", "stages[3].attention.windows: unknown key"),
        (
            "3], window = 2",
            "3], window = 3",
            "stages[2].attention.window: must divide the 4x4 map at 64 px, or not be smaller, got 3",
        ),
        ("depth = 3, window = 2", "depth = 3, window = 3", "reference.known: stages[2].attention.window: must divide"),
    ],
)
def test_a_wrong_window_is_refused_with_the_place(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in SPACE
    with pytest.raises(InputError) as caught:
        load(SPACE.replace(old, new), tmp_path)

    assert f"own.toml: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_space_without_windows_is_written_as_before_there_were_any(space: SearchSpace) -> None:
    assert "window" not in SearchSpace.find("iformer").model_dump_json()
    assert "window" in space.model_dump_json()
    assert digest_of(SearchSpace.find("tiny").model_dump_json()) == SearchSpace.find("tiny").digest


def test_of_a_space_with_windows_timm_can_say_networks_with_one_unit(space: SearchSpace, tmp_path: Path) -> None:
    kernels = SPACE.replace("kernel = 3, expansion = 2", "expansion = 2").replace("expansion = [2, 3]", "expansion = 2")
    fitting = load(kernels, tmp_path).fitting("timm")
    drawn = [fitting.sample(random_choice(seed=seed)) for seed in range(20)]

    assert [stage.attention.depth for stage in fitting.stages[2:]] == [(0, 1), (1, 3)]
    assert {why_not_timm(network) for network in drawn} == {""}
    assert all(network in load(kernels, tmp_path) for network in drawn)
    with pytest.raises(InputError, match=r"stages\[2\]\.attention\.window must allow 0$"):
        load(kernels.replace("depth = [0, 1, 2, 4]", "depth = [2, 4]"), tmp_path).fitting("timm")


def test_at_another_resolution_windows_that_do_not_fit_are_left_out(space: SearchSpace) -> None:
    """As a supernet does, which is trained at 64 px whatever the space says."""
    large = SearchSpace.find("iformer-512").references["iformer_m_512"]

    assert windows(large)[2:] == [[16, 16, 16, 0], [0, 0]]
    for resolution in (64, 224, 288, 320):  # maps of 4, 14, 18 and 20 in stage 3
        assert windows(large.at(resolution=resolution))[2:] == [[0] * 4, [0] * 2]
    assert len({len(list(small.layers())) for small in (large, large.at(resolution=64))}) == 1
    assert all(one != other for one, other in pairwise((large.id, large.at(resolution=64).id)))
