"""`nas accuracy`: from a name, a file or stdin; in words and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.accuracy import AccuracyTable
from nas.networks import SearchSpace

Nas = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[[subprocess.CompletedProcess[str]], str]
REFERENCES = SearchSpace.find("iformer").references
TABLE, _ = AccuracyTable.find("iformer")


def test_accuracy_as_json_has_every_promised_key(nas: Nas, tmp_path: Path) -> None:
    document = json.loads(nas("accuracy", "iformer_m", "--json", cwd=tmp_path).stdout)
    (predicted,) = TABLE.predict([REFERENCES["iformer_m"]])

    assert set(document) == {"id", "top1", "interval", "source", "resolution", "table", "parts", "beyond"}
    assert document["id"] == REFERENCES["iformer_m"].id
    assert (document["source"], document["table"]) == ("predicted", "iformer.imagenet")
    assert [document["interval"][0], document["top1"], document["interval"][1]] == pytest.approx(
        [predicted.low, predicted.top1, predicted.high], abs=1e-4
    )
    assert document["interval"][0] < 80.4 < document["interval"][1]  # the paper's Table 3
    assert document["beyond"] == []


def test_a_backbone_is_judged_as_a_classifier(nas: Nas, tmp_path: Path) -> None:
    words = nas("accuracy", "iformer_m_512", cwd=tmp_path).stdout
    backbone, usual = (
        json.loads(nas("accuracy", name, "--json", cwd=tmp_path).stdout) for name in ("iformer_m_512", "iformer_m")
    )

    assert "8.914 GMACs at 512 px\n" in words
    assert "predicted ImageNet-1k top-1 as a classifier at 224 px\n" in words
    assert "outside the range" not in words
    assert {**usual, "id": backbone["id"]} == backbone
    assert backbone["resolution"] == 224


def test_accuracy_as_json_names_the_parts_of_the_prediction(nas: Nas, tmp_path: Path) -> None:
    parts = json.loads(nas("accuracy", "iformer_l", "--json", cwd=tmp_path).stdout)["parts"]
    (predicted,) = TABLE.predict([REFERENCES["iformer_l"]])

    assert list(predicted.parts) == list(parts)
    assert parts["published"] == {
        "top1": pytest.approx(predicted.parts["published"].top1, abs=1e-4),
        "interval": pytest.approx([predicted.parts["published"].low, predicted.parts["published"].high], abs=1e-4),
    }


def test_accuracy_in_words_shows_network_prediction_origin_and_trust(nas: Nas, tmp_path: Path) -> None:
    done = nas("accuracy", "iformer_m", cwd=tmp_path)
    (predicted,) = TABLE.predict([REFERENCES["iformer_m"]])
    published = predicted.parts["published"]
    network, size, accuracy, first, *rest = done.stdout.splitlines()

    assert done.returncode == 0, done.stderr
    assert network == "iformer_m  48-96-192-384: 2C | 2C | 9C 4A 1C | 2A"
    assert size == "8.879 M parameters, 1.640 GMACs at 224 px"
    assert accuracy == (
        f"{predicted.top1:.1f} % [{predicted.low:.1f}, {predicted.high:.1f}], predicted ImageNet-1k top-1"
    )
    assert first == f"  by published results: {published.top1:.1f} % [{published.low:.1f}, {published.high:.1f}]"
    assert rest[-len(list(TABLE.describe())) :] == list(TABLE.describe())
    assert "outside the range" not in done.stdout


def test_what_is_outside_the_range_of_published_networks_is_told(nas: Nas, tmp_path: Path) -> None:
    words = nas("accuracy", "tiny_a", cwd=tmp_path).stdout
    document = json.loads(nas("accuracy", "tiny_a", "--json", cwd=tmp_path).stdout)

    assert "outside the range of the published networks of the family (in brackets), so less certain:\n" in words
    assert "\n  stem: expansion 2 (4)\n" in words
    assert "\n  stage 1: channels 16 (32 to 48), " in words
    assert "stage 1 channels 16 (32 to 48)" in document["beyond"]


def test_accuracy_takes_an_architecture_from_stdin_and_from_a_file(nas: Nas, tmp_path: Path) -> None:
    text = REFERENCES["iformer_s"].to_json()
    (tmp_path / "s.json").write_text(text)
    outputs = [
        nas("accuracy", name, "--json", cwd=tmp_path, stdin=stdin).stdout
        for name, stdin in (("-", text), ("s.json", ""), ("iformer_s", ""))
    ]

    assert outputs[0]
    assert len(set(outputs)) == 1


def test_a_table_of_ones_own_is_used(nas: Nas, tmp_path: Path) -> None:
    wider = TABLE.published.model_copy(update={"widening": 3 * TABLE.published.widening})
    TABLE.model_copy(update={"published": wider}).save(tmp_path / "own.json")
    documents = [
        json.loads(nas("accuracy", "iformer_m", *table, "--json", cwd=tmp_path).stdout)
        for table in (["--table", "own.json"], [])
    ]
    own, shipped = (document["parts"]["published"] for document in documents)

    assert [document["table"] for document in documents] == ["own", "iformer.imagenet"]
    assert own["top1"] == shipped["top1"]
    assert own["interval"][0] < shipped["interval"][0] < shipped["interval"][1] < own["interval"][1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["iformer_x"], "no network named 'iformer_x': there are iformer_t"),
        (["none.json"], "none.json: cannot be read"),
        (["iformer_m", "--table", "nokia"], "no accuracy table named 'nokia'"),
        (["iformer_m", "--table", "none.json"], "none.json: no such accuracy table file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_not_there_is_named(
    nas: Nas, refused: Refused, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = nas("accuracy", *arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert words in refused(done)


def test_the_help_has_an_example(nas: Nas, tmp_path: Path) -> None:
    assert "Example: nas accuracy iformer_m" in nas("accuracy", "--help", cwd=tmp_path).stdout


def test_no_large_library_is_loaded(tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "large = {'torch', 'optuna', 'datasets', 'pyarrow', 'plotly'}\n"
        "atexit.register(lambda: print('loaded:', sorted(large & set(sys.modules)), file=sys.stderr))\n"
        "from nas.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "accuracy", "iformer_m"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "loaded: []"
