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

from nas.files import write_beside
from nas.networks.modules import Network, to_timm

__all__ = ["SUFFIX", "export"]

SUFFIX = ".safetensors"


def export(network: Network, path: Path) -> list[Path]:
    """Write the weights to `path` and the arguments beside it as .timm.json.

    Raises:
        InputError: timm's arguments cannot express the network; the message names the first reason.
    """
    weights, arguments = to_timm(network)
    beside = path.with_suffix(".timm.json")
    # Hugging Face tools read the format from the metadata.
    write_beside(path, save(weights, {"format": "pt"}))
    write_beside(beside, (json.dumps(arguments, indent=1) + "\n").encode())
    return [path, beside]
