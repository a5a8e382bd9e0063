"""Make the accuracy table of iFormer from published accuracies, and print how far it can be trusted.

    python tests/benchmarks/fit_accuracy.py              writes accuracy_tables/iformer.imagenet.json
    python tests/benchmarks/fit_accuracy.py --restarts 5 --out /tmp/again.json

The kernel is learnt from the networks of other families (imagenet.networks.csv and imagenet.results.csv there); then
come the rows of the family itself (latency_tables/iphone13.points.csv: batch norm, 224 px, 300 epochs, no
distillation). `--restarts` learns the kernel again from random starts, and prints the largest change of any prediction.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nas.accuracy.fit import fit_published
from nas.accuracy.results import read_rows, rounded_traits
from nas.accuracy.structure import ranges
from nas.accuracy.table import AccuracyTable, Origin, Row
from nas.accuracy.traits import traits_of
from nas.latency.published import PublishedPoint, read_points

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "accuracy_tables"
EPOCHS, RESOLUTION = 300, 224
# What each row varies. Rows of one axis are left out together; fixed before any prediction of a row was looked at.
AXES = {
    "iformer_t": "size",
    "iformer_s": "size",
    "iformer_l": "size",
    "iformer_m": "position encoding",
    "ladder_reduced_width": "position encoding",
    "ladder_bn": "depth",
    "ladder_deeper": "depth",
    "ladder_stage_ratio": "stages and stem",
    "ladder_conv_only": "stages and stem",
    "ladder_mha": "attention",
    "ladder_sha": "attention",
    "ladder_shma": "attention",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TABLES / "iformer.imagenet.json")
    parser.add_argument("--restarts", type=int, default=0)
    asked = parser.parse_args()
    others = read_rows(TABLES / "imagenet.networks.csv", TABLES / "imagenet.results.csv")
    points = own_points()
    own = own_rows(points)
    published = fit_published(others, own, axes=AXES)
    published = published.model_copy(update={"ranges": ranges(point.architecture() for point in points)})
    table = AccuracyTable(
        origin=Origin(
            family="iformer",
            recipe="iformer",
            training="300 epochs at 224 px without distillation, as in the paper's Table 9",
            data=(
                f"{len(others)} results of {len({row.name for row in others})} networks of "
                f"{len({row.family for row in others})} families from timm's results folder (Apache-2.0, 2026-08-08), "
                f"and {len(own)} rows of iFormer (arXiv:2501.15369)"
            ),
            versions={name: version(name) for name in ("numpy", "scipy")},
            date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        ),
        published=published,
    )
    table.save(asked.out)
    for line in table.describe():
        sys.stdout.write(f"{line}\n")
    top1, low, high = published.left_out([*range(len(others)), *(row.name for row in own)])
    unseen = published.with_rows(others).foretold(own)[0]
    sys.stdout.write("\nrow                    published  left out [90 %]          no row of the family seen\n")
    for number, row in enumerate(own):
        at = len(others) + number
        sys.stdout.write(
            f"{row.name:22s} {row.top1:9.1f}  {top1[at]:8.2f} [{low[at]:.2f}, {high[at]:.2f}]  {unseen[number]:8.2f}\n"
        )
    for seed in range(asked.restarts):
        again = fit_published(others, own, axes=AXES, seed=seed)
        change = np.abs(again.left_out(range(len(again.rows)))[0] - published.left_out(range(len(published.rows)))[0])
        sys.stdout.write(f"restart {seed}: the largest change of a prediction is {change.max():.4f} points\n")


def own_points() -> list[PublishedPoint]:
    """The published rows of the family that were trained alike."""
    points = read_points(ROOT / "latency_tables" / "iphone13.points.csv")
    alike = (point for point in points if point.in_family and point.resolution == RESOLUTION)
    return [point for point in alike if point.top1 is not None and point.epochs == EPOCHS]


def own_rows(points: list[PublishedPoint]) -> list[Row]:
    traits = rounded_traits(traits_of([point.architecture() for point in points]))
    return [
        Row(name=point.name, family="iformer", recipe="iformer", top1=point.top1 or 0.0, traits=own)
        for point, own in zip(points, traits, strict=True)
    ]


if __name__ == "__main__":
    main()
