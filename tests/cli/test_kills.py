"""SIGKILL at random moments: nothing that was finished is lost or doubled, and the same command goes on to the end.

One kill for some kinds of run in CI, and tests of the libraries for the others. By hand, `NAS_KILLS=20 pytest
tests/cli/test_kills.py -s` does as many for every kind and prints what they hit, and `NAS_KILLS_SEED` tries other
moments.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from nas.latency import LatencyTable, Timing
from nas.networks import Architecture
from nas.search import SearchResult

KILLS = int(os.environ.get("NAS_KILLS", "1"))
SEED = int(os.environ.get("NAS_KILLS_SEED", "0"))
LIMIT_S = 300.0

Kept = dict[str, Any]  # what is finished, by the name under which it must be there once


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of run.

    Attributes:
        command: the command line; it writes to `out` in its working directory.
        begun: the file that tells a run to go on with, for --resume; None for a command that goes on by itself.
        ends_with: the file after which there is nothing to go on with, and the command is refused.
        kept: what is finished in a folder. It fails if something is there twice.
        goes_on: whether what was finished may have become this; by default it stays as it is.
        result: what is the same for every run that got to its end.
        first: Python that runs before the command.
    """

    command: str
    begun: str | None = None
    ends_with: str | None = None
    kept: Callable[[Path], Kept]
    goes_on: Callable[[Any, Any], bool] = lambda before, now: bool(before == now)
    result: Callable[[Path], object]
    first: str = ""


def lines(path: Path) -> list[dict[str, Any]]:
    """The finished lines of a file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def by(name: str, found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Lines by what must be theirs alone."""
    named = {str(line[name]): line for line in found if line.get(name) is not None}
    assert len(named) == sum(line.get(name) is not None for line in found), f"the same {name} twice"
    return named


def searched(folder: Path) -> Kept:
    """Candidates and screenings. A reference that the search draws as well is there as both, with one score."""
    candidates, screened = (lines(folder / "out" / f"{name}.jsonl") for name in ("candidates", "screened"))
    found = [{**line, "proxy": line.get("proxy", "")} for line in (*candidates, *screened)]
    by("trial", found)
    return by("key", [{**line, "key": f"{line['kind']} {line['id']} {line['proxy']}"} for line in found])


def looked_at(folder: Path) -> Kept:
    """A survey is one step. What it took is not the same twice."""
    return {name: {**line, "seconds": None} for name, line in searched(folder).items()}


def winner(folder: Path) -> object:
    """A search that was stopped draws other networks, but as many, and its winner is the best of them."""
    result = SearchResult.load(folder / "out")
    assert result.winner is not None
    assert Architecture.model_validate_json((folder / "out" / "winner.json").read_text()) == result.winner.architecture
    for budget_ms, best in result.winners.items():
        scores = [one.score or 0 for one in result.candidates if one.kind == "searched" and one.latency_ms <= budget_ms]
        assert (best and best.score) == max(scores, default=None)
    return Counter(candidate.kind for candidate in result.candidates)


def measured(folder: Path) -> Kept:
    table = folder / "out.json"
    return dict(LatencyTable.load(table).entries) if table.exists() else {}


def visited_again(before: Any, now: Any) -> bool:
    """A layer may be visited once more, and then its time is the better of both."""
    return bool(before == now) or (isinstance(now, Timing) and now.visits > before.visits)


def keys_and_visits(folder: Path) -> object:
    entries = measured(folder)
    return {key: isinstance(entry, Timing) and entry.visits >= 2 for key, entry in entries.items()}


def steps(folder: Path) -> Kept:
    """Steps of a training that are saved; all of them once it is finished."""
    if (folder / "out.safetensors").exists():
        return {"done": 1000}
    checkpoint = folder / "out.safetensors.checkpoint"
    if not checkpoint.exists():
        return {}
    with safe_open(checkpoint, framework="pt") as file:
        return {"done": int(file.metadata()["done"])}


def weights(folder: Path) -> object:
    assert not (folder / "out.safetensors.checkpoint").exists()
    return hashlib.sha256((folder / "out.safetensors").read_bytes()).hexdigest()


def scored(folder: Path) -> Kept:
    found = lines(folder / "out" / "scores.jsonl")
    for path in (folder / "out").glob("search-*"):
        by("trial", lines(path / "candidates.jsonl"))
    return by("key", [{**line, "key": f"{line['proxy']} {line['seed']} {line['id']}"} for line in found])


def validated(folder: Path) -> object:
    """All but the searches, which draw other networks after a stop."""
    document = json.loads((folder / "out" / "validation.json").read_text())
    assert document["unfinished"] == {}
    assert all(search["complete"] and search["networks"] == 4 for search in document["recovery"]["searches"])
    parts = {name: document[name] for name in ("latency", "proxies", "seeds", "space", "table")}
    return json.loads(json.dumps(parts), object_hook=lambda part: {**part, "seconds": None})


