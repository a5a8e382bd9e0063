"""What a supernet is: one set of weights for every network of a space, the provenance of the weights, and its file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nas.data import Contents, ImageSet, fingerprint
from nas.errors import InputError
from nas.files import Record, digest, write_beside
from nas.networks import Architecture, SearchSpace
from nas.networks.modules import Network, SharedWeights, build_model, build_pixel_model
from nas.training.recipe import Precision, batch_norms, schedule

__all__ = [
    "BUILDERS",
    "Origin",
    "Supernet",
    "SupernetRecipe",
    "Task",
    "checkpoint_path",
    "is_supernet",
    "load_supernet",
    "read_origin",
    "read_supernet",
    "write_supernet",
]


# After fewer than 8,000 images the order of the published networks was poor on all data (results/supernet-study).
_IMAGES, _LEAST_IMAGES = 64_000, 8_000
_RISING = 3_200  # images over which the learning rates of a training with an average rise

Task = Literal["classify", "segment"]
# What is trained: networks with their classifier, or with a light decoder that classifies pixels.
BUILDERS: dict[Task, Callable[[Architecture], Network]] = {"classify": build_model, "segment": build_pixel_model}


class SupernetRecipe(Record):
    """How a supernet is trained.

    Attributes:
        images: number of images that each of the sandwich's networks sees at most, with repetition and on all GPUs
            together; rounded up to a whole number of batches.
        batch_size: images per step, on each GPU.
        matrix_rate: learning rate of Muon.
        rate: learning rate of AdamW.
        weight_decay: weight decay of the parameters that AdamW trains, except vectors.
        warmup: share of the steps in which the learning rates rise; with `average` over 3,200 images at most.
        label_smoothing: label smoothing of the largest network's targets. `nas supernet train --teacher` sets it to 0:
            a teacher's labels are soft already, and they are what is scored.
        random_networks: number of random networks that each step trains besides the largest and the smallest.
        average: if above 0, learning rates stay at their peak after the warm-up, and the weights that are kept are an
            average over about this share of the steps. So a training can end anywhere. With 0 the rates fall to the
            last of the images.
        until: end when the largest network has learnt this many nats about the held-out labels (or half of what there
            is to learn, for few classes: `Sandwich.learnt_nats`), or after `images`; None for all images. Needs an
            average. The default was fixed after first looks at four data sets (results/supernet-study).
    """

    images: int = Field(_IMAGES, ge=1)
    batch_size: int = Field(64, ge=2)
    matrix_rate: float = 0.02
    rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    random_networks: int = Field(2, ge=0)
    average: float = Field(0.1, ge=0, le=1)
    until: float | None = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _ends_anywhere(self) -> Self:
        if self.until is not None and not self.average:
            raise ValueError("until needs an average: without one the learning rates fall to the last of the images")
        return self

    def rates(self, done: int, *, steps: int) -> float:
        """Share of the peak learning rates in the step after `done` of `steps`."""
        if not self.average:
            return schedule((done + 1) / (steps + 1), warmup=self.warmup)
        rising = min(self.warmup * self.images, _RISING) / self.batch_size
        return min(1.0, (done + 1) / max(1.0, rising))

    @property
    def lengths(self) -> list[SupernetRecipe]:
        """This recipe, and it with half as many images, a quarter, ... but not with fewer than 8,000."""
        shorter = (self.images >> halvings for halvings in range(1, self.images.bit_length()))
        return [self, *(self.model_copy(update={"images": n}) for n in shorter if n >= _LEAST_IMAGES)]

    def steps(self, *, workers: int = 1) -> int:
        """Number of steps of the training, with this number of processes."""
        return math.ceil(self.images / (self.batch_size * workers))


class Origin(Record):
    """What a supernet is trained for and on; a training resumes only if all of these are the same.

    Attributes:
        data: the images in words, with the path as the user gave it.
        fingerprint: digest of the images' content; None in a file from before there were fingerprints.
        class_names: one name per class; None in such a file.
        contents: all images of the source; None in a file from before they were kept, or if there is no source.
        teacher: name of the network whose soft labels are the targets; None for the labels of the data.
        task: whether images or pixels are classified.
    """

    space: str
    resolution: int = Field(gt=0, le=2**20, multiple_of=32)  # as an architecture's
    num_classes: int = Field(gt=0, le=2**20)
    data: str
    seed: int
    workers: int
    init: str | None
    limit: str | None = None
    recipe: SupernetRecipe
    precision: Precision | None = None
    fingerprint: str | None = None
    class_names: tuple[str, ...] | None = None
    contents: Contents | None = None
    teacher: str | None = None
    task: Task = "classify"

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        image_set: ImageSet,
        *,
        recipe: SupernetRecipe,
        seed: int,
        workers: int = 1,
        init: Path | None = None,
        weights_key: str | None = None,
        limit: str | None = None,
        precision: Precision,
    ) -> Origin:
        """The origin of a training with these settings; `limit` is the rule in words."""
        return cls(
            space=space.model_dump_json(),
            resolution=image_set.resolution,
            num_classes=image_set.num_classes,
            data=image_set.description,
            seed=seed,
            workers=workers,
            init=digest(init) + (f"#{weights_key}" if weights_key else "") if init and init.is_file() else None,
            limit=limit,
            recipe=recipe,
            precision=precision,
            fingerprint=fingerprint(image_set),
            class_names=image_set.class_names,
            contents=image_set.contents,
            teacher=image_set.teacher,
            task="segment" if image_set.has_masks else "classify",
        )

    def differing(self, other: Origin) -> list[str]:
        """Names of what differs between two trainings.

        Data are compared by their content, so that the path may be spelled in another way. If one of the two has no
        fingerprint, the words that describe the data are compared.
        """
        by_content = self.fingerprint is not None and other.fingerprint is not None
        same_data = self.fingerprint == other.fingerprint if by_content else self.data == other.data
        compared = Origin.model_fields.keys() - {"data", "fingerprint", "class_names", "contents"}
        return sorted(
            [name for name in compared if getattr(self, name) != getattr(other, name)] + ["data"] * (not same_data)
        )


class Supernet:
    """Weights for every network of a space, and what they were trained for.

    Attributes:
        weights: weights that all networks share.
        resolution: height and width of the images, in pixels.
        num_classes: number of outputs.
        seed: random seed of the training. If the data has no validation split, this seed also chose the held-out
            images.
        limit: which networks the supernet was trained for, such as "at most 1.1 ms under iphone13.coreml.fp16
            (DIGEST)"; None for all networks of its space.
        class_names: one name per output; None if the file is from before supernets kept them.
        contents: all images of the source that it was trained on; None if the file does not say.
        teacher: name of the network whose soft labels were the targets; None for the labels of the data.
        task: whether images or pixels are classified.
        fingerprint: of the images' content; None in a file from before there were fingerprints.
    """

    def __init__(
        self,
        *,
        weights: SharedWeights,
        resolution: int,
        num_classes: int,
        seed: int,
        limit: str | None = None,
        class_names: tuple[str, ...] | None = None,
        contents: Contents | None = None,
        teacher: str | None = None,
        task: Task = "classify",
        fingerprint: str | None = None,
    ) -> None:
        self.weights, self.resolution, self.num_classes = weights, resolution, num_classes
        self.seed, self.limit, self.class_names, self.teacher = seed, limit, class_names, teacher
        self.contents, self.task, self.fingerprint = contents, task, fingerprint

    def network(self, architecture: Architecture) -> Network:
        """The network with its part of the weights; its batch norms have no statistics yet.

        Raises:
            InputError: the network does not fit into the supernet.
        """
        with torch.device("meta"):
            network = BUILDERS[self.task](self._scaled(architecture))
        part = self.weights.part(network)
        device = next(iter(part.values())).device
        network.to_empty(device=device).load_state_dict(part, strict=False)
        for norm in batch_norms(network):
            norm.reset_running_stats()
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _scaled(self, architecture: Architecture) -> Architecture:
        return architecture.at(resolution=self.resolution, num_classes=self.num_classes)


def is_supernet(path: Path) -> bool:
    """Whether a file is a supernet rather than the weights of a single network or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            return "supernet" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def load_supernet(path: Path, *, task: Task = "classify", device: str = "cpu") -> Supernet:
    """Read a trained supernet; `task` is what it must be trained for.

    Raises:
        InputError: the file cannot be read, is not a supernet, is of another task, or is a checkpoint of a training
            that has not ended.
    """
    tensors, origin, _ = read_supernet(path)
    if any(name.startswith("optimizer/") for name in tensors):
        raise InputError(f"{path} is a checkpoint of a training that has not ended: repeat its command to go on")
    if origin.task != task:
        raise InputError(f"{path} is of the task {origin.task}, and one of the task {task} is needed")
    weights = SharedWeights({name: tensor.to(device) for name, tensor in tensors.items()})
    return Supernet(
        weights=weights,
        resolution=origin.resolution,
        num_classes=origin.num_classes,
        seed=origin.seed,
        limit=origin.limit,
        class_names=origin.class_names,
        contents=origin.contents,
        teacher=origin.teacher,
        task=origin.task,
        fingerprint=origin.fingerprint,
    )


