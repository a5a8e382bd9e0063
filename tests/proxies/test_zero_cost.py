from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import ImageSet, training_batches
from nas.errors import InputError
from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec, count
from nas.networks.modules import Network, build_model
from nas.networks.modules.attention import Attention
from nas.proxies import Inputs, Score, ScoringFailed, zero_cost
from nas.proxies.zero_cost import Options, ZeroCost, build, gradient_norm, naswot, synflow, zico
from nas.training.recipe import seeded_network

CONV = ConvSpec(kernel=3, expansion=2)
ATTENTION = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)
WINDOWED = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2, window=4)
MEASURES = ("synflow", "naswot", "gradient-norm", "zico")


def _architecture(
    *, width: int = 8, blocks: tuple[ConvSpec | AttentionSpec, ...] = (CONV, ATTENTION), windowed: bool = True
) -> Architecture:
    first = StageSpec(channels=width, blocks=(CONV, WINDOWED if windowed else ATTENTION))
    later = (StageSpec(channels=width * factor, blocks=blocks) for factor in (2, 2, 4))
    return Architecture(resolution=32, num_classes=4, stages=(first, *later))


def _network(architecture: Architecture | None = None, *, seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(architecture or _architecture())


def _image_set(*, train: int = 24, spread: int = 60) -> ImageSet:
    random = torch.Generator().manual_seed(0)
    images = 128 + torch.randint(-spread, spread + 1, (train + 4, 3, 32, 32), generator=random)
    labels = torch.arange(train + 4) % 4
    return ImageSet(
        train_images=images[:train].to(torch.uint8),
        train_labels=labels[:train],
        val_images=images[train:].to(torch.uint8),
        val_labels=labels[train:],
        class_names=("a", "b", "c", "d"),
        description="noise",
        mean=(0.5, 0.5, 0.5),
        std=(0.14, 0.14, 0.14),
    )


def _proxy(measure: Any = "naswot", *, image_set: ImageSet | None = None, seed: int = 0) -> ZeroCost:
    return ZeroCost(image_set=image_set or _image_set(), measure=measure, batch_size=12, seed=seed, device="cpu")


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    return next(training_batches(_image_set(), batch_size=12, steps=1, seed=0))


class Negate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


class TestSynflow:
    def test_chain_sums_over_all_its_paths(self) -> None:
        first, second = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
        norm = nn.BatchNorm1d(3)
        nn.init.constant_(norm.weight, 7.0)

        value = synflow(nn.Sequential(first, norm, Negate(), second), torch.zeros(5, 2))

        one, two = (layer.weight.detach().double().numpy() for layer in (first, second))
        paths = sum(
            abs(one[middle, start] * two[end, middle])
            for start, middle, end in itertools.product(range(2), range(3), range(2))
        )
        assert value == pytest.approx(math.log10(2 * paths))  # each path counts once in each of the two layers

    def test_network_without_attention_agrees_with_finite_differences(self) -> None:
        """No gradient is negative here, so the sum is the derivative of R by a common scale of all weights."""
        stages = tuple(StageSpec(channels=channels, blocks=(CONV,)) for channels in (8, 16, 16, 32))
        network = _network(Architecture(resolution=32, num_classes=4, stages=stages, layer_scale=0.1))

        value = synflow(network, torch.zeros(1, 3, 32, 32))

        network.double().eval()
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)):
            norm.eps = 0  # a norm with mean 0 and variance 1 is then the identity
        weights = {name: weight.abs() if "norm" not in name else weight for name, weight in network.named_parameters()}

        def flow(scale: float) -> float:
            scaled = {name: weight if "norm" in name else weight * scale for name, weight in weights.items()}
            ones = torch.ones(1, 3, 32, 32, dtype=torch.float64)
            return torch.func.functional_call(network, scaled, (ones,)).sum().item()

        step = 1e-5
        assert value == pytest.approx(math.log10((flow(1 + step) - flow(1 - step)) / (2 * step)), abs=1e-7)

    def test_gated_attention_flows_as_attention_without_a_gate(self) -> None:
        gated = _network(_architecture(windowed=False))
        single = ATTENTION.model_copy(update={"attention": "sha"})
        stages = tuple(StageSpec(channels=channels, blocks=(CONV, single)) for channels in (8, 16, 16, 32))
        plain = _network(Architecture(resolution=32, num_classes=4, stages=stages), seed=1)
        state = gated.state_dict()
        halves = {name: state[name][: len(own)] if own.ndim else own for name, own in plain.state_dict().items()}
        plain.load_state_dict(halves)  # keeps the values, which come before the gates

        expected = synflow(plain, torch.zeros(1, 3, 32, 32))
        assert expected == pytest.approx(synflow(gated, torch.zeros(1, 3, 32, 32)), rel=1e-12)

    def test_network_is_left_as_it_was(self) -> None:
        network = _network()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

        synflow(network, torch.zeros(1, 3, 32, 32))

        after = network.state_dict()
        assert list(before) == list(after)
        assert {"shma"} == {module.kind for module in network.modules() if isinstance(module, Attention)}
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_naswot_compares_the_codes_of_all_images(batch: tuple[Tensor, Tensor]) -> None:
    images, _ = batch
    network = _network()
    value = naswot(network, images)

    codes: list[list[bool]] = [[] for _ in images]
    rows = []

    def keep(module: nn.Module, inputs: tuple[Tensor]) -> None:
        rows.append(len(inputs[0]))
        for image, code in enumerate(codes):
            code += (inputs[0][image :: len(images)] > 0).flatten().tolist()

    for module in network.modules():
        if isinstance(module, nn.GELU):
            module.register_forward_pre_hook(keep)
    network(images)
    kernel = np.array([[sum(a == b for a, b in zip(one, two, strict=True)) for two in codes] for one in codes])
    assert 4 * len(images) in rows  # window attention: the windows of one image form one code
    assert value == pytest.approx(np.linalg.slogdet(kernel).logabsdet, rel=1e-9)


