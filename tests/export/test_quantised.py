"""ONNX files of 8 bits, calibrated by images, with what that does to accuracy, latency and size."""

import collections
import re
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from nas.data import ImageSet, Normalisation, training_batches, validation_batches
from nas.errors import InputError
from nas.export import Card
from nas.export import onnx as onnx_format
from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.modules import Network, build_model


@pytest.fixture(scope="module")
def network(colours: ImageSet) -> Network:
    """A network that tells the colours apart."""
    conv = ConvSpec(kernel=3, expansion=2)
    shma = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)
    blocks = ((conv,), (conv,), (conv, shma), (conv,))
    stages = tuple(StageSpec(channels=c, blocks=b) for c, b in zip((8, 16, 24, 32), blocks, strict=True))
    torch.manual_seed(0)
    network = build_model(Architecture(resolution=32, num_classes=4, stages=stages)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for images, labels in training_batches(colours, batch_size=32, steps=60, seed=0):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


def accuracy(path: Path, colours: ImageSet) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ((images, labels),) = validation_batches(colours, batch_size=64)
    (logits,) = session.run(None, {"image": images.contiguous().numpy()})
    return float((logits.argmax(1) == labels.numpy()).mean())


def test_accuracy_latency_and_size_before_and_after(network: Network, colours: ImageSet, tmp_path: Path) -> None:
    card = Card.of(network, weights="a test", normalisation=Normalisation.of(colours))
    options = onnx_format.Options(batch="dynamic", int8=True)
    said: list[str] = []

    (path,) = onnx_format.export(
        network, tmp_path / "b.onnx", options=options, card=card, images=colours, say=said.append
    )

    model = onnx.load(path)
    operators = collections.Counter(node.op_type for node in model.graph.node)
    assert operators["QuantizeLinear"] > 10
    scales = [one for one in model.graph.initializer if one.name.endswith("weight_scale")]
    assert max(one.dims[0] for one in scales if one.dims) > 1  # one for each channel
    assert {one.key: one.value for one in model.metadata_props}.items() >= card.metadata().items()
    ((images, labels),) = validation_batches(colours, batch_size=64)
    with torch.no_grad():
        before = float((network(images).argmax(1) == labels).float().mean())
    after = accuracy(path, colours)
    assert before > 0.7
    assert after > before - 0.1
    shown = [re.split(r"  +", line.strip()) for line in said[1:4]]
    assert shown[0] == ["size", "accuracy", "latency"]
    assert (shown[1][0], shown[1][2]) == ("fp32", f"{before:.1%}")
    assert (shown[2][0], shown[2][2]) == ("int8", f"{after:.1%}")
    assert all(re.fullmatch(r"\d+\.\d\d ms", row[3]) for row in shown[1:])
    assert said[4].startswith("accuracy: 64 held-out images; calibrated with 128 training images; colours")
    assert said[5].startswith(f"latency: measured here, ONNX Runtime {onnxruntime.__version__} CPUExecutionProvider, 1")
    assert {one.name for one in tmp_path.iterdir()} == {"b.onnx"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "--int8 needs images to calibrate with: give --data"),
        ({"precision": "fp16"}, "--int8 is for whole networks in fp32: leave --precision fp16 and --features out"),
        ({"batch": 33}, "--int8 takes batches of 32 images at most, or --batch dynamic"),
    ],
)
def test_what_8_bits_need(
    options: dict[str, object], says: str, network: Network, colours: ImageSet, tmp_path: Path
) -> None:
    chosen = onnx_format.Options.model_validate({"int8": True, **options})

    with pytest.raises(InputError) as caught:
        onnx_format.export(network, tmp_path / "b.onnx", options=chosen, images=colours if options else None)

    assert str(caught.value) == says
    assert list(tmp_path.iterdir()) == []
