from __future__ import annotations

import json
import math

import numpy as np
import pytest

from nas.catalog import find_file
from nas.errors import BudgetError, InputError, MissingLatencyError
from nas.latency import LatencyTable
from nas.latency.entries import Failed
from nas.networks import SearchSpace, count, random_choice
from nas.networks.encoding import Encoding
from nas.search.limits import QUANTITIES, Limit, Limits, find_quantities, latency_on

IPHONE, _ = LatencyTable.find("iphone13")
SERVER, _ = LatencyTable.find("amd-epyc.onnxruntime")
TABLES = {"iphone13.coreml.fp16": IPHONE, "amd-epyc.onnxruntime.fp32": SERVER, "amd-epyc.other": IPHONE}
IFORMER = SearchSpace.find("iformer")

_ODD = """
schema = 1
resolution = [64, 96]
layer_scale = 0.1

[stem]
kernel = [3, 5]

[[stages]]
channels = [16, 32]
conv = { depth = [1, 2] }

[[stages]]
channels = 32
attention = { depth = [1, 2], kind = ["shma", "mha"], head_channels = [8, 16], modulation = [0.5, 1.0] }

[[stages]]
channels = [48, 64]
placement = ["start", "late", "end", "interleaved"]
conv = { depth = [3, 0, 1], kernel = [7, 3] }
attention = { depth = [2, 0, 1], kind = ["mha", "sha"], head_channels = [16, 8] }

[[stages]]
channels = 64
conv = { depth = [0, 2], expansion = [2, 3] }
attention = { depth = [0, 3], position_kernel = [0, 3] }
"""


@pytest.fixture(scope="module", params=["iformer", "tiny", "512 px", "odd"])
def space(request, tmp_path_factory) -> SearchSpace:
    if request.param == "512 px":
        text = find_file("search space", "search_spaces", ".toml", "iformer").read_text()
        text = text.replace("resolution = 224\n", "resolution = 512\nlayer_scale = 1e-6\n", 1)
    elif request.param == "odd":
        text = _ODD
    else:
        return SearchSpace.find(request.param)
    path = tmp_path_factory.mktemp("space") / "own.toml"
    path.write_text(text)
    return SearchSpace.load(path)


def sampled(space, number):
    choose = random_choice(seed=1)
    return [space.sample(choose) for _ in range(number)]


def quantities():
    return [*QUANTITIES.values(), latency_on("phone", IPHONE)]


@pytest.mark.parametrize("quantity", quantities(), ids=lambda quantity: quantity.name)
def test_rows_have_the_values_of_their_networks(space, quantity):
    networks, encoding = sampled(space, 60), Encoding(space)
    expected = [quantity.value(network) for network in networks]

    assert expected == pytest.approx(quantity.of_rows(encoding)(encoding.encode(networks)), rel=1e-9)


def test_the_values_of_a_network_are_those_of_count_and_table(space):
    network = sampled(space, 1)[0]
    counts = count(network)
    values = [quantity.value(network) for quantity in quantities()]

    assert [counts.params, counts.macs, counts.memory_bytes] == values[:3]
    assert pytest.approx(IPHONE.latency_ms(network), rel=1e-12) == values[3]


def test_a_table_adds_the_cost_of_the_call():
    network = IFORMER.references["iformer_m"]
    table = SERVER.model_copy(update={"call_ms": 0.5})

    assert SERVER.call_ms == 0
    assert latency_on("server", table).value(network) == pytest.approx(table.latency_ms(network), rel=1e-12)
    assert latency_on("server", table).value(network) == pytest.approx(SERVER.latency_ms(network) + 0.5, rel=1e-12)


@pytest.fixture(scope="module")
def least(space):
    """For each quantity the network with the least of it."""
    return {quantity.name: quantity.least(space) for quantity in quantities()}


def test_no_network_has_less_than_the_least(space, least):
    encoding = Encoding(space)
    rows = encoding.draw(20_000, np.random.default_rng(0))
    for quantity in quantities():
        assert least[quantity.name] in space
        assert quantity.value(least[quantity.name]) <= quantity.of_rows(encoding)(rows).min() * (1 + 1e-12)


