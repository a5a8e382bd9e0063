from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from nas.errors import InputError
from nas.networks import Architecture, Layer, SearchSpace, operations, random_choice, why_not_timm
from nas.networks.encoding import Encoding

T = TypeVar("T")

# Small enough to list: widths that meet, blocks that may be absent, and options that stages have in another order.
SMALL = """
resolution = 64
num_classes = 10
[[stages]]
channels = [8, 16]
conv = { depth = 1, expansion = [2, 4] }
[[stages]]
channels = 16
conv = { depth = 1, expansion = [4, 2] }
[[stages]]
channels = 32
placement = ["late", "start"]
conv = { depth = [0, 2], kernel = [5, 7], expansion = [2, 4] }
attention = { depth = [0, 1], query_reduction = 2, modulation = [0.5, 1.0], expansion = [2, 3] }
[[stages]]
channels = [32, 48]
attention = { depth = 1, query_reduction = 4, modulation = [1.0, 0.5], expansion = [2, 3] }
"""


def space(text: str, folder: Path) -> SearchSpace:
    (folder / "own.toml").write_text(text)
    return SearchSpace.load(folder / "own.toml")


def cost_ms(layer: Layer) -> float:
    return sum(part.macs / 1e7 + (part.reads + part.writes) / 1e6 + 0.01 for part in operations(layer))


def listed(given: SearchSpace) -> dict[str, Architecture]:
    """Every network of a space, by every sequence of answers."""
    found = {}
    waiting: list[list[int]] = [[]]
    while waiting:
        answers = waiting.pop()
        sizes: list[int] = []

        def choose(
            name: str,
            options: Sequence[T],
            answers: Sequence[int] = answers,
            sizes: list[int] = sizes,
        ) -> T:
            sizes.append(len(options))
            return options[answers[len(sizes) - 1] if len(sizes) <= len(answers) else 0]

        network = given.sample(choose)
        found[network.id] = network
        for place in range(len(answers), len(sizes)):
            others = range(1, sizes[place])
            waiting += [[*answers, *[0] * (place - len(answers)), other] for other in others]
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SearchSpace:
    return space(SMALL, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def fitting(small: SearchSpace) -> SearchSpace:
    return small.fitting("timm")


def test_the_networks_that_fit_are_those_of_the_space_that_timm_can_say_and_no_others(
    small: SearchSpace, fitting: SearchSpace
) -> None:
    whole, found = listed(small), listed(fitting)

    assert found.keys() == {name for name, one in whole.items() if not why_not_timm(one)}
    assert fitting.count() == len(found) < len(whole) / 10
    assert all((one in fitting) == (name in found) for name, one in whole.items())


def test_its_layers_and_extremes_are_exact(fitting: SearchSpace) -> None:
    networks = list(listed(fitting).values())
    costs = [sum(map(cost_ms, one.layers())) for one in networks]

    assert set(fitting.layers) == {layer for one in networks for layer in one.layers()}
    for dearest, most in product((False, True), (False, True)):
        found = fitting.extreme(cost_ms, dearest=dearest, combine=max if most else sum)
        expected = [max(map(cost_ms, one.layers())) for one in networks] if most else costs
        value = (max if most else sum)(map(cost_ms, found.layers()))
        assert found in fitting
        assert value == pytest.approx((max if dearest else min)(expected), rel=1e-12)


def test_rows_of_it_are_its_networks(fitting: SearchSpace) -> None:
    encoding = Encoding(fitting)
    rows = np.unique(encoding.draw(5000, np.random.default_rng(0)), axis=0)
    networks = [encoding.decode(row) for row in rows]

    assert {one.id for one in networks} == listed(fitting).keys()
    assert len(rows) == fitting.count()
    assert (encoding.encode(networks) == rows).all()


def test_the_choices_of_a_network_lead_back_to_it() -> None:
    fitting = SearchSpace.find("iformer").fitting("timm")
    choose = random_choice(seed=0)
    for _ in range(100):
        network = fitting.sample(choose)
        answers = fitting.choices(network)

        def answer(name: str, options: Sequence[T], answers: dict[str, object] = answers) -> T:
            return options[list(options).index(answers[name])]  # type: ignore[arg-type]

        assert why_not_timm(network) == ""
        assert network in fitting
        assert fitting.sample(answer) == network


def test_the_published_networks_stay_in_the_space() -> None:
    whole = SearchSpace.find("iformer")
    fitting = whole.fitting("timm")

    assert all(fitting.references[f"iformer_{size}"] in fitting for size in "tsml")
    assert 1e6 < fitting.count() < whole.count()
    assert fitting.digest != whole.digest
    assert fitting.fitting("timm") == fitting
    assert SearchSpace.model_validate_json(fitting.model_dump_json(by_alias=True)) == fitting


def test_a_space_without_it_is_written_as_before_there_was_such_a_field() -> None:
    assert "must_fit" not in SearchSpace.find("tiny").model_dump(by_alias=True)


def test_a_space_file_may_say_it_itself(tmp_path: Path, fitting: SearchSpace) -> None:
    assert space(f'must_fit = "timm"\n{SMALL}', tmp_path) == fitting


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[stages]]\nchannels = [8", "[stem]\nkernel = 3\n[[stages]]\nchannels = [8", "stem.kernel must allow 5"),
        ("depth = 1, expansion = [4", "depth = 1, kernel = 5, expansion = [4", "stages[1].conv.kernel must allow 7"),
        ("channels = [8, 16]", "channels = 16", "stages[1].channels must allow other widths than [16]"),
        ('placement = ["late", "start"]', 'placement = "start"', "stages[2].placement must allow late"),
        ("depth = 1, query", 'depth = 1, kind = "sha", query', "stages[3].attention.kind must allow shma"),
        (
            "depth = 1, query",
            "depth = 1, position_kernel = 0, query",
            "stages[3].attention.position_kernel must allow 3",
        ),
        ("expansion = [4, 2]", "expansion = 3", "stages[].conv.expansion must allow a value that all stages share"),
    ],
)
def test_a_space_of_which_nothing_fits_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in SMALL
    own = space(SMALL.replace(old, new), tmp_path)
    with pytest.raises(InputError) as caught:
        own.fitting("timm")

    assert str(caught.value) == f"--must-fit: timm's iFormer can say no network of this space: {message}"


def test_blocks_that_timm_lacks_are_left_out_where_they_may_be(tmp_path: Path) -> None:
    text = SMALL.replace("depth = [0, 1], query", 'depth = [0, 1], kind = "sha", query')
    fitting = space(text, tmp_path).fitting("timm")

    assert fitting.stages[2].attention.depth == (0,)
    assert fitting.count() == len(listed(fitting))


def test_of_options_that_stages_do_not_share_the_shared_ones_stay(tmp_path: Path) -> None:
    fitting = space(SMALL.replace("expansion = [4, 2]", "expansion = [6, 4, 2, 3]"), tmp_path).fitting("timm")

    assert [stage.conv.expansion for stage in fitting.stages[:3]] == [(2, 4)] * 3


def test_another_tool_is_refused_with_those_there_are(small: SearchSpace) -> None:
    with pytest.raises(InputError, match="timm"):
        small.fitting("tim")
