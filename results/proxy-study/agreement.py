"""Do weights from a supernet order networks as training each from scratch does?

    python results/proxy-study/agreement.py run FILE.supernet.safetensors agreement.jsonl scratch
    python results/proxy-study/agreement.py run FILE.supernet.safetensors agreement.jsonl supernet
    python results/proxy-study/agreement.py table agreement.jsonl
    python results/proxy-study/agreement.py funnel agreement.jsonl

The networks are the published ones that are in the space, and random ones of it: eight of 0.95 to 1.20 ms and ten of
0.5 to 1.6 ms. `scratch` trains each on 8,192 images as short training does, `supernet` takes the shared weights,
`start` trains on 4,096 images from there, and the others look at the untrained network. A score that is in the file
is not computed again. `funnel` draws rounds of eight of these networks, lets a cheap method pass on its best, and says
what `start` gives that one beside the others of its round.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nas import LatencyTable, SearchSpace
from nas.latency.published import read_points
from nas.networks import Architecture, count, random_choice
from nas.proxies import build_proxies
from nas.validate import unlike
from nas.validate.ranking import bootstrap_interval, kendall_tau_b

DATA = "../shared/data/tiny_imagenet50_64px"
NEAR_MS = (0.95, 1.20)
WIDE_MS = (0.50, 1.60)
METHODS = {  # proxy and options
    "scratch": ("short-training:standard", {}),
    "supernet": ("supernet", {"supernet": "{file}"}),
    "start": ("short-training:standard", {"init": "{file}"}),
    **{measure: (f"zero-cost:{measure}", {}) for measure in ("zico", "synflow", "naswot", "params", "macs")},
}
ROUND, ROUNDS = 8, 10_000


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
    source = Path(supernet).name if options else ""
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
            "value": score.value,
            "accuracy": score.details.get("accuracy"),
            "cpu_s": time.process_time() - begun,
            "latency_ms": latency_ms,
            "macs": count(architecture).macs,
            "id": architecture.id,
        }
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        sys.stdout.write(f"{network}  {score.value:.4f}\n")


def means(path: Path, measure: str) -> dict[str, dict[str, float]]:
    """A measure by method, with its supernet, and network: the mean over seeds; `scratch 0` and so on is one seed."""
    values: dict[tuple[str, str], list[float]] = {}
    for line in lines(path):
        label = " ".join(filter(None, (line["method"], line["source"])))
        labels = (label, f"scratch {line['seed']}") if label == "scratch" else (label,)
        for one in labels:
            if line[measure] is not None:
                values.setdefault((one, line["network"]), []).append(line[measure])
    by_method: dict[str, dict[str, float]] = {}
    for (label, network), several in values.items():
        by_method.setdefault(label, {})[network] = statistics.fmean(several)
    return by_method


def table(path: Path) -> str:
    """Kendall's tau of each method against separate training, over all networks and inside the latency band."""
    scores = means(path, "value")
    latency = {line["network"]: line["latency_ms"] for line in lines(path)}
    target = scores.pop("scratch")
    rows = ["| against the likelihood of separate training | networks | tau | band | tau |", "|---|---|---|---|---|"]
    rankers = {label: values for label, values in sorted(scores.items()) if not label.startswith("scratch ")}
    for label, values in {"predicted latency": latency, **rankers}.items():
        both = [name for name in target if name in values]
        near = [name for name in both if NEAR_MS[0] <= latency[name] <= NEAR_MS[1]]
        taus = [_tau([target[name] for name in names], [values[name] for name in names]) for names in (both, near)]
        rows.append(f"| {label} | {len(both)} | {taus[0]} | {len(near)} | {taus[1]} |")
    first, second = scores.get("scratch 0", {}), scores.get("scratch 1", {})
    if both := [name for name in first if name in second]:
        tau = _tau([first[name] for name in both], [second[name] for name in both])
        rows.append(f"| (one seed of separate training against another) | {len(both)} | {tau} | | |")
    return "\n".join(rows)


def funnel(path: Path) -> str:
    """What a cheap method that screens saves and loses, where training from the supernet decides."""
    scores, seconds = means(path, "value"), means(path, "cpu_s")
    (dear,) = (label for label in scores if label.startswith("start "))
    trained = scores[dear]
    dear_s = statistics.fmean(seconds[dear].values())
    choose = random.Random(0)
    drawn = [choose.sample(sorted(trained), ROUND) for _ in range(ROUNDS)]
    rows = [
        f"| of rounds of {ROUND}, passed on by | CPU s a network | CPU time, of training all "
        "| is the best | one of the best two | nats below the best |",
        "|---|---|---|---|---|---|",
    ]
    for label in [*sorted(name for name in scores if name != dear and not name.startswith("scratch")), "chance"]:
        cheap = scores.get(label) or dict.fromkeys(trained, 0.0)
        cheap_s = statistics.fmean(seconds[label].values()) if label in seconds else 0.0
        places, losses = [], []
        for networks in drawn:
            passed = max(networks, key=lambda name: (cheap[name], choose.random()))
            order = sorted((trained[name] for name in networks), reverse=True)
            places.append(order.index(trained[passed]))
            losses.append(math.log(order[0] / trained[passed]))
        share = (ROUND * cheap_s + dear_s) / (ROUND * dear_s)
        best, two = (sum(place < most for place in places) / ROUNDS for most in (1, 2))
        rows.append(
            f"| {label} | {cheap_s:.1f} | {share:.0%} | {best:.0%} | {two:.0%} | {statistics.fmean(losses):.3f} |"
        )
    return "\n".join([*rows, f"| (training all: {dear_s:.0f} CPU s a network) | | 100% | 100% | 100% | 0 |"])


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
    for command in (table, funnel):
        commands.add_parser(command.__name__).add_argument("scores", type=Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.supernet, options.scores, options.method, options.seed)
    else:
        command = {"table": table, "funnel": funnel}[options.command]
        sys.stdout.write(command(options.scores) + "\n")


if __name__ == "__main__":
    main()
