from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from scipy.stats import kendalltau

from nas.cli import main
from nas.data import Contents
from nas.errors import BudgetError, InputError
from nas.latency import LatencyTable
from nas.latency.published import read_points
from nas.networks import Architecture, SearchSpace
from nas.proxies import Proxy, Score, ScoringFailed
from nas.report import validation_sections, write_validation
from nas.search import SearchResult, hypervolume
from nas.validate import Request, Validation, published_points, read_budgets
from nas.validate.agreement import ScoredNetwork, SeedScore
from nas.validate.records import Gap, Noise
from nas.validate.run import run_validation

ROOT = Path(__file__).parents[2]
POINTS = ROOT / "latency_tables" / "iphone13.points.csv"
TABLE = LatencyTable.find("iphone13.coreml.fp16")[0]
ROWS = {point.name: point for point in read_points(POINTS)}
IDS = {point.architecture().id: name for name, point in ROWS.items() if point.in_family}
# Small networks, all predicted below 0.4 ms. Tests add slower references such as iFormer-T and S.
SMALL = """
schema = 1
[[stages]]
channels = [16, 32]
conv = { depth = 1, kernel = [3, 5], expansion = 2 }
[[stages]]
channels = [32, 64]
conv = { depth = 1, kernel = [3, 5], expansion = 2 }
[[stages]]
channels = [64, 128]
conv = { depth = [1, 2], kernel = 3, expansion = 2 }
[[stages]]
channels = [128, 256]
attention = { depth = [0, 1], query_reduction = 4, expansion = 2 }
conv = { depth = 1, kernel = 3, expansion = 2 }
"""
ALIKE = [
    *("iformer_t", "iformer_s", "iformer_m", "iformer_l", "ladder_bn", "ladder_deeper", "ladder_stage_ratio"),
    *("ladder_conv_only", "ladder_mha", "ladder_sha", "ladder_shma", "ladder_reduced_width"),
]
Evaluate = Callable[[Architecture, int], float]


def by_accuracy(network: Architecture, seed: int) -> float:
    """Published accuracy, or that of iFormer-T for found networks, plus -1, 0 or 1 by seed (standard deviation 1)."""
    top1 = ROWS[IDS[network.id]].top1 if network.id in IDS else 74.1
    assert top1 is not None
    return top1 + (-1.0, 0.0, 1.0)[seed % 3]


class Scripted:
    """A proxy with given scores. It lists what it was asked to score, and may stop like Ctrl-C."""

    def __init__(
        self, evaluate: Evaluate, asked: list[tuple[str, int]], *, seed: int, stop_at: int | None, **settings: Any
    ) -> None:
        self.evaluate, self.asked, self.seed, self.stop_at = evaluate, asked, seed, stop_at
        self.own = settings

    def settings(self) -> dict[str, Any]:
        own = dict(self.own)
        if "{seed}" in own.get("supernet", ""):
            own["digest"] = f"of seed {self.seed}"
        return {"proxy": "scripted", "seed": self.seed, "threads": 1, **own}

    def estimate_seconds(self, architecture: Architecture) -> float:
        return 0.0

    def score(self, architecture: Architecture) -> Score:
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append((architecture.id, self.seed))
        value = self.evaluate(architecture, self.seed)
        return Score(value=value, seconds=0.5, details={"classes": 20, "val_images": 100})


class Bench:
    """Runs validations with scripted proxies in one folder, and returns what each run asked the proxies to score."""

    def __init__(self, folder: Path) -> None:
        (folder / "small.toml").write_text(SMALL + _references("iformer_t", "iformer_s"))
        self.space = SearchSpace.load(folder / "small.toml")
        self.out = folder / "out"

    def run(
        self,
        evaluate: Evaluate | Mapping[str, Evaluate] = by_accuracy,
        *,
        seeds: Sequence[int] = (0, 1, 2),
        resume: bool = False,
        stop_at: int | None = None,
        proxies: Sequence[str] = ("scripted",),
        settings: Mapping[str, Any] = MappingProxyType({}),
        say: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> tuple[Validation, list[tuple[str, int]]]:
        asked: list[tuple[str, int]] = []
        arguments: dict[str, Any] = {"points": tuple(ROWS.values()), "space": self.space, "table": TABLE}
        names = {"space": "small", "table": "iphone13", "data": "made up"}
        request = Request(**arguments | options, proxies=tuple(proxies), seeds=tuple(seeds), names=names)

        def build(seed: int) -> Mapping[str, Proxy]:
            own = evaluate if isinstance(evaluate, Mapping) else dict.fromkeys(proxies, evaluate)
            return {name: Scripted(own[name], asked, seed=seed, stop_at=stop_at, **settings) for name in proxies}

        try:
            return run_validation(request, build, out=self.out, resume=resume, say=say), asked
        except KeyboardInterrupt:
            return Validation.load(self.out), asked


def _references(*names: str) -> str:
    parts = (ROOT / "search_spaces" / "iformer.toml").read_text().split("[reference.")
    return "".join(f"[reference.{part}" for part in parts if part.startswith(tuple(f"{name}]" for name in names)))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Validation, Bench]:
    """Two searches. Under seed 0, each network that a search finds gets its own bonus of 10 to 11: its luck."""

    def lucky(network: Architecture, seed: int) -> float:
        luck = 0.0 if seed or network.id in IDS else 10.0 + random.Random(network.id).random()
        return by_accuracy(network, seed) + luck

    bench = Bench(tmp_path_factory.mktemp("recovered"))
    validation, _ = bench.run(lucky, budgets_ms=(0.6, 0.85), trials=6)
    return validation, bench


# Statistics


