from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.data import Contents, ImageSet, validation_batches
from nas.errors import BudgetError, InputError, NasError
from nas.networks import Architecture, SearchSpace, count, operations
from nas.networks.modules import build_model, save_weights
from nas.training import Limit, SupernetRecipe, TrainingProgress, load_supernet, train_supernet
from nas.training.recipe import Optimizer, calibrate_norms, calibration_batches, judged
from nas.training.step import Sandwich
from nas.training.supernet import Origin, checkpoint_path, read_supernet, write_supernet

SPACE = SearchSpace.find("tiny")
NARROW = Limit(admits=lambda network: network.stages[0].channels == 8, words="narrow")


class _StopError(Exception):
    """Raised by a test to stop a training."""


def _train(images: ImageSet, path: Path, *, images_seen: int = 64 * 4, stop_after: int = 0, **options: Any) -> Path:
    def watch(progress: TrainingProgress) -> None:
        if progress.done == stop_after:
            raise _StopError

    recipe = SupernetRecipe(images=images_seen, batch_size=64)
    settings = {"seed": 0, "device": "cpu", "precision": "fp32", "on_progress": watch, **options}
    return train_supernet(SPACE, images, path, recipe=settings.pop("recipe", recipe), **settings)


class TestPixels:
    """A supernet of networks that classify pixels."""

    def test_it_learns_masks(self, pixel_supernet: Path, painted: ImageSet) -> None:
        supernet = load_supernet(pixel_supernet, task="segment")
        network = supernet.network(SPACE.references["tiny_a"])
        calibrate_norms(network, calibration_batches(painted, images=64, seed=0), precision="fp32")
        ((images, labels),) = validation_batches(painted, batch_size=64)

        found = judged(network, images, labels, precision="fp32")

        assert found.right.mean() > 0.8  # a third by chance
        assert found.entropies.mean() < 0.6

    def test_it_is_no_supernet_of_classifiers(self, pixel_supernet: Path) -> None:
        with pytest.raises(InputError, match="is of the task segment, and one of the task classify is needed"):
            load_supernet(pixel_supernet)

    def test_what_is_learnt_counts_from_how_common_each_class_is(self, painted: ImageSet) -> None:
        origin = Origin.of(SPACE, painted, recipe=SupernetRecipe(), seed=0, precision="fp32")
        training = Sandwich(SPACE, origin, torch.device("cpu"), None, None)

        nats, learnable = training.learnt_nats(painted)

        judged_pixels = painted.val_labels[:, 2::4, 2::4].flatten().long()
        shares = torch.bincount(judged_pixels, minlength=256)[:3].double()
        shares /= shares.sum()
        assert learnable == pytest.approx(-float((shares * shares.log()).sum()))
        assert nats < 0.1 * learnable  # nothing, before the first step

    def test_a_batch_of_which_nothing_is_known_teaches_nothing(self, painted: ImageSet) -> None:
        origin = Origin.of(SPACE, painted, recipe=SupernetRecipe(), seed=0, precision="fp32")
        training = Sandwich(SPACE, origin, torch.device("cpu"), None, None)

        losses = training.losses(torch.randn(2, 3, 32, 32), torch.full((2, 8, 8), -100))

        assert losses[0] == 0

    def test_a_stopped_training_goes_on_to_the_same_weights(self, painted: ImageSet, tmp_path: Path) -> None:
        recipe = SupernetRecipe(images=16 * 4, batch_size=16, until=None)
        straight = _train(painted, tmp_path / "a.safetensors", recipe=recipe)
        with pytest.raises(_StopError):
            _train(painted, tmp_path / "b.safetensors", recipe=recipe, stop_after=2)

        assert _train(painted, tmp_path / "b.safetensors", recipe=recipe).read_bytes() == straight.read_bytes()


