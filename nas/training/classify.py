"""Classification as a task of the loop: pictures cropped, changed and mixed by timm, labels and a teacher learned.

Workers decode and change pictures, as bytes; what is left, normalising, erasing and mixing, is done to whole batches on
the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from nas.data.protocol import Protocol
from nas.data.stream import Pictures, PictureSet
from nas.errors import InputError
from nas.networks.modules import Network
from nas.networks.modules.outside import timm_part
from nas.training.distil import FullTeacher, distillation_loss
from nas.training.full_recipe import TrainingRecipe
from nas.training.processes import processes, rank
from nas.training.randomness import seed_all, seed_of
from nas.training.recipe import autocast

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Classification", "Classifiers"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, as usual

_BITS = 8  # of a channel
_JUDGED = 5  # classes of top-5
_DRAFT = 4  # times the resolution: a crop of 8 % of the area still has the resolution
_ORDER, _PICTURE = 0, 1  # what a seed is for
_LEAST_PART = 2
_UNREAD = -1  # label of a held-out picture that cannot be read


class Classifiers(nn.Module):
    """A network whose every call gives the logits of all its classifiers: one, or with distillation two."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to one or two (B, classes)."""
        return self.network.head_logits(images)


class Classification:
    """A network, the pictures it is trained on, and those it is judged on.

    Args:
        network: in training form, with two classifiers if there is a teacher.
        pictures: of the source.
        recipe: what is done to them.
        seed: of order and changes.
        device: of the training.
        mean: of the pixels of a batch, in 0..1.
        std: their standard deviation.
        teacher: what else is learned from.
        workers: processes that decode, for each process that trains; 0 decodes in that one.
    Raises:
        InputError: the batch does not fit the data or the processes, or timm is missing.
    """

    best = "top1"
    unread = 0  # held-out pictures that could not be read when they were judged last

    def __init__(
        self,
        network: Network,
        pictures: PictureSet,
        recipe: TrainingRecipe,
        *,
        seed: int,
        device: torch.device,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        teacher: FullTeacher | None = None,
        workers: int = 0,
    ) -> None:
        timm_data = timm_part("timm.data", needed_for="a full training", extra="train")
        erasing = timm_part("timm.data.random_erasing")
        changes, batch = recipe.augmentation, recipe.optimisation.batch_size
        self._size = network.architecture.resolution
        self._rank, self._processes = rank(), processes()
        shares = self._processes * recipe.optimisation.accumulate
        self._mixes = changes.mixup > 0 or changes.cutmix > 0
        unit = shares * (2 if self._mixes else 1)
        if batch % unit:
            raise InputError(
                f"batch_size {batch}: must be a multiple of {unit}, for {self._processes} processes, accumulate "
                f"{recipe.optimisation.accumulate}{' and mixing in pairs' if self._mixes else ''}"
            )
        if batch // shares < _LEAST_PART:
            raise InputError(
                f"batch_size {batch}: each of {shares} parts of a step needs {_LEAST_PART} images, for batch norms"
            )
        if len(pictures.train) < batch:
            raise InputError(f"{pictures.description}: fewer than the {batch} of a step; give a smaller --batch-size")
        self.module: nn.Module = Classifiers(network).to(device)
        self.steps = len(pictures.train) // batch
        self._part = batch // shares
        self._accumulate = recipe.optimisation.accumulate
        self._pictures, self._recipe, self._seed = pictures, recipe, seed
        self._device, self._workers, self._teacher = device, workers, teacher
        self._scale, self._offset = _normalisation(mean, std, device)
        try:
            self._change = timm_data.create_transform(
                self._size,
                is_training=True,
                use_prefetcher=True,  # bytes; what is left is done here to whole batches
                scale=changes.crop_scale,
                hflip=changes.flip,
                color_jitter=None,
                auto_augment=changes.rand_augment or None,
                interpolation=changes.interpolation,
                mean=IMAGENET_MEAN,
            )
        except (AssertionError, ValueError) as error:  # timm's parser of that text
            raise InputError(f"augmentation.rand_augment: timm cannot read {changes.rand_augment!r}") from error
        _mend_posterize(self._change)
        self._erase = erasing.RandomErasing(changes.erasing, mode="pixel", device=device) if changes.erasing else None
        self._mix = None
        if self._mixes:
            self._mix = timm_data.Mixup(
                mixup_alpha=changes.mixup,
                cutmix_alpha=changes.cutmix,
                switch_prob=changes.switch,
                label_smoothing=recipe.label_smoothing,
                num_classes=pictures.num_classes,
            )

    def batches(self, epoch: int, *, done: int) -> Iterator[Any]:
        """Pictures as bytes (B, 3, H, H) and labels (B,); lists of them with `accumulate`."""
        order = torch.randperm(
            len(self._pictures.train), generator=torch.Generator().manual_seed(seed_of(self._seed, epoch, _ORDER))
        )
        whole = self._part * self._processes * self._accumulate
        keys: list[list[tuple[int, int]]] = []
        for step in range(done, self.steps):
            chosen = order[step * whole : (step + 1) * whole][self._rank :: self._processes].tolist()
            for first in range(0, len(chosen), self._part):
                keys.append([(epoch, position) for position in chosen[first : first + self._part]])
        parts = self._loader(_Changed(self._pictures.train, self._change, _DRAFT * self._size, self._seed), keys)
        if self._accumulate == 1:
            yield from parts
            return
        waiting: list[Any] = []
        for part in parts:
            waiting.append(part)
            if len(waiting) == self._accumulate:
                yield waiting
                waiting = []

    def loss(self, module: nn.Module, batch: Any) -> tuple[Tensor, int]:
        """Cross-entropy with the labels and, with a teacher, with what it says of the same pictures."""
        pixels, labels = (tensor.to(self._device, non_blocking=True) for tensor in batch)
        images = self._normalised(pixels)
        if self._erase is not None:
            images = self._erase(images)
        targets = labels
        if self._mix is not None:
            images, targets = self._mix(images, labels)
        logits = module(images)
        smoothing = 0.0 if targets.is_floating_point() else self._recipe.label_smoothing
        loss = F.cross_entropy(logits[0].float(), targets, label_smoothing=smoothing)
        if self._teacher is not None:
            taught = distillation_loss(logits[-1].float(), self._teacher(images), self._recipe.distillation)
            alpha = self._recipe.distillation.alpha
            loss = (1 - alpha) * loss + alpha * taught
        return loss, len(labels)

    def judge(self, module: nn.Module) -> dict[str, float]:
        """Shares of the held-out pictures whose class is the likeliest, or among the five likeliest; nats."""
        positions = list(range(self._rank, len(self._pictures.val), self._processes))
        size = 2 * self._part
        keys = [[(0, position) for position in positions[at : at + size]] for at in range(0, len(positions), size)]
        frame = _Middle(Protocol(resolution=self._size, crop=self._recipe.crop))
        sums = torch.zeros(4, dtype=torch.float64, device=self._device)
        network = module.network
        assert isinstance(network, Network)
        for pixels, labels in self._loader(_Changed(self._pictures.val, frame, None, None), keys):
            images, known = self._normalised(pixels.to(self._device)), labels.to(self._device)
            with autocast(self._device, "fp32"):
                logits = network(images).float()
            is_read = known != _UNREAD
            logits, known = logits[is_read], known[is_read]
            likeliest = logits.topk(min(_JUDGED, logits.shape[1]), dim=1).indices == known[:, None]
            nats = F.cross_entropy(logits, known, reduction="sum")
            parts = (likeliest[:, 0].sum(), likeliest.any(1).sum(), nats, torch.tensor(len(known)))
            sums += torch.stack([part.to(sums) for part in parts])
        if dist.is_initialized():
            dist.all_reduce(sums)
        right, among, nats_in_all, count = sums.tolist()
        if not count:
            raise InputError(
                f"{self._pictures.description}: no held-out picture can be read; mend them, or give others in val/"
            )
        self.unread = len(self._pictures.val) - int(count)
        return {"top1": right / count, "top5": among / count, "cross_entropy": nats_in_all / count}

    def _normalised(self, pixels: Tensor) -> Tensor:
        images = pixels.contiguous(memory_format=torch.channels_last).float()
        return images.mul_(self._scale).add_(self._offset)

    def _loader(self, pictures: Dataset[Any], keys: list[list[tuple[int, int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            pictures,
            batch_sampler=keys,
            num_workers=self._workers if len(keys) > 1 else 0,
            collate_fn=_gathered,
            pin_memory=self._device.type == "cuda",
        )
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


def _gathered(samples: list[tuple[Tensor, int] | InputError]) -> Any:
    """A batch, or why one of its pictures cannot be read: torch would make many lines of what a worker raises."""
    return next((sample for sample in samples if isinstance(sample, InputError)), None) or default_collate(samples)


class _Changed(Dataset[tuple[Tensor, int] | InputError]):
    """Pictures by (epoch, position), as bytes (3, H, H), with their labels.

    With a seed they are learnt from: each has random state of its own, and in place of one that cannot be read, and may
    be left out, is the next. Without a seed they are judged, and such a one has the label -1.
    """

    def __init__(self, pictures: Pictures, change: Any, least: int | None, seed: int | None) -> None:
        self._pictures, self._change, self._least, self._seed = pictures, change, least, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | InputError:
        epoch, position = key
        try:
            picture = self._pictures.picture(position, least=self._least)
            if picture is None and self._seed is None:
                return self._change(Image.new("RGB", (1, 1))), _UNREAD
            if picture is None:
                position, picture = self._next(position)
        except InputError as error:
            return error
        if self._seed is not None:
            seed_all(seed_of(self._seed, epoch, _PICTURE, position))
        return self._change(picture), self._pictures.label(position)

    def _next(self, position: int) -> tuple[int, Image.Image]:
        """The first picture behind a position, or else from the start, that can be read."""
        for place in (*range(position + 1, len(self._pictures)), *range(position)):
            if (picture := self._pictures.picture(place, least=self._least)) is not None:
                return place, picture
        raise InputError(f"{self._pictures.source}: no picture to train on can be read")


def _mend_posterize(change: Any) -> None:
    """Let RandAugment posterize to no bits, which is black: timm 1.0.31 asks for it, and Pillow 12 refuses."""
    for part in change.transforms:
        for op in getattr(part, "ops", ()):
            if op.name.startswith("Posterize"):
                op.aug_fn = _posterize


def _posterize(picture: Image.Image, bits: int, **options: Any) -> Image.Image:  # noqa: ARG001 - timm gives all ops some
    if bits < 1:
        return Image.new(picture.mode, picture.size)
    return picture if bits >= _BITS else ImageOps.posterize(picture, bits)


@dataclass(frozen=True, slots=True)
class _Middle:
    """Frames a picture as `nas evaluate` does, as bytes (3, H, H)."""

    protocol: Protocol

    def __call__(self, picture: Image.Image) -> Tensor:
        part = self.protocol.frame(picture)
        pixels = torch.frombuffer(bytearray(part.tobytes()), dtype=torch.uint8)
        return pixels.reshape(part.height, part.width, 3).permute(2, 0, 1).contiguous()


def _normalisation(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What bytes are multiplied by, and what is added then."""
    deviation = torch.tensor(std, device=device)
    scale = (1 / (255 * deviation)).view(1, 3, 1, 1)
    return scale, (-torch.tensor(mean, device=device) / deviation).view(1, 3, 1, 1)
