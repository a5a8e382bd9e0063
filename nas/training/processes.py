"""Processes that train together under torchrun: joining them, and what the first one decides for all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from nas.errors import InputError
from nas.training.recipe import Precision, usable_device

__all__ = ["agreed", "is_first", "join", "joined", "of_the_first", "processes", "rank"]


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


@contextmanager
def joined(device: str | None) -> Iterator[torch.device]:
    """Join the other processes while the block runs, and give the device of this one; under torchrun its own GPU.

    Raises:
        InputError: the device cannot be used, or the environment is not torchrun's.
    """
    name = usable_device(device)
    _, workers = join(name)
    if workers > 1 and name == "cuda":
        name = usable_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(name)
    try:
        yield torch.device(name)
        if workers > 1:
            dist.barrier()
    finally:
        if workers > 1:
            dist.destroy_process_group()


def join(device: str | None = None) -> tuple[int, int]:
    """Join the process group of torchrun and return this process's rank and the number of processes.

    Without torchrun these are 0 and 1.
    """
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    if workers == 1:
        return 0, 1
    if missing := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise InputError(f"WORLD_SIZE is {workers}, and {min(missing)} is not set: start the processes with torchrun")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() and device != "cpu" else "gloo")
    return dist.get_rank(), workers


def agreed(precision: Precision, device: torch.device) -> Precision:
    """The precision that the first process chose, for all processes."""
    return "bf16" if of_the_first(float(precision == "bf16"), device) else "fp32"


def of_the_first(value: float, device: torch.device) -> float:
    """The number that the first process has, for all processes."""
    if not dist.is_initialized():
        return value
    told = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(told, 0)
    return float(told.item())
