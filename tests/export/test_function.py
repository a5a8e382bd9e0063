"""`nas.export(...)`: what is known of a network finds its way into the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import nas
from nas.data import Contents, Normalisation
from nas.errors import InputError
from nas.export import Card
from nas.files import write_beside
from nas.networks import Architecture
from nas.networks.modules import build_model
from nas.search import SearchResult

NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def depth(network: Architecture) -> int:
    return sum(len(stage.blocks) for stage in network.stages)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without weights."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    nas.search("tiny", "iphone13", budget_ms=0.7, score=depth, trials=4, out=folder)
    return folder


@pytest.fixture
def run(untrained: Path, tmp_path: Path) -> Path:
    """A run with weights and images, as a proxy that trains leaves it."""
    folder = tmp_path / "zoo"
    for file in untrained.glob("*.json*"):
        write_beside(_made(folder / file.name), file.read_bytes())
    kept = SearchResult.load(folder)
    contents = Contents.drawn(["ape", "bee", "cow"], "1")
    changed = kept.run.model_copy(update={"normalisation": NORMALISATION, "contents": contents})
    write_beside(folder / "run.json", changed.model_dump_json(by_alias=True).encode())
    lines = [c.model_copy(update={"details": {"classes": 3}}).model_dump_json() for c in kept.candidates]
    write_beside(folder / "candidates.jsonl", "".join(f"{line}\n" for line in lines).encode())
    assert kept.winner is not None
    weights = build_model(kept.winner.architecture.at(num_classes=3)).state_dict()
    save_file(weights, _made(folder / "weights" / f"{kept.winner.id}.safetensors"))
    return folder


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path


def export(network: Any, out: Path, **named: Any) -> tuple[Card, list[str]]:
    """Export for torch: the card of the folder, and what was said."""
    said: list[str] = []
    folder, *_ = nas.export(network, "torch", out=out, say=said.append, **named)
    return nas.load(folder).card, said


def test_winner_has_what_its_run_knows(run: Path, tmp_path: Path) -> None:
    result = SearchResult.load(run)
    winner = result.winner

    card, said = export(run, tmp_path / "zoo.torch")

    assert winner is not None
    assert said == []
    assert (card.name, card.candidate_id) == ("zoo", winner.id)
    assert (card.normalisation, card.class_names) == (NORMALISATION, ("ape", "bee", "cow"))
    assert card.latency_ms == winner.latency_ms
    assert card.latency_source.startswith("iphone13.coreml.fp16, calibrated: iPhone 13")
    assert (card.score, card.weights) == (winner.score, "proxy training in zoo")
    assert card.score_source == result.run.proxy["name"]
    state = result.build_winner().state_dict()
    assert all(torch.equal(state[key], own) for key, own in nas.load(tmp_path / "zoo.torch").state_dict().items())


def test_at_another_resolution_the_weights_are_the_same_and_the_latency_is_not_known(run: Path, tmp_path: Path) -> None:
    same, _ = export(run, tmp_path / "a.torch")
    card, _ = export(SearchResult.load(run), tmp_path / "b.torch", resolution=96)

    assert (card.resolution, card.latency_ms) == (96, None)
    assert card.weights_sha256 == same.weights_sha256


def test_run_without_weights_exports_its_architecture_and_says_so(untrained: Path, tmp_path: Path) -> None:
    winner = SearchResult.load(untrained).winner
    assert winner is not None

    card, said = export(untrained, tmp_path / "a.torch")

    assert said == [f"{untrained} has no weights of {winner.id}: the file gets random weights, good for timing only"]
    assert (card.architecture, card.weights) == (winner.architecture, "random")
    again, _ = export(untrained, tmp_path / "b.torch")
    assert again.weights_sha256 == card.weights_sha256


def test_reference_has_the_latency_of_a_table(tmp_path: Path) -> None:
    card, _ = export("tiny_a", tmp_path / "a.torch")
    table, _ = nas.LatencyTable.find("iphone13")

    assert card.latency_ms == pytest.approx(table.latency(card.architecture).latency_ms)
    assert card.latency_source.startswith("iphone13.coreml.fp16, ")


def test_names_and_statistics_that_are_given_replace_others(run: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Affe\n\n Biene \nKuh\n")

    card, _ = export(run, tmp_path / "a.torch", classes=names, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))

    assert card.class_names == ("Affe", "Biene", "Kuh")
    assert card.normalisation == Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def test_images_complete_what_weights_do_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    network = build_model(nas.SearchSpace.find("tiny").references["tiny_a"].at(resolution=32, num_classes=3))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    images = _folder_of_images(tmp_path / "pets")

    plain, said = export(network.architecture, tmp_path / "a.torch", weights=tmp_path / "w.safetensors")
    card, _ = export(network.architecture, tmp_path / "b.torch", weights=tmp_path / "w.safetensors", data=str(images))

    unknown = "the mean and std of the training images are not known: give --data, or --mean and --std, to keep them"
    assert said == [unknown]
    assert (plain.normalisation, plain.class_names) == (None, ())
    assert card.class_names == ("blue", "green", "red")
    assert card.normalisation is not None
    assert card.weights.startswith("w.safetensors (SHA-256 begins ")


def _folder_of_images(folder: Path) -> Path:
    from PIL import Image

    for channel, name in enumerate(("red", "green", "blue")):
        for number in range(12):
            pixels = np.full((32, 32, 3), 10 * number, dtype=np.uint8)
            pixels[..., channel] = 200
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"batch": 2}, "--batch is no option of --format torch, which has --push-to-hub"),
        ({"push_to_hub": "a/b/c"}, "push_to_hub: must be the name of a repository such as USER/NAME, got 'a/b/c'"),
        ({"resolution": 100}, "resolution must be divisible by 32, got 100"),
        ({"classes": ["a", "b"]}, "classes: has 2 names of classes, the network has 10 outputs"),
        ({"classes": list("abcdefghia")}, "classes: names the class 'a' twice"),
        ({"mean": (0.5, 0.5, 0.5)}, "--mean and --std go together"),
        ({"mean": (0.5, 0.5), "std": (1, 1, 1)}, "--mean and --std: mean"),
        (
            {"mean": (0.5, 0.5, 0.5), "std": (1, 0, 1)},
            "--mean and --std: std[1]: input should be greater than 0, got 0",
        ),
        ({"budget_ms": 1.0}, "--budget-ms chooses among the winners of a run, and tiny_a is none: leave it out"),
        ({"out": "a.onnx"}, "a.onnx: --format torch writes a .torch file"),
    ],
)
def test_arguments_that_cannot_be_used(
    named: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError) as caught:
        nas.export("tiny_a", "torch", **named)

    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_package_is_a_function_with_a_signature() -> None:
    import inspect

    from nas.search.export import export as function

    assert inspect.signature(nas.export) == inspect.signature(function)
    assert isinstance(nas.export.Card, Callable)  # type: ignore[arg-type]
