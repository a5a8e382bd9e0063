from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nas.errors import InputError
from nas.networks import Architecture, AttentionLayer, AttentionSpec, ConvSpec, SearchSpace, StageSpec, count

# The example of the published format, with its window, heads and defaults spelled out.
PUBLISHED = """
{"schema": 1, "resolution": 224, "num_classes": 1000,
 "stem": {"kernel": 5, "expansion": 4},
 "downsample": {"kernel": 3},
 "stages": [
  {"channels": 48, "blocks": [
    {"type": "conv", "kernel": 7, "expansion": 4}, {"type": "conv", "kernel": 7, "expansion": 4}]},
  {"channels": 96, "blocks": [{"type": "conv", "kernel": 7, "expansion": 4}]},
  {"channels": 192, "blocks": [{"type": "conv", "kernel": 7, "expansion": 4},
    {"type": "attention", "attention": "shma", "query_reduction": 2, "modulation": 1.0, "expansion": 3,
     "position_kernel": 3}]},
  {"channels": 384, "blocks": [
    {"type": "attention", "attention": "mha", "heads": 4, "query_reduction": 4, "modulation": 1.0, "expansion": 3,
     "position_kernel": 0}]}]}
"""


def shma(**changes: object) -> AttentionSpec:
    fields = {"attention": "shma", "query_reduction": 2, "modulation": 1.0, "expansion": 3} | changes
    return AttentionSpec.model_validate(fields)


def network(**changes: object) -> Architecture:
    conv = ConvSpec(kernel=3, expansion=2)
    stages = tuple(StageSpec(channels=channels, blocks=(conv,)) for channels in (16, 32, 64, 128))
    return Architecture.model_validate({"resolution": 64, "num_classes": 10, "stages": stages} | changes)


def test_json_round_trip_keeps_every_key() -> None:
    architecture = Architecture.from_json(PUBLISHED)

    assert json.loads(PUBLISHED) == json.loads(architecture.to_json())
    assert architecture == Architecture.from_json(architecture.to_json())


def test_id_is_the_same_in_another_process() -> None:
    code = f"from nas.networks.architecture import Architecture; print(Architecture.from_json({PUBLISHED!r}).id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert Architecture.from_json(PUBLISHED).id == done.stdout.strip()


def test_spelled_out_defaults_do_not_change_the_id() -> None:
    document = json.loads(PUBLISHED)
    document["stages"][2]["blocks"][1]["window"] = 0
    document["layer_scale"] = 0.0
    document["stages"][2]["blocks"][1]["modulation"] = 1

    assert Architecture.from_json(PUBLISHED).id == Architecture.from_json(json.dumps(document)).id


def test_any_change_of_the_network_changes_the_id() -> None:
    base = network()
    others = [base.at(num_classes=11), base.at(resolution=96), network(layer_scale=1e-6)]

    assert len({base.id, *(other.id for other in others)}) == 4


def test_layers_follow_the_network_with_the_size_of_each_input() -> None:
    keys = [layer.key for layer in Architecture.from_json(PUBLISHED).layers()]

    assert keys == [
        "stem-c48-k5-e4-224x224",
        "conv-c48-k7-e4-56x56",
        "conv-c48-k7-e4-56x56",
        "downsample-c48-c96-k3-56x56",
        "conv-c96-k7-e4-28x28",
        "downsample-c96-c192-k3-28x28",
        "conv-c192-k7-e4-14x14",
        "attention-c192-shma-r2-m1-e3-p3-14x14",
        "downsample-c192-c384-k3-14x14",
        "attention-c384-mha-r4-m1-e3-p0-h4-7x7",
        "head-c384-n1000-7x7",
    ]


def test_one_tiling_serves_a_run_of_window_units() -> None:
    windowed, everywhere = shma(window=2), shma()
    stage = StageSpec(channels=64, blocks=(windowed, windowed, windowed, everywhere))
    layers = network(stages=(*network().stages[:2], stage, network().stages[3])).layers()
    units = [layer for layer in layers if isinstance(layer, AttentionLayer)]

    assert [(unit.partitions, unit.merges) for unit in units] == [
        (True, False),
        (False, False),
        (False, True),
        (False, False),
    ]


