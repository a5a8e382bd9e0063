"""`nas space show`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from nas.networks import SearchSpace

Nas = Callable[..., subprocess.CompletedProcess[str]]


def test_space_show_states_networks_layers_and_references(nas: Nas, tmp_path: Path) -> None:
    document = json.loads(nas("space", "show", "iformer", "--json", cwd=tmp_path).stdout)
    names = {network["name"]: network for network in document["references"]}

    assert document["networks"] == SearchSpace.find("iformer").count()
    assert document["layers"] == len(SearchSpace.find("iformer").layers)
    assert names["cheapest"]["latency_ms"] < document["latency_quantiles_ms"]["minimum"]
    assert names["iformer_l"]["inside"] is True
    assert names["iformer_h"]["inside"] is False
