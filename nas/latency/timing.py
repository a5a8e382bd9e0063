"""How a time is read off raw runs: how long to run, which runs were steady, and the quantiles of those. No torch.

Other programs only ever slow a run down, and on a shared machine they do so most of the time. What stays put is the
fastest of many runs, so steadiness is judged on the fastest run of each of a dozen windows, and a look-up adds up the
fastest steady runs: the time on the device when it is left alone. The other quantiles are kept to show the rest.
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
# Quantiles come from clocks of nanoseconds to microseconds.
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingProtocol:
    """How a layer or network is timed.

    Attributes:
        duration_ms: run back to back at least this long, warm-up included,
        minimum_runs: and at least so often,
        maximum_runs: but no more often than this.
        visits: each time is taken so often, seconds apart, and up to twice as often where it is in doubt.
    """

    duration_ms: float = 80.0
    minimum_runs: int = 18
    maximum_runs: int = 400
    visits: int = 3

    def job(self, subject: Subject, *, longer: int = 1, verify: bool = False) -> Job:
        """What to ask of a device, where in doubt for a multiple of the time."""
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
    """The timing of a job that did not fail: of its steady runs, or of what a device that tells no single run tells."""
    if run.times_ms:
        return read_runs(run.times_ms)
    minimum, p10, median, p90, maximum = (_between(run.quantiles_ms, share) for share in (0, 0.1, 0.5, 0.9, 1))
    return Timing(minimum_ms=minimum, p10_ms=p10, median_ms=median, p90_ms=p90, maximum_ms=maximum, runs=run.count)


def read_runs(times_ms: Sequence[float], *, tolerance: float = 0.03) -> Timing:
    """The steady part of a series of runs.

    The runs are cut into twelve windows of equal length; the fastest of the last four is the steady time. Runs
    before the first window that reaches it are warm-up. Where an earlier window was faster by more than twice the
    tolerance, the device runs fast at first and slower for good: the fast windows go too, and `slowdown` says by how
    much.

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
        one: of the layer alone.
        stack: of `layers` such layers in a row.
        layers: k, at least 2.
    Returns:
        The share; None where noise is larger than the layer.
    """
    pairs = [(getattr(one, name) or one.p90_ms, getattr(stack, name) or stack.p90_ms) for name in QUANTILES]
    shares = [round((whole - single) / (layers - 1), _DIGITS) for single, whole in pairs]
    if shares[0] <= 0:
        return None
    # Quantiles of a difference are not differences of quantiles: an outlier of the layer alone must not make one fall.
    rising = dict(zip(QUANTILES, accumulate(shares, max), strict=True))
    return stack.model_copy(
        update={
            **rising,
            "settled": one.settled and stack.settled,
            "slowdown": max(one.slowdown, stack.slowdown),
        }
    )


def _between(quantiles_ms: Mapping[float, float], share: float) -> float:
    """A quantile that a device did not tell, on the line between those it did."""
    known = sorted(quantiles_ms)
    above = next(each for each in known if each >= share)
    below = max((each for each in known if each <= share), default=above)
    part = (share - below) / (above - below) if above > below else 0.0
    return round(quantiles_ms[below] + part * (quantiles_ms[above] - quantiles_ms[below]), _DIGITS)


def _level(window: Sequence[float]) -> float:
    """The fastest run of a window; of five or more the second fastest, as one may be a lucky one."""
    return sorted(window)[1] if len(window) >= 5 else min(window)


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The `q` quantile of sorted samples, between neighbours."""
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
