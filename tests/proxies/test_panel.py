from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.errors import InputError
from nas.networks import Architecture, SearchSpace, random_choice
from nas.proxies import CIRCUMSTANCES, Inputs, Panel, Proxy, Score, ScoringFailed, build_proxies
from nas.proxies.fake import FakeProxy
from nas.proxies.zero_cost import Counted
from nas.search.records import Run
from nas.validate.scores import KeptScore, KeptScores


def _networks(number: int, *, seed: int = 0) -> list[Architecture]:
    """Distinct random networks of the tiny space."""
    space, choose, found = SearchSpace.find("tiny"), random_choice(seed=seed), dict[str, Architecture]()
    while len(found) < number:
        network = space.sample(choose)
        found[network.id] = network
    return list(found.values())


*BAND, OUTSIDE = _networks(9)


def _panel(*, seed: int = 0, progress: Any = None, band: list[Architecture] = BAND, **members: Proxy) -> Panel:
    return Panel(members, Inputs(data="synthetic", seed=seed, progress=progress, band=tuple(band)))


@dataclass
class Stub:
    """A member that scores by the number of parameters times `factor`, and counts its scores."""

    factor: float = 1.0
    own: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, torch.Tensor] | None = None
    scored: list[str] = field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        return {"proxy": "stub", "seed": 0, **self.own}

    def estimate_seconds(self, architecture: Architecture) -> float:
        return 2.0

    def score(self, architecture: Architecture) -> Score:
        self.scored.append(architecture.id)
        value = self.factor * Counted(measure="params").score(architecture).value
        return Score(value=value, seconds=3.0, details=self.details, weights=self.weights)


class TestScore:
    def test_value_is_the_mean_of_the_z_scores_over_the_band(self) -> None:
        members: dict[str, Proxy] = {"fake": FakeProxy(), "params": Counted(measure="params")}

        score = _panel(**members).score(OUTSIDE)

        expected = []
        for name, proxy in members.items():
            values = np.array([proxy.score(network).value for network in BAND])
            raw = proxy.score(OUTSIDE).value
            expected.append((raw - values.mean()) / values.std(ddof=1))
            assert raw == score.details[name]
            assert expected[-1] == pytest.approx(score.details[f"{name} z"])
        assert np.mean(expected) == pytest.approx(score.value)
        assert expected[0] != pytest.approx(expected[1])

    def test_scale_of_a_member_does_not_matter(self) -> None:
        plain = _panel(fake=FakeProxy(), stub=Stub())
        scaled = _panel(fake=FakeProxy(), stub=Stub(factor=1e-9))

        assert plain.score(OUTSIDE).value == pytest.approx(scaled.score(OUTSIDE).value)

    def test_standard_error_is_the_disagreement_of_the_members(self) -> None:
        members = {"fake": FakeProxy(), "params": Counted(measure="params"), "macs": Counted(measure="macs")}

        details = _panel(**members).score(OUTSIDE).details

        standard = [details[f"{name} z"] for name in members]
        assert np.std(standard, ddof=1) / np.sqrt(3) == pytest.approx(details["standard_error"])
        assert details["standard_error"] > 0

    def test_members_that_agree_have_no_uncertainty(self) -> None:
        score = _panel(one=Stub(), other=Stub(factor=5.0)).score(OUTSIDE)

        assert score.details["standard_error"] == pytest.approx(0, abs=1e-9)
        assert score.value != pytest.approx(0)

    def test_opposed_members_cancel_and_disagree(self) -> None:
        score = _panel(one=Stub(), other=Stub(factor=-1.0)).score(OUTSIDE)

        assert score.value == pytest.approx(0, abs=1e-9)
        assert score.details["standard_error"] == pytest.approx(abs(float(score.details["one z"])))

    def test_details_of_members_do_not_pass_for_those_of_the_panel(self) -> None:
        """With `val_images` a report would call the score a likelihood."""
        panel = _panel(one=Stub(details={"val_images": 100, "accuracy": 0.5}), fake=FakeProxy())

        details = panel.score(OUTSIDE).details

        assert {"one", "one z", "fake", "fake z", "standard_error", "band_networks"} == set(details)
        assert details["band_networks"] == 8

    def test_weights_are_those_of_the_first_member_that_has_any(self) -> None:
        weights = [{"scale": torch.tensor(number)} for number in (1, 2)]
        panel = _panel(fake=FakeProxy(), one=Stub(weights=weights[0]), two=Stub(weights=weights[1]))

        assert panel.score(OUTSIDE).weights is weights[0]

    def test_seconds_are_those_of_this_network(self) -> None:
        assert _panel(one=Stub(), two=Stub(factor=2.0)).score(OUTSIDE).seconds == 6.0

    def test_failure_names_the_member(self) -> None:
        panel = _panel(stub=Stub(), fake=FakeProxy(failing={OUTSIDE.id}))

        with pytest.raises(ScoringFailed, match=f"^fake: {OUTSIDE.id} was asked to fail$"):
            panel.score(OUTSIDE)
        assert panel.score(BAND[0]).value  # other networks can still be scored


