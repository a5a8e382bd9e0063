"""Segmentation as a task of the training loop: Semantic FPN over a backbone, as in mmsegmentation.

The defaults are those of the paper's ADE20K runs (40k steps of 32 crops of 512 px), with whole pictures judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.data import UNKNOWN
from nas.dense.backbones import STRIDES, Backbone
from nas.dense.masks import Masked, MaskFolder
from nas.dense.stream import Stream
from nas.files import Record
from nas.networks.modules.outside import torchvision_part
from nas.training.agreement import agreement, confusion
from nas.training.optimisation import Optimisation
from nas.training.processes import processes, rank

__all__ = ["SEGMENTATION", "Segmentation", "SegmentationTask", "Segmenter"]

# 20 epochs of 2,000 steps.
SEGMENTATION = Optimisation(
    epochs=20, batch_size=32, rate=2e-4, lowest_rate=1e-6, weight_decay=1e-4, schedule="poly", warmup_epochs=0.0
)
# Each is done to every second picture.
_DISTORTIONS = {"brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05)}
_TRIES = 10  # crops that are looked at for one with more than one class, as in mmsegmentation


class Segmentation(Record):
    """How a segmenter is built, and what its pictures are changed by.

    Attributes:
        steps: of an epoch; None for as many as the pictures give.
        crop: height and width of what is trained on.
        short: pixels of a picture's short side, to judge, and to train on before `scales`.
        long: most pixels of its long side, in the same way.
        scales: least and largest factor that the size is changed by.
        most_of_a_class: share of a crop's known pixels that one class may have; otherwise another crop is looked for.
        distort: whether brightness, contrast, saturation and hue are changed.
        channels: of the feature pyramid.
        decoder: channels of the decoder.
        dropout: before the classifier.
    """

    steps: Annotated[int, Field(gt=0)] | None = 2000
    crop: int = Field(512, gt=0)
    short: int = Field(512, gt=0)
    long: int = Field(2048, gt=0)
    scales: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    most_of_a_class: float = Field(0.75, gt=0, le=1)
    distort: bool = True
    channels: int = Field(256, gt=0)
    decoder: int = Field(128, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)


class SemanticDecoder(nn.Module):
    """Semantic FPN (arXiv:1901.02446), maps of a pyramid at strides 4 to 32 to logits (B, classes, H/4, W/4).

    Each map is convolved and doubled until it has stride 4, all are added, and a 1x1 convolution classifies.
    """

    def __init__(self, *, channels: int, inner: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.scales = nn.ModuleList()
        for stride in STRIDES:
            doublings = (stride // STRIDES[0]).bit_length() - 1
            parts: list[nn.Module] = []
            for index in range(max(1, doublings)):
                convolution = nn.Conv2d(channels if index == 0 else inner, inner, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                parts += [convolution, nn.BatchNorm2d(inner), nn.ReLU(inplace=True)]
                if doublings:
                    parts.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            self.scales.append(nn.Sequential(*parts))
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(inner, classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        assert self.classify.bias is not None
        nn.init.zeros_(self.classify.bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Logits at the size of the first map."""
        first, *others = (scale(x) for scale, x in zip(self.scales, maps, strict=True))
        for x in others:  # A map of an odd height is doubled to one more.
            first = first + F.interpolate(x, first.shape[2:], mode="bilinear")
        return self.classify(self.dropout(first))  # type: ignore[no-any-return]