def test_a_window_as_large_as_its_map_becomes_global_at_another_resolution() -> None:
    stage = StageSpec(channels=64, blocks=(shma(window=2),))
    windowed = network(stages=(*network().stages[:2], stage, network().stages[3]))
    block = windowed.at(resolution=32).stages[2].blocks[0]

    assert isinstance(block, AttentionSpec)
    assert block.window == 0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("stages", 0, "blocks", 0, "kernel"), 4, "net.json: stages[0].blocks[0].kernel: must be odd, got 4"),
        (
            ("stages", 0, "blocks", 0, "kernal"),
            7,
            "net.json: stages[0].blocks[0].kernal: unknown key; did you mean kernel?",
        ),
        (("stages", 1, "channels"), "96", "net.json: stages[1].channels: input should be a valid integer, got '96'"),
        (("stages", 1, "channels"), 0, "net.json: stages[1].channels: input should be greater than 0, got 0"),
        (("resolution",), 100, "net.json: resolution must be divisible by 32, got 100"),
        (
            ("stages", 0, "channels"),
            47,
            "net.json: stages[0].channels must be even (the stem starts with half), got 47",
        ),
        (
            ("stages", 2, "blocks", 1, "query_reduction"),
            5,
            "net.json: stages[2]: blocks[1]: query_reduction must divide 192 channels, got 5",
        ),
        (
            ("stages", 2, "blocks", 1, "modulation"),
            0.33,
            "net.json: stages[2]: blocks[1]: modulation times 192 channels must be whole, got 0.33",
        ),
        (
            ("stages", 2, "blocks", 1, "heads"),
            2,
            "net.json: stages[2].blocks[1]: heads goes with mha and only with it, got heads=2 for shma",
        ),
        (
            ("stages", 2, "blocks", 1, "window"),
            14,
            "net.json: stages[2]: window must divide the 14x14 map and be smaller (0 attends everywhere), got 14",
        ),
    ],
)
def test_a_broken_rule_is_named_with_its_place(path: tuple[str | int, ...], value: object, message: str) -> None:
    document = json.loads(PUBLISHED)
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(InputError) as caught:
        Architecture.from_json(json.dumps(document), where="net.json")

    assert message == str(caught.value)


def test_broken_json_and_missing_file_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"net\.json: Invalid JSON"):
        Architecture.from_json('{"stages": [', where="net.json")
    with pytest.raises(InputError, match=r"none\.json: cannot be read \(No such file or directory\)"):
        Architecture.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "params_m", "gmacs", "blocks"),
    [
        ("iformer_t", "2.873", "0.530", "32-64-128-256: 2C | 2C | 6C 3A 1C | 2A"),
        ("iformer_s", "6.540", "1.092", "32-64-176-320: 2C | 2C | 9C 3A 1C | 2A"),
        ("iformer_m", "8.879", "1.640", "48-96-192-384: 2C | 2C | 9C 4A 1C | 2A"),
        ("iformer_l", "14.738", "2.827", "48-96-256-384: 2C | 2C | 8C 8A 1C | 2A"),
        ("iformer_l2", "24.455", "4.531", "64-128-256-512: 3C | 3C | 12C 11A 1C | 3A"),
        ("iformer_h", "99.436", "15.53", "96-192-384-768: 5C | 5C | 14C 15A 1C | 6A"),
    ],
)
def test_references_have_the_published_size(name: str, params_m: str, gmacs: str, blocks: str) -> None:
    reference = SearchSpace.find("iformer").references[name]
    counts = count(reference)
    digits = len(gmacs.split(".")[1])

    assert params_m == f"{counts.params / 1e6:.3f}"
    assert gmacs == f"{counts.macs / 1e9:.{digits}f}"
    assert blocks == reference.summary