def scored(name: str, *values: float | None) -> ScoredNetwork:
    scores = tuple(
        SeedScore(seed=seed, value=value, failure="broke" if value is None else None, seconds=1.0)
        for seed, value in enumerate(values)
    )
    return ScoredNetwork(name=name, id=name, summary="", params=1, macs=1, scores=scores)


@pytest.mark.parametrize(
    ("deviation", "in_deviations", "verdict"),
    [(2.0, 1.5, "within noise"), (1.5, 2.0, "within noise"), (1.0, 3.0, "better"), (0.0, None, "better"), (None,) * 3],
)
def test_a_gap_is_measured_in_deviations(deviation: float | None, in_deviations: float | None, verdict: str) -> None:
    above, below = scored("above", 9.0, 5.0, 7.0), scored("below", 0.0, 2.0, 4.0)
    gap = Gap.between(above, below, noise=Noise(deviation=deviation), seeds=[1, 2])

    assert (gap.network, gap.other, gap.score) == ("above", "below", 3.0)
    assert (gap.deviations, gap.verdict) == (in_deviations, verdict)
    back = Gap.between(below, above, noise=Noise(deviation=deviation), seeds=[1, 2])
    assert back.verdict == ("worse" if verdict == "better" else verdict)


def test_a_gap_is_also_measured_in_deviations_within_seeds() -> None:
    noise = Noise(deviation=3.0, within_seeds=0.5)
    gap = Gap.between(scored("above", 9.0, 5.0), scored("below", 0.0, 2.0), noise=noise, seeds=[0, 1])

    assert (gap.score, gap.deviations, gap.within_seeds, gap.verdict) == (6.0, 2.0, 12.0, "within noise")


def test_a_gap_is_over_the_seeds_that_both_have() -> None:
    above, below = scored("above", 1.0, None, 8.0), scored("below", 0.0, 5.0, 2.0)

    assert Gap.between(above, below, noise=Noise(deviation=1.0), seeds=[0, 1, 2]).score == 3.5
    assert Gap.between(above, below, noise=Noise(deviation=1.0), seeds=[1]) == Gap(network="above", other="below")


# Latency


def test_latencies_are_looked_up_row_by_row(bench: Bench) -> None:
    part = bench.run(seeds=[0])[0].latency
    rows = {row.name: row for row in part.rows}
    backbone = ROWS["iformer_m_512_chunked"]
    assert TABLE.model is not None
    layers_ms = sum(map(TABLE.layer_ms, backbone.timed_layers())) + TABLE.model.overhead_ms
    errors = [row.error for row in part.rows if row.error is not None]

    assert list(rows) == list(ROWS)
    assert rows["iformer_m"].predicted_ms == TABLE.latency_ms(ROWS["iformer_m"].architecture())
    assert rows["iformer_m"].error == pytest.approx(TABLE.latency_ms(ROWS["iformer_m"].architecture()) / 1.10 - 1)
    assert rows["iformer_m_512_chunked"].predicted_ms == pytest.approx(layers_ms)
    assert rows["iformer_t"].left_out_ms == next(r.left_out_ms for r in TABLE.model.rows if r.name == "iformer_t")
    assert part.agreement is not None
    assert part.agreement.networks == 17
    assert part.agreement.mean_error == pytest.approx(sum(map(abs, errors)) / 17, abs=1e-6)
    assert part.unseen is not None
    assert part.unseen.mean_error == pytest.approx(TABLE.model.left_out_error_mean, abs=1e-5)


def test_what_the_table_cannot_express_is_skipped_with_its_reason(bench: Bench) -> None:
    rows = {row.name: row for row in bench.run(seeds=[0])[0].latency.rows}

    assert {name: row.skipped for name, row in rows.items() if row.skipped} == {
        "ladder_baseline": "layer norm and a patchify stem are not part of the family",
        "ladder_conv_stem": "layer norm is not part of the family",
        "iformer_m_512_hybrid": "windows without channel chunks: no build of this project makes them",
    }
    assert rows["iformer_m_512_hybrid"].predicted_ms is None


def test_a_table_that_lacks_a_layer_skips_the_row(bench: Bench) -> None:
    measured = TABLE.model_copy(update={"model": None})
    part = bench.run(seeds=[0], table=measured)[0].latency

    assert part.agreement is None
    assert all("no entry for" in (row.skipped or "") for row in part.rows if ROWS[row.name].fit == "yes")


def test_further_rows_are_predicted_and_scored_though_no_table_was_fitted_to_them(bench: Bench) -> None:
    own = ROWS["iformer_m"].model_copy(update={"name": "own", "fit": "no", "why_not": "held out", "latency_ms": 1.3})
    without = [point for name, point in ROWS.items() if name != "iformer_m"]
    validation, _ = bench.run(seeds=[0], points=tuple(without), further=(own,))
    row = validation.latency.rows[-1]

    assert (row.name, row.left_out_ms, row.skipped) == ("own", None, None)
    assert row.error == pytest.approx(TABLE.latency_ms(own.architecture()) / 1.3 - 1)
    assert [row.name for row in validation.proxies[0].rows] == [*(name for name in ALIKE if name != "iformer_m"), "own"]


# Proxies


def test_proxies_are_compared_on_rows_trained_alike(bench: Bench) -> None:
    validation, asked = bench.run()

    assert [row.name for row in validation.proxies[0].rows] == ALIKE
    assert validation.left_out["iformer_l2"] == "450 epochs, the others 300: accuracies are not comparable"
    assert validation.left_out["iformer_m_512_chunked"] == "512 px, the others 224 px"
    assert set(validation.left_out) == set(ROWS) - set(ALIKE)
    assert Counter(asked) == Counter((ROWS[name].architecture().id, seed) for name in ALIKE for seed in (0, 1, 2))


