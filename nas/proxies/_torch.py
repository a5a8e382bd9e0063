"""What proxies that run networks in torch share: their device, the weights they start from, the held-out score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.data import ImageSet, Normalisation, Progress, fingerprint, validation_batches
from nas.errors import InputError
from nas.networks.modules import Network
from nas.proxies import ScoringFailed
from nas.training import Supernet
from nas.training.agreement import agreement, confusion
from nas.training.recipe import Precision, judged

__all__ = [
    "HeldOut",
    "check_images",
    "circumstances",
    "data_settings",
    "held_out",
    "no_progress",
    "of_seed",
    "portable_weights",
]


def circumstances(device: torch.device) -> dict[str, Any]:
    """Where a proxy runs, for its settings; these values can change when a run resumes on another machine."""
    return {"device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__}


def data_settings(image_set: ImageSet) -> dict[str, Any]:
    """The images, for the settings of a proxy: in words, and by content.

    Reads all images of a set that has no source, so call it once.
    """
    contents = image_set.contents
    return {
        "data": image_set.description,
        "fingerprint": contents.fingerprint if contents else fingerprint(image_set),
        "train_images": len(image_set.train_labels),
        "val_images": len(image_set.val_labels),
        "normalisation": Normalisation.of(image_set).model_dump(mode="json"),
        **({"contents": contents.model_dump(mode="json")} if contents else {}),
    }


def check_images(supernet: Supernet, file: Path, image_set: ImageSet, source: object) -> None:
    """Refuse images that a supernet was not trained on. Its outputs belong to classes by their position.

    Args:
        supernet: a trained supernet.
        file: its file.
        image_set: the images to score on.
        source: their source, as the user gave it.
    Raises:
        InputError: the number or the names of the classes differ, or, if the file of the supernet says what its images
            were, the images.
    """
    if supernet.contents and image_set.contents:
        if words := supernet.contents.difference(image_set.contents):
            raise InputError(
                f"{file} was trained on other images than {source} has now: {words}; give the images that it was "
                "trained on, with the same names of classes, or train a supernet on these"
            )
        return
    if image_set.num_classes != supernet.num_classes:
        raise InputError(
            f"{file} was trained for {supernet.num_classes} classes, {source} has {image_set.num_classes}: "
            "give the data that it was trained on"
        )
    for index, (trained, given) in enumerate(zip(supernet.class_names or (), image_set.class_names, strict=False)):
        if trained != given:
            raise InputError(
                f"{file} was trained with {trained!r} as class {index}, {source} has {given!r} there: "
                "give the data that it was trained on, with the same names of classes"
            )


def of_seed(path: Path, seed: int) -> Path:
    """Replace `{seed}` in a path by the seed, so that each seed of a validation can have its own weights.

    Examples:
        >>> of_seed(Path("photos.{seed}.supernet.safetensors"), 2).name
        'photos.2.supernet.safetensors'
    """
    return Path(str(path).replace("{seed}", str(seed)))


def portable_weights(network: Network) -> dict[str, torch.Tensor]:
    """The state of a network for `Score.weights`: on the CPU, and contiguous because files have no channels_last."""
    return {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """How well a network does on the held-out images.

    Attributes:
        likelihood: geometric mean of the probability that the network gives the right class, exp(-cross-entropy). In
            [0, 1]; guessing gives 1 / classes. The likelihood ranks networks with less noise than accuracy: over eleven
            published networks with the weights of one supernet, Kendall's tau against published accuracy was 0.87 by
            likelihood and 0.56 by accuracy (results/proxy-study). A teacher's label counts every class by its
            probability, so no network gets above exp(-mean entropy of these labels).
        standard_error: standard error of the likelihood, from its spread over the images.
        accuracy: share of the images that the network classifies correctly, or as the teacher does; of pixels, the mean
            over images of the share of known pixels.
        miou: mean intersection over union of the classes, of pixels at a quarter of the size; None without masks.
    """

    likelihood: float
    standard_error: float
    accuracy: float
    miou: float | None = None

    def details(self, image_set: ImageSet) -> dict[str, float | int | str]:
        """Details for `Score.details`; the value of that score is the likelihood."""
        return {
            "accuracy": self.accuracy,
            **({"miou": self.miou} if self.miou is not None else {}),
            "standard_error": self.standard_error,
            "classes": image_set.num_classes,
            "val_images": len(image_set.val_labels),
            **({"teacher": image_set.teacher} if image_set.teacher else {}),
        }


def no_progress(what: str, done: int, total: int) -> None:
    """Where nobody watches."""


def held_out(
    network: Network,
    image_set: ImageSet,
    *,
    batch_size: int,
    precision: Precision,
    progress: Progress = no_progress,
) -> HeldOut:
    """Evaluate the network, in eval mode, on all held-out images.

    `progress` is called after every batch.

    Raises:
        ScoringFailed: an output is not finite.
    """
    network.eval()
    batches = validation_batches(image_set, batch_size=batch_size)
    entropies_of, right_of, done = [], [], 0
    counts = torch.zeros((), dtype=torch.int64)
    for images, labels in batches:
        one = judged(network, images, labels, precision=precision)
        entropies_of.append(one.entropies)
        right_of.append(one.right)
        if image_set.has_masks:
            counts = counts + confusion(labels, one.found, image_set.num_classes).cpu()
        done += len(labels)
        progress("held-out image", done, len(image_set.val_labels))
    entropies = torch.cat(entropies_of)
    mean = entropies.mean().item()
    if not math.isfinite(mean):
        raise ScoringFailed("training diverged: the outputs for held-out images are not numbers")
    likelihood = math.exp(-mean)
    error = entropies.std(correction=0).item() / math.sqrt(len(entropies))
    return HeldOut(
        likelihood=likelihood,
        standard_error=likelihood * error,
        accuracy=torch.cat(right_of).mean().item(),
        miou=agreement(counts)["miou"] if image_set.has_masks else None,
    )
