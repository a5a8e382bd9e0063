"""Do weights from a supernet order networks as training each from scratch does?

    python results/proxy-study/agreement.py run FILE.supernet.safetensors agreement.jsonl scratch
    python results/proxy-study/agreement.py run FILE.supernet.safetensors agreement.jsonl supernet
    python results/proxy-study/agreement.py table agreement.jsonl

The networks are the published ones that are in the space, and random ones of it: eight of 0.95 to 1.20 ms and ten of
0.5 to 1.6 ms. `scratch` trains each on 8,192 images as short training does, `supernet` takes the shared weights, and
`start` trains on 4,096 images from there. A score that is in the file is not computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nas import LatencyTable, SearchSpace
from nas.architecture import Architecture
from nas.calibrate import read_points
from nas.operations import count
from nas.proxies import build_proxies
from nas.ranking import bootstrap_interval, kendall_tau_b
from nas.space import random_choice
from nas.validate import unlike

DATA = "../shared/data/tiny_imagenet50_64px"
NEAR_MS = (0.95, 1.20)
WIDE_MS = (0.50, 1.60)
METHODS = {  # proxy and options
    "scratch": ("short-training:standard", {}),
    "supernet": ("supernet", {"supernet": "{file}"}),
    "start": ("short-training:standard", {"init": "{file}"}),
}


def networks() -> dict[str, tuple[Architecture, float]]:
    """The networks of the comparison with their predicted latency in ms, published and random ones in turn."""
    space, (table, _) = SearchSpace.find("iformer"), LatencyTable.find("iphone13")
    points = read_points(Path("latency_tables/iphone13.points.csv"))
    published = {p.name: p.architecture() for p in points if unlike(p) is None and p.architecture() in space}
    choose = random_choice(seed=0)
    drawn: dict[str, Architecture] = {}
    for label, (low, high), number in (("near", NEAR_MS, 8), ("wide", WIDE_MS, 10)):
        while sum(name.startswith(label) for name in drawn) < number:
            network = space.sample(choose)
            if low <= table.latency(network).latency_ms <= high:
                drawn[f"{label}-{network.id}"] = network
    mixed = sorted([*enumerate(published.items()), *enumerate(drawn.items())], key=lambda item: item[0])
    return {name: (network, table.latency(network).latency_ms) for _, (name, network) in mixed}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Scores in a file; none yet is no error."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def run(supernet: str, path: Path, method: str, seed: int) -> None:
    """Score every network that the file has no score of, one line each as it comes."""
    torch.set_num_threads(1)
    name, options = METHODS[method]
    filled = {key: value.format(file=supernet) for key, value in options.items()}
    proxy = build_proxies(name, data=DATA, seed=seed, options=filled)[name]
    source = "" if method == "scratch" else Path(supernet).name
    known = {(line["network"], line["method"], line["source"], line["seed"]) for line in lines(path)}
    for network, (architecture, latency_ms) in networks().items():
        if (network, method, source, seed) in known:
            continue
        begun = time.process_time()
        score = proxy.score(architecture)
        line = {
            "network": network,
            "method": method,
            "source": source,
            "seed": seed,
            "likelihood": score.value,
            "accuracy": score.details["accuracy"],
            "cpu_s": time.process_time() - begun,
            "latency_ms": latency_ms,
            "macs": count(architecture).macs,
            "id": architecture.id,
        }
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        sys.stdout.write(f"{network}  {score.value:.4f}\n")


def table(path: Path) -> str:
    """Kendall's tau of each method against separate training, over all networks and inside the latency band."""
    scores: dict[tuple[str, str, str], list[float]] = {}
    latency, macs = {}, {}
    for line in lines(path):
        for measure in ("likelihood", "accuracy"):
            label = " ".join(filter(None, (line["method"], line["source"])))
            scores.setdefault((label, measure, line["network"]), []).append(line[measure])
        latency[line["network"]], macs[line["network"]] = line["latency_ms"], line["macs"]
    means = {key: statistics.fmean(values) for key, values in scores.items()}
    rankers = {"predicted latency": latency, "MACs": macs}
    for label, measure in sorted({(label, measure) for label, measure, _ in means}):
        rankers[f"{label}, {measure}"] = {n: v for (a, b, n), v in means.items() if (a, b) == (label, measure)}
    target = rankers.pop("scratch, likelihood")
    rows = ["| against the likelihood of separate training | networks | tau | band | tau |", "|---|---|---|---|---|"]
    for label, values in rankers.items():
        both = [name for name in target if name in values]
        near = [name for name in both if NEAR_MS[0] <= latency[name] <= NEAR_MS[1]]
        taus = [_tau([target[name] for name in names], [values[name] for name in names]) for names in (both, near)]
        rows.append(f"| {label} | {len(both)} | {taus[0]} | {len(near)} | {taus[1]} |")
    return "\n".join(rows)


def _tau(first: list[float], second: list[float]) -> str:
    interval = bootstrap_interval(first, second)
    words = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return f"{float(kendall_tau_b(first, second)):.2f}{words}"


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("supernet")
    running.add_argument("scores", type=Path)
    running.add_argument("method", choices=METHODS)
    running.add_argument("--seed", type=int, default=0)
    commands.add_parser("table").add_argument("scores", type=Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.supernet, options.scores, options.method, options.seed)
    else:
        sys.stdout.write(table(options.scores) + "\n")


if __name__ == "__main__":
    main()
