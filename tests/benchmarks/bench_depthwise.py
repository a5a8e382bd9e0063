"""What the gradients of depthwise convolutions cost on a CPU, and what a training step gains.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_depthwise.py

CPU milliseconds of 64 images, in bf16 where this processor has it and else in fp32, torch's and this project's way in
turn, medians; then forward and backward of iFormer-M at 64 px, where only maps that pay are computed here.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from nas.networks import SearchSpace
from nas.networks.modules import blocks
from nas.networks.modules.depthwise import depthwise
from nas.training.muon import orthogonal_precision
from nas.training.recipe import autocast, initial_network

ROUNDS = 9


def main() -> None:
    torch.manual_seed(0)
    dtype = orthogonal_precision(torch.device("cpu"))
    sys.stdout.write(f"{dtype}, {torch.get_num_threads()} thread(s)\n")
    for channels, size in ((48, 16), (96, 8), (192, 4), (384, 2)):
        x, ahead = (torch.randn(64, channels, size, size, dtype=dtype) for _ in range(2))
        x, ahead = (y.contiguous(memory_format=torch.channels_last).requires_grad_() for y in (x, ahead))
        weight = torch.randn(channels, 1, 7, 7, dtype=dtype, requires_grad=True)

        def theirs(x=x, ahead=ahead, weight=weight):
            torch.autograd.grad(F.conv2d(x, weight, padding=3, groups=len(weight)), (x, weight), ahead)

        def ours(x=x, ahead=ahead, weight=weight):
            torch.autograd.grad(depthwise(x, weight), (x, weight), ahead)

        show(f"7x7, {channels} channels, {size}x{size}", theirs, ours)

    network = initial_network(SearchSpace.find("iformer").references["iformer_m"].at(resolution=64), seed=0).train()
    images = torch.randn(64, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    labels, slow = torch.randint(0, 1000, (64,)), blocks.is_slow

    def step(found: Callable[..., bool]) -> None:
        blocks.is_slow = found
        with autocast(images.device, "bf16" if dtype == torch.bfloat16 else "fp32"):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        network.zero_grad()

    show("iFormer-M forward and backward, 64 px", lambda: step(lambda *_: False), lambda: step(slow))


def show(label: str, theirs: Callable[[], None], ours: Callable[[], None]) -> None:
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(ROUNDS):
        for name, run in (("theirs", theirs), ("ours", ours)):
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    before, after = (statistics.median(times[name]) for name in ("theirs", "ours"))
    sys.stdout.write(f"{label}: torch {before:.1f} ms, here {after:.1f} ms, ratio {after / before:.2f}\n")


if __name__ == "__main__":
    main()
