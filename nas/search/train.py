"""How a network, or the winner of a run, is trained in full: `nas.train(...)` and `nas train`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydantic import ValidationError

from nas.data import Normalisation
from nas.data.rows import counted
from nas.errors import InputError
from nas.files import digest
from nas.networks import Architecture, SearchSpace, count, find_network
from nas.search.result import SearchResult, trained_network
from nas.search.training import check_out, decoders, run_training, winner_of

if TYPE_CHECKING:
    from torch import nn

    from nas.data import DataSource
    from nas.networks.modules import Network
    from nas.training.course import Epoch, Step
    from nas.training.full_recipe import TrainingRecipe
    from nas.training.recipe import Precision
    from nas.training.record import TrainingRecord

__all__ = ["train"]

_TIMM = "timm"
_RANDOM = "random"
_WINNER = "winner"
_SHOWN = 12  # characters of a digest


def train(
    network: str | Path | Architecture | SearchResult,
    data: str | DataSource,
    *,
    out: str | Path,
    recipe: TrainingRecipe | str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    resolution: int | None = None,
    budget_ms: float | None = None,
    start: str | Path | None = None,
    weights_key: str | None = None,
    teacher: str | None = None,
    teacher_weights: Path | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: Precision | None = None,
    workers: int | None = None,
    is_compiled: bool = False,
    command: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    on_step: Callable[[Step], None] = lambda step: None,  # noqa: ARG005
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,  # noqa: ARG005
    stdin: BinaryIO | None = None,
) -> Path:
    """Train a network in full, or go on with the training in `out`: the same call goes on at the step where it stopped.

    The folder then holds training.json (what was asked), metrics.jsonl (a line an epoch), checkpoint.safetensors, and
    the networks best.torch and last.torch, which `nas.load`, `nas export` and `nas evaluate` take.

    Under torchrun each process trains on its part of every step.

    Args:
        network: a reference, an architecture file, `-` for an architecture on `stdin`, a results folder; or an
            architecture, or a run.
        data: a folder, Parquet files, WebDataset shards, or a name on the hub; or `synthetic`.
        out: folder to write.
        recipe: a recipe, or a TOML file of what differs from `TrainingRecipe.fitted`.
        epochs: of that recipe; by default 300, as in the paper.
        batch_size: images of a step; by default 4096 as in the paper, or fewer for fewer images.
        resolution: height and width in pixels, divisible by 32; by default as the network says.
        budget_ms: of a run, the winner inside this budget; by default its largest.
        start: the weights to begin with: a file of a supernet, of an iFormer of any size or of timm's or the authors'
            release, a folder of a network or of a training, `winner` for those of the run, `timm` or `timm:NAME`.
        weights_key: which weights to take from a file that has several.
        teacher: learn from it as well: `efficientnet-lite0`, `efficientnet-lite2`, or `timm:NAME`.
        teacher_weights: file of a teacher of timm's; without one timm downloads it.
        seed: of weights, order and changes.
        device: `cpu` or `cuda`; by default a GPU if there is one.
        precision: of matrix products; by default the faster of fp32 and bf16, timed on this machine.
        workers: processes that decode, beside each that trains; by default one for each further core, at most 8.
        is_compiled: let torch.compile translate the network first.
        command: for the record.
        say: gets words, line by line.
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

    from nas.data.stream import open_pictures
    from nas.training.classify import Classification
    from nas.training.distil import full_teacher
    from nas.training.full_recipe import TrainingRecipe
    from nas.training.optimisation import check_sizes
    from nas.training.processes import joined
    from nas.training.recipe import faster_precision

    check_sizes(epochs=epochs, batch_size=batch_size)
    folder = Path(out)
    check_out(folder)
    name, candidate_id, architecture, run = _asked(network, budget_ms, stdin)
    with joined(device) as target:
        pictures = open_pictures(data, seed=seed, synthetic_resolution=resolution or 64)
        for note in pictures.notes:
            say(note)
        if sorted(pictures.class_names) == ["images", "masks"]:
            raise InputError(f"{data}: images/ and masks/ are no classes: give --task segment to train on masks")
        architecture = _sized(architecture, resolution, pictures.num_classes)
        used = recipe if isinstance(recipe, TrainingRecipe) else None
        if used is None:
            images, params = len(pictures.train), count(architecture).params
            if recipe is None:
                used = TrainingRecipe.fitted(images, epochs=epochs, batch_size=batch_size, params=params)
            else:
                assert isinstance(recipe, str | Path)
                used = TrainingRecipe.of_file(Path(recipe), images, epochs=epochs, batch_size=batch_size, params=params)
        built, origin, normalisation = _begun(
            name, architecture, used, start, run, weights_key, is_taught=teacher is not None, seed=seed
        )
        taught = None
        if teacher is not None:
            statistics = normalisation.mean, normalisation.std
            taught = full_teacher(
                teacher, class_names=pictures.class_names, student=statistics, device=target, weights=teacher_weights
            )
        elif teacher_weights is not None:
            raise InputError("--teacher-weights goes with --teacher timm:NAME")
        task = Classification(
            built.to(target, memory_format=torch.channels_last),  # type: ignore[call-overload]
            pictures,
            used,
            seed=seed,
            device=target,
            mean=normalisation.mean,
            std=normalisation.std,
            teacher=taught,
            workers=decoders(workers),
        )

        def ended(epoch: Epoch) -> None:
            if task.unread and epoch.epoch == 1:
                say(f"{data}: {counted(task.unread, 'held-out picture')} that cannot be read left out")
            on_epoch(epoch)

        run_training(
            task,
            used.optimisation,
            folder,
            asked={
                "name": name,
                "candidate_id": candidate_id,
                "architecture": architecture,
                "data": pictures.description,
                "fingerprint": pictures.fingerprint,
                "classes": pictures.class_names,
                "recipe": used.model_dump(mode="json"),
                "normalisation": normalisation,
                "start": origin,
                "teacher": teacher or "",
            },
            seed=seed,
            device=target,
            precision=precision,
            fastest=lambda: faster_precision(str(target)),
            is_compiled=is_compiled,
            command=command,
            keep=functools.partial(_keep, folder),
            plan=lambda record, is_new: _plan(record, used, task.steps, is_new=is_new),
            say=say,
            on_step=on_step,
            on_epoch=ended,
        )
    return folder


