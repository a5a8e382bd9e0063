"""`nas table`: build, check, list, show and calibrate."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.latency import LatencyTable
from nas.networks import SearchSpace

Nas = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
FAST = ["--space", "tiny", "--proxy", "fake", "--trials", "1"]


def test_a_table_is_built_shown_and_used(nas: Nas, tmp_path: Path) -> None:
    built = nas("table", "build", "--device", "fake", "--space", "tiny", cwd=tmp_path)
    path = tmp_path / built.stdout.strip()
    shown = nas("table", "show", "fake", cwd=tmp_path)
    found = nas("latency", "tiny_a", "--table", "fake", "--json", cwd=tmp_path)
    listed = nas("table", "list", cwd=tmp_path)

    assert set(LatencyTable.load(path).entries) == {layer.key for layer in SearchSpace.find("tiny").layers}
    assert "analytic: fake" in shown.stdout
    assert json.loads(found.stdout)["source"] == "analytic"
    assert "iphone13.coreml.fp16" in listed.stdout
    assert "fake.fake.none" in listed.stdout
    assert "layers: 17 measured, 0 filled in between them, 0 failed" in built.stderr
    assert "slowest layers" in shown.stdout


def test_a_table_is_checked_and_its_check_is_shown_wherever_it_is_used(nas: Nas, tmp_path: Path) -> None:
    nas("table", "build", "--device", "fake", "--space", "tiny", cwd=tmp_path)
    options = ["--space", "tiny", "--networks", "8", "--calibrate", "3", "--rounds", "2"]
    document = json.loads(nas("table", "check", "fake", *options, "--json", cwd=tmp_path).stdout)
    search = ["search", "--budget-ms", "1", "--table", "fake", *FAST, "--confidence", "0.8"]
    trust = f"checked on {document['networks']} whole networks: mean error"

    promised = ["networks", "bias", "mean_error", "worst_error", "tau", "noise_floor", "baselines"]
    assert promised == list(document)[:7]
    assert {"macs", "params"} == set(document["baselines"])
    assert document["networks"] == 8 + len(SearchSpace.find("tiny").references)
    assert document["correction"]["networks"] == 3
    assert trust in nas("table", "show", "fake", cwd=tmp_path).stdout
    assert trust in nas("table", "list", cwd=tmp_path).stdout
    assert trust in nas("latency", "tiny_a", "--table", "fake", cwd=tmp_path).stdout
    assert trust in nas("space", "show", "tiny", "--table", "fake", cwd=tmp_path).stdout
    done = nas(*search, cwd=tmp_path)
    assert trust in done.stderr
    assert "upper end at 80% inside the budget" in done.stderr
    assert trust in (tmp_path / "results" / "tiny-1ms" / "report.md").read_text()


def test_a_sparse_table_marks_what_it_filled_in(nas: Nas, tmp_path: Path) -> None:
    shipped = (ROOT / "search_spaces" / "iformer.toml").read_text()
    narrow = shipped.replace('kind = ["shma", "sha"]', 'kind = "shma"').replace(
        "expansion = [2, 3, 4]", "expansion = 3"
    )
    (tmp_path / "own.toml").write_text(narrow)
    done = nas("table", "build", "--device", "fake", "--space", "own.toml", "--sample", "0.3", cwd=tmp_path)

    assert done.returncode == 0
    assert re.search(r"layers: \d+ measured, [1-9]\d* filled in between them, 0 failed", done.stderr)


def test_failed_layers_are_told_and_can_be_retried(nas: Nas, tmp_path: Path) -> None:
    build = ["table", "build", "--device", "fake", "--space", "tiny", "--out", "t.json"]
    failed = nas(*build, "--option", "fails=head", cwd=tmp_path)
    again = nas(*build, cwd=tmp_path)
    retried = nas(*build, "--retry-failed", cwd=tmp_path)

    assert "failed: head-c64-n10-2x2: made to fail" in failed.stderr
    assert "with --retry-failed" in again.stderr
    assert "0 failed" in retried.stderr


def test_calibrating_the_shipped_points_gives_the_shipped_table(nas: Nas, tmp_path: Path) -> None:
    points = ROOT / "latency_tables" / "iphone13.points.csv"
    done = nas("table", "calibrate", str(points), "--out", "own.json", cwd=tmp_path)
    fitted, shipped = LatencyTable.load(tmp_path / "own.json"), LatencyTable.find("iphone13.coreml.fp16")[0]

    assert done.returncode == 0
    assert fitted.model is not None
    assert shipped.model is not None
    assert dict(fitted.model.coefficients) == pytest.approx(dict(shipped.model.coefficients), rel=1e-4)
    assert fitted.published == shipped.published
