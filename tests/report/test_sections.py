"""What a validation says in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.report import Section, validation_sections
from nas.validate import Validation
from nas.validate.agreement import Lead
from nas.validate.widths import BandNetwork, WidthPart

KEPT = Path(__file__).parents[2] / "results" / "validation"
NETWORKS = tuple(BandNetwork(id=str(n), widths=(32, 64, 128, 256), latency_ms=1.0, value=1.0) for n in range(24))
WIDTHS = WidthPart(
    seed=0,
    asked=24,
    drawn=24,
    networks=NETWORKS,
    failed=0,
    r2=0.75,
    adjusted=0.697,
    by_chance=4 / 23,
    shares=(0.1, 0.05, 0.4, 0.2),
    seconds=12.0,
)


def of_one_proxy(*, lead: Lead | None = None, widths: WidthPart | None = None) -> dict[str, Section]:
    """Sections by title, of the kept validation with one proxy, and with a lead over all rows and widths."""
    validation = Validation.load(KEPT)
    part = next(section for section in validation.proxies if section.proxy == "supernet")
    part = part.model_copy(update={"widths": widths})
    sections = validation_sections(validation.model_copy(update={"proxies": (part,)}))
    if lead:
        from nas.validate.earlier import completed

        (part,) = completed(validation.model_copy(update={"proxies": (part,)})).proxies
        part = part.model_copy(update={"all_rows": part.all_rows.model_copy(update={"lead": lead})})
        sections = validation_sections(validation.model_copy(update={"proxies": (part,)}))
    return {section.title: section for section in sections}


def test_a_kept_validation_has_rankings_that_need_no_proxy() -> None:
    section = of_one_proxy()["supernet: against rankings that need no proxy"]

    assert list(section.rows) == [
        ("params", "0.76", "0.39"),
        ("macs", "0.80", "0.49"),
        ("published latency", "0.82", "0.55"),
        ("depth", "0.79", "0.87"),
        ("sum of log weights", "0.80", "0.88"),
    ]


def test_tau_stands_beside_its_spread_by_chance() -> None:
    section = of_one_proxy()["supernet: Kendall's tau-b against published top-1"]

    assert section.header[:4] == ("networks", "number", "tau", "by chance")
    assert [row[1:4] for row in section.rows] == [("11", "0.91", "0.24"), ("7", "0.88", "0.32")]


@pytest.mark.parametrize(
    ("low", "claim"),
    [
        (0.02, "all: better than depth (+0.20 in tau, 95 % interval +0.02 to +0.40)"),
        (0.0, "all: not shown to be better than depth (+0.20 in tau, 95 % interval +0.00 to +0.40)"),
        (None, "all: not shown to be better than depth (+0.20 in tau, 95 % interval - to +0.40)"),
    ],
)
def test_better_is_said_only_if_the_interval_shows_it(low: float | None, claim: str) -> None:
    lead = Lead(ranker="depth", difference=0.2, low=low, high=0.4)

    assert claim in of_one_proxy(lead=lead)["supernet: against rankings that need no proxy"].notes


def test_the_part_of_each_stage_is_told_beside_what_chance_explains() -> None:
    section = of_one_proxy(widths=WIDTHS)["supernet: what the widths of the stages say of the score"]

    assert "explains 75% of the variance of the scores (R^2); by chance 17% are expected; adjusted for that, 70%" in (
        "\n".join(section.notes)
    )
    assert list(section.rows) == [("1", "10%"), ("2", "5%"), ("3", "40%"), ("4", "20%")]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"drawn": 3, "networks": ()}, "3 of 24 random networks predicted at 0.95 to 1.20 ms were found in the space"),
        ({"networks": NETWORKS[:4]}, "4 of 24 random networks predicted at 0.95 to 1.20 ms (24 asked for) are scored"),
        ({"failed": 24}, "24 of them failed"),
    ],
)
def test_without_a_regression_it_says_why(changes: dict[str, object], note: str) -> None:
    nothing = WIDTHS.model_copy(update={"r2": None, "adjusted": None, "by_chance": None, "shares": (), **changes})
    section = of_one_proxy(widths=nothing)["supernet: what the widths of the stages say of the score"]

    assert note in "\n".join(section.notes)
    assert (list(section.rows), list(section.header)) == ([], [])


def test_a_validation_without_random_networks_says_nothing_of_widths() -> None:
    assert not any("widths" in title for title in of_one_proxy())


def test_a_failure_under_every_seed_is_told_once() -> None:
    notes = of_one_proxy()["supernet: scores"].notes

    assert len([note for note in notes if note.startswith("ladder_mha, seeds 0, 1, 2, failed: ")]) == 1
