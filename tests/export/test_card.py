"""What is kept with an exported network."""

import hashlib
import json
from pathlib import Path

import onnx
import pytest
from pydantic import ValidationError
from safetensors import safe_open

from nas.data import Normalisation
from nas.export import Card
from nas.export import onnx as onnx_format
from nas.export import timm as timm_format
from nas.export import torch as torch_format
from nas.networks import Architecture, ConvSpec, StageSpec
from nas.networks.modules import Network, build_model

NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def network() -> Network:
    stages = tuple(StageSpec(channels=c, blocks=(ConvSpec(kernel=7, expansion=2),)) for c in (8, 16, 24, 32))
    return build_model(Architecture(resolution=64, num_classes=3, stages=stages)).eval()


@pytest.fixture(scope="module")
def card(network: Network) -> Card:
    return Card.of(
        network,
        name="zoo",
        normalisation=NORMALISATION,
        class_names=("ape", "bee", "cow"),
        latency_ms=0.5,
        latency_source="a table",
        score=0.75,
        score_source="short-training, photos",
        weights="proxy training in zoo",
    )


def test_metadata_has_all_that_is_known(network: Network, card: Card) -> None:
    metadata = card.metadata()

    assert Architecture.from_json(metadata.pop("architecture")) == network.architecture
    assert len(metadata.pop("weights_sha256")) == 64
    assert metadata == {
        "name": "zoo",
        "architecture_id": network.architecture.id,
        "resolution": "64",
        "channel_order": "RGB",
        "mean": "[0.5, 0.4, 0.3]",
        "std": "[0.2, 0.25, 0.3]",
        "class_names": '["ape", "bee", "cow"]',
        "latency_ms": "0.5",
        "latency_source": "a table",
        "score": "0.75",
        "score_source": "short-training, photos",
        "weights": "proxy training in zoo",
        "nas_version": "0.1.0",
    }


def test_metadata_leaves_out_what_is_not_known(network: Network) -> None:
    names = {"name", "architecture", "architecture_id", "resolution", "channel_order", "weights"}

    assert Card.of(network).metadata().keys() == {*names, "weights_sha256", "nas_version"}


def test_every_format_keeps_the_card(network: Network, card: Card, tmp_path: Path) -> None:
    (onnx_file,) = onnx_format.export(network, tmp_path / "a.onnx", card=card)
    timm_file, _ = timm_format.export(network, tmp_path / "a.safetensors", card=card)
    folder, *_ = torch_format.export(network, tmp_path / "a.torch", card=card)

    assert {prop.key: prop.value for prop in onnx.load(onnx_file).metadata_props} == card.metadata()
    with safe_open(timm_file, "pt") as file:
        assert file.metadata() == card.metadata() | {"format": "pt"}
    assert torch_format.load(folder).card == card


def test_digest_is_that_of_the_file_of_weights(network: Network, card: Card, tmp_path: Path) -> None:
    folder, *_ = torch_format.export(network, tmp_path / "a.torch", card=card)

    expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert expected == card.weights_sha256 == json.loads((folder / "config.json").read_text())["weights_sha256"]


def test_class_names_are_one_for_each_output(network: Network) -> None:
    with pytest.raises(ValidationError, match="class_names must be 3, one for each output, got 2"):
        Card.of(network, class_names=("ape", "bee"))
