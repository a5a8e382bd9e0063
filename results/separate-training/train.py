"""Does the published order come when every network trains by itself? Eight rows, half a million images each.

    python results/separate-training/train.py --data ../shared/data/tiny_imagenet200_64px --out /tmp/separate

The eight rows of the paper's step-by-step design that share the widths 48-96-192-384. Each trains alone, with Muon and
AdamW as short training does it, at rates that rise over 6,400 images and then stay; an average of the weights over
about the last tenth of the steps stands for the decay of a training that ends there, so one training gives a curve. The
networks take turns, one leg of LOOKS after the other, and a leg's end is kept: the script may be killed at any moment
and goes on from the last finished leg. Each leg adds a line to curve.jsonl beside this script: cross-entropy in nats
and top-1 on the held-out images. `--report` prints the curve.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from nas.data import load_images, training_batches
from nas.latency.published import PublishedPoint, read_points
from nas.proxies._torch import held_out
from nas.training.recipe import (
    Optimizer,
    autocast,
    calibrate_norms,
    calibration_batches,
    faster_precision,
    initial_network,
)
from nas.validate.ranking import kendall_tau_b

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOOKS = (25_600, 51_200, 102_400, 204_800, 307_200, 409_600, 512_000)
BATCH, WARMUP_STEPS, AVERAGE = 128, 50, 0.1
ROWS = (
    "ladder_bn",
    "ladder_deeper",
    "ladder_stage_ratio",
    "ladder_conv_only",
    "ladder_sha",
    "ladder_shma",
    "ladder_reduced_width",
    "iformer_m",
)


def main() -> None:  # noqa: D103
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/tiny_imagenet200_64px")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the weights, which are not kept in git")
    parser.add_argument("--report", action="store_true", help="print the curve and train nothing")
    asked = parser.parse_args()
    points = {p.name: p for p in read_points(ROOT / "latency_tables" / "iphone13.points.csv") if p.name in ROWS}
    if asked.report:
        report(points)
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    images = load_images(asked.data, resolution=asked.resolution, seed=asked.seed)
    for look in LOOKS:
        for name in ROWS:
            leg(asked, images, points[name], look)


def leg(asked, images, row: PublishedPoint, look: int) -> None:  # noqa: D103
    sizes = {"resolution": images.resolution, "num_classes": images.num_classes}
    network = initial_network(row.architecture().at(**sizes), seed=asked.seed)
    average = initial_network(row.architecture().at(**sizes), seed=asked.seed)
    optimizer = Optimizer(network.parameters(), matrix_rate=0.02, rate=3e-3, weight_decay=0.05)
    weights, averaged = dict(network.named_parameters()), dict(average.named_parameters())
    checkpoint, done = asked.out / f"{row.name}-{asked.seed}.safetensors", 0
    if checkpoint.exists():
        kept = load_file(checkpoint)
        done = int(kept["done"])
        with torch.no_grad():
            for key in weights:
                weights[key].copy_(kept[f"weights/{key}"])
                averaged[key].copy_(kept[f"average/{key}"])
        optimizer.load({k.removeprefix("optimizer/"): t for k, t in kept.items() if k.startswith("optimizer/")})
    steps = look // BATCH
    if done >= steps:
        return
    precision = faster_precision("cpu")  # bf16 takes several times as long where the processor lacks it
    network.train()
    start = time.monotonic()
    for pictures, labels in training_batches(images, batch_size=BATCH, steps=steps, seed=asked.seed, done=done):
        with autocast(pictures.device, precision):
            logits = network(pictures)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step(min(1.0, (done + 1) / WARMUP_STEPS))
        done += 1
        with torch.no_grad():
            for key, tensor in averaged.items():
                tensor.lerp_(weights[key], 1 / (1 + AVERAGE * done))
        if done % 100 == 0:
            sys.stderr.write(f"{row.name} {done} of {steps}: {loss.item():.3f}, {time.monotonic() - start:.0f} s\n")
    seconds = time.monotonic() - start
    calibrate_norms(average, calibration_batches(images, images=2048, seed=asked.seed), precision=precision)
    seen = held_out(average, images, batch_size=256, precision=precision)
    line = {
        "data": asked.data.rsplit("/", 1)[-1],
        "resolution": asked.resolution,
        "seed": asked.seed,
        "row": row.name,
        "images": done * BATCH,
        "cross_entropy": round(-torch.tensor(seen.likelihood).log().item(), 5),
        "standard_error": round(seen.standard_error / seen.likelihood, 5),
        "top1": round(100 * seen.accuracy, 2),
        "leg_s": round(seconds),
    }
    state = {f"weights/{k}": t.detach().contiguous() for k, t in weights.items()}
    state |= {f"average/{k}": t.detach().contiguous() for k, t in averaged.items()}
    state |= {f"optimizer/{k}": t.contiguous() for k, t in optimizer.state().items()}
    save_file(state | {"done": torch.tensor(done)}, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").rename(checkpoint)
    with (HERE / "curve.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def report(points: dict[str, PublishedPoint]) -> None:
    """Print cross-entropy and tau against the published top-1 at every length that all rows have reached."""
    lines = [json.loads(line) for line in (HERE / "curve.jsonl").read_text().splitlines()]
    groups = sorted({(line["data"], line["resolution"], line["seed"]) for line in lines})
    for data, resolution, seed in groups:
        print(f"{data} at {resolution} px, seed {seed}: held-out cross-entropy in nats (top-1 in %)")  # noqa: T201
        mine = [line for line in lines if (line["data"], line["resolution"], line["seed"]) == (data, resolution, seed)]
        for look in LOOKS:
            at = {line["row"]: line for line in mine if line["images"] == look}
            cells = ", ".join(f"{n} {at[n]['cross_entropy']:.3f} ({at[n]['top1']:.1f})" for n in ROWS if n in at)
            words = f"  {look:,} images: {cells}"
            if len(at) == len(ROWS):
                tau = kendall_tau_b([-at[n]["cross_entropy"] for n in ROWS], [points[n].top1 for n in ROWS])
                by_top1 = kendall_tau_b([at[n]["top1"] for n in ROWS], [points[n].top1 for n in ROWS])
                words += f"; tau {tau:.2f}, by top-1 {by_top1:.2f}"
            print(words)  # noqa: T201


main()
