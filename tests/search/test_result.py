from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from nas.data import Contents
from nas.errors import InputError, MissingLatencyError
from nas.networks import Architecture, SearchSpace, random_choice
from nas.networks.modules import build_model
from nas.proxies.zero_cost import Counted
from nas.report import write_plot
from nas.search import Candidate, ResultsFolder, Run, Screening, SearchResult, SpaceUsed, Spending, TableUsed
from nas.search.result import order_of, rank_of

RESULTS = Path(__file__).parents[2] / "results"
TINY = SearchSpace.find("tiny")
RUN = Run(
    command="nas search",
    started="2026-01-01T00:00:00+00:00",
    versions={"python": "3.11"},
    space=SpaceUsed(name="tiny", digest="0", networks=224),
    table=TableUsed(name="t", digest="0", origin="analytic"),
    budget_ms=1.0,
    proxy={"name": "fake"},
    seed=0,
)
CHOOSE = random_choice(seed=0)
NETWORKS = list({network.id: network for network in (TINY.sample(CHOOSE) for _ in range(100))}.values())


def candidate(number: int, latency_ms: float, score: float | None, **changes: Any) -> Candidate:
    network = NETWORKS[number]
    fields = {
        "id": network.id,
        "kind": "searched",
        "trial": number,
        "latency_ms": latency_ms,
        "low_ms": latency_ms,
        "high_ms": latency_ms,
        "score": score,
        "failure": None if score is not None else "diverged",
        "seconds": 1.0,
        "architecture": network,
    }
    return Candidate.model_validate(fields | changes)


def screening(number: int, value: float | None, **changes: Any) -> Screening:
    network = NETWORKS[number]
    fields = {
        "id": network.id,
        "proxy": "cheap",
        "kind": "searched",
        "trial": number,
        "value": value,
        "failure": None if value is not None else "diverged",
        "seconds": 0.5,
        "architecture": network,
    }
    return Screening.model_validate(fields | changes)


def screened_by(**settings: Any) -> Run:
    screens = [{"name": "cheap", "images": 9, "threads": 2} | settings]
    return RUN.model_copy(update={"proxy": {"name": "fake", "screens": screens, "screen": 8}})


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2,), value)}


