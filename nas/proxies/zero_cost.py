"""Zero-cost measures: scores of a network from its size, or from its untrained weights.

    params, macs     parameters and multiply-adds as deployed, from the architecture alone
    synflow          how much flows through all paths (Tanaka et al. 2020, arXiv:2006.05467)
    naswot           how differently the network responds to different images (Mellor et al. 2021, arXiv:2006.04647)
    gradient-norm    length of the loss gradient (Abdelfattah et al. 2021, arXiv:2101.08134)
    zico             how steady the gradient is from batch to batch (Li et al. 2023, arXiv:2301.11300)

A score ranks networks; it is not an accuracy. The last three measures see one batch of training images at
initialisation. Their batch norms normalise by that batch, as in the papers. synflow sees one image of ones, and has no
batch norms.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, assert_never

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.data import ImageSet, load_images, training_batches
from nas.errors import InputError
from nas.files import Record
from nas.networks import Architecture, count
from nas.networks.modules import Network
from nas.networks.modules.attention import Attention
from nas.proxies import NO_IMAGES, Inputs, Score, ScoringFailed
from nas.proxies._torch import circumstances, data_settings
from nas.training.recipe import memory_failures, seeded_network, usable_device

__all__ = ["VARIANT", "Counted", "Options", "ZeroCost", "build", "gradient_norm", "naswot", "synflow", "zico"]

SizeMeasure = Literal["params", "macs"]
NetworkMeasure = Literal["synflow", "naswot", "gradient-norm", "zico"]

_ZICO_BATCHES = 4
_LEAST_IMAGES = 2 * _ZICO_BATCHES  # a batch norm needs two images per batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Scores by size, counted as in the paper's tables, at the architecture's own resolution.

    Attributes:
        measure: quantity that is counted.
        data: source that the caller asked for; recorded, but not opened.
        seed: recorded, but not used.
    """

    measure: SizeMeasure
    data: str = "synthetic"
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """The name and the arguments."""
        recorded = {"data": self.data, "fingerprint": NO_IMAGES, "seed": self.seed}
        return {"proxy": "zero-cost", **recorded, "measure": self.measure}

    def estimate_seconds(self, architecture: Architecture) -> float:  # noqa: ARG002 - any network is counted at once
        """Zero: counting takes no time."""
        return 0.0

    def score(self, architecture: Architecture) -> Score:
        """Number of parameters or multiply-adds."""
        counts = count(architecture)
        value = counts.params if self.measure == "params" else counts.macs
        return Score(value=float(value), seconds=0.0, details={})


class ZeroCost:
    """Scores untrained networks, all with the same seed on the same images.

    Args:
        image_set: source of the batch; it also sets the resolution and the number of classes.
        measure: measure to compute.
        batch_size: number of images in total, limited to the number of training images.
        seed: random seed of the weights and of the choice of images.
        device: `cpu`, `cuda`, `cuda:1`, ...
    """

    def __init__(
        self, *, image_set: ImageSet, measure: NetworkMeasure, batch_size: int, seed: int, device: str
    ) -> None:
        self._data, self._classes = data_settings(image_set), image_set.num_classes
        self._resolution = image_set.resolution
        self._measure = measure
        self._batch_size = min(batch_size, len(image_set.train_labels))
        self._seed = seed
        self._device = torch.device(device)
        batches = training_batches(image_set, batch_size=self._batch_size, steps=1, seed=seed)
        self._images, self._labels = (part.to(self._device) for part in next(batches))

    def settings(self) -> dict[str, Any]:
        """Measure, data, seed and environment: what `build` needs to score again, and what explains a difference."""
        return {
            "proxy": "zero-cost",
            **self._data,
            "resolution": self._resolution,
            "seed": self._seed,
            "measure": self._measure,
            "batch_size": self._batch_size,
            **circumstances(self._device),
        }

    def estimate_seconds(self, architecture: Architecture) -> float:
        """Seconds to score this network, measured by scoring it once."""
        return self.score(architecture).seconds

    def score(self, architecture: Architecture) -> Score:
        """Build the network and compute the measure.

        Raises:
            ScoringFailed: the measure is not a finite number, or memory ran out.
        """
        with memory_failures(f"{self._device} with {self._batch_size} images of {self._resolution} px", ScoringFailed):
            start = time.perf_counter()
            value = self._compute(self._build(architecture))
            seconds = time.perf_counter() - start
        if not math.isfinite(value):
            raise ScoringFailed(f"{self._measure} of the untrained network is {value}, not a finite number")
        return Score(value=value, seconds=seconds, details={"images": self._batch_size, "classes": self._classes})

    def _build(self, architecture: Architecture) -> Network:
        scaled = architecture.at(resolution=self._resolution, num_classes=self._classes)
        network = seeded_network(scaled, seed=self._seed)
        network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _compute(self, network: Network) -> float:
        match self._measure:
            case "synflow":
                return synflow(network, self._images)
            case "naswot":
                return naswot(network, self._images)
            case "gradient-norm":
                return gradient_norm(network, self._images, self._labels)
            case "zico":
                return zico(network, self._images, self._labels)
            case _:
                assert_never(self._measure)


