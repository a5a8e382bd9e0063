"""Export to Core ML: an ML Program in float16 for the Neural Engine, and the models that devices time."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.errors import InputError
from nas.files import unwritten
from nas.networks import Subject
from nas.networks.modules import Network, build_deployed, example_input, fuse
from nas.scratch import ScratchFolder

if TYPE_CHECKING:
    from coremltools.models import MLModel

__all__ = ["SUFFIX", "export", "network_model", "timed_model"]

SUFFIX = ".mlpackage"


def export(network: Network, path: Path) -> list[Path]:
    """Write the deployed network as an .mlpackage folder for iOS 16, macOS 13 and later.

    The input `image` is (1, 3, resolution, resolution) in float16, normalised as in training. The output `logits` is
    (1, num_classes) in float16. The package's metadata holds the architecture's JSON and id.
    """
    model = network_model(network)
    try:
        with ScratchFolder("export", within=path.parent) as folder:
            draft = folder.path / path.name
            model.save(str(draft))
            if path.is_dir():  # A folder cannot be renamed over another. The old one is deleted with `folder`.
                path.replace(folder.path / "old")
            draft.replace(path)
    except OSError as error:
        raise unwritten(path, error) from error
    return [path]


def network_model(network: Network) -> MLModel:
    """The deployed network as a Core ML model; takes about 3 s for iFormer-M on one core."""
    architecture = network.architecture
    size = architecture.resolution
    model = _convert(fuse(network), torch.zeros(1, 3, size, size), input_name="image", output_name="logits")
    model.user_defined_metadata["architecture"] = architecture.to_json()
    model.user_defined_metadata["architecture_id"] = architecture.id
    return model


def timed_model(subject: Subject) -> MLModel:
    """A deployed layer, stack or network with random weights, from `input` to `output` at batch 1; 0.5 s per layer."""
    return _convert(build_deployed(subject), example_input(subject), input_name="input", output_name="output")


def _convert(module: nn.Module, example: Tensor, *, input_name: str, output_name: str) -> MLModel:
    with warnings.catch_warnings():
        # torch 2.13 copies a deprecated type of its own, which warns.
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        ct = _coremltools()
        # coremltools only accepts the dialect that run_decompositions returns.
        program = torch.export.export(module, (example,)).run_decompositions({})
        with _without_bars():
            return ct.convert(
                program,
                inputs=[ct.TensorType(name=input_name, shape=tuple(example.shape), dtype=np.float16)],
                outputs=[ct.TensorType(name=output_name, dtype=np.float16)],
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT16,
                compute_units=ct.ComputeUnit.ALL,
                # The first target with float16 inputs and outputs. Earlier targets convert at both ends.
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the progress bars of coremltools, which has no option for this.

    It shows four bars per conversion, and a latency table needs hundreds of conversions.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    draw = tqdm.__init__
    tqdm.__init__ = functools.partialmethod(draw, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = draw


def _coremltools() -> Any:
    """Import coremltools late, as this takes seconds, and quietly, as it warns of each part that needs a Mac."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import coremltools
    except ImportError as error:
        raise InputError("Core ML needs coremltools, which has no release for this Python; use 3.11 to 3.13") from error
    finally:
        logger.setLevel(level)
    return coremltools
