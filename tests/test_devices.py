"""One contract that every device of nas/devices/ fulfils where it is available."""

from __future__ import annotations

import pytest

from nas.architecture import AttentionSpec, StageSpec, stage_layers
from nas.catalog import load_plugin, plugins
from nas.devices import Device
from nas.space import SearchSpace

TINY = SearchSpace.find("tiny")


class TestEveryDevice:
    @pytest.fixture(params=plugins("devices"))
    def device(self, request: pytest.FixtureRequest) -> Device:
        module = load_plugin("device", "devices", request.param)
        if reason := module.unavailable():
            pytest.skip(f"{request.param}: {reason}")
        opened: Device = module.open_device(threads=1)
        return opened

    def test_it_describes_itself_the_same_way_twice(self, device: Device) -> None:
        description = device.describe()

        assert description == device.describe()
        assert description.model
        assert description.runtime
        assert description.threads == 1

    @pytest.mark.parametrize("kind", ["StemLayer", "ConvLayer", "AttentionLayer", "DownsampleLayer", "HeadLayer"])
    def test_it_times_every_kind_of_layer(self, device: Device, kind: str) -> None:
        layer = next(layer for layer in TINY.layers if type(layer).__name__ == kind)
        times = device.prepare(layer).time_ms(3)

        assert len(times) == 3
        assert min(times) > 0

    def test_it_runs_multi_head_and_window_attention(self, device: Device) -> None:
        heads = AttentionSpec(attention="mha", heads=2, query_reduction=2, modulation=1.0, expansion=2)
        window = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2, window=4)
        stage = StageSpec(channels=32, blocks=(heads, window, window, heads))
        for layer in stage_layers(stage, 8):
            assert device.prepare(layer).time_ms(1)[0] > 0


def test_onnxruntime_says_which_software_its_times_depend_on() -> None:
    device: Device = load_plugin("device", "devices", "onnxruntime").open_device(threads=2)
    description = device.describe()

    assert {"onnxruntime", "torch"} == set(description.versions)
    assert description.threads == 2
    assert description.precision == "fp32"
