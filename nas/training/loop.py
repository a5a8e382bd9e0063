"""The loop of a full training: epochs, learning rate, average, checkpoints; on one device, or on several by torchrun.

What is trained is a `Task` (classify.py here, others in nas/dense). AdamW, DistributedDataParallel and the moving
average are torch's, the schedules timm's. Every step has random state of its own, made from the seed and its number,
so a training that was killed goes on from its checkpoint to the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nas.errors import InputError, NasError
from nas.training.checkpoint import Keeper, Kept
from nas.training.course import Begun, Epoch, Step, Watch
from nas.training.optimisation import Optimisation, adamw, moving_average, rates
from nas.training.processes import is_first, of_the_first, processes, rank
from nas.training.randomness import own_randomness, seed_all, seed_of
from nas.training.recipe import Precision, autocast, memory_failures

__all__ = ["Task", "train"]

_AVERAGE, _WEIGHTS, _OPTIMIZER = "average/", "weights/", "optimizer/"


class Task(Protocol):
    """What is trained, on which data, and how it is judged.

    Attributes:
        module: all that is trained, on its device.
        best: the figure of `judge` that decides which weights are the best; higher is better.
        steps: optimizer steps of an epoch, in each process.
    """

    module: nn.Module
    best: str
    steps: int

    def batches(self, epoch: int, *, done: int) -> Iterator[Any]:
        """The batches of an epoch from step `done` on: the same whenever they are asked for, by the seed and the epoch.

        With `Optimisation.accumulate` above 1 each is a list of as many parts.
        """
        ...

    def loss(self, module: nn.Module, batch: Any) -> tuple[Tensor, int]:
        """The loss of a batch, to be lowered, and its number of images.

        Args:
            module: `self.module`, perhaps wrapped, in train mode. The call is inside autocast.
            batch: from `batches`.
        """
        ...

    def judge(self, module: nn.Module) -> dict[str, float]:
        """Figures on held-out data; `module` is `self.module` or its moving average, in eval mode."""
        ...


def train(
    task: Task,
    optimisation: Optimisation,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    seed: int,
    device: torch.device,
    precision: Precision,
    is_compiled: bool = False,
    keep: Callable[[nn.Module, Epoch], None],
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train until the last epoch, or go on with what `folder` holds.

    checkpoint.safetensors is written every two minutes, after every epoch and when the training is interrupted between
    two steps, and metrics.jsonl after every epoch. Under torchrun each process calls this; the first one alone writes.

    Args:
        task: what is trained.
        optimisation: how.
        folder: for the files; it must be there.
        identity: what tells this training from others, JSON values; with another one a checkpoint is refused.
        seed: of all that is random.
        device: of `task.module`.
        precision: of matrix products and convolutions.
        is_compiled: let torch.compile translate the module first, which takes minutes.
        keep: writes the judged module of an epoch; called in the first process, before the checkpoint is written.
        on_step: called after every step, in the first process.
        on_epoch: called in the first process, after the checkpoint is written.
    Returns:
        All epochs.
    Raises:
        InputError: the checkpoint belongs to another training, or timm is missing.
        NasError: training diverged, memory ran out, or the disk is full.
    """
    run = _Run(task, optimisation, seed=seed, device=device, precision=precision, is_compiled=is_compiled)
    keeper = Keeper(folder, {**identity, **optimisation.model_dump(mode="json"), "seed": seed})
    begun = Begun()
    if found := keeper.read():
        run.go_on(*found)
        begun = found[0].begun
        if is_first():
            keeper.write_metrics(run.history)
    if of_the_first(float(run.done), device) != run.done:
        raise InputError(f"{folder}: the processes do not see the same checkpoint; give --out on a disk that all share")
    watch = Watch()
    with own_randomness(device):
        for number in range(len(run.history), optimisation.epochs):
            watch.begin(begun)
            begun = Begun()
            try:
                for batch in task.batches(number, done=run.done - number * task.steps):
                    run.step(batch, watch)
                    if is_first():
                        on_step(run.stands(number, watch.images_per_s))
                        if keeper.is_due():
                            keeper.save(run.kept(keeper.training, watch.begun), run.tensors())
            except KeyboardInterrupt as stopped:
                if is_first() and run.is_whole and keeper.lacks(run.done):
                    try:
                        keeper.save(run.kept(keeper.training, watch.begun), run.tensors())
                    except NasError as failure:  # a full disk makes no failure of a stop
                        stopped.add_note(str(failure))
                raise
            epoch = run.judge(number, watch)
            if is_first():
                keep(run.judged, epoch)
                keeper.save(run.kept(keeper.training, begun), run.tensors())
                on_epoch(epoch)
    return run.history