class TestBand:
    def test_is_scored_once_at_the_first_use(self) -> None:
        stub, heard = Stub(), list[tuple[int, int]]()
        panel = _panel(stub=stub, fake=FakeProxy(), progress=lambda what, done, total: heard.append((done, total)))
        panel.settings()
        before = list(stub.scored)

        panel.score(OUTSIDE)
        panel.score(OUTSIDE)

        assert before == []
        assert stub.scored == [*(network.id for network in BAND), OUTSIDE.id, OUTSIDE.id]
        assert heard == [(done, 8) for done in range(1, 9)]

    def test_is_scored_before_an_estimate_which_leaves_it_out(self) -> None:
        stub = Stub()

        seconds = _panel(stub=stub, other=Stub(factor=2.0)).estimate_seconds(OUTSIDE)

        assert seconds == 4.0
        assert stub.scored == [network.id for network in BAND]

    def test_network_that_a_member_cannot_score_is_left_out_for_all(self) -> None:
        failing = FakeProxy(failing={BAND[0].id})
        members: dict[str, Proxy] = {"params": Counted(measure="params"), "fake": failing}

        score = _panel(**members).score(OUTSIDE)

        assert score.details["band_networks"] == 7
        assert score.value == pytest.approx(_panel(**members, band=BAND[1:]).score(OUTSIDE).value)

    def test_with_too_many_failures_is_refused(self) -> None:
        panel = _panel(stub=Stub(), fake=FakeProxy(failing={network.id for network in BAND[:5]}))

        with pytest.raises(InputError, match=r"stub\+fake: only 3 of the 8 random networks .* fake: .* asked to fail"):
            panel.score(OUTSIDE)

    def test_without_spread_of_a_member_is_refused(self) -> None:
        panel = _panel(fake=FakeProxy(), constant=Stub(factor=0.0))

        with pytest.raises(InputError, match="constant gives all 8 random networks of the band the score 0"):
            panel.estimate_seconds(OUTSIDE)

    @pytest.mark.parametrize("band", [[], BAND[:1], [BAND[0], BAND[0]]])
    def test_of_fewer_than_two_networks_is_refused(self, band: list[Architecture]) -> None:
        with pytest.raises(InputError, match=r"--proxy fake\+stub: a panel needs a band, two random networks or more"):
            _panel(fake=FakeProxy(), stub=Stub(), band=band)


