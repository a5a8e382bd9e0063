"""Make the accuracy table of iFormer, and print how far it can be trusted.

    python tests/benchmarks/fit_accuracy.py              writes accuracy_tables/iformer.imagenet.json
    python tests/benchmarks/fit_accuracy.py --restarts 5 --out /tmp/again.json

The published part learns its kernel from the networks of other families (imagenet.networks.csv and
imagenet.results.csv there); then come the rows of the family itself (latency_tables/iphone13.points.csv: batch norm,
224 px, 300 epochs, no distillation). The trained part distils the scores of the supernets of results/supernet-study.
`--restarts` learns the first kernel again from random starts, and prints the largest change of any prediction.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nas.accuracy.fit import WEIGHTS, errors_of, fit_published, fit_trained, weigh
from nas.accuracy.published import Row
from nas.accuracy.results import read_rows, rounded_traits
from nas.accuracy.structure import ranges
from nas.accuracy.table import AccuracyTable, Origin
from nas.accuracy.trained import SupernetUsed, Trained
from nas.accuracy.traits import traits_of
from nas.latency import LatencyTable
from nas.latency.published import PublishedPoint, read_points
from nas.networks import Architecture

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "accuracy_tables"
STUDY = ROOT / "results" / "supernet-study"
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
    known = {point.name: (point.architecture().id, point.top1 or 0.0) for point in points}
    trained = trained_part(known)
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
        trained=trained,
    )
    table = weigh(table, AXES)
    table.save(asked.out)
    for line in table.describe():
        sys.stdout.write(f"{line}\n")
    alone, together = table.left_out({row.name: row.name for row in own}), table.left_out(AXES)
    unseen = published.with_rows(others).foretold(own)[0]
    header = ("row", "published", "left out [90 %]", "published part", "trained part", "axis left out", "family unseen")
    sys.stdout.write("\n" + "  ".join(f"{word:>22s}" for word in header) + "\n")
    for number, row in enumerate(own):
        one = alone[row.name]
        cells = (
            row.name,
            f"{row.top1:.1f}",
            f"{one.top1:.2f} [{one.low:.1f}, {one.high:.1f}]",
            *(f"{one.parts[name].top1:.2f}" if name in one.parts else "-" for name in ("published", "trained")),
            f"{together[row.name].top1:.2f}",
            f"{unseen[number]:.2f}",
        )
        sys.stdout.write("  ".join(f"{cell:>22s}" for cell in cells) + "\n")
    sys.stdout.write("\nweight of the trained part, and errors with each axis left out:\n")
    for weight in WEIGHTS:
        errors = errors_of(table.model_copy(update={"weight": weight}), AXES)
        sys.stdout.write(f"  {weight:4g}  {errors.describe()}\n")
    for seed in range(asked.restarts):
        again = fit_published(others, own, axes=AXES, seed=seed)
        change = np.abs(again.left_out(range(len(again.rows)))[0] - published.left_out(range(len(published.rows)))[0])
        sys.stdout.write(f"restart {seed}: the largest change of a prediction is {change.max():.4f} points\n")


def trained_part(family: Mapping[str, tuple[str, float]]) -> Trained | None:
    """What the supernets of results/supernet-study say; None if it has no scores."""
    described = [json.loads(line) for line in (STUDY / "supernets.jsonl").read_text().splitlines()]
    scores = {}
    for one in described:
        lines = (STUDY / f"scores.{one['name']}.jsonl").read_text().splitlines()
        own = {line["id"]: -line["cross_entropy"] for line in map(json.loads, lines)}
        scores[SupernetUsed(**one, networks=len(own))] = own
    if not scores:
        return None
    table, _ = LatencyTable.find("iphone13")
    networks = [Architecture.from_json(line) for line in (STUDY / "networks.jsonl").read_text().splitlines()]
    latencies_ms = [table.latency_ms(network) for network in networks]
    return fit_trained(networks, scores, latencies_ms=latencies_ms, family=family)


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
