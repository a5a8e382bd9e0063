"""Files that are right in form, with values that cannot be: refused by name, in seconds, and in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas import files
from nas.accuracy import AccuracyTable
from nas.errors import InputError
from nas.latency import LatencyTable
from nas.latency.published import read_points
from nas.networks import Architecture, SearchSpace

ROOT = Path(__file__).parents[1]
ODD = ["-0.0", "-1", "1e308", "-1e308", "NaN", "Infinity", "1e999", "9" * 400, "9" * 5000, '"soon"', "[]", "{}", "null"]
TINY = (ROOT / "search_spaces" / "tiny.toml").read_text()


def _refused(read: Callable[[], object]) -> str:
    """The message of a refusal. A reader that takes such a number for a size would not come to an end."""
    with pytest.raises(InputError) as caught:
        read()
    assert len(str(caught.value)) <= 400
    assert str(caught.value).isprintable()
    return str(caught.value)


def _with_value(document: Any, path: tuple[str | int, ...], value: str) -> str:
    """The document with a JSON text in place of one of its values."""
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = "HERE"
    return json.dumps(document).replace('"HERE"', value)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("call_ms",), "call_ms"),
        (("entries", "a", "minimum_ms"), "entries.a.minimum_ms"),
        (("entries", "b", "high_ms"), "entries.b.high_ms"),
        (("reference", "latency_ms"), "reference.latency_ms"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_times_of_a_latency_table(tmp_path: Path, path: tuple[str | int, ...], named: str, value: str) -> None:
    document = {
        "provenance": {
            **dict.fromkeys(("device", "os", "runtime", "precision", "protocol", "date"), "x"),
            "source": "measured",
            "versions": {},
        },
        "call_ms": 0.1,
        "reference": {"key": "a", "latency_ms": 1.0},
        "entries": {
            "a": {"minimum_ms": 1.0, "p10_ms": 1.1, "median_ms": 1.2, "p90_ms": 1.3, "runs": 5},
            "b": {"filled_ms": 1.0, "low_ms": 0.5, "high_ms": 2.0},
        },
    }
    (tmp_path / "own.json").write_text(json.dumps(document))
    LatencyTable.load(tmp_path / "own.json")
    (tmp_path / "odd.json").write_text(_with_value(document, path, value))
    message = _refused(lambda: LatencyTable.load(tmp_path / "odd.json"))

    assert message.startswith(f"{tmp_path / 'odd.json'}: ")
    # A number of thousands of digits is no JSON for the reader, which gives the place in the text.
    assert named in message or "Invalid JSON" in message


@pytest.mark.parametrize("value", [odd for odd in ODD if odd != "-0.0"])
@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("published", "rows", 0, "top1"), "published.rows[0].top1"),
        (("published", "scale", 0), "published.scale[0]"),
        (("published", "target_scale"), "published.target_scale"),
        (("published", "kernel", "noise"), "published.kernel.noise"),
        (("trained", "line", "spread"), "trained.line.spread"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_of_an_accuracy_table(tmp_path: Path, path: tuple[str | int, ...], named: str, value: str) -> None:
    document = json.loads((ROOT / "accuracy_tables" / "iformer.imagenet.json").read_text())
    (tmp_path / "odd.json").write_text(_with_value(document, path, value))
    message = _refused(lambda: AccuracyTable.find(str(tmp_path / "odd.json")))

    assert message.startswith(f"{tmp_path / 'odd.json'}: ")
    assert named in message or "Invalid JSON" in message


def _space(stage: str, *, stages: int = 4) -> str:
    return TINY[: TINY.index("[[stages]]")] + f"[[stages]]\n{stage}\n" * stages


def _list(*numbers: int) -> str:
    return "[\n" + ",\n".join(map(str, numbers)) + "]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_space(f"channels = {_list(*range(2, 202, 2))}\nconv.depth = 1"), "100,000,000 combinations of channels"),
        (_space(f"channels = {_list(*range(2, 20002, 2))}\nconv.depth = 1"), "1000 options at most, got 10000"),
        (_space("channels = 8\nconv.depth = 1_000_000_000"), "less than or equal to 1024, got 1000000000"),
        (_space("channels = 8\nconv.depth = 1024"), "4,096 blocks in the longest network, 400 at most"),
        (
            _space(f"channels = 8\nconv.depth = 1\nconv.kernel = {_list(*range(1, 1001, 2))}\n" * 1)
            + f"conv.expansion = {_list(*range(1, 101))}\n",
            "different blocks, 10,000 at most",
        ),
        (
            _space(
                f"channels = 8\nconv.depth = {_list(*range(1, 100))}\nattention.depth = {_list(*range(100))}", stages=4
            ),
            "blocks in the longest network",
        ),
        (
            _space(f"channels = 8\nconv.depth = {_list(*range(1, 50))}\nattention.depth = {_list(*range(50))}"),
            "blocks in all stages that differ in order, 500,000 at most",
        ),
        ("x = " + "[" * 9000, "not valid TOML: nested too deep"),
        (("x = " + "[" * 100 + "\n") * 50, "not valid TOML"),
        (f"schema = {'9' * 5000}", "not valid TOML"),
        (".".join("a" * 20000) + " = 1", "10,000 a line"),
        ("# a\n" * 10**6, "262,144 characters at most"),
        (TINY + "\0", "not valid TOML"),
    ],
    ids=lambda value: value[:30] if "=" not in value else "",
)
def test_a_space_of_which_the_size_explodes(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    message = _refused(lambda: SearchSpace.load(tmp_path / "own.toml"))

    assert message.startswith(f"{tmp_path / 'own.toml'}: ")
    assert words in message


def _network(**changes: Any) -> dict[str, Any]:
    conv = {"type": "conv", "kernel": 3, "expansion": 2}
    stages = [{"channels": channels, "blocks": [conv] * changes.get("depth", 1)} for channels in (8, 16, 32, 64)]
    document = {"resolution": 64, "stages": stages}
    return document | {name: value for name, value in changes.items() if name != "depth"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (_network(resolution=2**20), "resolution must be 4096 at most, got 1048576"),
        (_network(depth=10_000), "a network has 400 blocks at most, got 40000"),
        (_network(num_classes=10**12), "num_classes"),
        (
            _network(stages=[{"channels": 2**20, "blocks": [{"type": "conv", "kernel": 3, "expansion": 9}]}] * 4),
            "weights",
        ),
        (_network(resolution=10**5000), ""),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_network_of_an_absurd_size(tmp_path: Path, document: dict[str, Any], words: str) -> None:
    # Python does not write whole numbers of thousands of digits.
    text = json.dumps(document | {"resolution": 7}).replace(": 7,", f": {'9' * 5000},") if not words else None
    (tmp_path / "net.json").write_text(text or json.dumps(document))
    message = _refused(lambda: Architecture.load(tmp_path / "net.json"))

    assert message.startswith(f"{tmp_path / 'net.json'}: ")
    assert words in message


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "space": (TINY, SearchSpace.load),
    "network": (json.dumps(_network()), Architecture.load),
    "table": ((ROOT / "latency_tables" / "iphone13.coreml.fp16.json").read_text(), LatencyTable.load),
    "points": ((ROOT / "latency_tables" / "iphone13.points.csv").read_text(), read_points),
}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_is_read_over_and_other_encodings_are_named(tmp_path: Path, name: str) -> None:
    text, read = READERS[name]
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8-sig")
    read(path)
    for encoding in ("utf-16", "utf-16-be", "utf-32"):
        path.write_bytes(text.encode(encoding))
        assert _refused(lambda: read(path)).startswith(f"{path}: ")
    path.write_bytes(text.encode() + b"\xe9")
    assert _refused(lambda: read(path)).startswith(str(path))


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(files, "_MOST_BYTES", 2**20)
    _, read = READERS[name]

    assert _refused(lambda: read(Path("/dev/zero"))) == "/dev/zero: larger than 1 MiB, so not a file of nas"
