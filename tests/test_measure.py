from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas.devices.fake import FakeDevice
from nas.errors import DeviceError, InputError
from nas.latency import LatencyTable, Timing
from nas.measure import Progress, Protocol, build_table, default_path
from nas.space import SearchSpace

LAYERS = SearchSpace.find("tiny").layers
QUICK = Protocol(warmup_ms=0.01, timed_ms=0.1, minimum_runs=5, maximum_runs=50)


class FailingDevice(FakeDevice):
    """Is unplugged after some layers."""

    def prepare(self, layer):  # type: ignore[no-untyped-def]
        if len(self.prepared) == 4:
            raise DeviceError("fake: unplugged")
        return super().prepare(layer)


def test_every_layer_is_measured_once_and_kept(tmp_path: Path) -> None:
    device = FakeDevice()
    out = tmp_path / "t.json"
    table = build_table(LAYERS, device, out, protocol=QUICK)

    assert {layer.key for layer in LAYERS} == set(table.entries)
    assert len(LAYERS) == len(device.prepared)
    assert table == LatencyTable.load(out)


def test_progress_counts_up_to_all_layers(tmp_path: Path) -> None:
    seen: list[Progress] = []
    build_table(LAYERS, FakeDevice(), tmp_path / "t.json", protocol=QUICK, on_progress=seen.append)

    assert list(range(len(LAYERS) + 1)) == [progress.done for progress in seen]
    assert {len(LAYERS)} == {progress.total for progress in seen}


def test_a_build_that_stopped_goes_on_with_the_layers_left(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    with pytest.raises(DeviceError, match="unplugged"):
        build_table(LAYERS, FailingDevice(), out, protocol=QUICK)
    begun = LatencyTable.load(out).entries
    device = FakeDevice()
    table = build_table(LAYERS, device, out, protocol=QUICK)

    assert len(begun) == 4
    assert len(LAYERS) - 4 == len(device.prepared)
    assert begun.items() <= table.entries.items()


@pytest.mark.parametrize("device", [FakeDevice(threads=2)])
def test_times_of_another_device_are_never_mixed_in(tmp_path: Path, device: FakeDevice) -> None:
    out = tmp_path / "t.json"
    build_table(LAYERS[:2], FakeDevice(), out, protocol=QUICK)
    before = out.read_bytes()
    with pytest.raises(InputError, match="holds times of another device or protocol"):
        build_table(LAYERS, device, out, protocol=QUICK)

    assert before == out.read_bytes()


def test_another_protocol_is_not_mixed_in_either(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    build_table(LAYERS[:2], FakeDevice(), out, protocol=QUICK)
    with pytest.raises(InputError, match="another device or protocol"):
        build_table(LAYERS, FakeDevice(), out)


def test_a_missing_folder_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    device = FakeDevice()
    with pytest.raises(InputError, match=r"none/t\.json: its folder does not exist"):
        build_table(LAYERS, device, tmp_path / "none" / "t.json", protocol=QUICK)

    assert device.prepared == []


def test_a_fake_table_calls_itself_analytic(tmp_path: Path) -> None:
    table = build_table(LAYERS[:1], FakeDevice(), tmp_path / "t.json", protocol=QUICK)

    assert table.provenance.source == "analytic"


class Recorded:
    """A layer whose runs take the times given, one after the other, then 1 ms each."""

    def __init__(self, *times: float) -> None:
        self.times = list(times)
        self.runs = 0

    def time_ms(self, runs: int) -> list[float]:
        self.runs += runs
        return [self.times.pop(0) if self.times else 1.0 for _ in range(runs)]


def test_warm_up_runs_do_not_count() -> None:
    timing = Protocol(warmup_ms=50, timed_ms=10, minimum_runs=5, maximum_runs=100).time(Recorded(40.0, 9.0))

    assert timing.median_ms == 1.0
    assert timing.p90_ms == 1.0


def test_timing_goes_on_for_the_stated_time_and_no_longer_than_the_stated_runs() -> None:
    long = Protocol(warmup_ms=1, timed_ms=40, minimum_runs=5, maximum_runs=1000).time(Recorded())
    capped = Protocol(warmup_ms=1, timed_ms=1e9, minimum_runs=5, maximum_runs=12).time(Recorded())

    assert long.runs == 40
    assert capped.runs == 12


def test_quantiles_are_those_of_the_runs() -> None:
    timing = Protocol(warmup_ms=0, timed_ms=0, minimum_runs=11).time(Recorded(9.0, *map(float, range(20, 31))))

    assert timing.minimum_ms == 20
    assert timing.p10_ms == 21
    assert timing.median_ms == 25
    assert timing.p90_ms == 29


def test_the_file_is_named_after_device_runtime_and_precision() -> None:
    assert default_path(FakeDevice()) == Path("latency_tables/fake.fake.none.json")


def test_a_killed_build_loses_no_finished_layer(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    arguments = ["table", "build", "--device", "fake", "--space", "iformer", "--out", str(out)]
    command = [sys.executable, "-c", "from nas.cli import main; main()", *arguments]
    before: dict[str, Timing] = {}
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(entries(out)) < len(before) + 20:
            time.sleep(0.01)
        process.kill()
        process.wait()
        now = entries(out)

        assert len(now) >= len(before) + 20
        assert before.items() <= now.items()
        before = now


def entries(out: Path) -> dict[str, Timing]:
    return LatencyTable.load(out).entries if out.exists() else {}
