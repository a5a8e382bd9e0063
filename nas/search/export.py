"""How a network, or the winner of a run, is written for another tool: `nas.export(...)` and `nas export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import ValidationError

from nas.catalog import load_plugin
from nas.data import Normalisation
from nas.errors import InputError, MissingLatencyError
from nas.export import RANDOM, Card, Exporter
from nas.files import digest, read_text
from nas.latency import LatencyTable
from nas.networks import Architecture, find_network
from nas.search.budget import check_milliseconds
from nas.search.records import Candidate
from nas.search.result import SearchResult, trained_network, weights_file

if TYPE_CHECKING:
    from nas.data import DataSource, ImageSet
    from nas.networks.modules import Network

__all__ = ["export"]

# What a network that was exported once takes with it.
_CARRIED = (
    "candidate_id",
    "normalisation",
    "class_names",
    "latency_ms",
    "latency_source",
    "score",
    "score_source",
    "weights",
)
_TIMM = "timm"  # in place of a file of weights
_TRAIN_IMAGES, _VAL_IMAGES = 512, 1000  # of --data: to calibrate with, and to measure accuracy on


def export(
    network: str | Path | Architecture | Network | SearchResult,
    format: str,  # noqa: A002 - the option's name
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    num_classes: int | None = None,
    resolution: int | None = None,
    budget_ms: float | None = None,
    classes: str | Path | Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    data: str | DataSource | None = None,
    table: str = "iphone13",
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    on_progress: Callable[[str, int, int], None] | None = None,
    stdin: BinaryIO | None = None,
    **options: object,
) -> list[Path]:
    """Write a network, or the winner of a run with its weights, for another tool.

    What a user of the file needs to know is in it (`nas.export.Card`): how pixels are normalised, the names of the
    classes, the architecture, its latency and its score with their sources, and where the weights are from.

    Args:
        network: a reference, an architecture file, `-` for an architecture on `stdin`, a results folder, a folder of
            the format `torch`; or an architecture, a network, or a run.
        format: a module of nas/export: `onnx`, `coreml`, `executorch`, `timm` or `torch`.
        out: file or folder to write; by default the name of the network with the ending of the format.
        weights: checkpoint to load first; or `timm` for the weights that are published of a reference, `timm:NAME` for
            those of another name in timm, which are downloaded unless they are here.
        weights_key: which weights to take from it, if it has several.
        num_classes: outputs of the classifier, by default as the network says.
        resolution: height and width of the input in pixels, divisible by 32.
        budget_ms: of a run, the winner inside this budget; by default its largest.
        classes: names of the outputs, or a file with one name a line; by default those of the run or the data.
        mean: of the training images' red, green and blue, in 0..1; by default that of the run or the data.
        std: their standard deviation, in the same way.
        data: images of the classes, for options that need images, and for what the run does not say.
        table: predicts the latency of a network that is of no run.
        say: gets words about what was written, line by line.
        on_progress: called with the progress of loading images.
        stdin: read to its end if `network` is `-`.
        options: of the format, such as `batch="dynamic"`.
    Returns:
        The files and folders that were written, the one named by `out` first.
    Raises:
        InputError: an argument cannot be used, or the format cannot express the network.
        NasError: the export fails its check.

    Examples:
        >>> import tempfile, nas
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path] = nas.export("tiny_a", "onnx", out=f"{folder}/tiny.onnx", batch="dynamic")
        >>> path.name
        'tiny.onnx'
    """
    exporter: Exporter = load_plugin("export format", "export", format)
    chosen = _options(exporter, format, options)
    run = _run(network)
    named = str(network) if isinstance(network, str | Path) else "this"
    if run and weights:
        raise InputError(f"{named} is a run and has its own weights: export its winner.json to use other --weights")
    if run and num_classes:
        raise InputError(f"{named} is a run and has the classes of its data: leave --num-classes out")
    if budget_ms is not None:
        if run is None:
            raise InputError(f"--budget-ms chooses among the winners of a run, and {named} is none: leave it out")
        check_milliseconds(budget_ms)
    if weights_key and not weights:
        raise InputError("--weights-key goes with --weights FILE")
    if (mean is None) != (std is None):
        raise InputError("--mean and --std go together")
    if run:
        name, module, known = run.path.resolve().name, *_winner(run, budget_ms, say)
    else:
        name, module, known = _network(
            network, weights=weights, weights_key=weights_key, num_classes=num_classes, stdin=stdin, say=say
        )
    path = Path(out) if out is not None else Path(f"{name}{exporter.SUFFIX}")
    if path.suffix != exporter.SUFFIX:
        raise InputError(f"{path}: --format {format} writes a {exporter.SUFFIX} file")
    if resolution and resolution != module.architecture.resolution:
        from nas.networks.modules.weights import resized

        module = resized(module, resolution)  # whose latency, if any, is for another size
        known = {name: value for name, value in known.items() if not name.startswith("latency")}
    if run is None and "latency_ms" not in known:
        known |= _latency(module.architecture, table)
    images = None
    if data is not None:
        images, known = _with_images(module, data, known, on_progress, say)
    if mean is not None:
        known |= {"normalisation": _normalisation(mean, std)}
    if classes is not None:
        known |= {"class_names": _class_names(classes, module.architecture.num_classes)}
    if images is not None and (own := known.get("normalisation")):
        images = replace(images, mean=own.mean, std=own.std)
    if known.get("normalisation") is None and known.get("weights", RANDOM) != RANDOM:
        say("the mean and std of the training images are not known: give --data, or --mean and --std, to keep them")
    card = Card.of(module, **{"name": name, **known})
    return exporter.export(module, path, options=chosen, card=card, images=images, say=say)


def _options(exporter: Exporter, format: str, given: dict[str, object]) -> Any:  # noqa: A002
    """The options of a format.

    Raises:
        InputError: it has no such option, or the value breaks a rule.
    """
    names = exporter.Options.model_fields
    for name in given:
        if name not in names:
            has = ", ".join(f"--{own.replace('_', '-')}" for own in names) or "none of its own"
            raise InputError(f"--{name.replace('_', '-')} is no option of --format {format}, which has {has}")
    try:
        return exporter.Options.model_validate(given)
    except ValidationError as error:
        raise InputError.from_validation(f"--format {format}", error) from error


def _run(network: object) -> SearchResult | None:
    if isinstance(network, SearchResult):
        return network
    if isinstance(network, str | Path) and (Path(network) / "run.json").exists():
        return SearchResult.load(Path(network))
    return None


def _network(
    network: str | Path | Architecture | Network | SearchResult,
    *,
    weights: str | Path | None,
    weights_key: str | None,
    num_classes: int | None,
    stdin: BinaryIO | None,
    say: Callable[[str], None],
) -> tuple[str, Network, dict[str, Any]]:
    """A network that is of no run: its name, its module, and what is known of it."""
    from nas.export.torch import LoadedNetwork, load
    from nas.networks.modules import Network, load_model
    from nas.networks.modules.published import published_weights

    assert not isinstance(network, SearchResult)
    if isinstance(network, str | Path) and (Path(network) / "model.safetensors").exists():
        network = load(network)
    if isinstance(network, Network):
        if weights or num_classes:
            raise InputError("the network has its weights and classes: leave --weights and --num-classes out")
        if not isinstance(network, LoadedNetwork):
            return "network", network, {"weights": "of a network in memory"}
        card = network.card
        return card.name, network, {field: getattr(card, field) for field in _CARRIED}
    if isinstance(network, Architecture):
        name, architecture = "network", network
    else:
        name, architecture = find_network(str(network), stdin=stdin or sys.stdin.buffer)
    architecture = architecture.at(num_classes=num_classes)
    if weights is None:
        say("no --weights: the file gets random weights, good for timing only")
        return name, _random(architecture), {}
    known: dict[str, Any] = {}
    source, path = Path(weights).name, Path(weights)
    if str(weights) == _TIMM or str(weights).startswith(f"{_TIMM}:"):
        published = published_weights(str(weights).partition(":")[2] or name)
        say(f"weights: {published.name} of timm, {published.path}")
        source, path = f"timm's {published.name}", published.path
        known = {"normalisation": _normalisation(published.mean, published.std)}
    module = load_model(architecture, path, weights_key=weights_key)
    return name, module, known | {"weights": f"{source} (SHA-256 begins {digest(path)})"}


def _winner(run: SearchResult, budget_ms: float | None, say: Callable[[str], None]) -> tuple[Network, dict[str, Any]]:
    """The winner of a run with the weights of its training, if there are any, and what the run knows of it."""
    winner = run.winner if budget_ms is None else run.winner_under(budget_ms)
    if winner is None or weights_file(run.path, winner.id).exists():
        module = run.build_winner(budget_ms)  # which says what is wrong without a winner
        assert winner is not None
        return module, _known(run, winner) | {"weights": f"proxy training in {run.path.resolve().name}"}
    say(f"{run.path} has no weights of {winner.id}: the file gets random weights, good for timing only")
    known = _known(run, winner)
    return _random(trained_network(winner)), {name: known[name] for name in known if name != "normalisation"}


def _known(result: SearchResult, winner: Candidate) -> dict[str, Any]:
    """What a run knows of its winner, as fields of a card."""
    run, score, settings = result.run, winner.score, result.run.proxy
    if winner.id in result.settled_values:
        score, settings = result.settled_values[winner.id], run.proxy.get("settles", settings)
    about = settings.get("data") or settings.get("accuracy_table")
    names = [one.name for one in run.contents.classes] if run.contents else []
    trained = trained_network(winner)
    return {
        "candidate_id": winner.id,
        "normalisation": run.normalisation,
        "class_names": tuple(names) if len(names) == trained.num_classes else (),
        "latency_ms": winner.latency_ms,
        "latency_source": f"{run.table.name}, {run.table.origin}",
        "score": score,
        "score_source": f"{settings['name']}{f', {about}' if about else ''}",
    }


def _random(architecture: Architecture) -> Network:
    """A network with the same random weights on every call."""
    from nas.training.recipe import seeded_network

    return seeded_network(architecture, seed=0)


def _latency(architecture: Architecture, name: str) -> dict[str, Any]:
    """The predicted latency of a network, as fields of a card; nothing if the table does not cover it."""
    table, path = LatencyTable.find(name)
    try:
        latency = table.latency(architecture)
    except MissingLatencyError:
        return {}
    return {"latency_ms": latency.latency_ms, "latency_source": f"{path.stem}, {table.provenance.label}"}


def _with_images(
    network: Network,
    data: str | DataSource,
    known: dict[str, Any],
    on_progress: Callable[[str, int, int], None] | None,
    say: Callable[[str], None],
) -> tuple[ImageSet, dict[str, Any]]:
    """The images of --data, and what is known of the network, completed by them."""
    from nas.data import load_images

    images = load_images(
        data,
        resolution=network.architecture.resolution,
        seed=0,
        train_limit=_TRAIN_IMAGES,
        val_limit=_VAL_IMAGES,
        progress=on_progress,
    )
    completed = dict(known)
    if not completed.get("normalisation"):
        completed["normalisation"] = Normalisation.of(images)
    if not completed.get("class_names"):
        if images.num_classes == network.architecture.num_classes:
            completed["class_names"] = images.class_names
        else:
            say(f"the data have {images.num_classes} classes and the network {network.architecture.num_classes}")
    return images, completed


def _normalisation(mean: Sequence[float], std: Sequence[float] | None) -> Normalisation:
    try:
        return Normalisation.model_validate({"mean": mean, "std": std})
    except ValidationError as error:
        raise InputError.from_validation("--mean and --std", error) from error


def _class_names(classes: str | Path | Sequence[str], outputs: int) -> tuple[str, ...]:
    """Names of the outputs, from a file with one a line or as they are.

    Raises:
        InputError: there is no such file, or its names are not one for each output.
    """
    if isinstance(classes, str | Path):
        where = str(classes)
        names = tuple(line.strip() for line in read_text(Path(classes)).splitlines() if line.strip())
    else:
        where, names = "classes", tuple(classes)
    if len(names) != outputs:
        raise InputError(f"{where}: has {len(names)} names of classes, the network has {outputs} outputs")
    if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
        raise InputError(f"{where}: names the class {twice!r} twice")
    return names
