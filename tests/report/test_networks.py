"""The networks of a page as columns: what the browser adds up is what the library counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.latency import LatencyTable
from nas.networks import SearchSpace, count, random_choice
from nas.report.literature import published_networks
from nas.report.networks import ROLES, NetworkColumns
from nas.search import SearchResult

KEPT = Path(__file__).parents[2] / "results"
MOST_BYTES = 2e6  # of a page, without Plotly's own script
SPACE = SearchSpace.find("iformer")


def test_layers_add_up_to_the_sizes_and_the_latency_of_a_network() -> None:
    table, _ = LatencyTable.find("amd-epyc.onnxruntime.fp32")
    columns, choose = NetworkColumns(), random_choice(seed=0)
    networks = [*SPACE.references.values(), *(SPACE.sample(choose) for _ in range(10))]
    for network in networks:
        columns.add(network, role="dominated", table=table)
    data = columns.data()
    of_layers = data["of_layers"]
    for number, network in enumerate(networks):
        runs = [token.partition("x") for token in data["layers"][number].split()]
        layers = [int(layer) for layer, _, times in runs for _ in range(int(times or 1))]
        counts = count(network)
        added = {name: [of_layers[name][layer] for layer in layers] for name in ("params", "macs", "memory", "ms")}

        assert sum(added["params"]) == counts.params
        assert sum(added["macs"]) == counts.macs
        assert max(added["memory"]) == counts.memory_bytes
        assert None in added["ms"] or sum(added["ms"]) == pytest.approx(table.latency_ms(network), rel=1e-4)


def test_layers_that_the_table_lacks_have_no_latency() -> None:
    columns = NetworkColumns()
    table, _ = LatencyTable.find("amd-epyc.onnxruntime.fp32")
    columns.add(SPACE.references["iformer_h"], role="reference", table=table)

    assert None in columns.data()["of_layers"]["ms"]


def test_each_candidate_has_one_role() -> None:
    result = SearchResult.load(KEPT / "tiny50-1.1ms")
    roles = result.roles
    winner = result.winner

    assert set(roles) <= set(ROLES)
    assert [one.id for one, role in zip(result.candidates, roles, strict=True) if role == "winner"] == [
        winner.id if winner else None
    ]
    assert roles.count("reference") == len(result.references)
    assert roles.count("front") + roles.count("winner") == len({one.id for one in (*result.front, winner) if one})


def test_published_networks_are_those_of_the_device_and_have_their_source() -> None:
    published = published_networks(SearchResult.load(KEPT / "survey-1.1ms"))
    medium = next(one for one in published if one.name == "iformer_m")

    assert [one.name for one in published if one.is_variant] == [
        f"iformer_{size}" for size in ("t", "s", "m", "l", "l2")
    ]
    assert (medium.latency_ms, medium.top1) == (1.1, 80.4)
    assert medium.architecture == SPACE.references["iformer_m"]
    assert all("arXiv:2501.15369" in one.source for one in published)


def test_ten_thousand_networks_would_stay_below_the_limit() -> None:
    """500 networks drawn at random; each shares most of its layers with others."""
    columns, choose = NetworkColumns(), random_choice(seed=0)
    for _ in range(500):
        columns.add(SPACE.sample(choose), role="dominated")
    data = columns.data()
    layers = json.dumps(data.pop("of_layers"), separators=(",", ":"))

    assert len(json.dumps(data, separators=(",", ":"))) / 500 * 10_000 < MOST_BYTES * 0.6
    assert len(layers) < MOST_BYTES * 0.1
