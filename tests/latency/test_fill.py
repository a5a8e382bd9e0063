from __future__ import annotations

import math

import pytest

from nas.devices.fake import FakeDevice, Options
from nas.latency import Filled
from nas.latency.fill import fill, measuring_order, too_slow
from nas.latency.measure import build_table
from nas.networks import Layer, SearchSpace

LAYERS = SearchSpace.find("iformer").layers


@pytest.fixture(scope="module")
def times() -> dict[Layer, float]:
    """What every layer of the space costs on the fake device, noise included."""
    from nas.devices import Job

    device = FakeDevice(Options(noise=0.02))
    runs = device.time([Job(subject=layer, duration_ms=0, minimum_runs=5, maximum_runs=5) for layer in LAYERS])
    return {layer: min(run.times_ms) for layer, run in zip(LAYERS, runs, strict=True)}


def test_the_order_holds_every_layer_once_and_does_not_depend_on_theirs() -> None:
    order = measuring_order(LAYERS)

    assert set(LAYERS) == set(order)
    assert len(LAYERS) == len(order)
    assert order == measuring_order(LAYERS)


def test_kinds_with_few_layers_are_measured_whole() -> None:
    quarter = measuring_order(LAYERS)[: len(LAYERS) // 4]
    few = {layer for layer in LAYERS if type(layer).__name__ in ("StemLayer", "HeadLayer")}

    assert few <= set(quarter)


def test_any_beginning_covers_each_kind_in_proportion() -> None:
    quarter = measuring_order(LAYERS)[: len(LAYERS) // 4]
    for kind in ("ConvLayer", "AttentionLayer", "DownsampleLayer"):
        share = sum(type(layer).__name__ == kind for layer in quarter) / sum(
            type(layer).__name__ == kind for layer in LAYERS
        )

        assert 0.2 < share < 0.26


def test_a_quarter_predicts_the_rest_inside_its_intervals(times: dict[Layer, float]) -> None:
    quarter = measuring_order(LAYERS)[: len(LAYERS) // 4]
    rest = [layer for layer in LAYERS if layer not in set(quarter)]
    filled = fill({layer: times[layer] for layer in quarter}, rest)

    assert set(rest) == set(filled)
    errors = [abs(math.log(filled[layer].filled_ms / times[layer])) for layer in rest]
    inside = sum(filled[layer].low_ms <= times[layer] <= filled[layer].high_ms for layer in rest) / len(rest)
    assert sum(errors) / len(errors) < 0.02
    # The intervals promise 90 %. A model with too narrow intervals would be far below.
    assert inside > 0.8
    assert max(filled[layer].high_ms / filled[layer].low_ms for layer in rest) < 1.5


def test_an_interval_is_wide_where_little_is_known(times: dict[Layer, float]) -> None:
    convs = [layer for layer in measuring_order(LAYERS) if type(layer).__name__ == "ConvLayer"]

    def width(count: int) -> float:
        value = fill({layer: times[layer] for layer in convs[:count]}, convs[-10:])[convs[-1]]
        return value.high_ms / value.low_ms

    assert width(5) > width(100)


def test_a_layer_that_was_disturbed_throughout_stands_out(times: dict[Layer, float]) -> None:
    convs = [layer for layer in LAYERS if type(layer).__name__ == "ConvLayer"]
    measured = {layer: times[layer] for layer in convs}
    disturbed = measured | {convs[50]: 1.15 * measured[convs[50]], convs[90]: 1.1 * measured[convs[90]]}

    assert [convs[50], convs[90]] == too_slow(disturbed)[:2]
    assert len(too_slow(measured)) < 5


def test_a_kind_with_too_few_measured_layers_gets_no_value(times: dict[Layer, float]) -> None:
    convs = [layer for layer in LAYERS if type(layer).__name__ == "ConvLayer"]

    assert fill({layer: times[layer] for layer in convs[:3]}, convs[3:]) == {}
    assert fill({}, convs) == {}


def test_until_error_measures_on_where_the_intervals_are_widest(tmp_path) -> None:  # type: ignore[no-untyped-def]
    layers = [layer for layer in LAYERS if type(layer).__name__ in ("ConvLayer", "StemLayer")]
    device = FakeDevice(Options(noise=0.0))
    rough = build_table(layers, device, tmp_path / "rough.json", sample=0.15)
    widest = max(entry.high_ms / entry.filled_ms - 1 for entry in rough.entries.values() if isinstance(entry, Filled))
    fine = build_table(layers, device, tmp_path / "fine.json", sample=0.15, until_error=widest / 2)

    left = [entry for entry in fine.entries.values() if isinstance(entry, Filled)]
    assert left
    assert max(entry.high_ms / entry.filled_ms - 1 for entry in left) <= widest / 2
