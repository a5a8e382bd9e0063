"""Export to ONNX: whole networks for users, and the models that devices time."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import onnx
import torch

from nas.files import write_beside
from nas.networks import Subject
from nas.networks.modules import Network, build_deployed, example_input, fuse

__all__ = ["SUFFIX", "export", "network_model", "timed_model"]

SUFFIX = ".onnx"

_OPSET = 20  # the first opset with GELU as one operator


def export(network: Network, path: Path) -> list[Path]:
    """Write the deployed network as one .onnx file in float32.

    The input `image` is (1, 3, resolution, resolution), normalised as in training. The output `logits` is
    (1, num_classes). The file's metadata holds the architecture's JSON and id.
    """
    write_beside(path, network_model(network))
    return [path]


def network_model(network: Network) -> bytes:
    """The deployed network as the bytes of an ONNX model; takes about 2 s for iFormer-M on one core."""
    size = network.architecture.resolution
    with warnings.catch_warnings():
        # torch 2.13 copies a deprecated type of its own, which warns.
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        program = torch.onnx.export(
            fuse(network),
            (torch.zeros(1, 3, size, size),),
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=_OPSET,
            input_names=["image"],
            output_names=["logits"],
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(
        model, {"architecture": network.architecture.to_json(), "architecture_id": network.architecture.id}
    )
    return bytes(model.SerializeToString())


def timed_model(subject: Subject) -> bytes:
    """A deployed layer, stack or network with random weights as ONNX, from `input` to `output` at batch 1."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A latency table has hundreds of layers. The older exporter takes 15 to 40 ms per layer, the newer one 550 to
        # 870 ms (measured on x86, torch 2.13). ONNX Runtime makes the same graph of both
        # (tests/export/test_contract.py).
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            build_deployed(subject),
            (example_input(subject),),
            buffer,  # type: ignore[arg-type]  # only the newer exporter needs a path
            dynamo=False,
            opset_version=_OPSET,
            input_names=["input"],
            output_names=["output"],
        )
    return buffer.getvalue()
