"""Figures of short training: what scores come out, what the pictures need, how fast it is.

Run from the repository root, `python tests/benchmarks/bench_short_training.py TOPIC`, with one of the topics below.
Everything runs on one device with all of torch's threads; times on a busy machine mean little.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

from nas.data import ImageSet, load_images, training_batches
from nas.networks import Architecture, AttentionSpec, ConvSpec, SearchSpace, StageSpec
from nas.networks.modules import build_model
from nas.proxies import ScoringFailed, short_training
from nas.proxies.short_training import Recipe, ShortTraining
from nas.training.recipe import Precision, faster_precision, timed

REFERENCES = {name: network for name, network in SearchSpace.find("iformer").references.items() if name[8:] in "tsm"}
M = REFERENCES["iformer_m"]
_STEPS = 1000  # more than any topic takes


def variants() -> dict[str, Architecture]:
    """Iformer-M with something taken away."""
    conv, attention = ConvSpec(kernel=7, expansion=4), M.stages[3].blocks[0]
    assert isinstance(attention, AttentionSpec)
    small_kernels = [[_with(block, kernel=3) for block in stage.blocks] for stage in M.stages]
    convolutions = [
        [conv if isinstance(block, AttentionSpec) else block for block in stage.blocks] for stage in M.stages
    ]
    shallow = [stage.blocks[-1:] for stage in M.stages]
    narrow = [
        StageSpec(channels=width, blocks=stage.blocks) for width, stage in zip((16, 32, 64, 128), M.stages, strict=True)
    ]
    return {
        "M, 3x3 kernels": _of(small_kernels),
        "M, no attention": _of(convolutions),
        "M, one block a stage": _of(shallow),
        "M, a third as wide": M.model_copy(update={"stages": tuple(narrow)}),
    }


def scores(options: argparse.Namespace) -> Table:
    """Score and time of iFormer-T, S, M and of four variants of M, over seeds."""
    table = Table("network", *(f"seed {seed}" for seed in options.seeds), "mean", "std", "images/s", "seconds")
    for name, architecture in {**REFERENCES, **variants()}.items():
        results = [_score(architecture, options, seed) for seed in options.seeds]
        values = [value for value, _, _ in results]
        table.add_row(
            name,
            *(f"{value:.3f}" for value in values),
            f"{statistics.mean(values):.3f}",
            f"{statistics.pstdev(values):.3f}",
            f"{statistics.median(speed for _, speed, _ in results):.0f}",
            f"{statistics.median(seconds for _, _, seconds in results):.1f}",
        )
    return table


def needs(options: argparse.Namespace) -> Table:
    """That the synthetic pictures need both local texture and global arrangement."""
    table = Table("what sees the pictures", *(f"seed {seed}" for seed in options.seeds))
    rows: list[tuple[str, Callable[[Architecture], nn.Module], Callable[[ImageSet], ImageSet]]] = [
        ("iFormer-M", build_model, lambda images: images),
        ("bag of 17-pixel features, averaged", _BagOfFeatures, lambda images: images),
        ("iFormer-M on a blurred view (8 x 8 averages)", build_model, _blurred),
    ]
    for words, build, change in rows:
        with mock.patch.object(short_training, "initial_network", partial(_begin, build)):
            values = [_score(M, options, seed, change=change)[0] for seed in options.seeds]
        table.add_row(words, *(f"{value:.3f}" for value in values))
    return table


def throughput(options: argparse.Namespace) -> Table:
    """Images per second of training beside a plain loop over a DataLoader, all loops of a network in turns."""
    image_set = _images(options, seed=0, images=1024)
    table = Table("loop", *REFERENCES)
    cells: dict[str, list[str]] = {}
    for network in REFERENCES.values():
        loops = _loops(network, image_set, options)
        speeds: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(options.rounds):
            for name, step in loops.items():
                speeds[name].append(_images_per_second(step, options))
        plain = speeds["DataLoader with 2 workers, fp32, AdamW"]
        for name, values in speeds.items():
            ratios = [ours / theirs for ours, theirs in zip(values, plain, strict=True)]
            spread = f"x {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            cells.setdefault(name, []).append(f"{statistics.median(values):.0f}  {spread}")
    for name, row in cells.items():
        table.add_row(name, *row)
    table.caption = (
        f"images/s, and how many times the plain loop's (lowest to highest round); medians of {options.rounds} rounds "
        f"of 3 steps of {Recipe().batch_size} images each"
    )
    return table


def memory(options: argparse.Namespace) -> Table:
    """Peak memory of a process that trains five steps, in all and over one that has only loaded the images."""
    table = Table("loop", *REFERENCES)
    spawn = multiprocessing.get_context("spawn")

    def peak(name: str | None, network: str) -> float:
        # Not multiprocessing.Pool: its workers may have no children, and a DataLoader has.
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            return pool.submit(_peak_mib, name, network, options).result()

    loaded = peak(None, "iformer_t")
    for name in (None, "proxy", "DataLoader with 2 workers, fp32, AdamW"):
        peaks = [peak(name, network) if name else loaded for network in REFERENCES]
        table.add_row(name or "images only", *(f"{value:.0f}  +{value - loaded:.0f}" for value in peaks))
    table.caption = "MiB resident at most, workers of the DataLoader not counted"
    return table


def _peak_mib(loop: str | None, network: str, options: argparse.Namespace) -> float:
    image_set = _images(options, seed=0, images=1024)
    if loop:
        step = _loops(REFERENCES[network], image_set, options)[loop]
        for _ in range(5):
            step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _loops(
    architecture: Architecture, image_set: ImageSet, options: argparse.Namespace
) -> dict[str, Callable[[], object]]:
    """One step of training by each loop, by its name."""
    with mock.patch.object(short_training, "Optimizer", _AllAdam):
        without_muon = _our_step(architecture, image_set, options)
    return {
        "proxy": _our_step(architecture, image_set, options),
        "proxy, fp32": _our_step(architecture, image_set, options, precision="fp32"),
        "proxy, AdamW": without_muon,
        "DataLoader with 2 workers, fp32, AdamW": _plain_step(architecture, image_set, options),
    }


class _AllAdam:
    """AdamW in place of Muon: what the better optimizer costs a step."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, matrix_rate: float, rate: float, weight_decay: float):
        self._adam = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=True)

    def step(self, share: float) -> None:
        self._adam.step()
        self._adam.zero_grad()