class TestTraining:
    def test_largest_and_smallest_learn(self, colours: ImageSet, tmp_path: Path) -> None:
        seen: list[TrainingProgress] = []

        _train(colours, tmp_path / "x.safetensors", images_seen=64 * 24, on_progress=seen.append)

        assert seen[-1].largest < seen[0].largest - 0.1
        assert seen[-1].smallest < seen[0].smallest - 0.1
        assert [progress.steps for progress in seen] == [24] * 24

    def test_averaged_weights_are_kept_and_survive_a_kill(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        recipe = SupernetRecipe(images=256, batch_size=64, average=0.5)
        straight = _train(colours, tmp_path / "straight.safetensors", recipe=recipe)
        with pytest.raises(_StopError):
            _train(colours, tmp_path / "stopped.safetensors", recipe=recipe, stop_after=3)
        stopped = _train(colours, tmp_path / "stopped.safetensors", recipe=recipe)
        last = _train(colours, tmp_path / "last.safetensors", recipe=SupernetRecipe(images=256, batch_size=64))

        assert straight.read_bytes() == stopped.read_bytes()
        kept, others = (load_supernet(path).weights.tensors for path in (straight, last))
        assert all(torch.isfinite(tensor).all() for tensor in kept.values())
        assert any(not torch.equal(kept[name], others[name]) for name in kept)

    def test_training_ends_where_enough_is_learnt(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._LOOK_STEPS", 2)
        looks = iter([(0.1, 4.0), (0.3, 4.0), (0.5, 4.0)])
        monkeypatch.setattr(Sandwich, "learnt_nats", lambda self, images: next(looks))
        seen: list[TrainingProgress] = []

        recipe = SupernetRecipe(images=64 * 20, batch_size=64, until=0.3)
        path = _train(colours, tmp_path / "x.safetensors", recipe=recipe, on_progress=seen.append)

        assert [progress.learnt_nats for progress in seen] == [None, 0.1, 0.1, 0.3]
        assert load_supernet(path).num_classes == colours.num_classes

    def test_of_few_classes_half_is_learnt(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._LOOK_STEPS", 1)
        seen: list[TrainingProgress] = []

        recipe = SupernetRecipe(images=64 * 25, batch_size=64, until=100.0)
        _train(colours, tmp_path / "x.safetensors", recipe=recipe, on_progress=seen.append)

        looks = [progress.learnt_nats or 0.0 for progress in seen]
        half = math.log(colours.num_classes) / 2
        assert len(seen) < 25
        assert looks[-2] < half <= looks[-1] < 2 * half

    def test_killed_training_goes_on_to_the_same_weights(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        straight = _train(colours, tmp_path / "straight.safetensors")
        with pytest.raises(_StopError):
            _train(colours, tmp_path / "stopped.safetensors", stop_after=3)

        seen: list[TrainingProgress] = []
        stopped = _train(colours, tmp_path / "stopped.safetensors", on_progress=seen.append)

        assert [progress.done for progress in seen] == [3, 4]
        assert straight.read_bytes() == stopped.read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped.safetensors", "straight.safetensors"]

    def test_a_checkpoint_of_what_is_finished_goes(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that was killed right after its last step leaves both."""
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        path, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
        with pytest.raises(_StopError):
            _train(colours, path, stop_after=3)
        left = checkpoint_path(path).read_bytes()
        _train(colours, path)
        _train(colours, other, seed=1)
        for finished in (path, other):
            checkpoint_path(finished).write_bytes(left)
            with pytest.raises(InputError, match="is there already"):
                _train(colours, finished)

        assert not checkpoint_path(path).exists()
        assert checkpoint_path(other).read_bytes() == left

    def test_checkpoint_of_another_training_is_refused(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        with pytest.raises(_StopError):
            _train(colours, tmp_path / "x.safetensors", stop_after=2)

        with pytest.raises(InputError, match="is of a training with another seed: repeat its options, or remove it"):
            _train(colours, tmp_path / "x.safetensors", seed=1)
        with pytest.raises(InputError, match="is a checkpoint of a training that has not ended"):
            load_supernet(tmp_path / "x.safetensors.checkpoint")

    def test_checkpoint_is_of_the_images_whatever_their_path(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        with pytest.raises(_StopError):
            _train(colours, tmp_path / "x.safetensors", stop_after=3)

        with pytest.raises(InputError, match="is of a training with another data: repeat its options, or remove it"):
            _train(replace(colours, train_images=colours.train_images // 2), tmp_path / "x.safetensors")
        assert _train(replace(colours, description="elsewhere"), tmp_path / "x.safetensors")

    def test_checkpoint_of_other_images_says_what_is_different(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        before, now = (Contents.drawn(names, "1") for names in (["blue", "green"], ["green", "red"]))
        with pytest.raises(_StopError):
            _train(replace(colours, contents=before), tmp_path / "x.safetensors", stop_after=3)

        other = replace(colours, class_names=("grey", "red", "green", "bleu"), contents=now)
        with pytest.raises(InputError, match=r"another data \(class 'blue' is missing; class 'red' is new\): repeat"):
            _train(other, tmp_path / "x.safetensors")

    def test_checkpoint_from_before_there_were_fingerprints_goes_on(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        path = tmp_path / "x.safetensors"
        with pytest.raises(_StopError):
            _train(colours, path, stop_after=3)
        tensors, origin, done = read_supernet(checkpoint_path(path))
        old = origin.model_copy(update={"fingerprint": None, "class_names": None})
        write_supernet(checkpoint_path(path), tensors, old, done=done)

        with pytest.raises(InputError, match="is of a training with another data: repeat its options, or remove it"):
            _train(replace(colours, description="elsewhere"), path)
        seen: list[TrainingProgress] = []
        _train(colours, path, on_progress=seen.append)

        assert [progress.done for progress in seen] == [3, 4]

    def test_file_that_is_there_is_kept(self, colours: ImageSet, tiny_supernet: Path) -> None:
        with pytest.raises(InputError, match="is there already"):
            _train(colours, tiny_supernet)

    def test_only_wanted_networks_are_trained(self, colours: ImageSet, tmp_path: Path) -> None:
        untouched = load_supernet(_train(colours, tmp_path / "a.safetensors", images_seen=1, limit=NARROW))
        trained = load_supernet(_train(colours, tmp_path / "b.safetensors", limit=NARROW))

        # The first stage has two widths. If only the narrow one is trained, the other half of the stem learns nothing.
        name = "stem.project.conv.weight"
        change = (trained.weights.tensors[name] - untouched.weights.tensors[name]).flatten(1).abs().sum(1)
        assert change[:8].min() > 0
        assert change[8:].max() == 0

    def test_it_may_begin_with_the_weights_of_a_network(self, colours: ImageSet, tmp_path: Path) -> None:
        torch.manual_seed(0)  # of some draws a kernel is as small as a few steps
        donor = build_model(SPACE.references["tiny_a"].at(resolution=32, num_classes=4))
        save_weights(donor, tmp_path / "donor.safetensors", metadata={})

        begun = _train(colours, tmp_path / "x.safetensors", images_seen=1, init=tmp_path / "donor.safetensors")

        # One step moves a weight by 0.0017, a tenth of the kernels' standard deviation of 0.02.
        theirs = donor.state_dict()["layers.0.first.conv.weight"].flatten(1)
        mine = load_supernet(begun).weights.tensors["stem.first.conv.weight"].flatten(1)
        nearest = torch.cdist(theirs, mine).min(dim=1).values
        assert nearest.max() < 0.2 * theirs.norm(dim=1).min()

    def test_limit_that_nothing_meets_is_refused(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.step._POOL_DRAWS", 100)
        nothing = Limit(admits=lambda network: False, words="at most 0 ms")

        with pytest.raises(BudgetError, match="of 100 random networks of the space none is at most 0 ms"):
            _train(colours, tmp_path / "x.safetensors", limit=nothing)

    def test_networks_too_rare_to_be_met_again_are_taken_from_those_met_first(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.step._STEP_DRAWS", 0)

        assert _train(colours, tmp_path / "x.safetensors", limit=Limit(admits=lambda network: True, words="any"))

    def test_interrupted_training_goes_on_from_its_last_step(self, colours: ImageSet, tmp_path: Path) -> None:
        straight = _train(colours, tmp_path / "straight.safetensors")

        def interrupt(progress: TrainingProgress) -> None:
            if progress.done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _train(colours, tmp_path / "x.safetensors", on_progress=interrupt)
        seen: list[TrainingProgress] = []
        stopped = _train(colours, tmp_path / "x.safetensors", on_progress=seen.append)

        assert [progress.done for progress in seen] == [4]
        assert straight.read_bytes() == stopped.read_bytes()

    def test_a_disk_that_is_full_when_it_is_interrupted_makes_no_failure_of_it(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(training: Sandwich, path: Path) -> None:
            raise NasError(f"{path}: No space left on device")

        def interrupt(progress: TrainingProgress) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Sandwich, "save", full)
        with pytest.raises(KeyboardInterrupt) as stopped:
            _train(colours, tmp_path / "x.safetensors", on_progress=interrupt)

        assert ["No space left on device" in note for note in stopped.value.__notes__] == [True]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_interruption_of_a_step_waits_for_its_end(
        self, number: signal.Signals, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight = _train(colours, tmp_path / "straight.safetensors")
        step, steps = Optimizer.step, iter(range(9))

        def interrupted(self: Optimizer, share: float) -> None:
            if next(steps) == 2:
                os.kill(os.getpid(), number)
            step(self, share)

        # The handler that the command line sets for SIGTERM. SIGINT needs it here as well, because a shell starts its
        # background jobs with SIGINT ignored.
        before = signal.signal(number, signal.default_int_handler)
        try:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(Optimizer, "step", interrupted)
                _train(colours, tmp_path / "x.safetensors")
        finally:
            signal.signal(number, before)
        seen: list[TrainingProgress] = []
        stopped = _train(colours, tmp_path / "x.safetensors", on_progress=seen.append)

        assert [progress.done for progress in seen] == [4]
        assert straight.read_bytes() == stopped.read_bytes()

    def test_a_step_trains_largest_smallest_and_random_networks_on_what_the_largest_says(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passes: list[tuple[Architecture, Tensor]] = []
        told: list[Tensor] = []
        logits, cross_entropy = Sandwich._logits, F.cross_entropy

        def watched(self: Any, architecture: Architecture, images: Tensor) -> Tensor:
            passes.append((architecture, logits(self, architecture, images)))
            return passes[-1][1]

        def compared(outputs: Tensor, targets: Tensor, **options: Any) -> Tensor:
            told.append(targets)
            return cross_entropy(outputs, targets, **options)

        monkeypatch.setattr(Sandwich, "_logits", watched)
        monkeypatch.setattr("nas.training.step.F.cross_entropy", compared)
        _train(colours, tmp_path / "x.safetensors", recipe=SupernetRecipe(images=192, batch_size=64))

        steps = [[count(network).macs for network, _ in passes[start : start + 4]] for start in (0, 4, 8)]
        sizes = {"resolution": 32, "num_classes": 4}
        for step in steps:
            assert step[0] == max(step) > count(SPACE.references["tiny_a"].at(**sizes)).macs
            assert (
                step[1]
                == count(SPACE.extreme(lambda layer: sum(part.macs for part in operations(layer))).at(**sizes)).macs
            )
        assert len({network.id for network, _ in passes}) > 4  # every step draws other random networks
        for start in (0, 4, 8):
            assert told[start].dtype == torch.int64
            for targets in told[start + 1 : start + 4]:
                torch.testing.assert_close(targets, passes[start][1].softmax(1))

    def test_data_with_a_step_too_large_for_memory_is_named(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        monkeypatch.setattr(Sandwich, "losses", full)

        with pytest.raises(
            NasError, match=r"out of memory on cpu with 64 images a step of 32 px; try a smaller --batch"
        ):
            _train(colours, tmp_path / "x.safetensors")

    def test_several_processes_without_torchrun_are_refused(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")

        with pytest.raises(
            InputError, match="WORLD_SIZE is 2, and LOCAL_RANK is not set: start the processes with torc"
        ):
            _train(colours, tmp_path / "x.safetensors")

    def test_training_goes_on_in_its_precision(
        self, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        straight = _train(colours, tmp_path / "straight.safetensors", precision="bf16")
        with pytest.raises(_StopError):
            _train(colours, tmp_path / "x.safetensors", precision="bf16", stop_after=3)

        monkeypatch.setattr("nas.training.sandwich.faster_precision", lambda device: "fp32")
        stopped = _train(colours, tmp_path / "x.safetensors", precision=None)

        assert straight.read_bytes() == stopped.read_bytes()

    def test_two_processes_share_their_gradients_and_train_one_supernet(self, tmp_path: Path) -> None:
        (tmp_path / "watched.py").write_text(
            "import torch.distributed as dist\n"
            "import torch\n"
            "from nas.training.step import Sandwich\n"
            "from nas.cli import main\n"
            "update, losses = Sandwich.update, Sandwich.losses\n"
            "def apart(self, images, labels):\n"
            "    both = [torch.empty_like(images) for _ in range(2)]\n"
            "    dist.all_gather(both, images)\n"
            "    assert not torch.equal(*both), 'the processes see the same images'\n"
            "    return losses(self, images, labels)\n"
            "Sandwich.losses = apart\n"
            "def watched(self, share):\n"
            "    update(self, share)\n"
            "    own = torch.stack([tensor.detach().double().sum() for tensor in self.weights.tensors.values()])\n"
            "    both = [torch.zeros_like(own) for _ in range(2)]\n"
            "    dist.all_gather(both, own)\n"
            "    assert torch.equal(*both), 'the processes have other weights'\n"
            "Sandwich.update = watched\n"
            "main()\n"
        )
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["watched.py", "supernet", "train", "--space", "tiny"]
        command += ["--images", "128", "--resolution", "32", "--out", "both.safetensors"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}

        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stderr
        assert load_supernet(tmp_path / "both.safetensors").num_classes == 20
        assert done.stdout.split() == ["both.safetensors"]
