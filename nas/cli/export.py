"""`nas export`: write a network for another tool."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from nas.cli import options
from nas.cli.status import watching
from nas.cli.terminal import print_data, say
from nas.errors import InputError

__all__ = ["export"]


def export(
    network: Annotated[
        str,
        typer.Argument(help="A reference, an architecture file, - for stdin, a results folder, or a .torch folder."),
    ],
    format: Annotated[  # noqa: A002 - the option's name
        str,
        typer.Option(
            "--format",
            help="onnx, coreml, executorch, torch (takes every network) or timm (only 5x5 stem, 7x7 convolutions, late "
            "attention of kind shma without windows, and one expansion: nas search --must-fit timm).",
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint to load first: a safetensors or torch file; or timm or timm:NAME for published weights.",
            show_default=False,
        ),
    ] = None,
    weights_key: options.WeightsKey = None,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, max=2**20, help="Outputs of the classifier.", show_default="as NETWORK says"),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=32, help="Input size in pixels.", show_default="as NETWORK says")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Of a run, the winner inside this budget.", show_default="its largest"),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="File with the names of the classes, one a line.", show_default="of the run or --data"),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Of red, green and blue in 0..1: 0.485,0.456,0.406.", show_default="as --classes")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation, in the same way.", show_default="as --classes")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Images, for --int8 and for what NETWORK does not say.", show_default=False),
    ] = None,
    data_options: options.DataOptions = None,
    table: options.Table = "iphone13",
    batch: Annotated[str | None, typer.Option(help="onnx: images at once, or dynamic.", show_default="1")] = None,
    opset: Annotated[int | None, typer.Option(help="onnx: 18 to 23.", show_default="20")] = None,
    precision: Annotated[
        str | None, typer.Option(help="onnx, coreml: fp16 or fp32.", show_default="onnx fp32, coreml fp16")
    ] = None,
    input: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(help="coreml: image or tensor.", show_default="image if mean and std are known"),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="coreml: logits, or classifier with the names.", show_default="logits")
    ] = None,
    deployment_target: Annotated[
        str | None, typer.Option(help="coreml: iOS16, iOS17, iOS18 or iOS26.", show_default="iOS16")
    ] = None,
    features: Annotated[
        bool,
        typer.Option(
            "--features", help="onnx, coreml, executorch: maps at strides 4, 8, 16 and 32 in place of logits."
        ),
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="onnx: 8-bit weights and activations, with --data. coreml: 8-bit weights.")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(help="torch: upload to this Hugging Face repository.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="NETWORK with the suffix")] = None,
) -> None:
    """Write a network, or the winner of a run with its weights, for another tool.

    The mean and std of the training images, the names of the classes, the architecture, its latency and score are kept
    in the file.

    Example: nas export iformer_m --format onnx --batch dynamic --out iformer_m.onnx
    """
    from nas.search.export import export as write

    source, others = options.read_data(data, data_options)
    if others:
        raise InputError(f"--option {others[0]} is no option of the data")
    of_format = {
        "batch": batch,
        "opset": opset,
        "precision": precision,
        "input": input,
        "output": output,
        "deployment_target": deployment_target,
        "features": features or None,
        "int8": int8 or None,
        "push_to_hub": push_to_hub,
    }
    with watching() if source else nullcontext() as watch:
        written = write(
            network,
            format,
            out=out,
            weights=weights,
            weights_key=weights_key,
            num_classes=num_classes,
            resolution=resolution,
            budget_ms=budget_ms,
            classes=classes,
            mean=options.read_three("--mean", mean),
            std=options.read_three("--std", std),
            data=source,
            table=table,
            say=say,
            on_progress=watch,
            stdin=sys.stdin.buffer,
            **{name: value for name, value in of_format.items() if value is not None},
        )
    for path in written:
        print_data(str(path))
