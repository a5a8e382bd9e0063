"""Damaged files of every format: one clear line and the promised exit code, never a traceback.

Fifty mutated files in CI. By hand, `NAS_MUTATIONS=50000 pytest tests/cli/test_mutations.py` tries as many, and
`NAS_MUTATIONS_SEED` another sequence of them. A failure names the seed of its file, and keeps the file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from nas.cli import main

ROOT = Path(__file__).parents[2]
TRIED = int(os.environ.get("NAS_MUTATIONS", "50"))
SEED = int(os.environ.get("NAS_MUTATIONS_SEED", "0"))
LONGEST_S = 20
MOST_BYTES = 3 * 2**29  # beside half a gigabyte of libraries

SEARCH = ["search", "--space", "tiny", "--proxy", "fake", "--trials"]
ASKED = [
    "--budget-ms",
    "0.226,1.1",
    "--limit",
    "params=9M",
    "--objective",
    "macs",
    "--table",
    "./latency_tables/own.json",
]
VALIDATE = ["validate", "--proxy", "fake", "--space", "tiny", "--seeds", "1", "--budgets", "none"]
VALIDATE += ["--band-networks", "0", "--survey", "0", "--out", "validation"]


@dataclass(frozen=True)
class Format:
    """A kind of file that nas reads.

    Attributes:
        file: its path in the folder of whole files.
        commands: command lines that read it; every mutated file is given to one of them.
    """

    file: str
    commands: Sequence[Sequence[str]]


RESUMED = [*SEARCH, "5", "--table", ASKED[-1], "--out", "run", "--resume"]
SHOWN = (["show", "run"], ["show", "run", "--json"], ["front", "run", "--budget-ms", "1"], RESUMED)
GUIDED = (["show", "guided"], ["show", "guided", "--json"], ["front", "guided", "--budget-ms", "1"])
FORMATS = {
    "latency table": Format(
        "latency_tables/own.json",
        (
            ["latency", "net.json", "--table", "own"],
            ["table", "show", "own"],
            ["space", "show", "tiny", "--table", "own"],
            ["table", "list"],
        ),
    ),
    "modelled table": Format(
        "latency_tables/phone.json",
        (
            ["latency", "net.json", "--table", "phone"],
            ["table", "show", "phone"],
            ["space", "show", "tiny", "--table", "phone", "--json"],
        ),
    ),
    "accuracy table": Format("accuracies.json", (["accuracy", "net.json", "--table", "./accuracies.json"],)),
    "space": Format("own.toml", (["space", "show", "own.toml"], ["space", "show", "own.toml", "--json"])),
    "architecture": Format(
        "net.json",
        (
            ["latency", "net.json"],
            ["latency", "net.json", "--json"],
            ["accuracy", "./net.json", "--table", "./accuracies.json"],
        ),
    ),
    "run": Format("run/run.json", SHOWN),
    "candidates": Format("run/candidates.jsonl", (*SHOWN, ["plot", "run", "--out", "plot.html"])),
    "screened": Format("guided/screened.jsonl", GUIDED),
    "settled": Format("guided/settled.jsonl", GUIDED),
    "journal": Format("run/study.journal", (RESUMED,)),
    "instructions": Format("joined.journal", (["worker", "--study", "run", "--storage", "joined.journal"],)),
    "lock": Format("run/nas.lock", (RESUMED,)),
    "points": Format("own.csv", ([*VALIDATE[:-1], "new", "--rows", "own.csv"],)),
    "published times": Format("times.csv", (["table", "calibrate", "times.csv", "--out", "times.json"],)),
    "validation": Format(
        "validation/validation.json",
        (["show", "validation"], ["show", "validation", "--json"], ["plot", "validation", "--out", "plot.html"]),
    ),
    "scores": Format("validation/scores.jsonl", ([*VALIDATE, "--resume"],)),
    "searches": Format("validation/searches.jsonl", ([*VALIDATE, "--resume"],)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one good file of every format, as small as they come."""
    folder = tmp_path_factory.mktemp("whole")
    with contextlib.chdir(folder):
        for name in ("latency_tables", "guided"):
            Path(name).mkdir()
        phone = "latency_tables/phone.json"
        shutil.copy(ROOT / "latency_tables" / "iphone13.coreml.fp16.json", phone)
        shutil.copy(ROOT / "search_spaces" / "tiny.toml", "own.toml")
        Path("accuracies.json").write_text(_few_rows(ROOT / "accuracy_tables" / "iformer.imagenet.json"))
        header, *rows = (ROOT / "latency_tables" / "iphone13.points.csv").read_text().splitlines(keepends=True)
        Path("own.csv").write_text(header + "".join(f"own_{row.replace(',224,', ',256,')}" for row in rows[:4]))
        built = ["table", "build", "--device", "fake", "--space", "tiny", "--sample", "0.3", "--out"]
        for command in ([*built, "latency_tables/own.json"], [*SEARCH, "3", *ASKED, "--out", "run"], VALIDATE):
            done = _run(command, folder)
            assert done.code == 0, done
        shutil.copy("run/winner.json", "net.json")
        Path("joined.journal").write_text(_begun(Path("run/study.journal")))
        owner = {
            "host": socket.gethostname(),
            "process": 2**22 + 1,
            "began": "long ago",
            "since": "2025-01-01T00:00:00",
        }
        Path("run/nas.lock").write_text(json.dumps(owner))
        shutil.copy(ROOT / "latency_tables" / "iphone13.points.csv", "times.csv")
        Path("validation/searches.jsonl").write_text('{"budget_ms":1.1,"trials":1}\n')
        run = json.loads(Path("run/run.json").read_text())
        run["proxy"] |= {"screens": [{"name": "cheap"}], "screen": 2, "settles": {"name": "dear"}}
        Path("guided/run.json").write_text(json.dumps(run))
        shutil.copy("run/candidates.jsonl", "guided/candidates.jsonl")
        for name, proxy in (("screened", "cheap"), ("settled", "dear")):
            Path(f"guided/{name}.jsonl").write_text(_screenings(Path("run/candidates.jsonl"), proxy))
    return folder


