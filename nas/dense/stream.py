"""Which images are in which batch of a training, and what reads them: the same for a seed, wherever it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from nas.errors import InputError
from nas.training.processes import processes, rank
from nas.training.randomness import seed_of

__all__ = ["Stream"]

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream(Generic[S]):
    """An endless row of images, pass after pass in a new order, cut into batches; each process takes its part of each.

    Attributes:
        read: gives the image of an index, changed at random; it draws from torch's generator alone, which is seeded by
            the place in the row. It is pickled where workers are started by spawn or forkserver.
        images: how many there are.
        batch_size: images of a step, of all processes together.
        steps: of an epoch.
        seed: of the orders and of what `read` draws.
        accumulate: parts of a batch; above 1 a batch is a list of them.
        workers: processes that read.
    Raises:
        InputError: a batch cannot be divided between processes and parts.
    """

    read: Callable[[int], S]
    images: int
    batch_size: int
    steps: int
    seed: int
    accumulate: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        shares = processes() * self.accumulate
        if self.batch_size % shares:
            raise InputError(
                f"batch_size {self.batch_size} is not divisible by {shares}: {processes()} processes, "
                f"{self.accumulate} parts each"
            )

    def batches(self, epoch: int, *, done: int) -> Iterator[list[S] | list[list[S]]]:
        """The batches of this process in an epoch, from step `done` on."""
        parts = [part for step in range(done, self.steps) for part in self._parts(epoch * self.steps + step)]
        loader = _raised(
            DataLoader(
                _Reading(self.read, self.seed),
                batch_sampler=parts,
                collate_fn=_as_it_is,
                num_workers=self.workers,
                generator=torch.Generator(),  # or it would draw from the one of this process
            )
        )
        if self.accumulate == 1:
            yield from loader
        else:
            while group := list(islice(loader, self.accumulate)):
                yield group

    def _parts(self, step: int) -> list[list[tuple[int, int]]]:
        """Places in the row and indices of images, of the parts of one step, counted over all epochs."""
        places = list(range(step * self.batch_size + rank(), (step + 1) * self.batch_size, processes()))
        keys = [(place, self._index(place)) for place in places]
        size = len(keys) // self.accumulate
        return [keys[start : start + size] for start in range(0, len(keys), size)]

    def _index(self, place: int) -> int:
        number, within = divmod(place, self.images)
        return int(_order(self.images, seed_of(self.seed, number))[within])


@lru_cache(maxsize=2)
def _order(images: int, seed: int) -> npt.NDArray[np.int64]:
    order: npt.NDArray[np.int64] = np.random.default_rng(seed).permutation(images)
    return order


class _Reading(Dataset[S | InputError]):
    def __init__(self, read: Callable[[int], S], seed: int) -> None:
        self._read, self._seed = read, seed

    def __getitem__(self, key: tuple[int, int]) -> S | InputError:
        place, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(self._seed, place))
            try:
                return self._read(index)
            except InputError as error:  # torch would make a page of its one line
                return error


def _as_it_is(samples: list[S]) -> list[S]:
    return samples


def _raised(loader: Iterable[list[S | InputError]]) -> Iterator[list[S]]:
    """The batches; the first picture that a worker could not read is an error here."""
    for batch in loader:
        read: list[S] = []
        for one in batch:
            if isinstance(one, InputError):
                raise one
            read.append(one)
        yield read
