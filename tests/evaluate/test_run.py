"""A network on images, in every form that it has."""

from __future__ import annotations

import csv
import functools
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import nas
from nas.data import DataSource, load_images
from nas.data.pictures import framed
from nas.data.protocol import Protocol
from nas.errors import DeviceError, InputError, NasError
from nas.evaluate import Evaluation
from nas.evaluate.run import evaluate_subject
from nas.evaluate.subject import Subject
from nas.export import Card, coreml
from nas.export import torch as folder_format
from nas.export._quantised import quantise
from nas.networks import Architecture, count
from nas.networks.modules import Network, save_weights
from nas.search import SearchResult
from nas.search.result import weights_file
from nas.training.recipe import seeded_network
from tests.evaluate.pictures import CLASSES, NORMALISATION, SIDE
from tests.export.interpreter import CoremlProgram

# As tests/export/test_coreml.py has it.
quiet_coremltools = pytest.mark.filterwarnings(
    "ignore:Function _TORCH_OPS_REGISTRY:DeprecationWarning", "ignore:Implicitly cleaning up:ResourceWarning"
)


def predictions(path: Path) -> list[tuple[str, str]]:
    """Which image is taken for what."""
    return [(row["image"], row["predicted"]) for row in csv.DictReader(path.read_text().splitlines())]


@pytest.fixture(scope="session")
def by_hand(network: Network, zoo: Path) -> torch.Tensor:
    """The outputs for the validation images in the order of their names, (30, 3)."""
    protocol = Protocol(resolution=SIDE, normalisation=NORMALISATION)
    paths = sorted(zoo.glob("val/*/*.png"))
    squares = np.stack([framed(path.read_bytes(), protocol.frame) for path in paths]).astype(np.uint8)
    with torch.no_grad():
        outputs: torch.Tensor = network(torch.from_numpy(protocol.normalised(squares)))
    return outputs


