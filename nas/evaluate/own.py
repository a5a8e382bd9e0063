"""Networks of this project: a reference or an architecture with weights, a folder of `--format torch`, a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nas.data import Normalisation
from nas.errors import InputError, NasError
from nas.evaluate.subject import RANDOM_REFUSED, Say, Subject, checked_weights, known_of_metadata
from nas.export.torch import LoadedNetwork, load
from nas.files import digest
from nas.networks import Architecture, find_network
from nas.networks.modules import Network
from nas.networks.modules.checkpoint import read_checkpoint
from nas.networks.modules.published import published_weights
from nas.networks.modules.weights import model_of, resized
from nas.training.recipe import memory_failures, usable_device

__all__ = ["folder_subject", "module_subject", "named_subject", "torch_runner", "torch_runtime"]

_TIMM = "timm"  # in place of a file of weights


def folder_subject(folder: Path, *, resolution: int | None, device: str | None) -> Subject:
    """The network of a folder that `--format torch` wrote.

    Raises:
        InputError: the folder is broken, or its weights are random.
    """
    return module_subject(load(folder), name=str(folder), resolution=resolution, device=device)


def module_subject(network: Network, *, name: str, resolution: int | None, device: str | None, **known: Any) -> Subject:
    """A network in memory.

    Args:
        network: in training form; with a card if `nas.load` gave it.
        name: what it is called.
        resolution: of the input; by default that of the network.
        device: `cpu` or `cuda`; by default a GPU if there is one.
        known: of the subject, such as its normalisation.
    Raises:
        InputError: its weights are random, the resolution breaks a rule, or the device cannot be used.
    """
    if isinstance(network, LoadedNetwork):
        card = network.card
        known = {
            "weights": checked_weights(card.weights, name),
            "class_names": card.class_names,
            "normalisation": card.normalisation,
            "normalised_by": "of its card",
        } | known
    chosen = usable_device(device)
    if resolution is not None and resolution != network.architecture.resolution:
        network = resized(network, resolution)
    return Subject(
        **{"weights": "of a network in memory", **known},
        name=name,
        form="torch",
        precision="fp32",
        runtime=torch_runtime(chosen),
        outputs=network.architecture.num_classes,
        resolution=network.architecture.resolution,
        run=torch_runner(network, chosen, name),
    )


def named_subject(
    network: str | Path | Architecture,
    *,
    weights: str | None,
    weights_key: str | None,
    num_classes: int | None,
    resolution: int | None,
    device: str | None,
    stdin: BinaryIO | None,
    say: Say,
) -> Subject:
    """A reference, an architecture file or an architecture, with weights of a file or published ones.

    Raises:
        InputError: there is no such network, or its weights are not given or do not fit.
        NasError: published weights cannot be downloaded.
    """
    if isinstance(network, Architecture):
        name, architecture = "network", network
    else:
        name, architecture = find_network(str(network), stdin=stdin)
    if weights is None:
        has = "has no weights of its own" if not isinstance(network, Architecture) else RANDOM_REFUSED
        raise InputError(f"{name}: {has}: give --weights FILE, or --weights timm for the published ones")
    known: dict[str, Any] = {}
    source, path = Path(weights).name, Path(weights)
    if weights == _TIMM or weights.startswith(f"{_TIMM}:"):
        published = published_weights(weights.partition(":")[2] or name)
        say(f"weights: {published.name} of timm, {published.path}")
        source, path = f"timm's {published.name}", published.path
        pair = {"mean": published.mean, "std": published.std}
        known = {"normalisation": Normalisation.model_validate(pair), "normalised_by": "of the published weights"}
    checkpoint = read_checkpoint(path, weights_key=weights_key)
    told = known_of_metadata(checkpoint.metadata, str(path))
    module = model_of(checkpoint, architecture.at(num_classes=num_classes), whole=True).eval()
    known = told | known | {"weights": f"{source} (SHA-256 begins {digest(path)})"}
    return module_subject(module, name=name, resolution=resolution, device=device, **known)


def torch_runner(network: nn.Module, device: str, name: str) -> Any:
    """A function from arrays to arrays that runs a module in eval mode; NasError if memory runs out."""
    network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with torch.inference_mode(), memory_failures(f"{device} with {len(images)} images for {name}", NasError):
            inputs = torch.from_numpy(images).to(device).contiguous(memory_format=torch.channels_last)
            outputs: npt.NDArray[Any] = np.asarray(network(inputs).float().cpu())
        return outputs

    return run


def torch_runtime(device: str) -> str:
    """What runs a module, in words."""
    if device.startswith("cuda"):
        return f"PyTorch {torch.__version__} on {torch.cuda.get_device_name(device)}, fp32"
    return f"PyTorch {torch.__version__} on {device}, {torch.get_num_threads()} threads, fp32"
