from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.architecture import ConvLayer
from nas.devices import Job, Run
from nas.devices.fake import FakeDevice, Options
from nas.entries import Entry, Failed, Filled, Timing
from nas.errors import DeviceError, InputError
from nas.latency import LatencyTable
from nas.measure import Progress, build_table, default_path
from nas.space import SearchSpace
from nas.timing import TimingProtocol

LAYERS = SearchSpace.find("tiny").layers
LARGE = SearchSpace.find("iformer").layers
QUICK = TimingProtocol(duration_ms=0.1, minimum_runs=24, maximum_runs=50)


def timings(table: LatencyTable) -> dict[str, Timing]:
    return {key: entry for key, entry in table.entries.items() if isinstance(entry, Timing)}


class Unplugged(FakeDevice):
    """Is gone after some jobs."""

    def _run(self, job: Job) -> Run:
        if len(self.done) > 12:
            raise DeviceError("fake: unplugged")
        return super()._run(job)


class Wrong(FakeDevice):
    """Computes convolutions wrong."""

    def _run(self, job: Job) -> Run:
        run = super()._run(job)
        if job.verify and isinstance(job.subject, ConvLayer):
            assert run.output is not None
            return Run(times_ms=run.times_ms, output=run.output * np.float32(1.01))
        return run


class Mute(FakeDevice):
    """Cannot give outputs, as a phone's benchmark program."""

    def time(self, jobs: Sequence[Job]) -> Iterator[Run]:
        return super().time([replace(job, verify=False) for job in jobs])


class Shaken(FakeDevice):
    """Something else runs during a few jobs: they take half as long again."""

    def __init__(self, shaken: range) -> None:
        super().__init__(Options(noise=0.0))
        self.shaken = shaken

    def _run(self, job: Job) -> Run:
        run = super()._run(job)
        factor = 1.5 if len(self.done) in self.shaken else 1.0
        return Run(times_ms=tuple(factor * value for value in run.times_ms), output=run.output)


def test_every_layer_is_measured_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    table = build_table(LAYERS, FakeDevice(), out, protocol=QUICK)

    assert {layer.key for layer in LAYERS} == set(timings(table))
    assert table == LatencyTable.load(out)


def test_progress_counts_up_to_all_layers(tmp_path: Path) -> None:
    seen: list[Progress] = []
    build_table(LAYERS, FakeDevice(Options(noise=0)), tmp_path / "t.json", protocol=QUICK, on_progress=seen.append)
    first = [progress for progress in seen if progress.total == len(LAYERS)]

    assert list(range(len(LAYERS) + 1)) == [progress.done for progress in first]


