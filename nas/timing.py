"""How a time is read off raw runs: how long to run, which runs were steady, and the quantiles of those. No torch.

Other programs only ever slow a run down, and on a shared machine they do so most of the time. What stays put is the
fastest of many runs, so steadiness is judged on the fastest run of each of a dozen windows, and a look-up adds up the
fastest steady runs: the time on the device when it is left alone. The other quantiles are kept to show the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nas.architecture import Subject
from nas.devices import Job
from nas.entries import Timing

__all__ = ["TimingProtocol", "read_runs", "stack_share"]

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
        visits: a time that did not settle, or whose fastest run stands alone, is taken again up to so many times.
    """

    duration_ms: float = 250.0
    minimum_runs: int = 25
    maximum_runs: int = 1000
    visits: int = 3

    def job(self, subject: Subject, *, visit: int = 1, verify: bool = False) -> Job:
        """What to ask of a device; later visits take longer."""
        return Job(
            subject=subject,
            duration_ms=self.duration_ms * visit,
            minimum_runs=self.minimum_runs * visit,
            maximum_runs=self.maximum_runs * visit,
            verify=verify,
        )

    def describe(self) -> str:
        """The protocol in one sentence, for the table."""
        again = (
            f", up to {self.visits} visits where the time is in doubt and as many where it stands out"
            if self.visits > 1
            else ""
        )
        return (
            f"folded, random weights, run back to back for {self.duration_ms:g} ms and {self.minimum_runs} to "
            f"{self.maximum_runs} runs, those before the steady part dropped{again}"
        )


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
    first = fast[-1] + 1 if fast else next(i for i, level in enumerate(levels) if level <= steady * (1 + tolerance))
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


def stack_share(one: Timing, stack: Timing, *, layers: int) -> Timing:
    """Time of one layer without the cost of the call: (T_k - T_1) / (k - 1), quantile by quantile.

    Args:
        one: of the layer alone.
        stack: of `layers` such layers in a row.
        layers: k, at least 2.
    """
    names = ("minimum_ms", "p10_ms", "median_ms", "p90_ms", "maximum_ms")
    shares = [(getattr(stack, name) - getattr(one, name)) / (layers - 1) for name in names]
    # Quantiles of a difference are not differences of quantiles; noise may put them out of order, or below nothing.
    ordered = sorted(round(max(share, 1e-6), _DIGITS) for share in shares)
    return stack.model_copy(update=dict(zip(names, ordered, strict=True)))


def _level(window: Sequence[float]) -> float:
    """The fastest run of a window; of five or more the second fastest, as one may be a lucky one."""
    return sorted(window)[1] if len(window) >= 5 else min(window)


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The `q` quantile of sorted samples, between neighbours."""
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
