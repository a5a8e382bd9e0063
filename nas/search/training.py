"""What surrounds every training of `nas train`, whatever its task: its run, its folder, its record, and the loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import InputError
from nas.files import unwritten
from nas.lock import owned
from nas.search.budget import check_milliseconds
from nas.search.candidates import Candidate
from nas.search.records import versions
from nas.search.result import SearchResult

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nas.training.course import Epoch, Step
    from nas.training.loop import Task
    from nas.training.optimisation import Optimisation
    from nas.training.recipe import Precision
    from nas.training.record import TrainingRecord

__all__ = ["check_out", "decoders", "run_training", "winner_of"]

_MOST_WORKERS = 8
_LIBRARIES = ("nas", "torch", "timm", "torchvision", "pillow", "numpy")


def winner_of(network: object, budget_ms: float | None) -> tuple[SearchResult, Candidate] | None:
    """The run that is meant and its winner, inside a budget or of its largest; None if no run is meant.

    Raises:
        InputError: the run has no winner, or no run is meant and a budget is given.
    """
    run = network if isinstance(network, SearchResult) else None
    if isinstance(network, str | Path) and (Path(network) / "run.json").exists():
        run = SearchResult.load(Path(network))
    if run is None:
        if budget_ms is not None:
            raise InputError("--budget-ms chooses among the winners of a run: leave it out")
        return None
    if budget_ms is not None:
        check_milliseconds(budget_ms)
    winner = run.winner if budget_ms is None else run.winner_under(budget_ms)
    if winner is None:
        found = "no winner yet" if budget_ms is None else f"no network inside {budget_ms:g} ms"
        raise InputError(f"{run.path}: the run has {found}; nas search --resume goes on with it")
    return run, winner


def check_out(folder: Path) -> None:
    """Refuse a folder that holds anything but a training."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "training.json").exists():
        held = min(entry.name for entry in folder.iterdir())
        raise InputError(f"{folder}: holds {held}, and no training; choose another --out")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; a training is a folder; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(folder, error) from error


def decoders(asked: int | None) -> int:
    """How many processes decode: as asked, else one for each further core of this process, at most 8."""
    if asked is not None:
        return asked
    return min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def run_training(
    task: Task,
    optimisation: Optimisation,
    folder: Path,
    *,
    asked: Mapping[str, Any],
    seed: int,
    device: torch.device,
    precision: Precision | None,
    fastest: Callable[[], Precision],
    is_compiled: bool,
    command: tuple[str, ...],
    libraries: tuple[str, ...] = (),
    keep: Callable[[TrainingRecord, nn.Module, Epoch], None],
    plan: Callable[[TrainingRecord, bool], str],
    say: Callable[[str], None],
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> None:
    """Train a task, or go on with the training in a folder, which nobody else may write to meanwhile.

    Args:
        task: what is trained.
        optimisation: how.
        folder: where the record, the checkpoint and the epochs are kept.
        asked: what the record says of the task.
        seed: random seed.
        device: of this process.
        precision: of matrix products; by default that of the training that goes on, else `fastest`.
        fastest: chooses the precision of a new training.
        is_compiled: let torch.compile translate the module first.
        command: for the record.
        libraries: whose versions are kept as well.
        keep: keeps the weights of an epoch.
        plan: what is going to be done, in a line; told whether the training is new.
        say: gets that line, in the first process.
        on_step: called after every step, in the first process.
        on_epoch: called after every epoch, in the first process.
    Raises:
        InputError: the folder holds another training.
        NasError: training diverged, memory ran out, or the disk is full.
    """
    import torch

    from nas.training import loop
    from nas.training.processes import agreed, is_first, processes
    from nas.training.record import TrainingRecord, read_training, write_training

    found = read_training(folder)
    before = found[0] if found else None
    record = TrainingRecord(
        **asked,
        seed=seed,
        device=str(device) if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})",
        processes=processes(),
        threads=torch.get_num_threads(),
        precision=agreed(precision or (before.precision if before else fastest()), device),
        versions=versions(*_LIBRARIES, *libraries),
        command=command,
        started=before.started if before else datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if before:
        _check_same(folder, before, record)
    with owned(folder, folder / "training.lock") if is_first() else nullcontext():
        if is_first():
            write_training(folder, record)
            say(plan(record, before is None))
        loop.train(
            task,
            optimisation,
            folder,
            identity=record.identity,
            seed=seed,
            device=device,
            precision=record.precision,
            is_compiled=is_compiled,
            keep=lambda module, epoch: keep(record, module, epoch),
            on_step=on_step,
            on_epoch=on_epoch,
        )


def _check_same(folder: Path, before: TrainingRecord, now: TrainingRecord) -> None:
    """Refuse to go on with another training."""
    names = [name for name, value in now.identity.items() if before.identity[name] != value]
    if before.seed != now.seed:
        names.append("seed")
    if names:
        raise InputError(
            f"{folder}: holds another training (other {', '.join(names)}); repeat its own command to go on with it, or "
            "choose another --out"
        )
