"""How a network, or the winner of a run, is trained for detection or segmentation: `nas train --task`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nas.errors import InputError
from nas.files import digest, digest_of
from nas.search.result import SearchResult, trained_network, weights_file
from nas.search.training import check_out, decoders, run_training, winner_of

if TYPE_CHECKING:
    import torch

    from nas.dense import Backbone
    from nas.dense.coco import CocoFolder
    from nas.dense.detection import DetectionTask
    from nas.dense.masks import MaskFolder
    from nas.dense.recipe import DenseTask, DetectionRecipe, SegmentationRecipe
    from nas.dense.segmentation import SegmentationTask
    from nas.networks import Architecture
    from nas.networks.modules import Network
    from nas.training.course import Epoch, Step
    from nas.training.recipe import Precision
    from nas.training.record import TrainingRecord

__all__ = ["train_dense"]

_TIMM, _RANDOM, _WINNER = "timm", "random", "winner"
_SHOWN = 12  # characters of a digest


def train_dense(
    network: str | Path | Architecture | Network | SearchResult,
    data: str | Path,
    *,
    task: DenseTask,
    out: str | Path,
    recipe: str | Path | DetectionRecipe | SegmentationRecipe | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    budget_ms: float | None = None,
    start: str | Path | None = None,
    weights_key: str | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: Precision | None = None,
    workers: int | None = None,
    is_compiled: bool = False,
    command: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    on_progress: Callable[[str, int, int], None] | None = None,
    on_step: Callable[[Step], None] = lambda step: None,  # noqa: ARG005
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,  # noqa: ARG005
    stdin: BinaryIO | None = None,
) -> Path:
    """Train a detector or a segmenter over a network, or go on with the training in `out`.

    The folder then holds training.json, metrics.jsonl, checkpoint.safetensors, and the weights best.safetensors and
    last.safetensors. `nas.dense.trained.load` gives the module of the folder, and `nas.backbone` takes the files.

    Args:
        network: a reference, an architecture file, `-` for an architecture on `stdin`, a results folder (its winner),
            or a folder of `--format torch`.
        data: for `detect` a folder in COCO's format, for `segment` a folder of images and masks.
        task: `detect` or `segment`.
        out: folder to write.
        recipe: a recipe, or a TOML file of what differs from that of the paper.
        epochs: by default 12 for detection and 20 times 2,000 steps for segmentation. Not where `recipe` says them.
        batch_size: images of a step, of all processes. Not where `recipe` says it.
        budget_ms: of a run, the winner inside this budget; by default its largest.
        start: weights of the network to begin with: a checkpoint, a folder of a network or of a training, `winner` for
            those of the run, `timm` or `timm:NAME`; by default those that the folder or the run has, else random ones.
        weights_key: which weights to take from a file that has several.
        seed: of weights, order and changes.
        device: `cpu` or `cuda`; by default a GPU if there is one.
        precision: of matrix products; by default bf16 on a GPU and fp32 on a CPU.
        workers: processes that decode, beside each that trains; by default one for each further core, at most 8.
        is_compiled: let torch.compile translate the module first.
        command: for the record.
        say: gets words, line by line.
        on_progress: called while the folder is read.
        on_step: called after every step, in the first process.
        on_epoch: called after every epoch, in the first process.
        stdin: read to its end if `network` is `-`.
    Returns:
        `out`.
    Raises:
        InputError: an argument cannot be used, or `out` holds another training.
        NasError: training diverged, memory ran out, or the disk is full.
    """
    import torch

    from nas.dense.recipe import DenseRecipe, fitted, of_file
    from nas.dense.trained import keep
    from nas.training.optimisation import check_sizes
    from nas.training.processes import joined

    check_sizes(epochs=epochs, batch_size=batch_size)
    folder = Path(out)
    check_out(folder)
    if isinstance(recipe, DenseRecipe) and (epochs or batch_size):
        raise InputError("the recipe says epochs and batch_size itself: leave the arguments out")
    with joined(device) as target:
        source = _source(task, Path(data), seed, on_progress)
        if isinstance(recipe, DenseRecipe):
            used = recipe
        elif recipe is None:
            used = fitted(source, epochs=epochs, batch_size=batch_size)
        else:
            used = of_file(Path(recipe), source, epochs=epochs, batch_size=batch_size)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            name, candidate_id, body, origin = _body(network, budget_ms, start, weights_key, used, stdin)
        work = _task(body, source, used, target, seed, decoders(workers))
        run_training(
            work,
            used.optimisation,
            folder,
            asked={
                "task": task,
                "name": name,
                "candidate_id": candidate_id,
                "architecture": body.architecture,
                "data": f"{source.path.name}: {len(source.train):,} images to learn from, {len(source.val):,} held out",
                "fingerprint": _fingerprint(source),
                "classes": source.class_names,
                "recipe": used.model_dump(mode="json"),
                "normalisation": body.normalisation,
                "start": origin,
            },
            seed=seed,
            device=target,
            precision=precision,
            fastest=lambda: "bf16" if target.type == "cuda" else "fp32",
            is_compiled=is_compiled,
            command=command,
            libraries=("faster-coco-eval",),
            keep=functools.partial(keep, folder),
            plan=lambda record, is_new: _plan(record, work.steps, is_new=is_new),
            say=say,
            on_step=on_step,
            on_epoch=on_epoch,
        )
    return folder


def _source(
    task: DenseTask, data: Path, seed: int, progress: Callable[[str, int, int], None] | None
) -> CocoFolder | MaskFolder:
    from nas.dense.coco import CocoFolder
    from nas.dense.masks import MaskFolder
    from nas.dense.rcnn import detection_parts

    if not data.is_dir():
        raise InputError(f"{data}: is no folder; --task {task} reads images and annotations from one")
    if task == "segment":
        return MaskFolder.read(data, seed=seed, progress=progress)
    detection_parts()  # What is missing is said before a large file is read.
    return CocoFolder.read(data, seed=seed)


def _task(
    body: Backbone,
    source: CocoFolder | MaskFolder,
    recipe: DetectionRecipe | SegmentationRecipe,
    device: torch.device,
    seed: int,
    workers: int,
) -> DetectionTask | SegmentationTask:
    from nas.dense.coco import CocoFolder
    from nas.dense.detection import DetectionTask
    from nas.dense.masks import MaskFolder
    from nas.dense.recipe import DetectionRecipe, SegmentationRecipe
    from nas.dense.segmentation import SegmentationTask

    if isinstance(source, CocoFolder) and isinstance(recipe, DetectionRecipe):
        return DetectionTask.of(
            body,
            source,
            recipe=recipe.model,
            optimisation=recipe.optimisation,
            device=device,
            seed=seed,
            workers=workers,
        )
    if isinstance(source, MaskFolder) and isinstance(recipe, SegmentationRecipe):
        return SegmentationTask.of(
            body,
            source,
            recipe=recipe.model,
            optimisation=recipe.optimisation,
            device=device,
            seed=seed,
            workers=workers,
        )
    raise InputError("the recipe is one of the other task")


def _body(
    network: str | Path | Architecture | Network | SearchResult,
    budget_ms: float | None,
    start: str | Path | None,
    weights_key: str | None,
    recipe: DetectionRecipe | SegmentationRecipe,
    stdin: BinaryIO | None,
) -> tuple[str, str, Backbone, str]:
    """The name of a network, the id of a candidate, the backbone and in words where its weights are from."""
    from nas.dense import backbone
    from nas.networks import Architecture, find_network

    name = Path(network).stem if isinstance(network, str | Path) else "network"
    if network == "-" and stdin is not None:
        name, network = find_network("-", stdin=stdin)
    candidate_id, origin = "", _RANDOM
    found: str | Path | Architecture | Network
    if (of_run := winner_of(network, budget_ms)) is not None:
        run, winner = of_run
        name, candidate_id, found = run.path.resolve().name, winner.id, trained_network(winner)
        if start == _WINNER or (start is None and weights_file(run.path, winner.id).exists()):
            found, origin = run.build_winner(budget_ms), f"proxy training in {name}"
    else:
        assert not isinstance(network, SearchResult)
        if start == _WINNER:
            raise InputError(f"weights --from {_WINNER} are of a run: give a results folder")
        found = network
        if not isinstance(network, Architecture) and not (
            isinstance(network, str | Path) and not Path(network).is_dir()
        ):
            origin = f"those of {name}"
    weights = None if start == _WINNER else start
    if weights is not None:
        words = str(weights)
        is_published = words == _TIMM or words.startswith(f"{_TIMM}:")
        is_named = is_published or Path(words).is_dir()
        origin = words if is_named else f"{Path(words).name} (SHA-256 begins {_digest(Path(words))})"
    body = backbone(
        found,
        weights=weights,
        weights_key=weights_key,
        resolution=recipe.resolution,
        window=recipe.window,
        norms=recipe.norms,
        drop_path=recipe.drop_path,
    )
    return name, candidate_id, body, origin


def _digest(path: Path) -> str:
    return digest(path)[:_SHOWN] if path.is_file() else "?"


def _fingerprint(source: CocoFolder | MaskFolder) -> str:
    """Of the names of the pictures and classes; a training goes on with the same ones."""
    names = [one.path.name for one in (*source.train, *source.val)]
    return digest_of("\n".join([*source.class_names, "", *names]))


def _plan(record: TrainingRecord, steps: int, *, is_new: bool) -> str:
    """What is going to be done, in one line."""
    optimisation = record.recipe["optimisation"]
    what = "detector" if record.task == "detect" else "segmenter"
    return (
        f"the training of a {what} over {record.name} {'begins' if is_new else 'goes on'}: {optimisation['epochs']} "
        f"epochs of {steps} steps with {optimisation['batch_size']} images, from {record.start} weights, on "
        f"{record.device} in {record.precision}"
    )