@pytest.fixture(scope="session")
def found(exported: Path, zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """What is said of the folder, and the file of its predictions."""
    out = tmp_path_factory.mktemp("out") / "torch.csv"
    return nas.evaluate(exported / "net.torch", str(zoo), out=out), out


def test_scores_are_those_of_the_network(found: tuple[Evaluation, Path], by_hand: torch.Tensor) -> None:
    evaluation, out = found
    labels = torch.arange(3).repeat_interleave(10)

    right = int((by_hand.argmax(1) == labels).sum())
    assert evaluation.scores.top1.right == right
    entropy = float(nn.functional.cross_entropy(by_hand, labels))
    assert evaluation.scores.cross_entropy == pytest.approx(entropy, rel=1e-4)
    assert [name for _, name in predictions(out)] == [CLASSES[place] for place in by_hand.argmax(1)]
    assert len({name for _, name in predictions(out)}) > 1  # else every network would agree


def test_every_number_has_its_source(found: tuple[Evaluation, Path], zoo: Path, exported: Path) -> None:
    evaluation, _ = found

    assert evaluation.network == str(exported / "net.torch")
    assert (evaluation.form, evaluation.precision, evaluation.weights) == ("torch", "fp32", "of a test")
    assert (evaluation.data, evaluation.split, evaluation.images, evaluation.broken) == (str(zoo), "val", 30, 0)
    assert evaluation.matched == "by their names"
    assert evaluation.protocol == Protocol(
        resolution=SIDE, normalisation=NORMALISATION, normalised_by="of its card", crop=0.875
    )
    assert evaluation.protocol_words == evaluation.protocol.words
    assert evaluation.runtime.startswith(f"PyTorch {torch.__version__} on cpu")
    assert evaluation.images_per_s == pytest.approx(30 / evaluation.seconds)
    assert evaluation.known is None  # all outputs are classes of the data
    assert evaluation.scores.top5 is None
    assert Evaluation.model_validate_json(evaluation.model_dump_json(by_alias=True)) == evaluation


def test_confusions_stand_beside_the_predictions(found: tuple[Evaluation, Path]) -> None:
    evaluation, out = found

    rows = list(csv.DictReader((out.parent / "torch.confusion.csv").read_text().splitlines()))

    expected = [(one.actual, one.predicted, str(one.images)) for one in evaluation.scores.confusions]
    assert expected == [(row["actual"], row["predicted"], row["images"]) for row in rows]
    first = next(csv.DictReader(out.read_text().splitlines()))
    assert list(first) == ["image", "actual", "predicted", "probability", "rank", "cross_entropy"]
    assert (Path(first["image"]).name, first["actual"]) == ("0.png", "cat")


class TestEveryForm:
    """The same network as a folder, a module, an architecture with weights, ONNX and Core ML: the same predictions."""

    def same(self, network: Any, zoo: Path, found: tuple[Evaluation, Path], out: Path, **options: Any) -> Evaluation:
        evaluation = nas.evaluate(network, str(zoo), out=out, **options)

        assert predictions(out) == predictions(found[1])
        assert evaluation.scores.top1 == found[0].scores.top1
        assert evaluation.scores.cross_entropy == pytest.approx(found[0].scores.cross_entropy, rel=1e-3)
        return evaluation

    def test_onnx_of_any_batch(self, exported: Path, zoo: Path, found: tuple[Evaluation, Path], tmp_path: Path) -> None:
        evaluation = self.same(exported / "net.onnx", zoo, found, tmp_path / "x.csv", batch_size=7)

        assert (evaluation.form, evaluation.precision, evaluation.weights) == ("onnx", "fp32", "of a test")
        assert evaluation.protocol.normalised_by == "of the file"

    def test_onnx_of_one_batch(self, exported: Path, zoo: Path, found: tuple[Evaluation, Path], tmp_path: Path) -> None:
        model = onnx.load(exported / "net.onnx")
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
        onnx.save(model, tmp_path / "four.onnx")

        self.same(tmp_path / "four.onnx", zoo, found, tmp_path / "x.csv")  # of 30 images the last batch has two
        with pytest.raises(InputError, match=r"four\.onnx: takes 4 images at once: leave --batch-size out"):
            nas.evaluate(tmp_path / "four.onnx", str(zoo), batch_size=8)

    def test_module(self, exported: Path, zoo: Path, found: tuple[Evaluation, Path], tmp_path: Path) -> None:
        self.same(nas.load(exported / "net.torch"), zoo, found, tmp_path / "x.csv")

    def test_module_without_a_card(
        self, network: Network, zoo: Path, found: tuple[Evaluation, Path], tmp_path: Path
    ) -> None:
        pair: dict[str, Any] = {"mean": NORMALISATION.mean, "std": NORMALISATION.std}

        evaluation = self.same(network, zoo, found, tmp_path / "x.csv", **pair)

        assert (evaluation.weights, evaluation.protocol.normalised_by) == ("of a network in memory", "as asked for")
        assert evaluation.matched.startswith("by order")

    def test_architecture_with_weights(
        self, network: Network, card: Card, zoo: Path, found: tuple[Evaluation, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "net.json").write_text(network.architecture.to_json())
        known = {name: text for name, text in card.metadata().items() if name != "architecture"}
        save_weights(network, tmp_path / "net.safetensors", metadata=known)

        evaluation = self.same(
            tmp_path / "net.json", zoo, found, tmp_path / "x.csv", weights=tmp_path / "net.safetensors"
        )

        assert evaluation.weights.startswith("net.safetensors (SHA-256 begins ")
        assert (evaluation.matched, evaluation.protocol.normalised_by) == ("by their names", "of the file")

    def test_training(self, exported: Path, zoo: Path, found: tuple[Evaluation, Path], tmp_path: Path) -> None:
        shutil.copytree(exported / "net.torch", tmp_path / "training" / "best.torch")
        said: list[str] = []

        evaluation = self.same(tmp_path / "training", zoo, found, tmp_path / "x.csv", say=said.append)

        assert evaluation.network == str(tmp_path / "training" / "best.torch")
        assert said == [f"{tmp_path}/training: a training; its best network is evaluated, {evaluation.network}"]

    @quiet_coremltools
    @pytest.mark.parametrize("given", ["image", "tensor"])
    def test_coreml(
        self,
        given: str,
        network: Network,
        card: Card,
        zoo: Path,
        found: tuple[Evaluation, Path],
        mac: None,
        tmp_path: Path,
    ) -> None:
        path = tmp_path / "net.mlpackage"
        options = coreml.Options(precision="fp32", input=given, output="classifier" if given == "image" else "logits")
        coreml.export(network, path, card=card, options=options)

        evaluation = self.same(path, zoo, found, tmp_path / "x.csv")

        assert (evaluation.form, evaluation.weights, evaluation.matched) == ("coreml", "of a test", "by their names")
        assert (evaluation.protocol.normalisation is None) == (given == "image")


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac as far as this package sees: the program of every macOS, and packages that run, in an interpreter."""
    from coremltools.models import MLModel

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sw_vers").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "sw_vers").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    read = functools.cache(lambda path: CoremlProgram(Path(path)))

    def predict(self: MLModel, data: dict[str, Any]) -> dict[str, Any]:
        program = read(self.package_path)
        (value,) = data.values()
        if isinstance(value, Image.Image):
            value = np.asarray(value, dtype=np.float32).transpose(2, 0, 1)[None]
        outputs = program(torch.from_numpy(np.asarray(value, dtype=np.float32)))
        spec = self.get_spec().description
        if spec.predictedProbabilitiesName:
            names = list(self.user_defined_metadata["class_names"].strip("[]").replace('"', "").split(", "))
            (probabilities,) = [one for one in outputs.values() if isinstance(one, torch.Tensor) and one.numel() == 3]
            pairs = zip(reversed(names), reversed(probabilities.flatten().tolist()), strict=True)
            return {spec.predictedProbabilitiesName: dict(pairs), spec.predictedFeatureName: names[0]}
        return {key: found.numpy() for key, found in outputs.items()}

    monkeypatch.setattr(MLModel, "predict", predict)


def test_a_package_is_no_file_for_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.mlpackage").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(DeviceError) as refused:
        nas.evaluate(tmp_path / "net.mlpackage", "zoo")

    assert refused.value.exit_code == 5
    assert str(refused.value) == (
        f"{tmp_path}/net.mlpackage: a Core ML package runs on a Mac only: evaluate it there, or the same network as "
        "ONNX here"
    )


def test_half_precision_and_eight_bits_are_told_and_may_differ(
    exported: Path, card: Card, zoo: Path, found: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    images = load_images(str(zoo), resolution=SIDE, seed=0)
    half = convert_float_to_float16(onnx.load(exported / "net.onnx"), keep_io_types=True)
    onnx.save(half, tmp_path / "half.onnx")
    shutil.copy(exported / "net.onnx", tmp_path / "eight.onnx")
    quantise(tmp_path / "eight.onnx", images, card=card, batch="dynamic", say=lambda line: None)

    of_half, of_eight = (nas.evaluate(tmp_path / name, str(zoo)) for name in ("half.onnx", "eight.onnx"))

    exact = found[0].scores.cross_entropy
    assert (of_half.precision, of_eight.precision, found[0].precision) == ("fp16", "int8", "fp32")
    assert of_half.scores.cross_entropy == pytest.approx(exact, rel=0.05)
    assert of_eight.scores.cross_entropy == pytest.approx(exact, rel=0.5)
    assert len({exact, of_half.scores.cross_entropy, of_eight.scores.cross_entropy}) == 3


def test_another_size_and_crop_are_asked_for(exported: Path, zoo: Path, found: tuple[Evaluation, Path]) -> None:
    evaluation = nas.evaluate(
        exported / "net.torch", str(zoo), resolution=96, crop=1.0, interpolation="bilinear", limit=6
    )

    protocol = evaluation.protocol
    assert (protocol.resolution, protocol.crop, protocol.interpolation) == (96, 1.0, "bilinear")
    assert evaluation.images == 6
    assert evaluation.scores.cross_entropy != found[0].scores.cross_entropy


class TestKnownClasses:
    """A network of more classes than the data have."""

    @pytest.fixture
    def some(self, zoo: Path, tmp_path: Path) -> Path:
        for name in ("dog", "cat"):
            (tmp_path / "val" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "val" / name).symlink_to(zoo / "val" / name)
        return tmp_path / "val"

    def test_both_are_given(self, some: Path, exported: Path, by_hand: torch.Tensor, tmp_path: Path) -> None:
        evaluation = nas.evaluate(exported / "net.torch", str(some), out=tmp_path / "x.csv")

        pets = torch.cat([by_hand[:10], by_hand[20:]])
        labels = torch.tensor([0, 2]).repeat_interleave(10)
        known = evaluation.known
        assert known is not None
        assert (evaluation.scores.outputs, known.outputs) == (3, 2)
        assert evaluation.scores.top1.right == int((pets.argmax(1) == labels).sum())
        assert known.top1.right == int((pets[:, [0, 2]].argmax(1) == labels // 2).sum())
        assert known.cross_entropy < evaluation.scores.cross_entropy
        rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
        assert {row["predicted_of_known"] for row in rows} <= {"cat", "dog"}

    def test_names_of_the_outputs_may_be_given(self, some: Path, exported: Path, tmp_path: Path) -> None:
        (tmp_path / "names.txt").write_text("dog\ncow\ncat\n")

        turned = nas.evaluate(exported / "net.torch", str(some), classes=tmp_path / "names.txt")

        ordinary = nas.evaluate(exported / "net.torch", str(some))
        assert turned.scores.cross_entropy != ordinary.scores.cross_entropy
        assert [one.name for one in turned.scores.classes] == ["cat", "dog"]


class TestStub:
    """What a subject says, without a network."""

    def test_network_that_normalises_pixels_gets_bytes(self, subject: Callable[..., Subject], zoo: Path) -> None:
        seen = []

        def run(images: np.ndarray) -> np.ndarray:
            seen.append((images.dtype.name, images.shape))
            return np.eye(3)[[0] * len(images)]

        found = evaluate_subject(subject(run, 3), DataSource(name=str(zoo)), say=lambda line: None, batch_size=16)

        assert seen == [("uint8", (16, 3, 32, 32)), ("uint8", (14, 3, 32, 32))]
        assert found.scores.top1.right == 10
        with pytest.raises(InputError, match="stub: normalises pixels itself: leave --mean and --std out"):
            evaluate_subject(
                subject(run, 3), DataSource(name=str(zoo)), say=lambda line: None, mean=(0, 0, 0), std=(1, 1, 1)
            )

    def test_outputs_that_are_no_numbers_end_it(self, subject: Callable[..., Subject], zoo: Path) -> None:
        def run(images: np.ndarray) -> np.ndarray:
            return np.full((len(images), 3), np.nan)

        with pytest.raises(NasError, match=r"stub: its outputs for .*/val/cat/0\.png are no finite numbers; of fp16"):
            evaluate_subject(subject(run, 3), DataSource(name=str(zoo)), say=lambda line: None)

    def test_outputs_that_are_probabilities_are_seen(self, subject: Callable[..., Subject], zoo: Path) -> None:
        def run(images: np.ndarray) -> np.ndarray:
            return np.repeat([[0.5, 0.25, 0.25]], len(images), axis=0)

        found = [
            evaluate_subject(
                subject(run, 3, gives_probabilities=given), DataSource(name=str(zoo)), say=lambda line: None
            )
            for given in (None, False)
        ]

        assert found[0].scores.cross_entropy == pytest.approx((np.log(2) + 2 * np.log(4)) / 3)
        assert found[1].scores.cross_entropy != found[0].scores.cross_entropy


def test_foreign_onnx_needs_what_it_does_not_say(zoo: Path, tmp_path: Path) -> None:
    class Mean(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)).softmax(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the older exporter, which is faster
        torch.onnx.export(
            Mean(),
            (torch.zeros(1, 3, 40, 40),),
            str(tmp_path / "mean.onnx"),
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}},
        )
    pair: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

    with pytest.raises(InputError, match=r"mean\.onnx: takes images of any size: give --resolution"):
        nas.evaluate(tmp_path / "mean.onnx", str(zoo), **pair)
    with pytest.raises(InputError, match=r"mean\.onnx: the mean and std of its images are not known: give --mean and "):
        nas.evaluate(tmp_path / "mean.onnx", str(zoo), resolution=48)
    found = nas.evaluate(tmp_path / "mean.onnx", str(zoo), resolution=48, **pair)

    assert (found.protocol.resolution, found.scores.outputs, found.weights) == (48, 3, "those in the file")
    assert found.matched.startswith("by order")
    assert 0.5 < found.scores.cross_entropy < 2


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A results folder as a search on images of ten classes leaves it."""
    nas.search("tiny", budget_ms=0.7, score=lambda network: 1.0, trials=1, out=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    names = [*CLASSES, *"abcdefg"]
    classes = [{"name": name, "train": 1, "val": 1, "digest": "0"} for name in names]
    record |= {"normalisation": NORMALISATION.model_dump(), "contents": {"fingerprint": "0", "classes": classes}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    return tmp_path / "run"


def test_winner_of_a_run_brings_its_classes_and_normalisation(run: Path, zoo: Path) -> None:
    winner = SearchResult.load(run).winner
    assert winner is not None
    path = weights_file(run, winner.id)
    path.parent.mkdir(exist_ok=True)
    save_weights(seeded_network(winner.architecture, seed=0), path, metadata={})
    said: list[str] = []

    found = nas.evaluate(run, str(zoo), say=said.append, resolution=64)

    assert found.weights == f"proxy training of {winner.id} in run"
    assert (found.matched, found.images, found.scores.outputs) == ("by their names", 30, 10)
    assert (found.protocol.normalisation, found.protocol.normalised_by) == (NORMALISATION, "of the run")
    assert said == [f"{run}: its winner {winner.id} is evaluated"]
    with pytest.raises(InputError, match=r"is a run and has its own weights and classes: evaluate its winner\.json to"):
        nas.evaluate(run, str(zoo), weights="x.safetensors")


def test_weights_without_a_classifier_are_refused(network: Network, zoo: Path, tmp_path: Path) -> None:
    last = f"layers.{len(network.layers) - 1}."
    tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(last)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "maps.safetensors")

    with pytest.raises(InputError, match=r"maps.safetensors: has no classifier, .*: it cannot be evaluated on classes"):
        nas.evaluate(network.architecture, str(zoo), weights=tmp_path / "maps.safetensors")


def test_the_winner_inside_a_budget_is_evaluated(tmp_path: Path, zoo: Path) -> None:
    folder = tmp_path / "run"
    winners = nas.search("tiny", budget_ms=[0.23, 0.7], score=_macs, trials=8, out=folder).winners
    small, large = winners[0.23], winners[0.7]
    assert small is not None
    assert large is not None
    assert small.id != large.id
    for winner in (small, large):
        path = weights_file(folder, winner.id)
        path.parent.mkdir(exist_ok=True)
        save_weights(seeded_network(winner.architecture, seed=0), path, metadata={})
    half = (0.5, 0.5, 0.5)

    found = nas.evaluate(
        folder, str(zoo), budget_ms=0.23, resolution=64, classes=[*CLASSES, *"abcdefg"], mean=half, std=half
    )

    assert found.weights == f"proxy training of {small.id} in run"
    with pytest.raises(InputError, match=r"run: the run has no network inside 0\.001 ms; nas search --resume goes"):
        nas.evaluate(folder, str(zoo), budget_ms=0.001)
    with pytest.raises(InputError, match=r"--budget-ms must be a positive number of milliseconds, .* got nan"):
        nas.evaluate(folder, str(zoo), budget_ms=float("nan"))
    weights_file(folder, small.id).unlink()
    with pytest.raises(InputError, match=rf"winners inside 0\.7 ms, not of {small.id}, the best inside 0\.23 ms: give"):
        nas.evaluate(folder, str(zoo), budget_ms=0.23)
    with pytest.raises(InputError, match="--budget-ms chooses among the winners of a run: leave it out"):
        nas.evaluate("iformer_t", str(zoo), budget_ms=0.4)


def _macs(architecture: Architecture) -> float:
    return float(count(architecture).macs)


def test_winner_without_weights_is_refused(run: Path, zoo: Path) -> None:
    winner = SearchResult.load(run).winner
    assert winner is not None
    says = f"run: has no weights of its winner {winner.id}, as nothing was trained: train it, and give winner.json with"
    with pytest.raises(InputError, match=says):
        nas.evaluate(run, str(zoo))


def test_random_weights_are_refused(network: Network, zoo: Path, tmp_path: Path) -> None:
    folder_format.export(network, tmp_path / "net.torch")

    says = "net.torch: has random weights, which say nothing: give --weights FILE, or evaluate what was trained"
    with pytest.raises(InputError, match=says):
        nas.evaluate(tmp_path / "net.torch", str(zoo))


def test_network_in_memory_stays_as_it_is(network: Network, zoo: Path) -> None:
    pair: dict[str, Any] = {"mean": NORMALISATION.mean, "std": NORMALISATION.std}
    before = {name: tensor.stride() for name, tensor in network.state_dict().items()}
    network.train()
    try:
        nas.evaluate(network, str(zoo), limit=3, **pair)

        assert network.training
        assert before == {name: tensor.stride() for name, tensor in network.state_dict().items()}
    finally:
        network.eval()
