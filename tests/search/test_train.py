"""A network or a winner, trained in full: what the folder holds, what it goes on with, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import nas
from nas.data import DataSource
from nas.errors import InputError
from nas.search import SearchResult
from nas.search.train import train
from nas.training.course import Epoch, Step
from nas.training.record import read_training

pytestmark = pytest.mark.usefixtures("timm")
SIZES: dict[str, Any] = {"resolution": 32, "epochs": 2, "batch_size": 8, "workers": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def colours_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two colours, easy to tell apart."""
    folder, draw = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for channel, name in enumerate(("blue", "red")):
        for split, count in (("train", 16), ("val", 6)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, 120, (36, 36, 3)).astype(np.uint8)
                pixels[..., 2 * channel] = 255
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last.torch/model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def trained(colours_folder: Path, tmp_path_factory: pytest.TempPathFactory, timm: object) -> Path:
    out = tmp_path_factory.mktemp("trained") / "it"
    return train("tiny_a", str(colours_folder), out=out, **SIZES)


class TestFolder:
    def test_it_has_a_record_and_a_line_an_epoch(self, trained: Path, colours_folder: Path) -> None:
        found = read_training(trained)
        assert found is not None
        record, history = found

        assert (
            record.name,
            record.classes,
            record.start,
            record.device,
            record.processes,
        ) == ("tiny_a", ("blue", "red"), "random", "cpu", 1)
        assert record.data == f"{colours_folder}: 32 training and 12 held-out pictures of 2 classes"
        assert record.recipe["optimisation"]["batch_size"] == 8
        assert [epoch.epoch for epoch in history] == [1, 2]

    def test_its_networks_can_be_loaded_with_how_to_use_them(self, trained: Path) -> None:
        network = nas.load(trained / "best.torch")

        assert network.class_names == ("blue", "red")
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
        assert network.card.normalisation is not None
        assert "top-1 on held-out images after epoch" in network.card.score_source

    def test_it_learns(self, colours_folder: Path, tmp_path: Path) -> None:
        changes = "[augmentation]\nrand_augment = ''\ncrop_scale = [0.9, 1.0]\n"
        (tmp_path / "r.toml").write_text(f"[optimisation]\nrate = 0.005\n{changes}")
        sizes = {**SIZES, "epochs": 8}
        out = train("tiny_a", str(colours_folder), out=tmp_path / "it", recipe=tmp_path / "r.toml", **sizes)
        found = read_training(out)
        assert found is not None

        assert found[1][-1].loss < 0.5 < found[1][0].loss

    def test_the_checkpoint_is_no_pickle(self, trained: Path) -> None:
        names = load_file(trained / "checkpoint.safetensors")

        assert {name.partition("/")[0] for name in names} == {"weights", "optimizer"}


class TestGoingOn:
    @pytest.mark.parametrize("teacher", [None, "efficientnet-lite0"])
    def test_after_a_stop_it_ends_the_same(
        self, teacher: str | None, colours_folder: Path, tmp_path: Path, fake_teacher: object
    ) -> None:
        folder = colours_folder
        if teacher:  # whose classes are known by WordNet ids
            folder = tmp_path / "ids"
            for split in ("train", "val"):
                (folder / split).mkdir(parents=True)
                for name, one in (("blue", "n01440764"), ("red", "n02102040")):
                    (folder / split / one).symlink_to(colours_folder / split / name)
        whole = train("tiny_a", str(folder), out=tmp_path / "whole", teacher=teacher, **SIZES)
        for stop in (2, 6):
            with pytest.raises(KeyboardInterrupt):
                train("tiny_a", str(folder), out=tmp_path / "it", teacher=teacher, on_step=_stop(stop), **SIZES)
        ended = list[Epoch]()
        train("tiny_a", str(folder), out=tmp_path / "it", teacher=teacher, on_epoch=ended.append, **SIZES)

        assert same(whole, tmp_path / "it")
        assert [epoch.epoch for epoch in ended] == [2]
        assert any("classifiers.1" in name for name in weights(whole)) == (teacher is not None)

    def test_killed_it_goes_on_to_the_same_end(self, trained: Path, colours_folder: Path, tmp_path: Path) -> None:
        """SIGKILL in the second epoch, in a process of its own."""
        script = f"""
import os, signal, torch
torch.set_num_threads(1)  # as in this process: sums are in another order on more
from nas.search.train import train
def on_step(step):
    if step.done == 6:
        os.kill(os.getpid(), signal.SIGKILL)
train("tiny_a", {str(colours_folder)!r}, out={str(tmp_path / "it")!r}, on_step=on_step, **{SIZES!r})
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == -9, done.stderr
        train("tiny_a", str(colours_folder), out=tmp_path / "it", **SIZES)

        assert same(trained, tmp_path / "it")

    @pytest.mark.skipif("NAS_PROCESSES" not in os.environ, reason="takes 20 s: NAS_PROCESSES=1 runs it")
    def test_two_processes_train_together(self, colours_folder: Path, tmp_path: Path) -> None:
        script = f"""
