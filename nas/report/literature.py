"""Published networks of a run's device: what others measured, as a layer of the front that can be switched on."""

from __future__ import annotations

from dataclasses import dataclass

from nas import catalog
from nas.errors import InputError
from nas.latency.published import PublishedPoint, baselines_beside, read_baselines, read_points
from nas.networks import Architecture
from nas.search import SearchResult

__all__ = ["LITERATURE", "PublishedNetwork", "published_networks"]

LITERATURE = "iFormer, arXiv:2501.15369"
_RESOLUTION = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNetwork:
    """A network with a published latency on the device and a published ImageNet-1k top-1 accuracy.

    Attributes:
        latency_ms: as printed.
        top1: in %, as printed.
        source: where both are printed.
        is_variant: whether it is one of the iFormer variants, such as iFormer-M, and not a step towards them.
        architecture: None for a network of another family.
    """

    name: str
    latency_ms: float
    top1: float
    source: str
    is_variant: bool = False
    architecture: Architecture | None = None


def published_networks(result: SearchResult) -> list[PublishedNetwork]:
    """The published networks of the device of a run's table, fastest first; none for any other device.

    They are in `DEVICE.points.csv` and `DEVICE.baselines.csv` beside the latency tables.
    """
    device = result.run.table.name.rpartition("/")[2].split(".")[0]
    file = catalog.files("latency_tables", ".points.csv").get(device)
    if file is None:
        return []
    try:
        points = read_points(file)
        beside = baselines_beside(file)
        others = read_baselines(beside) if beside else []
    except InputError:
        return []  # The user's own files may be broken; the run can be shown without them.
    found = [
        PublishedNetwork(
            name=point.name,
            latency_ms=point.latency_ms,
            top1=point.top1,
            source=f"{LITERATURE}, {point.source}",
            is_variant=point.name.startswith("iformer_"),
            architecture=_architecture(point),
        )
        for point in points
        if point.top1 is not None and point.resolution == _RESOLUTION
    ]
    found += [
        PublishedNetwork(
            name=other.name,
            latency_ms=other.latency_ms,
            top1=other.top1,
            source=f"printed in {LITERATURE}, {other.source}",
        )
        for other in others
        if other.top1 is not None and other.resolution == _RESOLUTION
    ]
    return sorted(found, key=lambda one: one.latency_ms)


def _architecture(point: PublishedPoint) -> Architecture | None:
    return point.architecture() if point.in_family and point.timed == "network" else None
