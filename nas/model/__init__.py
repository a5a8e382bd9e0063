"""Networks as torch modules: building them, folding them for deployment, and their weights."""

from nas.model.blocks import residual_norms
from nas.model.fuse import fuse
from nas.model.inherit import Inherited, inherit, load_donor
from nas.model.network import Network, build_deployed, build_layer, build_model, example_input, example_shape
from nas.model.shared import SharedWeights, skeleton
from nas.model.weights import load_model, load_weights, save_weights, to_timm

__all__ = [
    "Inherited",
    "Network",
    "SharedWeights",
    "build_deployed",
    "build_layer",
    "build_model",
    "example_input",
    "example_shape",
    "fuse",
    "inherit",
    "load_donor",
    "load_model",
    "load_weights",
    "residual_norms",
    "save_weights",
    "skeleton",
    "to_timm",
]
