from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from nas.data import ImageSet, load_images
from nas.errors import InputError
from nas.files import digest
from nas.networks import Architecture, AttentionSpec, ConvSpec, SearchSpace, StageSpec
from nas.networks.modules import build_model, save_weights
from nas.proxies import Inputs, ScoringFailed, short_training
from nas.proxies.short_training import Options, Recipe, ShortTraining, StartingPoint, build
from nas.training import SupernetRecipe, Teacher, load_supernet, train_supernet

CONV = ConvSpec(kernel=3, expansion=2)
ATTENTION = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)
TINY = Architecture(stages=tuple(StageSpec(channels=c, blocks=(CONV, ATTENTION)) for c in (8, 16, 16, 32)))


def _proxy(image_set: ImageSet, *, seed: int = 0, **recipe: Any) -> ShortTraining:
    settings = {"images": 192 * 8, "batch_size": 32, **recipe}
    return ShortTraining(image_set=image_set, recipe=Recipe(**settings), seed=seed, device="cpu")


def test_network_learns_what_the_pictures_show(colours: ImageSet) -> None:
    score = _proxy(colours).score(TINY)

    assert score.details["accuracy"] > 0.9
    assert score.value > 0.7


def test_network_that_sees_shuffled_labels_stays_at_chance(colours: ImageSet) -> None:
    shuffled = colours.train_labels[torch.randperm(192, generator=torch.Generator().manual_seed(0))]

    score = _proxy(replace(colours, train_labels=shuffled)).score(TINY)

    assert score.details["accuracy"] < 0.6
    assert score.value < 0.35  # guessing gives 0.25


def test_weights_are_those_that_were_scored(colours: ImageSet) -> None:
    score = _proxy(colours).score(TINY)
    network = build_model(TINY.at(resolution=32, num_classes=4)).eval()
    assert score.weights is not None

    network.load_state_dict(dict(score.weights))

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (colours.mean, colours.std))
    with torch.inference_mode():
        logits = network((colours.val_images / 255 - mean) / std)
    right = (logits.argmax(1) == colours.val_labels).float()
    assert score.details["accuracy"] == right.mean().item()
    probabilities = logits.softmax(1)[range(64), colours.val_labels].double()
    assert score.value == pytest.approx(probabilities.log().mean().exp().item(), rel=1e-4)
    error = probabilities.log().std(correction=0) / 8
    assert score.details["standard_error"] == pytest.approx(score.value * error.item(), rel=1e-3)


def test_seed_decides_every_weight(colours: ImageSet) -> None:
    first, again, other = (_proxy(colours, seed=seed, images=64).score(TINY).weights for seed in (0, 0, 1))
    assert first is not None and again is not None and other is not None

    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_global_generator_is_left_alone(colours: ImageSet) -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()

    _proxy(colours, images=32).score(TINY)

    assert torch.equal(state, torch.random.get_rng_state())


def test_images_are_counted_in_whole_batches(colours: ImageSet) -> None:
    score = _proxy(colours, images=100, batch_size=32).score(TINY)

    assert score.details["images"] == 128
    assert score.details["val_images"] == 64


def test_batch_is_no_larger_than_the_data(colours: ImageSet) -> None:
    score = _proxy(colours, images=192, batch_size=1000).score(TINY)

    assert score.details["images"] == 192


def test_diverged_training_fails_with_a_reason(colours: ImageSet) -> None:
    with pytest.raises(ScoringFailed, match=r"training diverged: the loss is nan after \d+ images"):
        _proxy(colours, matrix_rate=1e30, images=192 * 8).score(TINY)