def test_a_build_that_stopped_goes_on_with_the_layers_left(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    with pytest.raises(DeviceError, match="unplugged"):
        build_table(LAYERS, Unplugged(Options(noise=0)), out, protocol=QUICK)
    begun = LatencyTable.load(out).entries
    device = FakeDevice(Options(noise=0))
    table = build_table(LAYERS, device, out, protocol=QUICK)

    assert 0 < len(begun) < len(LAYERS)
    assert not set(begun) & (set(device.done) - {table.reference.key})  # type: ignore[union-attr]
    assert begun.items() <= table.entries.items()


def test_times_of_another_device_are_never_mixed_in(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    build_table(LAYERS, FakeDevice(), out, protocol=QUICK)
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"another device or protocol \(threads: 1 in the table, 2 here\)"):
        build_table(LAYERS, FakeDevice(Options(threads=2)), out, protocol=QUICK)

    assert before == out.read_bytes()


def test_another_protocol_is_not_mixed_in_either(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    build_table(LAYERS, FakeDevice(), out, protocol=QUICK)
    with pytest.raises(InputError, match="another device or protocol"):
        build_table(LAYERS, FakeDevice(), out)


def test_a_missing_folder_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    device = FakeDevice()
    with pytest.raises(InputError, match=r"none/t\.json: its folder does not exist"):
        build_table(LAYERS, device, tmp_path / "none" / "t.json", protocol=QUICK)

    assert device.done == []


def test_a_fake_table_calls_itself_analytic(tmp_path: Path) -> None:
    assert build_table(LAYERS, FakeDevice(), tmp_path / "t.json", protocol=QUICK).provenance.source == "analytic"


def test_a_layer_that_fails_is_an_entry_and_the_build_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    table = build_table(LAYERS, FakeDevice(Options(fails="head")), out, protocol=QUICK)
    failed = {key for key, entry in table.entries.items() if isinstance(entry, Failed)}

    assert failed == {layer.key for layer in LAYERS if layer.key.startswith("head")}
    assert len(LAYERS) == len(table.entries)


def test_failed_layers_are_taken_up_again_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    failed = build_table(LAYERS, FakeDevice(Options(fails="head")), out, protocol=QUICK)
    same = build_table(LAYERS, FakeDevice(), out, protocol=QUICK)
    mended = build_table(LAYERS, FakeDevice(), out, protocol=QUICK, retry_failed=True)

    assert failed.entries == same.entries
    assert not any(isinstance(entry, Failed) for entry in mended.entries.values())


def test_a_wrong_output_is_a_failure(tmp_path: Path) -> None:
    table = build_table(LAYERS, Wrong(), tmp_path / "t.json", protocol=QUICK)

    for layer in LAYERS:
        entry = table.entries[layer.key]
        if isinstance(layer, ConvLayer):
            assert isinstance(entry, Failed)
            assert "its output differs from torch by 0.01, more than 0.0001" in entry.failed
        else:
            assert isinstance(entry, Timing)
            assert entry.output_error == 0.0


def test_drift_of_the_device_is_taken_out(tmp_path: Path) -> None:
    layers = [layer for layer in LARGE if isinstance(layer, ConvLayer)]
    steady = build_table(layers, Mute(Options(noise=0)), tmp_path / "a.json", protocol=QUICK)
    drifting = Mute(Options(noise=0, drift=2))  # a third slower after 165 jobs
    table = build_table(layers, drifting, tmp_path / "b.json", protocol=QUICK)
    raw = [timings(table)[layer.key].minimum_ms / timings(steady)[layer.key].minimum_ms for layer in layers]
    corrected = [table.layer_ms(layer) / steady.layer_ms(layer) for layer in layers]

    assert max(raw) / min(raw) > 1.25
    assert max(corrected) / min(corrected) < 1.05
    assert max(entry.drift for entry in timings(table).values()) > 1.2


def test_layers_beside_a_disturbed_reference_are_timed_again(tmp_path: Path) -> None:
    quiet = build_table(LAYERS, FakeDevice(Options(noise=0)), tmp_path / "a.json", protocol=QUICK)
    # Three times of the reference, it and six layers, then a disturbance that the next time of the reference meets.
    shaken = build_table(LAYERS, Shaken(range(9, 12)), tmp_path / "b.json", protocol=QUICK)

    assert {layer: quiet.layer_ms(layer) for layer in LAYERS} == {layer: shaken.layer_ms(layer) for layer in LAYERS}
    assert any(entry.visits > 1 for entry in timings(shaken).values())


def test_the_cost_of_a_call_is_found_and_left_out_of_the_layers(tmp_path: Path) -> None:
    plain = build_table(LAYERS, FakeDevice(Options(noise=0)), tmp_path / "a.json", protocol=QUICK)
    called = build_table(LAYERS, FakeDevice(Options(noise=0, call_ms=0.5)), tmp_path / "b.json", protocol=QUICK)

    assert called.call_ms == pytest.approx(0.5, abs=1e-5)
    for layer in LAYERS:
        assert called.layer_ms(layer) == pytest.approx(plain.layer_ms(layer), abs=1e-5)


def test_a_sample_fills_the_rest_and_says_so(tmp_path: Path) -> None:
    table = build_table(LARGE, Mute(Options(noise=0)), tmp_path / "t.json", protocol=QUICK, sample=0.25)
    filled = sum(isinstance(entry, Filled) for entry in table.entries.values())

    assert len(LARGE) == len(table.entries)
    assert round(0.25 * len(LARGE)) == len(LARGE) - filled
    network = SearchSpace.find("iformer").references["iformer_m"]
    assert "filled" in {part.source for part in table.latency(network).layers}
    assert f"{filled} filled in between them" in "\n".join(table.describe())


def test_a_full_build_measures_what_a_sample_filled(tmp_path: Path) -> None:
    layers = [layer for layer in LARGE if isinstance(layer, ConvLayer)]
    out = tmp_path / "t.json"
    sampled = build_table(layers, Mute(), out, protocol=QUICK, sample=0.2)
    known = dict(timings(sampled))
    table = build_table(layers, Mute(), out, protocol=QUICK)

    assert len(known) < len(layers) == len(timings(table))
    assert known.items() <= timings(table).items()


def test_a_table_of_another_space_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    build_table(LAYERS, FakeDevice(), out, protocol=QUICK)
    with pytest.raises(InputError, match="begun with another space: its reference layer"):
        build_table(LARGE, Mute(), out, protocol=QUICK)


def test_outputs_that_cannot_be_had_are_not_claimed_to_agree(tmp_path: Path) -> None:
    table = build_table(LAYERS, Mute(), tmp_path / "t.json", protocol=QUICK)

    assert {None} == {entry.output_error for entry in timings(table).values()}
    assert "outputs: not compared with torch, the device does not give them" in table.describe()


def test_the_file_is_named_after_device_runtime_and_precision() -> None:
    assert default_path(FakeDevice()) == Path("latency_tables/fake.fake.none.json")


def test_a_build_killed_twenty_times_loses_no_finished_layer(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from test_measure import LARGE, QUICK, Mute, build_table\n"
        "print('ready', flush=True)\n"
        "build_table(LARGE, Mute(), Path(sys.argv[1]), protocol=QUICK)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    generator = random.Random(0)
    before: dict[str, Entry] = {}
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(generator.uniform(0.0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        now = LatencyTable.load(out).entries if out.exists() else {}

        assert before.items() <= now.items()
        before = now
    assert before
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".json" and path != out] == []