def synflow(network: nn.Module, images: Tensor) -> float:
    """log10 of the sum over parameters of |theta * dR/dtheta|, where R is the summed output for one image of ones.

    Every parameter is replaced by its absolute value and every batch norm by the identity (arXiv:2101.08134), so that
    nothing cancels. The computation is in float64, because R grows by orders of magnitude per layer.

    In a network of convolutions and ReLU the sum adds up, over all paths, the product of the weights on a path. Here
    this is nearly true: a residual connection adds the paths of its branch, and GELU passes a large input whole and a
    small input by half. Softmax saturates with such large values: each token takes the values of one token, and queries
    and keys add nothing (0 in iFormer-M at 64 px). In the original network, batch norms keep the inputs of sigmoids
    around 0. Without them sigmoids would saturate as well, and hide values and gates. So `shma` is computed as `sha`,
    without sigmoids and without its gate.

    Args:
        network: in any state; it is copied, not changed.
        images: (B, ...); only their shape is used.
    """
    network = copy.deepcopy(network).double()
    for module in list(network.modules()):
        if isinstance(module, Attention) and module.kind == "shma":
            module.kind = "sha"
            values, _ = module.value.conv.weight.chunk(2)
            module.value.conv.weight = nn.Parameter(values)
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    parameters = list(network.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.abs_()
    ones = torch.ones(1, *images.shape[1:], dtype=torch.float64, device=images.device)
    gradients = torch.autograd.grad(network(ones).sum(), parameters)
    flows = [(parameter * gradient).abs().sum() for parameter, gradient in zip(parameters, gradients, strict=True)]
    return torch.stack(flows).sum().log10().item()


@torch.no_grad()
def naswot(network: nn.Module, images: Tensor) -> float:
    """Log-determinant of the kernel K[i, j] = units - (units in which the codes of images i and j differ).

    In the paper, the code of an image says which ReLUs are active. Here the code has one bit for every unit of every
    GELU: whether its input is positive, that is, whether a ReLU would be active. The sigmoids of attention have no such
    threshold and are left out.

    Args:
        network: in train mode, to normalise by this batch.
        images: (N, 3, H, W).
    Returns:
        The log-determinant; -inf if two images have the same code, nan if an output is not finite.
    """
    # N images, U units of one activation
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def add(module: nn.Module, inputs: tuple[Tensor]) -> None:  # noqa: ARG001
        # In window attention the batch is windows * N: all images of the first window, then of the second, and so on.
        positive = torch.unflatten(inputs[0], 0, (-1, len(images))).transpose(0, 1).flatten(1) > 0
        signs = torch.where(positive, 1.0, -1.0)  # (N, U)
        # signs @ signs.T = (number of equal signs) - (number of different signs). These are whole numbers; float32 adds
        # them exactly up to 16.7 million units.
        kernel.add_((signs.shape[1] + signs @ signs.T) / 2)

    hooks = [module.register_forward_pre_hook(add) for module in network.modules() if isinstance(module, nn.GELU)]
    outputs = network(images)
    for hook in hooks:
        hook.remove()
    if not outputs.isfinite().all():
        return math.nan
    sign, log_determinant = torch.linalg.slogdet(kernel)
    return log_determinant.item() if sign > 0 else -math.inf


def gradient_norm(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over parameters of the L2 norm of the cross-entropy's gradient.

    Args:
        network: in train mode, to normalise by this batch.
        images: (N, 3, H, W).
        labels: (N,).
    """
    gradients = _gradients(network, list(network.parameters()), images, labels)
    return torch.stack([gradient.norm() for gradient in gradients]).sum().item()


def zico(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over layers of log(sum over weights of mean |g| / std g), g the loss gradient in each of four batches.

    A layer is a convolution or a linear layer. Weights whose gradient is the same in all batches are left out, such as
    the kernel taps that reach over the border of a small feature map. A layer with only such weights is left out too:
    queries and keys on a feature map of one pixel. The paper's equation has the standard deviation of |g|; this
    function uses the standard deviation of g.

    With few batches of an untrained network, mean and standard deviation are much alike. So the score mostly counts
    layers: it is 968 for iFormer-M at 64 px, where the sum over layers of log(number of weights) is 961.

    Args:
        network: in train mode, to normalise by each batch.
        images: (N, 3, H, W), N at least 8; split in order into four batches.
        labels: (N,).
    """
    layers = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    batches = zip(images.tensor_split(_ZICO_BATCHES), labels.tensor_split(_ZICO_BATCHES), strict=True)
    gradients = [_gradients(network, layers, *batch) for batch in batches]
    total = 0.0
    for layer in zip(*gradients, strict=True):
        stacked = torch.stack(layer).double()  # (batches, ...)
        deviation = (stacked - stacked.mean(0)).square().mean(0).sqrt()  # with std(0) iFormer-M takes 1.6 s, not 0.7 s
        varied = deviation != 0
        if varied.any():
            total += (stacked.abs().mean(0)[varied] / deviation[varied]).sum().log().item()
    return total


def _gradients(network: nn.Module, parameters: Sequence[Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(F.cross_entropy(network(images), labels), parameters)


VARIANT = "measure"


class Options(Record):
    """Options of the zero-cost proxy.

    Attributes:
        measure: measure to score by.
        resolution: height and width of the images in pixels; `params` and `macs` use no images.
        batch_size: number of images that a network sees, if the measure uses images.
    """

    measure: SizeMeasure | NetworkMeasure = "zico"
    resolution: Annotated[int, Field(ge=32, multiple_of=32)] = 64
    batch_size: Annotated[int, Field(ge=_LEAST_IMAGES)] = 64


def build(options: Options, inputs: Inputs) -> Counted | ZeroCost:
    """Choose the device, load the images if the measure uses any, and build the proxy.

    Raises:
        InputError: the data cannot be read or has too few images, or the device cannot be used.
    """
    if options.measure == "params" or options.measure == "macs":
        return Counted(measure=options.measure, data=str(inputs.data), seed=inputs.seed)
    device = usable_device(inputs.device)
    image_set = load_images(
        inputs.data,
        resolution=options.resolution,
        seed=inputs.seed,
        train_limit=options.batch_size,
        val_limit=1,  # validation images are not used
        progress=inputs.progress,
    )
    if len(image_set.train_labels) < _LEAST_IMAGES:
        raise InputError(
            f"{inputs.data}: {len(image_set.train_labels)} training images, zero-cost needs at least {_LEAST_IMAGES}"
        )
    return ZeroCost(
        image_set=image_set, measure=options.measure, batch_size=options.batch_size, seed=inputs.seed, device=device
    )
