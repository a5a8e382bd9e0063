"""What all trainings share: initial weights, optimizer, learning rate schedule, device and number formats.

Short training depends on how much each step achieves. Two choices matter most (figures in results/proxy-study):

- Muon trains the matrices. After 8,000 images of Tiny ImageNet at 64 px, 32 per step, iFormer-M reaches 21 % accuracy;
  with AdamW alone it reaches 13 %.
- Residual branches start at zero (arXiv:1706.02677, section 5.1).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import ImageSet, training_batches
from nas.errors import InputError, NasError
from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.modules import Network, build_model, residual_norms
from nas.training.muon import Muon, orthogonal_precision

__all__ = [
    "Judged",
    "Optimizer",
    "Precision",
    "autocast",
    "batch_norms",
    "calibrate_norms",
    "calibration_batches",
    "faster_precision",
    "initial_network",
    "judged",
    "memory_failures",
    "schedule",
    "seeded_network",
    "timed",
    "usable_device",
]

Precision = Literal["fp32", "bf16"]


class Judged(NamedTuple):
    """What a network says of a batch of labelled images.

    Attributes:
        entropies: cross-entropy of every image in nats, (B,); of pixels, the mean of those that are known.
        right: 1 where the network is right, else 0, (B,); of pixels, the share of those that are known.
        found: the likeliest class, (B,) or (B, H, W).
    """

    entropies: Tensor
    right: Tensor
    found: Tensor


class Optimizer:
    """Muon for the kernels that are large matrices, AdamW for all other parameters.

    Muon (Jordan et al. 2024) makes every update of a matrix orthogonal, so that all directions of the matrix learn at
    the same pace. AdamW trains depthwise kernels, the first convolution, the classifier, norms and biases.

    Args:
        parameters: parameters of a network. Each tensor must keep its storage from now on.
        matrix_rate: learning rate of Muon, relative to a matrix of norm 1.
        rate: learning rate of AdamW.
        weight_decay: weight decay of the classifier, the depthwise kernels and the first kernel. Norms and biases have
            no weight decay.
    Raises:
        ValueError: a kernel is not laid out in channels_last.
    """

    def __init__(self, parameters: Iterable[Tensor], *, matrix_rate: float, rate: float, weight_decay: float) -> None:
        parameters = list(parameters)
        self._kernels = [parameter for parameter in parameters if _is_matrix(parameter)]
        # torch's Muon takes matrices only. These matrices share their storage with the kernels.
        self._matrices = [nn.Parameter(_as_matrix(kernel.detach())) for kernel in self._kernels]
        if any(kernel.data_ptr() != matrix.data_ptr() for kernel, matrix in self._pairs()):
            raise ValueError("kernels must be laid out in channels_last, as initial_network does")
        others = [parameter for parameter in parameters if not _is_matrix(parameter)]
        groups = [
            {"params": [p for p in others if p.squeeze().ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in others if p.squeeze().ndim <= 1], "weight_decay": 0.0},
        ]
        self._rates = (matrix_rate, rate)
        self._muon = Muon(self._matrices, momentum=_MUON_MOMENTUM)
        self._adam = torch.optim.AdamW(groups, fused=True)

    def step(self, share: float) -> None:
        """Update every parameter that has a gradient, with `share` of the learning rates, and clear the gradients."""
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
        """Tensors that `load` needs to resume, by name."""
        return {
            f"{name}.{index}.{key}": tensor
            for name, optimizer in self._named()
            for index, state in optimizer.state_dict()["state"].items()
            for key, tensor in state.items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned; the parameters must be the same, in the same order."""
        for name, optimizer in self._named():
            content = optimizer.state_dict()
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for key in state:
                owner, index, part = key.split(".")
                if owner == name:
                    parameter, tensor = parameters[int(index)], state[key]
                    if tensor.shape == parameter.shape:  # AdamW's fused step needs the parameter's memory format.
                        tensor = torch.empty_like(parameter).copy_(tensor)
                    content["state"].setdefault(int(index), {})[part] = tensor
            optimizer.load_state_dict(content)

    def _pairs(self) -> Iterator[tuple[Tensor, nn.Parameter]]:
        return zip(self._kernels, self._matrices, strict=True)

    def _named(self) -> tuple[tuple[str, torch.optim.Optimizer], ...]:
        return ("muon", self._muon), ("adam", self._adam)