class _Run:
    """The state of a training, and its steps."""

    def __init__(
        self,
        task: Task,
        optimisation: Optimisation,
        *,
        seed: int,
        device: torch.device,
        precision: Precision,
        is_compiled: bool,
    ) -> None:
        self._task, self._optimisation, self._seed = task, optimisation, seed
        self._device, self._precision = device, precision
        self._steps = optimisation.epochs * task.steps
        self.done, self.images, self.loss = 0, 0, 0.0
        self.is_whole = True  # not in the middle of a step, which has changed weights or statistics already
        self.history: list[Epoch] = []
        self._optimizer = adamw(task.module, optimisation)
        self._set_rate = rates(self._optimizer, optimisation, task.steps)
        self._average = moving_average(task.module, optimisation.ema)
        module: nn.Module = task.module
        if is_compiled:
            module = torch.compile(module)  # type: ignore[assignment]
        if dist.is_initialized():
            module = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)
        self._module = module.train()

    @property
    def judged(self) -> nn.Module:
        """The network that is judged and kept."""
        return self._task.module if self._average is None else self._average.module

    def step(self, batch: Any, watch: Watch) -> None:
        """One step, which the watch counts.

        Raises:
            NasError: the loss is not a number, or memory ran out.
        """
        seed_all(seed_of(self._seed, self.done, rank()))
        self._set_rate(self.done)
        self.is_whole = False
        parts = batch if self._optimisation.accumulate > 1 else [batch]
        total, images = 0.0, 0
        sizes = f"{self._optimisation.batch_size} images a step"
        with memory_failures(f"{self._device} with {sizes}; try a smaller batch_size, or accumulate", NasError):
            for index, part in enumerate(parts):
                is_last = index == len(parts) - 1
                waits = isinstance(self._module, DistributedDataParallel) and not is_last
                with self._module.no_sync() if waits else nullcontext():  # type: ignore[operator]
                    with autocast(self._device, self._precision):
                        loss, count = self._task.loss(self._module, part)
                    (loss / len(parts)).backward()  # type: ignore[no-untyped-call]
                total, images = total + float(loss.detach()) / len(parts), images + count
            if not math.isfinite(total):
                raise NasError(f"training diverged in step {self.done + 1}: try a lower rate, or a longer warm-up")
            if self._optimisation.clip:
                nn.utils.clip_grad_norm_(self._task.module.parameters(), self._optimisation.clip)
            self._optimizer.step()
            self._optimizer.zero_grad()
            if self._average is not None:
                self._average.update_parameters(self._task.module)
        images *= processes()
        self.done, self.images, self.loss = self.done + 1, self.images + images, total
        watch.count(images, total)
        self.is_whole = True

    def stands(self, number: int, images_per_s: float) -> Step:
        """Where the training stands, for who watches."""
        epochs = self._optimisation.epochs
        return Step(
            done=self.done,
            steps=self._steps,
            epoch=number + 1,
            epochs=epochs,
            loss=self.loss,
            images_per_s=images_per_s,
        )

    def judge(self, number: int, watch: Watch) -> Epoch:
        """Judge the network at the end of an epoch."""
        watch.end()
        module = self.judged.eval()
        if dist.is_initialized():  # statistics of batch norms: each process has its own, the first one's are kept
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)
        with memory_failures(f"{self._device}, where the network is judged", NasError), torch.inference_mode():
            figures = self._task.judge(module)
        self._task.module.train()
        best = max((one.figures[self._task.best] for one in self.history), default=-math.inf)
        self._set_rate(self.done - 1)  # of the last step, also where that was before a kill
        epoch = Epoch(
            epoch=number + 1,
            step=self.done,
            images=self.images,
            loss=watch.mean_loss,
            rate=self._optimizer.param_groups[0]["lr"],
            seconds=round(watch.seconds, 3),
            images_per_s=round(watch.images_per_s, 1),
            figures=figures,
            is_best=figures[self._task.best] > best,
        )
        self.history.append(epoch)
        return epoch

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that the training goes on with, by name."""
        kept = {f"{_WEIGHTS}{name}": tensor for name, tensor in self._task.module.state_dict().items()}
        if self._average is not None:
            kept |= {f"{_AVERAGE}{name}": tensor for name, tensor in self._average.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            kept |= {f"{_OPTIMIZER}{index}/{part}": tensor for part, tensor in state.items()}
        return kept

    def kept(self, training: str, begun: Begun) -> Kept:
        """What the checkpoint says of the tensors, and of the epoch that has begun."""
        return Kept(training=training, done=self.done, images=self.images, history=tuple(self.history), begun=begun)

    def go_on(self, kept: Kept, tensors: Mapping[str, Tensor]) -> None:
        """Take what `kept` and `tensors` gave.

        Raises:
            InputError: the tensors are not those of this network.
        """
        try:
            self._load(tensors)
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise InputError("the checkpoint has the weights of another network; remove it to begin again") from error
        self.done, self.images, self.history = kept.done, kept.images, list(kept.history)

    def _load(self, tensors: Mapping[str, Tensor]) -> None:

        def named(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self._task.module.load_state_dict(named(_WEIGHTS))
        if self._average is not None:
            self._average.load_state_dict(named(_AVERAGE))
        content = self._optimizer.state_dict()
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        for key, tensor in named(_OPTIMIZER).items():
            index, _, part = key.partition("/")
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:  # the fused step needs the memory format of the parameter
                tensor = torch.empty_like(parameter).copy_(tensor)
            content["state"].setdefault(int(index), {})[part] = tensor
        self._optimizer.load_state_dict(content)
