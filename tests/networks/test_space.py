from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from nas.catalog import files
from nas.errors import InputError
from nas.networks import (
    Architecture,
    Layer,
    SearchSpace,
    count,
    count_layer,
    operations,
    random_choice,
)
from nas.networks.choices import arrange
from nas.networks.encoding import Encoding

T = TypeVar("T")
SPACES = sorted(files("search_spaces", ".toml"))
STAGES = """
[[stages]]
channels = [8, 16]
conv = { depth = 1, kernel = 3, expansion = 2 }
[[stages]]
channels = 16
conv = { depth = 1, kernel = 3, expansion = 2 }
[[stages]]
channels = 32
conv = { depth = [0, 2], kernel = 3, expansion = 2 }
attention = { depth = [0, 1], query_reduction = 2, expansion = 2 }
[[stages]]
channels = 64
attention = { depth = 1, query_reduction = 4, expansion = 2 }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text)
    return path


def cost_ms(layer: Layer) -> float:
    return sum(part.macs / 1e7 + (part.reads + part.writes) / 1e6 + 0.01 for part in operations(layer))


def total_ms(network: Architecture) -> float:
    return sum(map(cost_ms, network.layers()))


class TestEverySpace:
    """What is true of every shipped space; a new space file is tested automatically."""

    @pytest.fixture(params=SPACES)
    def space(self, request: pytest.FixtureRequest) -> SearchSpace:
        return SearchSpace.find(request.param)

    def test_samples_lie_inside_and_are_covered_by_its_layers(self, space: SearchSpace) -> None:
        choose = random_choice(seed=1)
        layers = set(space.layers)
        for _ in range(200):
            network = space.sample(choose)

            assert network in space
            assert set(network.layers()) <= layers

    def test_extremes_bound_every_sample(self, space: SearchSpace) -> None:
        choose = random_choice(seed=2)
        lowest = total_ms(space.extreme(cost_ms))
        highest = total_ms(space.extreme(cost_ms, dearest=True))
        samples = [total_ms(space.sample(choose)) for _ in range(300)]

        assert space.extreme(cost_ms) in space
        assert space.extreme(cost_ms, dearest=True) in space
        assert lowest <= min(samples)
        assert max(samples) <= highest

    def test_the_extreme_of_a_maximum_over_layers_is_exact(self, space: SearchSpace) -> None:
        def memory(layer: Layer) -> float:
            return count_layer(layer).memory_bytes

        peaks = Encoding(space).maxima(lambda layer, _: memory(layer))
        lowest = space.extreme(memory, combine=max)
        highest = space.extreme(memory, combine=max, dearest=True)
        samples = peaks(Encoding(space).draw(50_000, np.random.default_rng(0)))

        assert count(lowest).memory_bytes == samples.min()  # One layer decides, so chance finds it soon.
        assert count(highest).memory_bytes == samples.max()

    def test_the_same_seed_draws_the_same_networks(self, space: SearchSpace) -> None:
        first, second = random_choice(seed=3), random_choice(seed=3)

        assert [space.sample(first).id for _ in range(20)] == [space.sample(second).id for _ in range(20)]

    def test_the_choices_of_a_network_lead_back_to_it(self, space: SearchSpace) -> None:
        choose = random_choice(seed=4)
        for _ in range(50):
            network = space.sample(choose)
            answers = space.choices(network)

            def answer(name: str, options: Sequence[T], answers: dict[str, object] = answers) -> T:
                return options[list(options).index(answers[name])]  # type: ignore[arg-type]

            assert network == space.sample(answer)

    def test_it_has_references(self, space: SearchSpace) -> None:
        assert space.references


def test_iformer_space_is_as_large_as_promised_from_few_layers() -> None:
    space = SearchSpace.find("iformer")

    assert space.count() >= 10**12
    assert 300 <= len(space.layers) <= 2000


def test_published_variants_lie_inside_the_iformer_space() -> None:
    space = SearchSpace.find("iformer")
    inside = {name: network in space for name, network in space.references.items()}

    assert inside == {
        "iformer_t": True,
        "iformer_s": True,
        "iformer_m": True,
        "iformer_l": True,
        "iformer_l2": False,
        "iformer_h": False,
    }


def test_the_count_is_the_number_of_distinct_networks() -> None:
    space = SearchSpace.find("tiny")
    choose = random_choice(seed=0)

    assert space.count() == len({space.sample(choose).id for _ in range(6000)})


def test_every_layer_of_the_list_occurs_in_some_network() -> None:
    space = SearchSpace.find("tiny")
    choose = random_choice(seed=0)
    used = {layer for _ in range(2000) for layer in space.sample(choose).layers()}

    assert set(space.layers) == used


def test_only_what_applies_is_asked(tmp_path: Path) -> None:
    space = SearchSpace.load(write(tmp_path, STAGES))
    asked = []

    def first(name: str, options: Sequence[T]) -> T:
        asked.append(name)
        return options[0]

    space.sample(first)

    # `first` picks convolution depth 0. This leaves a single attention depth, so it is not asked.
    assert asked == ["stages[0].channels", "stages[2].conv.depth"]


def test_a_stage_never_ends_up_empty(tmp_path: Path) -> None:
    space = SearchSpace.load(write(tmp_path, STAGES))
    choose = random_choice(seed=0)
    orders = {space.sample(choose).summary.split(" | ")[2] for _ in range(100)}

    assert orders == {"1A", "2C", "1C 1A 1C"}


@pytest.mark.parametrize("convs", range(5))
@pytest.mark.parametrize("attentions", range(4))
@pytest.mark.parametrize("placement", ["late", "end", "interleaved", "start"])
def test_every_placement_keeps_the_blocks(convs: int, attentions: int, placement: str) -> None:
    order = arrange(convs, attentions, placement)  # type: ignore[arg-type]

    assert sorted("A" * attentions + "C" * convs) == sorted(order)


def test_a_network_outside_is_not_in_the_space() -> None:
    space = SearchSpace.find("tiny")
    inside = space.references["tiny_a"]

    assert inside in space
    assert inside.at(resolution=96) not in space
    assert inside.at(num_classes=3) not in space
    assert "tiny_a" not in space


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[[stages]]\nchannels = 16", "kernal = 3\n[[stages]]\nchannels = 16"), "stages[0].kernal: unknown key"),
        (("kernel = 3", "kernel = 4"), "stages[0].conv.kernel[0]: must be odd, got 4"),
        (("channels = [8, 16]", "channels = [8, 8]"), "stages[0]: channels: options must differ, got [8, 8]"),
        (("channels = [8, 16]", 'channels = "8"'), "stages[0].channels[0]: input should be a valid integer, got '8'"),
        (("query_reduction = 4", "query_reduction = 5"), "query_reduction must divide 64 channels, got 5"),
        (
            ("attention = { depth = [0, 1], query_reduction = 2, expansion = 2 }", ""),
            "stages[2]: conv.depth and attention.depth may both be 0: a stage needs a block",
        ),
        (("[[stages]]", "resolution = [[stages]]"), "not valid TOML"),
        (
            ("channels = 64", "channels = 8\nconv = { depth = 1 }\n[[stages]]\nchannels = 64"),
            "stages: tuple should have at most 4",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = write(tmp_path, STAGES.replace(*change, 1))
    with pytest.raises(InputError) as caught:
        SearchSpace.load(path)

    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reference_with_a_choice_is_refused(tmp_path: Path) -> None:
    reference = STAGES.replace("[[stages]]", "[[reference.two.stages]]")
    path = write(tmp_path, STAGES + reference)
    with pytest.raises(InputError, match=r"own\.toml: reference\.two: every option of a reference takes one value"):
        SearchSpace.load(path)


def test_the_users_folder_comes_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "tiny.toml").write_text('description = "mine"\n' + STAGES)
    monkeypatch.chdir(tmp_path)

    assert SearchSpace.find("tiny").description == "mine"


def test_a_wrong_name_answers_with_the_names_there_are() -> None:
    with pytest.raises(InputError) as caught:
        SearchSpace.find("iformr")

    assert str(caught.value) == (
        f"no search space named 'iformr': there are {', '.join(SPACES)}; did you mean 'iformer'?"
    )


def test_random_choice_reaches_every_option() -> None:
    choose = random_choice(seed=0)

    assert {choose("x", (1, 2, 3)) for _ in islice(range(100), 100)} == {1, 2, 3}
