"""Options of a search: one that is wrong gets one line and begins nothing; a run to go on with keeps its own."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nas.catalog import find_file
from nas.cli import main

TINY = ["--space", "tiny", "--proxy", "fake", "--trials", "1"]
OTHER = ["--table", "iphone13", "--table", "amd-epyc.onnxruntime.fp32"]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command changes what the signals do."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["search", "--budget-ms", "1", "--proxy", "shorttraining"], 2, "did you mean 'short-training'?"),
        (["search", "--budget-ms", "1", "--proxy", "fake,"], 2, "no proxy named ''"),
        (["search", "--budget-ms", "1", "--proxy", "fake,shorttraining"], 2, "did you mean 'short-training'?"),
        (["search", "--budget-ms", "1", "--proxy", "fake", "--screen", "8"], 2, "--screen 8 needs a proxy that"),
        (["search", "--budget-ms", "1", "--time-limit", "soon"], 2, "--time-limit must be a time such as 90s"),
        (["search", "--budget-ms", "1", "--data", "./none"], 2, "./none: no such file or folder"),
        (["search", "--budget-ms", "1", "--confidence", "0.99", *TINY], 2, "coverage"),
        (["search", "--budget-ms", "1", "--resume", "--out", "typo", *TINY], 2, "typo holds no run to go on with"),
        (["search", "--budget-ms", "1", "--storage", "nonsense://x", *TINY], 2, "--storage nonsense://x"),
        (["search", "--budget-ms", "0.6,,1.1", *TINY], 2, "or several such as 0.6,0.85,1.1, got '0.6,,1.1'"),
        (["search", "--budget-ms", "0.6,-1", *TINY], 2, "must be a positive number of milliseconds, 1e+09 at most"),
        (["search", "--budget-ms", "nan", *TINY], 2, "must be a positive number of milliseconds"),
        (["search", "--budget-ms", "0.1,1.1", *TINY], 4, "no network of the space runs in 0.1 ms: the cheapest"),
        (
            ["search", "--budget-ms", "0.1"],
            4,
            "the cheapest is predicted at 0.34",
        ),
        (["search", "--proxy", "fake,short-training", "--screen", "0"], 2, "Invalid value for '--screen'"),
        (
            ["search", "--sampler", "cma", *TINY],
            2,
            "--sampler must be one of surrogate, evolution, tpe",
        ),
        (["search", "--storage", "sqlite:///x.db", "--trials", "1"], 2, "--storage is for searches by --proxy that"),
        (["search", "--sampler", "tpe", "--trials", "1"], 2, "--sampler is for searches by --proxy that train"),
        (["search", "--limit", "params", *TINY], 2, "--limit must be NAME=NUMBER, such as params=9e6, got 'params'"),
        (["search", "--limit", "flops=1", *TINY], 2, "no quantity named 'flops': there are params, macs, memory"),
        (["search", "--limit", "none", "--limit", "macs=9M", *TINY], 2, "NAME=NUMBER, such as params=9e6, got 'none'"),
        (["search", "--objective", "none", "--objective", "macs", *TINY], 2, "no quantity named 'none': there are"),
        (["search", "--limit", "params=-1", *TINY], 2, "--limit params must be a positive number such as 9e6"),
        (["search", "--limit", "params=1", *TINY], 4, "no network of the space keeps params=1: the least is 63.31k"),
        (["search", "--limit", "params=9M", "--trials", "1"], 2, "--limit is for searches by --proxy that train"),
        (["search", "--track", "tensorboard", "--trials", "1"], 2, "--track is for searches by --proxy that train"),
        (["search", "--track", "wandb", *TINY], 2, "--track must be tensorboard[:DIR] or mlflow[:URI], got wandb"),
        (["search", "--objective", "latency", *TINY], 2, "no quantity named 'latency': there are params, macs"),
        (["search", "--table", "iphone13", "--table", "iphone13", *TINY], 2, "--table iphone13 twice: give each"),
        (["search", *OTHER, *TINY], 2, "is of no use: add --limit amd-epyc.onnxruntime.fp32=MS or --objective"),
        (["search", *OTHER, "--limit", "amd-epyc=20", *TINY], 3, "has no entry for stem-"),
        (["search", *OTHER, "--objective", "amd-epyc", *TINY], 3, "measure the space that holds it (nas table build"),
        (["search", "--workers", "0", *TINY], 2, "Invalid value for '--workers'"),
        (["search", "--shared", "nope://x", *TINY], 2, "--shared nope://x: Protocol not known: nope"),
        (["search", "--resume", *TINY], 2, "--resume needs the run to go on with: --out RESULTS, or its --budget-ms"),
        (["worker"], 2, "Missing option '--study'"),
        (["worker", "--study", "x"], 2, "--storage is missing: an Optuna storage URL, or the study.journal of a"),
        (["worker", "--study", "x", "--storage", "none"], 2, "--storage none: no such file"),
        (
            ["worker", "--study", "x", "--storage", "sqlite:///:memory:"],
            2,
            "--storage sqlite:///:memory:: no such file",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_option_gets_one_line_and_begins_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORAGE", raising=False)
    monkeypatch.setattr(sys, "argv", ["nas", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    *_, last = capsys.readouterr().err.strip().splitlines()

    assert (end.value.code, last[:7], words in last) == (code, "error: ", True), last
    assert list(tmp_path.iterdir()) == []


def test_a_resume_keeps_limits_and_objectives_that_are_not_asked_again_until_it_drops_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def kept(*arguments: str) -> tuple[object, ...]:
        monkeypatch.setattr(sys, "argv", ["nas", "search", *TINY[:-1], *arguments, "--out", "run"])
        with pytest.raises(SystemExit) as end:
            main()
        run = json.loads((tmp_path / "run" / "run.json").read_text())
        return end.value.code, run["budgets_ms"], run["limits"], run["objectives"], run["sampler"]

    limits = {"params": 90_000.0}
    begun = kept("1", "--budget-ms", "0.5", "--limit", "params=90k", "--objective", "macs")
    other = kept("2", "--resume", "--budget-ms", "0.3,0.4", "--sampler", "random")
    again = kept("3", "--resume", "--objective", "memory", "--limit", "macs=9M")
    dropped = kept("4", "--resume", "--objective", "none", "--limit", "none")
    candidates = [json.loads(line) for line in (tmp_path / "run" / "candidates.jsonl").read_text().splitlines()]

    assert begun == (0, [], limits, ["macs"], "surrogate")
    assert other == (0, [0.3, 0.4], limits, ["macs"], "random")
    assert again == (0, [0.3, 0.4], {"macs": 9e6}, ["memory"], "random")
    assert dropped == (0, [0.3, 0.4], {}, [], "random")
    assert [sorted(one["quantities"]) for one in candidates[:2]] == [["macs", "memory", "params"]] * 2
    assert candidates[-1]["quantities"] == {}


def test_a_further_table_that_has_changed_is_named_at_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = find_file("latency table", "latency_tables", ".json", "iphone13.coreml.fp16").read_text()
    (tmp_path / "own.json").write_text(table)

    def ended(*arguments: str) -> object:
        tables = ["--table", "iphone13", "--table", "./own.json"]
        monkeypatch.setattr(sys, "argv", ["nas", "search", *TINY, *tables, *arguments, "--out", "run"])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    begun = ended("--budget-ms", "0.5", "--objective", "./own.json")
    (kept,) = json.loads((tmp_path / "run" / "run.json").read_text())["further_tables"]
    again = ended("--resume")
    (tmp_path / "own.json").write_text(table.replace('"iPhone 13"', '"iPhone 12"'))
    capsys.readouterr()
    changed = ended("--resume")
    *_, last = capsys.readouterr().err.strip().splitlines()

    assert (begun, again, changed) == (0, 0, 2)
    assert (kept["name"], kept["origin"][:10]) == ("./own.json", "calibrated")
    assert last.startswith(f"error: run was begun with another table ./own.json ({kept['digest']}, not ")


def test_what_differs_is_named_where_the_study_is_in_a_storage_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ends = []
    for further in ([], ["--resume", "--seed", "1"]):
        arguments = [*TINY, "--budget-ms", "1.1", "--storage", "sqlite:///s.db", "--out", "run", *further]
        monkeypatch.setattr(sys, "argv", ["nas", "search", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        ends.append(end.value.code)

    assert ends == [0, 2]
    assert "error: run was begun with another seed (0, not 1), proxy seed (0, not 1): rep" in capsys.readouterr().err
