"""`nas show`, `nas front` and `nas plot` on a finished run."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas.cli.results import show
from nas.networks import Architecture

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]
KEPT = Path(__file__).parents[2] / "results" / "survey-1.1ms"


def test_show_front_and_plot_read_a_finished_run(nas: Nas, searched: tuple[Path, dict[str, Any]]) -> None:
    folder, document = searched
    shown = nas("show", "results/run", "--json", cwd=folder)
    best = nas("front", "results/run", "--budget-ms", "1.1", cwd=folder)
    (folder / "results" / "run" / "report.html").unlink()
    plotted = nas("plot", "results/run", cwd=folder)

    assert document == json.loads(shown.stdout)
    assert Architecture.from_json(best.stdout).id == document["winner"]["id"]
    assert plotted.returncode == 0
    assert plotted.stderr == "written to results/run/report.html\n"
    assert (folder / "results" / "run" / "report.html").exists()


def test_json_has_all_candidates_with_role_and_interval(nas: Nas, searched: tuple[Path, dict[str, Any]]) -> None:
    folder, document = searched
    front = nas("front", "results/run", "--json", cwd=folder)
    one = nas("front", "results/run", "--budget-ms", "1.1", "--json", cwd=folder)
    candidates, (reference,) = document["candidates"], document["references"]

    assert json.loads(front.stdout) == document
    assert json.loads(one.stdout) == document["winner"]
    assert (len(candidates), reference["name"], reference["role"]) == (7, "tiny_a", "reference")
    assert [each for each in candidates if each["role"] == "winner"] == [document["winner"]]
    assert {each["role"] for each in document["front"]} <= {"winner", "front"}
    for each in candidates:
        low, high = each["interval_ms"]
        assert low <= each["latency_ms"] <= high


def test_the_front_is_shown_with_roles_and_how_blocks_are_written(
    nas: Nas, searched: tuple[Path, dict[str, Any]]
) -> None:
    folder, document = searched
    header, *rows, legend = nas("front", "results/run", cwd=folder).stdout.splitlines()
    roles = {row.split()[0]: row.split()[1] for row in rows}

    assert header.split()[:2] == ["network", "role"]
    assert roles == {each["id"]: each["role"] for each in document["front"]} | {"tiny_a": "reference"}
    assert legend.startswith(
        "blocks: widths of the four stages: blocks of each stage in order, C a convolution block, "
    )


def test_what_comes_next_stands_last(capsys: pytest.CaptureFixture[str]) -> None:
    show(KEPT)
    *others, every, front, images, search, full, train = capsys.readouterr().out.splitlines()

    assert others[-1].startswith("blocks: ")
    assert every == "19 of 72 networks of the front are shown; all of them:"
    assert front == f"  nas front {shlex.quote(str(KEPT))}"
    assert (images, search) == ("score networks on your images:", "  nas search --budget-ms 1.1 --data IMAGES")
    assert (full, train) == ("train the winner in full:", f"  nas train {shlex.quote(str(KEPT))} --data IMAGES")
    assert not {images, search, full, train} & set(others)


def test_json_has_what_is_published_of_a_reference_as_the_table_has(capsys: pytest.CaptureFixture[str]) -> None:
    show(KEPT)
    table = capsys.readouterr().out
    show(KEPT, as_json=True)
    references = {one["name"]: one for one in json.loads(capsys.readouterr().out)["references"]}

    assert "80.4 % at 1.10 ms" in table
    assert (references["iformer_m"]["published_top1"], references["iformer_m"]["published_ms"]) == (80.4, 1.1)


def test_a_run_without_a_score_is_shown_without_a_table(
    nas: Nas, refused: Refused, searched: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(searched[0] / "results" / "run", tmp_path / "run")
    (tmp_path / "run" / "candidates.jsonl").write_text("")
    shown = nas("show", "run", cwd=tmp_path)
    front = nas("front", "run", "--budget-ms", "1.1", cwd=tmp_path)

    assert shown.stdout == "run: no network inside 1.1 ms is scored yet\n"
    assert refused(front) == "error: run has no network of at most 1.1 ms; nothing is scored yet"


def test_the_fastest_of_a_run_is_one_that_a_budget_could_choose(
    nas: Nas, refused: Refused, searched: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(searched[0] / "results" / "run", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    asked = json.loads(path.read_text())
    scored = [one for one in searched[1]["candidates"] if one["role"] != "reference"]
    path.write_text(json.dumps(asked | {"confidence": 0.9}))
    confident = refused(nas("front", "run", "--budget-ms", "0.01", cwd=tmp_path))
    path.write_text(json.dumps(asked | {"limits": {"params": 1.0}}))
    lines = (tmp_path / "run" / "candidates.jsonl").read_text().splitlines()
    heavy = [json.dumps(json.loads(line) | {"quantities": {"params": 2.0}}) for line in lines]
    (tmp_path / "run" / "candidates.jsonl").write_text("\n".join(heavy) + "\n")
    limited = refused(nas("front", "run", "--budget-ms", "0.01", cwd=tmp_path))

    assert confident.endswith(f"; its fastest is {min(one['interval_ms'][1] for one in scored):.3f} ms")
    assert limited.endswith("; its limits admit none")


def test_several_budgets_each_have_a_winner_and_any_other_is_answered(
    nas: Nas, searched: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(searched[0] / "results" / "run", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"budgets_ms": [0.01, 0.7, 1.1]}))
    document = json.loads(nas("show", "run", "--json", cwd=tmp_path).stdout)
    shown = nas("show", "run", cwd=tmp_path)
    front = nas("front", "run", "--budget-ms", "0.7", cwd=tmp_path)
    winners = document["winners"]

    assert list(winners) == ["0.01", "0.7", "1.1"]
    assert winners["0.01"] is None
    assert winners["0.7"]["latency_ms"] <= 0.7
    assert winners["1.1"] == document["winner"] == searched[1]["winner"]
    assert "the winner of each budget, and the slowest reference inside it:" in shown.stdout.splitlines()
    assert [
        line.split()[:3] for line in shown.stdout.splitlines() if line.lstrip().startswith(("0.7 ms", "1.1 ms"))
    ] == [
        ["0.7", "ms", winners["0.7"]["id"]],
        ["1.1", "ms", winners["1.1"]["id"]],
    ]
    assert Architecture.from_json(front.stdout).id == winners["0.7"]["id"]


def test_the_front_below_its_fastest_network_ends_with_4(
    nas: Nas, refused: Refused, searched: tuple[Path, dict[str, Any]]
) -> None:
    folder, _ = searched
    done = nas("front", "results/run", "--budget-ms", "0.01", cwd=folder)

    assert done.returncode == 4
    assert "its fastest is" in refused(done)
