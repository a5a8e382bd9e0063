"""How proxies train, whatever they train: the first weights, the optimizer, its schedule, device and number formats.

Short training lives or dies by how much a step achieves. Two choices matter most; results/proxy-study has the figures:
Muon on the matrices (8,000 images of Tiny ImageNet at 64 px, 32 a step: iFormer-M 21 % where AdamW alone gives 13 %),
and residual branches that start at zero (arXiv:1706.02677, section 5.1).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from nas.data import ImageSet, training_batches
from nas.errors import InputError, NasError
from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.modules import Network, build_model, residual_norms

__all__ = [
    "Optimizer",
    "Precision",
    "autocast",
    "batch_norms",
    "calibrate_norms",
    "calibration_batches",
    "faster_precision",
    "initial_network",
    "memory_failures",
    "schedule",
    "seeded_network",
    "timed",
    "usable_device",
]

Precision = Literal["fp32", "bf16"]


class Optimizer:
    """Muon for the kernels that are large matrices, AdamW for all other parameters.

    Muon (Jordan et al. 2024) makes every step of a matrix orthogonal, so that all its directions learn at one pace.
    Depthwise kernels, the first convolution, the classifier, norms and biases are no such matrices.

    Args:
        parameters: of a network, each a tensor that keeps its storage from now on.
        matrix_rate: learning rate of Muon, relative to a matrix of norm 1.
        rate: learning rate of AdamW.
        weight_decay: of the classifier and of depthwise and first kernels; norms and biases have none.
    Raises:
        ValueError: a kernel is not laid out in channels_last.
    """

    def __init__(self, parameters: Iterable[Tensor], *, matrix_rate: float, rate: float, weight_decay: float) -> None:
        parameters = list(parameters)
        self._kernels = [parameter for parameter in parameters if _is_matrix(parameter)]
        # torch's Muon takes matrices only: these share their storage with the kernels.
        self._matrices = [nn.Parameter(_as_matrix(kernel.detach())) for kernel in self._kernels]
        if any(kernel.data_ptr() != matrix.data_ptr() for kernel, matrix in self._pairs()):
            raise ValueError("kernels must be laid out in channels_last, as initial_network does")
        others = [parameter for parameter in parameters if not _is_matrix(parameter)]
        groups = [
            {"params": [p for p in others if p.squeeze().ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in others if p.squeeze().ndim <= 1], "weight_decay": 0.0},
        ]
        self._rates = (matrix_rate, rate)
        self._muon = torch.optim.Muon(self._matrices, momentum=_MUON_MOMENTUM, weight_decay=0.0)
        self._adam = torch.optim.AdamW(groups, fused=True)

    def step(self, share: float) -> None:
        """Update every parameter that has a gradient, with `share` of the learning rates, and drop the gradients."""
        for kernel, matrix in self._pairs():
            matrix.grad = None if kernel.grad is None else _as_matrix(kernel.grad)
        for optimizer, rate in zip((self._muon, self._adam), self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
        for kernel in self._kernels:
            kernel.grad = None
        self._adam.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """What `load` needs to go on, by name."""
        return {
            f"{name}.{index}.{key}": tensor
            for name, optimizer in self._named()
            for index, state in optimizer.state_dict()["state"].items()
            for key, tensor in state.items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned, with the same parameters in the same order."""
        for name, optimizer in self._named():
            content = optimizer.state_dict()
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for key in state:
                owner, index, part = key.split(".")
                if owner == name:
                    parameter, tensor = parameters[int(index)], state[key]
                    if tensor.shape == parameter.shape:  # AdamW's fused step needs the layout of the parameter.
                        tensor = torch.empty_like(parameter).copy_(tensor)
                    content["state"].setdefault(int(index), {})[part] = tensor
            optimizer.load_state_dict(content)

    def _pairs(self) -> Iterator[tuple[Tensor, nn.Parameter]]:
        return zip(self._kernels, self._matrices, strict=True)

    def _named(self) -> tuple[tuple[str, torch.optim.Optimizer], ...]:
        return ("muon", self._muon), ("adam", self._adam)