def test_candidates_come_back_as_they_were_kept(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    kept = [candidate(0, 0.5, 0.3), candidate(1, 0.6, None), candidate(2, 0.7, 0.5, kind="reference", name="r")]
    for one in kept:
        folder.add(one, None)
    result = SearchResult.load(tmp_path / "run")

    assert tuple(kept) == result.candidates
    assert result.run == RUN


def test_the_winner_is_the_best_inside_the_budget_and_of_equals_the_faster(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    for one in (candidate(0, 0.9, 0.5), candidate(1, 0.4, 0.5), candidate(2, 1.1, 0.9), candidate(3, 0.3, 0.2)):
        folder.add(one, None)
    result = folder.load()

    assert result.winner is not None
    assert result.winner.id == NETWORKS[1].id
    assert [c.id for c in result.front] == [NETWORKS[3].id, NETWORKS[1].id]
    best = result.best_under(0.35)
    assert best is not None
    assert best.id == NETWORKS[3].id
    assert result.best_under(0.1) is None


def test_a_narrower_interval_wins_over_the_same_score() -> None:
    narrow, wide = {"low": 79.0, "high": 81.0}, {"low": 75.0, "high": 84.0}

    assert order_of(80.0, narrow) > order_of(80.0, wide)
    assert order_of(80.0, narrow) > order_of(82.0, wide)
    assert order_of(80.0, {"val_images": 400}) == 80.0
    assert rank_of(candidate(0, 0.5, 80.0, details=narrow)) == 79.0


def test_the_lower_end_of_intervals_decides_the_winner_and_the_front(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    doubtful = candidate(0, 0.5, 82.0, details={"low": 70.0})
    sure = candidate(1, 0.6, 80.0, details={"low": 79.0})
    folder.replace_all([doubtful, sure, candidate(2, 0.7, 85.0, details={"low": 78.0})])
    result = folder.load()

    assert result.winner == sure
    assert (doubtful, sure) == result.front


def test_candidates_are_replaced_all_at_once(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.replace_all([candidate(0, 0.5, 0.3), candidate(1, 0.6, 0.4)])
    later = (candidate(2, 0.7, 0.5), candidate(3, 0.8, 0.6, kind="reference", name="r"))
    folder.replace_all(later)

    assert later == folder.load().candidates
    assert (tmp_path / "run" / "candidates.jsonl").read_bytes().count(b"\n") == 2


def test_only_the_weights_of_the_best_and_of_references_are_kept(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.3), weights(1.0))
    folder.add(candidate(1, 0.5, 0.6), weights(2.0))
    folder.add(candidate(2, 0.5, 0.4), weights(3.0))
    folder.add(candidate(3, 0.5, 0.9, kind="reference", name="r"), weights(4.0))
    files = [path.stem for path in (tmp_path / "run" / "weights").iterdir()]

    # The weights of the best candidate and of the reference are kept: the sampler may still propose the reference.
    assert sorted(files) == sorted([NETWORKS[1].id, NETWORKS[3].id])


def test_finish_writes_the_winner_its_weights_and_the_front(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.3), weights(1.0))
    folder.finish()
    path = tmp_path / "run"

    assert NETWORKS[0].to_json() == (path / "winner.json").read_text()
    assert torch.equal(load_file(path / "winner.safetensors")["w"], torch.ones(2))
    header, row = (path / "front.csv").read_text().splitlines()
    assert header == "id,latency_ms,low_ms,high_ms,score,params,macs,network"
    assert row.startswith(f"{NETWORKS[0].id},0.5000,0.5000,0.5000,0.3000,")


def test_half_a_line_is_dropped_when_the_run_goes_on(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.3), None)
    with (tmp_path / "run" / "candidates.jsonl").open("ab") as file:
        file.write(b'{"id": "half')

    assert len(SearchResult.load(tmp_path / "run").candidates) == 1
    resumed = ResultsFolder(tmp_path / "run", RUN, resume=True)
    resumed.add(candidate(1, 0.5, 0.4), None)
    assert [c.id for c in resumed.load().candidates] == [NETWORKS[0].id, NETWORKS[1].id]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.3), None)
    with (tmp_path / "run" / "candidates.jsonl").open("ab") as file:
        file.write(b'{"id": 5}\n')
    with pytest.raises(InputError, match=r"candidates\.jsonl, line 2: id: input should be a valid string, got 5"):
        SearchResult.load(tmp_path / "run")


def test_a_run_is_not_overwritten_without_resume(tmp_path: Path) -> None:
    ResultsFolder(tmp_path / "run", RUN, resume=False)
    with pytest.raises(InputError, match=r"holds a run already: go on with it \(--resume\)"):
        ResultsFolder(tmp_path / "run", RUN, resume=False)


def test_another_search_is_not_mixed_into_a_run(tmp_path: Path) -> None:
    ResultsFolder(tmp_path / "run", RUN, resume=False)
    other = RUN.model_copy(
        update={"budget_ms": 2.0, "seed": 1, "space": SpaceUsed(name="tiny", digest="1", networks=224)}
    )
    with pytest.raises(InputError, match=r"was begun with another space \(0, not 1\), seed \(0, not 1\)"):
        ResultsFolder(tmp_path / "run", other, resume=True)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a results folder \(it has no run\.json\)"):
        SearchResult.load(tmp_path)


def test_the_winner_cannot_be_built_without_its_weights(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    with pytest.raises(InputError, match="has no winner yet"):
        folder.load().build_winner()
    folder.add(candidate(0, 0.5, 0.3), None)
    with pytest.raises(InputError, match=r"\.safetensors: not there; get the architecture with nas front"):
        folder.finish().build_winner()


def test_the_winners_weights_are_its_own_before_and_after_the_end(tmp_path: Path) -> None:
    from nas.networks.modules import build_model

    def trained(number: int) -> Any:
        return build_model(NETWORKS[number].at(num_classes=3)).state_dict()

    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.3, details={"classes": 3}), trained(0))
    folder.finish()
    # A better candidate is added, and the search is killed before `finish`.
    state = trained(1)
    folder.add(candidate(1, 0.5, 0.6, details={"classes": 3}), state)
    built = SearchResult.load(tmp_path / "run").build_winner()

    assert built.architecture == NETWORKS[1].at(num_classes=3)
    assert all(torch.equal(tensor, state[name]) for name, tensor in built.state_dict().items())


