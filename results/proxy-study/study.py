"""The study of short-training recipes: what was tried, so that it can be tried again.

    python results/proxy-study/study.py run trials.jsonl scores.jsonl     train what the first file asks for
    python results/proxy-study/study.py table scores.jsonl                the table of README.md

A line of trials.jsonl is one training: the fields of `Trial` that differ from their defaults. A line of scores.jsonl is
a trial with what came of it. A finished trial is not trained again; several processes may work off one file, each in
one thread (two of them together are a fifth faster than one in two threads). Data are the images of Tiny ImageNet (50
classes, 64 px), CIFAR-10 or ImageNette (224 px) that `--data` of nas takes.

What won is in nas/training/recipe.py and nas/proxies/short_training.py; everything else lives here only.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor, nn

from nas.data import ImageSet, load_images, training_batches, validation_batches
from nas.latency.published import read_points
from nas.networks import Architecture
from nas.networks.modules import Network, residual_norms
from nas.training import load_supernet
from nas.training import recipe as training
from nas.training.recipe import Optimizer, autocast, calibrate_norms, faster_precision, initial_network, schedule
from nas.validate import unlike

POINTS = Path("latency_tables/iphone13.points.csv")
NETWORKS = {point.name: point for point in read_points(POINTS) if unlike(point) is None}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of one published network.

    Attributes:
        network: its name in iphone13.points.csv.
        seed: of weights, order of images and augmentation; the split is always that of seed 0.
        images: seen in training, with repetition.
        batch_size: images a step.
        optimizer: `muon` as in nas/training/recipe.py, or `adamw` for all parameters.
        matrix_rate: learning rate of Muon.
        rate: learning rate of AdamW.
        shape: of the schedule after the warm-up: `line` or `cosine`.
        warmup: part of the steps.
        branches: gain of the last norm of every residual branch at the start.
        label_smoothing: share of the target spread over all classes.
        stem_stride: 4, or 2 for maps of twice the size: the first convolution is then not strided.
        width: channels of all stages, relative to the published ones.
        tied: keys start equal to queries, so that each token attends to itself at first.
        averaged: part of the steps over which weights are averaged for a second score; 0 for none.
        augmentation: `shift` as `nas.data.training_batches` has it, `none`, or `crop`: half to all of the area as well.
        growing: the first half of the steps see images of half the size.
        teacher: a supernet whose iFormer-L, with its weights there, gives half of the loss; none if empty.
        matrix_side: kernels whose smaller side as a matrix is above this are left to AdamW.
        data: `tiny`, `cifar` or `nette`.
        resolution: of the images in pixels.
    """

    network: str
    seed: int = 0
    images: int = 8000
    batch_size: int = 64
    optimizer: str = "muon"
    matrix_rate: float = 0.02
    rate: float = 3e-3
    shape: str = "line"
    warmup: float = 0.2
    branches: float = 0.0
    label_smoothing: float = 0.1
    stem_stride: int = 4
    width: float = 1.0
    tied: bool = False
    averaged: float = 0.0
    augmentation: str = "shift"
    growing: bool = False
    teacher: str = ""
    matrix_side: int = 1_000_000
    data: str = "tiny"
    resolution: int = 64

    @property
    def key(self) -> str:
        """Equal for equal trials."""
        return json.dumps(asdict(self), sort_keys=True)


