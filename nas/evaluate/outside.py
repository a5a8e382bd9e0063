"""Any network of timm: with the weights that timm names for it, or with those of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from nas.data import Normalisation
from nas.data.protocol import Interpolation
from nas.errors import InputError, NasError, did_you_mean, visible
from nas.evaluate.own import torch_runner, torch_runtime
from nas.evaluate.subject import Say, Subject, known_of_metadata
from nas.files import digest
from nas.networks.modules.checkpoint import read_checkpoint, shown
from nas.networks.modules.outside import timm_part
from nas.training.recipe import usable_device

__all__ = ["timm_subject"]

_COUNTER = "num_batches_tracked"


def timm_subject(
    name: str,
    *,
    weights: str | None,
    weights_key: str | None,
    num_classes: int | None,
    resolution: int | None,
    device: str | None,
    say: Say,
) -> Subject:
    """A network of timm, with the mean, std, crop and interpolation that timm's own configuration of it says.

    Args:
        name: in timm, such as `mobilenetv4_conv_small.e2400_r224_in1k`.
        weights: a file, in timm's names or with the same tensors in the same order. None for those that timm names,
            which are downloaded unless they are here.
        weights_key: which weights to take from it, if it has several.
        num_classes: outputs of a network whose weights are of a file.
        resolution: of the input; by default that of its configuration.
        device: `cpu` or `cuda`; by default a GPU if there is one.
        say: gets words about the weights.
    Raises:
        InputError: timm is not installed or has no such network, it has no weights, or the file does not fit.
        NasError: its weights cannot be downloaded.
    """
    timm = timm_part(needed_for=f"timm:{name}")
    if not timm.is_model(name):
        # Of its 1500 names only the nearest is of use.
        raise InputError(f"timm:{visible(name)}: timm has no such network{did_you_mean(name, timm.list_models())}")
    if weights is None and num_classes is not None:
        raise InputError(f"timm:{name} has the classes of its weights: leave --num-classes out")
    chosen = usable_device(device)
    known: dict[str, Any] = {}
    if weights is None:
        module, source = _published(timm, name)
    else:
        module = timm.create_model(name, **({} if num_classes is None else {"num_classes": num_classes}))
        known = _load(module, Path(weights), weights_key, f"timm:{name}", say)
        source = f"{Path(weights).name} (SHA-256 begins {digest(Path(weights))})"
    config = timm_part("timm.data").resolve_data_config(model=module)
    _, height, width = config["input_size"]
    if height != width:
        raise InputError(f"timm:{name}: takes images of {height} x {width} px, and only squares are evaluated")
    if config["crop_mode"] != "center":
        say(f"timm's own recipe of {name} has the crop mode {config['crop_mode']}; here the middle is cut out")
    if resolution not in (None, height) and module.pretrained_cfg.get("fixed_input_size"):
        raise InputError(f"timm:{name}: takes images of {height} px only: leave --resolution out")
    own: dict[str, Any] = {
        "normalisation": Normalisation.model_validate({"mean": config["mean"], "std": config["std"]}),
        "normalised_by": "of timm's configuration",
    }
    interpolation = config["interpolation"]
    return Subject(
        **(own | known),
        name=f"timm:{name}",
        form="timm",
        weights=source,
        precision="fp32",
        runtime=torch_runtime(chosen),
        outputs=module.num_classes,
        resolution=resolution or height,
        run=torch_runner(module, chosen, name),
        crop=float(config["crop_pct"]),
        interpolation=interpolation if interpolation in get_args(Interpolation) else None,
    )


def _published(timm: Any, name: str) -> tuple[Any, str]:
    """A network with the weights that timm names for it.

    Raises:
        InputError: there are none.
        NasError: they cannot be downloaded.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise InputError(f"timm:{name}: timm has no weights for it: give --weights FILE")
    try:
        module = timm.create_model(name, pretrained=True)
    except Exception as error:  # huggingface_hub, its HTTP client, urllib and timm raise many kinds of errors.
        raise NasError(
            f"the weights of timm:{name} cannot be downloaded ({type(error).__name__}): repeat this where there is a "
            "network, or bring the file here and give it by --weights FILE"
        ) from error
    return module, f"timm's {name.partition('.')[0]}.{config.tag}" if config.tag else f"timm's {name}"


def _load(module: nn.Module, path: Path, weights_key: str | None, name: str, say: Say) -> dict[str, Any]:
    """Copy the tensors of a file into a module, by their names or else by their order; what the file says of itself.

    Raises:
        InputError: they do not fit.
    """
    checkpoint = read_checkpoint(path, weights_key=weights_key)
    state = module.state_dict()
    tensors: Mapping[str, Tensor] = checkpoint.tensors
    needed = [key for key in state if not key.endswith(_COUNTER)]
    if lacking := [key for key in needed if key not in tensors]:
        given = [key for key in tensors if not key.endswith(_COUNTER)]
        if [_kind(key, state[key]) for key in needed] != [_kind(key, tensors[key]) for key in given]:
            raise InputError(
                f"{path}: lacks {shown(lacking[0])}, which {name} has, and its tensors are not the same in the same "
                "order either"
            )
        say(f"{path.name}: has other names than {name}; its {len(given)} tensors fit in their order, shapes and kinds")
        tensors = {key: tensors[other] for key, other in zip(needed, given, strict=True)}
    if unexpected := [key for key in tensors if key not in state]:
        raise InputError(f"{path}: has {shown(unexpected[0])}, which {name} lacks")
    for key in needed:
        theirs, ours = tuple(tensors[key].shape), tuple(state[key].shape)
        if theirs != ours:
            hint = ""
            if theirs[1:] == ours[1:] and ours[0] == getattr(module, "num_classes", None):
                hint = f"; for its classes: --num-classes {theirs[0]}"
            raise InputError(f"{path}: {shown(key)} has shape {theirs}, {name} needs {ours}{hint}")
    module.load_state_dict(state | {key: tensors[key] for key in needed})
    return known_of_metadata(checkpoint.metadata, str(path))


def _kind(key: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """What a tensor is by the last part of its name, and its shape."""
    return key.rpartition(".")[2], tuple(tensor.shape)
