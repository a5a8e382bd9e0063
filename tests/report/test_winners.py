"""The best of each budget, objectives with their units, and where a report shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nas.report import candidates_table, quantity_words, shown_front, winners_table
from nas.report.front import front_figures
from nas.report.words import markdown
from nas.search import Candidate, SearchResult

Changed = Callable[..., SearchResult]


@pytest.fixture
def changed(result: SearchResult) -> Changed:
    """The small search of conftest.py as if it had been asked for something else."""

    def change(**asked: Any) -> SearchResult:
        quantities = {"params": 9e6, "phone": 7.25}
        found = [one.model_copy(update={"quantities": quantities}) for one in result.candidates]
        return SearchResult(path=result.path, run=result.run.model_copy(update=asked), candidates=tuple(found))

    return change


def test_each_of_several_budgets_has_a_row_and_the_slowest_reference_inside_it(changed: Changed) -> None:
    result = changed(budgets_ms=(0.4, 0.6, 1.0))
    header, rows = winners_table(result)

    assert header == ("budget", "network", "latency, ms [interval]", "score", "compared with")
    assert rows == [
        ("0.4 ms", "none yet", "-", "-", "-"),
        ("0.6 ms", result.candidates[0].id, "0.500 [0.450, 0.550]", "0.4000 +- 0.0245", "-"),
        (
            *("1 ms", result.candidates[2].id, "0.900 [0.810, 0.990]", "0.5000 +- 0.0250"),
            "tiny_a, 0.950 ms, score 0.4800 +- 0.0250",
        ),
    ]


def test_each_candidate_has_its_role_and_a_winner_its_budgets(changed: Changed) -> None:
    result = changed(budgets_ms=(0.6, 0.8, 1.0))
    header, rows = candidates_table(result, result.candidates)
    ids = [one.id for one in result.candidates[:3]]

    assert header[:4] == ("network", "role", "latency, ms [interval]", "score")
    assert [row[:3] for row in rows] == [
        (ids[0], "winner 0.6, 0.8 ms", "0.500 [0.450, 0.550]"),
        (ids[1], "dominated", "0.700 [0.630, 0.770]"),
        (ids[2], "winner 1 ms", "0.900 [0.810, 0.990]"),
        ("tiny_a", "reference", "0.950 [0.855, 1.045]"),
    ]
    assert [row[1] for row in candidates_table(changed(), result.candidates)[1]][:3] == ["front", "dominated", "winner"]


def test_one_budget_needs_no_table(changed: Changed) -> None:
    assert winners_table(changed())[1] == []
    assert "The winner of each budget" not in markdown(changed())


def test_a_whole_front_is_shown_by_its_landmarks(changed: Changed, candidate: Callable[..., Candidate]) -> None:
    result = changed(whole_front=True)
    near = candidate(result.candidates[0].architecture.at(num_classes=77), 0.51, 0.41)
    more = SearchResult(path=result.path, run=result.run, candidates=(*result.candidates, near))
    header, rows = winners_table(more)

    assert header[:2] == ("network", "latency, ms [interval]")
    assert [row[1][:5] for row in rows] == ["0.500", "0.900"]
    assert [one.latency_ms for one in shown_front(more)] == [0.5, 0.9]
    assert len(more.front) == 3


def test_the_report_has_budgets_limits_and_objectives_with_their_units(changed: Changed) -> None:
    asked = {"budgets_ms": (0.6, 1.0), "limits": {"params": 1e7}, "objectives": ("params", "phone"), "sampler": "nsga2"}
    text = markdown(changed(**asked))

    assert "| 0.6 ms | " in text
    assert "| budget | network | latency, ms [interval] | score | params | phone | compared with |" in text
    assert "| network | role | latency, ms [interval] | score | params, k | MMACs | phone | blocks |" in text
    assert "| 7.25 ms |" in text
    assert "| budget | 0.6 ms and 1 ms |" in text
    assert "| limits | params at most 1e+07 |" in text
    assert "| objectives | params, phone |" in text
    assert "(score times ms, up to the budget and above score 0; params and phone not counted) |" in text
    assert "| sampler | nsga2 |" in text
    assert "| budget | none, the whole front up to 1 ms |" in markdown(changed(whole_front=True))


def test_a_quantity_has_its_unit_and_one_that_is_missing_a_dash(changed: Changed) -> None:
    one = changed().candidates[0]

    assert [quantity_words(one, name) for name in ("params", "phone", "memory")] == ["9M", "7.25 ms", "-"]


def test_the_figure_has_a_line_for_each_budget_and_marks_each_winner(changed: Changed) -> None:
    result = changed(budgets_ms=(0.6, 1.0), objectives=("params",))
    smaller = result.candidates[1].model_copy(update={"quantities": {"params": 1e6}})
    candidates = (result.candidates[0], smaller, *result.candidates[2:])
    (figure,) = front_figures([SearchResult(path=result.path, run=result.run, candidates=candidates)], [])

    assert [line["text"] for line in figure["layout"]["annotations"]] == ["budget 0.6 ms", "budget 1 ms"]
    assert {"winners", "better in params"} < {trace["name"] for trace in figure["data"]}
