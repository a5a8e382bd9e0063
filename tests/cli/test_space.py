"""`nas space list` and `nas space show`."""

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
    assert names["dearest"]["latency_ms"] > document["latency_quantiles_ms"]["maximum"]
    assert (
        names["iformer_m"]["interval_ms"][0] < names["iformer_m"]["latency_ms"] < names["iformer_m"]["interval_ms"][1]
    )
    assert names["iformer_l"]["inside"] is True
    assert names["iformer_h"]["inside"] is False


def test_networks_of_a_small_space_have_sizes_that_are_not_0(nas: Nas, tmp_path: Path) -> None:
    shown = nas("space", "show", "tiny", cwd=tmp_path).stdout
    lines = {line.split("  ")[0].strip(): line for line in shown.splitlines()}

    assert "224 networks of 17 distinct layers" in lines
    assert "params, k  MMACs" in lines["network"]
    assert "0.00" not in lines["tiny_a"]
    assert "most expensive" in lines
    assert "a convolution block, A an attention unit" in shown


def test_space_list_names_every_space_and_what_is_broken(nas: Nas, tmp_path: Path) -> None:
    folder = tmp_path / "search_spaces"
    folder.mkdir()
    (folder / "half.toml").write_text("schema = 1\n[[stages]]\n")
    listed = nas("space", "list", cwd=tmp_path)
    known = {one["space"]: one for one in json.loads(nas("space", "list", "--json", cwd=tmp_path).stdout)["spaces"]}

    assert listed.returncode == 0
    assert {"half", "iformer", "iformer-512", "tiny"} == set(known)
    assert all(name in listed.stdout for name in known)
    assert known["tiny"]["networks"] == SearchSpace.find("tiny").count()
    assert known["tiny"]["references"] == ["tiny_a"]
    assert "half.toml" in known["half"]["error"]
