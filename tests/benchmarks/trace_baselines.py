"""Trace the operations of other authors' networks, for the fit of the iPhone 13; needs the extra `timm`.

    python tests/benchmarks/trace_baselines.py

Reads latency_tables/iphone13.baselines.csv and writes the operations file beside it. Each network is built by timm
without weights, in its deployed form (branches of several convolutions merged), at the resolution of its row; a row
without a model in timm, or with steps that the tracing has no rule for, must say `fit` no.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

from nas.errors import InputError
from nas.latency.published import operations_beside, read_baselines, write_operations
from nas.networks import Operation
from nas.networks.modules.outside import timm_part
from nas.networks.modules.trace import traced_operations

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baselines", nargs="?", type=Path, default=ROOT / "latency_tables" / "iphone13.baselines.csv")
    baselines: Path = parser.parse_args().baselines
    timm = timm_part()
    from timm.utils.model import reparameterize_model

    # timm keeps tables of attention biases on its modules, which exporting remarks upon.
    warnings.filterwarnings("ignore", message="The tensor attributes self.*attention_bias_cache")
    networks: dict[str, tuple[Operation, ...]] = {}
    for row in read_baselines(baselines):
        if not row.timm_name:
            continue
        module = reparameterize_model(timm.create_model(row.timm_name, pretrained=False).eval())
        try:
            parts = traced_operations(module, torch.zeros(1, 3, row.resolution, row.resolution))
        except InputError as error:
            if row.fit == "yes":
                raise
            sys.stdout.write(f"{row.name:24s} left out: {error}\n")
            continue
        networks[row.name] = parts
        params, macs = sum(part.weights for part in parts) / 1e6, sum(part.macs for part in parts) / 1e9
        sys.stdout.write(f"{row.name:24s} {params:6.2f} M parameters {macs:6.3f} GMACs {len(parts):4d} operations\n")
    out = operations_beside(baselines)
    torch_version = torch.__version__.split("+")[0]
    origin = f"python tests/benchmarks/trace_baselines.py: timm {timm.__version__}, torch {torch_version}, batch 1"
    write_operations(out, networks, origin=origin)
    sys.stdout.write(f"written to {out}\n")


if __name__ == "__main__":
    main()