class Segmenter(nn.Module):
    """A backbone, a feature pyramid and Semantic FPN: normalised images (B, 3, H, W) to logits (B, classes, H/4, W/4).

    Raises:
        InputError: torchvision is missing or does not load.
    """

    def __init__(self, body: Backbone, *, classes: int, recipe: Segmentation) -> None:
        super().__init__()
        ops = torchvision_part("torchvision.ops.feature_pyramid_network", needed_for="segmentation")
        self.backbone = body
        self.neck = ops.FeaturePyramidNetwork(list(body.channels), recipe.channels)
        self.decoder = SemanticDecoder(
            channels=recipe.channels, inner=recipe.decoder, classes=classes, dropout=recipe.dropout
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits at stride 4."""
        return self.decoder(list(self.neck(self.backbone(images)).values()))  # type: ignore[no-any-return]


class SegmentationTask:
    """A segmenter, the pictures it is trained on, and those it is judged on; `of` makes one.

    Attributes:
        module: a `Segmenter`.
        best: mean intersection over union.
        steps: of an epoch.
        class_names: in the order of the logits.
    """

    best = "miou"

    def __init__(
        self,
        module: Segmenter,
        source: MaskFolder,
        *,
        recipe: Segmentation,
        optimisation: Optimisation,
        device: torch.device,
        seed: int,
        workers: int = 0,
    ) -> None:
        self.module: nn.Module = module
        self.class_names = source.class_names
        self._source, self._recipe, self._device = source, recipe, device
        mean, std = module.backbone.normalisation.mean, module.backbone.normalisation.std
        self._mean, self._std = (torch.tensor(value, device=device).view(1, 3, 1, 1) * 255 for value in (mean, std))
        self.steps = recipe.steps or max(1, len(source.train) // optimisation.batch_size)
        self._stream = Stream(
            read=_Reader(pictures=source.train, classes=len(source.class_names), recipe=recipe),
            images=len(source.train),
            batch_size=optimisation.batch_size,
            steps=self.steps,
            seed=seed,
            accumulate=optimisation.accumulate,
            workers=workers,
        )

    @classmethod
    def of(
        cls,
        network: Backbone,
        source: MaskFolder | Path,
        *,
        recipe: Segmentation | None = None,
        optimisation: Optimisation = SEGMENTATION,
        device: torch.device | str = "cpu",
        seed: int = 0,
        workers: int = 0,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Self:
        """A task for a network of `nas.backbone`; the other weights are drawn from `seed`.

        Args:
            network: to train further.
            source: a folder, or what `MaskFolder.read` found in it.
            recipe: how the segmenter is built and pictures are changed; by default as in the paper.
            optimisation: of the loop.
            device: of the training.
            seed: of weights, order and changes.
            workers: processes that decode; 0 decodes in this one.
            progress: called while masks are counted.
        Raises:
            InputError: the folder cannot be used, the batch cannot be divided, or torchvision is missing.
        """
        folder = source if isinstance(source, MaskFolder) else MaskFolder.read(source, seed=seed, progress=progress)
        recipe = recipe or Segmentation()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = Segmenter(network, classes=len(folder.class_names), recipe=recipe)
        device = torch.device(device)
        if processes() > 1 and device.type == "cuda":
            module.decoder = nn.SyncBatchNorm.convert_sync_batchnorm(module.decoder)  # type: ignore[no-untyped-call]
        module.to(device)
        return cls(module, folder, recipe=recipe, optimisation=optimisation, device=device, seed=seed, workers=workers)

    def batches(self, epoch: int, *, done: int) -> Iterator[Any]:
        """Crops with their masks: lists of (3, crop, crop) bytes and (crop, crop) classes."""
        return self._stream.batches(epoch, done=done)

    def loss(self, module: nn.Module, batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, int]:
        """Cross-entropy of the known pixels, at the size of the crops."""
        images = self._normalised(torch.stack([picture for picture, _ in batch]))
        masks = torch.stack([mask for _, mask in batch]).to(self._device, dtype=torch.long)
        logits = F.interpolate(module(images).float(), masks.shape[1:], mode="bilinear")
        known = (masks != UNKNOWN).sum().clamp(min=1)  # Of a batch without a known pixel the mean is no number.
        return F.cross_entropy(logits, masks, ignore_index=UNKNOWN, reduction="sum") / known, len(batch)

    def judge(self, module: nn.Module) -> dict[str, float]:
        """Whole held-out pictures, one by one: mean IoU and the share of right pixels, in 0..1."""
        classes = len(self.class_names)
        counts = torch.zeros(classes, classes, dtype=torch.int64, device=self._device)
        for pair in self._source.val[rank() :: processes()]:
            picture, mask = _tensors(pair, classes)
            size = _inside(mask.shape, short=self._recipe.short, long=self._recipe.long)
            images = F.interpolate(picture[None].to(self._device).float(), size, mode="bilinear", antialias=True)
            logits = F.interpolate(module(self._normalised(images)).float(), mask.shape, mode="bilinear")
            counts += confusion(mask.to(self._device), logits[0].argmax(0), classes)
        if dist.is_initialized():
            dist.all_reduce(counts)
        return agreement(counts)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.to(self._device).float() - self._mean) / self._std


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Pictures and their masks, scaled, cropped, mirrored and distorted together.

    It is pickled to workers, so torchvision is not part of it.
    """

    pictures: tuple[Masked, ...]
    classes: int
    recipe: Segmentation

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        v2 = torchvision_part("torchvision.transforms.v2", needed_for="segmentation")
        tensors, functional, recipe = torchvision_part("torchvision.tv_tensors"), v2.functional, self.recipe
        picture, mask = _tensors(self.pictures[index], self.classes)
        factor = float(torch.empty(()).uniform_(*recipe.scales))
        size = _inside(mask.shape, short=recipe.short * factor, long=recipe.long * factor)
        image, classes = tensors.Image(picture), tensors.Mask(mask)
        image, classes = functional.resize(image, size, antialias=True), functional.resize(classes, size)
        below, right = max(0, recipe.crop - size[0]), max(0, recipe.crop - size[1])
        if below or right:
            image = functional.pad(image, [0, 0, right, below])
            classes = functional.pad(classes, [0, 0, right, below], fill=UNKNOWN)
        crops = (v2.RandomCrop(recipe.crop)(image, classes) for _ in range(_TRIES))
        for cut in crops:
            if _largest_share(cut[1]) <= recipe.most_of_a_class:
                break
        image, classes = v2.RandomHorizontalFlip()(*cut)
        if recipe.distort:
            # torchvision's RandomPhotometricDistort is SSD's, which also swaps colours; mmsegmentation's does not.
            for name, limits in _DISTORTIONS.items():
                image = v2.RandomApply([v2.ColorJitter(**{name: limits})])(image)
        # Plain tensors: what batches do to them is no change of pictures.
        return image.as_subclass(Tensor), classes.as_subclass(Tensor)


def _tensors(pair: Masked, classes: int) -> tuple[Tensor, Tensor]:
    picture, mask = pair.both(classes)
    return torch.from_numpy(picture.copy()), torch.from_numpy(mask.copy())  # writable, as torch wants them


def _inside(shape: torch.Size, *, short: float, long: float) -> list[int]:
    """Height and width of a picture that is scaled until its short or its long side is reached."""
    scale = min(short / min(shape), long / max(shape))
    return [max(1, round(side * scale)) for side in shape]


def _largest_share(mask: Tensor) -> float:
    """Share of the known pixels that the commonest class has; 1 if it is the only one, or none is known."""
    counts = torch.bincount(mask[mask != UNKNOWN].flatten().long())
    return float(counts.max() / counts.sum()) if (counts > 0).sum() > 1 else 1.0
