from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import nas
from nas import catalog
from nas.catalog import files
from nas.errors import InputError, MissingLatencyError
from nas.latency import Agreement, Failed, Filled, LatencyTable, Provenance, PublishedTime, Timing
from nas.latency.entries import Check, CheckRow, Correction, ReferenceTime
from nas.latency.table import weights_mb
from nas.networks import SearchSpace, random_choice

TINY = SearchSpace.find("tiny")
NETWORK = TINY.references["tiny_a"]
PROVENANCE = Provenance(
    source="measured",
    device="board",
    os="Linux",
    runtime="onnxruntime",
    versions={"onnxruntime": "1.0"},
    precision="fp32",
    threads=1,
    statistic="median",
    protocol="twice",
    date="2026-01-01",
)


def timing(median_ms: float) -> Timing:
    return Timing(
        minimum_ms=0.9 * median_ms,
        p10_ms=median_ms,
        median_ms=median_ms,
        p90_ms=1.2 * median_ms,
        maximum_ms=2 * median_ms,
        runs=9,
    )


def table() -> LatencyTable:
    entries = {layer.key: timing(0.1 * number) for number, layer in enumerate(TINY.layers, start=1)}
    return LatencyTable(provenance=PROVENANCE, entries=entries)


class TestEveryTable:
    """What every shipped table must fulfil. A new table file is tested automatically."""

    @pytest.fixture(params=sorted(files("latency_tables", ".json")))
    def table(self, request: pytest.FixtureRequest) -> LatencyTable:
        return LatencyTable.find(request.param)[0]

    def test_it_covers_the_iformer_space_and_its_references(self, table: LatencyTable) -> None:
        space = SearchSpace.find("iformer")
        names = ["iformer_t", "iformer_s", "iformer_m", "iformer_l"]
        values = [table.latency(space.references[name]) for name in names]

        assert sorted(value.latency_ms for value in values) == [value.latency_ms for value in values]
        for value in values:
            assert value.low_ms <= value.latency_ms <= value.high_ms
        assert all(table.layer_ms(layer) > 0 for layer in space.layers)

    def test_it_is_written_as_it_is_read(self, table: LatencyTable, tmp_path: Path) -> None:
        table.save(tmp_path / "copy.json")

        assert table == LatencyTable.load(tmp_path / "copy.json")

    def test_it_says_where_it_comes_from(self, table: LatencyTable) -> None:
        assert table.provenance.label.startswith(table.provenance.source)
        assert table.provenance.protocol
        assert table.trust


def test_a_network_costs_the_sum_of_its_layers() -> None:
    found = table().latency(NETWORK)
    entries = table().entries
    expected = sum(entries[layer.key].median_ms for layer in NETWORK.layers())

    assert found.latency_ms == pytest.approx(expected)
    assert found.latency_ms == pytest.approx(table().latency_ms(NETWORK))
    assert [part.key for part in found.layers] == [layer.key for layer in NETWORK.layers()]
    assert {part.source for part in found.layers} == {"measured"}


def test_the_interval_runs_from_the_fastest_runs_to_the_slow_ones() -> None:
    found = table().latency(NETWORK)

    assert found.low_ms == pytest.approx(0.9 * found.latency_ms)
    assert found.high_ms == pytest.approx(1.2 * found.latency_ms)


def test_the_table_says_which_statistic_is_summed() -> None:
    fastest = table().model_copy(update={"provenance": PROVENANCE.model_copy(update={"statistic": "minimum"})})

    assert fastest.latency(NETWORK).latency_ms == pytest.approx(0.9 * table().latency(NETWORK).latency_ms)


def test_a_missing_layer_is_an_error_that_says_how_to_measure_it() -> None:
    entries = {key: value for key, value in table().entries.items() if not key.startswith("head")}
    partial = LatencyTable(provenance=PROVENANCE, entries=entries)
    with pytest.raises(MissingLatencyError) as caught:
        partial.latency(NETWORK)

    assert "no entry for head-c64-n10-2x2:" in str(caught.value)
    assert "nas table build --device onnxruntime --space SPACE" in str(caught.value)
    assert caught.value.exit_code == 3


