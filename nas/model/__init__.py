"""Networks as torch modules: building them, folding them for deployment, and their weights."""

from nas.model.blocks import residual_norms
from nas.model.fuse import fuse
from nas.model.network import Network, build_deployed, build_layer, build_model, example_input, example_shape
from nas.model.weights import load_model, load_weights, save_weights, to_timm

__all__ = [
    "Network",
    "build_deployed",
    "build_layer",
    "build_model",
    "example_input",
    "example_shape",
    "fuse",
    "load_model",
    "load_weights",
    "residual_norms",
    "save_weights",
    "to_timm",
]
