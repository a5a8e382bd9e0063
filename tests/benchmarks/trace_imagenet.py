"""Read published networks into what an accuracy table learns from; needs the extra `timm`.

    python tests/benchmarks/trace_imagenet.py ../shared/data/imagenet_results

The folder has timm's published results (`results-imagenet.csv`: model, img_size, top1, param_count). Of these, networks
of mobile size that saw no images but ImageNet-1k's are built by timm without weights, in their deployed form, and
traced at the resolution of their result. Writes imagenet.networks.csv and imagenet.results.csv into accuracy_tables/.
A network with a step that tracing has no rule for is named and left out. Takes about twenty minutes on one core; goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
import warnings
from pathlib import Path

import torch

from nas.accuracy.results import NETWORK_COLUMNS, RESULT_COLUMNS
from nas.accuracy.traits import TALLY, tally
from nas.errors import InputError
from nas.files import write_beside
from nas.networks.modules.outside import timm_part
from nas.networks.modules.trace import traced

ROOT = Path(__file__).parents[2]

# Parts of a tag that mean other images than ImageNet-1k's.
OTHER_IMAGES = re.compile(
    "in12k|in21k|in22k|clip|dino|mae|ssl|swsl|ns_jft|laion|dfn|sup|wsl|webvision|jft|yfcc|plantclef|lvd|mim|seer|beit"
)
PARAMETERS, MACS, PIXELS = (1e6, 20e6), (0.15e9, 3.2e9), 260


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--kept", type=Path, default=Path("/tmp/trace_imagenet.jsonl"), help="what is traced so far")
    asked = parser.parse_args()
    with (asked.results / "results-imagenet.csv").open(newline="") as file:
        results = [row for row in csv.DictReader(file) if not OTHER_IMAGES.search(row["model"].partition(".")[2])]
    results = [row for row in results if int(row["img_size"]) <= PIXELS]
    results = [row for row in results if float(row["param_count"].replace(",", "")) * 1e6 <= 1.1 * PARAMETERS[1]]
    kept = _traced({(row["model"].partition(".")[0], int(row["img_size"])) for row in results}, asked.kept)
    weights, macs = TALLY.index("weights"), TALLY.index("macs")
    networks = {
        key: sums
        for key, sums in sorted(kept.items())
        if PARAMETERS[0] <= sums[weights] <= PARAMETERS[1] and MACS[0] <= sums[macs] <= MACS[1]
    }
    # One training under two names counts once.
    networks = {key: sums for key, sums in networks.items() if not key[0].startswith("levit_conv_")}
    import timm

    origin = f"# python tests/benchmarks/trace_imagenet.py: timm {timm.__version__}, torch {torch.__version__}, batch 1"
    rows = [[name, family(name), size, *(f"{value:.10g}" for value in sums)] for (name, size), sums in networks.items()]
    _write("imagenet.networks.csv", origin, NETWORK_COLUMNS, rows)
    source = (
        "# top-1 accuracy on the ImageNet-1k validation set, from the results folder of "
        "huggingface/pytorch-image-models (Apache-2.0), commit aa4b5850 of 2026-08-08"
    )
    used = [
        [*row["model"].split(".", 1), row["img_size"], f"{float(row['top1']):.3f}"]
        for row in results
        if (row["model"].partition(".")[0], int(row["img_size"])) in networks
    ]
    _write("imagenet.results.csv", source, RESULT_COLUMNS, sorted(used))
    sys.stdout.write(f"{len(used)} results of {len(networks)} networks\n")


def family(name: str) -> str:
    """The family of a timm network: its name up to a version or size, without the prefixes of ports."""
    plain = re.sub(r"^(tf_|gc_|lambda_|halo_|legacy_|ese_|eca_|se(?=mnas|res))", "", name)
    plain = plain.replace("densenetblur", "densenet")
    match = re.match(r"[a-z]+", plain)
    assert match is not None
    return match[0].removesuffix("v") if plain[match.end() :][:1].isdigit() else match[0]


def _traced(wanted: set[tuple[str, int]], path: Path) -> dict[tuple[str, int], list[float]]:
    """The tally of each network and resolution that can be traced."""
    timm = timm_part()
    from timm.utils.model import reparameterize_model

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(line["network"], line["resolution"]): line for line in lines}
    for name, size in sorted(wanted - set(done)):
        line: dict[str, object] = {"network": name, "resolution": size}
        try:
            module = reparameterize_model(timm.create_model(name, pretrained=False).eval())
            seen = traced(module, torch.zeros(1, 3, size, size))
            sums = tally(seen.operations, resolution=size, gates=seen.gates, scalings=seen.scalings)
            line["tally"] = sums.tolist()
        except (InputError, RuntimeError, AssertionError, ValueError, TypeError) as error:
            line["left_out"] = str(error).splitlines()[0][:200]
            sys.stdout.write(f"{name} at {size} px left out: {line['left_out']}\n")
        done[name, size] = line
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return {key: line["tally"] for key, line in done.items() if key in wanted and "tally" in line}


def _write(name: str, origin: str, columns: tuple[str, ...], rows: list[list[object]]) -> None:
    text = io.StringIO()
    text.write(origin + "\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    write_beside(ROOT / "accuracy_tables" / name, text.getvalue().encode())


if __name__ == "__main__":
    main()
