from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.devices import Job, Run
from nas.devices.fake import FakeDevice, Options
from nas.errors import DeviceError, InputError
from nas.latency import Failed, Filled, LatencyTable, Timing
from nas.latency.drift import reference_layer
from nas.latency.fill import measuring_order
from nas.latency.measure import Progress, build_table, default_path
from nas.latency.timing import TimingProtocol
from nas.networks import AttentionLayer, ConvLayer, SearchSpace

LAYERS = SearchSpace.find("tiny").layers
LARGE = SearchSpace.find("iformer").layers
QUICK = TimingProtocol(duration_ms=0.1, minimum_runs=24, maximum_runs=50)


def timings(table: LatencyTable) -> dict[str, Timing]:
    return {key: entry for key, entry in table.entries.items() if isinstance(entry, Timing)}


class Unplugged(FakeDevice):
    """A device that is gone after some jobs."""

    def _run(self, job: Job) -> Run:
        if len(self.done) > 12:
            raise DeviceError("fake: unplugged")
        return super()._run(job)


class Wrong(FakeDevice):
    """A device that computes convolutions wrong."""

    def _run(self, job: Job) -> Run:
        run = super()._run(job)
        if job.verify and isinstance(job.subject, ConvLayer):
            assert run.output is not None
            return Run(times_ms=run.times_ms, output=run.output * np.float32(1.01))
        return run


class Mute(FakeDevice):
    """A device that cannot return outputs, like the benchmark program of a phone."""

    def time(self, jobs: Sequence[Job]) -> Iterator[Run]:
        return super().time([replace(job, verify=False) for job in jobs])


class Shaken(FakeDevice):
    """A device on which another program runs during a few jobs, so that they take 1.5 times as long."""

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
    done = [progress.done for progress in seen]

    assert sorted(done) == done
    assert (0, len(LAYERS)) == (done[0], done[-1])
    assert {len(LAYERS)} == {progress.total for progress in seen}
    assert {layer.key for layer in LAYERS} <= {progress.key for progress in seen}