def test_a_proxy_that_scores_by_accuracy_is_in_full_agreement(bench: Bench) -> None:
    part = bench.run()[0].proxies[0]
    top1 = [ROWS[name].top1 for name in ALIKE]
    latency = [ROWS[name].latency_ms for name in ALIKE]

    assert (part.all_rows.networks, part.near_rows.networks) == (12, 7)
    assert part.all_rows.tau == pytest.approx(1.0)
    assert part.all_rows.seeds == pytest.approx({0: 1.0, 1: 1.0, 2: 1.0})
    assert part.all_rows.rankers["published latency"] == pytest.approx(kendalltau(latency, top1).statistic)
    assert set(part.all_rows.rankers) == {"params", "macs", "published latency", "depth", "sum of log weights"}
    assert (part.all_rows.rankers["depth"], part.near_rows.rankers["depth"]) == pytest.approx((0.797, 0.868), abs=1e-3)
    assert part.deviation == pytest.approx(1.0)
    assert part.within_seeds == pytest.approx(0.0, abs=1e-9)  # a seed shifts all scores by the same amount
    assert part.rows[0].mean == pytest.approx(74.1)
    assert part.rows[0].deviation == pytest.approx(1.0)
    assert [(gap.network, gap.other) for gap in part.ladder] == [
        ("iformer_s", "iformer_t"),
        ("iformer_m", "iformer_s"),
        ("iformer_l", "iformer_m"),
    ]
    assert [gap.deviations for gap in part.ladder] == pytest.approx([4.7, 1.6, 1.5])
    assert [gap.verdict for gap in part.ladder] == ["better", "within noise", "within noise"]
    assert (part.wanted, part.failed, part.seconds) == (36, 0, 18.0)
    assert part.circumstances == ({"threads": 1},)


def test_a_failed_score_is_counted_and_its_network_only_left_out_of_the_ranking(bench: Bench) -> None:
    def failing(network: Architecture, seed: int) -> float:
        if IDS[network.id] == "iformer_l" or (IDS[network.id], seed) == ("iformer_m", 1):
            raise ScoringFailed("it diverged")
        return by_accuracy(network, seed)

    validation, _ = bench.run(failing)
    part = validation.proxies[0]
    rows = {row.name: row for row in part.rows}

    assert part.failed == 4
    assert validation.unfinished == {}
    assert rows["iformer_l"].mean is None
    assert rows["iformer_m"].mean == pytest.approx(80.4)  # the mean of seeds 0 and 2
    assert part.all_rows.networks == 11
    assert (part.ladder[2].network, part.ladder[2].score, part.ladder[2].verdict) == ("iformer_l", None, None)
    assert "iformer_m, seed 1, failed: it diverged" in words(validation)
    assert "36 of 36 scores are there, 4 of them failed" in words(validation)


def test_several_proxies_are_validated_each_alone(bench: Bench) -> None:
    validation, asked = bench.run(proxies=("one", "two"), seeds=[0])

    assert [part.proxy for part in validation.proxies] == ["one", "two"]
    assert len(asked) == 24


def test_the_orders_of_two_proxies_are_compared_where_both_have_scores(bench: Bench) -> None:
    near = [name for name in ALIKE if 0.95 <= ROWS[name].latency_ms <= 1.20]

    def reversed_near(network: Architecture, seed: int) -> float:
        if IDS[network.id] == "iformer_t":
            raise ScoringFailed("broke")
        return -by_accuracy(network, seed) if IDS[network.id] in near else by_accuracy(network, seed)

    (pair,) = bench.run({"one": by_accuracy, "two": reversed_near}, proxies=("one", "two"), seeds=[0])[0].pairs

    top1 = {name: ROWS[name].top1 or 0.0 for name in ALIKE if name != "iformer_t"}
    other = [-value if name in near else value for name, value in top1.items()]
    assert (pair.proxy, pair.other, pair.networks, pair.near_networks) == ("one", "two", 11, 7)
    assert pair.tau == pytest.approx(kendalltau(list(top1.values()), other).statistic)
    assert pair.near_tau == pytest.approx(-1.0)


def test_more_seeds_are_added_to_what_is_there(bench: Bench) -> None:
    bench.run(seeds=[0])
    validation, asked = bench.run(seeds=[0, 1], resume=True)

    assert {seed for _, seed in asked} == {1}
    assert [s.seed for s in validation.proxies[0].rows[0].scores] == [0, 1]


def test_scores_of_other_settings_are_not_mixed_in_while_their_turn_has_not_come(bench: Bench) -> None:
    bench.run()
    validation, _ = bench.run(lambda network, seed: 0.5, resume=True, stop_at=14, settings={"effort": "standard"})

    part = validation.proxies[0]
    assert {score.seed for row in part.rows for score in row.scores} == {0, 1}
    assert all(score.value == 0.5 for row in part.rows for score in row.scores)
    assert validation.unfinished == {"proxy scripted": "14 of 36 scores are there"}


def test_scores_of_seeds_whose_turn_has_not_come_are_kept_for_equal_settings(bench: Bench) -> None:
    bench.run()
    validation, asked = bench.run(resume=True, stop_at=0)

    assert (asked, validation.unfinished) == ([], {})


