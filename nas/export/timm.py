"""Export to timm: the weights under timm's names, and the arguments of the timm model that loads them.

::

    arguments = json.loads(Path("network.timm.json").read_text())
    model = timm.models.iformer.IFormer(**arguments)
    model.load_state_dict(safetensors.torch.load_file("network.safetensors"))
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save

from nas.data import ImageSet
from nas.errors import InputError
from nas.export._card import Card
from nas.export._say import Say, quiet
from nas.files import Record, write_beside
from nas.networks.modules import Network, to_timm

__all__ = ["SUFFIX", "Options", "export"]

SUFFIX = ".safetensors"


class Options(Record):
    """There is nothing to choose."""


def export(
    network: Network,
    path: Path,
    *,
    options: Options | None = None,  # noqa: ARG001
    card: Card | None = None,
    images: ImageSet | None = None,  # noqa: ARG001
    say: Say = quiet,  # noqa: ARG001
) -> list[Path]:
    """Write the weights to `path` with the card as metadata, and the arguments beside it as .timm.json.

    Raises:
        InputError: timm's arguments cannot express the network; the message names the first reason.
    """
    try:
        weights, arguments = to_timm(network)
    except InputError as error:
        raise InputError(
            f"{error}; --format torch takes every network, and a search --must-fit timm finds none but those that fit"
        ) from error
    beside = path.with_suffix(".timm.json")
    # Hugging Face tools read the format from the metadata.
    write_beside(path, save(weights, {"format": "pt", **(card or Card.of(network)).metadata()}))
    write_beside(beside, (json.dumps(arguments, indent=1) + "\n").encode())
    return [path, beside]
