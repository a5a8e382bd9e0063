"""Validations of an earlier version, with what they lack and what follows from the networks that they name."""

from __future__ import annotations

from collections.abc import Mapping

from nas import catalog
from nas.errors import InputError
from nas.latency.published import read_points
from nas.networks import Architecture
from nas.validate.agreement import RANKERS, ScoredNetwork, rank_agreement
from nas.validate.baselines import depth, log_weights
from nas.validate.records import ProxyPart, Validation

__all__ = ["completed"]


def completed(validation: Validation) -> Validation:
    """The validation with all rankings that need no proxy, and with what is compared with them.

    A file of an earlier version has parameters, MACs and published latencies only. The other counts follow from the
    networks: a row has the id of its network, and the published networks of this id are known here. A row of another
    network stays as it is, and the counts that it lacks are left out of the comparison.
    """
    if all(part.all_rows.rankers.keys() == RANKERS.keys() and part.all_rows.lead for part in validation.proxies):
        return validation
    known = _published_networks()
    proxies = tuple(_completed_part(part, validation.seeds, known) for part in validation.proxies)
    return validation.model_copy(update={"proxies": proxies})


def _completed_part(part: ProxyPart, seeds: tuple[int, ...], known: Mapping[str, Architecture]) -> ProxyPart:
    rows = [_with_counts(row, known.get(row.id)) for row in part.rows]
    near = [row for row in rows if row.is_near]
    agreements = {"all_rows": rank_agreement(rows, seeds), "near_rows": rank_agreement(near, seeds)}
    return part.model_copy(update={"rows": tuple(rows), **agreements})


def _with_counts(row: ScoredNetwork, network: Architecture | None) -> ScoredNetwork:
    if network is None or row.depth is not None:
        return row
    return row.model_copy(update={"depth": depth(network), "log_weights": log_weights(network)})


def _published_networks() -> dict[str, Architecture]:
    """The published networks by id, from all points files that can be read."""
    networks: dict[str, Architecture] = {}
    for path in catalog.files("latency_tables", ".points.csv").values():
        try:
            points = read_points(path)
        except InputError:
            continue  # A broken file of the user must not hide what a finished validation says.
        networks |= {network.id: network for point in points if point.in_family for network in [point.architecture()]}
    return networks
