"""What every proxy promises: contract tests, which run on every file of nas/proxies without registration.

They also run on a panel and on a file of a user's own, which keep the same promises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas import catalog
from nas.data import load_images
from nas.errors import InputError, NasError
from nas.networks import Architecture, AttentionSpec, ConvSpec, SearchSpace, StageSpec
from nas.networks.modules import build_model
from nas.proxies import Proxy, ScoringFailed, build_proxies, fake
from nas.proxies.fake import FakeProxy
from nas.training import SupernetRecipe, train_supernet

PANEL = "supernet+zero-cost:naswot"
OWN = str(Path(__file__).with_name("own_scorer.py"))
KINDS = {PANEL: "panel", OWN: "file"}  # what settings call those that are no file of nas/proxies

# Options that make a proxy cheap enough for a test. A proxy without an entry runs with its defaults.
CHEAP = {
    "short-training": {"images": "64", "resolution": "32", "precision": "fp32"},
    "zero-cost": {"batch_size": "16", "resolution": "32"},
}

# Proxies that score the architecture alone. No image and no seed is a setting of theirs.
IMAGELESS = {"accuracy-table", OWN}

# A space that contains every network of `_architecture`.
SPACE = {
    "schema": 1,
    "description": "for these tests",
    "resolution": 32,
    "num_classes": 2,
    "stem": {"kernel": 5, "expansion": 4},
    "stages": [
        {
            "channels": [8 * 2**stage, 16 * 2**stage],
            "conv": {"depth": 1, "kernel": 3, "expansion": 2},
            "attention": {"depth": 1, "query_reduction": 2, "expansion": 2},
        }
        for stage in range(4)
    ],
}


def _architecture(*, width: int = 8) -> Architecture:
    conv = ConvSpec(kernel=3, expansion=2)
    attention = AttentionSpec(attention="shma", query_reduction=2, modulation=1.0, expansion=2)
    return Architecture(stages=tuple(StageSpec(channels=width * 2**i, blocks=(conv, attention)) for i in range(4)))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Grey images of two classes, which differ in brightness."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, brightness in (("dark", 40), ("light", 200)):
        (root / name).mkdir()
        for index in range(40):
            pixels = random.integers(brightness - 30, brightness + 30, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return str(root)


@pytest.fixture(scope="module")
def supernet(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet for the networks of these tests, trained for one step."""
    space = SearchSpace.model_validate(SPACE)
    folder = tmp_path_factory.mktemp("supernet")
    return train_supernet(
        space,
        load_images(data, resolution=32, seed=0),
        folder / "x.safetensors",
        recipe=SupernetRecipe(images=1),
        seed=0,
        device="cpu",
        precision="fp32",
        on_progress=lambda progress: None,
    )


