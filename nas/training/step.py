"""One step of a supernet's training: the sandwich rule, on weights that all networks of a space share.

Each step trains the largest network on the labels, which may be those of a teacher (teacher.py). Then it trains the
smallest network and two random networks on the largest network's predictions for the same images. This is the sandwich
rule with in-place distillation (arXiv:1903.05134). With a limit, only networks inside it are drawn, and the largest of
200 such networks replaces the largest network of the space.
"""

from __future__ import annotations

import math
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from nas.data import ImageSet, validation_batches
from nas.data.image_set import middle_pixels
from nas.errors import BudgetError, InputError, NasError
from nas.networks import Architecture, Layer, SearchSpace, count, operations, random_choice
from nas.networks.modules import SharedWeights, inherit, load_donor, skeleton
from nas.training.recipe import Optimizer, autocast, calibrate_norms, calibration_batches, initial_network, judged
from nas.training.supernet import BUILDERS, Origin, Supernet, write_supernet

__all__ = ["Limit", "Sandwich"]

T = TypeVar("T")
_POOL = 200
_POOL_DRAWS = 100_000  # drawing them takes a minute or two
_STEP_DRAWS = 500
_LOOK_IMAGES = 512  # held out, to see how far the training is; half as many for the batch norms


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A rule that restricts a supernet to some networks of its space.

    Attributes:
        admits: returns whether the supernet is for this network.
        words: the rule in words, such as "at most 1.1 ms under iphone13.coreml.fp16 (DIGEST)".
    """

    admits: Callable[[Architecture], bool]
    words: str


class Sandwich:
    """Weights and optimizer of a supernet during training, and the number of steps done.

    Args:
        space: the networks to train.
        origin: what they are trained on, and how.
        device: where to train.
        init: file of the weights to start from.
        limit: restricts the training to some networks.
        weights_key: which weights of `init` to take, if the file has several.
    """

    def __init__(
        self,
        space: SearchSpace,
        origin: Origin,
        device: torch.device,
        init: Path | None,
        limit: Limit | None,
        *,
        weights_key: str | None = None,
    ) -> None:
        self._space, self._origin, self._device = space, origin, device
        self.done = 0
        recipe = origin.recipe
        sizes = {"resolution": origin.resolution, "num_classes": origin.num_classes}
        kinds: set[str] = {
            kind for stage in space.stages if any(stage.attention.depth) for kind in stage.attention.kind
        }
        largest = [_largest(space, kind).at(**sizes) for kind in sorted(kinds) or ["none"]]
        self._build = BUILDERS[origin.task]
        networks = [initial_network(network, seed=origin.seed, build=self._build) for network in largest]
        if init is not None:
            known = space.references | SearchSpace.find("iformer").references
            donor = load_donor(init, known, weights_key=weights_key)
            for network in networks:
                inherit(network, donor)
        weights = SharedWeights.holding(networks)
        self.weights = SharedWeights(
            {name: nn.Parameter(_laid_out(tensor.to(device))) for name, tensor in weights.tensors.items()}
        )
        # The weights averaged over the last steps, if the recipe asks for it.
        self.averaged = (
            {name: tensor.detach().clone() for name, tensor in self.weights.tensors.items()} if recipe.average else None
        )
        self._optimizer = Optimizer(
            self.weights.tensors.values(),
            matrix_rate=recipe.matrix_rate,
            rate=recipe.rate,
            weight_decay=recipe.weight_decay,
        )
        self._limit, self._sizes = limit, sizes
        self._pool = self._wanted(seed=-1, number=_POOL, draws=_POOL_DRAWS) if limit else []
        if limit and not self._pool:
            raise BudgetError(f"of {_POOL_DRAWS} random networks of the space none is {limit.words}")
        teacher = max(self._pool, key=lambda network: count(network).macs, default=largest[-1])
        self._ends = (teacher, space.extreme(_macs).at(**sizes))

    def losses(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Add up the gradients of all networks of the sandwich; return the losses of the largest and the smallest."""
        recipe = self._origin.recipe
        drawn = self._drawn(seed=self.done, number=recipe.random_networks)
        logits = self._logits(self._ends[0], images)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing, reduction="sum")
        loss = loss / self._counted(labels)
        loss.backward()  # type: ignore[no-untyped-call]
        told = logits.detach().softmax(1)
        losses = [loss.item()]
        for architecture in (self._ends[1], *drawn):
            loss = F.cross_entropy(self._logits(architecture, images), told)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
        if not all(map(math.isfinite, losses)):
            raise NasError(
                f"training diverged in step {self.done + 1}: the losses are {losses}; remove the checkpoint, "
                "and try another --seed or a larger --batch-size"
            )
        return losses[0], losses[1]

    @staticmethod
    def _counted(labels: Tensor) -> int:
        """Labels of which a loss is the mean; one if no pixel of a batch is known."""
        return max(1, int((labels >= 0).sum())) if labels.ndim > 2 else len(labels)

    def update(self, share: float) -> None:
        """Update the weights by the mean gradients of all processes, with `share` of the learning rates."""
        self._reduce_gradients()
        with _uninterrupted():  # A training cannot resume from weights that are only partly updated.
            self._optimizer.step(share)
            self.done += 1
            if self.averaged is not None:
                self._add_to_average(self.averaged)

    @property
    def result(self) -> dict[str, Tensor]:
        """The weights to keep: averaged over the last steps where the recipe says so, else the last ones."""
        return self.averaged or self.weights.tensors

    def learnt_nats(self, images: ImageSet) -> tuple[float, float]:
        """How much the largest network knows about the held-out labels, and how much there is to know, in nats.

        This is by how much its cross-entropy is below that of guessing without a look at the image, which is
        log(classes); 1 nat makes the right label e times as likely. A teacher's labels have an entropy of their own, so
        that less can be known, and guessing says their mean. Guessing of pixels says how common each class is.
        Measured with the weights to keep, on at most 512 held-out images, evenly spaced.
        """
        supernet = Supernet(
            weights=SharedWeights({name: tensor.detach() for name, tensor in self.result.items()}),
            resolution=self._origin.resolution,
            num_classes=self._origin.num_classes,
            seed=self._origin.seed,
            task=self._origin.task,
        )
        precision = self._origin.precision or "fp32"
        network = supernet.network(self._ends[0])
        calibrate_norms(
            network, calibration_batches(images, images=_LOOK_IMAGES // 2, seed=self._origin.seed), precision=precision
        )
        every = math.ceil(len(images.val_labels) / _LOOK_IMAGES)  # They may be in the order of their classes.
        looked_at = replace(images, val_images=images.val_images[::every], val_labels=images.val_labels[::every])
        batches = validation_batches(looked_at, batch_size=128)
        entropies = [judged(network, *batch, precision=precision).entropies for batch in batches]
        least, guessing = _bounds(looked_at.val_labels, self._origin.num_classes)
        return guessing - torch.cat(entropies).mean().item(), guessing - least

    def _add_to_average(self, averaged: dict[str, Tensor]) -> None:
        """Take the last weights into an average that goes back over a share of all steps so far."""
        share = 1 / (1 + self._origin.recipe.average * self.done)
        with torch.no_grad():
            for name, tensor in self.weights.tensors.items():
                averaged[name].lerp_(tensor, share)

    def _drawn(self, *, seed: int, number: int) -> list[Architecture]:
        """Random networks of the space that the limit admits; the same networks in every process."""
        fresh = self._wanted(seed=seed, number=number, draws=_STEP_DRAWS * number)
        missing = number - len(fresh)
        return fresh + random.Random(seed).choices(self._pool, k=missing) if missing else fresh

    def _wanted(self, *, seed: int, number: int, draws: int) -> list[Architecture]:
        choose = random_choice(seed=self._origin.seed * 1_000_003 + seed)
        sampled = (self._space.sample(choose) for _ in range(draws))
        wanted = (network for network in sampled if self._limit is None or self._limit.admits(network))
        return [network.at(**self._sizes) for network in islice(wanted, number)]

    def _logits(self, architecture: Architecture, images: Tensor) -> Tensor:
        network = skeleton(architecture, self._build)
        with autocast(self._device, self._origin.precision or "fp32"):
            logits: Tensor = functional_call(network, self.weights.part(network), (images,))
        return logits.float()

    def _reduce_gradients(self) -> None:
        """Replace the gradients of every process by their mean over all processes."""
        if not dist.is_initialized():
            return
        for tensor in self.weights.tensors.values():
            if tensor.grad is not None:
                dist.all_reduce(tensor.grad)
                tensor.grad /= dist.get_world_size()

    def save(self, path: Path) -> None:
        """Save everything that the next step needs."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.tensors.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self._optimizer.state().items()}
        tensors |= {f"averaged/{name}": tensor for name, tensor in (self.averaged or {}).items()}
        write_supernet(path, tensors, self._origin, done=self.done)

    def resume(self, path: Path, tensors: Mapping[str, Tensor], origin: Origin, done: int) -> None:
        """Resume from a checkpoint, as `read_supernet` returns it."""
        if differing := self._origin.differing(origin):
            before, now = origin.contents, self._origin.contents
            words = before.difference(now) if before and now else ""
            raise InputError(
                f"{path} is of a training with another {', '.join(differing)}{f' ({words})' if words else ''}: "
                "repeat its options, or remove it to begin anew"
            )
        if self.averaged is not None and not any(name.startswith("averaged/") for name in tensors):
            raise InputError(f"{path} has no averaged weights, as an earlier version wrote it: remove it to begin anew")
        self.done = done
        with torch.no_grad():
            for name, tensor in self.weights.tensors.items():
                tensor.copy_(tensors[f"weights/{name}"])
            for name, tensor in (self.averaged or {}).items():
                tensor.copy_(tensors[f"averaged/{name}"])
        own = (name for name in tensors if name.startswith("optimizer/"))
        self._optimizer.load({name.removeprefix("optimizer/"): tensors[name] for name in own})


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay SIGINT (Ctrl-C), SIGTERM (sent by `kill`) and SIGHUP (the terminal is gone) until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # Only the main thread handles signals.
        yield
        return
    arrived: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # none on Windows
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])


def _bounds(labels: Tensor, classes: int) -> tuple[float, float]:
    """Cross-entropies in nats of a perfect network, and of one that guesses without looking at the images."""
    if labels.ndim > 2:
        shares = torch.bincount(middle_pixels(labels).flatten().long(), minlength=classes)[:classes].double()
        return 0.0, max(torch.special.entr(shares / shares.sum()).sum().item(), 1e-6)
    if not labels.is_floating_point():
        return 0.0, math.log(max(2, classes))
    # Of 1000 classes most occur in no image, so that guessing by the mean label is far below log(1000).
    least, guessing = (torch.special.entr(rows).sum(-1).mean().item() for rows in (labels, labels.mean(0)))
    return least, max(guessing, least + 1e-6)  # equal if all images have the same label


def _largest(space: SearchSpace, kind: str) -> Architecture:
    """The network whose every tensor has the largest size, with attention of `kind` wherever the space allows it."""

    def choose(name: str, options: Sequence[T]) -> T:
        if name.endswith("attention.kind"):
            return next((option for option in options if option == kind), options[0])
        if name.endswith("placement"):
            return options[0]
        if name.endswith(("query_reduction", "head_channels")):
            return min(options)  # type: ignore[type-var]
        return max(options)  # type: ignore[type-var]

    # Widths that a tool would change to make them differ must not get smaller.
    return space.model_copy(update={"must_fit": None}).sample(choose)


def _macs(layer: Layer) -> float:
    return sum(operation.macs for operation in operations(layer))


def _laid_out(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor.contiguous()
