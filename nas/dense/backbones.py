"""A network as the backbone of a detector or a segmenter: its maps at strides 4 to 32, in torchvision's form.

::

    body = nas.backbone("iformer_m", resolution=512, window=16, weights="epoch_12.pth")
    maps = body(images)  # {"0": (B, 48, H/4, W/4), ... "3": (B, 384, H/32, W/32)}
    detector = torchvision.models.detection.FasterRCNN(body.pyramid(256), num_classes=91)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, assert_never

from pydantic import ValidationError
from torch import Tensor, nn

from nas.data import Normalisation
from nas.errors import InputError, visible
from nas.export.torch import LoadedNetwork, load
from nas.networks import Architecture, find_network, windowed
from nas.networks.modules import Network, build_model, load_weights
from nas.networks.modules.outside import torchvision_part
from nas.networks.modules.published import published_weights
from nas.training.record import BEST

__all__ = ["IMAGENET", "Backbone", "Norms", "Pyramid", "backbone"]

Norms = Literal["batch", "sync", "frozen"]

# Of the images that the published weights were trained on.
IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
STRIDES = (4, 8, 16, 32)
_TIMM = "timm"  # in place of a file of weights


class Backbone(nn.Module):
    """The four stages of a network, (B, 3, H, W) to an OrderedDict of (B, C, H/s, W/s) at the strides 4, 8, 16 and 32.

    The names of the maps are "0" to "3". Images may have any size: windows that do not divide a map are padded.

    Args:
        network: in training form. Its classifier is taken off.
        norms: `batch` learns and has statistics of each process; `sync` shares them between processes, on GPUs;
            `frozen` keeps weights and statistics as they are, for batches of very few images.
        normalisation: of the images that the network was trained on.
    """

    def __init__(self, network: Network, *, norms: Norms = "batch", normalisation: Normalisation = IMAGENET) -> None:
        super().__init__()
        network.layers[-1] = nn.Identity()  # DistributedDataParallel refuses parameters that get no gradient.
        self.network: Network = network
        if norms == "sync":
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.architecture = network.architecture
        self.channels = tuple(stage.channels for stage in network.architecture.stages)
        self.strides = STRIDES
        self.normalisation = normalisation
        self._frozen = [part for part in self.modules() if norms == "frozen" and isinstance(part, nn.BatchNorm2d)]
        for norm in self._frozen:
            norm.requires_grad_(False)
        self.train(network.training)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The maps of normalised images."""
        return OrderedDict((str(index), x) for index, x in enumerate(self.network.features(images)))

    def train(self, mode: bool = True) -> Self:
        """As of any module; frozen norms stay as they are."""
        super().train(mode)
        for norm in self._frozen:
            norm.eval()
        return self

    def pyramid(
        self, channels: int = 256, *, maps: Sequence[int] = (0, 1, 2, 3), extra: nn.Module | None = None
    ) -> Pyramid:
        """This backbone below a feature pyramid, as torchvision's detectors take it.

        With the defaults MaskRCNN and FasterRCNN take it. RetinaNet and FCOS begin at stride 8: they take
        `body.pyramid(256, maps=(1, 2, 3), extra=LastLevelP6P7(256, 256))`.

        Args:
            channels: of every map of the pyramid.
            maps: which maps of the backbone it is made of, from 0.
            extra: makes maps above stride 32; by default a max pool. Others are in
                `torchvision.ops.feature_pyramid_network`.
        Raises:
            InputError: torchvision is missing or does not load.
        """
        return Pyramid(self, channels=channels, maps=maps, extra=extra)


