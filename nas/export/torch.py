"""Export for torch: a folder with the weights, the architecture and a model card, as on Hugging Face.

::

    network = nas.load("iformer_m.torch")
    logits = network(network.preprocess(image)[None])
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import AfterValidator
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from torch import Tensor, nn

from nas.data import ImageSet
from nas.errors import InputError, NasError
from nas.export._card import RANDOM, Card, weights_file
from nas.export._draft import drafted
from nas.export._say import Say, quiet
from nas.files import Record, read_record
from nas.networks import count
from nas.networks.modules import Network, build_model
from nas.networks.modules.weights import has_two_classifiers

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIX", "LoadedNetwork", "Options", "export", "load"]

SUFFIX = ".torch"

_CARD, _WEIGHTS, _ARCHITECTURE, _README = "config.json", "model.safetensors", "architecture.json", "README.md"
_FILES = {_CARD, _WEIGHTS, _ARCHITECTURE, _README}


def _repository(name: str) -> str:
    if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", name):
        raise ValueError(f"must be the name of a repository such as USER/NAME, got {name!r}")
    return name


class Options(Record):
    """What may be chosen.

    Attributes:
        push_to_hub: repository on the Hugging Face hub to upload the folder to; it is made if it is not there.
    """

    push_to_hub: Annotated[str, AfterValidator(_repository)] | None = None


class LoadedNetwork(Network):
    """A network of a folder, in eval mode, with its card.

    Args:
        architecture: what is built.
        layers: one module for each layer of the architecture, in the same order.
        card: what the folder says about it.
    """

    def __init__(self, *, layers: list[nn.Module], card: Card) -> None:
        super().__init__(architecture=card.architecture, layers=layers)
        self.card = card

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the outputs; empty if they are not known."""
        return self.card.class_names

    def preprocess(self, image: Image) -> Tensor:
        """An image as the network's input, (3, resolution, resolution): the middle, scaled and normalised.

        Raises:
            InputError: how to normalise is not known.
        """
        from PIL import Image as Pillow
        from PIL import ImageOps

        if self.card.normalisation is None:
            raise InputError(f"{self.card.name}: the mean and std of its training images are not known")
        size = self.card.resolution
        square = ImageOps.fit(image.convert("RGB"), (size, size), Pillow.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).reshape(size, size, 3)
        mean, std = (torch.tensor(value) for value in (self.card.normalisation.mean, self.card.normalisation.std))
        return ((pixels / 255 - mean) / std).permute(2, 0, 1).contiguous()  # (3, size, size)


def export(
    network: Network,
    path: Path,
    *,
    options: Options | None = None,
    card: Card | None = None,
    images: ImageSet | None = None,  # noqa: ARG001
    say: Say = quiet,
) -> list[Path]:
    """Write a folder: model.safetensors, architecture.json, config.json (the card) and README.md (the model card).

    The weights are in training form, so that the network can be trained further; `nas.fuse` folds it.

    Raises:
        InputError: `path` is a folder with other files, or cannot be written.
        NasError: the hub does not take the folder, which is there nevertheless.
    """
    options = options or Options()
    card = card or Card.of(network)
    if options.push_to_hub and importlib.util.find_spec("huggingface_hub") is None:
        raise InputError("--push-to-hub needs huggingface_hub: pip install huggingface_hub")
    if path.is_dir() and (others := {entry.name for entry in path.iterdir()} - _FILES):
        raise InputError(f"{path}: holds {min(others)}, which is no part of an exported network; choose another --out")
    with drafted(path) as draft:
        draft.mkdir()
        (draft / _WEIGHTS).write_bytes(weights_file(network))
        (draft / _ARCHITECTURE).write_text(network.architecture.to_json())
        (draft / _CARD).write_text(card.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n")
        (draft / _README).write_text(_readme(card))
        load(draft)
    if options.push_to_hub:
        say(_push(path, options.push_to_hub))
    return [path, *sorted(path / name for name in _FILES)]


def load(folder: str | Path) -> LoadedNetwork:
    """The network of a folder that `nas export --format torch` wrote, in eval mode with its weights.

    It maps (B, 3, resolution, resolution) to (B, classes); `features` gives the maps at strides 4 to 32. `preprocess`
    makes an image its input, and `class_names` names its outputs.

    Raises:
        InputError: a file is missing or broken, or the weights are not those that config.json names.

    Examples:
        >>> import tempfile, nas
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, *files = nas.export("tiny_a", "torch", out=f"{folder}/tiny.torch")
        ...     network = nas.load(path)
        >>> network.training, network.architecture.num_classes
        (False, 10)
    """
    folder = Path(folder)
    card = read_record(folder / _CARD, Card)
    file = folder / _WEIGHTS
    try:
        content = file.read_bytes()
        tensors = tensors_of(content)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({error}); export the network again") from error
    if hashlib.sha256(content).hexdigest() != card.weights_sha256:
        raise InputError(f"{file}: is not the file that {_CARD} describes; export the network again")
    built = build_model(card.architecture, distillation=has_two_classifiers(tensors))
    network = LoadedNetwork(layers=list(built.layers), card=card)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{file}: does not fit the architecture of {_CARD}; export the network again") from error
    return network.eval()


def _push(folder: Path, repository: str) -> str:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        url = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Upload {folder.stem}")
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NasError(f"{folder} is written, but the hub does not take {repository}: {reason}") from error
    return f"pushed to {url}"


def _readme(card: Card) -> str:
    """The model card, with the fields that the hub reads at its top."""
    counts = count(card.architecture)
    size, classes = card.resolution, card.architecture.num_classes
    facts = [
        f"Architecture: `{card.architecture.summary}` (id `{card.architecture_id}`)",
        f"{counts.params / 1e6:.2f} M parameters, {counts.macs / 1e9:.3f} GMACs, counted",
        f"Input: RGB, {size} x {size}; output: {classes} classes",
    ]
    if card.normalisation:
        mean, std = (", ".join(f"{v:.4f}" for v in part) for part in (card.normalisation.mean, card.normalisation.std))
        facts.append(f"Pixels in 0..1 are normalised by mean ({mean}) and std ({std})")
    if card.latency_ms is not None:
        facts.append(f"Latency: {card.latency_ms:.3f} ms, predicted by {card.latency_source}")
    if card.score is not None:
        facts.append(f"Score: {card.score:.4f} by {card.score_source}")
    facts.append(f"Weights: {card.weights}" + (", good for timing only" if card.weights == RANDOM else ""))
    facts.append(f"Written by nas {card.nas_version}; SHA-256 of the weights `{card.weights_sha256}`")
    lines = "\n".join(f"- {fact}" for fact in facts)
    names = f"\nClasses: {', '.join(card.class_names)}\n" if card.class_names else ""
    return f"""---
library_name: nas
pipeline_tag: image-classification
tags: [image-classification, neural-architecture-search, iformer]
---
# {card.name}

A network of the iFormer family, found or built by nas, a latency-aware architecture search.

{lines}
{names}
```python
import nas

network = nas.load("FOLDER")  # this folder
logits = network(images)  # (B, 3, {size}, {size}) to (B, {classes})
maps = network.features(images)  # at strides 4, 8, 16 and 32
```
"""
