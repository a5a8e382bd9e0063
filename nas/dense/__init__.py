"""Networks for dense tasks: as backbones, and in detectors and segmenters that are trained and judged here.

The parts that need the extra [dense] are in detection.py and segmentation.py, with coco.py and masks.py as their data.
"""

from nas.dense.backbones import Backbone, Pyramid, backbone

__all__ = ["Backbone", "Pyramid", "backbone"]
