"""`nas latency`: predict the latency of a network, layer by layer."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nas.cli import options
from nas.cli.next_steps import say_next
from nas.cli.terminal import print_data, print_json, print_table

__all__ = ["latency"]


def latency(
    network: Annotated[str, typer.Argument(help="A reference (iformer_m), an architecture file, or - for stdin.")],
    table: options.Table = "iphone13",
    as_json: options.Json = False,
) -> None:
    """Predict the latency of a network, layer by layer.

    --json: {"id", "latency_ms", "interval_ms": low and high, "source", "table", "params", "macs", "published_ms" or
    null, "layers": [{"key", "latency_ms", "source"}]}

    Example: nas latency iformer_m

    Example: nas latency winner.json --table amd-epyc.onnxruntime --json
    """
    from nas.networks import SearchSpace, count, find_network
    from nas.report import BLOCKS, size_words

    name, architecture = find_network(network, stdin=sys.stdin.buffer)
    latency_table, path = options.find_table(table)
    found = latency_table.latency(architecture)
    published = latency_table.published.get(architecture.id)
    counts = count(architecture)
    if as_json:
        print_json(
            {
                "id": architecture.id,
                "latency_ms": round(found.latency_ms, 6),
                "interval_ms": [round(found.low_ms, 6), round(found.high_ms, 6)],
                "source": found.source,
                "table": path.name.removesuffix(".json"),
                "params": counts.params,
                "macs": counts.macs,
                "published_ms": published.latency_ms if published else None,
                "layers": [
                    {"key": part.key, "latency_ms": round(part.latency_ms, 6), "source": part.source}
                    for part in found.layers
                ],
            }
        )
        return
    from collections import Counter

    print_data(f"{name}  {architecture.summary}")
    print_data(f"{size_words(counts, digits=3)} at {architecture.resolution} px")
    print_data(
        f"{found.latency_ms:.3f} ms  [{found.low_ms:.3f}, {found.high_ms:.3f}]  {latency_table.provenance.label}"
    )
    print_data(f"interval: {latency_table.interval_meaning}; {latency_table.trust}")
    if published:
        difference = found.latency_ms / published.latency_ms - 1
        print_data(f"published: {published.latency_ms:.2f} ms ({published.source}); predicted {difference:+.1%}")
    shown = []
    parts = {part.key: part for part in found.layers}
    for key, times in Counter(part.key for part in found.layers).items():
        total = times * parts[key].latency_ms
        share = f"{total / found.latency_ms:.1%}"
        shown.append((key, str(times), f"{parts[key].latency_ms:.4f}", f"{total:.4f}", share, parts[key].source))
    print_table(("layer", "count", "ms each", "ms in all", "share", "source"), shown)
    print_data(BLOCKS)
    if architecture in SearchSpace.find("iformer"):
        say_next(
            [(["search", "--budget-ms", f"{found.latency_ms:.3g}", "--table", table], "what is better in this time")]
        )
