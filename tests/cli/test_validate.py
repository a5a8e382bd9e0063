"""`nas validate` and `nas show` on a validation, as real processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

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
    assert "supernet: beside rankings that need no proxy" in shown.stdout
    assert "all: not shown to be better than published latency (+0.09 in tau" in shown.stdout
