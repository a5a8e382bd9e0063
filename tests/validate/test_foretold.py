from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kendalltau

from nas.accuracy import AccuracyTable
from nas.latency import LatencyTable
from nas.latency.published import read_points
from nas.networks import SearchSpace
from nas.report import validation_sections
from nas.validate import Request, Validation, accuracy_part
from nas.validate.accuracy import AccuracyPart, FrontRow

ROOT = Path(__file__).parents[2]
TABLE = LatencyTable.find("iphone13.coreml.fp16")[0]
ACCURACIES = AccuracyTable.find("iformer")[0]
OWN = {row.name: row.top1 for row in ACCURACIES.published.rows if row.family == "iformer"}
POINTS = read_points(ROOT / "latency_tables" / "iphone13.points.csv")
VARIANTS = {"iformer_t": 74.1, "iformer_s": 78.8, "iformer_m": 80.4, "iformer_l": 81.9}  # the paper's Table 3
REQUEST = Request(
    space=SearchSpace.find("iformer"),
    table=TABLE,
    points=tuple(POINTS),
    proxies=(),
    seeds=(0,),
    names={"space": "iformer", "table": "iphone13.coreml.fp16", "data": "synthetic"},
)


def _part(*, networks: int, request: Request = REQUEST, **options: Any) -> AccuracyPart:
    return accuracy_part(request, ACCURACIES, name="iformer.imagenet", networks=networks, **options)


@pytest.fixture(scope="module")
def alone() -> AccuracyPart:
    """Without a survey."""
    return _part(networks=0)


@pytest.fixture(scope="module")
def surveyed() -> tuple[AccuracyPart, list[tuple[int, int]]]:
    """With a small survey, and the progress that it told."""
    progress: list[tuple[int, int]] = []
    part = _part(networks=300, on_progress=lambda done, total: progress.append((done, total)))
    return part, progress


# Rows of the family


def test_every_row_of_the_family_is_foretold_by_the_others(alone: AccuracyPart) -> None:
    foretold = ACCURACIES.left_out({name: name for name in OWN})

    assert {row.name: row.top1 for row in alone.rows} == OWN
    for row in alone.rows:
        one = foretold[row.name]
        assert (row.low, row.predicted, row.high) == pytest.approx((one.low, one.top1, one.high), abs=1e-3)
        assert row.predicted != pytest.approx(row.top1, abs=1e-3)  # it has not seen itself


def test_published_accuracies_lie_inside_their_intervals(alone: AccuracyPart) -> None:
    narrow = alone.rows[0].model_copy(update={"low": 90.0, "high": 91.0})

    assert [row.name for row in alone.rows if not row.inside] == []
    assert not narrow.inside


def test_order_is_compared_over_all_rows_and_over_those_near_m(alone: AccuracyPart) -> None:
    published_ms = {point.name: point.latency_ms for point in POINTS}
    near = [row for row in alone.rows if 0.95 <= published_ms[row.name] <= 1.20]

    def tau(rows: list[Any]) -> float:
        return float(kendalltau([row.predicted for row in rows], [row.top1 for row in rows]).statistic)

    assert len(near) == 7
    assert alone.tau == pytest.approx(tau(list(alone.rows)), abs=1e-4)
    assert alone.tau_near == pytest.approx(tau(near), abs=1e-4)
    assert alone.tau > 0.5


def test_without_rows_near_m_there_is_no_order_there() -> None:
    far = tuple(point for point in POINTS if not 0.95 <= point.latency_ms <= 1.20)

    assert _part(networks=0, request=replace(REQUEST, points=far)).tau_near is None


def test_the_part_names_the_table_and_its_errors(alone: AccuracyPart) -> None:
    assert (alone.table, alone.digest) == ("iformer.imagenet", ACCURACIES.digest())
    assert set(alone.errors) == {
        *ACCURACIES.errors,
        *(f"published part, {name}" for name in ACCURACIES.published.errors),
    }
    assert ACCURACIES.errors["each row of the family left out"] == alone.errors["each row of the family left out"]


# The survey


def test_without_networks_there_is_no_survey(alone: AccuracyPart) -> None:
    assert (alone.looked_at, alone.front) == (0, ())


def test_the_front_of_a_survey_is_compared_with_every_variant(
    surveyed: tuple[AccuracyPart, list[tuple[int, int]]], alone: AccuracyPart
) -> None:
    part, progress = surveyed
    ids = {network.id for network in REQUEST.space.references.values()}

    assert part.looked_at == 300
    assert progress[-1] == (300, 300)
    assert {row.variant: row.top1 for row in part.front} == VARIANTS
    assert list(VARIANTS) == [row.variant for row in part.front]  # fastest first
    for row in part.front:
        assert row.id not in ids  # the variants themselves do not count
        assert (
            row.latency_ms
            <= row.variant_ms
            == pytest.approx(TABLE.latency_ms(REQUEST.space.references[row.variant]), abs=1e-4)
        )
        assert row.low < row.predicted < row.high
    assert part.model_copy(update={"front": (), "looked_at": 0}) == alone


