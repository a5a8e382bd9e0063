"""`nas search`: what it prints and writes, and how it is stopped."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from nas.cli.terminal import end_like_ctrl_c
from nas.networks import Architecture
from nas.search import SearchResult

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]
COMMAND = [sys.executable, "-c", "from nas.cli import main; main()"]


def test_a_search_ends_with_the_promised_document_and_files(searched: tuple[Path, dict[str, Any]]) -> None:
    folder, document = searched
    winner = document["winner"]

    assert {"results", "winner", "winners", "front", "references", "candidates"} == set(document)
    assert {"id", "role", "latency_ms", "interval_ms", "score", "architecture"} == set(winner)
    assert len(document["candidates"]) == 6 + len(document["references"])
    assert winner["latency_ms"] <= 1.1
    assert Architecture.from_json(json.dumps(winner["architecture"])).id == winner["id"]
    files = {path.name for path in (folder / "results" / "run").iterdir()}
    assert {
        "run.json",
        "candidates.jsonl",
        "front.csv",
        "winner.json",
        "report.html",
        "report.md",
        "study.journal",
    } <= files


def test_a_cheap_proxy_screens_for_a_dear_one(nas: Nas, pets: Path, tmp_path: Path) -> None:
    tiny = ["--option", "images=64", "--option", "resolution=32", "--option", "precision=fp32"]
    options = ["--space", "tiny", "--data", str(pets), "--trials", "2", "--out", "run", *tiny]
    screening = ["--proxy", "fake,short-training", "--screen", "3"]
    done = nas("search", "--budget-ms", "1.1", *options, *screening, cwd=tmp_path)
    folder = SearchResult.load(tmp_path / "run")

    assert done.returncode == 0, done.stderr
    assert "screening: of networks of similar latency the best 1 in 3 by fake go on" in done.stderr
    assert "6 networks screened" in done.stderr
    assert (len(folder.screenings), len(folder.scored), folder.run.proxy["name"]) == (7, 2, "short-training")
    assert re.search(r"scored besides the references: 6 by fake in 0\.0 s, 2 by short-training in \d", done.stdout)
    assert "all 6 by short-training would have taken about" in done.stdout
    assert "an estimate: 6 times its mean of" in done.stdout
    value = folder.screened[folder.references[0].id]["fake"]
    assert re.search(rf"tiny_a +reference +[\d.]+ \[.*\] +[\d.]+ \+- [\d.]+ +{value:#.4g} ", done.stdout)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| network | role | latency, ms [interval] | score | fake | params, k | MMACs | blocks |" in report
    assert "| screening by fake | name fake," in report


def test_a_search_says_first_what_it_will_do(nas: Nas, tmp_path: Path) -> None:
    options = ["--space", "tiny", "--proxy", "fake", "--trials", "2", "--out", "run"]
    words = nas("search", "--budget-ms", "1.1", *options, cwd=tmp_path).stderr

    for expected in (
        "space: 2.24e+02 networks",
        "calibrated: iPhone 13",
        "data: synthetic",
        "candidates: 2;",
        "time:",
    ):
        assert expected in words


def test_a_finished_run_is_not_overwritten_but_numbered_on(nas: Nas, refused: Refused, tmp_path: Path) -> None:
    options = ["--space", "tiny", "--proxy", "fake", "--trials", "1"]
    first = nas("search", "--budget-ms", "1.1", *options, cwd=tmp_path)
    second = nas("search", "--budget-ms", "1.1", *options, cwd=tmp_path)
    same = nas("search", "--budget-ms", "1.1", *options, "--out", "results/tiny-1.1ms", cwd=tmp_path)

    assert (first.returncode, second.returncode) == (0, 0)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"tiny-1.1ms", "tiny-1.1ms-2"}
    assert same.returncode == 2
    assert "holds a run already: go on with it (--resume)" in refused(same)


# The fake proxy made slow, and a storage that is asked for a moment only.
_SLOW = """
import time
import nas.proxies.fake as fake
import nas.search.patience as patience
score, patience.PATIENCE_S, patience.PAUSE_S = fake.FakeProxy.score, 0.2, 0.05
def slow(self, architecture):
    time.sleep(0.2)
    return score(self, architecture)
