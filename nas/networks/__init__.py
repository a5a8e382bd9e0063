"""What a network is, and which networks are allowed. No torch: nas/networks/modules turns descriptions into modules.

Read in this order: specs.py (the parts), layers.py (the units of a latency table), architecture.py (a whole network),
operations.py (what a layer is made of), windows.py (which attention works in windows), choices.py, stages.py and
space.py (which networks a search may choose from), timm.py (which of them timm can build), encoding.py (thousands at
once; it loads NumPy, so take its names from there).
"""

from __future__ import annotations

from nas.networks.architecture import Architecture, Subject, stage_layers, stage_size
from nas.networks.known import find_network
from nas.networks.layers import AttentionLayer, ConvLayer, DownsampleLayer, HeadLayer, Layer, Stack, StemLayer
from nas.networks.operations import Counts, Operation, OperationKind, count, count_layer, operations
from nas.networks.space import MustFit, SearchSpace, random_choice
from nas.networks.specs import AttentionSpec, BlockSpec, ConvSpec, DownsampleSpec, StageSpec, StemSpec, odd
from nas.networks.stages import Choose
from nas.networks.timm import why_not_timm
from nas.networks.windows import in_windows, windowed

__all__ = [
    "Architecture",
    "AttentionLayer",
    "AttentionSpec",
    "BlockSpec",
    "Choose",
    "ConvLayer",
    "ConvSpec",
    "Counts",
    "DownsampleLayer",
    "DownsampleSpec",
    "HeadLayer",
    "Layer",
    "MustFit",
    "Operation",
    "OperationKind",
    "SearchSpace",
    "Stack",
    "StageSpec",
    "StemLayer",
    "StemSpec",
    "Subject",
    "count",
    "count_layer",
    "find_network",
    "in_windows",
    "odd",
    "operations",
    "random_choice",
    "stage_layers",
    "stage_size",
    "why_not_timm",
    "windowed",
]
