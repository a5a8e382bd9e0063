"""Files of earlier versions are read, and completed where they can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.validate import Validation
from nas.validate.agreement import RANKERS
from nas.validate.earlier import completed

KEPT = Path(__file__).parents[2] / "results" / "validation"
LACKING = {"depth", "log_weights", "by_chance", "lead", "widths"}


def without(document: object) -> object:
    """The document as an earlier version wrote it."""
    if isinstance(document, list):
        return [without(item) for item in document]
    if not isinstance(document, dict):
        return document
    kept = {key: without(value) for key, value in document.items() if key not in LACKING}
    rankers = kept.get("rankers")
    if isinstance(rankers, dict):
        kept["rankers"] = {name: rankers[name] for name in ("params", "macs", "published latency") if name in rankers}
    return kept


@pytest.fixture
def earlier(tmp_path: Path) -> Validation:
    """The kept validation of seven proxies as the first version wrote it."""
    document = without(json.loads((KEPT / "validation.json").read_text()))
    (tmp_path / "validation.json").write_text(json.dumps(document))
    return Validation.load(tmp_path)


def test_a_file_of_an_earlier_version_is_read_and_completed(earlier: Validation) -> None:
    supernet = completed(earlier).proxies[0]
    before = earlier.proxies[0]
    everything, near = supernet.all_rows, supernet.near_rows
    assert everything.lead is not None and near.lead is not None

    assert set(before.all_rows.rankers) == {"params", "macs", "published latency"}
    assert everything.networks == 11
    assert {name: round(tau, 2) for name, tau in everything.rankers.items()} == {
        "params": 0.76,
        "macs": 0.80,
        "published latency": 0.82,
        "depth": 0.79,
        "sum of log weights": 0.80,
    }
    assert (round(near.rankers["depth"], 2), round(near.rankers["sum of log weights"], 2)) == (0.87, 0.88)
    assert (round(everything.by_chance or 0, 2), round(near.by_chance or 0, 2)) == (0.24, 0.32)
    assert (everything.lead.ranker, everything.lead.is_shown) == ("published latency", False)
    assert (near.lead.ranker, near.lead.is_shown) == ("sum of log weights", False)


def test_what_the_file_has_is_not_changed(earlier: Validation) -> None:
    document = completed(earlier).model_dump(mode="json", by_alias=True)

    assert without(document) == without(earlier.model_dump(mode="json", by_alias=True))


def test_a_network_that_is_not_known_leaves_its_counts_out(earlier: Validation) -> None:
    part = earlier.proxies[0]
    rows = (part.rows[0].model_copy(update={"id": "of a user"}), *part.rows[1:])
    changed = earlier.model_copy(update={"proxies": (part.model_copy(update={"rows": rows}),)})
    agreement = completed(changed).proxies[0].all_rows
    assert agreement.lead is not None

    assert set(agreement.rankers) == {"params", "macs", "published latency"}
    assert agreement.lead.ranker == "published latency"
    assert set(completed(changed).proxies[0].near_rows.rankers) == set(RANKERS)  # iFormer-T is not in the band


def test_a_complete_validation_stays_as_it_is(earlier: Validation) -> None:
    once = completed(earlier)

    assert completed(once) is once
