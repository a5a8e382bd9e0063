"""Export to ExecuTorch: a program for phones and small devices, through its XNNPACK backend."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nas.data import ImageSet
from nas.errors import InputError
from nas.export._card import Card
from nas.export._deployed import compared, deployed, example, original
from nas.export._draft import drafted
from nas.export._say import Say, quiet
from nas.files import Record, write_beside
from nas.networks.modules import Network

__all__ = ["SUFFIX", "Options", "export"]

SUFFIX = ".pte"

_BOUND = 1e-3  # of a difference from torch, relative to the largest output


class Options(Record):
    """What may be chosen.

    Attributes:
        features: the maps at strides 4, 8, 16 and 32 in place of logits.
    """

    features: bool = False


def export(
    network: Network,
    path: Path,
    *,
    options: Options | None = None,
    card: Card | None = None,
    images: ImageSet | None = None,  # noqa: ARG001
    say: Say = quiet,
) -> list[Path]:
    """Write a program with one method, `forward`, and the card beside it as .json, which a program cannot hold.

    `forward` takes (1, 3, resolution, resolution) in float32, normalised as in training, and returns (1, num_classes);
    with `features` the four maps.

    Raises:
        InputError: ExecuTorch is not installed, or `path` cannot be written.
        NasError: the program does not compute what the network computes.
    """
    options = options or Options()
    with _silent():
        lowering, backend, runtime = (
            _module(name) for name in ("exir", "backends.xnnpack.partition.xnnpack_partitioner", "runtime")
        )
        inputs = (example(network, 1),)
        program = torch.export.export(deployed(network, features=options.features), inputs)
        lowered = lowering.to_edge_transform_and_lower(program, partitioner=[backend.XnnpackPartitioner()])
        content = bytes(lowered.to_executorch().buffer)
        found = runtime.Runtime.get().load_program(content).load_method("forward").execute(list(inputs))
    with torch.no_grad():
        expected = original(network, features=options.features)(*inputs)
    pairs = [(one.numpy(), other.numpy()) for one, other in zip(found, expected, strict=True)]
    words = compared(path, "ExecuTorch's XNNPACK", pairs, bound=_BOUND)
    beside = path.with_suffix(".json")
    with drafted(path) as draft:
        draft.write_bytes(content)
    text = (card or Card.of(network)).model_dump_json(by_alias=True, exclude_none=True, indent=1)
    write_beside(beside, f"{text}\n".encode())
    say(words)
    return [path, beside]


def _module(name: str) -> Any:
    """A module of ExecuTorch, which takes seconds to import."""
    try:
        return importlib.import_module(f"executorch.{name}")
    except ImportError as error:
        raise InputError("ExecuTorch is not installed: pip install 'nas[executorch]'") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the advice that ExecuTorch and torch have for their own developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