class Pyramid(nn.Module):
    """A backbone and a feature pyramid (arXiv:1612.03144), from torchvision.

    Attributes:
        out_channels: of every map.
    """

    def __init__(
        self, body: Backbone, *, channels: int, maps: Sequence[int] = (0, 1, 2, 3), extra: nn.Module | None = None
    ) -> None:
        super().__init__()
        ops = torchvision_part("torchvision.ops.feature_pyramid_network", needed_for="a feature pyramid")
        self.body = body
        self.maps = tuple(maps)
        inputs = [body.channels[index] for index in self.maps]
        self.fpn = ops.FeaturePyramidNetwork(inputs, channels, extra or ops.LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The maps, by default "0" to "3", and those that are made above them."""
        maps = self.body(images)
        chosen = OrderedDict((name, maps[name]) for name in map(str, self.maps))
        return self.fpn(chosen)  # type: ignore[no-any-return]


def backbone(
    network: str | Path | Architecture | Network,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    resolution: int | None = None,
    window: int | None = None,
    norms: Norms = "batch",
    drop_path: float = 0.0,
) -> Backbone:
    """A network without its classifier, for detection, segmentation and other dense tasks.

    Args:
        network: a known network, an architecture file, or a folder that `nas export --format torch` or `nas train`
            wrote, with its weights; or an architecture or a network.
        weights: a checkpoint, of classification or of mmdetection, mmsegmentation or nas itself; a folder as above; or
            `timm` for the weights that are published of a known network, `timm:NAME` for those of another name in timm.
            Without it, and without a folder or a network, weights are random.
        weights_key: which weights to take from it, if it has several.
        resolution: size of the images that windows are chosen for; by default as the network says.
        window: attend inside windows of this size in every stage with larger maps, and everywhere in the last attention
            unit of a stage, as published networks do at 512 px with 16; 0 for attention everywhere. By default as the
            architecture says.
        norms: `batch`, `sync` or `frozen`, as of `Backbone`.
        drop_path: stochastic depth rate of the last block.
    Raises:
        InputError: there is no such network, the window does not divide a map, or the weights do not fit.
        NasError: published weights cannot be downloaded.

    Examples:
        >>> import torch
        >>> body = backbone("tiny_a", resolution=64)
        >>> maps = body(torch.zeros(1, 3, 64, 96))
        >>> [tuple(x.shape) for x in maps.values()] == [
        ...     (1, channels, 64 // stride, 96 // stride) for channels, stride in zip(body.channels, body.strides)
        ... ]
        True
    """
    name, found = _found(network)
    architecture = found if isinstance(found, Architecture) else found.architecture
    try:
        architecture = architecture.at(resolution=resolution)
        if window is not None:
            architecture = windowed(architecture, window)
    except ValidationError as error:
        raise InputError.from_validation("resolution and window", error) from error
    normalisation = IMAGENET
    module = build_model(architecture, drop_path=drop_path)
    if isinstance(found, Network):
        normalisation = _copied(found, module)
    if weights is not None:
        path = Path(weights)
        if str(weights) == _TIMM or str(weights).startswith(f"{_TIMM}:"):
            published = published_weights(str(weights).partition(":")[2] or name)
            normalisation = Normalisation.model_validate({"mean": published.mean, "std": published.std})
            path = published.path
        if path.is_dir():
            _, donor = _found(path)
            assert isinstance(donor, Network)
            normalisation = _copied(donor, module)
        else:
            load_weights(module, path, head=False, weights_key=weights_key)
    return Backbone(module, norms=norms, normalisation=normalisation)


def _found(network: str | Path | Architecture | Network) -> tuple[str, Architecture | Network]:
    match network:
        case Architecture() | Network():
            return "network", network
        case str() | Path():
            folder = Path(network)
            exported = next((one for one in (folder, folder / BEST) if (one / "model.safetensors").exists()), None)
            if exported is not None:
                return folder.stem, load(exported)
            if folder.is_dir():
                said = visible(str(folder), limit=150)
                raise InputError(
                    f"{said}: is no exported network: nas export {said} --format torch writes one with its weights"
                )
            return find_network(str(network))
        case _:
            assert_never(network)


def _copied(source: Network, target: Network) -> Normalisation:
    """Take all weights but those of the classifier, and return how the pixels were normalised."""
    head = f"layers.{len(target.layers) - 1}."
    body: dict[str, Any] = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith(head)}
    own = {name: tensor for name, tensor in target.state_dict().items() if name.startswith(head)}
    try:
        target.load_state_dict(body | own)
    except RuntimeError as error:
        raise InputError(
            "these weights are of another architecture, or folded: a backbone needs a network before nas.fuse"
        ) from error
    return (source.card.normalisation if isinstance(source, LoadedNetwork) else None) or IMAGENET
