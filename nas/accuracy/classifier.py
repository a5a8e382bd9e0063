"""The classifier that an accuracy is predicted of. It is the network itself, unless that is for larger images.

A network at 512 px is the backbone of a detector or a segmenter. What is known of it is how good the same network is as
a classifier at 224 px, where the weights come from that its training begins with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nas.networks import Architecture, AttentionLayer, HeadLayer, Layer, windowed

__all__ = ["classifier_layer", "classifier_of", "classifier_px", "classifier_words"]

_CLASSES = 1000  # of ImageNet-1k
_PIXELS = 224  # of the family's training
_MOST_PIXELS = 260  # of any published network in accuracy_tables/imagenet.results.csv


def classifier_px(resolution: int) -> int:
    """Height and width of the images of the classifier: 224 px where no published network's images are as large."""
    return resolution if resolution <= _MOST_PIXELS else _PIXELS


def classifier_of(network: Architecture) -> Architecture:
    """The network whose ImageNet accuracy is predicted; at another resolution it has no windows."""
    pixels = classifier_px(network.resolution)
    if pixels == network.resolution:
        return network.at(num_classes=_CLASSES)
    return windowed(network, 0).at(resolution=pixels, num_classes=_CLASSES)


def classifier_layer(layer: Layer, resolution: int) -> Layer:
    """The layer of `classifier_of`, for a layer of a network of this resolution."""
    if isinstance(layer, HeadLayer):
        layer = replace(layer, num_classes=_CLASSES)
    pixels = classifier_px(resolution)
    if pixels == resolution:
        return layer
    layer = replace(layer, height=layer.height * pixels // resolution, width=layer.width * pixels // resolution)
    if not isinstance(layer, AttentionLayer):
        return layer
    spec = layer.spec.model_copy(update={"window": 0})
    return replace(layer, spec=spec, partitions=False, merges=False)


def classifier_words(resolutions: Iterable[int]) -> str:
    """` as a classifier at 224 px`, where accuracy is predicted so for networks of any of these; empty elsewhere."""
    other = any(classifier_px(resolution) != resolution for resolution in resolutions)
    return f" as a classifier at {_PIXELS} px" if other else ""
