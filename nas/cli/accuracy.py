"""`nas accuracy`: predict the ImageNet accuracy of a network."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nas.cli import options
from nas.cli.terminal import print_data, print_json

__all__ = ["accuracy"]


def accuracy(
    network: Annotated[str, typer.Argument(help="A reference (iformer_m), an architecture file, or - for stdin.")],
    table: Annotated[str, typer.Option(help="Accuracy table: a name, its beginning, or a .json file.")] = "iformer",
    as_json: options.Json = False,
) -> None:
    """Predict the ImageNet-1k top-1 accuracy of a network from published results, with a 90 % interval.

    --json: {"id", "top1" in %, "interval": low and high, "source", "parts": {"published" and "trained": {"top1",
    "interval"}}, "resolution" (of the classifier that is judged, px), "table", "beyond": what no published network
    supports}

    Example: nas accuracy iformer_m
    """
    from nas.accuracy import WORDS, AccuracyTable, beyond, classifier_of, classifier_words
    from nas.networks import count, find_network
    from nas.report import by_stage, size_words

    name, architecture = find_network(network, stdin=sys.stdin.buffer)
    found, path = AccuracyTable.find(table)
    (predicted,) = found.predict([architecture])
    unsupported = beyond(classifier_of(architecture), found.published.ranges)
    if as_json:
        print_json(
            {
                "id": architecture.id,
                "top1": round(predicted.top1, 4),
                "interval": [round(predicted.low, 4), round(predicted.high, 4)],
                "source": found.origin.source,
                "parts": {
                    name: {"top1": round(part.top1, 4), "interval": [round(part.low, 4), round(part.high, 4)]}
                    for name, part in predicted.parts.items()
                },
                "resolution": classifier_of(architecture).resolution,
                "table": path.name.removesuffix(".json"),
                "beyond": unsupported,
            }
        )
        return
    print_data(f"{name}  {architecture.summary}")
    print_data(f"{size_words(count(architecture), digits=3)} at {architecture.resolution} px")
    judged = classifier_words([architecture.resolution])
    print_data(
        f"{predicted.top1:.1f} % [{predicted.low:.1f}, {predicted.high:.1f}], predicted ImageNet-1k top-1{judged}"
    )
    for part, said in predicted.parts.items():
        print_data(f"  by {WORDS[part]}: {said.top1:.1f} % [{said.low:.1f}, {said.high:.1f}]")
    if unsupported:
        print_data("outside the range of the published networks of the family (in brackets), so less certain:")
        for line in by_stage(unsupported):
            print_data(line)
    for line in found.describe():
        print_data(line)
