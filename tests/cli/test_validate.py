"""`nas validate` and `nas show` on a validation, as real processes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Nas = Callable[..., subprocess.CompletedProcess[str]]
KEPT = Path(__file__).parents[2] / "results" / "validation"
QUICK = ["--proxy", "fake", "--budgets", "none", "--seeds", "1", "--out", "out"]


def test_random_networks_of_the_band_are_scored_unless_left_out(nas: Nas, tmp_path: Path) -> None:
    done = nas("validate", *QUICK, "--band-networks", "0", cwd=tmp_path)
    resumed = nas("validate", *QUICK, "--resume", "--json", cwd=tmp_path)
    (part,) = json.loads(resumed.stdout)["proxies"]
    lines = (tmp_path / "out" / "scores.jsonl").read_text().splitlines()

    assert "widths" not in done.stdout + done.stderr
    assert "widths: 24 random networks predicted at 0.95 to 1.20 ms" in resumed.stderr
    assert "--band-networks 0 leaves them out" in resumed.stderr
    assert (part["widths"]["drawn"], len(part["widths"]["networks"])) == (24, 24)
    assert len(lines) == 12 + 24


def test_show_tells_of_a_kept_validation_what_its_file_lacks(nas: Nas, tmp_path: Path) -> None:
    shown = nas("show", str(KEPT), cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    assert "supernet: against rankings that need no proxy" in shown.stdout
    assert "all: not shown to be better than published latency (+0.09 in tau" in shown.stdout


# Without --proxy an accuracy table is validated, and nothing else.


@pytest.fixture(scope="module")
def foretold(nas: Nas, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("foretold")
    return folder, nas("validate", "--survey", "300", "--out", "out", cwd=folder)


def test_an_accuracy_table_is_validated_without_any_search(
    foretold: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = foretold
    document = json.loads((folder / "out" / "validation.json").read_text())
    accuracy = document["accuracy"]

    assert done.returncode == 0, done.stderr
    assert accuracy["table"] == "iformer.imagenet"
    assert len(accuracy["rows"]) == 12
    assert accuracy["looked_at"] == 300
    assert [row["variant"] for row in accuracy["front"]] == [f"iformer_{size}" for size in "tsml"]
    assert (document["proxies"], document.get("recovery")) == ([], None)
    assert {path.name for path in (folder / "out").iterdir()} == {"scores.jsonl", "validation.json", "validation.html"}
    assert (folder / "out" / "scores.jsonl").read_text() == ""
    assert "widths:" not in done.stderr


def test_a_validated_accuracy_table_is_printed_and_shown(
    foretold: tuple[Path, subprocess.CompletedProcess[str]], nas: Nas
) -> None:
    folder, done = foretold
    shown = nas("show", "out", cwd=folder)

    assert "Accuracy: predicted by iformer.imagenet, against published" in done.stdout
    assert "rows of the family, each left out: Kendall's tau " in done.stdout
    assert "The front of a survey, against the variants" in done.stdout
    assert "accuracy: complete" in done.stdout
    assert re.search(r"iformer_m +80\.4 +\d\d\.\d\d +\d\d\.\d to \d\d\.\d +yes\s", done.stdout)
    assert shown.stdout == done.stdout
    assert "Accuracy: predicted by iformer.imagenet" in (folder / "out" / "validation.html").read_text()


def test_a_survey_may_be_left_out(nas: Nas, tmp_path: Path) -> None:
    done = nas("validate", "--survey", "0", "--out", "out", "--json", cwd=tmp_path)
    accuracy = json.loads(done.stdout)["accuracy"]

    assert (accuracy["looked_at"], accuracy["front"], len(accuracy["rows"])) == (0, [], 12)


def test_other_proxies_are_validated_without_an_accuracy_table(nas: Nas, tmp_path: Path) -> None:
    done = nas("validate", *QUICK, "--band-networks", "0", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "accuracy" not in json.loads(done.stdout)


def test_an_accuracy_table_is_validated_beside_other_proxies(nas: Nas, tmp_path: Path) -> None:
    both = ["--proxy", "accuracy-table,fake", "--survey", "0", "--band-networks", "0"]
    done = nas("validate", *QUICK, *both, "--json", cwd=tmp_path)
    document = json.loads(done.stdout)

    assert [part["proxy"] for part in document["proxies"]] == ["fake"]
    assert len(document["accuracy"]["rows"]) == 12
