"""What the fit of the iPhone 13 gains from the 512 px rows and from the networks of other authors.

    python tests/benchmarks/bench_calibration.py

For each choice of rows: errors of the 14 rows at 224 px, fitted, each left out, and near copies left out together; then
the three rows at 512 px, fitted (where the choice has them), each left out, and all three left out. In %.

Then, for each kind of network, the errors of its rows by a fit that has seen none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nas.latency import calibrate
from nas.latency.calibrate import Evidence
from nas.latency.published import operations_beside, read_baselines, read_operations, read_points

ROOT = Path(__file__).parents[2]
POINTS = ROOT / "latency_tables" / "iphone13.points.csv"
BASELINES = ROOT / "latency_tables" / "iphone13.baselines.csv"
RELEASED = ["iformer_t", "iformer_s", "iformer_m", "iformer_l", "iformer_l2"]
NEAR_COPIES = [["ladder_conv_only", "ladder_conv_only_3x3"], ["iformer_m", "ladder_reduced_width"]]
KINDS = {
    "attention, full queries": ["ladder_mha", "ladder_sha", "ladder_shma"],
    "M with any attention": ["ladder_mha", "ladder_sha", "ladder_shma", "ladder_reduced_width", "iformer_m"],
    "convolutions only": [
        "ladder_bn",
        "ladder_deeper",
        "ladder_stage_ratio",
        "ladder_conv_only",
        "ladder_conv_only_3x3",
    ],
    "deeper": ["ladder_deeper", "ladder_stage_ratio", "iformer_l2", "iformer_l2_512_chunked"],
    "narrow": ["iformer_t", "iformer_s"],
    "wide": ["iformer_l", "iformer_l2", "iformer_l_512_chunked", "iformer_l2_512_chunked"],
    "512 px": ["iformer_m_512_chunked", "iformer_l_512_chunked", "iformer_l2_512_chunked"],
}


def main() -> None:
    points = [point for point in read_points(POINTS) if point.fit == "yes"]
    traced = read_operations(operations_beside(BASELINES))
    rows = {row: traced[row.name] for row in read_baselines(BASELINES) if row.name in traced}
    evidence = Evidence.of(points, rows)
    names = [row.name for row in (*points, *rows)]
    small = [index for index, point in enumerate(points) if point.resolution == 224]
    large = [index for index, point in enumerate(points) if point.resolution == 512]
    others = [len(points) + index for index, row in enumerate(rows) if row.fit == "yes"]
    with_norms = [len(points) + index for index in range(len(rows))]

    header = f"{'rows':44s} {'fit':>10s} {'T to L2':>7s} {'left out':>10s} {'copies':>10s}"
    sys.stdout.write(f"{header}    512 px: fitted, each left out, all left out\n")

    def show(label: str, used: Sequence[int], *, evidence: Evidence = evidence) -> None:
        def errors(without: Sequence[int], fitted: Sequence[int] = used) -> np.ndarray:
            coefficients = evidence.fit(np.array([row for row in fitted if row not in without]))
            return evidence.predict(coefficients) / evidence.published_ms - 1

        fit = errors([])
        left_out = {row: errors([row])[row] for row in [*small, *large]}
        copies = {row: left_out[row] for row in small}
        for group in NEAR_COPIES:
            rows = [names.index(name) for name in group]
            copies |= {row: errors(rows)[row] for row in rows}
        unseen = errors(large)
        cells = [
            _mean_and_worst(fit[small]),
            f"{100 * max(abs(fit[names.index(name)]) for name in RELEASED):7.1f}",
            _mean_and_worst([left_out[row] for row in small]),
            _mean_and_worst(list(copies.values())),
            "  ",
            _signed(fit[large]) if set(large) <= set(used) else " " * 14,
            _signed([left_out[row] for row in large]) if set(large) <= set(used) else " " * 14,
            _signed(unseen[large]),
        ]
        sys.stdout.write(f"{label:44s} {' '.join(cells)}\n")

    show("224 px", small)
    show("224 and 512 px", [*small, *large])
    show("224 px, others", [*small, *others])
    show("224 and 512 px, others (chosen)", [*small, *large, *others])
    show("224 and 512 px, others with norms too", [*small, *large, *with_norms])
    for uncertainty in (0.03, 0.05, 0.2):
        changed = evidence.uncertainty.copy()
        changed[others] = uncertainty
        show(
            f"chosen, others at {uncertainty:.0%}",
            [*small, *large, *others],
            evidence=replace(evidence, uncertainty=changed),
        )
    for uncertainty in (0.03, 0.1):
        changed = evidence.uncertainty.copy()
        changed[others] = uncertainty
        normal = replace(evidence, uncertainty=changed, forgiven=np.zeros_like(evidence.forgiven))
        show(f"chosen, others at {uncertainty:.0%}, not forgiven", [*small, *large, *others], evidence=normal)
    reading = [
        point.model_copy(update={"dims": (48, 128, 256, 448)}) if point.name == "iformer_l2_512_chunked" else point
        for point in points
    ]
    show("chosen, L2 at 512 px of dims 48-128-256-448", [*small, *large, *others], evidence=Evidence.of(reading, rows))
    chosen = [*small, *large, *others]
    for name, values in (("CHANNEL_GROUP", (1, 16, 64)), ("OVERLAP", (1.0, 2.0, 8.0, 16.0))):
        kept = getattr(calibrate, name)
        for value in values:
            setattr(calibrate, name, value)
            show(f"chosen, {name.lower().replace('_', ' ')} {value:g}", chosen, evidence=Evidence.of(points, rows))
        setattr(calibrate, name, kept)

    sys.stdout.write(f"\n{'each kind of network left out':44s} {'signed':>6s} {'mean, worst':>10s}\n")
    kept_overlap = calibrate.OVERLAP
    for overlap in (kept_overlap, 16.0):
        setattr(calibrate, "OVERLAP", overlap)  # noqa: B010 - a constant, but not for this comparison
        everything: list[float] = []
        for kind, members in KINDS.items():
            error = _unseen(evidence, chosen, [names.index(name) for name in members])
            everything.extend(error)
            sys.stdout.write(f"overlap {overlap:g}: {kind:32s} {100 * np.mean(error):+6.1f} {_mean_and_worst(error)}\n")
        sys.stdout.write(f"overlap {overlap:g}: {'all of these':39s} {_mean_and_worst(everything)}\n")
    setattr(calibrate, "OVERLAP", kept_overlap)  # noqa: B010
    sys.stdout.write("\n")

    for label, rest in (("released networks", RELEASED), ("ladder", [names[row] for row in small[len(RELEASED) :]])):
        error = _unseen(evidence, chosen, [names.index(name) for name in rest])
        worst = rest[int(np.argmax(np.abs(error)))]
        sys.stdout.write(f"{label}, all left out: {_mean_and_worst(error)} ({worst})\n")

    coefficients = evidence.fit(np.array(small))
    unseen = evidence.predict(coefficients) / evidence.published_ms - 1
    sizes = [abs(unseen[row]) for row in others]
    sys.stdout.write(
        f"others, predicted from 224 px alone: {np.mean(sizes):.1%} in the mean, {np.median(sizes):.1%} in the median, "
        f"{max(sizes):.1%} at worst, {sum(size <= 0.1 for size in sizes)} of {len(sizes)} within 10 %\n"
    )


def _unseen(evidence: Evidence, used: Sequence[int], unseen: Sequence[int]) -> np.ndarray:
    """Signed relative errors of rows by a fit to the used rows that are not among them."""
    coefficients = evidence.fit(np.array([row for row in used if row not in unseen]))
    return (evidence.predict(coefficients) / evidence.published_ms - 1)[list(unseen)]


def _mean_and_worst(errors: Sequence[float] | np.ndarray) -> str:
    return f"{100 * np.mean(np.abs(errors)):4.2f} {100 * np.max(np.abs(errors)):5.2f}"


def _signed(errors: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{100 * error:+4.1f}" for error in errors)


if __name__ == "__main__":
    main()
