"""Published weights: what stands in for the hub and the release are caches with a random network in timm's names."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

import nas
from nas.data import Normalisation
from nas.errors import InputError, NasError
from nas.export.torch import load
from nas.networks import SearchSpace
from nas.networks.modules import build_model, to_timm
from nas.networks.modules.network import Network
from nas.networks.modules.published import published_weights

T = SearchSpace.find("iformer").references["iformer_t"]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def published() -> Network:
    torch.manual_seed(0)
    return build_model(T)


def in_hub(folder: Path, name: str, network: Network) -> Path:
    """A cache of the hub that has these weights."""
    repository = folder / "hub" / f"models--timm--{name}"
    path = repository / "snapshots" / "c0ffee" / "model.safetensors"
    path.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    save_file(to_timm(network)[0], path)
    return path


def assert_equal_weights(one: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def test_weights_of_the_hub_are_exported_with_the_mean_and_std_of_their_images(
    timm: ModuleType, published: Network, tmp_path: Path
) -> None:
    path = in_hub(tmp_path, "iformer_t.in1k", published)
    said: list[str] = []
    folder, *_ = nas.export("iformer_t", "torch", weights="timm", out=tmp_path / "t.torch", say=said.append)
    network = load(folder)

    assert_equal_weights(network, published)
    assert network.card.weights.startswith("timm's iformer_t.in1k (SHA-256 begins ")
    assert network.card.normalisation == Normalisation(
        mean=timm.data.IMAGENET_DEFAULT_MEAN, std=timm.data.IMAGENET_DEFAULT_STD
    )
    assert said == [f"weights: iformer_t.in1k of timm, {path}"]


def test_another_name_of_timm_may_be_given_and_must_fit_the_network(
    timm: ModuleType, published: Network, tmp_path: Path
) -> None:
    in_hub(tmp_path, "iformer_t.in1k", published)

    assert published_weights("iformer_t.in1k").name == "iformer_t.in1k"
    with pytest.raises(InputError, match=r"model.safetensors: lacks .*, which this network has"):
        nas.export("iformer_m", "torch", weights="timm:iformer_t", out=tmp_path / "m.torch")


def test_the_release_of_the_authors_stands_in_for_the_hub_and_is_read_without_unpickling(
    timm: ModuleType, published: Network, tmp_path: Path
) -> None:
    path = tmp_path / "torch" / "checkpoints" / "iFormer_t.pth"
    path.parent.mkdir(parents=True)
    torch.save({"model": to_timm(published)[0]}, path)

    assert published_weights("iformer_t").path == path
    folder, *_ = nas.export("iformer_t", "torch", weights="timm", out=tmp_path / "t.torch")
    assert_equal_weights(load(folder), published)


def test_without_a_network_one_line_says_what_to_do(timm: ModuleType) -> None:
    with pytest.raises(NasError) as caught:
        published_weights("iformer_m")

    assert str(caught.value) == (
        "the weights of iformer_m.in1k cannot be downloaded from huggingface.co/timm/iformer_m.in1k "
        "(LocalEntryNotFoundError) or https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_m.pth "
        "(ConnectionError): repeat this where there is a network, or bring the file here and give it: "
        "--weights iFormer_m.pth"
    )


def test_a_network_without_published_weights_is_refused_with_those_that_have_some(
    timm: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"weights in timm named 'tiny_a': there are .*iformer_l2_dist"):
        nas.export("tiny_a", "torch", weights="timm", out=tmp_path / "t.torch")
    with pytest.raises(InputError, match=r"named 'iformer_l2': there are .*iformer_l2_distilled"):
        published_weights("iformer_l2")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("no timm", name="timm"),
            "a network with published weights needs timm: pip install 'nas[timm]', or give a file",
        ),
        (
            RuntimeError("another torch\nand more"),
            "a network with published weights needs timm, which does not load here (another torch): install the torch "
            "and the torchvision that belong together, from one source, or give a file",
        ),
    ],
)
def test_a_missing_or_broken_extra_is_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def broken(name: str, package: str | None = None) -> ModuleType:
        if name == "timm":
            raise error
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(InputError) as caught:
        published_weights("iformer_t")

    assert str(caught.value) == message