def test_naswot_leaves_no_hooks_behind(batch: tuple[Tensor, Tensor]) -> None:
    network = _network()

    naswot(network, batch[0])

    assert not any(module._forward_pre_hooks for module in network.modules())


def test_gradient_norm_adds_the_lengths_of_all_gradients(batch: tuple[Tensor, Tensor]) -> None:
    network = _network()
    value = gradient_norm(network, *batch)

    gradients = _plain_gradients(network, *batch)
    assert len(gradients) == len(list(network.parameters()))
    assert value == pytest.approx(sum(math.sqrt((g.astype(float) ** 2).sum()) for g in gradients.values()), rel=1e-5)


def test_zico_weighs_gradients_by_how_steady_they_are(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    network = _network()
    value = zico(network, images, labels)

    parts = [slice(start, start + 3) for start in (0, 3, 6, 9)]
    gradients = [_plain_gradients(network, images[part], labels[part]) for part in parts]
    layers = [name for name in gradients[0] if name.endswith(("conv.weight", "linear.weight"))]
    expected, silent = 0.0, []
    for name in layers:
        stacked = np.stack([of_part[name].astype(float) for of_part in gradients]).reshape(4, -1)
        ratios = [np.abs(weight).mean() / weight.std() for weight in stacked.T if weight.std() > 0]
        if ratios:
            expected += math.log(sum(ratios))
        else:
            silent.append(name)
    # The last feature map has one pixel. Attention has nothing to choose from, so queries and keys have no gradient.
    assert [name.split(".")[-3] for name in silent] == ["query", "key"]
    assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("measure", ["params", "macs"])
class TestCounted:
    def test_score_is_the_count_and_no_data_is_opened(self, measure: str) -> None:
        network = _architecture().at(resolution=64)

        score = build(Options(measure=measure), Inputs(data="no/such/folder", seed=0)).score(network)

        assert getattr(count(network), measure) == score.value

    def test_settings_tell_measure_and_data(self, measure: str) -> None:
        settings = build(Options(measure=measure), Inputs(data="pictures", seed=3)).settings()

        recorded = {"data": "pictures", "fingerprint": "none used"}
        assert {"proxy": "zero-cost", **recorded, "seed": 3, "measure": measure} == settings


@pytest.mark.parametrize("measure", ["params", "macs", "synflow"])
def test_wider_and_deeper_networks_score_higher(measure: Any) -> None:
    proxy = _proxy(measure) if measure == "synflow" else build(Options(measure=measure), Inputs(data="", seed=0))
    plain, wider, deeper = (
        proxy.score(architecture).value
        for architecture in (
            _architecture(),
            _architecture(width=16),
            _architecture(blocks=(CONV, CONV, ATTENTION, ATTENTION)),
        )
    )

    assert plain < wider
    assert plain < deeper


class TestZeroCost:
    @pytest.mark.parametrize("measure", MEASURES)
    def test_seed_draws_the_weights_and_the_images(self, measure: str) -> None:
        score = _proxy(measure, seed=3).score(_architecture().at(resolution=64, num_classes=7))

        network = _network(seed=3)  # has the resolution and the classes of the images
        images, labels = next(training_batches(_image_set(), batch_size=12, steps=1, seed=3))
        match measure:
            case "synflow":
                expected = synflow(network, images)
            case "naswot":
                expected = naswot(network, images)
            case "gradient-norm":
                expected = gradient_norm(network, images, labels)
            case _:
                expected = zico(network, images, labels)
        assert score.value == pytest.approx(expected, rel=1e-3)  # the memory format of weights changes the last digits
        assert score.value != pytest.approx(_proxy(measure, seed=4).score(_architecture()).value, rel=1e-5)

    def test_global_generator_is_left_alone(self) -> None:
        state = torch.random.get_rng_state()

        _proxy().score(_architecture())

        assert torch.equal(state, torch.random.get_rng_state())

    def test_settings_name_everything_that_shapes_a_score(self) -> None:
        settings = _proxy("zico", seed=3).settings()

        expected = ("zero-cost", "noise", 32, 3, "zico", 12, "cpu")
        names = ("proxy", "data", "resolution", "seed", "measure", "batch_size", "device")
        assert expected == tuple(settings[name] for name in names)
        assert {"threads", "torch"} <= set(settings)
        assert settings == json.loads(json.dumps(settings))

    def test_batch_is_no_larger_than_the_data(self) -> None:
        score = _proxy(image_set=_image_set(train=9)).score(_architecture())

        assert score.details == {"images": 9, "classes": 4}

    def test_estimate_is_the_time_of_one_score(self, monkeypatch: pytest.MonkeyPatch) -> None:
        proxy = _proxy()
        monkeypatch.setattr(proxy, "score", lambda network: Score(value=1.0, seconds=2.5, details={}))

        assert proxy.estimate_seconds(_architecture()) == 2.5

    @pytest.mark.parametrize("measure", MEASURES)
    def test_score_that_is_no_number_fails_with_a_reason(self, measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoilt(architecture: Architecture, *, seed: int) -> Network:
            network = seeded_network(architecture, seed=seed)
            nn.init.constant_(network.layers[-1].classifiers[0].linear.weight, math.nan)
            return network

        monkeypatch.setattr(zero_cost, "seeded_network", spoilt)

        with pytest.raises(ScoringFailed, match=f"{measure} of the untrained network is nan, not a finite number"):
            _proxy(measure).score(_architecture())

    def test_images_that_look_the_same_fail_with_a_reason(self) -> None:
        with pytest.raises(ScoringFailed, match="naswot of the untrained network is -inf"):
            _proxy(image_set=_image_set(spread=0)).score(_architecture())

    def test_running_out_of_memory_fails_with_a_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def exhaust(architecture: Architecture, *, seed: int) -> Network:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        monkeypatch.setattr(zero_cost, "seeded_network", exhaust)

        with pytest.raises(ScoringFailed, match="out of memory on cpu with 12 images of 32 px"):
            _proxy().score(_architecture())


class TestBuild:
    def test_images_are_as_many_as_are_shown(self) -> None:
        settings = build(
            Options(batch_size=16, resolution=32), Inputs(data="synthetic", seed=0, device="cpu")
        ).settings()

        assert (settings["batch_size"], settings["resolution"]) == (16, 32)
        assert "16 train" in settings["data"]

    def test_too_few_images_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zero_cost, "load_images", lambda *arguments, **options: _image_set(train=7))

        with pytest.raises(InputError, match="few: 7 training images, zero-cost needs at least 8"):
            build(Options(), Inputs(data="few", seed=0, device="cpu"))


def _plain_gradients(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    network.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    return {name: weight.grad.numpy().copy() for name, weight in network.named_parameters() if weight.grad is not None}