@pytest.mark.parametrize("name", [*catalog.plugins("proxies"), *KINDS], ids=lambda name: Path(name).stem)
class TestProxy:
    @pytest.fixture(autouse=True)
    def cheap(self, supernet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(CHEAP, "supernet", {"supernet": str(supernet), "precision": "fp32"})
        monkeypatch.setitem(CHEAP, PANEL, CHEAP["supernet"] | CHEAP["zero-cost"])

    @pytest.fixture
    def proxy(self, name: str, data: str, cheap: None) -> Proxy:
        return self.build(name, data, seed=0)

    @staticmethod
    def build(name: str, data: str, *, seed: int) -> Proxy:
        band = [_architecture(width=width) for width in (8, 16)]
        return build_proxies(name, data=data, seed=seed, device="cpu", options=CHEAP.get(name), band=band)[name]

    def test_score_is_a_number_and_a_likelihood_where_there_are_held_out_images(self, proxy: Proxy) -> None:
        score = proxy.score(_architecture())

        assert math.isfinite(score.value)
        assert score.seconds >= 0
        if "val_images" in score.details:
            assert 0 <= score.value <= 1
            assert 0 <= score.details["accuracy"] <= 1
            assert 0 < score.details["standard_error"] < 1

    def test_details_are_plain_json(self, proxy: Proxy) -> None:
        score = proxy.score(_architecture())

        assert dict(score.details) == json.loads(json.dumps(dict(score.details)))

    def test_same_settings_give_the_same_score(self, proxy: Proxy, name: str, data: str) -> None:
        again = self.build(name, data, seed=0)

        assert proxy.settings() == again.settings()
        assert proxy.score(_architecture()).value == again.score(_architecture()).value

    def test_order_of_candidates_does_not_matter(self, proxy: Proxy, name: str, data: str) -> None:
        first = proxy.score(_architecture())
        proxy.score(_architecture(width=16))

        assert first.value == proxy.score(_architecture()).value

    def test_settings_are_plain_json_and_name_proxy_data_and_seed(self, proxy: Proxy, name: str, data: str) -> None:
        settings = proxy.settings()

        assert settings == json.loads(json.dumps(settings))
        assert settings["proxy"] == KINDS.get(name, name)
        if name in IMAGELESS:
            assert not {"data", "seed"} & set(settings)
        else:
            assert data in settings["data"]
            assert settings["seed"] == 0

    def test_another_seed_is_another_setting(self, proxy: Proxy, name: str, data: str) -> None:
        is_same = proxy.settings() == self.build(name, data, seed=1).settings()

        assert is_same == (name in IMAGELESS)

    def test_estimate_is_a_time(self, proxy: Proxy) -> None:
        seconds = proxy.estimate_seconds(_architecture())

        assert math.isfinite(seconds)
        assert seconds >= 0

    def test_weights_fit_the_network_that_was_scored(self, proxy: Proxy) -> None:
        weights = proxy.score(_architecture()).weights
        if weights is None:
            return
        network = build_model(_architecture().at(resolution=32, num_classes=2))

        network.load_state_dict(dict(weights))

        assert {"cpu"} == {tensor.device.type for tensor in weights.values()}


def test_failed_scoring_is_an_error_of_this_package() -> None:
    assert issubclass(ScoringFailed, NasError)


class TestFakeProxy:
    def test_larger_network_scores_higher(self) -> None:
        small, large = (FakeProxy().score(_architecture(width=width)).value for width in (8, 32))

        assert small < large

    def test_seed_moves_a_score_a_little(self) -> None:
        first, second = (FakeProxy(seed=seed).score(_architecture()).value for seed in (0, 1))

        assert 0 < abs(first - second) <= 0.005

    def test_chosen_networks_fail(self) -> None:
        proxy = FakeProxy(failing={_architecture().id})

        with pytest.raises(ScoringFailed, match="was asked to fail"):
            proxy.score(_architecture())
        assert proxy.score(_architecture(width=16)).value > 0


class TestBuildProxies:
    def test_several_come_in_the_order_named(self) -> None:
        built = build_proxies("fake,short-training", data="synthetic", seed=0, options=CHEAP["short-training"])

        assert list(built) == ["fake", "short-training"]

    def test_variants_of_one_proxy_stand_beside_each_other(self) -> None:
        built = build_proxies("zero-cost:params,zero-cost:macs", data="synthetic", seed=0)

        assert [proxy.settings()["measure"] for proxy in built.values()] == ["params", "macs"]
        assert list(built) == ["zero-cost:params", "zero-cost:macs"]

    def test_panel_can_be_a_stage_of_a_funnel(self) -> None:
        band = [_architecture(width=width) for width in (8, 16)]

        built = build_proxies("zero-cost:macs,fake+zero-cost:params", data="synthetic", seed=0, band=band)

        assert list(built) == ["zero-cost:macs", "fake+zero-cost:params"]
        assert [proxy.settings()["proxy"] for proxy in built.values()] == ["zero-cost", "panel"]
        assert set(built["fake+zero-cost:params"].score(band[0]).details) >= {"fake", "zero-cost:params"}

    def test_option_goes_to_every_member_that_has_it(self) -> None:
        built = build_proxies(
            "fake+zero-cost:naswot+zero-cost:zico",
            data="synthetic",
            seed=0,
            options={"batch_size": "8", "resolution": "32"},
            band=[_architecture(width=width) for width in (8, 16)],
        )

        (settings,) = (proxy.settings() for proxy in built.values())
        assert [settings[f"zero-cost:{measure} batch_size"] for measure in ("naswot", "zico")] == [8, 8]

    def test_member_of_two_panels_is_built_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(fake, "build", lambda options, inputs: seen.append(inputs) or FakeProxy())
        band = (_architecture(width=8), _architecture(width=16))

        build_proxies("fake,fake+zero-cost:params", data="synthetic", seed=0, band=band)

        assert [band] == [inputs.band for inputs in seen]

    @pytest.mark.parametrize(
        ("names", "options", "message"),
        [
            ("shrt-training", {}, "no proxy named 'shrt-training': there are .*; did you mean 'short-training'"),
            ("fake,fake", {}, "--proxy fake,fake: the same proxy twice"),
            ("fake:fast", {}, "--proxy fake:fast: fake has no variants"),
            ("short-training:slow", {}, "--proxy short-training:slow: effort"),
            ("fake", {"speed": "1"}, "--proxy fake does not take speed: it has no options"),
            ("short-training", {"speed": "1"}, "does not take speed: its options are .*resolution"),
            ("short-training", {"images": "1"}, "--proxy short-training: images"),
            (
                "short-training:standard",
                {"effort": "quick"},
                "short-training:standard and --option effort=quick do not go",
            ),
            ("supernet", {}, "--proxy supernet: give --supernet FILE; nas supernet train makes one"),
            ("short-training", {"resolution": "50"}, "--proxy short-training: resolution"),
            ("fake+", {}, r"--proxy fake\+: a panel is written NAME\+NAME, with a proxy on both sides of each \+"),
            ("zero-cost,+fake", {}, r"--proxy \+fake: a panel is written NAME\+NAME"),
            ("fake++zero-cost", {}, r"--proxy fake\+\+zero-cost: a panel is written NAME\+NAME"),
            ("fake+fake", {}, r"--proxy fake\+fake: fake twice in a panel; leave out one"),
            ("zero-cost+zero-cost:zico", {}, "zero-cost and zero-cost:zico are the same proxy; leave out one"),
            ("fake+zero-cost,zero-cost+fake", {}, "the same proxy twice"),
            ("zero-cost+supernt", {}, "no proxy named 'supernt': .*; did you mean 'supernet'"),
            ("fake+zero-cost:params", {"speed": "1"}, r"fake\+zero-cost:params does not take speed: its options are"),
            (
                "zero-cost:params+zero-cost:macs",
                {"measure": "macs"},
                "zero-cost:params and --option measure=macs do not",
            ),
            ("fake+zero-cost:params", {}, r"--proxy fake\+zero-cost:params: a panel needs a band, .*; got 0"),
        ],
    )
    def test_what_cannot_be_is_refused(self, names: str, options: dict[str, str], message: str) -> None:
        with pytest.raises(InputError, match=message):
            build_proxies(names, data="synthetic", seed=0, options=options)
