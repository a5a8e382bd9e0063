"""`nas latency`: from a name, a file or stdin; in words and as JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.latency import LatencyTable
from nas.networks import SearchSpace

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]


def test_latency_as_json_has_every_promised_key(nas: Nas, tmp_path: Path) -> None:
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


def test_latency_in_words_shows_origin_interval_and_the_published_time(nas: Nas, tmp_path: Path) -> None:
    text = nas("latency", "iformer_m", cwd=tmp_path).stdout

    assert "calibrated: iPhone 13" in text
    assert "jackknife+" in text
    assert "published: 1.10 ms" in text


def test_latency_takes_an_architecture_from_stdin_and_from_a_file(nas: Nas, tmp_path: Path) -> None:
    text = SearchSpace.find("iformer").references["iformer_s"].to_json()
    (tmp_path / "s.json").write_text(text)
    outputs = [
        nas("latency", name, "--json", cwd=tmp_path, stdin=stdin).stdout
        for name, stdin in (("-", text), ("s.json", ""), ("iformer_s", ""))
    ]

    assert outputs[0]
    assert len(set(outputs)) == 1


def test_a_missing_layer_ends_with_3(nas: Nas, refused: Refused, tmp_path: Path) -> None:
    nas("table", "build", "--device", "fake", "--space", "tiny", "--out", "t.json", cwd=tmp_path)
    done = nas("latency", "iformer_m", "--table", "t.json", cwd=tmp_path)

    assert done.returncode == 3
    assert "no entry for attention-c192-shma-r2-m1-e3-p3-14x14 and 9 other layers" in refused(done)


@pytest.mark.parametrize("command", [["latency", "tiny_a"], ["space", "show", "tiny"], ["table", "show", "iphone13"]])
def test_a_table_of_ones_own_named_like_a_shipped_one_is_told(nas: Nas, tmp_path: Path, command: list[str]) -> None:
    shipped = nas(*command, cwd=tmp_path)
    own = tmp_path / "latency_tables" / "iphone13.coreml.fp16.json"
    own.parent.mkdir()
    own.write_bytes(LatencyTable.find("iphone13.coreml.fp16")[1].read_bytes())
    mine = nas(*command, cwd=tmp_path)

    assert (shipped.returncode, mine.returncode) == (0, 0)
    assert "your own" not in shipped.stderr
    assert f"table: your own {own}, not the shipped one of this name" in mine.stderr
