"""Published weights of the family: timm's register says where they are, and nothing in them is run.

They are taken from the Hugging Face hub as safetensors, else from the authors' release. Both are kept where
huggingface_hub and torch.hub keep them, so a second call needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.catalog import unknown_name
from nas.errors import NasError, visible
from nas.networks.modules.outside import timm_part

__all__ = ["PublishedWeights", "published_weights"]

_FAMILY, _FILE = "iformer", "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """Weights that someone has published.

    Attributes:
        name: in timm, such as `iformer_m.in1k`.
        path: the file on this machine, for `load_model`.
        mean: of the images that they were trained on: red, green and blue in 0..1.
        std: the standard deviation, in the same way.
    """

    name: str
    path: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]


def published_weights(name: str) -> PublishedWeights:
    """Find weights by their name in timm, and download them unless they are here.

    Args:
        name: such as `iformer_m` or `iformer_m_distilled.in1k`.
    Raises:
        InputError: timm is not installed, or has no weights of this name.
        NasError: they cannot be downloaded; the text says what to do instead.
    """
    timm = timm_part(needed_for="a network with published weights", otherwise="give a file")
    known = timm.list_pretrained(f"{_FAMILY}*")
    tagged = next((one for one in known if name in (one, one.partition(".")[0])), None)
    if tagged is None:
        raise unknown_name("network with weights in timm", visible(name), [one.partition(".")[0] for one in known])
    config = timm.get_pretrained_cfg(tagged)
    failures = []
    for source, path in _sources(config):
        try:
            return PublishedWeights(name=tagged, path=path(), mean=tuple(config.mean), std=tuple(config.std))
        except Exception as error:  # huggingface_hub, its HTTP client and urllib raise many kinds of errors.
            failures.append(f"{source} ({type(error).__name__})")
    raise NasError(
        f"the weights of {tagged} cannot be downloaded from {' or '.join(failures)}: repeat this where there is a "
        f"network, or bring the file here and give it: --weights {Path(str(config.url)).name}"
    )


def _sources(config: Any) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Where the weights are: a name for messages, and what gives the path on this machine."""
    from huggingface_hub import constants, hf_hub_download

    if config.hf_hub_id:
        yield f"huggingface.co/{config.hf_hub_id}", lambda: Path(hf_hub_download(config.hf_hub_id, _FILE))
    if config.url:

        def released() -> Path:
            path = Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url).name  # where timm keeps it as well
            if not path.exists():
                if constants.HF_HUB_OFFLINE:
                    raise ConnectionError("HF_HUB_OFFLINE is set")
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(config.url, str(path), progress=False)
            return path

        yield config.url, released
