"""How good a network, or the winner of a run, is on images: `nas.evaluate(...)` and `nas evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nas.data import DataSource
from nas.errors import InputError
from nas.evaluate import Evaluation
from nas.networks import Architecture
from nas.search.candidates import Candidate
from nas.search.result import SearchResult, trained_network, weights_file
from nas.search.training import winner_of

if TYPE_CHECKING:
    from nas.evaluate.subject import Subject
    from nas.networks.modules import Network

__all__ = ["evaluate"]


def evaluate(
    network: str | Path | Architecture | Network | SearchResult,
    data: str | DataSource,
    *,
    budget_ms: float | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    num_classes: int | None = None,
    split: str = "val",
    resolution: int | None = None,
    crop: float | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: str | Path | Sequence[str] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    on_progress: Callable[[str, int, int], None] | None = None,
    stdin: BinaryIO | None = None,
) -> Evaluation:
    """Top-1, top-5, cross-entropy and the confusion table of a network on images, by one protocol for every form of it.

    Every image is decoded whole and upright; its short side is scaled to `resolution / crop`, the middle is cut out,
    and its pixels are normalised as the network was trained.

    Args:
        network: a results folder or a run (its winner), a `.torch` folder, a folder of `nas train` (its best network),
            a reference or an architecture with `weights`, `timm:NAME`, an .onnx file, an .mlpackage (on a Mac); or a
            network in memory.
        data: a folder, Parquet files, WebDataset shards, or a name on the hub.
        budget_ms: of a run, the winner inside this budget; by default its largest.
        weights: of a reference, an architecture or a network of timm: a file; or `timm`, or `timm:NAME`, for those that
            are published of a reference.
        weights_key: which weights to take from a file that has several.
        num_classes: outputs of the classifier that the weights belong to.
        split: `val`, `train`, or `all` of data without splits.
        resolution: height and width of the input in pixels; by default that of the network.
        crop: share of the short side that is kept; by default 0.875, or what timm says of its network.
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`; by default bicubic, or what timm says.
        mean: of red, green and blue in 0..1; by default that of the network's card, file or configuration.
        std: the standard deviation, in the same way.
        classes: names of the outputs in order, or a file with one a line, where the network does not say them.
        batch_size: images at once; 32 by default.
        device: `cpu` or `cuda`; by default a GPU if there is one, for ONNX the CPU.
        limit: most images, spread evenly over the classes.
        seed: of the training that held out a tenth of data without a split; by default that of the run, or 0.
        out: .csv file for the predictions; the confusion table goes beside it as .confusion.csv.
        say: gets words about what is found.
        on_progress: called with the number of images that are done.
        stdin: read to its end if `network` is `-`; without it, `-` is a name like any other.
    Raises:
        InputError: the network, its weights, the data or an argument cannot be used.
        DeviceError: what runs the network is not here.
        NasError: the network fails.

    Examples:
        >>> import nas
        >>> nas.evaluate("best.torch", "photos/").scores.top1.value  # doctest: +SKIP
        0.8125
    """
    from nas.evaluate.find import find_subject
    from nas.evaluate.run import evaluate_subject

    source = data if isinstance(data, DataSource) else DataSource(name=data)
    if (found := winner_of(network, budget_ms)) is not None:
        result, winner = found
        if weights or num_classes:
            raise InputError(
                f"{result.path} is a run and has its own weights and classes: evaluate its winner.json to use others"
            )
        subject = _subject(result, winner, budget_ms, resolution=resolution, device=device, say=say)
        seed = result.run.seed if seed is None else seed
    else:
        assert not isinstance(network, SearchResult)
        if seed is None and isinstance(network, str | Path):
            seed = _seed_of_training(Path(network))
        subject = find_subject(
            network,
            weights=None if weights is None else str(weights),
            weights_key=weights_key,
            num_classes=num_classes,
            resolution=resolution,
            device=device,
            stdin=stdin,
            say=say,
        )
    return evaluate_subject(
        subject,
        source,
        split=split,
        crop=crop,
        interpolation=interpolation,
        mean=mean,
        std=std,
        classes=classes,
        batch_size=batch_size,
        limit=limit,
        seed=seed or 0,
        out=None if out is None else Path(out),
        say=say,
        on_progress=on_progress,
    )


def _seed_of_training(folder: Path) -> int | None:
    """The seed by which a training held images out; None if the folder is none of a training, or of its networks."""
    from nas.training.record import read_training  # which loads torch

    for place in (folder, folder.parent):
        if place.is_dir() and (found := read_training(place)) is not None:
            return found[0].seed
    return None


def _subject(
    result: SearchResult,
    winner: Candidate,
    budget_ms: float | None,
    *,
    resolution: int | None,
    device: str | None,
    say: Callable[[str], None],
) -> Subject:
    """The winner of a run with the weights of its training.

    Raises:
        InputError: the run kept no weights of it.
    """
    from nas.evaluate.own import module_subject

    run = result.run
    if not weights_file(result.path, winner.id).exists():
        kept = [f"{ms:g}" for ms, one in result.winners.items() if one and weights_file(result.path, one.id).exists()]
        if kept:
            raise InputError(
                f"{result.path}: has the weights of its winners inside {' and '.join(kept)} ms, not of {winner.id}, "
                f"the best inside {budget_ms or run.budget_ms:g} ms: give one of these budgets"
            )
        raise InputError(
            f"{result.path}: has no weights of its winner {winner.id}, as nothing was trained: train it, and give "
            f"winner.json with --weights FILE"
        )
    names = [one.name for one in run.contents.classes] if run.contents else []
    say(f"{result.path}: its winner {winner.id} is evaluated")
    return module_subject(
        result.build_winner(budget_ms),
        name=str(result.path),
        resolution=resolution,
        device=device,
        weights=f"proxy training of {winner.id} in {result.path.resolve().name}",
        class_names=tuple(names) if len(names) == trained_network(winner).num_classes else (),
        normalisation=run.normalisation,
        normalised_by="of the run",
    )