def test_layers_filled_by_a_model_are_marked_beside_measured_ones() -> None:
    model = LatencyTable.find("iphone13")[0].model
    entries = {key: value for key, value in table().entries.items() if not key.startswith("head")}
    filled = LatencyTable(provenance=PROVENANCE, entries=entries, model=model).latency(NETWORK)
    sources = {part.key: part.source for part in filled.layers}

    assert sources["head-c64-n10-2x2"] == "filled"
    assert {source for key, source in sources.items() if not key.startswith(("head", "overhead"))} == {"measured"}
    assert filled.low_ms < filled.latency_ms < filled.high_ms


def test_the_breakdown_adds_up_to_the_latency_with_the_overhead() -> None:
    iphone = LatencyTable.find("iphone13")[0]
    found = iphone.latency(SearchSpace.find("iformer").references["iformer_m"])

    assert found.latency_ms == pytest.approx(sum(part.latency_ms for part in found.layers))
    assert found.layers[-1].key == "overhead"


def test_one_entry_stands_on_one_line_in_order(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    table().save(path)
    lines = [line.strip() for line in path.read_text().splitlines() if '"runs"' in line]

    assert len(table().entries) == len(lines)
    assert sorted(lines) == lines
    assert table() == LatencyTable.load(path)


def test_published_times_survive_a_round_trip(tmp_path: Path) -> None:
    published = {NETWORK.id: PublishedTime(name="tiny_a", latency_ms=1.5, top1=50.0, source="nowhere")}
    with_times = table().model_copy(update={"published": published})
    with_times.save(tmp_path / "t.json")

    assert published == LatencyTable.load(tmp_path / "t.json").published


def test_the_digest_follows_the_content() -> None:
    changed = table().with_entries({"conv-x": timing(1.0)})

    assert table().digest() == table().digest()
    assert table().digest() != changed.digest()


def test_quantiles_are_those_of_the_networks() -> None:
    choose = random_choice(seed=0)
    networks = [TINY.sample(choose) for _ in range(50)]
    values = sorted(table().latency_ms(network) for network in networks)
    quantiles = table().quantiles(networks)

    assert quantiles["minimum"] == values[0]
    assert quantiles["maximum"] == values[-1]
    assert list(quantiles.values()) == sorted(quantiles.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ("{}", "provenance: missing key"),
        ('{"provenance": {}}', "provenance.source: missing key"),
        ("entries", "entries.conv.minimum_ms: input should be greater than 0, got -1"),
        ("order", "quantiles must rise from minimum_ms to maximum_ms"),
        ("nan", "input should be a finite number"),
    ],
)
def test_a_broken_table_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    good = {"minimum_ms": 1.0, "p10_ms": 1.0, "median_ms": 1.0, "p90_ms": 1.0, "maximum_ms": 1.0, "runs": 1}
    broken: dict[str, dict[str, float]] = {
        "entries": good | {"minimum_ms": -1},
        "order": good | {"median_ms": 0.5},
        "nan": good | {"p90_ms": float("nan")},
    }
    if text in broken:
        document = {"provenance": PROVENANCE.model_dump(), "entries": {"conv": broken[text]}}
        text = json.dumps(document)
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        LatencyTable.load(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def checked(ratios: list[float], *, correction: Correction | None = None) -> LatencyTable:
    """The table with a check of some networks. The ratios are their measured times / predicted times."""
    rows = tuple(
        CheckRow(
            name=f"n{index}",
            id=f"{index}",
            role="held-out",
            measured_ms=ratio,
            raw_ms=ratio,
            predicted_ms=1,
            sum_ms=1,
            spread=0,
        )
        for index, ratio in enumerate(ratios)
    )
    agreement = Agreement.of([row.predicted_ms for row in rows], ratios)
    check = Check(
        date="2026-01-01",
        protocol="once",
        agreement=agreement,
        uncorrected=agreement,
        noise_floor=0.001,
        half_noise=0.001,
        drift=1.0,
        baselines={"macs": agreement},
        rows=rows,
    )
    return table().model_copy(update={"check": check, "correction": correction})


def test_the_interval_of_a_checked_table_covers_the_share_asked_for() -> None:
    ratios = [1 + 0.001 * number for number in range(1, 20)]  # 0.1 to 1.9 % slower than predicted
    found = checked(ratios)

    # 0.9 * (19 + 1) = 18: the 18th of the 19 sorted errors bounds the interval.
    assert found.latency(NETWORK).high_ms == pytest.approx(1.018 * found.latency_ms(NETWORK))
    assert found.latency(NETWORK).low_ms == pytest.approx(found.latency_ms(NETWORK) / 1.018)
    assert found.upper_ms(NETWORK, 0.5) == pytest.approx(1.010 * found.latency_ms(NETWORK))
    with pytest.raises(InputError, match=r"intervals of at most 95\.0%, got 0\.99; check more"):
        found.upper_ms(NETWORK, 0.99)


def test_a_small_check_gives_the_interval_it_can() -> None:
    found = checked([1.01, 1.02, 1.03])

    assert found.latency(NETWORK).high_ms == pytest.approx(1.03 * found.latency_ms(NETWORK))
    assert found.interval_meaning.startswith("75% of networks like the 3 ")


def test_a_table_without_check_has_no_confidence() -> None:
    with pytest.raises(InputError, match="was not checked, so it has no interval: nas table check"):
        table().upper_ms(NETWORK, 0.9)


def test_a_check_is_shown_and_survives_a_round_trip(tmp_path: Path) -> None:
    found = checked([1.01, 0.98, 1.0], correction=Correction(scale=1.1, weights_ms_per_mb=0.01, networks=4))
    found.save(tmp_path / "t.json")

    assert found == LatencyTable.load(tmp_path / "t.json")
    assert "checked on 3 whole networks: mean error 1.0%, worst 2.0%" in found.trust
    assert any("a line in macs: " in line for line in found.describe())


def test_new_entries_end_what_was_checked_before() -> None:
    correction = Correction(scale=2.0, weights_ms_per_mb=0.0, networks=4)
    found = checked([1.01, 0.98], correction=correction).with_entries({"conv-x": timing(1.0)})

    assert found.check is None
    assert found.correction is None


def test_a_correction_is_part_of_every_look_up() -> None:
    correction = Correction(scale=1.1, weights_ms_per_mb=0.02, networks=4)
    found = table().model_copy(update={"correction": correction})
    weights = sum(weights_mb(layer, "fp32") for layer in NETWORK.layers())

    expected = 1.1 * table().latency_ms(NETWORK) + 0.02 * weights
    assert found.latency_ms(NETWORK) == pytest.approx(expected)
    assert found.latency(NETWORK).latency_ms == pytest.approx(expected)
    assert sum(part.latency_ms for part in found.latency(NETWORK).layers) == pytest.approx(expected)


def test_half_precision_halves_the_weights() -> None:
    layer = next(NETWORK.layers())

    assert weights_mb(layer, "fp16") == weights_mb(layer, "fp32") / 2


def test_a_call_is_paid_once() -> None:
    found = table().model_copy(update={"call_ms": 0.25})

    assert found.latency(NETWORK).latency_ms == pytest.approx(table().latency_ms(NETWORK) + 0.25)
    assert found.latency(NETWORK).layers[-1].key == "overhead"


def test_times_of_a_drifted_device_are_brought_back() -> None:
    first = next(NETWORK.layers())
    usual = table().model_copy(update={"reference": ReferenceTime(key="conv-x", latency_ms=2.0)})

    def layer_ms(reference_ms: float) -> float:
        entry = timing(1.0).model_copy(update={"reference_ms": reference_ms})
        return usual.with_entries({first.key: entry}).layer_ms(first)

    assert layer_ms(2.5) == pytest.approx(1.0 / 1.25)
    assert layer_ms(1.6) == pytest.approx(1.0 / 0.8)
    assert layer_ms(2.02) == 1.0  # noise of the reference


def test_filled_values_are_marked_and_widen_the_interval() -> None:
    first = next(NETWORK.layers())
    found = table().with_entries({first.key: Filled(filled_ms=5.0, low_ms=4.0, high_ms=7.0)}).latency(NETWORK)

    assert found.layers[0].source == "filled"
    assert found.layers[0].latency_ms == 5.0
    assert found.high_ms - found.latency_ms > 2.0


def test_a_failed_layer_is_an_error_with_its_reason() -> None:
    first = next(NETWORK.layers())
    failed = table().with_entries({first.key: Failed(failed="out of memory")})
    with pytest.raises(MissingLatencyError, match=r"could not be measured \(out of memory\): .*--retry-failed"):
        failed.latency(NETWORK)


def test_networks_with_a_failed_layer_are_over_every_budget_and_the_others_are_not() -> None:
    first = next(NETWORK.layers())
    failed = table().with_entries({first.key: Failed(failed="out of memory")})

    assert failed.latency_ms(NETWORK) == math.inf
    assert math.isfinite(failed.latency_ms(TINY.extreme(failed.layer_ms)))


def test_every_kind_of_entry_survives_a_round_trip(tmp_path: Path) -> None:
    entries = {
        "a": Filled(filled_ms=2.0, low_ms=1.0, high_ms=3.0),
        "b": Failed(failed="no"),
        "c": timing(1.0).model_copy(update={"facts": {"thermal": "0"}, "settled": False, "visits": 3}),
    }
    reference = ReferenceTime(key="c", latency_ms=0.9)
    mixed = table().with_entries(entries).model_copy(update={"reference": reference, "call_ms": 0.1})
    mixed.save(tmp_path / "t.json")

    assert mixed == LatencyTable.load(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"os": "Darwin"}, "os: Linux in the table, Darwin here"),
        ({"threads": 2}, "threads: 1 in the table, 2 here"),
        ({"settings": {"cores": "f0"}}, "settings: none in the table, cores f0 here"),
        ({"versions": {"onnxruntime": "2.0"}}, "versions: onnxruntime 1.0 in the table, onnxruntime 2.0 here"),
    ],
)
def test_fingerprints_differ_in_words(change: dict[str, object], words: str) -> None:
    assert words == PROVENANCE.difference(PROVENANCE.model_copy(update=change))


