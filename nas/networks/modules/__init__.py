"""Networks as torch modules: building them, folding them for deployment, and their weights."""

from nas.networks.modules.blocks import residual_norms
from nas.networks.modules.fuse import fuse
from nas.networks.modules.inherit import Inherited, inherit, load_donor
from nas.networks.modules.network import Network, build_deployed, build_layer, build_model, example_input, example_shape
from nas.networks.modules.pixels import PixelNetwork, build_pixel_model
from nas.networks.modules.shared import SharedWeights, skeleton
from nas.networks.modules.weights import load_model, load_weights, save_weights, to_timm

__all__ = [
    "Inherited",
    "Network",
    "PixelNetwork",
    "SharedWeights",
    "build_deployed",
    "build_layer",
    "build_model",
    "build_pixel_model",
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