def test_allowed_rows_are_those_whose_networks_keep_every_limit(space):
    networks, encoding = sampled(space, 80), Encoding(space)
    middle = {quantity.name: np.quantile([quantity.value(n) for n in networks], 0.7) for quantity in quantities()}
    limits = Limits.parse([f"{name}={value:.17g}" for name, value in middle.items()], {"phone": IPHONE})
    kept = [all(value <= middle[name] for name, value in limits.values(network).items()) for network in networks]
    rows = encoding.encode(networks)

    assert kept == limits.allowed(encoding)(rows).tolist()
    assert kept == [limits.excess(network) <= 0 for network in networks]
    assert 0 < sum(kept) < len(kept)
    assert [limits.excess(network) for network in networks] == pytest.approx(limits.excess_of(encoding)(rows))


def test_a_network_exactly_at_its_limits_is_inside_and_one_more_is_outside():
    network = IFORMER.references["iformer_m"]
    counts, encoding = count(network), Encoding(IFORMER)
    limits = Limits.parse(
        [f"phone={IPHONE.latency_ms(network)!r}", f"params={counts.params}", f"macs={counts.macs}"], {"phone": IPHONE}
    )

    assert limits.excess(network) <= 0
    assert limits.allowed(encoding)(encoding.encode([network])).all()
    assert Limits.parse([f"macs={counts.macs - 1}"]).excess(network) > 0


def test_the_excess_is_relative_to_the_limit_that_is_broken_most():
    network = IFORMER.references["iformer_m"]  # 8,879,128 parameters, 1.806 MB

    assert Limits.parse(["params=4439564", "memory=1806336"]).excess(network) == pytest.approx(1.0)
    assert Limits.parse(["params=17758256"]).excess(network) == pytest.approx(-0.5)
    assert Limits().excess(network) == -1
    assert Limits().allowed(Encoding(IFORMER))(Encoding(IFORMER).encode([network])).tolist() == [True]


def test_a_layer_that_failed_on_the_other_device_is_outside_every_limit():
    network = IFORMER.references["iformer_m"]
    stem = next(iter(network.layers()))
    broken = IPHONE.model_copy(update={"entries": {stem.key: Failed(failed="out of memory")}})
    limits = Limits.parse(["broken=1000"], {"broken": broken})
    encoding = Encoding(IFORMER)

    assert limits.excess(network) == math.inf
    assert not limits.allowed(encoding)(encoding.encode([network])).any()


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("params=9e6", 9e6),
        ("params = 9M", 9e6),
        ("params=9_000k", 9e6),
        ("macs=1.5G", 1.5e9),
        ("macs=1.5g", 1.5e9),
        ("memory=4MB", 4e6),
        ("memory=4 MB", 4e6),
        ("memory=4mb", 4e6),
        ("memory=4M", 4e6),
        ("memory=4MiB", 4 * 2**20),
        ("memory=512KiB", 2**19),
        ("memory=4000000B", 4e6),
        ("iphone13.coreml.fp16=1.1", 1.1),
        ("iphone=1.1ms", 1.1),
    ],
)
def test_limits_are_read_as_people_write_them(text, most):
    limits = Limits.parse([text], TABLES)

    assert [most] == list(limits.record().values())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["params"], "--limit must be NAME=NUMBER, such as params=9e6, got 'params'"),
        (["=9"], "--limit must be NAME=NUMBER, such as params=9e6, got '=9'"),
        (
            ["parms=9e6"],
            "--limit: no quantity named 'parms': there are params, macs, memory, iphone13.coreml.fp16, "
            "amd-epyc.onnxruntime.fp32, amd-epyc.other; did you mean 'params'?",
        ),
        (["params=many"], "--limit params must be a number such as 9e6, 9M or 1.5G, got 'many'"),
        (["params=9MB"], "--limit params must be a number such as 9e6, 9M or 1.5G, got '9MB'"),
        (["params="], "--limit params must be a number such as 9e6, 9M or 1.5G, got ''"),
        (["memory=4ms"], "--limit memory must be a number such as 4e6, 4MB or 4MiB, got '4ms'"),
        (["iphone=1M"], "--limit iphone13.coreml.fp16 must be a number such as 20 or 20ms, got '1M'"),
        (["macs=0"], "--limit macs must be a positive number such as 9e6, 9M or 1.5G, got '0'"),
        (["macs=-1"], "--limit macs must be a positive number such as 9e6, 9M or 1.5G, got '-1'"),
        (["macs=nan"], "--limit macs must be a positive number such as 9e6, 9M or 1.5G, got 'nan'"),
        (["macs=1e999"], "--limit macs must be a positive number such as 9e6, 9M or 1.5G, got '1e999'"),
        (["macs=1e9", "params=9e6", "macs=1G"], "--limit: macs is there twice: give it once"),
        (["iphone=1", "iphone13=2"], "--limit: iphone13.coreml.fp16 is there twice: give it once"),
        (
            ["amd=1"],
            "--limit: 'amd' could be any of amd-epyc.onnxruntime.fp32, amd-epyc.other; write more of the name",
        ),
        (
            ["amd-epyc.wasm=1"],
            "--limit: no quantity named 'amd-epyc.wasm': there are params, macs, memory, iphone13.coreml.fp16, "
            "amd-epyc.onnxruntime.fp32, amd-epyc.other; did you mean 'amd-epyc.other'?; "
            "for a latency give --table amd-epyc.wasm-node.fp32 as well",
        ),
        (["a\nb=1"], None),
    ],
)
def test_a_text_that_is_no_limit_is_refused_in_one_line(texts, message):
    with pytest.raises(InputError) as caught:
        Limits.parse(texts, TABLES)

    assert "\n" not in str(caught.value)
    assert message is None or message == str(caught.value)