def _asked(
    network: str | Path | Architecture | SearchResult, budget_ms: float | None, stdin: BinaryIO | None
) -> tuple[str, str, Architecture, tuple[SearchResult, float | None] | None]:
    """The name of a network, the id of a candidate, the architecture and the run that it is of."""
    if (found := winner_of(network, budget_ms)) is not None:
        run, winner = found
        return run.path.resolve().name, winner.id, trained_network(winner), (run, budget_ms)
    if isinstance(network, Architecture):
        return "network", "", network, None
    assert not isinstance(network, SearchResult)
    name, architecture = find_network(str(network), stdin=stdin or sys.stdin.buffer)
    return name, "", architecture, None


def _sized(architecture: Architecture, resolution: int | None, classes: int) -> Architecture:
    try:
        return architecture.at(resolution=resolution, num_classes=classes)
    except ValidationError as error:
        raise InputError.from_validation("--resolution", error) from error


def _begun(
    name: str,
    architecture: Architecture,
    recipe: TrainingRecipe,
    start: str | Path | None,
    run: tuple[SearchResult, float | None] | None,
    weights_key: str | None,
    *,
    is_taught: bool,
    seed: int,
) -> tuple[Network, str, Normalisation]:
    """The network with its first weights, where these are from, and how the pixels become its input."""
    import torch

    from nas.networks.modules import build_model, inherit
    from nas.training.classify import IMAGENET_MEAN, IMAGENET_STD

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = build_model(architecture, drop_path=recipe.drop_path, distillation=is_taught)
    normalisation = Normalisation(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if start is None:
        if weights_key:
            raise InputError("--weights-key goes with --from FILE")
        return network, _RANDOM, normalisation
    donor, origin, own = _donor(start, name, architecture, run, weights_key)
    inherit(network, donor)
    return network, origin, own or normalisation


def _donor(
    start: str | Path,
    name: str,
    architecture: Architecture,
    run: tuple[SearchResult, float | None] | None,
    weights_key: str | None,
) -> tuple[Network, str, Normalisation | None]:
    """A network to begin with, in words where it is from, and how its pixels were normalised, if that is known."""
    from nas.export.torch import load
    from nas.networks.modules import load_donor
    from nas.networks.modules.published import published_weights
    from nas.training import is_supernet, load_supernet
    from nas.training.record import BEST

    known = SearchSpace.find("iformer").references
    path = Path(start)
    if str(start) == _WINNER:
        if run is None:
            raise InputError(f"--from {_WINNER} is the weights of the winner of a run: give a results folder")
        result, budget_ms = run
        donor = result.build_winner(budget_ms)
        return donor, f"proxy training in {result.path.resolve().name}", result.run.normalisation
    if str(start) == _TIMM or str(start).startswith(f"{_TIMM}:"):
        found = published_weights(str(start).partition(":")[2] or name)
        normalisation = Normalisation.model_validate({"mean": found.mean, "std": found.std})
        return load_donor(found.path, known), f"timm's {found.name}", normalisation
    if path.is_dir():
        loaded = load(path / BEST if (path / BEST).is_dir() else path)
        return loaded, f"{path.name} ({loaded.card.weights_sha256[:_SHOWN]})", loaded.card.normalisation
    if is_supernet(path):
        donor = load_supernet(path).network(architecture)
    else:
        donor = load_donor(path, known, weights_key=weights_key)
    return donor, f"{path.name} (SHA-256 begins {digest(path)})", None


def _plan(record: TrainingRecord, recipe: TrainingRecipe, steps: int, *, is_new: bool) -> str:
    """What is going to be done, in one line."""
    does = "begins" if is_new else "goes on"
    optimisation, resolution = recipe.optimisation, record.architecture.resolution
    taught = f", taught by {record.teacher}" if record.teacher else ""
    return (
        f"the training of {record.name} {does}: {counted(optimisation.epochs, 'epoch')} of {counted(steps, 'step')} "
        f"with {optimisation.batch_size} images of {resolution} px, from {record.start} weights{taught}, on "
        f"{record.device} in {record.precision}"
    )


def _keep(folder: Path, record: TrainingRecord, module: nn.Module, epoch: Epoch) -> None:
    """Write the network of an epoch as the last, and as the best if it is."""
    from nas.export import Card
    from nas.export.torch import export
    from nas.networks.modules import Network
    from nas.training.record import BEST, LAST

    network = module.network
    assert isinstance(network, Network)
    known = {
        "name": record.name,
        "candidate_id": record.candidate_id,
        "normalisation": record.normalisation,
        "class_names": record.classes,
        "score": epoch.figures["top1"],
        "score_source": f"top-1 on held-out images after epoch {epoch.epoch} of full training, {record.data}",
        "weights": f"full training, epoch {epoch.epoch}",
    }
    for name in (LAST, *([BEST] if epoch.is_best else [])):
        export(network, folder / name, card=Card.of(network, **known))
