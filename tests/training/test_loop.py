"""The loop of a full training, on a task of a few numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.errors import InputError, NasError
from nas.training.course import Begun, Epoch, Step, Watch
from nas.training.loop import train
from nas.training.optimisation import Optimisation

CPU = torch.device("cpu")
PLAIN = Optimisation(epochs=3, batch_size=8, rate=0.05, warmup_epochs=0.5)


class Line:
    """Fits a line to points, with noise in every step that comes from torch's generator, as stochastic depth does."""

    best = "fit"
    steps = 4

    def __init__(self, *, accumulate: int = 1, noise: float = 0.1) -> None:
        self.module: nn.Module = nn.Sequential(nn.Linear(3, 2, bias=True), nn.BatchNorm1d(2))
        with torch.no_grad():
            for number, parameter in enumerate(self.module.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape) + number / 10)
        self.accumulate, self.noise = accumulate, noise
        self.rates: list[float] = []

    def batches(self, epoch: int, *, done: int) -> Iterator[Any]:
        for step in range(done, self.steps):
            points = torch.randn(8, 3, generator=torch.Generator().manual_seed(100 * epoch + step))
            yield list(points.chunk(self.accumulate)) if self.accumulate > 1 else points

    def loss(self, module: nn.Module, batch: Any) -> tuple[Tensor, int]:
        wanted = batch[:, :2] + self.noise * torch.randn(len(batch), 2)
        return (module(batch) - wanted).square().mean(), len(batch)

    def judge(self, module: nn.Module) -> dict[str, float]:
        assert not module.training
        points = torch.randn(32, 3, generator=torch.Generator().manual_seed(7))
        return {"fit": -float((module(points) - points[:, :2]).square().mean())}


def trained(
    folder: Path,
    optimisation: Optimisation = PLAIN,
    *,
    stop: int | None = None,
    seed: int = 0,
    task: Line | None = None,
) -> tuple[Line, list[Epoch], list[Step]]:
    """A whole training, or one that is interrupted after a step."""
    task, steps = task or Line(), list[Step]()

    def on_step(step: Step) -> None:
        steps.append(step)
        if step.done == stop:
            raise KeyboardInterrupt

    def keep(module: nn.Module, epoch: Epoch) -> None:
        kept = {name: tensor.tolist() for name, tensor in module.state_dict().items()}
        (folder / f"epoch-{epoch.epoch}.json").write_text(json.dumps(kept))

    folder.mkdir(exist_ok=True)
    history: list[Epoch] = []
    try:
        history = train(
            task,
            optimisation,
            folder,
            identity={"images": "points"},
            seed=seed,
            device=CPU,
            precision="fp32",
            keep=keep,
            on_step=on_step,
            on_epoch=lambda epoch: None,
        )
    except KeyboardInterrupt:
        assert stop is not None
    return task, history, steps


def weights(task: Line) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in task.module.state_dict().items()}


@pytest.mark.usefixtures("timm")
class TestResume:
    @pytest.mark.parametrize("stop", [1, 4, 6, 11])
    @pytest.mark.parametrize("ema", [0.0, 0.9])
    def test_what_was_stopped_at_any_step_ends_the_same(self, stop: int, ema: float, tmp_path: Path) -> None:
        optimisation = PLAIN.model_copy(update={"ema": ema})
        whole, history, _ = trained(tmp_path / "whole", optimisation)
        trained(tmp_path / "part", optimisation, stop=stop)
        went_on, later, steps = trained(tmp_path / "part", optimisation)

        assert steps[0].done == stop + 1
        assert weights(whole) == weights(went_on)
        for one, other in zip(history, later, strict=True):
            assert one.model_copy(update={"seconds": other.seconds, "images_per_s": other.images_per_s}) == other
        last = [(tmp_path / name / "epoch-3.json").read_text() for name in ("whole", "part")]
        assert last[0] == last[1]

    def test_an_epoch_counts_what_was_done_of_it_before_a_stop(self) -> None:
        watch = Watch()
        watch.begin(Begun(steps=2, loss=3.0, images=16, seconds=100.0))
        watch.count(8, 6.0)
        watch.end()

        assert (watch.begun.steps, watch.begun.images, watch.mean_loss) == (3, 24, 3.0)
        assert watch.seconds >= 100
        assert watch.images_per_s == pytest.approx(24 / watch.seconds)

    def test_a_finished_training_is_not_done_again(self, tmp_path: Path) -> None:
        _, history, _ = trained(tmp_path / "it")
        _, again, steps = trained(tmp_path / "it")

        assert (history, []) == (again, steps)

    @pytest.mark.parametrize(
        ("change", "seed", "says"), [({"rate": 0.5}, 0, "rate"), ({}, 1, "seed"), ({"epochs": 4}, 1, "epochs, seed")]
    )
    def test_another_training_is_refused_by_what_differs(
        self, change: dict[str, Any], seed: int, says: str, tmp_path: Path
    ) -> None:
        trained(tmp_path / "it", stop=2)

        with pytest.raises(InputError, match=rf"is of another training \({says}\): repeat"):
            trained(tmp_path / "it", PLAIN.model_copy(update=change), seed=seed)

    def test_a_damaged_checkpoint_is_refused(self, tmp_path: Path) -> None:
        trained(tmp_path / "it", stop=2)
        (tmp_path / "it/checkpoint.safetensors").write_bytes(b"half")

        with pytest.raises(InputError, match=r"checkpoint.safetensors: is no checkpoint that can be gone on with"):
            trained(tmp_path / "it")

    def test_generators_of_the_process_stay_as_they_were(self, tmp_path: Path) -> None:
        task = Line()
        before = torch.get_rng_state()
        trained(tmp_path / "it", task=task)

        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.usefixtures("timm")