def test_objectives_are_found_by_name_each_once():
    found = find_quantities(["memory", "iphone"], TABLES)

    assert [quantity.name for quantity in found] == ["memory", "iphone13.coreml.fp16"]
    with pytest.raises(InputError, match=r"^--objective: memory is there twice: give it once$"):
        find_quantities(["memory", "memory"], TABLES)


def test_a_record_is_plain_json_and_gives_the_same_limits():
    limits = Limits.parse(["params=9M", "amd-epyc.onnx=19.3", "memory=4MiB"], TABLES)
    record = json.loads(json.dumps(limits.record()))

    assert record == {"params": 9e6, "amd-epyc.onnxruntime.fp32": 19.3, "memory": 4 * 2**20}
    assert record == Limits.of_record(record, TABLES, where="run.json: limits").record()
    with pytest.raises(InputError, match=r"^run\.json: limits: no quantity named 'amd-epyc\.onnxruntime\.fp32'"):
        Limits.of_record(record, {}, where="run.json: limits")


def test_the_plan_says_what_is_limited_and_where_latencies_come_from():
    limits = Limits.parse(["params=9e6", "macs=1.5G", "memory=4MB", "iphone=1.1"], TABLES)

    assert [
        "limit: parameters at most 9M",
        "limit: multiply-adds at most 1.5G",
        "limit: peak activation memory (fp16, batch 1) at most 4 MB",
        f"limit: latency on iphone13.coreml.fp16 ({IPHONE.provenance.label}) at most 1.1 ms",
    ] == limits.describe()


def test_a_limit_below_the_least_of_the_space_is_refused_with_the_least(space, least):
    for quantity in (QUANTITIES["memory"], latency_on("phone", IPHONE)):
        most = quantity.value(least[quantity.name])
        with pytest.raises(BudgetError, match=f"no network of the space keeps {quantity.name}=.*: the least is "):
            Limits((Limit(quantity=quantity, most=most * 0.999),)).check(space)
        assert Limits((Limit(quantity=quantity, most=most),)).check(space) == [least[quantity.name]]


def test_a_table_that_does_not_cover_the_space_names_itself():
    bare = SERVER.model_copy(update={"entries": {}})
    limits = Limits.parse(["bare=10"], {"bare": bare})
    with pytest.raises(MissingLatencyError, match=r"^bare: the latency table has no entry for "):
        limits.allowed(Encoding(IFORMER))
