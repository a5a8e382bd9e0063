"""How weights get into networks and out of them: under this project's names, timm's and the iFormer authors'.

Checkpoints of detection and segmentation, as mmdetection, mmsegmentation and nas/dense write them, have no classifier.
The network then keeps its own, and one line says so. Windows of attention units are no weights: the same file fits with
and without them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, assert_never

from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from nas.errors import InputError, visible
from nas.files import write_beside
from nas.networks.architecture import Architecture
from nas.networks.layers import AttentionLayer, ConvLayer, DownsampleLayer, HeadLayer, StemLayer
from nas.networks.modules.checkpoint import FLOATING, Checkpoint, read_checkpoint, shown
from nas.networks.modules.network import Network, build_model
from nas.networks.timm import timm_arguments

__all__ = ["has_two_classifiers", "load_model", "load_weights", "model_of", "resized", "save_weights", "to_timm"]

# Prefixes of the authors' names, with timm's prefixes; the first match is used.
_AUTHORS_TO_TIMM = (
    (r"classifier\.classifier_dist\.", "head.head_dist."),
    (r"classifier\.(classifier\.)?", "head.head."),
    (r"downsample_layers\.0\.0\.", "stem.conv1."),
    (r"downsample_layers\.0\.2\.conv_exp_bn1\.", "stem.conv2."),
    (r"downsample_layers\.0\.2\.conv_pwl_bn2\.", "stem.conv3."),
    (r"downsample_layers\.(\d+)\.(0\.)?", r"stages.\1.downsample."),
    (r"stages\.(\d+)\.(\d+)\.(block\.)?", r"stages.\1.blocks.\2."),
)

_COUNTER = "num_batches_tracked"

_TIMM_PARTS = {"conv": "c", "norm": "bn", "linear": "l"}


def load_model(architecture: Architecture, path: Path, *, weights_key: str | None = None) -> Network:
    """Build the network that a file was saved from, with a second classifier if the file has one.

    Args:
        architecture: of the network, with the file's number of classes.
        path: a safetensors file or one of torch.save, with any name; the parameters' names are this project's, timm's
            or the authors'.
        weights_key: which weights to take, if the file has several, as in `read_checkpoint`.
    Raises:
        InputError: as in `load_weights`.
    """
    return model_of(read_checkpoint(path, weights_key=weights_key), architecture)


def model_of(checkpoint: Checkpoint, architecture: Architecture, *, head: bool = True, whole: bool = False) -> Network:
    """As `load_model`, from a checkpoint that was read.

    Args:
        checkpoint: the weights.
        architecture: of the network.
        head: take the classifier as well.
        whole: refuse weights without a classifier; otherwise the network has a random one.
    Raises:
        InputError: the weights do not fit.
    """
    network = build_model(architecture, distillation=has_two_classifiers(checkpoint.tensors))
    _load(network, checkpoint, head=head, whole=whole)
    return network


def load_weights(network: Network, path: Path, *, head: bool = True, weights_key: str | None = None) -> None:
    """Copy the weights of a file into a network, converted to the network's precision.

    Args:
        network: in training form; changed only if everything fits.
        path: as in `load_model`.
        head: also load the classifier, if the file has one; otherwise the network keeps its own, for example for other
            classes.
        weights_key: which weights to take, if the file has several, as in `read_checkpoint`.
    Raises:
        InputError: the file cannot be read, holds something other than weights, or does not fit the network.
    """
    _load(network, read_checkpoint(path, weights_key=weights_key), head=head)


def resized(network: Network, resolution: int) -> Network:
    """The same weights in a network for another input size, in eval mode: attention in windows is built for one size.

    Raises:
        InputError: the size breaks a rule of architectures.
    """
    try:
        architecture = network.architecture.at(resolution=resolution)
    except ValidationError as error:
        raise InputError.from_validation("--resolution", error) from error
    state = network.state_dict()
    built = build_model(architecture, distillation=has_two_classifiers(state))
    built.load_state_dict(state)
    return built.eval()


def save_weights(network: Network, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write a .safetensors file that `load_weights` reads; the file appears complete or not at all.

    Args:
        network: in training form or deployed.
        path: file to write.
        metadata: stored in the file next to the architecture's JSON, for people and other tools.
    Raises:
        InputError: the name does not end in .safetensors, or the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: weights are saved as .safetensors")
    write_beside(path, save(network.state_dict(), {"architecture": network.architecture.to_json(), **metadata}))


def to_timm(network: Network) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and arguments for `timm.models.iformer.IFormer(**arguments).load_state_dict(weights)`.

    Args:
        network: in training form.
    Raises:
        InputError: timm's arguments cannot express this architecture; the text names the first reason.
    """
    state = network.state_dict()
    arguments = timm_arguments(network.architecture) | {"distillation": has_two_classifiers(state)}
    names = _timm_names(network)
    return {names[key]: tensor for key, tensor in state.items()}, arguments


