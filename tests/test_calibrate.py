import csv
import math
from pathlib import Path

import pytest

from nas.architecture import Architecture, AttentionSpec
from nas.calibrate import PRIORS, PublishedPoint, calibrate, iphone13_table, read_points
from nas.cost_model import CostModel
from nas.errors import InputError
from nas.operations import count

POINTS = Path(__file__).parents[1] / "latency_tables" / "iphone13.points.csv"
RELEASED = ("iformer_t", "iformer_s", "iformer_m", "iformer_l", "iformer_l2")


@pytest.fixture(scope="module")
def points() -> dict[str, PublishedPoint]:
    return {point.name: point for point in read_points(POINTS)}


@pytest.fixture(scope="module")
def model() -> CostModel:
    return calibrate(POINTS)


def test_released_networks_are_the_references(
    points: dict[str, PublishedPoint], references: dict[str, Architecture]
) -> None:
    for name in RELEASED:
        assert references[name.removeprefix("iformer_")].id == points[name].architecture().id


def test_networks_have_the_printed_size_where_it_is_printed(points: dict[str, PublishedPoint]) -> None:
    # The exceptions are prints that the arithmetic does not give; the points file says so in its notes.
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


def test_fit_uses_every_batch_norm_row_at_224_px(points: dict[str, PublishedPoint], model: CostModel) -> None:
    expected = [point.name for point in points.values() if point.norm == "bn" and point.resolution == 224]

    assert len(expected) == 14
    assert expected == [row.name for row in model.rows]


def test_fit_meets_the_bars(model: CostModel) -> None:
    errors = {row.name: abs(row.fit_error) for row in model.rows}

    assert max(errors[name] for name in RELEASED) <= 0.03
    assert max(errors.values()) <= 0.08
    assert model.left_out_error_mean <= 0.04


def test_fit_beats_non_negative_least_squares_on_operation_counts(model: CostModel) -> None:
    # The same 14 rows: 2.6 % mean, 8.2 % worst; left out 5.7 % and 14.7 % (latency_tables/README.md).
    assert model.fit_error_mean < 0.026
    assert model.fit_error_worst < 0.082
    assert model.left_out_error_mean < 0.057
    assert model.left_out_error_worst < 0.147


def test_iformer_m_takes_its_published_time(points: dict[str, PublishedPoint], model: CostModel) -> None:
    layers = list(points["iformer_m"].architecture().layers())
    low, high = model.interval_ms(layers)

    assert 1.10 * 0.97 <= model.network_ms(layers) <= 1.10
    assert low < 1.10 < high


def test_statistics_are_those_of_the_rows_and_of_the_written_coefficients(
    points: dict[str, PublishedPoint], model: CostModel
) -> None:
    for row in model.rows:
        layers = list(points[row.name].architecture().layers())
        left_out = model.model_copy(update={"coefficients": row.left_out})
        assert row.published_ms == points[row.name].latency_ms
        assert row.predicted_ms == pytest.approx(model.network_ms(layers), rel=1e-5)
        assert row.left_out_ms == pytest.approx(left_out.network_ms(layers), rel=1e-5)
    fit_errors = [abs(row.fit_error) for row in model.rows]
    left_out_errors = [abs(row.left_out_error) for row in model.rows]

    assert model.fit_error_mean == pytest.approx(sum(fit_errors) / 14, rel=1e-5)
    assert model.fit_error_worst == pytest.approx(max(fit_errors), rel=1e-5)
    assert model.left_out_error_mean == pytest.approx(sum(left_out_errors) / 14, rel=1e-5)
    assert model.left_out_error_worst == pytest.approx(max(left_out_errors), rel=1e-5)


def test_interval_covers_what_it_claims(model: CostModel) -> None:
    assert model.coverage == 0.9
    assert model.observed_coverage >= 0.9


def test_coefficients_are_physical_and_written_with_six_digits(model: CostModel) -> None:
    for coefficients in (model.coefficients, *(row.left_out for row in model.rows)):
        for name, value in coefficients:
            assert value > PRIORS[name].floor, name
            assert value == float(f"{value:.6g}"), name
            # Within a factor of ten of what the specification says.
            assert abs(math.log10(value / PRIORS[name].typical)) < 1, name


def test_refit_is_the_same_to_the_last_digit(model: CostModel) -> None:
    assert model == calibrate(POINTS)
    assert model == CostModel.model_validate_json(model.model_dump_json())


def test_512_px_networks_that_were_never_fitted_are_close(points: dict[str, PublishedPoint], model: CostModel) -> None:
    for name in ("iformer_m_512_chunked", "iformer_l_512_chunked", "iformer_l2_512_chunked"):
        backbone = list(points[name].architecture().layers())[:-1]
        low, high = model.interval_ms(backbone)

        assert model.network_ms(backbone) == pytest.approx(points[name].latency_ms, rel=0.1)
        assert low < points[name].latency_ms < high


def test_order_of_the_measured_networks_is_told_better_than_by_macs(
    points: dict[str, PublishedPoint], model: CostModel
) -> None:
    rows = [points[row.name] for row in model.rows]
    pairs = [(a, b) for a in range(14) for b in range(a) if rows[a].latency_ms != rows[b].latency_ms]

    def wrong(values: list[float]) -> int:
        return sum((values[a] - values[b]) * (rows[a].latency_ms - rows[b].latency_ms) <= 0 for a, b in pairs)

    left_out = wrong([row.left_out_ms for row in model.rows])
    assert left_out < wrong([count(row.architecture()).macs for row in rows])


def test_table_carries_model_and_published_times(references: dict[str, Architecture], model: CostModel) -> None:
    table = iphone13_table(POINTS)

    assert table.provenance.source == "calibrated"
    assert model == table.model
    assert table.published[references["m"].id].latency_ms == 1.10
    assert len(table.published) == 14


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
    with pytest.raises(InputError, match=r"binary\.csv: is not a CSV file in UTF-8"):
        read_points(path)


def test_too_few_rows_cannot_be_fitted(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("\n".join(POINTS.read_text().splitlines()[:6]))
    with pytest.raises(InputError, match=r"column fit: at least 10 rows must say yes, got 5"):
        calibrate(path)
