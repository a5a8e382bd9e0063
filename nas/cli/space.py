"""`nas space`: the search spaces there are, and one of them in full."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nas.cli import options
from nas.cli.terminal import print_data, print_json, print_table
from nas.errors import InputError

__all__ = ["app"]

app = typer.Typer(help="Search spaces.", no_args_is_help=True)


@app.command("list")
def space_list(as_json: options.Json = False) -> None:
    """List the search spaces that --space finds.

    --json: {"spaces": [{"space", "file", "networks" and "layers" (numbers), "resolution" (the choices, px),
    "references" (names), "description"}]}; of a file that is broken {"space", "file", "error"}.

    Example: nas space list
    """
    from nas import catalog
    from nas.networks import SearchSpace

    rows: list[tuple[str, str, str, str]] = []
    documents: list[dict[str, Any]] = []
    for name, path, found in catalog.loaded("search_spaces", ".toml", SearchSpace.load):
        document: dict[str, Any] = {"space": name, "file": str(path)}
        if isinstance(found, InputError):
            rows.append((name, "-", "-", str(found)))
            documents.append(document | {"error": str(found)})
            continue
        facts = {"networks": found.count(), "layers": len(found.layers), "references": list(found.references)}
        rows.append((name, _number(found.count()), ", ".join(found.references) or "-", found.description))
        documents.append(document | facts | {"resolution": list(found.resolution), "description": found.description})
    if as_json:
        print_json({"spaces": documents})
    else:
        print_table(("space", "networks", "references", "description"), rows)


@app.command("show")
def space_show(
    space: Annotated[str, typer.Argument(help="A space name or file.")] = "iformer",
    table: options.Table = "iphone13",
    as_json: options.Json = False,
) -> None:
    """Show the size of a space, its cheapest and most expensive networks, its references and latency quantiles.

    --json: {"space", "networks" and "layers" (numbers), "table", "latency_quantiles_ms": {"minimum", "10%", "median",
    "90%", "maximum"}, "references": [{"name" ("cheapest", "dearest" for the most
    expensive, or that of a reference), "id", "latency_ms", "interval_ms", "params", "macs", "inside"}]}

    Example: nas space show iformer
    """
    from nas.networks import SearchSpace, count, random_choice
    from nas.report import BLOCKS, amounts, table_words

    found = SearchSpace.find(space)
    latency_table, path = options.find_table(table)
    rows = {
        "cheapest": found.extreme(latency_table.layer_ms),
        "most expensive": found.extreme(latency_table.layer_ms, dearest=True),
        **found.references,
    }
    latencies = {name: latency_table.latency(network) for name, network in rows.items()}
    choose = random_choice(seed=0)
    quantiles = latency_table.quantiles(found.sample(choose) for _ in range(1000))
    if as_json:
        networks = [
            {
                "name": "dearest" if name == "most expensive" else name,
                "id": network.id,
                "latency_ms": round(latencies[name].latency_ms, 6),
                "interval_ms": [round(latencies[name].low_ms, 6), round(latencies[name].high_ms, 6)],
                "params": count(network).params,
                "macs": count(network).macs,
                "inside": network in found,
            }
            for name, network in rows.items()
        ]
        document = {
            "space": space,
            "networks": found.count(),
            "layers": len(found.layers),
            "table": path.name.removesuffix(".json"),
            "latency_quantiles_ms": {name: round(value, 6) for name, value in quantiles.items()},
            "references": networks,
        }
        print_json(document)
        return
    if found.description:
        print_data(found.description)
    print_data(f"{_number(found.count())} networks of {len(found.layers):,} distinct layers")
    print_data(table_words(path.name.removesuffix(".json"), latency_table.provenance.label, latency_table.trust))
    print_data("  1000 random networks: " + ", ".join(f"{name} {value:.3f} ms" for name, value in quantiles.items()))
    counts = [count(network) for network in rows.values()]
    size_header, sizes = amounts([each.params for each in counts], [each.macs for each in counts])
    shown = [
        (
            name,
            f"{latencies[name].latency_ms:.3f} [{latencies[name].low_ms:.3f}, {latencies[name].high_ms:.3f}]",
            *(*size, "yes" if network in found else "no", network.summary),
        )
        for (name, network), size in zip(rows.items(), sizes, strict=True)
    ]
    print_table(("network", "latency, ms [interval]", *size_header, "in the space", "blocks"), shown)
    print_data(BLOCKS)


def _number(networks: int) -> str:
    """A number of networks; a large one by its magnitude."""
    return f"{networks:,}" if networks < 1e6 else f"{networks:.2e}"
