"""Which form of a network is meant: by what is there, and by the ending of its name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import BinaryIO

from nas.errors import InputError
from nas.evaluate.subject import Say, Subject
from nas.networks import Architecture
from nas.networks.modules import Network

__all__ = ["find_subject"]

_TIMM = "timm:"
_BEST = "best.torch"  # of a folder of nas train
_WEIGHTS = (".safetensors", ".pt", ".pth", ".pth.tar", ".ckpt", ".bin")
_NOT_RUN = {".pte": "ExecuTorch", ".tflite": "LiteRT", ".mlmodel": "the older Core ML", ".xml": "OpenVINO"}


def find_subject(
    network: str | Path | Architecture | Network,
    *,
    weights: str | None,
    weights_key: str | None,
    num_classes: int | None,
    resolution: int | None,
    device: str | None,
    stdin: BinaryIO | None,
    say: Say,
) -> Subject:
    """The network that is to be evaluated, ready to run.

    Args:
        network: a module, an architecture or its file, a reference, a `.torch` folder, a folder of `nas train`,
            `timm:NAME`, an .onnx file or an .mlpackage.
        weights: of an architecture, a reference or a network of timm; all others have their own.
        weights_key: which weights to take from a file that has several.
        num_classes: outputs of the classifier that the weights belong to.
        resolution: of the input; by default that of the network.
        device: `cpu` or `cuda`.
        stdin: read to its end if `network` is `-`.
        say: gets words about what is found.
    Raises:
        InputError: it is no network, or has no weights.
        DeviceError: what runs it is not here.
        NasError: its weights cannot be downloaded.
    """
    if weights_key and weights is None:
        raise InputError("--weights-key goes with --weights FILE")
    text = "" if isinstance(network, Network | Architecture) else str(network)
    if text.startswith(_TIMM):
        from nas.evaluate.outside import timm_subject

        return timm_subject(
            text.removeprefix(_TIMM),
            weights=weights,
            weights_key=weights_key,
            num_classes=num_classes,
            resolution=resolution,
            device=device,
            say=say,
        )
    if text and (best := Path(text) / _BEST).is_dir():
        say(f"{text}: a training; its best network is evaluated, {best}")
        text = str(best)
    path = Path(text)
    is_file = path.suffix in (".onnx", ".mlpackage")
    if (
        isinstance(network, Network)
        or is_file
        or (text and ((path / "config.json").exists() or path.suffix == ".torch"))
    ):
        if weights is not None or num_classes is not None:
            raise InputError(
                f"{text or 'the network'} has its weights and classes: leave --weights and --num-classes out"
            )
        return _with_weights(network, path, resolution=resolution, device=device)
    if path.suffix in _NOT_RUN and text:
        raise InputError(
            f"{path}: files of {_NOT_RUN[path.suffix]} are not run here; export the network to ONNX as well"
        )
    if path.name.endswith(_WEIGHTS) and text:
        raise InputError(f"{path}: is weights alone: nas evaluate NETWORK --weights {path}, with the network's name")
    if path.is_dir() and text:
        raise InputError(
            f"{path}: neither a results folder (run.json), nor a .torch folder (config.json), nor one of nas train "
            f"({_BEST})"
        )
    from nas.evaluate.own import named_subject

    assert not isinstance(network, Network)
    return named_subject(
        network,
        weights=weights,
        weights_key=weights_key,
        num_classes=num_classes,
        resolution=resolution,
        device=device,
        stdin=stdin,
        say=say,
    )


def _with_weights(
    network: str | Path | Architecture | Network, path: Path, *, resolution: int | None, device: str | None
) -> Subject:
    """What has its own weights."""
    match path.suffix:
        case ".onnx":
            from nas.evaluate.onnx import onnx_subject

            return onnx_subject(path, resolution=resolution, device=device)
        case ".mlpackage":
            from nas.evaluate.coreml import coreml_subject

            return coreml_subject(path, resolution=resolution, device=device)
    from nas.evaluate.own import folder_subject, module_subject

    if isinstance(network, Network):
        # It is moved to the device, and laid out as that likes it.
        return module_subject(copy.deepcopy(network), name="network", resolution=resolution, device=device)
    return folder_subject(path, resolution=resolution, device=device)