BY_HAND = ("survey", "workers", "training search", "validation", "table", "rungs")  # two minutes more for CI
_SEARCH = "search --budget-ms 0.5 --space tiny --out out"
# Weights are the same to the last bit in one number format; which is faster on this machine may change. A checkpoint
# every two minutes is far apart for a training of seconds.
_OFTEN = """
import nas.training.sandwich as sandwich
sandwich._CHECKPOINT_S, sandwich.faster_precision = 0.1, lambda device: "fp32"
"""
CASES = {
    "survey": Case(
        command=f"{_SEARCH} --proxy accuracy-table --trials 200", begun="out/run.json", kept=looked_at, result=looked_at
    ),
    "rungs": Case(
        command=f"{_SEARCH.replace('0.5', '0.225,0.5')} --proxy accuracy-table,fake --screen 3 --trials 12",
        begun="out/run.json",
        kept=searched,
        result=winner,
    ),
    "workers": Case(
        command=f"{_SEARCH} --proxy fake --trials 40 --workers 2", begun="out/run.json", kept=searched, result=winner
    ),
    "training search": Case(
        command=f"{_SEARCH} --proxy short-training --data ../pets --option images=64 --option resolution=32 "
        "--option precision=fp32 --trials 3",
        begun="out/run.json",
        kept=searched,
        result=winner,
    ),
    "table": Case(
        command="table build --device onnxruntime --space tiny --threads 1 --out out.json",
        kept=measured,
        goes_on=visited_again,
        result=keys_and_visits,
    ),
    "supernet": Case(
        command="supernet train --space tiny --data ../pets --images 120 --batch-size 8 --resolution 32 --until 0 "
        "--out out.safetensors",
        ends_with="out.safetensors",
        kept=steps,
        goes_on=lambda before, now: bool(before <= now),
        result=weights,
        first=_OFTEN,
    ),
    "validation": Case(
        command="validate --proxy fake --seeds 2 --band-networks 0 --budgets 1.1 --trials 4 --out out",
        begun="out/scores.jsonl",
        kept=scored,
        result=validated,
    ),
}


def started(case: Case, folder: Path) -> subprocess.Popen[bytes]:
    """The command as a process with a session of its own."""
    program = f"{case.first}\nfrom nas.cli import main\nmain()"
    resume = ["--resume"] if case.begun and (folder / case.begun).exists() else []
    (folder / "tmp").mkdir(exist_ok=True)
    places = {"NAS_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    environment = os.environ | places | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-c", program, *case.command.split(), *resume],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def finished(case: Case, folder: Path) -> float:
    """Run the command to its end; return how long it took, in seconds."""
    begin = time.monotonic()
    code = started(case, folder).wait(LIMIT_S)

    assert code == 0, (folder / "said").read_text()
    return time.monotonic() - begin


def session(number: int) -> list[str]:
    """The programs of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            before, _, after = path.read_text().rpartition(")")
            state, _, _, its = after.split()[:4]
            if its == str(number) and state not in "ZX":
                found.append(before)
    return found


def check_gone(number: int) -> None:
    """Programs that a killed process had started end by themselves."""
    until = time.monotonic() + 20
    while left := session(number):
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.05)


def check_kept(case: Case, before: Kept, folder: Path) -> Kept:
    now = case.kept(folder)
    for name, what in before.items():
        assert name in now, f"lost: {name}"
        assert case.goes_on(what, now[name]), (name, what, now[name])
    return now


def left_over(folder: Path) -> set[str]:
    """Temporary files and locks, wherever a run may leave them. Libraries leave some at any end."""
    unwanted = (".nas-draft", ".nas-scratch-", ".lock")
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    return {name for name in names if name.startswith("tmp/") or any(words in name for words in unwanted)}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize("name", [name for name in CASES if KILLS > 1 or name not in BY_HAND])
def test_killed_runs_go_on(name: str, tmp_path: Path) -> None:
    case, chance = CASES[name], random.Random(f"{name} {SEED}")
    undisturbed = new_folder(tmp_path / "undisturbed")
    usual_s = finished(case, undisturbed)
    folder, before = new_folder(tmp_path / "0"), Kept()
    kills = hits = runs = 0
    while kills < KILLS:
        process = started(case, folder)
        try:
            process.wait(chance.uniform(0, usual_s))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            now = check_kept(case, before, folder)
            check_gone(process.pid)
            kills, hits, before = kills + 1, hits + (now != before), now
            if not is_refused(case, folder):
                continue
        assert process.returncode in (0, -signal.SIGKILL), (folder / "said").read_text()
        check_end(case, folder, before, undisturbed)
        runs += 1
        folder, before = new_folder(tmp_path / str(runs)), Kept()
    finished(case, folder)

    check_end(case, folder, before, undisturbed)
    print(f"{name}: {kills} kills, {hits} after something new was finished; {runs + 1} runs to the end")  # noqa: T201


def is_refused(case: Case, folder: Path) -> bool:
    """Whether the kill came after the end of the work, so that the command says that it is done."""
    if case.ends_with is None or not (folder / case.ends_with).exists():
        return False
    assert started(case, folder).wait(LIMIT_S) == 2
    return True


def new_folder(path: Path) -> Path:
    path.mkdir()
    return path


def check_end(case: Case, folder: Path, before: Kept, undisturbed: Path) -> None:
    """Everything is kept, the result is that of the undisturbed run, and so is each score of the same network."""
    now, other = check_kept(case, before, folder), case.kept(undisturbed)
    assert case.result(folder) == case.result(undisturbed)
    assert left_over(folder) <= left_over(undisturbed)
    for name in now.keys() & other.keys():
        if isinstance(now[name], dict):
            for word in ("score", "value", "latency_ms"):
                assert now[name].get(word) == other[name].get(word), (name, word)
