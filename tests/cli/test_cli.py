"""The commands as a user types them: real processes, real files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace
from nas.search import SearchResult

COMMAND = [sys.executable, "-c", "from nas.cli import main; main()"]
ROOT = Path(__file__).parents[2]
FAST = ["--space", "tiny", "--proxy", "fake", "--trials", "1"]


def nas(*arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NAS_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, input=stdin, capture_output=True, text=True, timeout=120, env=environment
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused command prints; never a traceback."""
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("error: ")
    return last


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A small finished search with the fake proxy, and what its --json printed."""
    folder = tmp_path_factory.mktemp("searched")
    options = ["--space", "tiny", "--proxy", "fake", "--trials", "6", "--out", "results/run", "--json"]
    done = nas("search", "--budget-ms", "1.1", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_latency_as_json_has_every_promised_key(tmp_path: Path) -> None:
    document = json.loads(nas("latency", "iformer_m", "--json", cwd=tmp_path).stdout)

    assert list(document) == [
        "id",
        "latency_ms",
        "interval_ms",
        "source",
        "table",
        "params",
        "macs",
        "published_ms",
        "layers",
    ]
    assert document["latency_ms"] == pytest.approx(1.10, rel=0.03)
    assert document["latency_ms"] == pytest.approx(sum(layer["latency_ms"] for layer in document["layers"]), abs=1e-4)
    assert document["published_ms"] == 1.1
    assert document["source"] == "calibrated"
    assert document["interval_ms"][0] < document["latency_ms"] < document["interval_ms"][1]
    assert {"key", "latency_ms", "source"} == set(document["layers"][0])


def test_latency_in_words_shows_origin_interval_and_the_published_time(tmp_path: Path) -> None:
    text = nas("latency", "iformer_m", cwd=tmp_path).stdout

    assert "calibrated: iPhone 13" in text
    assert "jackknife+" in text
    assert "published: 1.10 ms" in text


def test_latency_takes_an_architecture_from_stdin_and_from_a_file(tmp_path: Path) -> None:
    text = SearchSpace.find("iformer").references["iformer_s"].to_json()
    (tmp_path / "s.json").write_text(text)
    outputs = [
        nas("latency", name, "--json", cwd=tmp_path, stdin=stdin).stdout
        for name, stdin in (("-", text), ("s.json", ""), ("iformer_s", ""))
    ]

    assert outputs[0]
    assert len(set(outputs)) == 1


def test_a_search_ends_with_the_promised_document_and_files(searched: tuple[Path, dict[str, Any]]) -> None:
    folder, document = searched
    winner = document["winner"]

    assert {"results", "winner", "front"} == set(document)
    assert {"id", "latency_ms", "score", "architecture"} == set(winner)
    assert winner["latency_ms"] <= 1.1
    assert Architecture.from_json(json.dumps(winner["architecture"])).id == winner["id"]
    files = {path.name for path in (folder / "results" / "run").iterdir()}
    assert {
        "run.json",
        "candidates.jsonl",
        "front.csv",
        "winner.json",
        "pareto.html",
        "report.md",
        "study.journal",
    } <= files


def test_a_cheap_proxy_screens_for_a_dear_one(tmp_path: Path) -> None:
    tiny = ["--option", "images=64", "--option", "resolution=32", "--option", "precision=fp32"]
    options = ["--space", "tiny", "--trials", "2", "--out", "run", *tiny]
    screening = ["--proxy", "fake,short-training", "--screen", "3"]
    done = nas("search", "--budget-ms", "1.1", *options, *screening, cwd=tmp_path)
    folder = SearchResult.load(tmp_path / "run")

    assert done.returncode == 0, done.stderr
    assert "screening: the best of every 3 networks by fake" in done.stderr
    assert "6 networks screened" in done.stderr
    assert (len(folder.screenings), len(folder.scored), folder.run.proxy["name"]) == (7, 2, "short-training")
    assert re.search(r"references apart: 6 by fake in 0\.0 s, 2 by short-training in \d", done.stdout)
    assert "all 6 by short-training would have taken about" in done.stdout
    assert "an estimate: 6 times its mean of" in done.stdout
    value = folder.screened[folder.references[0].id]["fake"]
    assert re.search(rf"tiny_a +[\d.]+ +{value:.4g} +[\d.]+ ", done.stdout)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| network | ms | interval | fake | score |" in report
    assert "| screening by fake | name fake," in report


def test_a_search_says_first_what_it_will_do(tmp_path: Path) -> None:
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


def test_show_front_and_plot_read_a_finished_run(searched: tuple[Path, dict[str, Any]]) -> None:
    folder, document = searched
    shown = nas("show", "results/run", "--json", cwd=folder)
    best = nas("front", "results/run", "--budget-ms", "1.1", cwd=folder)
    plotted = nas("plot", "results/run", "--out", "front.html", cwd=folder)

    assert document == json.loads(shown.stdout)
    assert Architecture.from_json(best.stdout).id == document["winner"]["id"]
    assert plotted.returncode == 0
    assert (folder / "front.html").exists()


def test_the_front_below_its_fastest_network_ends_with_4(searched: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = searched
    done = nas("front", "results/run", "--budget-ms", "0.01", cwd=folder)

    assert done.returncode == 4
    assert "its fastest is" in refused(done)


def test_a_finished_run_is_not_overwritten_but_numbered_on(tmp_path: Path) -> None:
    options = ["--space", "tiny", "--proxy", "fake", "--trials", "1"]
    first = nas("search", "--budget-ms", "1.1", *options, cwd=tmp_path)
    second = nas("search", "--budget-ms", "1.1", *options, cwd=tmp_path)
    same = nas("search", "--budget-ms", "1.1", *options, "--out", "results/tiny-1.1ms", cwd=tmp_path)

    assert (first.returncode, second.returncode) == (0, 0)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"tiny-1.1ms", "tiny-1.1ms-2"}
    assert same.returncode == 2
    assert "holds a run already: go on with it (--resume)" in refused(same)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_search_ends_with_130_and_keeps_what_is_finished(tmp_path: Path, stop: signal.Signals) -> None:
    options = ["--space", "tiny", "--data", "synthetic", "--trials", "50", "--out", "run"]
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
    assert "go on with: nas search --resume --out run" in words
    assert "Traceback" not in words
    assert "interrupted; everything finished so far is saved" in words
    assert finished.read_text().count("\n") >= 1
    assert (tmp_path / "run" / "front.csv").exists()
    assert (tmp_path / "run" / "report.md").exists()

    # The winner so far leaves with the weights and the classes of its training.
    (tmp_path / "run").rename(tmp_path / "run-1.1ms")
    exported = nas("export", "run-1.1ms", "--format", "onnx", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    classes = onnx.load(tmp_path / "run-1.1ms.onnx").graph.output[0].type.tensor_type.shape.dim[1].dim_value
    assert classes == 20


def test_a_table_is_built_shown_and_used(tmp_path: Path) -> None:
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
    assert "dearest layers" in shown.stdout


def test_a_table_is_checked_and_its_check_is_shown_wherever_it_is_used(tmp_path: Path) -> None:
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


def test_a_search_with_confidence_keeps_the_upper_end_inside_the_budget(tmp_path: Path) -> None:
    options = ["--space", "tiny", "--proxy", "fake", "--trials", "8", "--json"]
    known = json.loads(nas("latency", "tiny_a", "--json", cwd=tmp_path).stdout)
    budget = str(known["interval_ms"][1])
    nas("search", "--budget-ms", budget, *options, "--confidence", "0.9", "--out", "sure", cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "sure" / "candidates.jsonl").read_text().splitlines()]
    searched = [line for line in lines if line["kind"] == "searched"]

    assert searched
    assert all(line["high_ms"] <= float(budget) for line in searched)
    assert json.loads((tmp_path / "sure" / "run.json").read_text())["confidence"] == 0.9


def test_a_sparse_table_marks_what_it_filled_in(tmp_path: Path) -> None:
    shipped = (ROOT / "search_spaces" / "iformer.toml").read_text()
    narrow = shipped.replace('kind = ["shma", "sha"]', 'kind = "shma"').replace(
        "expansion = [2, 3, 4]", "expansion = 3"
    )
    (tmp_path / "own.toml").write_text(narrow)
    done = nas("table", "build", "--device", "fake", "--space", "own.toml", "--sample", "0.3", cwd=tmp_path)

    assert done.returncode == 0
    assert re.search(r"layers: \d+ measured, [1-9]\d* filled in between them, 0 failed", done.stderr)


def test_failed_layers_are_told_and_can_be_retried(tmp_path: Path) -> None:
    build = ["table", "build", "--device", "fake", "--space", "tiny", "--out", "t.json"]
    failed = nas(*build, "--option", "fails=head", cwd=tmp_path)
    again = nas(*build, cwd=tmp_path)
    retried = nas(*build, "--retry-failed", cwd=tmp_path)

    assert "failed: head-c64-n10-2x2: made to fail" in failed.stderr
    assert "with --retry-failed" in again.stderr
    assert "0 failed" in retried.stderr


def test_calibrating_the_shipped_points_gives_the_shipped_table(tmp_path: Path) -> None:
    points = ROOT / "latency_tables" / "iphone13.points.csv"
    done = nas("table", "calibrate", str(points), "--out", "own.json", cwd=tmp_path)
    fitted, shipped = LatencyTable.load(tmp_path / "own.json"), LatencyTable.find("iphone13.coreml.fp16")[0]

    assert done.returncode == 0
    assert fitted.model is not None
    assert shipped.model is not None
    assert dict(fitted.model.coefficients) == pytest.approx(dict(shipped.model.coefficients), rel=1e-4)
    assert fitted.published == shipped.published


def test_devices_says_what_can_be_measured_from_here(tmp_path: Path) -> None:
    text = nas("devices", cwd=tmp_path).stdout

    assert re.search(r"onnxruntime\s+yes", text)
    assert re.search(r"iphone\s+no\s+needs a Mac", text) or sys.platform == "darwin"


def test_space_show_states_networks_layers_and_references(tmp_path: Path) -> None:
    document = json.loads(nas("space", "show", "iformer", "--json", cwd=tmp_path).stdout)
    names = {network["name"]: network for network in document["references"]}

    assert document["networks"] == SearchSpace.find("iformer").count()
    assert document["layers"] == len(SearchSpace.find("iformer").layers)
    assert names["cheapest"]["latency_ms"] < document["latency_quantiles_ms"]["minimum"]
    assert names["iformer_l"]["inside"] is True
    assert names["iformer_h"]["inside"] is False


def test_a_network_is_exported(tmp_path: Path) -> None:
    done = nas("export", "tiny_a", "--format", "onnx", cwd=tmp_path)

    assert done.stdout.strip() == "tiny_a.onnx"
    assert (tmp_path / "tiny_a.onnx").stat().st_size > 0
    assert "random weights" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["search", "--budget-ms", "0.1"], 4, "the cheapest is predicted at 0."),
        (["search", "--budget-ms", "-1"], 2, "--budget-ms must be a positive number"),
        (["search", "--budget-ms", "1", "--space", "iformr"], 2, "did you mean 'iformer'?"),
        (["search", "--budget-ms", "1", "--proxy", "shorttraining"], 2, "did you mean 'short-training'?"),
        (["search", "--budget-ms", "1", "--proxy", "fake,"], 2, "no proxy named ''"),
        (["search", "--budget-ms", "1", "--proxy", "fake,shorttraining"], 2, "did you mean 'short-training'?"),
        (["search", "--budget-ms", "1", "--proxy", "fake", "--screen", "8"], 2, "--screen 8 needs a proxy that"),
        (["search", "--budget-ms", "1", "--time-limit", "soon"], 2, "--time-limit must be a time such as 90s"),
        (["search", "--budget-ms", "1", "--data", "./none"], 2, "./none: no such file or folder"),
        (["latency", "iformer_x"], 2, "there are iformer_t"),
        (["latency", "none.json"], 2, "none.json: cannot be read"),
        (["latency", "iformer_m", "--table", "nokia"], 2, "no latency table named 'nokia'"),
        (["latency", "iformer_m", "--table", "none.json"], 2, "none.json: no such latency table file"),
        (["table", "build", "--device", "toaster"], 2, "no device named 'toaster'"),
        (["table", "build", "--device", "ssh://-oProxyCommand=x"], 2, "--device ssh://-oProxyCommand=x"),
        (["table", "build", "--device", "fake", "--option", "speed"], 2, "--option must be NAME=VALUE, got 'speed'"),
        (["table", "build", "--device", "fake", "--option", "speed=1"], 2, "its options are threads, noise"),
        (["table", "build", "--device", "fake", "--until-error", "two"], 2, "--until-error must be a share such as 2%"),
        (["table", "build", "--device", "fake", "--out", "t.csv"], 2, "t.csv: a table is a .json file"),
        (["table", "build", "--device", "onnxruntime", "--option", "provider=X"], 5, "no X in this ONNX Runtime"),
        (["table", "check", "iphone13"], 2, "was not measured by a device of this project"),
        (["table", "check", "nokia"], 2, "no latency table named 'nokia'"),
        (["search", "--budget-ms", "1", "--confidence", "0.99", *FAST], 2, "coverage"),
        (["table", "calibrate", "none.csv", "--out", "x.json"], 2, "none.csv"),
        (["show", "nowhere"], 2, "not a results folder"),
        (["plot", "nowhere"], 2, "not a results folder"),
        (["export", "tiny_a", "--format", "onyx"], 2, "did you mean 'onnx'?"),
        (["export", "tiny_a", "--format", "timm", "--out", "t.safetensors"], 2, "timm's iFormer cannot express"),
        (["export", "tiny_a", "--format", "onnx", "--out", "a.txt"], 2, "a.txt: --format onnx writes a .onnx file"),
        (["search", "--budget-ms", "1", "--resume", "--out", "typo", *FAST], 2, "typo holds no run to go on with"),
        (["search", "--budget-ms", "1", "--storage", "nonsense://x", *FAST], 2, "--storage nonsense://x"),
        (["latency", "x" * 300], 1, "File name too long"),
        (["space", "show", "own.toml"], 2, "own.toml: no such search space file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_gets_one_line_and_its_exit_code(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = nas(*arguments, cwd=tmp_path)

    assert done.returncode == code
    assert words in refused(done)


def test_a_round_of_screening_has_two_networks_or_more(tmp_path: Path) -> None:
    done = nas("search", "--budget-ms", "1", "--proxy", "fake,short-training", "--screen", "0", cwd=tmp_path)

    assert done.returncode == 2
    assert "Invalid value for '--screen'" in done.stderr


def test_a_missing_layer_ends_with_3(tmp_path: Path) -> None:
    nas("table", "build", "--device", "fake", "--space", "tiny", "--out", "t.json", cwd=tmp_path)
    done = nas("latency", "iformer_m", "--table", "t.json", cwd=tmp_path)

    assert done.returncode == 3
    assert "no entry for attention-c192-shma-r2-m1-e3-p3-14x14 and 9 other layers" in refused(done)


def test_a_typo_in_a_space_and_a_broken_table_name_the_place(tmp_path: Path) -> None:
    shipped = (ROOT / "search_spaces" / "tiny.toml").read_text()
    (tmp_path / "own.toml").write_text(shipped.replace("depth = 1, kernel", "depht = 1, kernel", 1))
    (tmp_path / "own.json").write_text('{"provenance": ')
    space = nas("space", "show", "own.toml", cwd=tmp_path)
    table = nas("latency", "iformer_m", "--table", "own.json", cwd=tmp_path)

    assert (space.returncode, table.returncode) == (2, 2)
    assert refused(space) == "error: own.toml: stages[0].conv.depht: unknown key"
    assert refused(table).startswith("error: own.json: Invalid JSON: EOF while parsing a value at line 1")


def test_the_exit_codes_of_the_errors_are_those_of_the_design() -> None:
    from nas import errors

    codes = {name: getattr(errors, name).exit_code for name in errors.__all__}

    assert codes == {"NasError": 1, "InputError": 2, "MissingLatencyError": 3, "BudgetError": 4, "DeviceError": 5}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["search"],
        ["latency"],
        ["table", "build"],
        ["table", "check"],
        ["table", "list"],
        ["table", "show"],
        ["table", "calibrate"],
        ["devices"],
        ["plot"],
        ["show"],
        ["front"],
        ["export"],
        ["space", "show"],
    ],
    ids=" ".join,
)
def test_every_command_has_help_with_an_example(tmp_path: Path, arguments: list[str]) -> None:
    done = nas(*arguments, "--help", cwd=tmp_path)

    assert done.returncode == 0
    assert "Usage" in done.stdout
    if arguments:
        assert f"Example: nas {' '.join(arguments)}" in done.stdout
