"""Does a panel of proxies rank the published networks better than its best member?

    python results/panel/panel.py score /tmp/sup/tiny50-0/average-16000.safetensors --name tiny50-16k \
        --data ../shared/data/tiny_imagenet50_64px --resolution 64
    python results/panel/panel.py report --chosen-on tiny50-16k

`score` lets every member score the eleven published rows and 24 random networks of 0.95 to 1.20 ms. Each score is a
line of scores.jsonl beside this script, and a stopped run goes on. The supernet scores with the averaged weights of a
look of results/supernet-study/curve.py. The accuracy table foretells each row without that row.

`report` z-scores every member over the random networks, takes the mean of the members' z-scores with equal weights, and
prints Kendall's tau of every member and every panel of two or three. The panel and the member that are best on the
data of `--chosen-on` are compared on the other data.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file

from nas.accuracy import AccuracyTable
from nas.data import load_images
from nas.latency import LatencyTable
from nas.latency.published import read_points
from nas.networks import SearchSpace
from nas.networks.modules import SharedWeights
from nas.proxies import Inputs
from nas.proxies._torch import held_out
from nas.proxies.zero_cost import Options, build
from nas.search.plan import draw_inside
from nas.training import Supernet
from nas.training.recipe import calibrate_norms, calibration_batches
from nas.validate.ranking import kendall_tau_b, lead_interval
from nas.validate.request import unlike

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BAND, RANDOM = (0.95, 1.20), 24
MEASURES = ("naswot", "synflow", "zico", "gradient-norm")


def main() -> None:  # noqa: D103
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    scoring = commands.add_parser("score")
    scoring.add_argument("weights", type=Path)
    scoring.add_argument("--name", required=True)
    scoring.add_argument("--data", required=True)
    scoring.add_argument("--resolution", type=int, default=64)
    scoring.set_defaults(run=score)
    reporting = commands.add_parser("report")
    reporting.add_argument("--chosen-on", required=True, help="name of the scores that choose panel and member")
    reporting.set_defaults(run=report)
    asked = parser.parse_args()
    asked.run(asked)


def rows():  # noqa: D103
    return [
        p
        for p in read_points(ROOT / "latency_tables" / "iphone13.points.csv")
        if unlike(p) is None and p.attention != "mha"
    ]


def score(asked) -> None:  # noqa: D103
    torch.set_num_threads(1)
    space, (latencies, _), (accuracies, _) = (
        SearchSpace.find("iformer"),
        LatencyTable.find("iphone13"),
        AccuracyTable.find("iformer"),
    )
    named = {row.name: row.architecture() for row in rows()}
    band = draw_inside(space, latencies.latency_ms, BAND, RANDOM, seed=0, draws=200_000)
    named |= {f"random {key}": network for key, network in band.items()}
    images = load_images(asked.data, resolution=asked.resolution, seed=0, train_limit=1024, val_limit=2048)
    calibration = calibration_batches(images, images=1024, seed=0)
    shared = SharedWeights(load_file(asked.weights))
    supernet = Supernet(weights=shared, resolution=asked.resolution, num_classes=images.num_classes, seed=0)
    inputs = Inputs(data=asked.data, seed=0)
    proxies = {m: build(Options(measure=m, resolution=asked.resolution), inputs) for m in MEASURES}
    own = [p for p in accuracies.published.rows if p.family == accuracies.origin.family]
    foretold = accuracies.left_out({row.name: row.name for row in own})
    out = HERE / "scores.jsonl"
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {line["network"] for line in lines if line["data"] == asked.name}
    for name, network in named.items():
        if name in done:
            continue
        built = supernet.network(network)
        calibrate_norms(built, calibration, precision="bf16")
        seen = held_out(built, images, batch_size=128, precision="bf16")
        top1 = foretold[name].top1 if name in foretold else accuracies.predict([network])[0].top1
        values = {"supernet": math.log(seen.likelihood), "accuracy-table": top1}
        values |= {measure: proxy.score(network).value for measure, proxy in proxies.items()}
        with out.open("a") as file:
            file.write(json.dumps({"data": asked.name, "network": name, "scores": values}) + "\n")


def report(asked) -> None:  # noqa: D103
    lines = [json.loads(line) for line in (HERE / "scores.jsonl").read_text().splitlines()]
    sets = list(dict.fromkeys(line["data"] for line in lines))
    members = list(lines[0]["scores"])
    panels = [*combinations(members, 1), *combinations(members, 2), *combinations(members, 3)]
    published = rows()
    near = [row for row in published if BAND[0] <= row.latency_ms <= BAND[1]]
    standard = {}  # of each data set: z-scores of each member by row
    for data in sets:
        mine = {line["network"]: line["scores"] for line in lines if line["data"] == data}
        scales = {
            member: statistics.NormalDist.from_samples(
                [found[member] for name, found in mine.items() if name.startswith("random ")]
            )
            for member in members
        }
        standard[data] = {row.name: {m: scales[m].zscore(mine[row.name][m]) for m in members} for row in published}

    def values(data: str, panel: tuple[str, ...], part) -> list[float]:
        return [statistics.fmean(standard[data][row.name][member] for member in panel) for row in part]

    def tau(data: str, panel: tuple[str, ...], part) -> float:
        return float(kendall_tau_b(values(data, panel, part), [row.top1 for row in part]))

    print("Kendall's tau over eleven rows, and over those of 0.95 to 1.20 ms")  # noqa: T201
    for panel in panels:
        cells = "  ".join(f"{d} {tau(d, panel, published):.2f} {tau(d, panel, near):.2f}" for d in sets)
        print(f"  {'+'.join(panel):45s} {cells}")  # noqa: T201
    chosen = asked.chosen_on
    best = {
        size: max(
            (panel for panel in panels if (len(panel) == 1) == (size == "member")),
            key=lambda panel: tau(chosen, panel, published) + tau(chosen, panel, near),
        )
        for size in ("member", "panel")
    }
    print(f"best by both taus on {chosen}: " + ", ".join(f"{k} {'+'.join(p)}" for k, p in best.items()))  # noqa: T201
    for data in sets:
        for what, part in (("eleven rows", published), ("the band", near)):
            truth = [row.top1 for row in part]
            ends = lead_interval(values(data, best["panel"], part), [values(data, best["member"], part)], truth)
            lead = tau(data, best["panel"], part) - tau(data, best["member"], part)
            span = f" [{ends[0]:+.2f}, {ends[1]:+.2f}]" if ends else ""
            told = " (chosen on these)" if data == chosen else ""
            print(f"  {data}{told}, {what}: the panel's tau less the member's {lead:+.2f}{span}")  # noqa: T201


main()
