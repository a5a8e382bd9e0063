from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import nas
from nas.dense import Backbone, backbone
from nas.dense.backbones import IMAGENET
from nas.errors import InputError
from nas.latency.published import read_points
from nas.networks import Architecture, windowed
from nas.networks.modules import Network, build_model, load_weights, save_weights

Body = Callable[..., Backbone]


def images(height: int = 96, width: int = 96) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_four_maps_in_the_form_of_torchvision(body: Body) -> None:
    made = body()

    maps = made(images(96, 128))

    assert isinstance(maps, OrderedDict)
    assert list(maps) == ["0", "1", "2", "3"]
    shapes = [(2, c, 96 // s, 128 // s) for c, s in zip(made.channels, made.strides, strict=True)]
    assert shapes == [tuple(x.shape) for x in maps.values()]


def test_the_maps_are_those_of_the_network(architecture: Architecture) -> None:
    network = build_model(architecture).eval()

    maps = backbone(network).eval()(images())

    for ours, theirs in zip(maps.values(), network.features(images()), strict=True):
        assert torch.equal(ours, theirs)


def test_every_parameter_gets_a_gradient(body: Body) -> None:
    made = body()

    sum(x.sum() for x in made(images()).values()).backward()

    assert [name for name, parameter in made.named_parameters() if parameter.grad is None] == []


def test_an_exported_folder_brings_its_weights_and_normalisation(architecture: Architecture, tmp_path: Path) -> None:
    network = build_model(architecture)
    path, *_ = nas.export(network, "torch", out=tmp_path / "a.torch", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))

    made = nas.backbone(path).eval()

    assert made.normalisation.mean == (0.1, 0.2, 0.3)
    for ours, theirs in zip(made(images()).values(), network.eval().features(images()), strict=True):
        assert torch.equal(ours, theirs)


def test_a_folder_brings_weights_to_a_network_with_windows(architecture: Architecture, tmp_path: Path) -> None:
    network = build_model(architecture)
    nas.export(network, "torch", out=tmp_path / "best.torch")

    made = backbone(architecture, window=3, weights=tmp_path)  # as the folder of a training has it

    assert made.architecture.id != architecture.id
    first = "layers.0.first.conv.weight"
    assert torch.equal(network.state_dict()[first], made.network.state_dict()[first])


def test_weights_of_classification_load_without_their_classifier(architecture: Architecture, tmp_path: Path) -> None:
    network = build_model(architecture.at(num_classes=7), distillation=True)
    save_weights(network, tmp_path / "w.safetensors", metadata={})

    made = backbone(architecture, weights=tmp_path / "w.safetensors").eval()

    assert made.normalisation == IMAGENET
    for ours, theirs in zip(made(images()).values(), network.eval().features(images()), strict=True):
        assert torch.equal(ours, theirs)


def test_a_trained_backbone_goes_back_into_a_network(body: Body, architecture: Architecture, tmp_path: Path) -> None:
    made = body()
    pyramid = made.pyramid(8)
    torch.save({"state_dict": {f"backbone.{n}": t for n, t in pyramid.state_dict().items()}}, tmp_path / "w.pth")
    network = build_model(architecture)

    load_weights(network, tmp_path / "w.pth")

    for ours, theirs in zip(made.eval()(images()).values(), network.eval().features(images()), strict=True):
        assert torch.equal(ours, theirs)


class TestWindows:
    @pytest.mark.parametrize("name", ["iformer_m", "iformer_l", "iformer_l2"])
    def test_those_of_the_published_networks_at_512(self, name: str) -> None:
        points = read_points(Path(nas.__file__).parents[1] / "latency_tables" / "iphone13.points.csv")
        published = next(point for point in points if point.name == f"{name}_512_chunked")

        with torch.device("meta"):
            made = backbone(name, resolution=512, window=16)

        assert published.architecture().id == made.architecture.id

    def test_zero_attends_everywhere(self, architecture: Architecture) -> None:
        inside = windowed(architecture, 3)

        assert inside.id != architecture.id
        assert architecture.id == windowed(inside, 0).id

    def test_a_run_of_one_unit_attends_everywhere(self, architecture: Architecture) -> None:
        windows = [
            [getattr(block, "window", None) for block in stage.blocks] for stage in windowed(architecture, 2).stages
        ]

        assert windows == [[None], [None], [None, 2, 0], [0]]

    def test_a_map_that_they_do_not_divide_is_named(self, architecture: Architecture) -> None:
        with pytest.raises(InputError) as caught:
            backbone(architecture, window=4)

        assert "stages[2]: window must divide the 6x6 map and be smaller (0 attends everywhere), got 4" in str(
            caught.value
        )

    def test_images_of_other_sizes_are_padded(self, body: Body) -> None:
        made = body(window=3).eval()

        maps = made(images(100, 75))

        assert [tuple(x.shape[2:]) for x in maps.values()] == [(25, 19), (13, 10), (7, 5), (4, 3)]


class TestNorms:
    def test_frozen_ones_stay_as_they_are(self, body: Body) -> None:
        made = body(norms="frozen").train()
        before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
        others = [parameter for parameter in made.parameters() if parameter.requires_grad]

        sum(x.sum() for x in made(images()).values()).backward()
        torch.optim.SGD(others, lr=0.1).step()

        norms = {name for name, module in made.named_modules() if isinstance(module, nn.BatchNorm2d)}
        assert norms and all(not made.get_submodule(name).training for name in norms)
        changed = {name.rpartition(".")[0] for name, x in made.state_dict().items() if not torch.equal(before[name], x)}
        assert "network.layers.0.first.conv" in changed
        assert changed.isdisjoint(norms)

    def test_shared_ones_have_the_same_names(self, body: Body) -> None:
        made = body(norms="sync")

        assert any(isinstance(module, nn.SyncBatchNorm) for module in made.modules())
        assert made.state_dict().keys() == body().state_dict().keys()
        assert isinstance(made.network, Network)


class TestErrors:
    def test_a_results_folder_is_exported_first(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"is no exported network: nas export .* --format torch writes one"):
            backbone(tmp_path)

    def test_an_unknown_name_answers_with_the_names(self) -> None:
        with pytest.raises(InputError, match="iformer_m"):
            backbone("iformer_mm")

    def test_a_deployed_network_is_refused(self, architecture: Architecture) -> None:
        with pytest.raises(InputError, match=r"a backbone needs a network before nas\.fuse"):
            backbone(nas.fuse(build_model(architecture)))  # type: ignore[arg-type]


def test_the_pyramid_is_a_backbone_of_torchvision(body: Body) -> None:
    made = body().pyramid(16)

    maps = made(images())

    assert made.out_channels == 16
    assert [(x.shape[1], x.shape[2]) for x in maps.values()] == [(16, 24), (16, 12), (16, 6), (16, 3), (16, 2)]


@pytest.mark.parametrize("name", ["RetinaNet", "FCOS", "FasterRCNN"])
def test_detectors_of_torchvision_take_it(name: str, body: Body, operators: None) -> None:
    from torchvision.models import detection
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    made = body()
    dense = name != "FasterRCNN"
    pyramid = made.pyramid(32, maps=(1, 2, 3), extra=LastLevelP6P7(32, 32)) if dense else made.pyramid(32)
    detector = getattr(detection, name)(pyramid, num_classes=3, min_size=96, max_size=96)
    targets = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}] * 2

    losses = detector(list(images()), targets)

    assert all(torch.isfinite(loss) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert [part for part, parameter in made.named_parameters() if parameter.grad is None] == []
