"""Core ML packages compute what the network computes: executed here, operation by operation."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.data import Normalisation
from nas.errors import InputError
from nas.export import Card
from nas.export import coreml as coreml_format
from nas.networks import Architecture
from nas.networks.modules import Network, build_model

# coremltools 9.0 uses its own registry in a deprecated way, and leaves temporary folders to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Function _TORCH_OPS_REGISTRY:DeprecationWarning", "ignore:Implicitly cleaning up:ResourceWarning"
)

NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
NAMES = ("ape", "bee", "cow")


@pytest.fixture(scope="module")
def network(small_network: Callable[[int], Network]) -> Network:
    return small_network(3)


@pytest.fixture(scope="module")
def card(network: Network) -> Card:
    return Card.of(network, normalisation=NORMALISATION, class_names=NAMES, name="zoo")


def noise(network: Network, seed: int = 3) -> torch.Tensor:
    size = network.architecture.resolution
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def apart(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((mine - theirs).abs().max() / theirs.abs().max())


def test_image_is_normalised_by_the_package(
    network: Network, card: Card, tmp_path: Path, coreml_program: Callable[[Path], Any]
) -> None:
    pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (NORMALISATION.mean, NORMALISATION.std))

    (path,) = coreml_format.export(network, tmp_path / "zoo.mlpackage", card=card)
    program = coreml_program(path)

    with torch.no_grad():
        expected = network((pixels / 255 - mean) / std)
    assert apart(program(pixels)["logits"], expected) < 5e-3
    image = program.spec.description.input[0]
    assert (image.name, image.type.imageType.width, image.type.imageType.height) == ("image", 64, 64)
    assert image.type.imageType.ColorSpace.Name(image.type.imageType.colorSpace) == "RGB"
    metadata = program.spec.description.metadata
    assert card.metadata().items() <= dict(metadata.userDefined).items()
    assert metadata.shortDescription.startswith("zoo (")
    assert image.shortDescription == "RGB image, 64 x 64"


def test_tensor_in_float32_is_exact(
    network: Network, card: Card, tmp_path: Path, coreml_program: Callable[[Path], Any]
) -> None:
    options = coreml_format.Options(input="tensor", precision="fp32", deployment_target="iOS18")

    (path,) = coreml_format.export(network, tmp_path / "zoo.mlpackage", card=card, options=options)
    program = coreml_program(path)

    with torch.no_grad():
        assert apart(program(noise(network))["logits"], network(noise(network))) < 1e-5
    array = program.spec.description.input[0].type.multiArrayType
    assert (list(array.shape), array.dataType) == ([1, 3, 64, 64], array.FLOAT32)
    assert program.spec.specificationVersion == 9  # iOS 18


def test_classifier_names_the_class(
    network: Network, card: Card, tmp_path: Path, coreml_program: Callable[[Path], Any]
) -> None:
    options = coreml_format.Options(input="tensor", output="classifier")

    (path,) = coreml_format.export(network, tmp_path / "zoo.mlpackage", card=card, options=options)
    program = coreml_program(path)

    found = program(noise(network))
    with torch.no_grad():
        expected = network(noise(network)).softmax(1)
    assert found["label"] == NAMES[int(expected.argmax())]
    assert apart(found["label_probs"], expected) < 5e-3
    description = program.spec.description
    assert (description.predictedFeatureName, description.predictedProbabilitiesName) == ("label", "label_probs")
    assert [one.shortDescription for one in description.output] == [
        "Name of the most probable class",
        "Probability of each class, by its name",
    ]


def test_maps_at_every_stride(network: Network, tmp_path: Path, coreml_program: Callable[[Path], Any]) -> None:
    options = coreml_format.Options(features=True)

    (path,) = coreml_format.export(network, tmp_path / "zoo.mlpackage", options=options)
    program = coreml_program(path)

    found = program(noise(network))
    with torch.no_grad():
        expected = network.features(noise(network))
    assert list(found) == ["stride4", "stride8", "stride16", "stride32"]
    assert all(apart(mine, theirs) < 5e-3 for mine, theirs in zip(found.values(), expected, strict=True))
    assert program.operators["linear"] == 0


def test_weights_in_eight_bits_compute_nearly_the_same(
    network: Network, tmp_path: Path, coreml_program: Callable[[Path], Any]
) -> None:
    said: list[str] = []
    options = coreml_format.Options(int8=True)

    (path,) = coreml_format.export(network, tmp_path / "a.mlpackage", options=options, say=said.append)
    program = coreml_program(path)

    with torch.no_grad():
        expected = network(noise(network))
    assert program.operators["constexpr_affine_dequantize"] == 2  # those with 2048 weights at least
    assert 1e-4 < apart(program(noise(network))["logits"], expected) < 0.1
    (found,) = (
        re.match(r"a.mlpackage: (0.\d\d) MB in fp16, (0.\d\d) MB in int8; input multiArray; ", one) for one in said
    )
    assert found
    assert float(found[1]) > float(found[2])


def test_iformer_m_has_fewer_operations_than_the_authors_conversion(
    references: dict[str, Architecture], tmp_path: Path, coreml_program: Callable[[Path], Any]
) -> None:
    """They have 209 in their own conversion of the folded network; here it is 200."""
    network = build_model(references["m"])

    (path,) = coreml_format.export(network, tmp_path / "m.mlpackage")

    operators = coreml_program(path).operators
    authors = {"conv": 90, "add": 26, "reshape": 25, "gelu": 22, "mul": 12, "matmul": 12, "sigmoid": 6, "split": 6}
    authors |= {"softmax": 6, "cast": 2, "reduce_mean": 1, "linear": 1}
    assert operators["matmul"] == 12  # two products for each of six attention units
    assert operators.keys() <= authors.keys()  # none that moves data, such as a transpose
    assert all(count <= authors[name] for name, count in operators.items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input": "image"}, "--input image needs the mean and std of the training images: give --data, or --mean and"),
        ({"output": "classifier"}, "--output classifier needs the names of the classes: give --classes FILE or --data"),
        ({"output": "classifier", "features": True}, "--features has no classes: leave --output classifier out"),
    ],
)
def test_options_that_need_what_is_not_known(
    options: dict[str, Any], says: str, network: Network, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        coreml_format.export(network, tmp_path / "a.mlpackage", options=coreml_format.Options(**options))

    assert str(caught.value).startswith(says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "darwin" or "CI" in os.environ, reason="Core ML runs on macOS only")
def test_a_mac_predicts_the_same(network: Network, tmp_path: Path) -> None:
    import coremltools

    (path,) = coreml_format.export(network, tmp_path / "a.mlpackage")

    found = coremltools.models.MLModel(str(path)).predict({"image": noise(network).half().numpy()})["logits"]
    with torch.no_grad():
        assert apart(torch.from_numpy(found).float(), network(noise(network))) < 2e-2
