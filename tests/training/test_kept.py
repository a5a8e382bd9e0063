"""Supernets that nas trains by itself: found by content, trained once, continued after a stop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nas.data import ImageSet, load_images
from nas.errors import InputError
from nas.files import cache_folder
from nas.networks import SearchSpace
from nas.training import (
    Limit,
    SupernetRecipe,
    TrainingProgress,
    estimate_seconds,
    find_supernet,
    kept_supernet,
    load_supernet,
)
from nas.training.supernet import checkpoint_path

SPACE = SearchSpace.find("tiny")
RECIPE = SupernetRecipe(images=16 * 4, batch_size=16)
ANY = Limit(admits=lambda network: True, words="any")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _same_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.training.sandwich.faster_precision", lambda device: "fp32")


class _StopError(Exception):
    """Raised by a test to stop a training."""


def _kept(images: ImageSet, *, seen: list[int] | None = None, stop_after: int = 0, **options: Any) -> Path:
    def watch(progress: TrainingProgress) -> None:
        if seen is not None:
            seen.append(progress.done)
        if progress.done == stop_after:
            raise _StopError

    settings: dict[str, Any] = {"space": SPACE, "recipe": RECIPE, "seed": 0, "device": "cpu", "on_progress": watch}
    settings |= options
    return kept_supernet(settings.pop("space"), images, **settings)


class TestKept:
    def test_it_is_trained_once(self, colours: ImageSet) -> None:
        first: list[int] = []
        second: list[int] = []

        before = find_supernet(SPACE, colours, recipe=RECIPE, seed=0)
        path = _kept(colours, seen=first)
        again = _kept(colours, seen=second)

        assert before is None
        assert path == again == find_supernet(SPACE, colours, recipe=RECIPE, seed=0)
        assert path.parent == cache_folder("supernets")
        assert (first, second) == ([1, 2, 3, 4], [])
        assert load_supernet(path).class_names == colours.class_names

    def test_a_copy_of_the_images_elsewhere_has_the_same_supernet(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(_pets(tmp_path / "pets"), tmp_path / "elsewhere" / "animals")
        monkeypatch.chdir(tmp_path)
        sources = ["pets", str(tmp_path / "pets"), "elsewhere/../elsewhere/animals/"]
        one, *others = (load_images(source, resolution=32, seed=0) for source in sources)

        path = _kept(one)

        assert {path} == {find_supernet(SPACE, other, recipe=RECIPE, seed=0) for other in others}
        assert one.description != others[-1].description

    @pytest.mark.parametrize(
        "other",
        [
            {"seed": 1},
            {"recipe": RECIPE.model_copy(update={"images": 16 * 5})},
            {"recipe": RECIPE.model_copy(update={"rate": 1e-3})},
            {"space": SPACE.model_copy(update={"layer_scale": 0.1})},
            {"limit": ANY},
        ],
    )
    def test_other_settings_have_another_supernet(self, colours: ImageSet, other: dict[str, Any]) -> None:
        _kept(colours)
        settings: dict[str, Any] = {"space": SPACE, "recipe": RECIPE, "seed": 0} | other

        assert find_supernet(settings.pop("space"), colours, **settings) is None

    def test_other_images_have_another_supernet(self, colours: ImageSet) -> None:
        darker = replace(colours, train_images=colours.train_images // 2)

        assert _kept(colours) != _kept(darker)

    def test_a_damaged_file_is_trained_again(self, colours: ImageSet) -> None:
        path = _kept(colours)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])

        assert find_supernet(SPACE, colours, recipe=RECIPE, seed=0) is None
        assert _kept(colours).read_bytes() == whole

    def test_a_supernet_that_is_there_is_found_in_a_cache_that_cannot_be_written(
        self, colours: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = _kept(colours)

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)

        assert path == _kept(colours)
        with pytest.raises(InputError, match=r"supernets: cannot keep supernets there \(Permission denied\); set NAS_"):
            _kept(colours, seed=1)

    def test_torchrun_is_refused(self, colours: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")

        with pytest.raises(InputError, match="under torchrun only nas supernet train trains a supernet"):
            _kept(colours)


class TestStopped:
    def test_stopped_training_goes_on_with_the_images_at_another_path(
        self, colours: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        straight = _kept(colours).read_bytes()
        find_supernet(SPACE, colours, recipe=RECIPE, seed=0).unlink()  # type: ignore[union-attr]
        with pytest.raises(_StopError):
            _kept(replace(colours, description="at another path"), stop_after=3)

        seen: list[int] = []
        assert find_supernet(SPACE, colours, recipe=RECIPE, seed=0) is None
        path = _kept(colours, seen=seen)

        assert seen == [3, 4]  # The checkpoint of step 3 was not written yet.
        assert straight == path.read_bytes()
        assert not list(path.parent.glob("*.checkpoint"))

    def test_killed_process_leaves_its_checkpoint_and_no_lock(self, tmp_path: Path) -> None:
        program = (
            "import os, signal, torch\n"
            "from nas.data import load_images\n"
            "from nas.networks import SearchSpace\n"
            "from nas.training import SupernetRecipe, kept_supernet, sandwich\n"
            "torch.set_num_threads(1)\n"
            "sandwich._CHECKPOINT_S = -1.0\n"
            "sandwich.faster_precision = lambda device: 'fp32'\n"
            "def kill(progress):\n"
            "    if progress.done == 3:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "images = load_images('synthetic', resolution=32, seed=0, train_limit=64, val_limit=32)\n"
            "recipe = SupernetRecipe(images=16 * 4, batch_size=16)\n"
            "kept_supernet(SearchSpace.find('tiny'), images, recipe=recipe, seed=0, device='cpu', on_progress=kill)\n"
        )

        done = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, check=False)
        seen: list[int] = []
        images = load_images("synthetic", resolution=32, seed=0, train_limit=64, val_limit=32)
        waited: list[bool] = []
        _kept(images, seen=seen, on_wait=lambda: waited.append(True))

        assert done.returncode == -signal.SIGKILL, done.stderr
        assert (seen, waited) == ([3, 4], [])

    def test_a_second_process_waits_and_trains_nothing(self, colours: ImageSet) -> None:
        # A lock belongs to an open file, so a thread that opens the file again waits as another process does.
        begun, waiting = threading.Event(), threading.Event()
        first: list[Path] = []

        def hold(progress: TrainingProgress) -> None:
            begun.set()
            assert waiting.wait(timeout=60)

        trains = threading.Thread(target=lambda: first.append(_kept(colours, on_progress=hold)))
        trains.start()
        assert begun.wait(timeout=60)
        seen: list[int] = []
        path = _kept(colours, seen=seen, on_wait=waiting.set)
        trains.join()

        assert [path] == first
        assert seen == []

    def test_a_checkpoint_of_what_is_finished_goes(self, colours: ImageSet) -> None:
        path = _kept(colours)
        checkpoint_path(path).write_bytes(path.read_bytes())

        assert _kept(colours) == path
        assert not checkpoint_path(path).exists()

    def test_a_process_that_waited_goes_on_where_the_other_one_stopped(
        self, colours: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        begun, waiting = threading.Event(), threading.Event()

        def stop(progress: TrainingProgress) -> None:
            begun.set()
            assert waiting.wait(timeout=60)
            if progress.done == 3:
                raise _StopError

        def train() -> None:
            with pytest.raises(_StopError):
                _kept(colours, on_progress=stop)

        trains = threading.Thread(target=train)
        trains.start()
        assert begun.wait(timeout=60)
        seen: list[int] = []
        _kept(colours, seen=seen, on_wait=waiting.set)
        trains.join()

        assert seen == [3, 4]


class TestEstimate:
    def test_it_is_the_time_of_the_missing_steps(self, colours: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
        def estimate() -> float:
            (seconds,) = estimate_seconds(SPACE, colours, recipes=[RECIPE], seed=0, device="cpu")
            return seconds

        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        monkeypatch.setattr("nas.training.kept.step_seconds", lambda *_, **__: 10.0)
        untouched = estimate()
        with pytest.raises(_StopError):
            _kept(colours, stop_after=3)
        half_trained = estimate()
        _kept(colours)

        assert (untouched, half_trained, estimate()) == (40.0, 20.0, 0.0)

    def test_a_step_is_measured_and_leaves_nothing_behind(self, colours: ImageSet) -> None:
        longer = RECIPE.model_copy(update={"images": 2 * RECIPE.images})
        long_s, short_s = estimate_seconds(SPACE, colours, recipes=[longer, RECIPE], seed=0, device="cpu")

        assert 0 < short_s < 60
        assert long_s == pytest.approx(2 * short_s)
        assert not cache_folder("supernets").exists()

    def test_a_checkpoint_is_measured_in_its_precision(
        self, colours: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.sandwich._CHECKPOINT_S", -1.0)
        monkeypatch.setattr("nas.training.sandwich.faster_precision", lambda device: "bf16")
        with pytest.raises(_StopError):
            _kept(colours, stop_after=2)
        asked: list[str] = []

        def measure(*_: object, precision: str, **__: object) -> float:
            asked.append(precision)
            return 1.0

        monkeypatch.setattr("nas.training.kept.step_seconds", measure)

        estimate_seconds(SPACE, colours, recipes=[RECIPE], seed=0, device="cpu")

        assert asked == ["bf16"]


def _pets(folder: Path) -> Path:
    """Two classes of ten images of one colour each."""
    for name, channel in (("cat", 0), ("dog", 1)):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            colour = [0, 0, 0]
            colour[channel] = 50 + 20 * index
            Image.new("RGB", (32, 32), tuple(colour)).save(folder / name / f"{index}.png")
    return folder