from nas.search.train import train
train("tiny_a", {str(colours_folder)!r}, out={str(tmp_path / "it")!r}, **{SIZES!r})
"""
        path = tmp_path / "both.py"
        path.write_text(script)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        found = read_training(tmp_path / "it")
        assert found is not None

        assert (found[0].processes, len(found[1]), found[1][-1].step) == (2, 2, 8)
        assert found[1][-1].images == 64

    @pytest.mark.parametrize(
        ("change", "says"),
        [({"epochs": 3}, r"other recipe\)"), ({"seed": 1}, r"other seed\)"), ({"resolution": 64}, r"other network\)")],
    )
    def test_another_training_in_the_folder_is_refused(
        self, change: dict[str, Any], says: str, trained: Path, colours_folder: Path
    ) -> None:
        with pytest.raises(InputError, match=r"it: holds another training \(" + says):
            train("tiny_a", str(colours_folder), out=trained, **{**SIZES, **change})


class TestStart:
    @pytest.mark.parametrize("kind", ["training", "folder", "file"])
    def test_weights_are_taken_from_what_was_trained(
        self, kind: str, trained: Path, colours_folder: Path, tmp_path: Path
    ) -> None:
        start = {
            "training": trained,
            "folder": trained / "best.torch",
            "file": trained / "best.torch/model.safetensors",
        }[kind]
        if kind == "file":  # which needs the architecture in it, as nas writes it
            from nas.networks.modules import save_weights

            start = tmp_path / "w.safetensors"
            save_weights(nas.load(trained / "best.torch"), start, metadata={})
        steps = list[Step]()
        out = train("tiny_a", str(colours_folder), out=tmp_path / "it", start=start, on_step=steps.append, **SIZES)
        fresh = list[Step]()
        train("tiny_a", str(colours_folder), out=tmp_path / "fresh", on_step=fresh.append, **SIZES)
        found = read_training(out)
        assert found is not None

        assert steps[0].loss != fresh[0].loss
        assert found[0].start.startswith(
            {"training": "it (", "folder": "best.torch (", "file": "w.safetensors ("}[kind]
        )

    def test_a_supernet_gives_its_part(self, tiny_supernet: Path, colours_folder: Path, tmp_path: Path) -> None:
        out = train("tiny_a", str(colours_folder), out=tmp_path / "it", start=tiny_supernet, **{**SIZES, "epochs": 1})
        found = read_training(out)
        assert found is not None

        assert found[0].start.startswith(tiny_supernet.name)


def test_an_evaluation_holds_out_what_the_training_held_out(colours_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    for name in ("blue", "red"):
        (tmp_path / "all" / name).symlink_to(colours_folder / "train" / name)
    out = train("tiny_a", str(tmp_path / "all"), out=tmp_path / "it", seed=3, **{**SIZES, "epochs": 1})
    found = read_training(out)
    assert found is not None

    for place in (out, out / "last.torch"):
        seen = nas.evaluate(str(place), str(tmp_path / "all"))
        assert seen.scores.cross_entropy == pytest.approx(found[1][-1].figures["cross_entropy"], rel=1e-3)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"network": "nothing"}, "network named 'nothing'"),
            ({"resolution": 33}, "--resolution: "),
            ({"budget_ms": 1.0}, "--budget-ms chooses among the winners of a run"),
            ({"start": "no.safetensors"}, "no.safetensors"),
            ({"start": "winner"}, "--from winner is the weights of the winner of a run"),
            ({"weights_key": "ema"}, "--weights-key goes with --from FILE"),
            ({"teacher_weights": Path("x")}, "--teacher-weights goes with --teacher"),
            ({"recipe": "no.toml"}, "no.toml"),
            ({"data": "nowhere/"}, "nowhere/: not a file or folder here"),
            ({"batch_size": 64}, "fewer than the 64 of a step"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_is_one_line(self, arguments: dict[str, Any], says: str, colours_folder: Path, tmp_path: Path) -> None:
        given: dict[str, Any] = {"network": "tiny_a", "data": str(colours_folder), "out": tmp_path / "it", **SIZES}

        with pytest.raises(InputError, match=says) as caught:
            train(**{**given, **arguments})
        assert "\n" not in str(caught.value)

    def test_a_folder_of_something_else_stays_as_it_is(self, colours_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")

        with pytest.raises(InputError, match=r"holds mine.txt, and no training; choose another --out"):
            train("tiny_a", str(colours_folder), out=tmp_path, **SIZES)
        assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]

    def test_pictures_that_are_judged_by_what_is_learnt_are_refused(self, colours_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "pictures").mkdir()
        for split in ("train", "val"):
            (tmp_path / "pictures" / split).symlink_to(colours_folder / "train")

        with pytest.raises(InputError, match="the held-out pictures are those that are trained on, so figures on them"):
            train("tiny_a", str(tmp_path / "pictures"), out=tmp_path / "it", **SIZES)

    def test_masks_are_no_class(self, tmp_path: Path) -> None:
        for name in ("images", "masks"):
            (tmp_path / "pictures" / name).mkdir(parents=True)
            for index in range(10):
                Image.new("RGB", (32, 32)).save(tmp_path / "pictures" / name / f"{index}.png")

        with pytest.raises(
            InputError, match="images/ and masks/ are no classes: give --task segment to train on masks"
        ):
            train("tiny_a", str(tmp_path / "pictures"), out=tmp_path / "it", **SIZES)

    def test_a_broken_picture_is_named(self, colours_folder: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(colours_folder, tmp_path / "pictures")
        (tmp_path / "pictures/train/red/3.png").write_bytes(b"no picture")

        with pytest.raises(InputError, match=r"pictures: .*/3.png cannot be read .*skip_broken=true"):
            train("tiny_a", str(tmp_path / "pictures"), out=tmp_path / "it", **SIZES)

    def test_broken_held_out_pictures_are_counted_where_they_may_be_left_out(
        self, colours_folder: Path, tmp_path: Path
    ) -> None:
        import shutil

        shutil.copytree(colours_folder, tmp_path / "pictures")
        next((tmp_path / "pictures/val/red").iterdir()).write_bytes(b"no picture")
        said: list[str] = []

        data = DataSource(name=str(tmp_path / "pictures"), skip_broken=True)
        train("tiny_a", data, out=tmp_path / "it", say=said.append, **SIZES)

        assert said[-1] == f"{tmp_path}/pictures: 1 held-out picture that cannot be read left out"


def test_a_training_is_no_results_folder_and_says_so(trained: Path) -> None:
    with pytest.raises(InputError, match=r"not a results folder .*; it is a training, and training.html is its page"):
        SearchResult.load(trained)


def test_the_page_of_a_training_has_its_facts(trained: Path) -> None:
    from nas.report import write_training

    page = write_training(trained).read_text()

    assert "tiny_a: full training" in page
    figures = json.loads(page.partition('id="figures">')[2].partition("</script>")[0])
    assert {"accuracy", "loss"} == set(figures)
    with pytest.raises(InputError, match="no training of which an epoch has ended"):
        write_training(trained.parent)


def _stop(after: int) -> Any:
    def on_step(step: Step) -> None:
        if step.done == after:
            raise KeyboardInterrupt

    return on_step
