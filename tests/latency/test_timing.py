from __future__ import annotations

import random

import pytest

from nas.devices import Run
from nas.latency import Timing
from nas.latency.timing import TimingProtocol, read_run, read_runs, stack_share
from nas.networks import ConvLayer


def noisy(level: float, count: int, *, seed: int = 0) -> list[float]:
    """Runs on a shared machine: a third are undisturbed, the others take up to three times as long."""
    generator = random.Random(seed)
    return [level * (1 + max(0.0, generator.uniform(-1, 2))) for _ in range(count)]


def test_quantiles_are_those_of_steady_runs() -> None:
    timing = read_runs([float(value) for value in range(20, 31)] * 12)

    assert timing.minimum_ms == 20
    assert timing.p10_ms == 21
    assert timing.median_ms == 25
    assert timing.p90_ms == 29
    assert timing.maximum_ms == 30
    assert timing.runs == 132


def test_warm_up_is_dropped_however_long_it_lasts() -> None:
    for warm in (3, 100, 400):
        timing = read_runs([3.0] * warm + [1.0] * 600)

        assert timing.maximum_ms in (1.0, 3.0)
        assert timing.median_ms == 1.0
        assert timing.warmup_runs >= warm - (warm + 600) / 12
        assert timing.slowdown == 1.0
        assert timing.settled


@pytest.mark.parametrize("fast", range(3, 79))
def test_a_device_that_is_fast_at_first_is_reported_at_its_steady_speed(fast: int) -> None:
    timing = read_runs([1.0] * fast + [2.0] * (240 - fast))

    assert timing.minimum_ms == 2.0
    assert timing.slowdown == 2.0
    assert timing.warmup_runs >= fast
    assert timing.settled


def test_interruptions_by_other_programs_are_no_second_speed() -> None:
    for seed in range(50):
        timing = read_runs(noisy(1.0, 400, seed=seed))

        assert timing.slowdown == 1.0
        assert timing.minimum_ms == pytest.approx(1.0)
        assert timing.settled


def test_outliers_stay_in_the_record() -> None:
    timing = read_runs([1.0] * 100 + [50.0] + [1.0] * 100)

    assert timing.maximum_ms == 50.0
    assert timing.median_ms == 1.0


def test_a_time_that_still_changes_is_not_settled() -> None:
    assert not read_runs([10.0 - 0.02 * run for run in range(300)]).settled
    assert read_runs([1.0] * 300).settled


def test_a_single_lucky_run_does_not_confirm_itself() -> None:
    assert not read_runs([1.0] * 50 + [0.5] + [1.0] * 50).confirmed
    assert read_runs([1.0] * 100).confirmed


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11, 13])
def test_few_runs_are_read_as_well(count: int) -> None:
    timing = read_runs([1.0] * count)

    assert timing.minimum_ms == 1.0
    assert timing.runs == count


def test_the_cost_of_a_call_cancels_between_a_stack_and_a_layer() -> None:
    call_ms, layer_ms = 0.3, 0.05
    one, four = read_runs([call_ms + layer_ms] * 30), read_runs([call_ms + 4 * layer_ms] * 30)

    share = stack_share(one, four, layers=4)
    assert share is not None
    assert share.minimum_ms == pytest.approx(layer_ms)


def test_an_outlier_of_the_layer_alone_does_not_shrink_its_share() -> None:
    share = stack_share(read_runs([1.0] * 60 + [9.0] + [1.0] * 60), read_runs([2.5] * 121), layers=4)

    assert share is not None
    assert Timing.model_validate(share.model_dump()) == share
    assert share.minimum_ms == share.median_ms == 0.5


def test_a_layer_below_the_noise_of_a_call_has_no_share() -> None:
    assert stack_share(read_runs([1.0, 2.0, 3.0]), read_runs([0.9, 2.5, 2.6]), layers=4) is None


def test_a_device_that_tells_quantiles_only_is_read_as_well() -> None:
    run = Run(quantiles_ms={0: 1.0, 0.05: 1.1, 0.5: 2.0, 0.95: 2.9, 1: 9.0}, count=50)
    timing = read_run(run)

    assert (timing.minimum_ms, timing.median_ms, timing.maximum_ms, timing.runs) == (1.0, 2.0, 9.0, 50)
    assert timing.p10_ms == pytest.approx(1.2)
    assert timing.p90_ms == pytest.approx(2.8)


def test_a_job_can_be_made_longer() -> None:
    protocol = TimingProtocol(duration_ms=10, minimum_runs=5, maximum_runs=50)
    layer = ConvLayer(channels=8, kernel=3, expansion=2, height=4, width=4)
    job = protocol.job(layer, longer=3)

    assert (job.duration_ms, job.minimum_runs, job.maximum_runs) == (30, 15, 150)
