"""How raw runs become a timing: how long to run, which runs are steady, and the quantiles of the steady runs. No torch.

Other programs can only slow a run down, and on a shared machine they do so most of the time. The fastest of many runs
is stable all the same. So the runs are cut into twelve windows, and the fastest run of each window decides which part
is steady. A lookup adds up the fastest steady run of each layer. This is the time of the device when nothing else runs
on it. The other quantiles are kept to show how long the other runs took.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from nas.devices import Job, Run
from nas.latency.entries import QUANTILES, Timing
from nas.networks import Subject

__all__ = ["TimingProtocol", "read_run", "read_runs", "stack_share"]

_WINDOWS = 12
# Decimals of a quantile in ms. Clocks have resolutions of nanoseconds to microseconds.
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingProtocol:
    """How a layer or network is timed.

    Attributes:
        duration_ms: a subject is run back to back for at least this long, warm-up included.
        minimum_runs: a subject is run at least this often, even if this takes longer than the duration.
        maximum_runs: a subject is never run more often than this, even if the duration is not reached.
        visits: how often a layer is timed, seconds apart. If its time is in doubt, it is timed up to twice as often.
    """

    duration_ms: float = 80.0
    minimum_runs: int = 18
    maximum_runs: int = 400
    visits: int = 3

    def job(self, subject: Subject, *, longer: int = 1, verify: bool = False) -> Job:
        """The job for a device.

        Args:
            subject: a layer, a stack of equal layers or a whole network.
            longer: factor on the duration and the number of runs, for a time that is in doubt.
            verify: whether to report the output as well.
        """
        return Job(
            subject=subject,
            duration_ms=self.duration_ms * longer,
            minimum_runs=self.minimum_runs * longer,
            maximum_runs=self.maximum_runs * longer,
            verify=verify,
        )

    def describe(self) -> str:
        """The protocol in one sentence, for the table."""
        times = f", {self.visits} visits and up to {2 * self.visits} where in doubt" if self.visits > 1 else ""
        return (
            f"folded, random weights, run back to back for {self.duration_ms:g} ms and {self.minimum_runs} to "
            f"{self.maximum_runs} runs, those before the steady part dropped{times}"
        )


def read_run(run: Run) -> Timing:
    """The timing of a job that did not fail.

    It is computed from the steady runs, or from the reported quantiles if the device does not report single runs.
    """
    if run.times_ms:
        return read_runs(run.times_ms)
    minimum, p10, median, p90, maximum = (_between(run.quantiles_ms, share) for share in (0, 0.1, 0.5, 0.9, 1))
    return Timing(minimum_ms=minimum, p10_ms=p10, median_ms=median, p90_ms=p90, maximum_ms=maximum, runs=run.count)


def read_runs(times_ms: Sequence[float], *, tolerance: float = 0.03) -> Timing:
    """The steady part of a series of runs.

    The runs are cut into twelve windows of equal length. The fastest of the last four windows is the steady time. Runs
    before the first window that reaches the steady time are warm-up.

    If an earlier window was faster by more than twice the tolerance, the device runs fast at first and then stays
    slower. The fast windows are dropped too, and `slowdown` says how much slower the steady time is.

    Args:
        times_ms: every run, in order.
        tolerance: relative difference that counts as the same time.
    """
    count = len(times_ms)
    edges = [round(index * count / min(_WINDOWS, count)) for index in range(min(_WINDOWS, count) + 1)]
    levels = [_level(times_ms[start:end]) for start, end in pairwise(edges)]
    third = max(1, len(levels) // 3)
    steady = min(levels[-third:])
    before = min(levels[-2 * third : -third], default=steady)
    fast = [index for index, level in enumerate(levels[:-third]) if level * (1 + 2 * tolerance) < steady]
    if fast:  # The speed may have changed inside the window after the last fast one.
        first = min(fast[-1] + 2, len(levels) - third)
    else:
        first = next(index for index, level in enumerate(levels) if level <= steady * (1 + tolerance))
    kept = sorted(times_ms[edges[first] :])
    return Timing(
        minimum_ms=round(kept[0], _DIGITS),
        p10_ms=round(_quantile(kept, 0.1), _DIGITS),
        median_ms=round(_quantile(kept, 0.5), _DIGITS),
        p90_ms=round(_quantile(kept, 0.9), _DIGITS),
        maximum_ms=round(kept[-1], _DIGITS),
        runs=len(kept),
        warmup_runs=count - len(kept),
        slowdown=round(steady / min(levels), 3) if fast else 1.0,
        settled=abs(math.log(before / steady)) <= tolerance,
    )


def stack_share(one: Timing, stack: Timing, *, layers: int) -> Timing | None:
    """Time of one layer without the cost of the call: (T_k - T_1) / (k - 1), quantile by quantile.

    Args:
        one: timing of the layer alone.
        stack: timing of `layers` such layers in a row.
        layers: k, at least 2.
    Returns:
        The time of one layer. None if noise is larger than this time.
    """
    pairs = [(getattr(one, name) or one.p90_ms, getattr(stack, name) or stack.p90_ms) for name in QUANTILES]
    shares = [round((whole - single) / (layers - 1), _DIGITS) for single, whole in pairs]
    if shares[0] <= 0:
        return None
    # Differences of quantiles are not quantiles of a difference. So an outlier of the layer alone could make a quantile
    # smaller than the previous quantile. The running maximum prevents this.
    rising = dict(zip(QUANTILES, accumulate(shares, max), strict=True))
    return stack.model_copy(
        update={
            **rising,
            "settled": one.settled and stack.settled,
            "slowdown": max(one.slowdown, stack.slowdown),
        }
    )


def _between(quantiles_ms: Mapping[float, float], share: float) -> float:
    """A quantile, interpolated linearly between the quantiles that the device reported."""
    known = sorted(quantiles_ms)
    above = next(each for each in known if each >= share)
    below = max((each for each in known if each <= share), default=above)
    part = (share - below) / (above - below) if above > below else 0.0
    return round(quantiles_ms[below] + part * (quantiles_ms[above] - quantiles_ms[below]), _DIGITS)


def _level(window: Sequence[float]) -> float:
    """The fastest run of a window. With five or more runs, the second fastest: the fastest may be an outlier."""
    return sorted(window)[1] if len(window) >= 5 else min(window)


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The `q` quantile of sorted samples, interpolated linearly."""
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