class TestSteps:
    def test_every_epoch_has_a_line_and_the_best_is_marked(self, tmp_path: Path) -> None:
        _, history, steps = trained(tmp_path / "it")
        lines = [json.loads(line) for line in (tmp_path / "it/metrics.jsonl").read_text().splitlines()]

        assert [one.model_dump() for one in history] == lines
        assert [(one.epoch, one.step, one.images) for one in history] == [(1, 4, 32), (2, 8, 64), (3, 12, 96)]
        best = -float("inf")
        for one in history:
            assert one.is_best == (one.figures["fit"] > best)
            best = max(best, one.figures["fit"])
        assert len(steps) == 12

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"warmup_epochs": 0.0}, [0.05, 0.05 * 0.5 * (1 + 2**-0.5), 0.025]),
            ({"warmup_epochs": 0.5, "schedule": "step", "drops": (2,)}, [0.00005, 0.05, 0.005]),
            ({"warmup_epochs": 0.0, "schedule": "poly"}, [0.05, 0.05 * 0.75**0.9, 0.05 * 0.5**0.9]),
        ],
    )
    def test_the_rate_follows_the_schedule(self, change: dict[str, Any], expected: list[float]) -> None:
        from nas.training.optimisation import adamw, rates

        module = nn.Linear(2, 2)
        optimisation = Optimisation(epochs=4, batch_size=8, rate=0.05).model_copy(update=change)
        optimizer = adamw(module, optimisation)
        set_rate = rates(optimizer, optimisation, 4)
        found = []
        for step in (0, 4, 8):
            set_rate(step)
            found.append(optimizer.param_groups[0]["lr"])

        assert expected == pytest.approx(found)

    def test_parts_of_a_batch_add_up_to_the_batch(self, tmp_path: Path) -> None:
        plain, accumulated = (
            trained(
                tmp_path / str(parts),
                Optimisation(epochs=1, batch_size=8, rate=0.05, accumulate=parts),
                task=_without_norm(parts),
            )[0]
            for parts in (1, 2)
        )

        for one, other in zip(plain.module.parameters(), accumulated.module.parameters(), strict=True):
            torch.testing.assert_close(one, other)

    def test_norms_and_biases_do_not_decay(self) -> None:
        from nas.training.optimisation import adamw

        groups = adamw(Line().module, PLAIN.model_copy(update={"weight_decay": 0.3})).param_groups

        assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.3, 1), (0.0, 3)]

    def test_gradients_are_clipped(self, tmp_path: Path) -> None:
        free, _, _ = trained(tmp_path / "free", PLAIN)
        held, _, _ = trained(tmp_path / "held", PLAIN.model_copy(update={"clip": 1e-12}))

        assert weights(free) != weights(held)

    def test_a_loss_that_is_no_number_ends_the_training(self, tmp_path: Path) -> None:
        with pytest.raises(NasError, match="training diverged in step 1: try a lower rate"):
            trained(tmp_path / "it", task=Line(noise=float("inf")))


def _without_norm(parts: int) -> Line:
    """Statistics of a batch norm are of a part, not of the whole batch."""
    task = Line(accumulate=parts, noise=0.0)
    task.module = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in task.module.parameters():
            parameter.fill_(0.3)
    return task
