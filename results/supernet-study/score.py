"""Scores of random networks by one supernet, for the trained part of an accuracy table.

    python results/supernet-study/score.py /tmp/sup/tiny50-0/average-16000.safetensors \
        --data ../shared/data/tiny_imagenet50_64px --resolution 64 --seed 0 --name tiny50-0-16k

Three kinds of networks under the iPhone's table, the same ones for every supernet: spread evenly over latencies from
the cheapest to 1.7 ms (at random within each), drawn from the space as they come, and the best of a survey by accuracy
table. Each score is a line of scores.NAME.jsonl beside this script: network id, cross-entropy in nats on 1,024 held-out
images, with batch norms measured on 512 training images. Goes on where it was stopped. networks.jsonl has the networks.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from nas.accuracy import AccuracyTable
from nas.data import load_images
from nas.latency import LatencyTable
from nas.latency.published import read_points
from nas.networks import Architecture, SearchSpace, random_choice
from nas.networks.modules import SharedWeights
from nas.proxies._torch import held_out
from nas.search.evolution import evolve
from nas.training import Supernet
from nas.training.recipe import calibrate_norms, calibration_batches
from nas.validate.request import unlike

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUDGET_MS, SPREAD, PLAIN, BEST = 1.7, 2500, 150, 120


def main() -> None:  # noqa: D103
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    networks = drawn()
    images = load_images(asked.data, resolution=asked.resolution, seed=asked.seed, train_limit=1024, val_limit=1024)
    calibration = calibration_batches(images, images=512, seed=asked.seed)
    supernet = Supernet(
        weights=SharedWeights(load_file(asked.weights)),
        resolution=asked.resolution,
        num_classes=images.num_classes,
        seed=asked.seed,
    )
    out = HERE / f"scores.{asked.name}.jsonl"
    done = {json.loads(line)["id"] for line in out.read_text().splitlines()} if out.exists() else set()
    for network in networks:
        if network.id in done:
            continue
        start = time.monotonic()
        built = supernet.network(network)
        calibrate_norms(built, calibration, precision="bf16")
        seen = held_out(built, images, batch_size=128, precision="bf16")
        line = {"id": network.id, "cross_entropy": round(-math.log(seen.likelihood), 5)}
        with out.open("a") as file:
            file.write(json.dumps(line | {"seconds": round(time.monotonic() - start, 1)}) + "\n")


def drawn() -> list[Architecture]:
    """The networks, in an order in which any beginning is a fair sample."""
    path = HERE / "networks.jsonl"  # begins with the published networks of the family
    if path.exists():
        return [Architecture.from_json(line) for line in path.read_text().splitlines()]
    space, (table, _), (accuracies, _) = (
        SearchSpace.find("iformer"),
        LatencyTable.find("iphone13"),
        AccuracyTable.find("iformer"),
    )
    cheapest = space.extreme(table.layer_ms)
    noise, choose = random.Random(0), random_choice(seed=1)
    begin = [
        cheapest,
        *(n for name, n in space.references.items() if name in ("iformer_t", "iformer_s", "iformer_m", "iformer_l")),
    ]
    spread = evolve(
        space,
        table.latency_ms,
        lambda found: [noise.random() for _ in found],
        budget_ms=BUDGET_MS,
        networks=SPREAD,
        seed=0,
        begin_with=[cheapest],
    )
    best = evolve(
        space,
        table.latency_ms,
        lambda found: [one.low for one in accuracies.predict(found)],
        budget_ms=BUDGET_MS,
        networks=10_000,
        seed=0,
        begin_with=begin,
    )
    best = random.Random(0).sample(best, BEST)
    plain = (space.sample(choose) for _ in range(PLAIN * 3))
    inside = [network for network in plain if table.latency_ms(network) <= BUDGET_MS][:PLAIN]
    found = {n.id: n for n in [*(one.network for one in spread), *(one.network for one in best), *inside]}
    networks = list(found.values())
    random.Random(1).shuffle(networks)
    rows = [
        p.architecture()
        for p in read_points(ROOT / "latency_tables" / "iphone13.points.csv")
        if unlike(p) is None and p.attention != "mha"
    ]
    networks = list({network.id: network for network in [*rows, *networks]}.values())
    path.write_text("".join(json.dumps(network.to_dict()) + "\n" for network in networks))
    return networks


main()