def test_the_table_of_the_front_has_not_seen_the_accuracies_of_the_variants(
    surveyed: tuple[AccuracyPart, list[tuple[int, int]]],
) -> None:
    """With other accuracies of the variants in the table, the front is the same."""
    rows = [
        row.model_copy(update={"top1": row.top1 - 5}) if row.name in VARIANTS else row
        for row in ACCURACIES.published.rows
    ]
    other = ACCURACIES.model_copy(update={"published": ACCURACIES.published.with_rows(rows)})
    part = accuracy_part(REQUEST, other, name="iformer.imagenet", networks=300)

    assert [row.predicted for row in part.front] == [row.predicted for row in surveyed[0].front]
    assert [row.id for row in part.front] == [row.id for row in surveyed[0].front]


def test_the_front_promises_more_the_slower_it_may_be(
    surveyed: tuple[AccuracyPart, list[tuple[int, int]]],
) -> None:
    lows = [row.low for row in surveyed[0].front]

    assert sorted(lows) == lows


def test_a_space_without_variants_has_no_front(alone: AccuracyPart) -> None:
    space = REQUEST.space.model_copy(update={"references": {}})
    part = _part(networks=300, request=replace(REQUEST, space=space))

    assert (part.looked_at, part.front) == (0, ())
    assert alone.rows == part.rows


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (79.0, 82.0, "through it, within the interval"),
        (80.4, 82.0, "through it, within the interval"),
        (81.0, 83.0, "above it by more than the interval: not recovered"),
        (77.0, 79.0, "below it by more than the interval: not recovered"),
    ],
)
def test_a_verdict_says_how_the_front_passes(low: float, high: float, verdict: str) -> None:
    row = FrontRow(
        variant="iformer_m",
        variant_ms=1.09,
        top1=80.4,
        id="x",
        latency_ms=1.08,
        predicted=(low + high) / 2,
        low=low,
        high=high,
    )

    assert row.verdict == verdict


# Words


def test_a_page_has_the_rows_and_the_front(surveyed: tuple[AccuracyPart, list[tuple[int, int]]]) -> None:
    part, _ = surveyed
    kept = Validation.load(ROOT / "results" / "validation")
    sections = {one.title: one for one in validation_sections(kept.model_copy(update={"accuracy": part}))}
    rows = sections["Accuracy: predicted by iformer.imagenet, against published"]
    front = sections["The front of a survey, against the variants"]
    m = next(row for row in part.rows if row.name == "iformer_m")
    slowest = part.front[-1]

    assert "accuracy: complete" in sections["What this is"].notes
    assert [row[0] for row in rows.rows] == list(OWN)
    assert ("iformer_m", "80.4", f"{m.predicted:.2f}", f"{m.low:.1f} to {m.high:.1f}", "yes") in rows.rows
    assert rows.notes[-1] == (
        f"rows of the family, each left out: Kendall's tau {part.tau:.2f}; over those of 0.95 to 1.20 ms "
        f"{part.tau_near:.2f}"
    )
    assert any(note.startswith("each axis of the family left out: ") for note in rows.notes)
    assert any(note.startswith("published part, each family left out: ") for note in rows.notes)
    (note,) = front.notes
    assert note.startswith("300 networks evaluated, by a table that has not seen the accuracies of the variants; ")
    assert front.rows[-1][:3] == ("iformer_l", f"{slowest.variant_ms:.3f}", "81.9")
    assert front.rows[-1][-1] == slowest.verdict


def test_a_validation_without_an_accuracy_table_has_no_such_sections() -> None:
    kept = Validation.load(ROOT / "results" / "validation").model_copy(update={"accuracy": None})

    assert [one.title for one in validation_sections(kept) if one.title.startswith(("Accuracy", "The front of"))] == []


# Command


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data", "x"], "--data"),
        (["--data", "x", "--proxy", "accuracy-table"], "--data"),
        (["--option", "batch_size=8"], "--option batch_size"),
        (["--option", "accuracy_table=iformer", "--effort", "quick"], "--option effort"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_only_images_need_is_refused_without_a_proxy_that_takes_them(
    arguments: list[str], named: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from nas.cli import main; main()", "validate", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    line = f"error: {named} is for proxies that score images, such as --proxy supernet: name one\n"

    assert (2, "", line) == (done.returncode, done.stdout, done.stderr)
    assert [*tmp_path.iterdir()] == []