fake.FakeProxy.score = slow
from nas.cli import main
main()
"""


def _begun(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A running search in a folder with a candidate at least."""
    command = [sys.executable, "-c", _SLOW, "search", "--budget-ms", "1.1", "--space", "tiny", "--proxy", "fake"]
    process = subprocess.Popen([*command, "--out", "run", *options], cwd=folder, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (folder / "run" / "front.csv").exists():
        candidates = folder / "run" / "candidates.jsonl"
        if candidates.exists() and candidates.read_text().count("\n"):
            break
        time.sleep(0.02)
    return process


def test_a_search_that_runs_is_not_disturbed_by_a_second_and_is_taken_over_when_it_is_gone(
    nas: Nas, refused: Refused, tmp_path: Path
) -> None:
    process = _begun(tmp_path, "--trials", "1000")
    options = ["--space", "tiny", "--proxy", "fake", "--out", "run", "--resume"]
    second = nas("search", "--budget-ms", "1.1", *options, "--trials", "5", cwd=tmp_path)
    is_running = process.poll() is None
    process.kill()
    process.communicate()
    left = (tmp_path / "run" / "candidates.jsonl").read_text().splitlines()
    resumed = nas("search", "--budget-ms", "1.1", *options, "--trials", str(len(left) + 2), cwd=tmp_path)
    result = SearchResult.load(tmp_path / "run")

    assert (second.returncode, is_running, resumed.returncode) == (2, True, 0), second.stderr + resumed.stderr
    assert f"error: run is in use by process {process.pid} on {socket.gethostname()}, since 2" in refused(second)
    assert (tmp_path / "run" / "candidates.jsonl").read_text().splitlines()[: len(left)] == left
    assert len({candidate.id for candidate in result.candidates}) == len(result.candidates)
    assert not (tmp_path / "run" / "nas.lock").exists()


def test_a_search_whose_storage_stays_locked_leaves_its_report_and_says_how_to_go_on(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db?timeout=0.01"
    process = _begun(tmp_path, "--trials", "1000", "--storage", storage)
    with sqlite3.connect(tmp_path / "studies.db", isolation_level=None, timeout=60) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        _, words = process.communicate(timeout=60)
    connection.close()

    assert process.returncode == 1
    assert "--storage: database is locked; asking again for 0 s\n" in words
    assert "go on with: nas search --resume run\n" in words
    assert words.splitlines()[-1].startswith("error: --storage: database is locked, for 0 s; everything finished so ")
    assert {"report.md", "front.csv", "report.html"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        end_like_ctrl_c()
        ignored = [signal.getsignal(number) for number in numbers]
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        end_like_ctrl_c()
        ending = [signal.getsignal(number) for number in numbers]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    assert ignored == [signal.default_int_handler, signal.SIG_IGN]
    assert ending == [signal.default_int_handler] * 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_search_ends_with_130_and_keeps_what_is_finished(
    nas: Nas, pets: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    options = ["--space", "tiny", "--data", str(pets), "--trials", "50", "--out", "run"]
    quick = ["--option", "images=512", "--option", "resolution=32", "--option", "precision=fp32"]
    command = [*COMMAND, "search", "--budget-ms", "1.1", *options, *quick]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    finished = tmp_path / "run" / "candidates.jsonl"
    while time.monotonic() < deadline and not (finished.exists() and finished.read_text().count("\n")):
        time.sleep(0.05)
    process.send_signal(stop)
    _, words = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "go on with: nas search --resume run\n" in words
    assert "Traceback" not in words
    assert "interrupted; everything finished so far is saved" in words
    assert finished.read_text().count("\n") >= 1
    assert (tmp_path / "run" / "front.csv").exists()
    assert (tmp_path / "run" / "report.md").exists()

    if stop is signal.SIGTERM:
        return
    # The winner so far leaves with the weights and the classes of its training.
    (tmp_path / "run").rename(tmp_path / "run-1.1ms")
    exported = nas("export", "run-1.1ms", "--format", "onnx", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    classes = onnx.load(tmp_path / "run-1.1ms.onnx").graph.output[0].type.tensor_type.shape.dim[1].dim_value
    assert classes == 2


def test_a_search_with_confidence_keeps_the_upper_end_inside_the_budget(nas: Nas, tmp_path: Path) -> None:
    options = ["--space", "tiny", "--proxy", "fake", "--trials", "8", "--json"]
    known = json.loads(nas("latency", "tiny_a", "--json", cwd=tmp_path).stdout)
    budget = str(known["interval_ms"][1])
    nas("search", "--budget-ms", budget, *options, "--confidence", "0.9", "--out", "sure", cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "sure" / "candidates.jsonl").read_text().splitlines()]
    searched = [line for line in lines if line["kind"] == "searched"]

    assert searched
    assert all(line["high_ms"] <= float(budget) for line in searched)
    assert json.loads((tmp_path / "sure" / "run.json").read_text())["confidence"] == 0.9


# Without --data and --proxy nothing is trained: an accuracy table decides.

SURVEY = ["search", "--budget-ms", "1.1", "--trials", "300"]


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A small survey of the iformer space; its last line on stderr says which large libraries it loaded."""
    folder = tmp_path_factory.mktemp("surveyed")
    code = (
        "import atexit, sys\n"
        "large = {'torch', 'optuna', 'datasets', 'pyarrow'}\n"
        "atexit.register(lambda: print('loaded:', sorted(large & set(sys.modules)), file=sys.stderr))\n"
        "from nas.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *SURVEY, "--out", "run", "--json"]
    return folder, subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_search_without_images_loads_neither_torch_nor_optuna(
    surveyed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = surveyed

    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "loaded: []"


def test_a_survey_ends_with_the_promised_document_and_files(
    surveyed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = surveyed
    document = json.loads(done.stdout)
    winner, front = document["winner"], document["front"]

    assert {"results", "winner", "winners", "front", "references", "candidates"} == set(document)
    assert document["results"] == "run"
    assert winner == front[-1]
    assert len(front) > 10
    assert winner["latency_ms"] <= 1.1
    assert 70 < winner["score"] < 90  # % top-1
    assert Architecture.from_json(json.dumps(winner["architecture"])).id == winner["id"]
    files = {path.name for path in (folder / "run").iterdir()}
    assert {"run.json", "candidates.jsonl", "front.csv", "winner.json", "report.html", "report.md"} <= files
    assert not {"study.journal", "screened.jsonl", "winner.safetensors"} & files


def test_a_survey_says_first_what_it_will_do(surveyed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    words = surveyed[1].stderr

    for expected in (
        "space: 8.71e+15 networks, the cheapest in 0.34",
        "latency: calibrated: iPhone 13",
        "accuracy: predicted ImageNet-1k top-1; ",
        "survey: 300 networks inside 1.1 ms, nothing is trained; for comparison iformer_t, iformer_s, iformer_m",
        "time: about ",
        "results: run",
    ):
        assert expected in words


def test_a_survey_is_shown_with_predicted_and_published_accuracies(
    surveyed: tuple[Path, subprocess.CompletedProcess[str]], nas: Nas
) -> None:
    shown = nas("show", "run", cwd=surveyed[0]).stdout
    within = nas("front", "run", "--budget-ms", "0.7", cwd=surveyed[0])

    assert re.search(r"winner \w+: 1\.0\d\d ms \[.*\] of 1\.1 ms, predicted ImageNet top-1 \d\d\.\d % \[", shown)
    assert re.search(r"network +role +latency, ms \[interval\] +predicted top-1 \[90 %\] +published +blocks", shown)
    assert re.search(
        r"iformer_m +reference +1\.089 \[0\.991, 1\.191\] +\d\d\.\d % \[\d\d\.\d, \d\d\.\d\] +"
        r"80\.4 % at 1\.10 ms +48-96-192-384",
        shown,
    )
    assert "300 networks evaluated" in shown
    assert within.returncode == 0, within.stderr
    assert Architecture.from_json(within.stdout).resolution == 224


def test_a_finished_survey_is_done_again_with_resume_alone(
    surveyed: tuple[Path, subprocess.CompletedProcess[str]], nas: Nas, refused: Refused
) -> None:
    folder, first = surveyed
    run = json.loads((folder / "run" / "run.json").read_text())
    options = (folder / "run" / "run.toml").read_text()
    twice = nas(*SURVEY, "--out", "run", cwd=folder)
    again = nas(*SURVEY, "--out", "run", "--resume", "--json", cwd=folder)
    other = nas(*SURVEY, "--out", "run", "--resume", "--seed", "1", cwd=folder)

    assert twice.returncode == 2
    assert "holds a run already: go on with it (--resume)" in refused(twice)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert json.loads((folder / "run" / "run.json").read_text()) | {"command": ""} == run | {"command": ""}
    assert (folder / "run" / "run.toml").read_text() == options
    assert other.returncode == 2
    assert "was begun with another seed (0, not 1)" in refused(other)