def test_a_search_of_another_proxy_is_refused_before_anything_is_overwritten(bench: Bench) -> None:
    bench.run(seeds=[0], budgets_ms=(0.85,), trials=2)
    before = (bench.out / "validation.json").read_bytes()

    with pytest.raises(InputError, match=r"search-0.85ms was begun with another first proxy: repeat its options"):
        bench.run(seeds=[0], budgets_ms=(0.85,), trials=2, resume=True, settings={"effort": "standard"})

    assert (bench.out / "validation.json").read_bytes() == before


@pytest.mark.parametrize("stop_at", [0, 5, 20])
def test_ctrl_c_keeps_what_is_finished_and_resume_goes_on(bench: Bench, stop_at: int) -> None:
    stopped, first = bench.run(stop_at=stop_at)
    with (bench.out / "scores.jsonl").open("a") as file:
        file.write('{"proxy": "scri')  # as a killed process leaves it
    validation, rest = bench.run(resume=True)

    assert len(first) == stop_at
    assert stopped.unfinished == {"proxy scripted": f"{stop_at} of 36 scores are there"}
    assert sum(len(row.scores) for row in stopped.proxies[0].rows) == stop_at
    assert Counter(first + rest) == Counter((ROWS[name].architecture().id, seed) for name in ALIKE for seed in range(3))
    assert validation.unfinished == {}


def test_a_resume_that_is_stopped_at_once_still_shows_all_that_is_there(bench: Bench) -> None:
    full, _ = bench.run(seeds=[0, 1])
    stopped, _ = bench.run(seeds=[0, 1, 2], resume=True, stop_at=0)

    assert [row.scores for row in stopped.proxies[0].rows] == [row.scores for row in full.proxies[0].rows]


def test_seeds_may_have_a_file_each(bench: Bench) -> None:
    settings = {"supernet": "{seed}.safetensors"}
    full, _ = bench.run(seeds=[0, 1], settings=settings)
    again, asked = bench.run(seeds=[0, 1], resume=True, settings=settings)

    assert asked == []
    assert {len(row.scores) for row in full.proxies[0].rows} == {2}
    assert [row.scores for row in again.proxies[0].rows] == [row.scores for row in full.proxies[0].rows]


# Stage widths


def by_third_width(network: Architecture, seed: int) -> float:
    """Published accuracy, or for other networks the width of stage 3."""
    return by_accuracy(network, seed) if network.id in IDS else float(network.stages[2].channels)


def test_widths_are_fitted_to_random_networks_of_the_band_under_the_first_seed(bench: Bench) -> None:
    validation, asked = bench.run(by_third_width, space=SearchSpace.find("iformer"), band_networks=8)
    part = validation.proxies[0].widths
    assert part is not None
    ids = [network.id for network in part.networks]

    assert (part.seed, part.asked, part.drawn, part.failed, len(set(ids))) == (0, 8, 8, 0, 8)
    assert all(0.95 <= network.latency_ms <= 1.20 for network in part.networks)
    assert [network.value for network in part.networks] == [network.widths[2] for network in part.networks]
    assert Counter(seed for name, seed in asked if name in ids) == {0: 8}
    assert part.r2 == pytest.approx(1.0)
    assert part.by_chance == pytest.approx(4 / 7)
    assert part.seconds == 4.0
    assert validation.proxies[0].wanted == 36  # the random networks are no rows
    assert "explains 100% of the variance of the scores (R^2); by chance 57% are expected" in words(validation)
    assert "widths: complete" in words(validation)


def test_scores_of_the_band_are_kept_and_gone_on_with(bench: Bench) -> None:
    options: dict[str, Any] = {"space": SearchSpace.find("iformer"), "seeds": [0, 1]}
    bench.run(by_third_width, **options)
    stopped, first = bench.run(by_third_width, **options, band_networks=8, resume=True, stop_at=3)
    validation, rest = bench.run(by_third_width, **options, band_networks=8, resume=True)
    again, nothing = bench.run(by_third_width, **options, band_networks=8, resume=True)
    part = validation.proxies[0].widths
    assert part is not None

    assert stopped.unfinished == {"widths": "3 of 8 scores are there"}
    assert "widths: not finished, 3 of 8 scores are there" in words(stopped)
    assert Counter(first + rest) == Counter((network.id, 0) for network in part.networks)
    assert (nothing, again.unfinished, again.proxies) == ([], {}, validation.proxies)


def test_more_random_networks_are_added_to_what_is_there(bench: Bench) -> None:
    space = SearchSpace.find("iformer")
    bench.run(by_third_width, space=space, seeds=[0], band_networks=6)
    validation, asked = bench.run(by_third_width, space=space, seeds=[0], band_networks=8, resume=True)

    assert len(asked) == 2
    assert validation.unfinished == {}


def test_a_band_outside_the_space_is_told_and_nothing_of_it_is_scored(bench: Bench) -> None:
    said: list[str] = []
    validation, asked = bench.run(seeds=[0], band_networks=6, say=said.append)

    assert len(asked) == 12
    assert validation.unfinished == {}
    assert said[0].startswith("widths: only 0 of 6 random networks predicted at 0.95 to 1.20 ms were found")
    assert "0 of 6 random networks predicted at 0.95 to 1.20 ms were found in the space" in words(validation)


def test_too_few_networks_of_the_band_are_left_out_and_nothing_stays_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {network.id: network for network in SearchSpace.find("tiny").references.values()}
    monkeypatch.setattr("nas.validate.run.draw_networks", lambda *_: few)
    validation, asked = bench.run(seeds=[0], band_networks=6)

    assert 0 < len(few) < 6
    assert len(asked) == 12
    assert validation.unfinished == {}
    assert f"{len(few)} of 6 random networks predicted at 0.95 to 1.20 ms were found in the space" in words(validation)