def _begun(journal: Path) -> str:
    """What a journal held when its search had told the workers what to do, and before it was done."""
    lines = journal.read_text().splitlines(keepends=True)
    (told,) = (number for number, line in enumerate(lines) if '"instructions"' in line)
    return "".join(lines[: told + 1])


def _screenings(candidates: Path, proxy: str) -> str:
    """The first candidates, as if another proxy had scored them."""
    lines = []
    for line in candidates.read_text().splitlines()[:2]:
        one = json.loads(line)
        kept = {key: one[key] for key in ("id", "kind", "trial", "seconds", "architecture") if key in one}
        lines.append(json.dumps(kept | {"proxy": proxy, "value": one["score"]}))
    return "\n".join(lines) + "\n"


def _few_rows(path: Path) -> str:
    """An accuracy table with a few of its rows."""
    table = json.loads(path.read_text())
    family = table["origin"]["family"]
    others = [row for row in table["published"]["rows"] if row["family"] != family][:12]
    table["published"]["rows"] = others + [row for row in table["published"]["rows"] if row["family"] == family]
    table["trained"]["rows"] = table["trained"]["rows"][:12]
    return json.dumps(table)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    trace: str = ""


class _Hangs(BaseException):
    """The command takes too long."""


def _stop(number: int, frame: object) -> None:
    raise _Hangs


def _run(arguments: Sequence[str], folder: Path) -> Done:
    """Run a command line in this process, as `nas` does."""
    stdout, stderr, trace = io.StringIO(), io.StringIO(), ""
    began = time.monotonic()
    kept = sys.argv, signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGALRM, _stop)
    sys.argv = ["nas", *arguments]
    code = 0
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("default")
            signal.alarm(LONGEST_S)
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except _Hangs:
        code, trace = -1, f"hangs: {traceback.format_exc()[-1500:]}"
    except BaseException:
        code, trace = -1, traceback.format_exc()[-2500:]
    finally:
        signal.alarm(0)
        sys.argv = kept[0]
        signal.signal(signal.SIGTERM, kept[1])
        signal.signal(signal.SIGALRM, kept[2])
    return Done(code, stdout.getvalue(), stderr.getvalue(), time.monotonic() - began, trace)


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null')
_VALUE = re.compile(_TOKEN.pattern + rb"(?!\s*[:=])(?![\w.])")  # no key
_ODD = [
    *(b"-1", b"0", b"-0.0", b"1e308", b"-1e308", b"1e-320", b"1e999", b"NaN", b"Infinity", b"nan", b"inf", b"1.5"),
    *(b"9" * 30, b"9" * 5000, b"9223372036854775808", b"65536", b"1000000", b"3", b"null", b"true", b"false"),
    *(
        b"[]",
        b"{}",
        b'""',
        b'"\\u0000"',
        b'"\\ud800"',
        b'"\\u202eabc"',
        b'"[bold]x[/]"',
        b'"a\\nb\\u001b[31m"',
        b'"NaN"',
    ),
    *(b'"' + b"x" * 5000 + b'"', b"[" * 2000 + b"]" * 2000, b'{"a":' * 500 + b"1" + b"}" * 500, b'"\xff"', b'"\x1b"'),
]
_BYTES = [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"\r\n", b"\x1b[31m", b"\n", b'"', b",", b"}", b"\xe2\x80\xae"]
_UNPRINTED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of characters that change how a terminal shows a line


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with one to three changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = chance.choice(_CHANGES)(content, chance)
    return content