def _begin(build: Callable[[Architecture], nn.Module], architecture: Architecture, *, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build(architecture).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _score(
    architecture: Architecture,
    options: argparse.Namespace,
    seed: int,
    *,
    change: Callable[[ImageSet], ImageSet] = lambda images: images,
    **recipe: Any,
) -> tuple[float, float, float]:
    """Accuracy, images a second and seconds; zeros for a network that fails."""
    image_set = change(_images(options, seed=seed, images=options.images))
    precision = options.precision or faster_precision(options.device)
    chosen = Recipe(**{"images": options.images, "precision": precision, **recipe})
    proxy = ShortTraining(image_set=image_set, recipe=chosen, seed=seed, device=options.device)
    try:
        score = proxy.score(architecture)
    except ScoringFailed:
        return 0.0, 0.0, 0.0
    return score.value, float(score.details["images_per_second"]), score.seconds


def _images(options: argparse.Namespace, *, seed: int, images: int) -> ImageSet:
    return load_images(options.data, resolution=options.resolution, seed=seed, train_limit=images, val_limit=2048)


def _our_step(
    architecture: Architecture,
    image_set: ImageSet,
    options: argparse.Namespace,
    *,
    precision: Precision | None = None,
) -> Callable[[], object]:
    recipe = Recipe(precision=precision or options.precision or faster_precision(options.device))
    proxy = ShortTraining(image_set=image_set, recipe=recipe, seed=0, device=options.device)
    network, optimizer = proxy._prepare(architecture)
    batches = training_batches(image_set, batch_size=recipe.batch_size, steps=_STEPS, seed=0)
    return lambda: proxy._step(network, optimizer, *next(batches), share=0.5)


class _Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """One PNG file a picture, decoded, shifted, mirrored and normalised when it is asked for, as in most projects."""

    def __init__(self, image_set: ImageSet) -> None:
        self.files = [_png(image.permute(1, 2, 0).numpy()) for image in image_set.train_images]
        self.labels = image_set.train_labels.tolist()
        self.mean, self.std = torch.tensor(image_set.mean).view(3, 1, 1), torch.tensor(image_set.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(io.BytesIO(self.files[index])).convert("RGB")
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        size = tensor.shape[-1]
        tensor = F.pad(tensor, (4, 4, 4, 4), mode="reflect")
        top, left = torch.randint(0, 9, (2,)).tolist()
        tensor = tensor[:, top : top + size, left : left + size]
        if torch.rand(()) < 0.5:
            tensor = tensor.flip(2)
        return (tensor - self.mean) / self.std, self.labels[index]


def _plain_step(architecture: Architecture, image_set: ImageSet, options: argparse.Namespace) -> Callable[[], object]:
    """The loop of a first tutorial: fp32, contiguous, two workers."""
    network = build_model(architecture.at(resolution=options.resolution, num_classes=image_set.num_classes))
    network.to(options.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(
        _Pictures(image_set),
        batch_size=Recipe().batch_size,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
    )
    batches: Iterator[list[torch.Tensor]] = (batch for _ in range(_STEPS) for batch in loader)

    def step() -> None:
        images, labels = next(batches)
        loss = F.cross_entropy(network(images.to(options.device)), labels.to(options.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def _images_per_second(step: Callable[[], object], options: argparse.Namespace) -> float:
    """Of three steps after one: waiting workers have batches ready at first, which the first step takes."""
    seconds = timed(step, runs=4, device=torch.device(options.device))
    return Recipe().batch_size / statistics.fmean(seconds[1:])


class _BagOfFeatures(nn.Module):
    """Looks at windows of 17 pixels, without padding that would tell where they are, and averages what it sees."""

    def __init__(self, architecture: Architecture, *, width: int = 256, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_conv(3, 64, 5, stride=2),
            *_conv(64, width, 3, stride=2),  # sees 9 pixels
            *_conv(width, width, 3),  # sees 17 pixels
            *(layer for _ in range(depth) for layer in _conv(width, width, 1)),
        )
        self.classifier = nn.Linear(width, architecture.num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(images).mean((2, 3)))


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel, stride, bias=False), nn.BatchNorm2d(outputs), nn.GELU()


def _blurred(image_set: ImageSet) -> ImageSet:
    def blur(images: torch.Tensor) -> torch.Tensor:
        small = torch.cat([F.avg_pool2d(part.float(), 8) for part in images.split(512)])
        return small.round().to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)

    return replace(image_set, train_images=blur(image_set.train_images), val_images=blur(image_set.val_images))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _with(block: Any, **changes: Any) -> Any:
    return block.model_copy(update=changes) if isinstance(block, ConvSpec) else block


def _of(blocks: list[Any]) -> Architecture:
    stages = tuple(
        StageSpec(channels=stage.channels, blocks=tuple(kept)) for stage, kept in zip(M.stages, blocks, strict=True)
    )
    return M.model_copy(update={"stages": stages})


TOPICS = {topic.__name__: topic for topic in (scores, needs, throughput, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "topics:\n" + "\n".join(f"  {name:12}{topic.__doc__}" for name, topic in TOPICS.items())
    parser.add_argument("topic", choices=TOPICS)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--images", type=int, default=Recipe().images)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    start = time.perf_counter()
    table = TOPICS[options.topic](options)
    table.title = (
        f"{options.topic}: {options.data} at {options.resolution} px, {options.images} images, {options.device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {time.perf_counter() - start:.0f} s"
    )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