def test_the_proxies_of_one_seed_are_in_memory_at_a_time(bench: Bench) -> None:
    built: weakref.WeakSet[Scripted] = weakref.WeakSet()
    seen = []

    def build(seed: int) -> dict[str, Proxy]:
        seen.append(len(built))  # before this seed has its own
        proxy = Scripted(by_third_width, [], seed=seed, stop_at=None)
        built.add(proxy)
        return {"scripted": proxy}

    request = Request(
        space=SearchSpace.find("iformer"),
        table=TABLE,
        points=tuple(ROWS.values()),
        proxies=("scripted",),
        seeds=(0, 1, 2),
        band_networks=6,
        names={"space": "iformer", "table": "iphone13", "data": "made up"},
    )
    run_validation(request, build, out=bench.out)

    assert seen == [0, 0, 0]


def test_the_time_of_the_band_is_said_for_what_is_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(number: int, **options: Any) -> str:
        said: list[str] = []
        space = SearchSpace.find("iformer")
        bench.run(by_third_width, space=space, seeds=[0], band_networks=number, say=said.append, **options)
        return said[0]

    monkeypatch.setattr(Scripted, "estimate_seconds", lambda *_: 90.0)

    assert "widths: 6 random networks" in (first := run(6))
    assert "time about scripted 9.0 min" in first
    assert "time about scripted 3.0 min" in run(8, resume=True)
    assert "time about scripted 0.0 min" in run(8, resume=True)


def test_no_random_network_is_scored_unless_asked_for(bench: Bench) -> None:
    validation, _ = bench.run(seeds=[0], space=SearchSpace.find("iformer"))

    assert validation.proxies[0].widths is None
    assert "widths" not in words(validation)


# Recovery


def test_found_networks_are_compared_by_other_seeds_than_the_search_s(recovered: tuple[Validation, Bench]) -> None:
    recovery = recovered[0].recovery
    assert recovery is not None
    networks = {network.name: network for network in recovery.networks}
    small, large = recovery.searches

    assert (recovery.search_seed, recovery.seeds) == (0, (1, 2))
    assert [(s.budget_ms, s.variant, s.complete, s.networks) for s in recovery.searches] == [
        (0.6, "iformer_t", True, 6),
        (0.85, "iformer_s", True, 6),
    ]
    assert small.found is not None and large.found is not None
    assert len(networks[small.found].scores) == 3
    # Luck puts a found network at least 10 above T under seed 0. Under the other seeds it equals T, 4.7 below S.
    assert networks[small.found].values()[0] > networks["iformer_t"].values()[0] + 9
    assert small.gap is not None and large.gap is not None
    assert (small.gap.score, small.gap.verdict) == (pytest.approx(0.0), "within noise")
    assert (large.gap.score, large.gap.verdict) == (pytest.approx(-4.7), "worse")
    assert large.gap.deviations == pytest.approx(-4.7)
    slower, faster = networks[small.found].latency_ms, networks["iformer_t"].latency_ms
    assert slower is not None and faster is not None and small.gap.latency_ms == pytest.approx(slower - faster)


def test_a_variant_is_on_the_front_unless_a_no_slower_network_is_clearly_better(
    recovered: tuple[Validation, Bench],
) -> None:
    recovery = recovered[0].recovery
    assert recovery is not None

    assert [(part.variant, part.on_front, part.matched) for part in recovery.variants] == [
        ("iformer_t", True, True),
        ("iformer_s", True, False),
    ]


def test_the_rival_has_the_best_score_of_the_search_among_networks_no_slower(
    recovered: tuple[Validation, Bench],
) -> None:
    validation, bench = recovered
    assert validation.recovery is not None
    results = [SearchResult.load(bench.out / f"search-{budget}ms") for budget in ("0.60", "0.85")]
    best = max((c for result in results for c in result.scored), key=lambda c: c.score or 0.0)

    assert [part.rival for part in validation.recovery.variants] == [best.id, best.id]


def test_hypervolumes_share_one_reference_point(recovered: tuple[Validation, Bench]) -> None:
    validation, bench = recovered
    recovery = validation.recovery
    assert recovery is not None
    chosen, again = recovery.hypervolumes
    results = [SearchResult.load(bench.out / f"search-{budget}ms") for budget in ("0.60", "0.85")]
    found = [(c.latency_ms, c.score or 0.0) for result in results for c in result.scored]
    t_ms = TABLE.latency_ms(ROWS["iformer_t"].architecture())

    assert (recovery.latency_limit_ms, recovery.score_floor) == (0.85, 1 / 20)
    assert chosen.found == pytest.approx(hypervolume(found, latency_limit=0.85, score_floor=0.05))
    # S is predicted above 0.85 ms, so only T counts: 73.1 under seed 0, 74.6 in the mean of seeds 1 and 2.
    assert chosen.published == pytest.approx((0.85 - t_ms) * (73.1 - 0.05))
    assert again.published == pytest.approx((0.85 - t_ms) * (74.6 - 0.05))
    assert again.found < chosen.found
    assert sorted(recovery.front, key=lambda point: point[1]) == list(recovery.front)


def test_no_score_is_computed_twice_by_searches(recovered: tuple[Validation, Bench]) -> None:
    lines = [json.loads(line) for line in (recovered[1].out / "scores.jsonl").read_text().splitlines()]
    counts = Counter((line["proxy"], line["id"], line["seed"]) for line in lines)

    assert set(counts.values()) == {1}


def test_an_ended_search_is_not_gone_on_with(recovered: tuple[Validation, Bench]) -> None:
    _, bench = recovered
    before = (bench.out / "search-0.60ms" / "candidates.jsonl").read_bytes()
    validation, asked = bench.run(resume=True, budgets_ms=(0.6, 0.85), trials=6)

    assert asked == []
    assert (bench.out / "search-0.60ms" / "candidates.jsonl").read_bytes() == before
    assert validation.unfinished == {}


