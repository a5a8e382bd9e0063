"""How long may a supernet train before it loses the published order? One training, looked at on its way.

    python results/supernet-study/curve.py --data ../shared/data/tiny_imagenet50_64px --resolution 64 --seed 0 \
        --out /tmp/curve-tiny50-0
    python results/supernet-study/curve.py --report

The learning rates rise over the first 3,200 images and then stay. Beside the weights runs their average over about the
last tenth of the steps, which stands for the decay of a training that ends here. At each length of LOOKS the published
networks are scored with the averaged weights, as `--proxy supernet` does it, and a line goes to curve.jsonl beside this
script: cross-entropies in nats, and that of the largest network. A training that was stopped goes on from its last
look.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nas.data import load_images, training_batches
from nas.latency.published import read_points
from nas.networks import SearchSpace
from nas.networks.modules import SharedWeights
from nas.proxies._torch import held_out
from nas.training import Supernet, Teacher
from nas.training.recipe import calibrate_norms, calibration_batches
from nas.training.step import Sandwich
from nas.training.supernet import Origin, SupernetRecipe
from nas.validate.ranking import kendall_tau_b
from nas.validate.request import unlike

ROOT = Path(__file__).parents[2]
LOOKS = (4_000, 8_000, 12_000, 16_000, 24_000, 32_000, 48_000, 64_000, 96_000, 128_000)
BAND = (0.95, 1.20)
LABEL_SMOOTHING = 0.1


def main() -> None:  # noqa: D103
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the weights, which are not kept in git")
    parser.add_argument("--teacher", help="name of a teacher, whose soft labels replace those of the data")
    parser.add_argument("--report", action="store_true", help="print the table of README.md, and train nothing")
    parser.add_argument("--images", type=int, default=LOOKS[-1])
    parser.add_argument("--average", type=float, default=0.1, help="share of the steps that the average goes back")
    asked = parser.parse_args()
    if asked.report:
        report()
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    images = load_images(asked.data, resolution=asked.resolution, seed=asked.seed)
    scored = load_images(asked.data, resolution=asked.resolution, seed=asked.seed, train_limit=1024, val_limit=2048)
    if asked.teacher:
        teacher = Teacher(asked.teacher)
        images, scored = teacher.labelled(images), teacher.labelled(scored)
    space = SearchSpace.find("iformer")
    recipe = SupernetRecipe(
        images=LOOKS[-1], average=0.0, until=None, label_smoothing=0.0 if asked.teacher else LABEL_SMOOTHING
    )
    origin = Origin(
        space=space.model_dump_json(),
        resolution=images.resolution,
        num_classes=images.num_classes,
        data=images.description,
        teacher=images.teacher,
        seed=asked.seed,
        workers=1,
        init=None,
        recipe=recipe,
        precision="bf16",
    )
    training = Sandwich(space, origin, torch.device("cpu"), None, None)
    average = {name: tensor.detach().clone() for name, tensor in training.weights.tensors.items()}
    checkpoint = asked.out / "training.safetensors"
    if checkpoint.exists():
        kept = load_file(checkpoint)
        training.done = int(kept.pop("done"))
        with torch.no_grad():
            for name, tensor in training.weights.tensors.items():
                tensor.copy_(kept[f"weights/{name}"])
                average[name].copy_(kept[f"average/{name}"])
        own = {n.removeprefix("optimizer/"): t for n, t in kept.items() if n.startswith("optimizer/")}
        training._optimizer.load(own)
    rows = [
        p
        for p in read_points(ROOT / "latency_tables" / "iphone13.points.csv")
        if unlike(p) is None and p.attention != "mha"
    ]
    steps = math.ceil(asked.images / recipe.batch_size)
    looks = {math.ceil(n / recipe.batch_size) for n in LOOKS}
    began, trained_s = time.monotonic(), 0.0
    for pictures, labels in training_batches(
        images, batch_size=recipe.batch_size, steps=math.ceil(LOOKS[-1] / 64), seed=asked.seed, done=training.done
    ):
        if training.done >= steps:
            break
        start = time.monotonic()
        losses = training.losses(pictures, labels)
        training.update(min(1.0, (training.done + 1) / 50))
        step = training.done
        keep = 1 - 1 / (1 + asked.average * step)
        with torch.no_grad():
            for name, tensor in training.weights.tensors.items():
                average[name].lerp_(tensor, 1 - keep)
        trained_s += time.monotonic() - start
        if step % 25 == 0:
            sys.stderr.write(f"{step} {[round(x, 3) for x in losses]} {trained_s:.0f} s\n")
        if step in looks:
            look(asked, training, average, images, scored, rows, trained_s)
            state = {f"weights/{n}": t.detach().contiguous() for n, t in training.weights.tensors.items()}
            state |= {f"average/{n}": t.contiguous() for n, t in average.items()}
            state |= {f"optimizer/{n}": t.contiguous() for n, t in training._optimizer.state().items()}
            save_file(state | {"done": torch.tensor(step)}, asked.out / "training.tmp")
            (asked.out / "training.tmp").rename(checkpoint)
            save_file({n: t.contiguous() for n, t in average.items()}, asked.out / f"average-{step * 64}.safetensors")
    sys.stderr.write(f"ended after {time.monotonic() - began:.0f} s\n")


def look(asked, training, average, images, scored, rows, trained_s) -> None:  # noqa: D103
    calibration = calibration_batches(scored, images=1024, seed=asked.seed)
    supernet = Supernet(
        weights=SharedWeights(average), resolution=images.resolution, num_classes=images.num_classes, seed=asked.seed
    )
    entropies = {}
    named = {row.name: row.architecture() for row in rows} | {"largest": training._ends[0]}
    for name, architecture in named.items():
        network = supernet.network(architecture)
        calibrate_norms(network, calibration, precision="bf16")
        entropies[name] = round(-math.log(held_out(network, scored, batch_size=128, precision="bf16").likelihood), 5)
    band = [row for row in rows if BAND[0] <= row.latency_ms <= BAND[1]]
    tau = [float(kendall_tau_b([-entropies[r.name] for r in part], [r.top1 for r in part])) for part in (rows, band)]
    line = {
        "data": asked.data.rsplit("/", 1)[-1],
        "resolution": asked.resolution,
        "seed": asked.seed,
        "classes": images.num_classes,
        "images": training.done * 64,
        "average": asked.average,
        **({"teacher": asked.teacher} if asked.teacher else {}),
        "tau": round(tau[0], 3),
        "tau_band": round(tau[1], 3),
        "share": round(entropies["largest"] / math.log(images.num_classes), 4),
        "train_s": round(trained_s),
        "cross_entropy": entropies,
    }
    with (Path(__file__).parent / "curve.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    sys.stderr.write(f"{ {k: v for k, v in line.items() if k != 'cross_entropy'} }\n")


def report() -> None:
    """Print the table of README.md from curve.jsonl."""
    lines = [json.loads(line) for line in (Path(__file__).parent / "curve.jsonl").read_text().splitlines()]
    print("| data | px | seed | images | nats learnt | tau, eleven rows | tau, 0.95 to 1.20 ms |")  # noqa: T201
    print("|---|---|---|---|---|---|---|")  # noqa: T201
    for one in sorted(lines, key=lambda one: (one["data"], one.get("teacher", ""), one["seed"], one["images"])):
        # A teacher's labels have an entropy of their own; what is learnt of them is not comparable.
        nats = "" if one.get("teacher") else f"{(1 - one['share']) * math.log(one['classes']):.2f}"
        data = one["data"] + (f", labels by {one['teacher']}" if one.get("teacher") else "")
        cells = (data, one["resolution"], one["seed"], f"{one['images']:,}", nats)
        print("| " + " | ".join(map(str, cells)) + f" | {one['tau']:.2f} | {one['tau_band']:.2f} |")  # noqa: T201


main()