def checkpoint_path(path: Path) -> Path:
    """Where the checkpoint of a training is that is going to write `path`."""
    return path.with_name(path.name + ".checkpoint")


def write_supernet(path: Path, tensors: dict[str, Tensor], origin: Origin, *, done: int | None = None) -> None:
    """Write a supernet, or a checkpoint of its training.

    Args:
        path: file to write, .safetensors.
        tensors: the weights by name; a checkpoint has the optimizer's tensors as well.
        origin: what the weights are trained for and on.
        done: number of steps done, for a checkpoint.
    Raises:
        InputError: the file cannot be written.
    """
    metadata = {"supernet": origin.model_dump_json()} | ({} if done is None else {"done": str(done)})
    write_beside(path, save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, metadata))


def read_supernet(path: Path) -> tuple[dict[str, Tensor], Origin, int]:
    """Read what `write_supernet` wrote: tensors, origin and number of steps done (0 for a finished training).

    Raises:
        InputError: the file cannot be read, or is not a supernet.
    """
    with _opened(path) as (file, origin, done):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return tensors, origin, done


def read_origin(path: Path) -> tuple[Origin, int]:
    """Read the origin and the number of steps done, without the tensors.

    Raises:
        InputError: the file cannot be read, or is not a supernet.
    """
    with _opened(path) as (_, origin, done):
        return origin, done


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Origin, int]]:
    """A supernet's file, open for reading its tensors, with its origin and number of steps done."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "supernet" not in metadata:
                raise InputError(f"{path} is no supernet: nas supernet train makes one")
            yield file, Origin.model_validate_json(metadata["supernet"]), int(metadata.get("done", 0))
    except ValidationError as error:
        raise InputError.from_validation(str(path), error) from error
    except OSError as error:
        reason = "is a folder" if path.is_dir() else error.strerror or "no such file"
        raise InputError(f"{path}: cannot be read ({reason})") from error
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is damaged, or no supernet") from error