def _load(network: Network, checkpoint: Checkpoint, *, head: bool, whole: bool = False) -> None:
    path, tensors = checkpoint.path, checkpoint.tensors
    state = network.state_dict()
    if any(name.startswith("layers.") for name in tensors):
        names = {key: key for key in state}
        given = {name: name for name in tensors}
    else:
        names = _timm_names(network)
        given = {_timm_from_authors(name): name for name in tensors}
    # From here `names` maps this project's keys to common names, and `given` maps common names to the file's keys.
    heads = ("head.", f"layers.{len(network.layers) - 1}.")
    lacks_head = not any(name.startswith(heads) for name in given)
    if lacks_head and whole:
        raise InputError(
            f"{visible(str(path), limit=150)}: has no classifier, as after detection or segmentation: it cannot be "
            "evaluated on classes; train it as a classifier first"
        )
    if not head or lacks_head:
        names = {key: name for key, name in names.items() if not name.startswith(heads)}
        given = {name: key for name, key in given.items() if not name.startswith(heads)}
    # Files that are made for inference leave the counters of the batch norms out.
    names = {key: name for key, name in names.items() if name in given or not name.endswith(_COUNTER)}
    fits = has_two_classifiers(given) == has_two_classifiers(names.values())
    hint = "" if fits else "; load_model builds the network that fits"
    if missing := [name for name in names.values() if name not in given]:
        raise InputError(f"{path}: lacks {_first(missing)}, which this network has{hint}")
    common = set(names.values())
    if unexpected := [key for name, key in given.items() if name not in common]:
        raise InputError(f"{path}: has {_first(unexpected)}, which this network lacks{hint}")
    for key, name in names.items():
        tensor = tensors[given[name]]
        theirs, ours = tuple(tensor.shape), tuple(state[key].shape)
        if theirs != ours and not (key.endswith(_COUNTER) and tensor.numel() == 1):
            hint = ""
            if key.startswith(f"layers.{len(network.layers) - 1}.") and theirs[1:] == ours[1:]:
                hint = f"; for its classes: --num-classes {theirs[0]}, or architecture.at(num_classes={theirs[0]})"
            raise InputError(f"{path}: {given[name]} has shape {theirs}, the network needs {ours}{hint}")
        if tensor.dtype not in FLOATING and not key.endswith(_COUNTER):
            raise InputError(
                f"{path}: {given[name]} has {str(tensor.dtype).removeprefix('torch.')} numbers; "
                "weights are float16, bfloat16, float32 or float64"
            )
    network.load_state_dict(
        state | {key: tensors[given[name]].reshape(state[key].shape) for key, name in names.items()}
    )
    if head and lacks_head:
        logging.getLogger(__name__).warning(
            f"{visible(str(path), limit=150)}: has no classifier, as after detection or segmentation: the network "
            "keeps its own"
        )


def _first(names: list[str]) -> str:
    return shown(names[0]) + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def has_two_classifiers(names: Iterable[str]) -> bool:
    """Whether the names, in any of the formats, include a second classifier."""
    return any(re.search(r"\.classifiers\.1\.|head_dist\.|classifier_dist\.", name) for name in names)


def _timm_from_authors(name: str) -> str:
    """Translate a name of the authors into timm's; timm's own names stay as they are."""
    for pattern, replacement in _AUTHORS_TO_TIMM:
        name, changed = re.subn(f"^{pattern}", replacement, name)
        if changed:
            break
    return re.sub(r"\b(token_)?channel_mixer\.", "mixer.", name).replace(".m.", ".module.")


def _timm_names(network: Network) -> dict[str, str]:
    """Map from this project's keys to timm's keys."""
    prefixes = dict(_timm_prefixes(network.architecture))
    names = {}
    for key in network.state_dict():
        prefix = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len)
        rest = (_TIMM_PARTS.get(part, part) for part in key.removeprefix(prefix).split("."))
        names[key] = prefixes[prefix] + ".".join(rest)
    return names


def _timm_prefixes(architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Prefixes of this project's keys, with timm's prefixes; timm counts an attention unit as three blocks."""
    stage = block = 0
    for position, layer in enumerate(architecture.layers()):
        ours = f"layers.{position}."
        theirs = f"stages.{stage}.blocks."
        match layer:
            case StemLayer():
                for index, part in enumerate(("first", "second", "project"), start=1):
                    yield f"{ours}{part}.", f"stem.conv{index}."
            case DownsampleLayer():
                stage, block = stage + 1, 0
                yield ours, f"stages.{stage}.downsample."
            case ConvLayer():
                yield from _residual_prefixes(ours, f"{theirs}{block}.")
                block += 1
            case AttentionLayer():
                yield f"{ours}position.encode.", f"{theirs}{block}.cpe.module."
                yield from _residual_prefixes(f"{ours}attention.", f"{theirs}{block + 1}.")
                for part, name in (("0.query", "q"), ("0.key", "k"), ("0.value", "v_gate"), ("1", "proj")):
                    yield f"{ours}attention.branch.{part}.", f"{theirs}{block + 1}.mixer.module.{name}."
                yield from _residual_prefixes(f"{ours}feed_forward.", f"{theirs}{block + 2}.")
                block += 3
            case HeadLayer():
                yield f"{ours}classifiers.0.", "head.head."
                yield f"{ours}classifiers.1.", "head.head_dist."
            case _:
                assert_never(layer)


def _residual_prefixes(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}branch.", f"{theirs}mixer.module."
    yield f"{ours}scale", f"{theirs}mixer.gamma"
