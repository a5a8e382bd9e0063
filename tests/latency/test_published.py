import csv
from collections import Counter
from pathlib import Path

import pytest

from nas.errors import InputError
from nas.latency.published import (
    PublishedPoint,
    baselines_beside,
    operations_beside,
    read_operations,
    read_points,
    write_operations,
)
from nas.networks import Architecture, AttentionSpec, Operation, count

POINTS = Path(__file__).parents[2] / "latency_tables" / "iphone13.points.csv"
BASELINES = POINTS.with_name("iphone13.baselines.csv")
RELEASED = ("iformer_t", "iformer_s", "iformer_m", "iformer_l", "iformer_l2")


@pytest.fixture(scope="module")
def points() -> dict[str, PublishedPoint]:
    return {point.name: point for point in read_points(POINTS)}


def test_released_networks_are_the_references(
    points: dict[str, PublishedPoint], references: dict[str, Architecture]
) -> None:
    for name in RELEASED:
        assert references[name.removeprefix("iformer_")].id == points[name].architecture().id


def test_networks_have_the_printed_size_where_it_is_printed(points: dict[str, PublishedPoint]) -> None:
    # The printed sizes of the exceptions do not follow from the arithmetic. The points file says so in its notes.
    exceptions = {"iformer_l", "iformer_l2", "ladder_sha", "ladder_shma"}
    checked = [point for point in points.values() if point.gmacs and point.name not in exceptions]

    assert len(checked) == 5
    for point in checked:
        counts = count(point.architecture())
        assert counts.params / 1e6 == pytest.approx(point.params_m, abs=0.05)
        assert counts.macs / 1e9 == pytest.approx(point.gmacs, abs=0.006)


def test_windows_end_before_the_last_attention_unit_of_a_stage(points: dict[str, PublishedPoint]) -> None:
    stages = points["iformer_m_512_chunked"].architecture().stages
    windows = [[block.window for block in stage.blocks if isinstance(block, AttentionSpec)] for stage in stages]

    assert windows == [[], [], [16, 16, 16, 0], [0, 0]]


def test_multi_head_row_has_32_channels_a_head(points: dict[str, PublishedPoint]) -> None:
    stages = points["ladder_mha"].architecture().stages
    heads = {block.heads for stage in stages[2:] for block in stage.blocks if isinstance(block, AttentionSpec)}

    assert heads == {192 // 32, 384 // 32}


def test_network_outside_the_family_has_no_architecture(points: dict[str, PublishedPoint]) -> None:
    with pytest.raises(ValueError, match="ladder_baseline: norm ln and stem patchify are not part of the family"):
        points["ladder_baseline"].architecture()


def test_512_px_rows_are_timed_without_the_classifier(points: dict[str, PublishedPoint]) -> None:
    for name, point in points.items():
        layers = list(point.architecture().layers()) if point.in_family else []
        if point.in_family:
            assert point.timed_layers() == (layers[:-1] if "512" in name else layers)


def test_operations_survive_a_round_trip(tmp_path: Path) -> None:
    dense = Operation(kind="dense", macs=12, weights=5, inputs=3, outputs=4, reads=6, writes=8)
    pool = Operation(kind="pool", reads=8, writes=2)
    path = tmp_path / "x.operations.csv"
    write_operations(path, {"one": [dense, pool, dense], "two": [pool]}, origin="timm 1.2.3")

    assert path.read_text().startswith("# timm 1.2.3\nname,count,kind,macs,")
    assert read_operations(path) == {"one": Counter({dense: 2, pool: 1}), "two": Counter({pool: 1})}


def test_bad_operation_is_named_with_file_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "x.operations.csv"
    text = operations_beside(BASELINES).read_text()
    path.write_text(text.replace("MobileNetV4-Conv-S,1,elementwise", "MobileNetV4-Conv-S,1,element", 1))

    with pytest.raises(InputError, match=r"row 4 \(MobileNetV4-Conv-S\): kind: input should be 'dense', .*'element'"):
        read_operations(path)


def test_baselines_are_found_beside_the_points(tmp_path: Path) -> None:
    assert baselines_beside(POINTS) == BASELINES
    assert baselines_beside(tmp_path / "own.points.csv") is None


# Reading: each mistake gets one line that names the file, the row and the column.


def _edited(tmp_path: Path, row: int, **cells: str) -> Path:
    with POINTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row].update(cells)
    path = tmp_path / "points.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"latency_ms": "fast"}, r"latency_ms: input should be a valid number.*, got 'fast'"),
        ({"latency_ms": "0"}, r"latency_ms: input should be greater than 0, got '0'"),
        ({"dims": "48-96-192"}, r"dims\[3\]: missing key"),
        ({"uncertainty": "1e-320"}, r"uncertainty: input should be greater than or equal to 0.000001"),
        ({"stages": f"2C|2C|{10**30}C|2A"}, r"stages: 400 blocks at most in a stage, got '1000"),
        ({"stages": "2C|2C|399C 2A|2A"}, r"stages: 400 blocks at most in a stage, got '2A'"),
        ({"stages": "2C|2C|9D|2A"}, r"stages must look like 2C\|2C\|9C 4A 1C\|2A, got '9D'"),
        ({"query_reduction": "||5|4"}, r"query_reduction must divide 192 channels, got 5"),
        ({"conv_kernel": "6"}, r"conv_kernel: must be odd, got 6"),
        ({"fit": "maybe"}, r"fit: input should be 'yes' or 'no', got 'maybe'"),
        ({"fit": "no"}, r"why_not goes with fit no and only with it, got ''"),
        ({"norm": "ln"}, r"fit must be no for a network with layer norm or a patchify stem"),
    ],
)
def test_bad_cell_is_named_with_file_row_and_column(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    path = _edited(tmp_path, 2, **cells)
    with pytest.raises(InputError, match=message) as caught:
        read_points(path)

    assert str(caught.value).startswith(f"{path}: row 4 (iformer_m): ")
    assert "\n" not in str(caught.value)


def test_missing_and_unknown_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(POINTS.read_text().replace("latency_ms", "latency_us", 1))
    with pytest.raises(InputError, match=r"points\.csv: the header lacks the column latency_ms$"):
        read_points(path)
    path.write_text(POINTS.read_text().replace("source,note\n", "source,note,colour\n", 1))
    with pytest.raises(InputError, match=r"points\.csv: the header has the unknown column colour$"):
        read_points(path)


def test_ragged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    lines = POINTS.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2] + ",extra"]))
    with pytest.raises(InputError, match=r"row 3 \(iformer_s\): has more cells than the header"):
        read_points(path)
    path.write_text("\n".join([*lines[:2], lines[2].rsplit(",", 1)[0]]))
    with pytest.raises(InputError, match=r"row 3 \(iformer_s\): has fewer cells than the header"):
        read_points(path)


def test_repeated_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="column name: iformer_t occurs 2 times"):
        read_points(_edited(tmp_path, 1, name="iformer_t"))


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.csv: cannot be read \(No such file or directory\)"):
        read_points(tmp_path / "absent.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.csv: is text in UTF-16: save it as UTF-8"):
        read_points(path)
    path.write_bytes(b"name\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"binary\.csv, line 2: is not text in UTF-8: save it as UTF-8"):
        read_points(path)
