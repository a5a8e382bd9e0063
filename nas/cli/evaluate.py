"""`nas evaluate`: how good a network is on images, whatever form it has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options
from nas.cli.status import watching
from nas.cli.terminal import print_data, print_json, print_table, say
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.evaluate import Evaluation, Scores

__all__ = ["evaluate"]

_CLASSES = 20  # that are shown; of more, the worst
_MISTAKES = 10


def evaluate(
    network: Annotated[
        str,
        typer.Argument(
            help="A results folder, a .torch folder, a folder of nas train, an .onnx file, an .mlpackage, timm:NAME; "
            "or a reference, an architecture file or - for stdin, with --weights."
        ),
    ],
    data: Annotated[
        str, typer.Option("--data", help="A folder of class folders, Parquet or WebDataset files, or a hub data set.")
    ],
    budget_ms: Annotated[
        float | None, typer.Option(help="Of a run, the winner inside this budget.", show_default="its largest")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A safetensors or torch file; of a reference also timm or timm:NAME for published weights.",
            show_default="those of NETWORK",
        ),
    ] = None,
    weights_key: options.WeightsKey = None,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, max=2**20, help="Outputs that --weights has.", show_default="as NETWORK says"),
    ] = None,
    split: Annotated[str, typer.Option(help="val, train, or all of data without splits.")] = "val",
    resolution: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Input size in pixels.", show_default="as NETWORK says")
    ] = None,
    crop: Annotated[
        float | None,
        typer.Option(help="Share of the short side that is kept.", show_default="0.875; of timm:NAME as timm says"),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(help="nearest, bilinear, bicubic or lanczos.", show_default="bicubic; of timm:NAME as timm says"),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Of red, green and blue in 0..1: 0.485,0.456,0.406.", show_default="as NETWORK says"),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation, in the same way.", show_default="as NETWORK says")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="File with the names of the outputs, one a line.", show_default="as NETWORK says"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Images at once.", show_default="32, or what a file takes")
    ] = None,
    data_options: options.DataOptions = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.", show_default="cuda if there is one; of ONNX cpu")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most images, spread over the classes.", show_default="all")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of the training that held out a tenth of data without a split.",
            show_default="that of a run, else 0",
        ),
    ] = None,
    as_json: options.Json = False,
    out: Annotated[
        Path | None,
        typer.Option(help=".csv for the predictions; the confusion table goes beside it.", show_default=False),
    ] = None,
) -> None:
    """Evaluate a network on images: top-1, top-5, cross-entropy, confusions, by one protocol for every form.

    --json: all of it with its sources: {"network", "weights", "data", "protocol", "scores": {"top1", "top5",
    "cross_entropy", "classes", "confusions": [{"actual", "predicted", "images"}]}, "known" or null, "seconds", ...}

    Example: nas evaluate best.torch --data photos/

    Example: nas evaluate small.onnx --data photos/ --json

    Example: nas evaluate timm:mobilenetv4_conv_small --data imagenette/ --out predictions.csv
    """
    from nas.search.evaluate import evaluate as run

    source, others = options.read_data(data, data_options)
    assert source is not None
    if others:
        raise InputError(f"--option {others[0]} is no option of the data")
    with watching("loading the network") as watch:
        found = run(
            network,
            source,
            budget_ms=budget_ms,
            weights=weights,
            weights_key=weights_key,
            num_classes=num_classes,
            split=split,
            resolution=resolution,
            crop=crop,
            interpolation=interpolation,
            mean=options.read_three("--mean", mean),
            std=options.read_three("--std", std),
            classes=classes,
            batch_size=batch_size,
            device=device,
            limit=limit,
            seed=seed,
            out=out,
            say=say,
            on_progress=watch,
            stdin=sys.stdin.buffer,
        )
    if as_json:
        print_json(found.model_dump(mode="json", by_alias=True))
    else:
        _print(found)


def _print(found: Evaluation) -> None:
    precision = f", weights in {found.precision}" if found.precision else ""
    print_data(f"network: {found.network}, {found.runtime}{precision}")
    print_data(f"weights: {found.weights}")
    left_out = f", {found.broken} broken left out" if found.broken else ""
    print_data(
        f"data: {found.data}, {found.split}: {found.images} images of {len(found.class_names)} classes{left_out}"
    )
    print_data(f"protocol: {found.protocol_words}")
    print_data(f"classes: matched {found.matched}")
    rows = [_row(f"of all {found.scores.outputs}" if found.known else str(found.scores.outputs), found.scores)]
    if found.known:
        rows.append(_row(f"of the {found.known.outputs} of the data", found.known))
    print_table(("outputs", "top-1 [95 %]", "top-5 [95 %]", "cross-entropy"), rows)
    print_data(
        f"throughput: {found.images_per_s:.1f} images/s in {found.seconds:.1f} s, reading and decoding included, "
        f"on this machine ({found.machine}); not a latency"
    )
    _print_classes(found.scores)
    _print_mistakes(found.scores)


def _row(name: str, scores: Scores) -> tuple[str, str, str, str]:
    return name, scores.top1.words, scores.top5.words if scores.top5 else "-", f"{scores.cross_entropy:.4f} nats"


def _print_classes(scores: Scores) -> None:
    shown = list(scores.classes)
    if len(shown) > _CLASSES:
        shown = sorted(shown, key=lambda one: (one.value, -one.images))[:_CLASSES]
        print_data(f"the {_CLASSES} worst of {len(scores.classes)} classes; --json has all:")
    print_table(
        ("class", "top-1", "right", "images"),
        [(one.name, f"{100 * one.value:.1f} %", str(one.right), str(one.images)) for one in shown],
    )


def _print_mistakes(scores: Scores) -> None:
    shown = scores.mistakes[:_MISTAKES]
    if not shown:
        print_data("confusions: none")
        return
    print_data(f"the most frequent confusions, {len(shown)} of {len(scores.mistakes)}:")
    print_table(("class", "is taken for", "images"), [(one.actual, one.predicted, str(one.images)) for one in shown])
