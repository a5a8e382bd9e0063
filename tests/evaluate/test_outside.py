"""Networks of timm, with weights of files: by their names, or by their order."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

import nas
from nas.errors import InputError, NasError
from nas.evaluate.outside import timm_subject
from nas.evaluate.subject import Subject

NAME = "test_resnet.r160_in1k"


@pytest.fixture
def weights(timm: ModuleType) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = timm.create_model(NAME, num_classes=3).state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items()}


def subject(name: str = NAME, **options: object) -> tuple[Subject, list[str]]:
    said: list[str] = []
    usual = {"weights": None, "weights_key": None, "num_classes": None, "resolution": None, "device": "cpu"}
    return timm_subject(name, **(usual | options), say=said.append), said  # type: ignore[arg-type]


def test_names_of_timm_are_loaded(
    weights: dict[str, torch.Tensor], timm: ModuleType, zoo: Path, tmp_path: Path
) -> None:
    save_file(weights, tmp_path / "w.safetensors")

    found = nas.evaluate(f"timm:{NAME}", str(zoo), weights=tmp_path / "w.safetensors", num_classes=3, limit=6)

    assert (found.network, found.form, found.scores.outputs) == (f"timm:{NAME}", "timm", 3)
    assert found.weights.startswith("w.safetensors (SHA-256 begins ")
    assert (found.protocol.resolution, found.protocol.crop) == (160, 0.95)  # as timm's configuration says
    assert found.protocol.normalised_by == "of timm's configuration"


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_other_names_are_loaded_by_their_order(
    weights: dict[str, torch.Tensor], timm: ModuleType, tmp_path: Path, suffix: str
) -> None:
    renamed = {
        f"_x{place:03}.{name.rpartition('.')[2]}": tensor for place, (name, tensor) in enumerate(weights.items())
    }
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(renamed, path)
    else:
        save_file(renamed, path)
    module = timm.create_model(NAME, num_classes=3).eval()
    module.load_state_dict(weights)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))

    found, said = subject(weights=str(path), num_classes=3)

    with torch.no_grad():
        expected = module(images).numpy()
    assert found.run(images.numpy()) == pytest.approx(expected, abs=1e-4)
    assert said[0].startswith(f"w.{suffix}: has other names than timm:{NAME}; its ")


def test_files_that_do_not_fit_are_refused(weights: dict[str, torch.Tensor], timm: ModuleType, tmp_path: Path) -> None:
    first, *_ = weights
    cases = {
        "less": ({name: tensor for name, tensor in weights.items() if name != first}, f"lacks {first}, which timm:"),
        "more": (weights | {"x.weight": torch.zeros(2)}, "has x.weight, which timm:"),
        "other": (weights | {first: torch.zeros(2, 3)}, f"{first} has shape \\(2, 3\\), timm:"),
    }
    for name, (state, says) in cases.items():
        save_file(state, tmp_path / f"{name}.safetensors")
        with pytest.raises(InputError, match=f"{name}.safetensors: {says}"):
            subject(weights=str(tmp_path / f"{name}.safetensors"), num_classes=3)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"needs \(1000, \d+\); for its classes: --num-classes 3$"):
        subject(weights=str(tmp_path / "w.safetensors"))


def test_what_timm_has_no_weights_for_is_refused(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"timm:mobilnetv3_small_050: timm has no such network; did you mean mobilenetv3_"
    ):
        subject("mobilnetv3_small_050")
    with pytest.raises(InputError, match="timm:botnet50ts_256: timm has no weights for it: give --weights FILE"):
        subject("botnet50ts_256")

    def offline(name: str, **options: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(NasError, match=r"the weights of timm:.* cannot be downloaded \(ConnectionError\): repeat this"):
        subject()
    with pytest.raises(InputError, match="has the classes of its weights: leave --num-classes out"):
        subject(num_classes=3)


def test_size_that_a_network_does_not_take_is_refused(timm: ModuleType, tmp_path: Path) -> None:
    name = "test_vit.r160_in1k"
    state = {key: tensor.contiguous() for key, tensor in timm.create_model(name).state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")

    with pytest.raises(InputError, match="takes images of 160 px only: leave --resolution out"):
        subject(name, weights=str(tmp_path / "w.safetensors"), resolution=192)