def _flip(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return b"\x01"
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _drop(content: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[min(end, start + 200) :]


def _twice(content: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:]


def _swap(content: bytes, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def _odd_token(content: bytes, chance: random.Random) -> bytes:
    """An odd value in the place of a value or a key."""
    return _odd_value(content, chance, tokens=list(_TOKEN.finditer(content)))


def _odd_value(content: bytes, chance: random.Random, tokens: list[re.Match[bytes]] | None = None) -> bytes:
    tokens = tokens or list(_VALUE.finditer(content))
    if not tokens:
        return content + chance.choice(_ODD)
    token = chance.choice(tokens)
    return content[: token.start()] + chance.choice(_ODD) + content[token.end() :]


def _other_value(content: bytes, chance: random.Random) -> bytes:
    """A value in the place of another."""
    tokens = list(_VALUE.finditer(content))
    if not tokens:
        return content
    token = chance.choice(tokens)
    return content[: token.start()] + chance.choice(tokens)[0] + content[token.end() :]


def _odd_bytes(content: bytes, chance: random.Random) -> bytes:
    place = chance.choice((0, chance.randrange(len(content) + 1)))
    return content[:place] + chance.choice(_BYTES) + content[place:]


def _odd_encoding(content: bytes, chance: random.Random) -> bytes:
    return content.decode("latin-1").encode(chance.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")))


_CHANGES: Sequence[Callable[[bytes, random.Random], bytes]] = (
    *(_flip, _flip, _cut, _drop, _twice, _swap, _odd_bytes, _odd_encoding),
    *(_odd_token, *[_odd_value] * 6, *[_other_value] * 4),
)


def most_bytes() -> int:
    """The most memory that this process has taken, since it was last asked to begin anew."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, flags=re.MULTILINE)[0]) * 1024


def complaints(done: Done) -> Iterator[str]:
    """What is wrong with the way a command ended."""
    if done.trace:
        yield done.trace
        return
    if done.seconds > LONGEST_S:
        yield f"it took {done.seconds:.0f} s"
    if done.code not in (0, 1, 2, 3, 4):
        yield f"exit code {done.code}"
    if "Traceback" in done.stderr or "bug in nas" in done.stderr or "Warning" in done.stderr:
        yield f"more than a line: {done.stderr[-2500:]}"
    lines = done.stderr.splitlines()
    if done.code:
        if not lines or not lines[-1].startswith("error: ") or sum(line.startswith("error: ") for line in lines) > 1:
            yield f"no single line of error: {done.stderr[-1000:]!r}"
        elif len(lines[-1]) > 400:
            yield f"a line of {len(lines[-1])} characters: {lines[-1][:600]}"
    for stream in (done.stdout, done.stderr):
        if odd := {char for char in stream if char != "\n" and unicodedata.category(char) in _UNPRINTED}:
            yield f"control characters {sorted(odd)!r}"


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_are_read(whole: Path, tmp_path: Path, name: str) -> None:
    for number, command in enumerate(FORMATS[name].commands):
        folder = shutil.copytree(whole, tmp_path / str(number))
        done = _run(command, folder)

        assert done.code == 0, (command, done)
        assert list(complaints(done)) == []


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files_get_one_line(whole: Path, tmp_path: Path, name: str) -> None:
    found = FORMATS[name]
    content = (whole / found.file).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # From here on: other tests of this process may have taken more.
    failures, before = [], most_bytes()
    for number in range(max(1, TRIED // len(FORMATS))):
        chance = random.Random(f"{SEED} {name} {number}")
        folder = shutil.copytree(whole, tmp_path / "tried", dirs_exist_ok=True)
        (folder / found.file).write_bytes(mutated(content, chance))
        command = chance.choice(found.commands)
        done = _run(command, folder)
        if wrong := list(complaints(done)):
            failures.append(f"seed {SEED} {name} {number}: {' '.join(command)}: {wrong[0]}")
            if kept := os.environ.get("NAS_MUTATIONS_KEPT"):
                target = Path(kept) / f"{name}-{number}"
                target.mkdir(parents=True, exist_ok=True)
                (target / Path(found.file).name).write_bytes(mutated(content, random.Random(f"{SEED} {name} {number}")))
        shutil.rmtree(folder)

    assert failures == []
    assert most_bytes() - before < MOST_BYTES