class TestSettings:
    def test_the_images_are_those_of_a_member_that_uses_any(self) -> None:
        member = Stub(own={"fingerprint": "abc", "contents": {"fingerprint": "abc"}, "train_images": 9})
        settings = _panel(params=Counted(measure="params"), stub=member, fake=FakeProxy()).settings()

        assert (settings["fingerprint"], settings["contents"]) == ("abc", {"fingerprint": "abc"})
        assert settings["stub train_images"] == 9

    def test_name_the_members_and_the_band(self) -> None:
        settings = _panel(fake=FakeProxy(seed=3), params=Counted(measure="params", seed=3), seed=3).settings()

        band = settings.pop("band")
        assert settings == {
            "proxy": "panel",
            "data": "synthetic",
            "fingerprint": "none used",
            "seed": 3,
            "band_networks": 8,
            "fake failing": [],
            "params measure": "params",
        }
        assert band == _panel(fake=FakeProxy(), stub=Stub(), band=BAND[::-1]).settings()["band"]
        assert band != _panel(fake=FakeProxy(), stub=Stub(), band=BAND[1:]).settings()["band"]

    def test_another_machine_differs_in_circumstances_only(self) -> None:
        here, there = (
            _panel(
                stub=Stub(own={"device": device, "threads": threads, "torch": version, "precision": precision}),
                fake=FakeProxy(),
            ).settings()
            for device, threads, version, precision in (("cpu", 2, "2.6", "fp32"), ("cuda", 8, "2.7", "bf16"))
        )

        assert (here["device"], here["threads"]) == ("cpu", 2)
        assert not _run(here).differences(_run(there))
        assert _run(here).digest == _run(there).digest
        assert {name for name in here if here[name] != there[name]} == set(CIRCUMSTANCES)

    def test_another_member_or_another_band_cannot_resume(self) -> None:
        run = _run(_panel(fake=FakeProxy(), params=Counted(measure="params")).settings())
        other = _run(_panel(fake=FakeProxy(), params=Counted(measure="macs")).settings())
        elsewhere = _run(_panel(fake=FakeProxy(), params=Counted(measure="params"), band=BAND[1:]).settings())

        assert run.differences(other) == ["proxy params measure (params, not macs)"]
        assert [words.split(" (")[0] for words in run.differences(elsewhere)] == ["proxy band", "proxy band_networks"]

    def test_circumstances_in_which_members_differ_are_all_there(self) -> None:
        settings = _panel(one=Stub(own={"precision": "fp32"}), two=Stub(own={"precision": "bf16"})).settings()

        assert settings["precision"] == "one fp32, two bf16"

    def test_supernet_of_a_member_is_told_as_a_supernet_alone_tells_it(self) -> None:
        """A plan says what a supernet was trained for, and a validation whether its seeds share their weights."""
        member = Stub(own={"trained_for": "1 to 2 ms", "digest": "abc"})

        settings = _panel(fake=FakeProxy(), supernet=member).settings()

        assert (settings["trained_for"], settings["digest"]) == ("1 to 2 ms", "abc")

    def test_validation_finds_the_scores_of_every_seed(self, tmp_path: Path) -> None:
        """Words about synthetic data and the weights of a supernet may change from seed to seed."""
        scores = KeptScores(tmp_path / "scores.jsonl")
        for seed in (0, 1):
            naswot = build_proxies(
                "zero-cost:naswot",
                data="synthetic",
                seed=seed,
                options={"batch_size": "8", "resolution": "32"},
                device="cpu",
            )["zero-cost:naswot"]
            supernet = Stub(own={"supernet": "of.{seed}.safetensors", "digest": f"digest {seed}"})
            panel = _panel(params=Counted(measure="params"), naswot=naswot, supernet=supernet, seed=seed)
            settings = panel.settings()
            scores.use("panel", seed, panel)
            scores.add(KeptScore(proxy="panel", seed=seed, id="x", value=seed, seconds=0, settings=settings))

        assert settings["naswot data"] == "synthetic: 8 train and 1 val images of 20 classes at 32 px"
        assert [found.value for seed in (0, 1) if (found := scores.find("panel", seed, "x"))] == [0, 1]


def _run(settings: dict[str, Any]) -> Run:
    return Run.model_validate(
        {
            "schema": 1,
            "command": "nas search",
            "started": "2026-01-01",
            "versions": {},
            "space": {"name": "tiny", "digest": "1", "networks": 9},
            "table": {"name": "fake", "digest": "2", "origin": "made up"},
            "budget_ms": 1.0,
            "proxy": {"name": "panel", **settings},
            "seed": 0,
        }
    )
