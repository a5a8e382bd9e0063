from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nas.accuracy.published import Row
from nas.accuracy.results import NETWORK_COLUMNS, RESULT_COLUMNS, read_rows
from nas.accuracy.traits import TALLY, TRAITS, traits
from nas.errors import InputError

SUMS = {name: float(number) for number, name in enumerate(TALLY, start=2)} | {"macs": 100.0}
NETWORK = {"network": "net", "family": "kin", "resolution": "224"} | {
    name: f"{value:g}" for name, value in SUMS.items()
}
RESULT = {"network": "net", "recipe": "a1_in1k", "resolution": "224", "top1": "75.5"}


def _write(path: Path, columns: tuple[str, ...], *rows: dict[str, str]) -> Path:
    lines = ["# where it comes from", "# and when", ",".join(columns)]
    lines += [",".join(row[column] for column in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    larger = NETWORK | {"resolution": "256", "macs": "200"}
    return _write(tmp_path / "networks.csv", NETWORK_COLUMNS, NETWORK, larger)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return _write(tmp_path / "results.csv", RESULT_COLUMNS, RESULT)


def test_a_row_joins_a_result_with_its_network_at_its_resolution(networks: Path, tmp_path: Path) -> None:
    larger = RESULT | {"resolution": "256", "recipe": "fb_dist_in1k", "top1": "77.25"}
    results = _write(tmp_path / "results.csv", RESULT_COLUMNS, RESULT, larger)
    usual, distilled = read_rows(networks, results)
    expected = traits(np.asarray([list((SUMS | {"macs": 200.0}).values())]), [256])[0]

    assert Row(name="net", family="kin", recipe="a1_in1k", top1=75.5, traits=usual.traits) == usual
    assert (
        distilled.name,
        distilled.recipe,
        distilled.distilled,
        distilled.top1,
    ) == ("net", "fb_dist_in1k", True, 77.25)
    assert tuple(round(value, 5) for value in expected.tolist()) == distilled.traits
    assert usual.traits[TRAITS.index("log resolution")] == 0


@pytest.mark.parametrize(
    ("network", "recipe", "expected"),
    [
        ("net", "a1_in1k", ("a1_in1k", False)),
        ("net", "in1k", ("kin in1k", False)),
        ("net", "r224_in1k", ("kin r224_in1k", False)),
        ("net", "r256_in1k", ("kin r256_in1k", False)),
        ("net", "fb_dist_in1k", ("fb_dist_in1k", True)),
        ("net", "usi_in1k", ("usi_in1k", True)),
        ("net_distilled", "in1k", ("kin in1k", True)),
    ],
)
def test_authors_have_recipes_of_their_own_and_some_networks_had_a_teacher(
    network: str, recipe: str, expected: tuple[str, bool], tmp_path: Path
) -> None:
    networks = _write(tmp_path / "networks.csv", NETWORK_COLUMNS, NETWORK | {"network": network})
    results = _write(tmp_path / "results.csv", RESULT_COLUMNS, RESULT | {"network": network, "recipe": recipe})
    (row,) = read_rows(networks, results)

    assert expected == (row.recipe, row.distilled)


def test_recipes_of_the_authors_are_others_in_each_family(tmp_path: Path) -> None:
    others = NETWORK | {"network": "other", "family": "stranger"}
    trainings = [
        RESULT | {"network": name, "recipe": recipe} for recipe in ("in1k", "a1_in1k") for name in ("net", "other")
    ]
    networks = _write(tmp_path / "networks.csv", NETWORK_COLUMNS, NETWORK, others)
    rows = read_rows(networks, _write(tmp_path / "results.csv", RESULT_COLUMNS, *trainings))

    assert [row.recipe for row in rows] == ["kin in1k", "stranger in1k", "a1_in1k", "a1_in1k"]


@pytest.mark.parametrize(
    ("file", "columns", "missing"),
    [("networks.csv", NETWORK_COLUMNS, "macs_3"), ("results.csv", RESULT_COLUMNS, "recipe")],
)
def test_a_missing_column_is_named(
    file: str, columns: tuple[str, ...], missing: str, networks: Path, results: Path, tmp_path: Path
) -> None:
    _write(tmp_path / file, tuple(name for name in columns if name != missing), NETWORK | RESULT)

    with pytest.raises(InputError, match=rf"{file}: the header lacks the column {missing}$"):
        read_rows(networks, results)


def test_a_result_without_a_network_is_named_with_its_line(networks: Path, tmp_path: Path) -> None:
    results = _write(tmp_path / "results.csv", RESULT_COLUMNS, RESULT, RESULT | {"resolution": "160"})

    with pytest.raises(InputError, match=r"results\.csv, line 5: networks\.csv has no net at 160 px$"):
        read_rows(networks, results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"macs": "many"}, "could not convert string to float: 'many'"),
        ({"weights": ""}, "could not convert string to float: ''"),
        ({"resolution": "224.5"}, r"invalid literal for int\(\) with base 10: '224.5'"),
    ],
)
def test_a_cell_of_a_network_that_is_no_number_is_named(
    change: dict[str, str], message: str, results: Path, tmp_path: Path
) -> None:
    networks = _write(tmp_path / "networks.csv", NETWORK_COLUMNS, NETWORK, NETWORK | {"network": "odd"} | change)

    with pytest.raises(InputError, match=rf"networks\.csv, line 5 \(odd\): {message}$"):
        read_rows(networks, results)


@pytest.mark.parametrize(
    ("top1", "message"),
    [
        ("high", "could not convert string to float: 'high'"),
        ("100", "top1: input should be less than 100, got 100.0"),
        ("-1", "top1: input should be greater than or equal to 0, got -1.0"),
        ("nan", "top1: input should be .*, got nan"),
    ],
)
def test_an_accuracy_that_is_none_is_named_in_one_line(top1: str, message: str, networks: Path, tmp_path: Path) -> None:
    results = _write(tmp_path / "results.csv", RESULT_COLUMNS, RESULT, RESULT | {"top1": top1})

    with pytest.raises(InputError, match=rf"^.*results\.csv, line 5 \(net\): {message}$"):
        read_rows(networks, results)


@pytest.mark.parametrize("cells", ["net,a1_in1k,224", "net,a1_in1k,224,75.5,more"])
def test_another_number_of_cells_is_refused(cells: str, networks: Path, results: Path) -> None:
    with results.open("a") as file:
        file.write(cells + "\n")

    with pytest.raises(InputError, match=r"results\.csv, line 5: another number of cells than the header has"):
        read_rows(networks, results)


def test_a_file_that_cannot_be_read_is_named(networks: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.csv: cannot be read"):
        read_rows(networks, tmp_path / "absent.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match=r"empty\.csv: the header lacks the column network"):
        read_rows(networks, tmp_path / "empty.csv")