def test_a_run_may_go_on_on_another_machine(tmp_path: Path) -> None:
    here = RUN.model_copy(update={"proxy": {"name": "p", "images": 9, "threads": 2, "precision": "bf16"}})
    there = RUN.model_copy(update={"proxy": {"name": "p", "images": 9, "threads": 8, "precision": "fp32"}})
    other = RUN.model_copy(update={"proxy": {"name": "p", "images": 8, "threads": 2, "precision": "bf16"}})

    assert here.differences(there) == []
    assert here.digest == there.digest
    assert here.differences(other) == ["proxy images (9, not 8)"]


def on_images(names: str, **changes: Any) -> Run:
    """A run on images of these classes, with two proxies and a last comparison."""
    contents = Contents.drawn(names.split(), "1")
    known = {"data": f"photos: {names}", "fingerprint": contents.fingerprint, "init": "a.safetensors", "digest": "d"}
    proxy = {"name": "p", **known, "screens": [{"name": "s", **known}], "settles": {"name": "t", **known}}
    return RUN.model_copy(update={"proxy": proxy, "contents": contents, **changes})


def test_a_run_goes_on_with_the_same_images_under_another_name_only(tmp_path: Path) -> None:
    ResultsFolder(tmp_path / "run", on_images("cat cow"), resume=False)
    with pytest.raises(
        InputError, match=r"the images differ from those that it was begun with \(photos: cat cow\): "
    ) as e:
        ResultsFolder(tmp_path / "run", on_images("cow dog"), resume=True)
    moved = on_images("cat cow")
    for settings in (moved.proxy, moved.proxy["settles"], *moved.proxy["screens"]):
        settings |= {"data": "/elsewhere", "init": "/elsewhere/b.safetensors"}
    ResultsFolder(tmp_path / "run", moved, resume=True)

    assert "class 'cat' is missing; class 'dog' is new; give the same images, in whatever folder" in str(e.value)
    assert moved.digest == on_images("cat cow").digest != on_images("cow dog").digest


def test_a_source_that_no_proxy_opens_may_be_spelt_in_another_way() -> None:
    def counted(data: str) -> Run:
        return RUN.model_copy(update={"proxy": {"name": "p", **Counted(measure="macs", data=data).settings()}})

    assert counted("photos").differences(counted("./photos")) == []
    assert counted("photos").digest == counted("./photos").digest


def test_another_proxy_is_named_before_other_images() -> None:
    counted = RUN.model_copy(update={"proxy": {"name": "p", "fingerprint": "none used"}})

    assert counted.image_differences(on_images("cat cow")) == ""


def test_a_fingerprint_that_is_no_text_is_other_content() -> None:
    damaged = on_images("cat cow")
    damaged.proxy["fingerprint"] = ["a list"]

    assert on_images("cat cow").image_differences(damaged) == "other content"


def test_another_supernet_is_named_by_its_digest(tmp_path: Path) -> None:
    other = on_images("cat cow")
    other.proxy["settles"]["digest"] = "e"

    assert on_images("cat cow").differences(other) == ["settling digest (d, not e)"]


def test_a_run_of_an_earlier_version_goes_on_with_images_of_the_same_description(tmp_path: Path) -> None:
    before = on_images("cat cow", contents=None)
    for settings in (before.proxy, before.proxy["settles"], *before.proxy["screens"]):
        del settings["fingerprint"]
    ResultsFolder(tmp_path / "run", before, resume=False)
    ResultsFolder(tmp_path / "run", on_images("cat cow"), resume=True)
    with pytest.raises(InputError, match=r"another proxy data \(photos: cat cow, not photos: cow dog\)"):
        ResultsFolder(tmp_path / "run", on_images("cow dog"), resume=True)


def test_a_study_of_an_earlier_version_is_known_by_the_digest_that_it_has() -> None:
    proxy = {"name": "p", "data": "photos: 9 train", "init": "a.safetensors", "digest": "d"}
    now = proxy | {"fingerprint": "f", "train_images": 9, "val_images": 3, "threads": 1}

    assert RUN.model_copy(update={"proxy": now}).earlier_digests[1] == "ea5eacedf18bb0f9"


