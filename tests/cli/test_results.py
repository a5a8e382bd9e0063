"""`nas show`, `nas front` and `nas plot` on a finished run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.networks import Architecture

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]


def test_show_front_and_plot_read_a_finished_run(nas: Nas, searched: tuple[Path, dict[str, Any]]) -> None:
    folder, document = searched
    shown = nas("show", "results/run", "--json", cwd=folder)
    best = nas("front", "results/run", "--budget-ms", "1.1", cwd=folder)
    plotted = nas("plot", "results/run", "--out", "front.html", cwd=folder)

    assert document == json.loads(shown.stdout)
    assert Architecture.from_json(best.stdout).id == document["winner"]["id"]
    assert plotted.returncode == 0
    assert (folder / "front.html").exists()


def test_the_front_below_its_fastest_network_ends_with_4(
    nas: Nas, refused: Refused, searched: tuple[Path, dict[str, Any]]
) -> None:
    folder, _ = searched
    done = nas("front", "results/run", "--budget-ms", "0.01", cwd=folder)

    assert done.returncode == 4
    assert "its fastest is" in refused(done)