def test_an_ended_search_stays_ended_while_its_budget_is_left_out(bench: Bench) -> None:
    def run(**options: Any) -> list[tuple[str, int]]:
        return bench.run(**options)[1]

    run(budgets_ms=(0.6,), time_limit_s=0.5)
    kept = (bench.out / "search-0.60ms" / "candidates.jsonl").read_bytes()

    assert run(resume=True) == []
    assert run(budgets_ms=(0.6,), time_limit_s=0.5, resume=True) == []
    assert (bench.out / "search-0.60ms" / "candidates.jsonl").read_bytes() == kept


@pytest.mark.parametrize(("file", "says"), [("{seed}.safetensors", False), ("one.safetensors", True)])
def test_one_set_of_weights_for_all_seeds_is_told(bench: Bench, file: str, says: bool) -> None:
    validation, _ = bench.run(settings={"supernet": file, "digest": "abc"})

    assert says == ("one set of trained weights for all seeds" in words(validation))


def test_variants_beyond_the_slowest_budget_are_named_beside_the_hypervolumes(
    recovered: tuple[Validation, Bench],
) -> None:
    assert "predicted beyond it, and so not in the published one: iformer_s" in words(recovered[0])


def test_networks_that_are_clearly_better_push_a_variant_off_the_front(bench: Bench) -> None:
    def better(network: Architecture, seed: int) -> float:
        return by_accuracy(network, seed) + (0.0 if network.id in IDS else 3.0)

    validation, _ = bench.run(better, budgets_ms=(0.6,), trials=2)
    assert validation.recovery is not None
    (part,) = validation.recovery.variants

    assert (part.on_front, part.matched) == (False, True)
    assert part.gap is not None
    assert part.gap.score == pytest.approx(3.0)


def test_other_proxies_say_what_they_think_of_what_was_found(bench: Bench) -> None:
    def other(network: Architecture, seed: int) -> float:
        luck = 0.0 if seed else 99.0
        return 2 * by_accuracy(network, seed) - (0.0 if network.id in IDS else 7.0 - luck)

    def run(**options: Any) -> tuple[Validation, list[tuple[str, int]]]:
        proxies = {"scripted": by_accuracy, "other": other}
        return bench.run(proxies, proxies=tuple(proxies), budgets_ms=(0.6,), trials=2, **options)

    stopped, _ = run(stop_at=2 * 36 + 2 + 3)  # while the found networks are scored, after the search
    validation, _ = run(resume=True)
    assert validation.recovery is not None
    (search,) = validation.recovery.searches
    (opinion,) = search.opinions

    assert stopped.unfinished == {"recovery": "some of the networks compared lack the score of a seed"}
    assert opinion.proxy == "other"
    # Over seeds 1 and 2, the winner is 7 below T. One standard deviation of this proxy is 2.
    assert (opinion.gap.score, opinion.gap.deviations) == (pytest.approx(-7.0), pytest.approx(-3.5))
    assert opinion.gap.verdict == "worse"
    assert "what the other proxies say of what was found" in words(validation)


def test_one_seed_tells_no_noise_and_says_so(bench: Bench) -> None:
    validation, _ = bench.run(seeds=[0], budgets_ms=(0.6,), trials=2)
    assert validation.recovery is not None
    (part,) = validation.recovery.variants

    assert validation.recovery.seeds == (0,)
    assert (part.on_front, part.matched) == (None, None)
    assert "for which the networks were chosen, so that what was found is favoured" in words(validation)


def test_ctrl_c_in_a_search_keeps_it_and_resume_goes_on(bench: Bench) -> None:
    stopped, first = bench.run(budgets_ms=(0.6,), trials=5, stop_at=38)
    validation, rest = bench.run(budgets_ms=(0.6,), trials=5, resume=True)

    assert stopped.unfinished == {"recovery": "1 of 1 searches are not at their end"}
    assert "recovery: not finished" in words(stopped)
    assert "proxy scripted: complete" in words(stopped)
    assert set(Counter(first + rest).values()) == {1}
    assert validation.unfinished == {}
    assert validation.recovery is not None
    assert validation.recovery.searches[0].networks == 5


# Page, files and command


def words(validation: Validation) -> str:
    """All text that the terminal shows."""
    sections = validation_sections(validation)
    return "\n".join(
        [text for s in sections for text in (s.title, *s.notes, *map(" ".join, [s.header, *s.rows]))],
    )