def test_a_build_that_stopped_goes_on_with_the_layers_left(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    with pytest.raises(DeviceError, match="unplugged"):
        build_table(LAYERS, Unplugged(Options(noise=0)), out, protocol=QUICK)
    begun = LatencyTable.load(out).entries
    device = FakeDevice(Options(noise=0))
    table = build_table(LAYERS, device, out, protocol=QUICK)

    assert 0 < len(begun) < len(LAYERS)
    assert table.reference is not None
    for key, entry in begun.items():
        assert isinstance(entry, Timing)
        # A layer that was visited before gets only the visits it still lacks. The reference layer gets more.
        assert device.done.count(key) <= QUICK.visits - entry.visits or key == table.reference.key
    assert set(timings(table)) == {layer.key for layer in LAYERS}


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


def test_a_second_build_of_a_table_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    out, refused = tmp_path / "t.json", []

    def again(progress: Progress) -> None:
        if progress.key and not refused:
            with pytest.raises(InputError) as caught:
                build_table(LAYERS, FakeDevice(), out, protocol=QUICK)
            refused.append(str(caught.value))

    table = build_table(LAYERS, FakeDevice(), out, protocol=QUICK, on_progress=again)

    assert f"{out} is in use by process {os.getpid()} on " in refused[0]
    assert set(table.entries) == {layer.key for layer in LAYERS}
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_a_fake_table_calls_itself_analytic(tmp_path: Path) -> None:
    assert build_table(LAYERS, FakeDevice(), tmp_path / "t.json", protocol=QUICK).provenance.source == "analytic"


def test_a_layer_that_fails_is_an_entry_and_the_build_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    table = build_table(LAYERS, FakeDevice(Options(fails="head")), out, protocol=QUICK)
    failed = {key for key, entry in table.entries.items() if isinstance(entry, Failed)}

    assert failed == {layer.key for layer in LAYERS if layer.key.startswith("head")}
    assert len(LAYERS) == len(table.entries)


def test_a_layer_that_fails_once_is_tried_again_in_the_same_build(tmp_path: Path) -> None:
    class Shy(FakeDevice):
        def _run(self, job: Job) -> Run:
            run = super()._run(job)
            return run if self.done.count(job.subject.key) > 1 else Run(failure="not now")

    device = Shy(Options(noise=0))
    reference = reference_layer(measuring_order(LAYERS))
    device.done += [reference.key] * 2
    table = build_table(LAYERS, device, tmp_path / "t.json", protocol=QUICK)

    assert {layer.key for layer in LAYERS} == set(timings(table))


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


def test_every_layer_is_visited_as_often_as_stated(tmp_path: Path) -> None:
    device = FakeDevice(Options(noise=0))
    table = build_table(LAYERS, device, tmp_path / "t.json", protocol=QUICK)

    assert {QUICK.visits} == {entry.visits for entry in timings(table).values()}
    for layer in LAYERS:
        assert device.done.count(layer.key) >= QUICK.visits


def test_drift_of_the_device_is_taken_out(tmp_path: Path) -> None:
    layers = [layer for layer in LARGE if isinstance(layer, ConvLayer)]
    steady = build_table(layers, Mute(Options(noise=0)), tmp_path / "a.json", protocol=QUICK)
    drifting = Mute(Options(noise=0, drift=1))  # half slower after 500 jobs
    table = build_table(layers, drifting, tmp_path / "b.json", protocol=QUICK)
    raw = [timings(table)[layer.key].minimum_ms / timings(steady)[layer.key].minimum_ms for layer in layers]
    corrected = [table.layer_ms(layer) / steady.layer_ms(layer) for layer in layers]

    assert max(raw) / min(raw) > 1.25
    assert max(corrected) / min(corrected) < 1.05


@pytest.mark.parametrize("shaken", [range(1, 2), range(5, 9), range(8, 30), range(25, 26), range(55, 60)])
def test_a_disturbance_leaves_no_trace(tmp_path: Path, shaken: range) -> None:
    quiet = build_table(LAYERS, FakeDevice(Options(noise=0)), tmp_path / "a.json", protocol=QUICK)
    table = build_table(LAYERS, Shaken(shaken), tmp_path / "b.json", protocol=QUICK)

    assert {layer: quiet.layer_ms(layer) for layer in LAYERS} == {layer: table.layer_ms(layer) for layer in LAYERS}


def test_a_lucky_run_does_not_become_the_time_of_a_layer(tmp_path: Path) -> None:
    class Lucky(FakeDevice):
        def _run(self, job: Job) -> Run:
            run = super()._run(job)
            if not job.verify:  # The first visit of a layer is verified; the reference never is.
                return run
            late = len(run.times_ms) - 2
            lucky = (*run.times_ms[:late], 0.5 * run.times_ms[late], *run.times_ms[late + 1 :])
            return Run(times_ms=lucky, output=run.output)

    quiet = build_table(LAYERS, FakeDevice(Options(noise=0)), tmp_path / "a.json", protocol=QUICK)
    table = build_table(LAYERS, Lucky(Options(noise=0)), tmp_path / "b.json", protocol=QUICK)

    assert {layer: quiet.layer_ms(layer) for layer in LAYERS} == {layer: table.layer_ms(layer) for layer in LAYERS}


def test_the_cost_of_a_call_is_found_and_left_out_of_the_layers(tmp_path: Path) -> None:
    plain = build_table(LAYERS, FakeDevice(Options(noise=0)), tmp_path / "a.json", protocol=QUICK)
    called = build_table(LAYERS, FakeDevice(Options(noise=0, call_ms=0.5)), tmp_path / "b.json", protocol=QUICK)

    assert called.call_ms == pytest.approx(0.5, abs=1e-5)
    for layer in LAYERS:
        assert called.layer_ms(layer) == pytest.approx(plain.layer_ms(layer), abs=1e-5)


def test_a_disturbance_of_one_part_of_a_stack_leaves_no_trace(tmp_path: Path) -> None:
    options = Options(noise=0, call_ms=0.5)
    quiet = build_table(LAYERS, FakeDevice(options), tmp_path / "a.json", protocol=QUICK)
    shaken = Shaken(range(12, 13))
    shaken.options, shaken.call_cost = options, True
    table = build_table(LAYERS, shaken, tmp_path / "b.json", protocol=QUICK)

    for layer in LAYERS:
        assert table.layer_ms(layer) == pytest.approx(quiet.layer_ms(layer), abs=2e-6)


def test_a_call_cost_that_cannot_be_measured_is_an_error(tmp_path: Path) -> None:
    device = FakeDevice(Options(noise=0, call_ms=0.5, fails="conv"))
    with pytest.raises(DeviceError, match=r"the reference layer conv-.* failed: made to fail"):
        build_table(LAYERS, device, tmp_path / "t.json", protocol=QUICK)


def test_a_device_that_takes_many_jobs_at_once_is_measured_alike(tmp_path: Path) -> None:
    class Batched(FakeDevice):
        batch = 32

        def __init__(self, options: Options) -> None:
            super().__init__(options)
            self.batches: list[int] = []

        def time(self, jobs: Sequence[Job]) -> Iterator[Run]:
            self.batches.append(len(jobs))
            return iter(list(super().time(jobs)))

    options = Options(noise=0, call_ms=0.5)
    layers = [layer for layer in LARGE if not isinstance(layer, AttentionLayer)][::4]
    one = build_table(layers, FakeDevice(options), tmp_path / "a.json", protocol=QUICK)
    device = Batched(options)
    many = build_table(layers, device, tmp_path / "b.json", protocol=QUICK)

    assert {layer: one.layer_ms(layer) for layer in layers} == {layer: many.layer_ms(layer) for layer in layers}
    assert max(device.batches) <= device.batch


def test_a_finished_table_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    build_table(LAYERS, FakeDevice(), out, protocol=QUICK)
    before = out.read_bytes()
    build_table(LAYERS, FakeDevice(), out, protocol=QUICK)

    assert before == out.read_bytes()


def test_the_smallest_sample_still_covers_every_kind(tmp_path: Path) -> None:
    table = build_table(LARGE, Mute(Options(noise=0)), tmp_path / "t.json", protocol=QUICK, sample=0.01)

    assert len(LARGE) == len(table.entries)


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


def test_a_build_that_is_killed_again_and_again_loses_no_finished_layer(tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from test_measure import LARGE, QUICK, Mute, build_table\n"
        "def tell(progress):\n"
        "    print(progress.key, flush=True)\n"
        "print('ready', flush=True)\n"
        "build_table(LARGE, Mute(), Path(sys.argv[1]), protocol=QUICK, on_progress=tell)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    generator = random.Random(0)
    finished: Counter[str] = Counter()
    known = {layer.key for layer in LARGE}
    kills = int(os.environ.get("NAS_KILLS", "4"))
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, env=environment, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        killer = threading.Timer(generator.uniform(0.05, 0.5), os.kill, (process.pid, signal.SIGKILL))
        killer.start()
        told = [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait()
        killer.join()
        process.stdout.close()
        finished.update(key for key in told if key in known)
        now = LatencyTable.load(out).entries if out.exists() else {}

        # Every reported visit is in the file, and none of them is repeated.
        for key, visits in finished.items():
            entry = now[key]
            assert isinstance(entry, Timing)
            assert visits <= entry.visits <= visits + kills
    assert len(finished) > kills
    assert [path for path in tmp_path.glob("*.json") if path != out] == []