def test_outputs_that_are_no_numbers_fail_with_a_reason(colours: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_to_nothing(self: ShortTraining, network: nn.Module, optimizer: object) -> float:
        with torch.no_grad():
            next(network.parameters()).fill_(torch.nan)
        return 1.0

    monkeypatch.setattr(ShortTraining, "_train", train_to_nothing)

    with pytest.raises(ScoringFailed, match="the outputs for held-out images are not numbers"):
        _proxy(colours).score(TINY)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_fails_with_a_reason(
    colours: ImageSet, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(short_training, "initial_network", _raises(error))

    with pytest.raises(ScoringFailed, match="out of memory on cpu with 32 images a step of 32 px"):
        _proxy(colours).score(TINY)


@pytest.mark.parametrize("error", [RuntimeError("shape '[2]' is invalid"), KeyboardInterrupt()])
def test_other_errors_and_ctrl_c_pass_through(
    colours: ImageSet, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(short_training, "initial_network", _raises(error))

    with pytest.raises(type(error)):
        _proxy(colours).score(TINY)


def test_bf16_trains_as_well(colours: ImageSet) -> None:
    score = _proxy(colours, precision="bf16").score(TINY)

    assert score.value > 0.7
    assert score.weights is not None
    assert {torch.float32, torch.int64} == {tensor.dtype for tensor in score.weights.values()}


def test_estimate_is_near_the_time_taken(colours: ImageSet) -> None:
    """Tests only that all steps count: the estimate for 100 times the images is more than 5 times as long."""
    short, long = (_proxy(colours, images=images).estimate_seconds(TINY) for images in (640, 64000))

    assert long > 5 * short


def test_settings_name_everything_that_shapes_a_score(colours: ImageSet) -> None:
    settings = _proxy(colours, seed=3).settings()

    expected = {"proxy", "data", "resolution", "seed", "images", "batch_size", "matrix_rate", "precision", "device"}
    assert expected <= set(settings)
    assert tuple(settings[name] for name in ("data", "resolution", "seed", "images")) == ("colours", 32, 3, 1536)
    assert settings == json.loads(json.dumps(settings))


class TestStartingPoint:
    @pytest.fixture
    def supernet(self, colours: ImageSet, tmp_path: Path) -> Path:
        return train_supernet(
            SearchSpace.find("tiny"),
            replace(colours, class_names=("blue", "green", "grey", "red")),  # in the order of a folder's classes
            tmp_path / "tiny.safetensors",
            recipe=SupernetRecipe(images=64),
            seed=0,
            device="cpu",
            precision="fp32",
            on_progress=lambda progress: None,
        )

    def test_candidate_starts_from_its_part_of_a_supernet(self, supernet: Path) -> None:
        network = build_model(SearchSpace.find("tiny").references["tiny_a"].at(resolution=32, num_classes=4))

        StartingPoint(supernet, seed=0).apply(network)

        expected = load_supernet(supernet).weights.part(network)
        assert all(torch.equal(expected[name], parameter) for name, parameter in network.named_parameters())

    def test_candidate_starts_from_the_weights_of_a_larger_network(self, tmp_path: Path) -> None:
        donor = build_model(SearchSpace.find("iformer").references["iformer_t"])
        save_weights(donor, tmp_path / "t.safetensors", metadata={})
        network = build_model(donor.architecture.at(resolution=64, num_classes=4))

        StartingPoint(tmp_path / "t.safetensors", seed=0).apply(network)

        images = torch.randn(2, 3, 64, 64)
        # Sorted, because the two networks have the same channels in different order.
        maps = [part.eval().features(images)[-1].sort(dim=1).values for part in (donor, network)]
        torch.testing.assert_close(*maps)

    def test_it_shows_in_the_settings_and_in_the_score(self, supernet: Path, colours: ImageSet) -> None:
        network = SearchSpace.find("tiny").references["tiny_a"]
        start = StartingPoint(supernet, seed=0)
        recipe = Recipe(images=64, batch_size=64)
        inherited, fresh = (
            ShortTraining(image_set=colours, recipe=recipe, seed=0, device="cpu", init=init) for init in (start, None)
        )

        assert str(supernet) == inherited.settings()["init"]
        assert inherited.settings()["digest"] == hashlib.sha256(supernet.read_bytes()).hexdigest()[:16]
        assert "init" not in fresh.settings()
        assert inherited.score(network).details["training_loss"] != fresh.score(network).details["training_loss"]

    def test_weights_of_a_supernet_are_trained_less(self, supernet: Path, tmp_path: Path) -> None:
        donor = build_model(SearchSpace.find("iformer").references["iformer_t"])
        save_weights(donor, tmp_path / "t.safetensors", metadata={})
        for name, index in product(("blue", "green", "grey", "red"), range(8)):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (index, 0, 0)).save(tmp_path / "photos" / name / f"{index}.png")

        def recipe(init: Path | None) -> tuple[int, float]:
            options = Options(resolution=32, precision="fp32", init=init)
            settings = build(options, Inputs(data=str(tmp_path / "photos"), seed=0, device="cpu")).settings()
            return settings["images"], settings["matrix_rate"]

        assert recipe(None) == recipe(tmp_path / "t.safetensors") == (4096, Recipe().matrix_rate)
        assert recipe(supernet) == (2048, pytest.approx(0.003))

    def test_seed_in_the_name_of_a_file_is_that_of_the_training(self, supernet: Path) -> None:
        supernet.rename(supernet.with_name("tiny.7.safetensors"))
        named = supernet.with_name("tiny.{seed}.safetensors")

        start = StartingPoint(named, seed=7)

        assert (named, supernet.with_name("tiny.7.safetensors")) == (start.name, start.path)
        with pytest.raises(InputError, match=r"tiny\.8\.safetensors: cannot be read \([Nn]o such file"):
            StartingPoint(named, seed=8)

    def test_a_key_chooses_among_the_weights_of_a_file(self, supernet: Path, tmp_path: Path) -> None:
        network = build_model(SearchSpace.find("tiny").references["tiny_a"].at(resolution=32, num_classes=4))
        part = network.state_dict()
        both = {f"model.{name}": tensor for name, tensor in part.items()}
        both |= {f"ema.{name}": tensor + 1 for name, tensor in part.items()}
        save_file(both, tmp_path / "w.safetensors", {"architecture": network.architecture.to_json()})

        chosen = StartingPoint(tmp_path / "w.safetensors", seed=0, weights_key="model")
        other = build_model(network.architecture)
        chosen.apply(other)

        assert chosen.digest == digest(tmp_path / "w.safetensors") + "#model"
        torch.testing.assert_close(other.eval()(torch.ones(2, 3, 32, 32)), network.eval()(torch.ones(2, 3, 32, 32)))
        with pytest.raises(InputError, match="is a supernet, which has no --option weights_key: leave it out"):
            StartingPoint(supernet, seed=0, weights_key="model")
        with pytest.raises(InputError, match="--option weights_key goes with --option init=FILE"):
            build(Options(weights_key="model"), Inputs(data="synthetic", seed=0, device="cpu"))

    def test_supernet_for_other_classes_is_refused(self, supernet: Path) -> None:
        options = Options(images=64, resolution=32, precision="fp32", init=supernet)

        with pytest.raises(InputError, match="was trained for 4 classes, synthetic has 20: give the data"):
            build(options, Inputs(data="synthetic", seed=0, device="cpu"))

    def test_network_outside_the_supernet_has_no_score(self, supernet: Path, colours: ImageSet) -> None:
        start = StartingPoint(supernet, seed=0)

        with pytest.raises(ScoringFailed, match="does not fit into the supernet"):
            start.apply(build_model(SearchSpace.find("iformer").references["iformer_t"]))


class TestTeacher:
    LITE0 = "efficientnet-lite0"

    @staticmethod
    def _build(photos: Path, **options: Any) -> ShortTraining:
        given = Options(images=64, resolution=32, precision="fp32", **options)
        return build(given, Inputs(data=str(photos), seed=0, device="cpu"))

    @staticmethod
    def _supernet(images: ImageSet, path: Path) -> Path:
        recipe = SupernetRecipe(images=32, batch_size=32, average=0.0, until=None)
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

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        """Two classes that have nothing to do with the colours, which are all that the teacher sees."""
        for name, index in product("ab", range(24)):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            colour = ((60, 60, 60), (180, 60, 60), (60, 180, 60), (60, 60, 180))[index % 4]
            Image.new("RGB", (32, 32), colour).save(tmp_path / "photos" / name / f"{index}.png")
        return tmp_path / "photos"

    def test_labels_are_those_of_the_teacher(self, fake_teacher: ModuleType, photos: Path) -> None:
        proxy = self._build(photos, teacher=self.LITE0)

        score = proxy.score(TINY)

        settings = proxy.settings()
        assert (settings["teacher"], settings["label_smoothing"]) == (self.LITE0, 0.0)
        assert (score.details["teacher"], score.details["classes"]) == (self.LITE0, 1000)
        assert 0.001 < score.value < 1

    def test_without_a_teacher_nothing_says_so(self, photos: Path) -> None:
        settings = self._build(photos).settings()

        assert "teacher" not in settings
        assert settings["label_smoothing"] == 0.1

    def test_supernet_brings_its_teacher(
        self, fake_teacher: ModuleType, colours: ImageSet, photos: Path, tmp_path: Path
    ) -> None:
        taught = Teacher(self.LITE0, device="cpu").labelled(colours)
        supernet = self._supernet(taught, tmp_path / "taught.safetensors")

        assert self._build(photos, init=supernet).settings()["teacher"] == self.LITE0
        assert self._build(photos, init=supernet, teacher=self.LITE0).settings()["teacher"] == self.LITE0
        with pytest.raises(InputError) as caught:
            self._build(photos, init=supernet, teacher="efficientnet-lite2")
        assert str(caught.value) == (
            f"--option teacher=efficientnet-lite2: {supernet} was trained on the labels of efficientnet-lite0; "
            "leave the teacher out to train on these"
        )

    def test_supernet_without_a_teacher_takes_none(self, colours: ImageSet, photos: Path, tmp_path: Path) -> None:
        supernet = self._supernet(colours, tmp_path / "plain.safetensors")

        with pytest.raises(InputError, match=r"plain\.safetensors was trained on the labels of its data; leave"):
            self._build(photos, init=supernet, teacher=self.LITE0)

    def test_unknown_teacher_is_refused_before_any_image_is_read(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no teacher named 'lite0': there are efficientnet-lite0, efficient"):
            self._build(tmp_path / "nothing there", teacher="lite0")


class TestBuild:
    def test_one_image_is_too_few(self) -> None:
        one = replace(
            load_images("synthetic", resolution=32, seed=0, train_limit=64, val_limit=64), train_labels=torch.zeros(1)
        )

        with pytest.raises(InputError, match="short training needs two images at least"):
            ShortTraining(image_set=one, recipe=Recipe(), seed=0, device="cpu")

    def test_synthetic_images_are_as_many_as_are_trained_on(self) -> None:
        options = Options(images=128, resolution=32, precision="fp32")
        proxy = build(options, Inputs(data="synthetic", seed=0, device="cpu"))

        expected = load_images("synthetic", resolution=32, seed=0, train_limit=128, val_limit=2048).description
        assert expected == proxy.settings()["data"]

    @pytest.mark.parametrize("device", ["cuda:99", "gpu"])
    def test_device_that_is_not_there_is_refused_at_once(self, device: str) -> None:
        with pytest.raises(InputError, match=f"device '{device}' cannot be used here"):
            build(Options(), Inputs(data="synthetic", seed=0, device=device))


def _raises(error: BaseException) -> Any:
    def call(*arguments: object, **options: object) -> None:
        raise error

    return call
