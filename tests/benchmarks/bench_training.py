"""Images a second of `nas train` and of a loop of timm's own parts, on the same network, pictures and machine.

    python tests/benchmarks/bench_training.py [--resolution 224] [--rounds 3] [--steps 4]

timm's training script is not in its package, so its loop is put together from the parts that it uses: create_dataset,
create_loader, Mixup, create_optimizer_v2, its scheduler and timm's own iFormer-T. Both train in the same process, one
after the other in every round, with the same recipe, and decode in that process. The ratio of a round compares what
ran within a minute or two; its median is what counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from nas.data.stream import open_pictures
from nas.networks import find_network
from nas.networks.modules import build_model
from nas.networks.modules.outside import timm_part
from nas.training.classify import Classification
from nas.training.full_recipe import TrainingRecipe
from nas.training.loop import _Run
from nas.training.recipe import faster_precision

CPU = torch.device("cpu")


def main() -> None:
    """Print a line for each round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw_photos(Path(folder), count=asked.batch_size * asked.steps)
        rates: dict[str, list[float]] = {"nas": [], "timm": []}
        runs = {"nas": of_nas(Path(folder), asked), "timm": of_timm(Path(folder), asked)}
        for run in runs.values():
            run()  # a warm-up
        for number in range(asked.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                rates[name].append(asked.batch_size * asked.steps / (time.perf_counter() - start))
            print(f"round {number + 1}: " + ", ".join(f"{name} {found[-1]:.2f}/s" for name, found in rates.items()))  # noqa: T201
    ratios = [ours / theirs for ours, theirs in zip(rates["nas"], rates["timm"], strict=True)]
    where = f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, timm {timm_part().__version__}"
    ours, theirs, ratio = (statistics.median(found) for found in (rates["nas"], rates["timm"], ratios))
    print(  # noqa: T201
        f"iFormer-T at {asked.resolution} px, {asked.batch_size} images a step, {where}: nas {ours:.2f} images/s, timm "
        f"{theirs:.2f}; ratio {ratio:.2f} (median of {asked.rounds}; {min(ratios):.2f} to {max(ratios):.2f})"
    )


def of_nas(folder: Path, asked: argparse.Namespace) -> Callable[[], None]:
    """An epoch of this project's loop."""
    _, architecture = find_network("iformer_t")
    pictures = open_pictures(str(folder), seed=0)
    recipe = TrainingRecipe.fitted(1_000_000, epochs=300, batch_size=asked.batch_size)
    network = build_model(architecture.at(resolution=asked.resolution, num_classes=2))
    task = Classification(
        network.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        pictures,
        recipe,
        seed=0,
        device=CPU,
    )
    run = _Run(task, recipe.optimisation, seed=0, device=CPU, precision=faster_precision("cpu"), is_compiled=False)

    def epoch() -> None:
        for batch in task.batches(0, done=0):
            run.step(batch)

    return epoch


def of_timm(folder: Path, asked: argparse.Namespace) -> Callable[[], None]:
    """An epoch of timm's parts, as its script joins them."""
    timm, data, schedulers = timm_part(), timm_part("timm.data"), timm_part("timm.scheduler")
    optimizers = timm_part("timm.optim")
    network = timm.create_model("iformer_t", num_classes=2).to(memory_format=torch.channels_last)
    loader = data.create_loader(
        data.create_dataset("", root=str(folder / "train"), split="train", is_training=True),
        input_size=(3, asked.resolution, asked.resolution),
        batch_size=asked.batch_size,
        is_training=True,
        use_prefetcher=False,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        color_jitter=None,
        num_workers=0,
        device=CPU,
    )
    mix = data.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=2)
    optimizer = optimizers.create_optimizer_v2(network, "adamw", lr=1e-3, weight_decay=0.05)
    schedule = schedulers.CosineLRScheduler(optimizer, t_initial=300, warmup_t=20)
    network.train()

    def epoch() -> None:
        for step, (pictures, labels) in enumerate(loader):
            images, targets = mix(pictures.to(memory_format=torch.channels_last), labels)
            loss = F.cross_entropy(network(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step_update(step)

    return epoch


def draw_photos(folder: Path, *, count: int) -> None:
    """JPEG pictures of 500 by 375 pixels, as ImageNet's are in the mean."""
    draw = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 2)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for index in range(number // 2):
                small = Image.fromarray(draw.integers(0, 255, (12, 16, 3)).astype(np.uint8))
                small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / split / name / f"{index}.jpg")


if __name__ == "__main__":
    sys.exit(main())
