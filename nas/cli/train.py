"""`nas train`: train a network, or the winner of a run, in full."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options
from nas.cli.dense import TASKS, train_dense
from nas.cli.next_steps import say_next
from nas.cli.status import doing, watching
from nas.cli.terminal import end_like_ctrl_c, print_data, print_json, say
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.training.course import Epoch, Step

__all__ = ["train"]


def train(
    network: Annotated[
        str, typer.Argument(help="A reference, an architecture file, - for stdin, or a results folder (its winner).")
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", help="A folder of class folders, Parquet or WebDataset files, a hub data set, or synthetic."
        ),
    ],
    option: options.DataOptions = None,
    task: Annotated[
        str,
        typer.Option(help="classify, detect (a folder in COCO's format) or segment (a folder of images and masks)."),
    ] = "classify",
    recipe: Annotated[
        Path | None,
        typer.Option(help="TOML file of what differs from the default recipe.", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images.", show_default="300")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=2, help="Images of a step, of all processes.", show_default="4096, fewer for fewer images"),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=32, help="Input size in pixels.", show_default="as NETWORK says")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Of a run, the winner inside this budget.", show_default="its largest")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Weights to begin with: a supernet, a network of any size, a folder of one or of a training, winner "
            "(of the run), timm or timm:NAME.",
            show_default="random",
        ),
    ] = None,
    weights_key: options.WeightsKey = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Learn from this network as well: efficientnet-lite0, efficientnet-lite2, or timm:NAME.",
            show_default=False,
        ),
    ] = None,
    teacher_weights: Annotated[
        Path | None, typer.Option(help="File of a teacher timm:NAME.", show_default="downloaded")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of weights, order and changes of images.")] = 0,
    precision: Annotated[
        str | None, typer.Option(help="Of matrix products: fp32 or bf16.", show_default="the faster")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, max=256, help="Processes that decode images.", show_default="one a spare core")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile translate the network first.")] = False,
    track: Annotated[
        str | None, typer.Option("--track", help="Also log to tensorboard[:DIR].", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.", show_default="results/NETWORK-trained, or in the run")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Train a network in full, by the recipe of the paper, fitted to the number of images.

    The same command goes on where a training was stopped. The folder has metrics.jsonl, the networks best.torch and
    last.torch, for nas export and nas evaluate, and training.html.

    --json: {"folder", "best": {"epoch", "figures"}, "last": {"epoch", "figures"}}.

    Example: nas train tiny_a --data synthetic --resolution 64 --epochs 1 --out trained

    Example: nas train results/photos --data photos/ --from winner --teacher timm:regnety_160.deit_in1k

    Example: nas train iformer_m --data coco/ --task detect --from results/iformer_m-trained

    Several GPUs: torchrun --nproc-per-node 4 --no-python nas train iformer_m --data imagenet/
    """
    from nas.report import write_report, write_training
    from nas.report.training_log import TrainingLog
    from nas.search import SearchResult
    from nas.search.train import train as run
    from nas.training.record import read_training

    end_like_ctrl_c()
    if precision not in (None, "fp32", "bf16"):
        raise InputError(f"--precision must be fp32 or bf16, got {precision!r}")
    if task not in TASKS:
        raise InputError(f"--task must be {', '.join(TASKS[:-1])} or {TASKS[-1]}, got {task!r}")
    is_first = os.environ.get("RANK", "0") == "0"  # Under torchrun only the first process prints.

    def show(step: Step) -> None:
        doing(
            f"training, step: epoch {step.epoch} of {step.epochs}, loss {step.loss:.3f}, "
            f"{step.images_per_s:.0f} images/s",
            step.done,
            step.steps,
        )

    if task != "classify":
        given = {"--option": option, "--resolution": resolution, "--teacher": teacher}
        train_dense(
            network,
            data,
            task=task,
            out=out,
            is_first=is_first,
            as_json=as_json,
            refused=given | {"--teacher-weights": teacher_weights, "--track": track},
            on_step=show,
            recipe=recipe,
            epochs=epochs,
            batch_size=batch_size,
            budget_ms=budget_ms,
            start=start,
            weights_key=weights_key,
            seed=seed,
            precision=precision,
            workers=workers,
            is_compiled=compiled,
            command=tuple(options.command_line()),
        )
        return
    source, others = options.read_data(data, option)
    if others:
        raise InputError(f"--option {others[0]}: nas train takes image, label and skip_broken, of the data")
    folder = out or _default_out(network, budget_ms)
    log = TrainingLog(track, folder) if track else None

    def ended(epoch: Epoch) -> None:
        write_training(folder)
        if log is not None:
            log.write(epoch)
        best = ", the best so far" if epoch.is_best else ""
        say(
            f"epoch {epoch.epoch}: loss {epoch.loss:.3f}, top-1 {epoch.figures['top1']:.1%}, "
            f"top-5 {epoch.figures['top5']:.1%}{best} ({epoch.images_per_s:.0f} images/s)"
        )

    with watching("training: the first step"):
        run(
            network,
            source or data,
            out=folder,
            recipe=recipe,
            epochs=epochs,
            batch_size=batch_size,
            resolution=resolution,
            budget_ms=budget_ms,
            start=start,
            weights_key=weights_key,
            teacher=teacher,
            teacher_weights=teacher_weights,
            seed=seed,
            precision=precision,  # type: ignore[arg-type]
            workers=workers,
            is_compiled=compiled,
            command=tuple(options.command_line()),
            say=say if is_first else lambda line: None,  # noqa: ARG005
            on_step=show,
            on_epoch=ended,
            stdin=sys.stdin.buffer,
        )
    if not is_first:
        return
    write_training(folder)  # which a kill after the last epoch may have kept away
    if (Path(network) / "run.json").exists():
        write_report(SearchResult.load(Path(network)))  # whose page tells of the training of its winner
    found = read_training(folder)
    assert found is not None
    _, history = found
    best = max(history, key=lambda epoch: epoch.figures["top1"])
    if as_json:
        shown = {
            name: {"epoch": one.epoch, "figures": one.figures} for name, one in (("best", best), ("last", history[-1]))
        }
        print_json({"folder": str(folder), **shown})
        return
    print_data(str(folder))
    options_of_data = [word for text in option or [] for word in ("--option", text)]
    say_next(
        [
            (["evaluate", str(folder), "--data", data, *options_of_data], "top-1, top-5 and confusions"),
            (["export", str(folder / "best.torch"), "--format", "onnx"], "for another tool"),
        ]
    )


def _default_out(network: str, budget_ms: float | None) -> Path:
    """Beside the other results; of a run, in its folder, where its page finds it."""
    path = Path(network)
    if (path / "run.json").exists():
        return path / "trained" / ("winner" if budget_ms is None else f"winner-{budget_ms:g}ms")
    return Path("results") / f"{'stdin' if network == '-' else path.stem}-trained"