def usable_device(device: str | None) -> str:
    """The device asked for, tried; by default a GPU if there is one.

    Raises:
        InputError: it cannot be used.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA fails an assertion
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}); try cpu") from error
    return device


@contextmanager
def memory_failures(where: str, failure: type[NasError]) -> Iterator[None]:
    """Memory that runs out is a failure with a name; any other error is a bug and passes.

    Args:
        where: device and sizes, to end the sentence "out of memory on".
        failure: raised in its place.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        message = str(error).lower()
        if isinstance(error, RuntimeError) and not any(words in message for words in _MEMORY_WORDS):
            raise
        raise failure(f"out of memory on {where}") from error


def seeded_network(architecture: Architecture, *, seed: int) -> Network:
    """A network on the CPU with weights drawn from `seed`."""
    # They are drawn from torch's global generator; the caller gets it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_model(architecture)


def initial_network(architecture: Architecture, *, seed: int) -> Network:
    """A network to train, on the CPU: weights drawn from `seed`, residual branches at zero, channels_last."""
    network = seeded_network(architecture, seed=seed)
    for norm in residual_norms(network):
        nn.init.zeros_(norm.weight)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def batch_norms(network: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """All batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


def calibration_batches(image_set: ImageSet, *, images: int, seed: int) -> list[Tensor]:
    """Training images to measure the statistics of batch norms on, `images` of them at least, the same for a seed."""
    size = min(_CALIBRATION_BATCH, len(image_set.train_labels))
    batches = training_batches(image_set, batch_size=size, steps=math.ceil(images / size), seed=seed)
    return [pictures for pictures, _ in batches]


def calibrate_norms(network: nn.Module, batches: Sequence[Tensor], *, precision: Precision) -> None:
    """Replace the statistics of all batch norms by their means over these batches; the weights stay.

    Those gathered during a short training lag behind the weights: after 2,048 images from a supernet, fresh ones take
    0.07 nats off the cross-entropy of iFormer-T and M, and after 4,096 halve its spread (results/proxy-study).
    """
    for norm in batch_norms(network):
        norm.reset_running_stats()
        norm.momentum = None  # A plain average, each batch counted alike.
    network.train()
    with torch.no_grad():
        for images in batches:
            with autocast(images.device, precision):
                network(images)
    network.eval()


def schedule(done: float, *, warmup: float) -> float:
    """Share of the learning rate when `done` of all steps are done: up a line, down a line."""
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Matrix products and convolutions in `precision`; weights, norms and the loss stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@functools.cache
def faster_precision(device: str) -> Precision:
    """The precision in which a small network trains faster on `device`; takes two seconds on two cores, once a process.

    Steps in fp32 and in bf16 take turns and the fastest of each count: a busy machine hardly changes the answer.
    """
    conv = ConvSpec(kernel=7, expansion=4)
    attention = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=3)
    stages = tuple(StageSpec(channels=channels, blocks=(conv, attention)) for channels in (48, 96, 192, 384))
    with torch.random.fork_rng(devices=[]):
        network = build_model(Architecture(resolution=64, num_classes=10, stages=stages))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(32, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)

    def step(*, precision: Precision) -> None:
        with autocast(images.device, precision):
            loss = network(images).float().sum()
        loss.backward()
        network.zero_grad()

    seconds: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(6):
        for precision, taken in seconds.items():
            taken += timed(functools.partial(step, precision=precision), runs=1, device=images.device)
    return "bf16" if min(seconds["bf16"]) < 0.97 * min(seconds["fp32"]) else "fp32"


def timed(action: Callable[[], object], *, runs: int, device: torch.device) -> list[float]:
    """Seconds of each of `runs` calls, the work on a GPU included."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


_MUON_MOMENTUM = 0.9
_CALIBRATION_BATCH = 128
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
_IMAGE_CHANNELS = 3


def _is_matrix(parameter: Tensor) -> bool:
    """Whether it is the kernel of a convolution that mixes channels, of features and not of the image."""
    return parameter.ndim == 4 and parameter.shape[1] > _IMAGE_CHANNELS


def _as_matrix(kernel: Tensor) -> Tensor:
    """(out, in, height, width) as (out, height * width * in): a view in channels_last, and of any 1x1 kernel."""
    return kernel.permute(0, 2, 3, 1).flatten(1)
