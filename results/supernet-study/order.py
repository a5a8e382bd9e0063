"""When does the order of random networks by a supernet stop changing? A rule for its length that sees no published row.

    python results/supernet-study/order.py /tmp/curve-tiny50-0 --data ../shared/data/tiny_imagenet50_64px
    python results/supernet-study/order.py --report

curve.py keeps averaged weights at each of its looks. This script scores 24 random networks of 0.95 to 1.20 ms and 24
of any latency up to 1.7 ms with the weights of every look; each score is a line of order.jsonl beside this script. The
report prints, for each look, Kendall's tau of these scores with those of the look before, beside the tau of the
published rows (curve.jsonl), which the rule must not see.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from nas.data import load_images
from nas.latency import LatencyTable
from nas.networks import SearchSpace
from nas.networks.modules import SharedWeights
from nas.proxies._torch import held_out
from nas.search.plan import draw_inside
from nas.training import Supernet
from nas.training.recipe import calibrate_norms, calibration_batches
from nas.validate.ranking import kendall_tau_b

HERE = Path(__file__).parent
BANDS = {"band": (0.95, 1.20), "any": (0.0, 1.70)}
NETWORKS = 24


def main() -> None:  # noqa: D103
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="--out of curve.py")
    parser.add_argument("--data")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true")
    asked = parser.parse_args()
    if asked.report:
        report()
    else:
        score(asked)


def score(asked) -> None:  # noqa: D103
    torch.set_num_threads(1)
    space, (table, _) = SearchSpace.find("iformer"), LatencyTable.find("iphone13")
    named = {
        f"{band} {key}": network
        for band, ends in BANDS.items()
        for key, network in draw_inside(space, table.latency_ms, ends, NETWORKS, seed=0, draws=200_000).items()
    }
    images = load_images(asked.data, resolution=asked.resolution, seed=asked.seed, train_limit=1024, val_limit=1024)
    calibration = calibration_batches(images, images=512, seed=asked.seed)
    data = asked.data.rsplit("/", 1)[-1]
    out = HERE / "order.jsonl"
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(line["images"], line["network"]) for line in lines if (line["data"], line["seed"]) == (data, asked.seed)}
    looks = {int(path.stem.removeprefix("average-")): path for path in asked.folder.glob("average-*.safetensors")}
    for seen, path in sorted(looks.items()):
        supernet = Supernet(
            weights=SharedWeights(load_file(path)),
            resolution=asked.resolution,
            num_classes=images.num_classes,
            seed=asked.seed,
        )
        for name, network in named.items():
            if (seen, name) in done:
                continue
            built = supernet.network(network)
            calibrate_norms(built, calibration, precision="bf16")
            entropy = -math.log(held_out(built, images, batch_size=128, precision="bf16").likelihood)
            line = {
                "data": data,
                "seed": asked.seed,
                "images": seen,
                "network": name,
                "cross_entropy": round(entropy, 5),
            }
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")


def report() -> None:  # noqa: D103
    lines = [json.loads(line) for line in (HERE / "order.jsonl").read_text().splitlines()]
    curve = [json.loads(line) for line in (HERE / "curve.jsonl").read_text().splitlines()]
    for data, seed in sorted({(line["data"], line["seed"]) for line in lines}):
        mine = [line for line in lines if (line["data"], line["seed"]) == (data, seed)]
        before: dict[str, float] = {}
        print(f"{data}, seed {seed}: tau with the look before (band, any); of the rows (band, all)")  # noqa: T201
        for seen in sorted({line["images"] for line in mine}):
            now = {line["network"]: line["cross_entropy"] for line in mine if line["images"] == seen}
            words = []
            for band in BANDS:
                names = [name for name in now if name.startswith(band) and name in before]
                if len(names) > 2:
                    words.append(f"{kendall_tau_b([before[n] for n in names], [now[n] for n in names]):.2f}")
            rows = [one for one in curve if (one["data"], one["seed"], one["images"]) == (data, seed, seen)]
            told = "".join(f"; rows {one['tau_band']:.2f} {one['tau']:.2f}, share {one['share']:.2f}" for one in rows)
            print(f"  {seen:6d} images: {' '.join(words) or '-'}{told}")  # noqa: T201
            before = now


main()
