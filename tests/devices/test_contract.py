"""One contract that every device of nas/devices/ fulfils where it is available."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from nas.catalog import load_plugin, plugins
from nas.devices import Device, DeviceDescription, Job, open_device, sampled
from nas.devices._models import ModelFiles
from nas.devices._runner import Description, Runner, RunnerDevice, RunnerLost
from nas.errors import DeviceError, InputError, NasError
from nas.networks import (
    Architecture,
    AttentionSpec,
    ConvLayer,
    ConvSpec,
    SearchSpace,
    Stack,
    StageSpec,
    Subject,
    stage_layers,
)
from nas.networks.modules import build_deployed, example_input

TINY = SearchSpace.find("tiny")


def job(subject: Subject, *, runs: int = 3) -> Job:
    return Job(subject=subject, duration_ms=0, minimum_runs=runs, maximum_runs=runs, verify=True)


def agrees(device: Device, subject: Subject) -> bool:
    """Whether the device's output is torch's; a device without outputs agrees."""
    (run,) = device.time([job(subject, runs=1)])
    assert run.failure is None
    if run.output is None:
        return True
    expected = sampled(build_deployed(subject)(example_input(subject)).numpy())
    tolerance = 2e-2 if device.describe().precision == "fp16" else 1e-4
    return float(np.linalg.norm(run.output - expected) / np.linalg.norm(expected)) < tolerance


@pytest.fixture(params=plugins("devices"), scope="module")
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    module = load_plugin("device", "devices", request.param)
    if reason := module.unavailable():
        pytest.skip(f"{request.param}: {reason}")
    try:
        opened = open_device(request.param, {})
    except InputError as error:  # It needs an address; its own tests have one.
        pytest.skip(str(error))
    yield opened
    opened.close()


class TestEveryDevice:
    def test_it_describes_itself_the_same_way_twice(self, device: Device) -> None:
        description = device.describe()

        assert description == device.describe()
        assert description.model
        assert description.runtime

    @pytest.mark.parametrize("kind", ["StemLayer", "ConvLayer", "AttentionLayer", "DownsampleLayer", "HeadLayer"])
    def test_it_times_and_computes_every_kind_of_layer(self, device: Device, kind: str) -> None:
        layer = next(layer for layer in TINY.layers if type(layer).__name__ == kind)
        (run,) = device.time([job(layer)])

        assert run.failure is None
        assert len(run.times_ms) == 3
        assert min(run.times_ms) >= 0
        assert agrees(device, layer)

    def test_it_runs_multi_head_and_window_attention(self, device: Device) -> None:
        heads = AttentionSpec(attention="mha", heads=2, query_reduction=2, modulation=1.0, expansion=2)
        window = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2, window=4)
        stage = StageSpec(channels=32, blocks=(heads, window, window, heads))
        for layer in stage_layers(stage, 8):
            assert agrees(device, layer)

    def test_it_runs_stacks_and_whole_networks(self, device: Device) -> None:
        layer = ConvLayer(channels=16, kernel=3, expansion=2, height=8, width=8)

        assert agrees(device, Stack(layer=layer, count=3))
        assert agrees(device, TINY.references["tiny_a"])

    def test_it_runs_as_often_as_asked(self, device: Device) -> None:
        layer = TINY.layers[0]
        at_least = Job(subject=layer, duration_ms=0, minimum_runs=7, maximum_runs=50)
        at_most = Job(subject=layer, duration_ms=1e9, minimum_runs=1, maximum_runs=9)

        assert [len(run.times_ms) for run in device.time([at_least, at_most])] == [7, 9]

    def test_results_come_in_the_order_of_the_jobs(self, device: Device) -> None:
        runs = list(device.time([job(TINY.layers[0], runs=count) for count in (2, 5, 3)]))

        assert [len(run.times_ms) for run in runs] == [2, 5, 3]


def test_onnxruntime_says_which_software_its_times_depend_on() -> None:
    device = open_device("onnxruntime", {"threads": "2"})
    description = device.describe()
    device.close()

    assert {"onnxruntime"} == set(description.versions)
    assert description.threads == 2
    assert description.precision == "fp32"


def test_a_provider_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(DeviceError, match=r"no CUDAExecutionProvider in this ONNX Runtime; there are .*CPUExecution"):
        open_device("onnxruntime", {"provider": "CUDAExecutionProvider"})


def test_a_silent_fall_back_to_another_provider_is_a_failure() -> None:
    # AzureExecutionProvider is in every build and takes no layer: all of it would run on the processor.
    try:
        device = open_device("onnxruntime", {"provider": "AzureExecutionProvider"})
    except DeviceError as error:
        pytest.skip(str(error))
    (run,) = device.time([job(TINY.layers[0])])
    device.close()

    assert run.failure is not None
    assert run.times_ms == ()


def test_a_layer_that_hangs_is_a_failure_and_the_next_one_runs() -> None:
    device = open_device("onnxruntime", {"timeout_s": "0.5"})
    endless = Job(subject=TINY.layers[0], duration_ms=0, minimum_runs=10**8, maximum_runs=10**8)
    late, fine = device.time([endless, job(TINY.layers[0])])
    device.close()

    assert late.failure == "no answer within 0.5 s"
    assert len(fine.times_ms) == 3


def test_a_crashed_runner_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    device = open_device("onnxruntime", {})
    os.kill(device._runner._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    (run,) = device.time([job(TINY.layers[0])])
    device.close()

    assert len(run.times_ms) == 3


def test_a_subject_that_cannot_be_exported_is_a_failure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    device = open_device("onnxruntime", {})
    monkeypatch.setattr("nas.export.onnx.build_deployed", lambda subject: 1 / 0)
    (run,) = device.time([job(TINY.layers[0])])
    device.close()

    assert run.failure == "cannot be exported: division by zero"


def test_a_disk_without_room_for_models_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    device = open_device("onnxruntime", {})
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NasError, match=r"no model can be kept there \(No space left on device\); make room") as caught:
        list(device.time([job(TINY.layers[0])]))
    device.close()

    assert caught.value.exit_code == 1  # The device is there; it goes on when there is room.


def test_a_runner_that_closes_its_pipes_and_goes_on_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.devices._runner._END_S", 0.1)
    runner = Runner([sys.executable, "-c", "import os, time; os.close(1); time.sleep(600)"])
    with pytest.raises(RunnerLost, match="the runner ended with signal 9"):
        runner.ask({"op": "describe"}, timeout_s=60)
    runner.close()


def test_closing_goes_on_after_a_part_that_fails() -> None:
    ended = []

    class Answers:
        def ask(self, request: Mapping[str, object], *, timeout_s: float) -> dict[str, object]:
            return {"model": "m", "os": "o", "versions": {}}

        def kill(self) -> None:
            ended.append("runner")
            raise OSError("stuck")

    def fingerprint(about: Description) -> DeviceDescription:
        return DeviceDescription(
            kind="k", model=about.model, os=about.os, runtime="r", versions={}, precision="fp32", threads=1
        )

    models = ModelFiles(lambda subject: b"", suffix=".onnx")
    kept = models.path(TINY.layers[0])
    device = RunnerDevice(
        where="k",
        start=Answers,
        fingerprint=fingerprint,
        models=models,
        settings={},
        timeout_s=1,
        at_close=lambda: ended.append("way"),
    )
    with pytest.raises(OSError, match="stuck"):
        device.close()

    assert ended == ["runner", "way"]
    assert not kept.parent.exists()


def test_models_of_different_subjects_never_share_a_file() -> None:
    conv = ConvSpec(kernel=3, expansion=2)
    networks = [
        Architecture(resolution=64, stages=tuple(StageSpec(channels=c, blocks=(conv,)) for c in (8, 16, 32, last)))
        for last in (32, 64)
    ]
    layer = ConvLayer(channels=16, kernel=3, expansion=2, height=8, width=8)
    subjects = [*networks, layer, Stack(layer=layer, count=2), Stack(layer=layer, count=3)]

    assert len(subjects) == len({subject.key for subject in subjects})


@pytest.mark.parametrize(
    ("device", "options", "words"),
    [
        ("toaster", {}, "no device named 'toaster'"),
        ("fake://x", {}, "--device fake takes no address, got 'x'"),
        ("onnxruntime://x", {}, "takes no address, got 'x'"),
        ("fake", {"runner": "x"}, "--device fake does not take runner: its options are threads, noise"),
        ("fake", {"threads": "0"}, "--device fake: threads: input should be greater than 0"),
        ("onnxruntime", {"threads": "many"}, "--device onnxruntime: threads: input should be a valid integer"),
        ("onnxruntime", {"timeout_s": "nan"}, "--device onnxruntime: timeout_s: input should be a finite number"),
    ],
)
def test_a_wrong_device_or_option_is_named(device: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        open_device(device, options)

    assert words in str(caught.value)


def test_a_sample_of_an_output_is_spread_over_all_of_it() -> None:
    few, many = np.arange(100.0), np.arange(100_000.0)

    assert list(sampled(few)) == list(few)
    assert 4096 <= len(sampled(many)) <= 8191
    assert sampled(many)[-1] > 99_900