def test_fingerprints_agree_on_another_day() -> None:
    assert PROVENANCE.difference(PROVENANCE.model_copy(update={"date": "2027-01-01"})) is None


def test_agreement_is_that_of_the_numbers() -> None:
    agreement = Agreement.of([1.1, 1.9, 3.0], [1.0, 2.0, 3.0])

    assert agreement.bias == pytest.approx((0.1 - 0.05) / 3, abs=1e-6)
    assert agreement.mean_error == pytest.approx(0.05, abs=1e-6)
    assert agreement.worst_error == pytest.approx(0.1)
    assert agreement.tau == 1.0
    assert Agreement.of([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]).tau == -1.0


def test_a_table_of_ones_own_takes_no_beginning_from_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "latency_tables"
    own.mkdir()
    monkeypatch.chdir(tmp_path)
    shipped = LatencyTable.find("iphone13")[1]
    table().save(own / "iphone13-mine.coreml.fp16.json")

    assert LatencyTable.find("iphone13")[1] == shipped  # up to the dot, it is the whole name of the device
    assert catalog.hidden_by(own / "iphone13-mine.coreml.fp16.json") is None

    table().save(own / shipped.name)  # the same name in the user's own folder comes first, which is said

    assert LatencyTable.find("iphone13")[1] == own / shipped.name
    assert catalog.hidden_by(own / shipped.name) == shipped
    assert catalog.hidden_by(shipped) is None


def test_an_ambiguous_beginning_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latency_tables").mkdir()
    for name in ("board.a.fp32", "board.b.fp32"):
        table().save(tmp_path / "latency_tables" / f"{name}.json")
    monkeypatch.chdir(tmp_path)

    assert LatencyTable.find("board.a")[0] == table()
    with pytest.raises(InputError, match=r"any of board\.a\.fp32 \(yours\), board\.b\.fp32 \(yours\); write"):
        LatencyTable.find("board")


def test_the_package_is_a_function_that_finds_network_and_table(tmp_path: Path) -> None:
    table, _ = LatencyTable.find("iphone13")
    network = SearchSpace.find("iformer").references["iformer_m"]
    (tmp_path / "mine.json").write_text(network.to_json())

    assert nas.latency("iformer_m") == table.latency(network)
    assert nas.latency(tmp_path / "mine.json", "iphone13") == nas.latency(network, table)
    with pytest.raises(InputError, match="no network named '-'"):
        nas.latency("-")
