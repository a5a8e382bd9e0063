"""A second truth: do zero-cost measures rank the mobile networks of other families? Needs the extra `timm`.

    python results/other-families/score.py --data ../shared/data/imagenette_224px
    python results/other-families/score.py --report

The networks are those of accuracy_tables/imagenet.networks.csv with at most 1 GMACs at 224 px, whose top-1 accuracy
without a teacher is in imagenet.results.csv (the best of several recipes). timm builds them without trained weights,
and the measures see 16 images. For naswot every activation is made a GELU. Each network is a line of scores.jsonl
beside this script, and a stopped run goes on.

`--report` prints Kendall's tau against published top-1 over all networks, and "within a size": over the pairs of
networks whose numbers of weights and of MACs are within a quarter of each other. Beside the measures stand counts that
need no images, and the published part of the accuracy table, which foretells each family without having seen its rows
(its kernel has; tests/benchmarks/fit_accuracy.py learns that anew as well).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nas.accuracy import AccuracyTable
from nas.accuracy.results import read_rows
from nas.data import load_images, training_batches
from nas.networks.modules.outside import timm_part
from nas.proxies.zero_cost import gradient_norm, naswot, zico
from nas.validate.ranking import bootstrap_interval, kendall_tau_b

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests"))
MACS, IMAGES, NEAR = 1e9, 16, 1.25
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.PReLU)


def main() -> None:  # noqa: D103
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/imagenette_224px")
    parser.add_argument("--report", action="store_true")
    asked = parser.parse_args()
    if asked.report:
        report()
    else:
        score(asked.data)


def wanted():
    """The published networks: of each the row with the best accuracy without a teacher."""
    folder = ROOT / "accuracy_tables"
    rows = read_rows(folder / "imagenet.networks.csv", folder / "imagenet.results.csv")
    best = {}
    for row in rows:
        if not row.distilled and (row.name not in best or row.top1 > best[row.name].top1):
            best[row.name] = row
    lines = [line.split(",") for line in (folder / "imagenet.networks.csv").read_text().splitlines()[2:]]
    small = {cells[0] for cells in lines if cells[2] == "224" and float(cells[3]) <= MACS}
    return [row for name, row in sorted(best.items()) if name in small]


def score(data: str) -> None:  # noqa: D103
    timm = timm_part()

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    images = load_images(data, resolution=224, seed=0, train_limit=IMAGES, val_limit=1)
    pictures, labels = next(training_batches(images, batch_size=IMAGES, steps=1, seed=0))
    out = HERE / "scores.jsonl"
    done = {json.loads(line)["network"] for line in out.read_text().splitlines()} if out.exists() else set()
    trying = HERE / "trying.txt"  # a few networks make torch abort
    if trying.exists() and (name := trying.read_text()) not in done:
        with out.open("a") as file:
            file.write(json.dumps({"network": name, "left_out": "torch aborted"}) + "\n")
        done.add(name)
    for row in wanted():
        if row.name in done:
            continue
        trying.write_text(row.name)

        def built(name=row.name):
            torch.manual_seed(0)
            return timm.create_model(name, num_classes=images.num_classes).train()

        line: dict[str, object] = {"network": row.name, "top1": row.top1, "family": row.family}
        try:
            network = built()
            weights = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
            line["depth"], line["log_weights"] = len(weights), math.fsum(map(math.log, weights))
            line["zico"] = zico(network, pictures, labels)
            line["gradient_norm"] = gradient_norm(built(), pictures, labels)
            line["naswot"] = naswot(with_gelu(built()), pictures)
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            line["left_out"] = str(error).splitlines()[0][:150]
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
    trying.unlink(missing_ok=True)


def with_gelu(network: nn.Module) -> nn.Module:
    """The network with every activation a GELU, whose inputs naswot looks at."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, ACTIVATIONS):
                setattr(module, name, nn.GELU())
    return network


def report() -> None:  # noqa: D103
    lines = [json.loads(line) for line in (HERE / "scores.jsonl").read_text().splitlines()]
    table, _ = AccuracyTable.find("iformer")
    rows = table.published.rows
    foretold = dict(zip((row.name for row in rows), table.published.left_out([r.family for r in rows])[0], strict=True))
    cells = [text.split(",") for text in (ROOT / "accuracy_tables" / "imagenet.networks.csv").read_text().splitlines()]
    sizes = {c[0]: (float(c[3]), float(c[4])) for c in cells[2:] if c[2] == "224"}
    for line in (line for line in lines if "top1" in line):
        line["macs"], line["params"] = sizes[line["network"]]
        line["accuracy table"] = float(foretold[line["network"]])
    names = ("params", "macs", "depth", "log_weights", "zico", "gradient_norm", "naswot", "accuracy table")
    kept = [line for line in lines if all(math.isfinite(line.get(name, math.nan)) for name in names)]
    failed = [line["network"] for line in lines if line not in kept]
    families = len({line["family"] for line in kept})
    print(f"{len(kept)} networks of {families} families; no score for {len(failed)}: {', '.join(failed)}")  # noqa: T201
    truth = [line["top1"] for line in kept]
    pairs = [(a, b) for a, b in combinations(kept, 2) if alike(a, b) and a["top1"] != b["top1"]]
    print(f"{len(pairs)} pairs within a size")  # noqa: T201
    for name in names:
        values = [line[name] for line in kept]
        low, high = bootstrap_interval(values, truth)
        agree = np.mean([np.sign((a[name] - b[name]) * (a["top1"] - b["top1"])) for a, b in pairs])
        tau = kendall_tau_b(values, truth)
        print(f"  {name:15s} tau {tau:+.2f} [{low:+.2f}, {high:+.2f}], within a size {agree:+.2f}")  # noqa: T201


def alike(a, b) -> bool:
    """Whether two networks have about as many weights and MACs."""
    return all(1 / NEAR <= a[name] / b[name] <= NEAR for name in ("params", "macs"))


main()
