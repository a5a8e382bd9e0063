"""How the runs of one layer become an entry of the table, checked against torch, and which of two visits is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from nas.devices import Run, sampled
from nas.latency.entries import QUANTILES, Entry, Failed, Timing
from nas.latency.timing import read_run, stack_share
from nas.networks import AttentionLayer, ConvLayer, Layer

__all__ = ["STACK", "better_of", "call_share", "entry_of", "is_stackable"]

STACK = 4  # layers in a stack on devices whose calls have a fixed cost

# Largest relative error of an output against torch in float32. Runtimes reorder sums, which gives errors of about 1e-6.
# float16 has 11 significant bits. Its errors of a thousandth add up over the operations of a layer.
_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}


def is_stackable(layer: Layer) -> TypeGuard[ConvLayer | AttentionLayer]:
    """Whether the output of a layer can be its own input, so that copies of the layer can follow each other.

    An attention layer must both partition and merge windows, or do neither.
    """
    return isinstance(layer, ConvLayer) or (isinstance(layer, AttentionLayer) and layer.partitions == layer.merges)


def call_share(one: Timing, stack: Timing) -> float:
    """Fixed cost of a call in ms: the fastest time of the layer alone, minus its share of the fastest stack."""
    return max(round(one.minimum_ms - (stack.minimum_ms - one.minimum_ms) / (STACK - 1), 6), 1e-6)


def entry_of(
    layer: Layer, runs: Sequence[Run], *, reference_ms: float, call_ms: float, precision: str
) -> Timing | Failed:
    """The entry that one visit of a layer gives.

    Args:
        layer: what was timed.
        runs: results for the layer alone, and for a stack of it if the device is measured through stacks.
        reference_ms: time of the reference layer around these runs.
        call_ms: fixed cost of a call. 0 if calls on the device have no fixed cost.
        precision: number format of the device. It decides how large the error of an output may be.
    """
    for run in runs:
        if run.failure is not None:
            return Failed(failed=run.failure)
    one, *stack = map(read_run, runs)
    timing: Timing | None = one
    if stack:
        timing = stack_share(one, stack[0], layers=STACK)
    elif call_ms:
        timing = stack_share(_constant(call_ms), one, layers=2)
    if timing is None:
        return Failed(failed="it takes less time than a call varies by")
    error = _output_error(layer, runs[0])
    limit = _TOLERANCE.get(precision, _TOLERANCE["fp32"])
    if error is not None and not error <= limit:
        return Failed(failed=f"its output differs from torch by {error:.2g}, more than {limit:g}")
    return timing.model_copy(
        update={
            "alone_ms": one.minimum_ms if stack else None,
            "stack_ms": stack[0].minimum_ms if stack else None,
            "reference_ms": reference_ms,
            "output_error": None if error is None else float(f"{error:.2g}"),
            "facts": {name: value for run in runs for name, value in run.facts.items()},
        }
    )


def better_of(old: Entry | None, new: Timing | Failed) -> Timing | Failed:
    """The better of two visits of a layer.

    A settled visit is better than one that is not settled. If both are equal in this, a visit with a confirmed fastest
    run is better. If they are equal in this too, the faster visit is better.
    """
    if not isinstance(old, Timing):
        return new
    if isinstance(new, Failed):
        return old.model_copy(update={"visits": old.visits + 1})
    best = min(old, new, key=lambda timing: (not timing.settled, not timing.confirmed, timing.minimum_ms))
    merged = best.model_copy(
        update={"visits": old.visits + 1, "output_error": old.output_error, "facts": {**new.facts, **old.facts}}
    )
    if old.alone_ms is None or old.stack_ms is None or new.alone_ms is None or new.stack_ms is None:
        return merged
    # Other programs only slow a run down, but they can make a difference of two runs larger or smaller. So the layer
    # alone and the stack each keep their own fastest run.
    alone, stack = min(old.alone_ms, new.alone_ms), min(old.stack_ms, new.stack_ms)
    share = (stack - alone) / (STACK - 1)
    if share <= 0:
        return merged
    raised = {name: max(getattr(merged, name) or merged.p90_ms, round(share, 6)) for name in QUANTILES[1:]}
    return merged.model_copy(update={**raised, "minimum_ms": round(share, 6), "alone_ms": alone, "stack_ms": stack})


def _constant(value_ms: float) -> Timing:
    """A timing without spread, for a constant cost."""
    return Timing(**dict.fromkeys(QUANTILES, value_ms), runs=1)


def _output_error(layer: Layer, run: Run) -> float | None:
    """Norm of the difference to torch's output, divided by the norm of torch's output.

    None if the device gave no output.
    """
    if run.output is None:
        return None
    from nas.networks.modules import build_deployed, example_input

    expected = sampled(build_deployed(layer)(example_input(layer)).numpy())
    if expected.shape != run.output.shape:
        return float("inf")
    return float(np.linalg.norm(run.output - expected) / np.linalg.norm(expected))