def test_the_page_is_self_contained_and_says_where_its_numbers_come_from(
    recovered: tuple[Validation, Bench], tmp_path: Path
) -> None:
    write_validation(recovered[0], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()

    assert re.findall(r'<(?:script|link)[^>]+(?:src|href)="', page) == []
    assert page.count("<h2>") == len(validation_sections(recovered[0]))
    assert page.count('data-figure="') == 2
    for text in (
        "calibrated: iPhone 13",
        "data: made up",
        "torch 2.",
        "published ImageNet top-1",
        "recovery: complete",
    ):
        assert text in page


def test_the_page_escapes_what_others_wrote(bench: Bench, tmp_path: Path) -> None:
    own = ROWS["iformer_m"].model_copy(update={"name": "<script>own"})
    validation, _ = bench.run(seeds=[0], further=(own,))
    write_validation(validation, tmp_path / "page.html")

    assert "<td><script>own" not in (tmp_path / "page.html").read_text()
    assert "<td>&lt;script&gt;own" in (tmp_path / "page.html").read_text()


def test_a_saved_validation_is_read_back(recovered: tuple[Validation, Bench]) -> None:
    validation, bench = recovered

    assert Validation.load(bench.out).recovery == validation.recovery
    assert Validation.load(bench.out).proxies == validation.proxies
    assert json.loads((bench.out / "validation.json").read_text())["schema"] == 1


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """`nas validate` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # as the command sets it; monkeypatch restores it
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nas", "validate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    yield run
    signal.signal(signal.SIGTERM, handler)


QUICK = ["--proxy", "fake", "--budgets", "none", "--seeds", "1", "--out", "out"]


def test_the_command_prints_the_document_and_leaves_both_files(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command(*QUICK, "--json")

    assert code == 0
    assert Validation.model_validate_json(out) == Validation.load(Path("out"))
    assert json.loads(out)["command"].startswith("nas validate --proxy fake")
    assert (Path("out") / "validation.html").exists()
    assert "fake, seed 0, 12 of 12: ladder_reduced_width  score" in err


def test_a_kept_validation_is_shown_and_its_page_written_again(
    command: Callable[..., tuple[int, str, str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, printed, _ = command(*QUICK)
    page = (Path("out") / "validation.html").read_text()
    outcomes = []
    for arguments in (["show", "out"], ["plot", "out", "--out", "again.html"], ["plot", "out", "--out", "again.png"]):
        monkeypatch.setattr(sys, "argv", ["nas", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        outcomes.append((ended.value.code or 0, *capsys.readouterr()))

    assert outcomes[0] == (0, printed, "")
    assert [page, 0] == [Path("again.html").read_text(), outcomes[1][0]]
    assert outcomes[2] == (2, "", "error: again.png: a validation is written as a page, .html\n")


def test_the_command_prints_a_summary(command: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = command(*QUICK)

    assert "predicted: 17 networks, mean error 2." in out
    assert "fake: Kendall's tau-b against published top-1" in out
    assert "proxy fake: complete" in out


def test_words_of_a_row_are_printed_as_they_are(command: Callable[..., tuple[int, str, str]]) -> None:
    header, first, *_ = POINTS.read_text().splitlines()
    own = first.replace("iformer_t", "own[/b]", 1).replace("2C|2C|6C 3A 1C|2A", "2C|2C|5C 3A 1C|2A")
    Path("own.csv").write_text(f"{header}\n{own.replace('Table 3', '[bold]Table 3')}\n")
    code, out, _ = command(*QUICK, "--rows", "own.csv")

    assert code == 0
    assert "own[/b]" in out
    assert "[bold]Table 3" in out


def test_a_failing_run_leaves_a_page_of_what_there_is(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(network: Architecture, seed: int) -> float:
        if network.id == ROWS["iformer_m"].architecture().id:
            raise InputError("the disk is gone")
        return 1.0

    proxy = Scripted(fail, [], seed=0, stop_at=None)
    monkeypatch.setattr("nas.proxies.build_proxies", lambda *_, **__: {"fake": proxy})
    code, _, err = command(*QUICK)

    assert (code, err.splitlines()[-1]) == (2, "error: the disk is gone")
    assert "2 of 12 scores are there" in (Path("out") / "validation.html").read_text()


def test_ctrl_c_ends_with_130_and_prints_what_there_is(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    proxy = Scripted(by_accuracy, asked, seed=0, stop_at=4)
    monkeypatch.setattr("nas.proxies.build_proxies", lambda *_, **__: {"fake": proxy})
    code, out, err = command(*QUICK)

    assert code == 130
    assert "4 of 12 scores are there" in out
    assert "go on with: nas validate --resume --out out" in err
    assert "not finished" in (Path("out") / "validation.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--seeds", "0"], 2, "--seeds must be at least 1"),
        (["--proxy", "zero-cst"], 2, "did you mean 'zero-cost'?"),
        (["--option", "speed=1"], 2, "--proxy fake does not take speed"),
        (["--rows", "none.csv"], 2, "none.csv: cannot be read"),
        (["--rows", "bad.csv"], 2, "bad.csv: row 2 (iformer_t): latency_ms: input should be greater than 0"),
        (["--rows", "nan.csv"], 2, "nan.csv: row 2 (iformer_t): top1: input should be a finite number, got 'nan'"),
        (["--rows", "same.csv"], 2, "same.csv: column name: iformer_t is in"),
        (["--rows", "twin.csv"], 2, "twin.csv: row twin is the same network as iformer_t: it would count twice"),
        (["--band-networks", "5"], 2, "--band-networks must be at least 6, to fit a mean and 4 widths, or 0 to leave"),
        (["--budgets", "nan"], 2, "--budgets must be milliseconds such as 0.60,1.10, or none, got 'nan'"),
        (["--budgets", "soon"], 2, "--budgets must be milliseconds such as 0.60,1.10, or none, got 'soon'"),
        (["--budgets", "0.01"], 4, "the cheapest is predicted at"),
        (["--table", "amd-epyc.onnxruntime"], 2, "no published figures of its device are at hand, only of iphone13"),
        (["--resume"], 2, "out holds no validation to go on with"),
        (["--time-limit", "soon"], 2, "--time-limit must be a time"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_gets_one_line_and_leaves_no_folder(
    command: Callable[..., tuple[int, str, str]], arguments: list[str], code: int, message: str
) -> None:
    header, first, *_ = POINTS.read_text().splitlines()
    Path("same.csv").write_text(f"{header}\n{first}\n")
    Path("twin.csv").write_text(f"{header}\n{first.replace('iformer_t', 'twin', 1)}\n")
    Path("nan.csv").write_text(f"{header}\n{first.replace(',74.1,', ',nan,', 1)}\n")
    Path("bad.csv").write_text(f"{header}\n{first.replace(',0.60,', ',-1,', 1)}\n")
    ended, out, err = command(*QUICK, *arguments)

    assert (ended, out) == (code, "")
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert message in err.strip().splitlines()[-1]
    assert not Path("out").exists()


def test_an_existing_validation_is_refused_without_resume(command: Callable[..., tuple[int, str, str]]) -> None:
    command(*QUICK)
    before = Path("out/validation.json").read_bytes()
    code, _, err = command(*QUICK)

    assert code == 2
    assert "out holds a validation already: go on with it (--resume), or choose another --out" in err
    assert Path("out/validation.json").read_bytes() == before


def test_the_help_has_an_example(command: Callable[..., tuple[int, str, str]]) -> None:
    assert "Example: nas validate" in command("--help")[1]


def on_images(names: str, *, path: str = "photos", **changes: Any) -> dict[str, Any]:
    """Settings of a proxy on images of these classes."""
    contents = Contents.drawn(names.split(), "1")
    known = {"data": f"{path}: {names}", "fingerprint": contents.fingerprint, "contents": contents.model_dump()}
    return {name: value for name, value in (known | changes).items() if value is not None}


def test_a_validation_goes_on_with_the_same_images_in_any_folder_and_with_no_others(bench: Bench) -> None:
    first, asked = bench.run(settings=on_images("cat cow"))
    _, again = bench.run(settings=on_images("cat cow", path="/elsewhere"), resume=True)
    with pytest.raises(
        InputError, match=r"out: the images differ .* \(made up\): class 'cat' is missing; class 'dog' is"
    ):
        bench.run(settings=on_images("cow dog"), resume=True)
    lines = [json.loads(line) for line in (bench.out / "scores.jsonl").read_text().splitlines()]

    assert first.contents == Validation.load(bench.out).contents == Contents.drawn(["cat", "cow"], "1")
    assert (len(asked) > 0, again) == (True, [])
    assert all("contents" not in line["settings"] and line["settings"]["fingerprint"] for line in lines)


def test_scores_of_an_earlier_version_count_for_images_of_the_same_description(bench: Bench) -> None:
    earlier = on_images("cat cow", fingerprint=None, contents=None)
    bench.run(settings=earlier)
    before, again = bench.run(settings=on_images("cat cow"), resume=True)
    _, other = bench.run(settings=on_images("cat cow") | {"data": "other: cat cow", "fingerprint": "x"}, resume=True)

    assert (before.contents, again) == (Contents.drawn(["cat", "cow"], "1"), [])
    assert len(other) > 0


def test_a_second_validation_in_the_folder_is_refused(bench: Bench) -> None:
    refused: list[str] = []

    def again(line: str) -> None:
        if not refused:
            with pytest.raises(InputError) as caught:
                bench.run(resume=True)
            refused.append(str(caught.value))

    bench.run(say=again)

    assert f"{bench.out} is in use by process {os.getpid()} on " in refused[0]
    assert not (bench.out / "nas.lock").exists()


def test_a_killed_validation_goes_on_without_computing_a_score_twice(
    command: Callable[..., tuple[int, str, str]],
) -> None:
    """The proxy itself sends SIGKILL in the middle of a search, so that the moment is the same on every machine."""
    Path("small.toml").write_text(SMALL + _references("iformer_t"))
    script = """
import os, signal
import nas.proxies.fake as fake

class Killed(fake.FakeProxy):
    __slots__ = ()
    left = 26
    def score(self, architecture):
        if not Killed.left:
            os.kill(os.getpid(), signal.SIGKILL)
        Killed.left -= 1
        return Plain.score(self, architecture)

Plain, fake.FakeProxy = fake.FakeProxy, Killed
from nas.cli import main
main()
"""
    options = ["--proxy", "fake", "--space", "small.toml", "--seeds", "2"]
    options += ["--budgets", "0.60", "--trials", "4", "--out", "out"]
    killed = subprocess.run([sys.executable, "-c", script, "validate", *options], capture_output=True, text=True)
    before = Path("out/scores.jsonl").read_text().splitlines()
    code, out, _ = command(*options, "--resume")
    lines = Path("out/scores.jsonl").read_text().splitlines()
    counts = Counter((line["proxy"], line["id"], line["seed"]) for line in map(json.loads, lines))

    assert (killed.returncode, code) == (-signal.SIGKILL, 0), killed.stderr
    assert len(before) == 26
    assert lines[:26] == before
    assert len(lines) > 26
    assert set(counts.values()) == {1}
    assert "recovery: complete" in out


def test_budgets_are_read_in_order_and_once() -> None:
    assert read_budgets("1.10,0.6,1.1") == (0.6, 1.1)
    assert read_budgets("none") == ()


def test_a_budget_that_nothing_meets_is_refused_before_anything_is_built(bench: Bench) -> None:
    with pytest.raises(BudgetError):
        bench.run(budgets_ms=(0.01,), trials=1)

    assert not bench.out.exists()


def test_published_rows_are_those_of_the_table_s_device() -> None:
    points, further = published_points(Path("elsewhere/iphone13.coreml.fp16.json"), None)

    assert [point.name for point in points] == list(ROWS)
    assert further == []
    with pytest.raises(InputError, match="give some with --rows"):
        published_points(Path("nokia.json"), None)
    with pytest.raises(InputError, match="column name: iformer_l is in"):
        published_points(Path("iphone13.json"), POINTS)
    assert published_points(Path("nokia.json"), POINTS) == ([], points)
