"""What the user of an exported file needs to know about the network in it; every format keeps it with the network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator
from safetensors.torch import save

from nas.data import Normalisation
from nas.files import Milliseconds, Record
from nas.networks import Architecture

if TYPE_CHECKING:
    from nas.networks.modules import Network

__all__ = ["RANDOM", "Card", "weights_file"]

RANDOM = "random"


class Card(Record):
    """An exported network in words and numbers.

    Attributes:
        name: of the network: a reference, a file or a run.
        architecture_id: id of `architecture`.
        architecture: the network as it was built.
        candidate_id: id of the candidate of a run, whose number of classes is that of its space.
        resolution: height and width of its input in pixels.
        channel_order: of its input.
        normalisation: how pixels become the input. None if it is not known, such as for random weights.
        class_names: in the order of the outputs; empty if they are not known.
        latency_ms: predicted, of the whole network. None if no table has it.
        latency_source: the table, and what it was made from.
        score: of the run's proxy.
        score_source: the proxy and its data.
        weights: where they are from, or `random`.
        weights_sha256: of the weights in training form, as they are in model.safetensors of the format `torch`.
        nas_version: of this package.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str
    architecture_id: str
    architecture: Architecture
    candidate_id: str = ""
    resolution: int
    channel_order: Literal["RGB"] = "RGB"
    normalisation: Normalisation | None = None
    class_names: tuple[str, ...] = ()
    latency_ms: Milliseconds | None = None
    latency_source: str = ""
    score: float | None = None
    score_source: str = ""
    weights: str = RANDOM
    weights_sha256: str
    nas_version: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        count, outputs = len(self.class_names), self.architecture.num_classes
        if count and count != outputs:
            raise ValueError(f"class_names must be {outputs}, one for each output, got {count}")
        return self

    @classmethod
    def of(cls, network: Network, **known: Any) -> Self:
        """The card of a network.

        Args:
            network: in training form.
            known: what the network does not say itself.
        """
        return cls(
            **{"name": "network", **known},
            architecture_id=network.architecture.id,
            architecture=network.architecture,
            resolution=network.architecture.resolution,
            weights_sha256=hashlib.sha256(weights_file(network)).hexdigest(),
            nas_version=importlib.metadata.version("nas"),
        )

    def metadata(self) -> dict[str, str]:
        """As text by name, for formats that keep text. What is not known is left out.

        Lists are JSON. `mean` and `std` are of pixels in 0..1.
        """
        known = self.model_dump(
            mode="json", exclude={"schema_version", "architecture", "normalisation"}, exclude_defaults=True
        )
        found: dict[str, Any] = {"architecture": self.architecture.to_json(), "channel_order": "RGB", **known}
        if self.normalisation:
            found |= self.normalisation.model_dump(mode="json")
        found["weights"] = self.weights
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}

    @property
    def summary(self) -> str:
        """What the network is, in one line."""
        parts = [f"{self.name} ({self.architecture_id}): iFormer family, {self.architecture.summary}"]
        if self.latency_ms is not None:
            parts.append(f"{self.latency_ms:.3f} ms, predicted by {self.latency_source}")
        if self.score is not None:
            parts.append(f"score {self.score:.4f} by {self.score_source}")
        return "; ".join([*parts, f"weights: {self.weights}"])


def weights_file(network: Network) -> bytes:
    """The content of model.safetensors: equal weights make equal bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return save(state, {"format": "pt"})  # which Hugging Face tools read the format from
