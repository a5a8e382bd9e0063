from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.devices import Job, Run
from nas.devices.fake import FakeDevice, Options
from nas.errors import DeviceError, InputError, MissingLatencyError, NasError
from nas.latency import Failed, LatencyTable, Timing
from nas.latency.check import check_table, learn_correction
from nas.latency.measure import Progress, build_table
from nas.latency.table import weights_mb
from nas.latency.timing import TimingProtocol
from nas.networks import SearchSpace, random_choice

TINY = SearchSpace.find("tiny")
QUICK = TimingProtocol(duration_ms=0.1, minimum_runs=24, maximum_runs=50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A table of the tiny space from a device without noise."""
    build_table(TINY.layers, FakeDevice(Options(noise=0)), tmp_path / "t.json", protocol=QUICK)
    return tmp_path / "t.json"


class Network(FakeDevice):
    """Whole networks take longer than their layers: by a factor, and by a time for each megabyte of weights."""

    def __init__(self, *, scale: float = 1.0, weights_ms_per_mb: float = 0.0, stop_after: int = 10**9) -> None:
        super().__init__(Options(noise=0))
        self.scale, self.weights_ms_per_mb, self.stop_after = scale, weights_ms_per_mb, stop_after

    def _run(self, job: Job) -> Run:
        if len(self.done) > self.stop_after:
            raise DeviceError("fake: unplugged")
        run = super()._run(job)
        if not job.subject.key.startswith("network-"):
            return run
        weights = sum(weights_mb(layer, "none") for layer in job.subject.layers())  # type: ignore[union-attr]
        extra = self.weights_ms_per_mb * weights
        return Run(times_ms=tuple(self.scale * value + extra for value in run.times_ms))


def check(path: Path, device: FakeDevice, *, networks: int = 8, calibrate: int = 0, rounds: int = 2) -> LatencyTable:
    return check_table(
        LatencyTable.load(path),
        path,
        TINY,
        device,
        networks=networks,
        calibrate=calibrate,
        rounds=rounds,
        protocol=QUICK,
    )


def test_sums_that_are_right_have_no_error(path: Path) -> None:
    checked = check(path, Network()).check

    assert checked is not None
    assert checked.agreement.worst_error == pytest.approx(0, abs=1e-4)
    assert checked.agreement.tau == 1.0
    assert checked.noise_floor == pytest.approx(0, abs=1e-6)
    assert checked.drift == 1.0


def test_the_random_networks_and_the_references_are_compared(path: Path) -> None:
    checked = check(path, Network(), networks=8, calibrate=3).check

    assert checked is not None
    held_out = [row for row in checked.rows if row.role == "held-out"]
    assert len(TINY.references) + 8 == len(held_out) == checked.agreement.networks
    assert set(TINY.references) <= {row.name for row in held_out}
    assert sum(row.role == "calibration" for row in checked.rows) == 3
    assert len({row.id for row in checked.rows}) == len(checked.rows)


def test_networks_that_take_longer_show_as_bias(path: Path) -> None:
    checked = check(path, Network(scale=1.25)).check

    assert checked is not None
    assert checked.agreement.bias == pytest.approx(1 / 1.25 - 1, abs=1e-4)
    assert checked.agreement.mean_error == pytest.approx(0.2, abs=1e-4)


def test_a_correction_is_learnt_stored_and_checked_on_other_networks(path: Path) -> None:
    table = check(path, Network(scale=1.1, weights_ms_per_mb=0.3), calibrate=4)

    assert table.correction is not None
    assert table.correction.scale == pytest.approx(1.1, abs=1e-3)
    assert table.correction.weights_ms_per_mb == pytest.approx(0.3, abs=1e-2)
    assert table.correction.networks == 4
    assert table.check is not None
    assert table.check.agreement.worst_error < 1e-3
    assert table.check.uncorrected.worst_error > 0.05
    assert table == LatencyTable.load(path)


def test_a_second_check_does_not_correct_twice(path: Path) -> None:
    first = check(path, Network(scale=1.1), calibrate=4)
    second = check(path, Network(scale=1.1), calibrate=4)

    assert first.correction == second.correction
    assert check(path, Network(scale=1.1)).correction is None


def test_a_stopped_check_goes_on_with_the_networks_left(path: Path) -> None:
    with pytest.raises(DeviceError):
        check(path, Network(stop_after=14))
    assert LatencyTable.load(path).check is None
    seen: list[Progress] = []
    device = Network()
    check_table(
        LatencyTable.load(path), path, TINY, device, networks=8, rounds=2, protocol=QUICK, on_progress=seen.append
    )

    assert seen[0].done > 0
    timed = [key for key in device.done if key.startswith("network-")]
    assert seen[0].total - seen[0].done == len(timed)
    assert [path] == list(path.parent.iterdir())


def test_more_rounds_and_networks_go_on_with_the_times_there_are(path: Path) -> None:
    with pytest.raises(DeviceError):
        check(path, Network(stop_after=14), rounds=2)
    device = Network()
    check(path, device, networks=9, rounds=3)
    timed = [key for key in device.done if key.startswith("network-")]

    assert 0 < len(timed) < 3 * (9 + len(TINY.references))


def test_times_of_another_table_are_not_gone_on_with(path: Path) -> None:
    with pytest.raises(DeviceError):
        check(path, Network(stop_after=14))
    table = LatencyTable.load(path)
    entries = {key: entry.model_copy(update={"visits": 7}) for key, entry in table.entries.items()}
    table.with_entries(entries).save(path)
    device = Network()
    check(path, device)

    assert 2 * (8 + len(TINY.references)) == len([key for key in device.done if key.startswith("network-")])


def test_a_device_that_is_slower_today_is_told_by_the_reference(path: Path) -> None:
    class Slower(FakeDevice):
        def _run(self, job: Job) -> Run:
            return Run(times_ms=tuple(1.5 * value for value in super()._run(job).times_ms))

    checked = check(path, Slower(Options(noise=0))).check

    assert checked is not None
    assert checked.drift == pytest.approx(1.5, abs=1e-3)
    assert checked.agreement.worst_error < 1e-3
    assert checked.rows[0].raw_ms == pytest.approx(1.5 * checked.rows[0].measured_ms, rel=1e-3)


def test_a_reference_that_was_disturbed_once_spoils_nothing(path: Path) -> None:
    class Shaken(FakeDevice):
        def _run(self, job: Job) -> Run:
            factor = 1.5 if len(self.done) == 1 else 1.0
            return Run(times_ms=tuple(factor * value for value in super()._run(job).times_ms))

    checked = check(path, Shaken(Options(noise=0)), rounds=3).check

    assert checked is not None
    assert checked.agreement.worst_error < 1e-3


def test_networks_with_a_failed_layer_are_passed_over(path: Path) -> None:
    table = LatencyTable.load(path)
    key = next(layer.key for layer in TINY.layers if layer.key.startswith("conv") and "k5" in layer.key)
    table.with_entries({key: Failed(failed="no")}).save(path)
    checked = check(path, Network(), networks=4).check

    assert checked is not None
    assert checked.agreement.worst_error < 1e-3


def test_a_space_with_too_few_networks_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match="too few networks for a check of 500"):
        check(path, Network(), networks=500)


def test_another_device_is_refused(path: Path) -> None:
    with pytest.raises(
        InputError, match=r"measured on another device \(threads: 1 in the table, 2 here\): check it there"
    ):
        check(path, FakeDevice(Options(threads=2)))


def test_a_calibrated_table_is_refused() -> None:
    table, path = LatencyTable.find("iphone13")
    with pytest.raises(InputError, match="was not measured layer by layer"):
        check_table(table, path, TINY, FakeDevice())


def test_a_table_that_lacks_a_layer_is_refused_before_anything_is_timed(path: Path) -> None:
    table = LatencyTable.load(path)
    entries = {key: value for key, value in table.entries.items() if not key.startswith("stem")}
    device = FakeDevice()
    with pytest.raises(MissingLatencyError, match="no entry for stem"):
        check_table(table.model_copy(update={"entries": entries}), path, TINY, device)

    assert device.done == []


@pytest.mark.parametrize("wrong", [{"networks": 2}, {"calibrate": 1}, {"rounds": 1}])
def test_too_few_of_anything_is_refused(path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="a check takes at least 4 networks and 2 rounds"):
        check(path, FakeDevice(), **wrong)


def test_a_network_that_cannot_be_timed_is_named(path: Path) -> None:
    with pytest.raises(NasError, match=r"network-.* could not be timed: made to fail"):
        check(path, FakeDevice(Options(noise=0, fails="network")))


def test_nonsense_is_not_corrected_away(path: Path) -> None:
    with pytest.raises(NasError, match="no correction can mend that"):
        check(path, Network(scale=20), calibrate=4)


def test_a_correction_never_makes_weights_cheaper_than_nothing(path: Path) -> None:
    table = LatencyTable.load(path)
    choose = random_choice(seed=3)
    networks = {TINY.sample(choose) for _ in range(8)}
    measured = {
        network: table.latency_ms(network) - 0.01 * sum(weights_mb(layer, "fp32") for layer in network.layers())
        for network in networks
    }

    assert learn_correction(table, measured).weights_ms_per_mb == 0.0


def test_baselines_are_compared_on_networks_they_have_not_seen(path: Path) -> None:
    checked = check(path, Network()).check

    assert checked is not None
    assert {"macs", "params"} == set(checked.baselines)
    for agreement in checked.baselines.values():
        assert agreement.networks == checked.agreement.networks // 2
        assert agreement.mean_error > checked.agreement.mean_error


def test_the_check_stands_in_the_file_one_network_a_line(path: Path) -> None:
    table = check(path, Network())

    assert table.check is not None
    lines = [line for line in path.read_text().splitlines() if '"role"' in line]
    assert len(table.check.rows) == len(lines)
    assert json.loads(path.read_text())["check"]["agreement"]["networks"] == table.check.agreement.networks
    assert all(isinstance(entry, Timing) for entry in table.entries.values())
