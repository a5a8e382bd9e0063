"""`nas export`: write a network for another tool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nas.cli import options
from nas.cli.terminal import print_data, say
from nas.errors import InputError

__all__ = ["export"]


def export(
    network: Annotated[
        str, typer.Argument(help="A reference, an architecture file, - for stdin, or a results folder.")
    ],
    format: Annotated[str, typer.Option("--format", help="onnx, coreml or timm.")],  # noqa: A002 - the option's name
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint to load first: a safetensors or torch file.", show_default=False)
    ] = None,
    weights_key: options.WeightsKey = None,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, max=2**20, help="Outputs of the classifier.", show_default="as NETWORK says"),
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Of a run, the winner inside this budget.", show_default="its largest"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="NETWORK with the suffix")] = None,
) -> None:
    """Write a network, or the winner of a run with its weights, for another tool.

    Example: nas export iformer_m --format onnx --out iformer_m.onnx
    """
    from nas.catalog import load_plugin
    from nas.networks import find_network
    from nas.networks.modules import build_model, load_model
    from nas.search import SearchResult, check_milliseconds

    exporter = load_plugin("export format", "export", format)
    run = SearchResult.load(Path(network)) if (Path(network) / "run.json").exists() else None
    if run and weights:
        raise InputError(f"{network} is a run and has its own weights: export its winner.json to use other --weights")
    if run and num_classes:
        raise InputError(f"{network} is a run and has the classes of its data: leave --num-classes out")
    if budget_ms is not None:
        if run is None:
            raise InputError(f"--budget-ms chooses among the winners of a run, and {network} is none: leave it out")
        check_milliseconds(budget_ms)
    if weights_key and not weights:
        raise InputError("--weights-key goes with --weights FILE")
    if run:
        name = run.path.resolve().name
    else:
        name, architecture = find_network(network, stdin=sys.stdin.buffer)
        if num_classes:
            architecture = architecture.at(num_classes=num_classes)
    path = out or Path(f"{name}{exporter.SUFFIX}")
    if path.suffix != exporter.SUFFIX:
        raise InputError(f"{path}: --format {format} writes a {exporter.SUFFIX} file")
    if run:
        module = run.build_winner(budget_ms)
    elif weights:
        module = load_model(architecture, weights, weights_key=weights_key)
    else:
        say("no --weights: the file gets random weights, good for timing only")
        module = build_model(architecture)
    for written in exporter.export(module, path):
        print_data(str(written))