def usable_device(device: str | None) -> str:
    """Check that the device can be used and return its name; the default is a GPU if there is one, else the CPU.

    Raises:
        InputError: the device cannot be used.
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
    """Raise `failure` when memory runs out; any other error is a bug and passes through.

    Args:
        where: device and sizes; completes the message "out of memory on ...".
        failure: exception class to raise instead of the memory error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        message = str(error).lower()
        if isinstance(error, RuntimeError) and not any(words in message for words in _MEMORY_WORDS):
            raise
        raise failure(f"out of memory on {where}") from error


def seeded_network(
    architecture: Architecture, *, seed: int, build: Callable[[Architecture], Network] = build_model
) -> Network:
    """A network on the CPU with weights drawn from `seed`."""
    # The weights are drawn from torch's global generator. fork_rng restores its state afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build(architecture)


def initial_network(
    architecture: Architecture, *, seed: int, build: Callable[[Architecture], Network] = build_model
) -> Network:
    """An untrained network on the CPU: weights drawn from `seed`, residual branches at zero, in channels_last."""
    network = seeded_network(architecture, seed=seed, build=build)
    for norm in residual_norms(network):
        nn.init.zeros_(norm.weight)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def batch_norms(network: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """All batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


def calibration_batches(image_set: ImageSet, *, images: int, seed: int) -> list[Tensor]:
    """At least `images` training images, in batches, for batch norm statistics; the same images for the same seed."""
    size = min(_CALIBRATION_BATCH, len(image_set.train_labels))
    batches = training_batches(image_set, batch_size=size, steps=math.ceil(images / size), seed=seed)
    return [pictures for pictures, _ in batches]


def calibrate_norms(network: nn.Module, batches: Sequence[Tensor], *, precision: Precision) -> None:
    """Replace the statistics of all batch norms by their means over these batches; the weights do not change.

    The running statistics of a short training lag behind the weights. For iFormer-T and M that start from a supernet,
    fresh statistics lower the cross-entropy by 0.07 nats after 2,048 images, and halve its spread after 4,096
    (results/proxy-study).
    """
    for norm in batch_norms(network):
        norm.reset_running_stats()
        norm.momentum = None  # a plain average: every batch has the same weight
    network.train()
    with torch.no_grad():
        for images in batches:
            with autocast(images.device, precision):
                network(images)
    network.eval()


@torch.inference_mode()
def judged(network: nn.Module, images: Tensor, labels: Tensor, *, precision: Precision) -> Judged:
    """What a network says of a batch.

    Args:
        network: images to logits (B, classes), or (B, classes, H, W) of pixels.
        images: normalised.
        labels: class indices (B,); the probabilities of a teacher (B, classes), whose likeliest class is then right; or
            classes of pixels (B, H, W), below 0 where they are not known.
        precision: number format of matrix products.
    """
    with autocast(images.device, precision):
        logits = network(images)
    entropies = F.cross_entropy(logits.float(), labels, reduction="none")
    right = labels.argmax(1) if labels.is_floating_point() else labels
    found = logits.argmax(1)
    shares = (found == right).float()
    if labels.ndim > 2:
        known = (labels >= 0).sum((1, 2)).clamp(min=1)
        entropies, shares = (values.sum((1, 2)) / known for values in (entropies, shares))  # 0 where not known
    return Judged(entropies=entropies, right=shares, found=found)


def schedule(done: float, *, warmup: float) -> float:
    """Share of the peak learning rate when a share `done` of the steps is done: linear warm-up, then linear decay."""
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Matrix products and convolutions in `precision`; weights, norms and the loss stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@functools.cache
def faster_precision(device: str) -> Precision:
    """The precision in which a small network trains faster on `device`.

    Where products in bf16 take four times as long (`orthogonal_precision`), no step is timed: one took 5 s there.
    Takes two seconds on two cores; each process measures a device once. Steps in fp32 and in bf16 alternate, and the
    fastest step of each counts, so that a busy machine hardly changes the answer.
    """
    if orthogonal_precision(torch.device(device)) == torch.float32:
        return "fp32"
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
    """Seconds of each of `runs` calls, including the work on a GPU."""
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
    """Whether the parameter is the kernel of a convolution that mixes feature channels, not image channels."""
    return parameter.ndim == 4 and parameter.shape[1] > _IMAGE_CHANNELS


def _as_matrix(kernel: Tensor) -> Tensor:
    """(out, in, height, width) as (out, height * width * in); a view if in channels_last, or for any 1x1 kernel."""
    return kernel.permute(0, 2, 3, 1).flatten(1)
