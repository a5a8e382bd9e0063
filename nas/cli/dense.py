"""`nas train --task detect` and `--task segment`: a detector or a segmenter over a network, or the winner of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.status import doing, watching
from nas.cli.terminal import print_data, print_json, say
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.training.course import Epoch, Step

__all__ = ["TASKS", "train_dense"]

TASKS = ("classify", "detect", "segment")
_BEST = {"detect": "mask_ap", "segment": "miou"}
_WORDS = {"box_ap": "box AP", "mask_ap": "mask AP", "miou": "mIoU", "pixel_accuracy": "right pixels"}


def train_dense(
    network: str,
    data: str,
    *,
    task: str,
    out: Path | None,
    is_first: bool,
    as_json: bool,
    refused: dict[str, object],
    on_step: Callable[[Step], None],
    **options: Any,
) -> None:
    """Train, and print the folder.

    Args:
        network: as of `nas train`.
        data: a folder.
        task: `detect` or `segment`.
        out: folder to write.
        is_first: whether this process prints.
        as_json: print one JSON document.
        refused: options of classification, by name; none may be given.
        on_step: shows the step.
        options: of `nas.search.dense.train_dense`.
    """
    from nas.dense.trained import BEST_WEIGHTS
    from nas.search.dense import train_dense as run
    from nas.training.record import read_training

    if given := [name for name, value in refused.items() if value]:
        raise InputError(f"{given[0]} is of --task classify; --recipe says how the task {task} is trained")
    folder = out or Path("results") / f"{'stdin' if network == '-' else Path(network).stem}-{task}"

    def ended(epoch: Epoch) -> None:
        figures = ", ".join(
            f"{words} {epoch.figures[name]:.1%}" for name, words in _WORDS.items() if name in epoch.figures
        )
        best = ", the best so far" if epoch.is_best else ""
        say(f"epoch {epoch.epoch}: loss {epoch.loss:.3f}, {figures}{best} ({epoch.images_per_s:.1f} images/s)")

    with watching("training: the first step"):
        run(
            network,
            data,
            task=task,  # type: ignore[arg-type]
            out=folder,
            say=say if is_first else lambda line: None,  # noqa: ARG005
            on_progress=doing,
            on_step=on_step,
            on_epoch=ended,
            stdin=sys.stdin.buffer,
            **options,
        )
    if not is_first:
        return
    found = read_training(folder)
    assert found is not None
    _, history = found
    best = max(history, key=lambda epoch: epoch.figures[_BEST[task]])
    if as_json:
        shown = {
            name: {"epoch": one.epoch, "figures": one.figures} for name, one in (("best", best), ("last", history[-1]))
        }
        print_json({"folder": str(folder), **shown})
        return
    print_data(str(folder))
    say(f"weights for nas.backbone: {folder / BEST_WEIGHTS}; the whole: nas.dense.trained.load({str(folder)!r})")