def train(trial: Trial, images: ImageSet) -> dict[str, Any]:
    """Train, score, and say what it took."""
    network, optimizer = _prepare(trial, images)
    steps = math.ceil(trial.images / trial.batch_size)
    precision = faster_precision("cpu")
    average: dict[str, Tensor] = {}
    rungs = []
    started = time.process_time()
    teacher = _teacher(trial, images)
    for step, (pictures, labels) in enumerate(_batches(trial, images, steps), start=1):
        if trial.growing and step <= steps // 2:
            pictures = F.avg_pool2d(pictures, 2)
        with autocast(pictures.device, precision):
            logits = network(pictures)
            told = teacher(pictures) if teacher else None
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=trial.label_smoothing)
        if told is not None:
            loss = (loss + F.cross_entropy(logits.float(), told.float().softmax(1))) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(_share(trial, step / (steps + 1)))
        if trial.averaged:
            _average(average, network, keep=min(1 - 1 / (trial.averaged * steps), step / (step + 10)))
        if step in (steps // 4, steps // 2, 3 * steps // 4):
            rungs.append(_score(network, images, precision)["accuracy"])
    seconds = time.process_time() - started
    result = {**_score(network, images, precision), "rungs": rungs, "cpu_seconds": round(seconds, 1)}
    if average:
        network.load_state_dict(network.state_dict() | average)
        result["averaged_accuracy"] = _score(network, images, precision)["accuracy"]
    return result


def _batches(trial: Trial, images: ImageSet, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    if trial.augmentation == "none":
        random = torch.Generator().manual_seed(trial.seed)
        passes = math.ceil(steps * trial.batch_size / len(images.train_labels))
        order = torch.cat([torch.randperm(len(images.train_labels), generator=random) for _ in range(passes)])
        order = order[: steps * trial.batch_size]
        plain = replace(images, val_images=images.train_images[order], val_labels=images.train_labels[order])
        yield from validation_batches(plain, batch_size=trial.batch_size)
        return
    random = torch.Generator().manual_seed(trial.seed + 1)
    for pictures, labels in training_batches(images, batch_size=trial.batch_size, steps=steps, seed=trial.seed):
        if trial.augmentation == "crop":
            count = len(pictures)
            scale = (0.5 + 0.5 * torch.rand(count, generator=random)).sqrt()  # of the area, so its root of the side
            shift = (1 - scale)[:, None] * (2 * torch.rand(count, 2, generator=random) - 1)
            view = torch.zeros(count, 2, 3)
            view[:, 0, 0] = view[:, 1, 1] = scale
            view[:, :, 2] = shift
            grid = F.affine_grid(view, list(pictures.shape), align_corners=False)
            cropped = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
            yield cropped.contiguous(memory_format=torch.channels_last), labels
        else:
            yield pictures, labels


def _teacher(trial: Trial, images: ImageSet) -> Any:
    if not trial.teacher:
        return None
    network = load_supernet(Path(trial.teacher)).network(NETWORKS["iformer_l"].architecture())
    seen = [pictures for pictures, _ in training_batches(images, batch_size=128, steps=8, seed=0)]
    calibrate_norms(network, seen, precision=faster_precision("cpu"))
    return torch.inference_mode()(network)


def _prepare(trial: Trial, images: ImageSet) -> tuple[Network, Any]:
    architecture = _scaled(NETWORKS[trial.network].architecture(), trial.width)
    network = initial_network(
        architecture.at(resolution=trial.resolution, num_classes=images.num_classes), seed=trial.seed
    )
    for norm in residual_norms(network):
        nn.init.constant_(norm.weight, trial.branches)
    if trial.stem_stride == 2:
        network.layers[0].first.conv.stride = (1, 1)  # type: ignore[union-attr]
    if trial.tied:
        for module in network.modules():
            if hasattr(module, "query") and hasattr(module, "key"):
                module.key.conv.weight.data.copy_(module.query.conv.weight.data)  # type: ignore[union-attr]
    if trial.optimizer == "adamw":
        return network, _AdamW(network, trial)
    with mock.patch.object(training, "_is_matrix", partial(_is_small_matrix, training._is_matrix, trial.matrix_side)):
        optimizer = Optimizer(network.parameters(), matrix_rate=trial.matrix_rate, rate=trial.rate, weight_decay=0.05)
    return network, optimizer


def _is_small_matrix(is_matrix: Callable[[Tensor], bool], limit: int, kernel: Tensor) -> bool:
    return is_matrix(kernel) and min(kernel.shape[0], kernel[0].numel()) <= limit


class _AdamW:
    """AdamW for every parameter, with the interface of `Optimizer`."""

    def __init__(self, network: Network, trial: Trial) -> None:
        self._rate = trial.rate
        decayed = [weight for weight in network.parameters() if weight.squeeze().ndim > 1]
        others = [weight for weight in network.parameters() if weight.squeeze().ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW(groups, fused=True)

    def step(self, share: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = self._rate * share
        self._adam.step()
        self._adam.zero_grad()


def _scaled(architecture: Architecture, width: float) -> Architecture:
    stages = tuple(stage.model_copy(update={"channels": int(stage.channels * width)}) for stage in architecture.stages)
    return architecture.model_copy(update={"stages": stages})


def _share(trial: Trial, done: float) -> float:
    line = schedule(done, warmup=trial.warmup)
    falling = done >= trial.warmup and trial.shape == "cosine"
    return 0.5 * (1 - math.cos(math.pi * line)) if falling else line


@torch.no_grad()
def _average(average: dict[str, Tensor], network: Network, *, keep: float) -> None:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            average[name] = average[name].lerp(tensor, 1 - keep) if name in average else tensor.clone()


@torch.inference_mode()
def _score(network: Network, images: ImageSet, precision: Any) -> dict[str, float]:
    """Accuracy, cross-entropy, and the mean probability given to the right class."""
    network.eval()
    right = entropy = probability = 0.0
    for pictures, labels in validation_batches(images, batch_size=128):
        with autocast(pictures.device, precision):
            logits = network(pictures).float()
        right += (logits.argmax(1) == labels).sum().item()
        entropy += F.cross_entropy(logits, labels, reduction="sum").item()
        probability += logits.softmax(1).gather(1, labels[:, None]).sum().item()
    network.train()
    count = len(images.val_labels)
    return {"accuracy": right / count, "cross_entropy": entropy / count, "probability": probability / count}


def run(trials: Path, scores: Path, sources: dict[str, str]) -> None:
    """Work off a file of trials until all are finished or taken by another process."""
    torch.set_num_threads(1)
    loaded: dict[tuple[str, int], ImageSet] = {}
    for trial in _trials(trials):
        with _taken(scores, trial) as free:
            if not free:
                continue
            source = (trial.data, trial.resolution)
            if source not in loaded:
                loaded[source] = load_images(sources[trial.data], resolution=trial.resolution, seed=0)
            line = {**asdict(trial), **train(trial, loaded[source])}
            with scores.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _trials(path: Path) -> Iterator[Trial]:
    for line in path.read_text().splitlines():
        if line.strip():
            yield Trial(**json.loads(line))


def _finished(scores: Path) -> dict[str, dict[str, Any]]:
    """What is finished, by the key of its trial."""
    lines = [json.loads(line) for line in scores.read_text().splitlines()] if scores.exists() else []
    return {_trial(line).key: line for line in lines}


def _trial(line: dict[str, Any]) -> Trial:
    """The trial of a line of scores; a field that is younger than the line has its default."""
    return Trial(**{name: line[name] for name in Trial.__dataclass_fields__ if name in line})


@contextmanager
def _taken(scores: Path, trial: Trial) -> Iterator[bool]:
    """Whether this process has the trial to itself, and nobody finished it."""
    name = hashlib.sha256(trial.key.encode()).hexdigest()[:12]
    with Path(tempfile.gettempdir(), f"nas-proxy-study-{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield trial.key not in _finished(scores)


def table(scores: Path) -> Iterator[str]:
    """A line for each recipe and network, and Kendall's tau of the likelihood against published top-1."""
    recipes: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for line in _finished(scores).values():
        trial = _trial(line)
        recipe = asdict(replace(trial, network="", seed=0, averaged=0.0))
        words = ", ".join(f"{name} {value}" for name, value in recipe.items() if value != getattr(_DEFAULT, name))
        recipes.setdefault(words or "as Trial has it", {}).setdefault(trial.network, []).append(line)
    yield "| recipe | network | top-1 | accuracy | cross-entropy | CPU s |"
    yield "|---|---|---|---|---|---|"
    for words, networks in recipes.items():
        for name, lines in sorted(networks.items(), key=lambda item: _top1(item[0])):
            cells = [_mean_and_spread([line[key] for line in lines]) for key in ("accuracy", "cross_entropy")]
            seconds = f"{statistics.median(line['cpu_seconds'] for line in lines):.0f}"
            yield f"| {words} | {name} | {_top1(name)} | {' | '.join(cells)} | {seconds} |"
        if len(networks) > 3:
            likelihoods = [-statistics.mean(line["cross_entropy"] for line in lines) for lines in networks.values()]
            tau = kendalltau([_top1(name) for name in networks], likelihoods).statistic
            yield f"| {words} | tau over these {len(networks)} | | | {tau:.2f} | |"


def _top1(network: str) -> float:
    return NETWORKS[network].top1 or 0.0


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


_DEFAULT = Trial(network="")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("trials", type=Path)
    running.add_argument("scores", type=Path)
    running.add_argument("--tiny", default="../shared/data/tiny_imagenet50_64px")
    running.add_argument("--cifar", default="../shared/data/cifar10_jpeg")
    running.add_argument("--nette", default="../shared/data/imagenette_224px")
    commands.add_parser("table").add_argument("scores", type=Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.trials, options.scores, {"tiny": options.tiny, "cifar": options.cifar, "nette": options.nette})
    else:
        sys.stdout.writelines(f"{line}\n" for line in table(options.scores))


if __name__ == "__main__":
    main()