def test_screenings_come_back_as_they_were_kept_and_are_no_candidates(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", screened_by(), resume=False)
    kept = [
        screening(0, -3e8, details={"batches": 2}),
        screening(1, None),
        screening(2, 0.25, kind="reference", trial=None),
    ]
    for one in kept:
        folder.add_screening(one)
    result = folder.finish()

    assert tuple(kept) == result.screenings
    assert {NETWORKS[0].id: {"cheap": -3e8}, NETWORKS[2].id: {"cheap": 0.25}} == result.screened
    assert (result.candidates, result.scored, result.front, result.winner) == ((), (), (), None)


def test_efforts_leave_references_out_and_count_failures(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", screened_by(), resume=False)
    for one in (screening(0, 0.1), screening(1, None), screening(2, 0.2, kind="reference")):
        folder.add_screening(one)
    for other in (candidate(0, 0.5, 0.3), candidate(2, 0.7, 0.5, kind="reference", name="r"), candidate(1, 0.6, None)):
        folder.add(other, None)

    assert folder.load().spending == (
        Spending(proxy="cheap", networks=2, seconds=1.0),
        Spending(proxy="fake", networks=2, seconds=2.0),
    )


def test_half_a_screening_is_dropped_and_a_broken_one_named(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", screened_by(), resume=False)
    folder.add_screening(screening(0, 0.1))
    path = tmp_path / "run" / "screened.jsonl"
    with path.open("ab") as file:
        file.write(b'{"id": "half')
    resumed = ResultsFolder(tmp_path / "run", screened_by(), resume=True)
    resumed.add_screening(screening(1, 0.2))
    assert [one.id for one in resumed.load().screenings] == [NETWORKS[0].id, NETWORKS[1].id]

    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(InputError, match=r"screened\.jsonl, line 3: id: "):
        _ = resumed.load().screenings


def test_screening_is_part_of_what_a_run_is_but_not_where_it_ran() -> None:
    assert screened_by().screens == ["cheap"]
    assert screened_by().digest == screened_by(threads=8).digest
    assert screened_by().differences(screened_by(images=8)) == ["screen 1 images (9, not 8)"]
    assert "screen 1 name (cheap, not None)" in screened_by().differences(RUN)


def test_the_order_of_screening_is_part_of_what_a_run_is() -> None:
    def order(*names: str) -> Run:
        return RUN.model_copy(update={"proxy": {"name": "fake", "screens": [{"name": name} for name in names]}})

    assert order("a", "b").digest != order("b", "a").digest
    assert order("a", "b").differences(order("b", "a")) == ["screen 1 name (a, not b)", "screen 2 name (b, not a)"]


def test_further_tables_are_compared_by_name_and_kept_when_a_resume_drops_them() -> None:
    def asked(**digests: str) -> Run:
        tables = tuple(TableUsed(name=name, digest=digest, origin="analytic") for name, digest in digests.items())
        return RUN.model_copy(update={"further_tables": tables})

    begun, other = asked(phone="0"), asked(server="2")

    assert begun.differences(asked(phone="1")) == ["table phone (0, not 1)"]
    assert begun.differences(other) == RUN.differences(begun) == []
    assert begun.continued_by(other).further_tables == asked(phone="0", server="2").further_tables
    assert begun.digest == other.digest == RUN.digest


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/run.json")), ids=lambda path: path.parent.name)
def test_a_run_that_is_kept_in_git_can_be_read(path: Path) -> None:
    result = SearchResult.load(path.parent)

    assert result.winner is not None
    assert [one.networks for one in result.spending][-1] >= len(result.scored) > 0
    assert len(result.spending) == 1 + len(result.run.screens)


def test_there_must_be_a_run_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run to go on with"):
        ResultsFolder(tmp_path / "typo", RUN, resume=True)

    assert not (tmp_path / "typo").exists()


class TestObjectives:
    """Runs whose front shows more than latency and score."""

    RUN = RUN.model_copy(update={"objectives": ("params", "memory", "phone")})

    @staticmethod
    def with_costs(number: int, latency_ms: float, score: float, *costs: float) -> Candidate:
        names = ("params", "memory", "phone")
        return candidate(number, latency_ms, score, quantities=dict(zip(names, costs, strict=True)))

    def test_the_front_keeps_what_is_better_in_an_objective_alone(self, tmp_path: Path) -> None:
        folder = ResultsFolder(tmp_path / "run", self.RUN, resume=False)
        fast = self.with_costs(0, 0.5, 0.5, 9e6, 2e6, 7.0)
        small = self.with_costs(1, 0.6, 0.4, 3e6, 2e6, 7.0)
        worse = self.with_costs(2, 0.7, 0.4, 3e6, 2e6, 7.0)
        folder.replace_all([worse, small, fast])
        result = folder.load()

        assert (fast, small) == result.front
        assert (fast,) == result.front_by_latency

    def test_a_candidate_that_lacks_an_objective_may_be_on_the_front(self, tmp_path: Path) -> None:
        folder = ResultsFolder(tmp_path / "run", self.RUN, resume=False)
        older = candidate(0, 0.4, 0.5)
        folder.replace_all([older, self.with_costs(1, 0.5, 0.5, 9e6, 2e6, 7.0)])

        assert len(folder.load().front) == 2

    def test_front_csv_has_the_objectives_with_their_units(self, tmp_path: Path) -> None:
        folder = ResultsFolder(tmp_path / "run", self.RUN, resume=False)
        folder.add(self.with_costs(0, 0.5, 0.5, 9e6, 2_000_016.0, 7.25), None)
        folder.finish()
        header, row = (tmp_path / "run" / "front.csv").read_text().splitlines()

        assert header == "id,latency_ms,low_ms,high_ms,score,params,macs,memory_bytes,phone_ms,network"
        assert row.split(",")[-3:-1] == ["2000016", "7.25"]

    def test_what_a_candidate_lacks_is_computed_and_what_it_has_is_kept(self) -> None:
        def values(network: Architecture) -> dict[str, float]:
            return {"blocks": float(len(network.stages))}

        one = candidate(0, 0.5, 0.5, quantities={"params": 9.0})
        complete = one.completed(values, ["blocks"])

        assert complete.quantities == {"params": 9.0, "blocks": 4.0}
        assert complete.completed(values, ["params", "blocks"]) is complete

    def test_a_reference_outside_a_further_table_stays_as_it_is(self) -> None:
        def values(network: Architecture) -> dict[str, float]:
            raise MissingLatencyError("phone: no entry")

        one = candidate(0, 0.5, 0.5, kind="reference", name="r")

        assert one.completed(values, ["phone"]) is one


class TestSeveralBudgets:
    """Runs with a winner for each budget."""

    RUN = RUN.model_copy(update={"budget_ms": 1.0, "budgets_ms": (0.45, 0.6, 1.0)})

    def test_each_budget_has_its_winner(self, tmp_path: Path) -> None:
        folder = ResultsFolder(tmp_path / "run", self.RUN, resume=False)
        small, large = candidate(0, 0.5, 0.3), candidate(1, 0.9, 0.6)
        folder.replace_all([small, large])

        assert folder.load().winners == {0.45: None, 0.6: small, 1.0: large}

    def test_the_winner_of_a_budget_is_built_with_its_weights(self, tmp_path: Path) -> None:
        from nas.networks.modules import build_model

        folder = ResultsFolder(tmp_path / "run", self.RUN, resume=False)
        for number, latency_ms, score in ((0, 0.5, 0.3), (1, 0.9, 0.6)):
            state = build_model(NETWORKS[number].at(num_classes=3)).state_dict()
            folder.add(candidate(number, latency_ms, score, details={"classes": 3}), state)
        result = folder.finish()

        assert result.build_winner(0.6).architecture == NETWORKS[0].at(num_classes=3)
        assert result.build_winner().architecture == NETWORKS[1].at(num_classes=3)
        with pytest.raises(InputError, match=r"the run has no winner inside 0\.45 ms yet"):
            result.build_winner(0.45)

    def test_a_resume_asks_for_other_budgets_and_objectives(self, tmp_path: Path) -> None:
        ResultsFolder(tmp_path / "run", self.RUN, resume=False)
        changes = {"budget_ms": 0.9, "budgets_ms": (), "objectives": ("macs",), "band_ms": 0.9}
        ResultsFolder(tmp_path / "run", self.RUN.model_copy(update=changes), resume=True)
        run = SearchResult.load(tmp_path / "run").run

        assert (run.budgets, run.objectives) == ((0.9,), ("macs",))
        assert run.band_ms == self.RUN.band_ms  # panels go on comparing on the same networks


class TestLoadBest:
    """What `nas front` reads: not all candidates, but the same winner."""

    @pytest.mark.parametrize("limits", [{}, {"params": 5e6}])
    @pytest.mark.parametrize("settled", [(), (0, 1), (3,)])
    def test_it_has_the_winner_that_all_candidates_have(
        self, tmp_path: Path, limits: dict[str, float], settled: tuple[int, ...]
    ) -> None:
        folder = ResultsFolder(tmp_path / "run", RUN.model_copy(update={"limits": limits}), resume=False)
        found = [
            candidate(0, 0.5, 0.4, quantities={"params": 4e6}),
            candidate(1, 0.6, 0.5, quantities={"params": 4e6}),
            candidate(2, 0.7, 0.9, quantities={"params": 6e6}, details={"low": 0.45}),
            candidate(3, 0.8, 0.8, quantities={"params": 6e6}),
            candidate(4, 0.8, None),
            candidate(5, 0.3, 1.0, kind="reference", name="r"),
        ]
        folder.replace_all(found)
        for number in settled:
            folder.add_settled(screening(number, 1.0 - number / 10), found[number], None)
        whole = folder.load()

        for budget_ms in (0.1, 0.5, 0.65, 0.75, 0.8, 2.0):
            best = SearchResult.load_best(tmp_path / "run", budget_ms)
            assert best.winner_under(budget_ms) == whole.winner_under(budget_ms)
            assert len(best.candidates) <= 3

    def test_what_is_damaged_is_named_and_half_a_line_left_out(self, tmp_path: Path) -> None:
        folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
        folder.add(candidate(0, 0.5, 0.3), None)
        path = tmp_path / "run" / "candidates.jsonl"
        with path.open("ab") as file:
            file.write(b'{"id": "half')
        best = SearchResult.load_best(tmp_path / "run", 1.0)

        assert [one.id for one in best.candidates] == [NETWORKS[0].id]
        path.write_bytes(path.read_bytes() + b'"}\n')
        with pytest.raises(InputError, match=r"candidates\.jsonl, line 2: kind: missing key"):
            SearchResult.load_best(tmp_path / "run", 1.0)
        path.write_bytes(b"[" * 2000 + b"]" * 2000 + b"\n")
        with pytest.raises(InputError, match=r"candidates\.jsonl, line 1: Invalid JSON: recursion limit"):
            SearchResult.load_best(tmp_path / "run", 1.0)
        with pytest.raises(InputError, match=r"not a results folder"):
            SearchResult.load_best(tmp_path, 1.0)


def test_with_a_confidence_the_upper_end_is_inside_a_budget(tmp_path: Path) -> None:
    run = RUN.model_copy(update={"confidence": 0.9, "budgets_ms": (0.6, 1.0)})
    folder = ResultsFolder(tmp_path / "run", run, resume=False)
    folder.add(candidate(0, 0.5, 0.9, high_ms=0.7), None)
    folder.add(candidate(1, 0.4, 0.5, high_ms=0.5), None)
    result = folder.load()

    assert [one.id for budget_ms in (0.6, 1.0) if (one := result.winner_under(budget_ms))] == [
        NETWORKS[1].id,
        NETWORKS[0].id,
    ]
    best = SearchResult.load_best(tmp_path / "run", 0.6).winner_under(0.6)
    assert best is not None
    assert best.id == NETWORKS[1].id


def test_another_budget_keeps_the_weights_of_the_winner_before(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.9, 0.9), weights(0))
    ResultsFolder(tmp_path / "run", RUN.model_copy(update={"budget_ms": 0.5}), resume=True).add(
        candidate(1, 0.4, 0.5), weights(1)
    )

    kept = {path.stem for path in (tmp_path / "run" / "weights").iterdir()}
    assert kept == {NETWORKS[0].id, NETWORKS[1].id}
    assert SearchResult.load(tmp_path / "run").run.earlier_budgets_ms == (1.0,)


def test_a_lower_budget_shortens_the_front_and_leaves_the_rest_to_other_budgets(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    fast, slow = candidate(0, 0.5, 0.4), candidate(1, 0.9, 0.6)
    near, far = (candidate(n, ms, 0.5, kind="reference", name="r") for n, ms in ((2, 0.6), (3, 1.01)))
    folder.replace_all([fast, slow, near, far])
    lower = RUN.model_copy(update={"budget_ms": 0.7})
    again = ResultsFolder(tmp_path / "run", lower, resume=True).finish()

    assert (folder.load().front, folder.load().references) == ((fast, slow), (near, far))
    assert again.front == again.front_by_latency == (fast,)
    assert again.references == (near,)
    assert (again.winner, again.winner_under(0.9)) == (fast, slow)
    assert len((tmp_path / "run" / "front.csv").read_text().splitlines()) == 2


def test_a_comparison_for_another_budget_does_not_decide(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    folder.add(candidate(0, 0.5, 0.5), None)
    folder.add_settled(screening(0, 0.1), candidate(0, 0.5, 0.5), None)
    folder.add(candidate(1, 0.9, 0.9), None)
    result = folder.load()

    assert result.winner is not None
    assert result.winner.id == NETWORKS[1].id


def test_a_result_is_a_table_in_pandas_and_in_notebooks(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    for number, (latency_ms, score) in enumerate(((0.5, 0.3), (0.7, 0.2), (0.6, 0.4))):
        folder.add(candidate(number, latency_ms, score), None)
    result = SearchResult.load(str(tmp_path / "run"))
    table = result.to_dataframe()
    shown = result._repr_html_()
    table.to_parquet(tmp_path / "candidates.parquet")

    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "candidates.parquet"), table)
    assert list(table["id"]) == [one.id for one in NETWORKS[:3]]
    assert list(table["latency_ms"]) == [0.5, 0.7, 0.6]
    assert list(table["role"]) == ["front", "", "winner"]
    assert list(table["network"]) == [one.summary for one in NETWORKS[:3]]
    assert shown.count("<tr") == 3  # the head, and two networks of the front
    assert "<script" not in shown


def test_a_candidate_is_built_with_the_weights_that_its_run_keeps(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    kept, other = candidate(0, 0.5, 0.5), candidate(1, 0.3, 0.3)
    trained = build_model(kept.architecture).state_dict()
    folder.add(other, None)
    folder.add(kept, trained)
    loaded = SearchResult.load(tmp_path / "run")
    for result in (folder.load(), loaded):
        assert result.winner == kept
        built = result.winner.build().state_dict()
        assert all(torch.equal(built[name], tensor) for name, tensor in trained.items())

    first, same, another = (loaded.candidates[0].build(seed=seed).state_dict() for seed in (0, 0, 1))
    name = next(name for name in first if name.endswith("weight"))
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], another[name])
    assert kept.build().architecture == kept.architecture


def test_where_a_candidate_was_found_is_no_part_of_its_record(tmp_path: Path) -> None:
    one, same = candidate(0, 0.5, 0.5), candidate(0, 0.5, 0.5)
    one.belong_to(tmp_path)

    assert one == same
    assert one.model_dump_json() == same.model_dump_json()
    assert one.model_copy(update={"name": "a"}).label == "a"


def test_a_plot_is_the_figure_of_a_still_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ResultsFolder(tmp_path / "run", RUN, resume=False)
    for number in range(4):
        folder.add(candidate(number, 0.3 + number / 10, 0.1 * number), None)
    result = folder.load()
    drawn: list[Any] = []
    monkeypatch.setattr("plotly.io.to_image", lambda figure, **_: drawn.append(figure) or b"")
    write_plot([result], tmp_path / "front.png")
    figure = result.plot()

    assert [one.to_plotly_json() for one in figure.data] == [
        one.to_plotly_json() for one in type(figure)(drawn[0]).data
    ]
    assert "Pareto front" in [trace.name for trace in figure.data]
    assert figure.layout.xaxis.title.text == "latency, ms"
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(InputError, match=r"^a plot needs Plotly: pip install plotly$"):
        result.plot()
