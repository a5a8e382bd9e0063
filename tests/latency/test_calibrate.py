import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.errors import InputError
from nas.latency.calibrate import PRIORS, Evidence, calibrate, iphone13_table
from nas.latency.cost_model import CostModel
from nas.latency.published import PublishedPoint, operations_beside, read_baselines, read_operations, read_points
from nas.latency.table import LatencyTable
from nas.networks import Architecture, count

POINTS = Path(__file__).parents[2] / "latency_tables" / "iphone13.points.csv"
BASELINES = POINTS.with_name("iphone13.baselines.csv")
RELEASED = ("iformer_t", "iformer_s", "iformer_m", "iformer_l", "iformer_l2")
AT_512 = ("iformer_m_512_chunked", "iformer_l_512_chunked", "iformer_l2_512_chunked")


@pytest.fixture(scope="module")
def points() -> dict[str, PublishedPoint]:
    return {point.name: point for point in read_points(POINTS)}


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return iphone13_table(POINTS, BASELINES)


@pytest.fixture(scope="module")
def model(table: LatencyTable) -> CostModel:
    assert table.model is not None
    return table.model


@pytest.fixture(scope="module")
def alone() -> CostModel:
    """The fit without networks of other authors."""
    return calibrate(POINTS)


def _mean_left_out_at_224(model: CostModel) -> float:
    errors = [abs(row.left_out_error) for row in model.rows if row.name not in AT_512]
    assert len(errors) == 14
    return sum(errors) / 14


def test_fit_uses_every_batch_norm_row_that_can_be_built(points: dict[str, PublishedPoint], model: CostModel) -> None:
    expected = [point.name for point in points.values() if point.norm == "bn" and point.name != "iformer_m_512_hybrid"]

    assert len(expected) == 17
    assert expected == [row.name for row in model.rows]


def test_fit_meets_the_bars(model: CostModel) -> None:
    errors = {row.name: abs(row.fit_error) for row in model.rows}

    assert max(errors[name] for name in RELEASED) <= 0.03
    assert max(error for name, error in errors.items() if name not in AT_512) <= 0.08
    assert max(errors[name] for name in AT_512) <= 0.05
    assert _mean_left_out_at_224(model) <= 0.04


def test_fit_beats_non_negative_least_squares_on_operation_counts(model: CostModel) -> None:
    # On the 14 rows at 224 px: 2.6 % mean, 8.2 % worst; left out 5.7 % and 14.7 % (latency_tables/README.md).
    rows = [row for row in model.rows if row.name not in AT_512]
    assert sum(abs(row.fit_error) for row in rows) / 14 < 0.026
    assert max(abs(row.fit_error) for row in rows) < 0.082
    assert _mean_left_out_at_224(model) < 0.057
    assert max(abs(row.left_out_error) for row in rows) < 0.147


def test_512_px_and_other_networks_help_to_predict_the_family(
    tmp_path: Path, model: CostModel, alone: CostModel
) -> None:
    without_512 = calibrate(_without_512(tmp_path))

    assert _mean_left_out_at_224(model) < _mean_left_out_at_224(alone) < without_512.left_out_error_mean
    assert model.left_out_error_worst < alone.left_out_error_worst


def test_iformer_m_takes_its_published_time(points: dict[str, PublishedPoint], model: CostModel) -> None:
    layers = list(points["iformer_m"].architecture().layers())
    low, high = model.interval_ms(layers)

    assert 1.10 * 0.97 <= model.network_ms(layers) <= 1.10
    assert low < 1.10 < high


def test_statistics_are_those_of_the_rows_and_of_the_written_coefficients(
    points: dict[str, PublishedPoint], model: CostModel
) -> None:
    for row in model.rows:
        layers = points[row.name].timed_layers()
        left_out = model.model_copy(update={"coefficients": row.left_out})
        assert row.published_ms == points[row.name].latency_ms
        assert row.predicted_ms == pytest.approx(model.network_ms(layers), rel=1e-5)
        assert row.left_out_ms == pytest.approx(left_out.network_ms(layers), rel=1e-5)
    fit_errors = [abs(row.fit_error) for row in model.rows]
    left_out_errors = [abs(row.left_out_error) for row in model.rows]

    assert model.fit_error_mean == pytest.approx(sum(fit_errors) / 17, rel=1e-5)
    assert model.fit_error_worst == pytest.approx(max(fit_errors), rel=1e-5)
    assert model.left_out_error_mean == pytest.approx(sum(left_out_errors) / 17, rel=1e-5)
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


def test_512_px_networks_are_predicted_by_a_fit_that_has_seen_none(
    tmp_path: Path, points: dict[str, PublishedPoint]
) -> None:
    model = calibrate(_without_512(tmp_path), BASELINES)

    assert len(model.rows) == 14
    for name in AT_512:
        backbone = points[name].timed_layers()
        low, high = model.interval_ms(backbone)
        assert model.network_ms(backbone) == pytest.approx(points[name].latency_ms, rel=0.1)
        assert low < points[name].latency_ms < high


def test_order_of_the_measured_networks_is_told_better_than_by_macs(
    points: dict[str, PublishedPoint], model: CostModel
) -> None:
    rows = [points[row.name] for row in model.rows]
    pairs = [(a, b) for a in range(len(rows)) for b in range(a) if rows[a].latency_ms != rows[b].latency_ms]

    def wrong(values: list[float]) -> int:
        return sum((values[a] - values[b]) * (rows[a].latency_ms - rows[b].latency_ms) <= 0 for a, b in pairs)

    left_out = wrong([row.left_out_ms for row in model.rows])
    assert left_out < wrong([count(row.architecture()).macs for row in rows])


def test_table_carries_the_published_times_and_a_model_that_is_the_same_to_the_last_digit(
    references: dict[str, Architecture], points: dict[str, PublishedPoint], table: LatencyTable, model: CostModel
) -> None:
    assert table.provenance.source == "calibrated"
    assert model == CostModel.model_validate_json(model.model_dump_json())
    assert model == calibrate(POINTS, BASELINES)
    assert table.published[references["m"].id].latency_ms == 1.10
    assert table.published[points["iformer_l_512_chunked"].architecture().id].latency_ms == 6.60
    assert "without the classifier" in table.published[points["iformer_l_512_chunked"].architecture().id].source
    assert len(table.published) == 17


# Networks of other authors.


def test_baselines_of_the_fit_have_operations_and_the_rest_a_reason(model: CostModel) -> None:
    rows = read_baselines(BASELINES)
    operations = read_operations(operations_beside(BASELINES))
    fitted = [row.name for row in rows if row.fit == "yes"]

    assert len(rows) == 37
    assert fitted == [row.name for row in model.baselines]
    assert len(fitted) == 27
    # Networks with operations that the family never has are left out by a rule, not because of their error.
    assert {row.name for row in rows if row.name in operations and row.fit == "no"} == {
        name for name, parts in operations.items() if any(part.kind == "norm" for part in parts)
    }


def test_fit_to_the_family_alone_predicts_most_other_networks(
    points: dict[str, PublishedPoint], model: CostModel
) -> None:
    operations = read_operations(operations_beside(BASELINES))
    family = [points[row.name] for row in model.rows]
    others = {row: operations[row.name] for row in read_baselines(BASELINES) if row.fit == "yes"}
    evidence = Evidence.of(family, others)
    predicted = evidence.predict(evidence.fit(np.arange(len(family))))
    errors = np.abs(predicted / evidence.published_ms - 1)[len(family) :]

    assert np.median(errors) < 0.1


def test_baseline_far_off_is_forgiven(points: dict[str, PublishedPoint], model: CostModel) -> None:
    operations = read_operations(operations_beside(BASELINES))
    family = [points[row.name] for row in model.rows]
    rows = [row for row in read_baselines(BASELINES) if row.fit == "yes"]
    # As if one baseline had not run on the Neural Engine and had been ten times slower.
    slow = [row.model_copy(update={"latency_ms": 10 * row.latency_ms}) for row in rows[:1]] + rows[1:]
    evidence = Evidence.of(family, {row: operations[row.name] for row in slow})
    predicted = evidence.predict(evidence.fit(np.arange(len(family) + len(rows))))[: len(family)]

    assert predicted == pytest.approx([row.predicted_ms for row in model.rows], rel=0.01)


def test_slopes_of_the_forgiving_loss_lead_to_its_minimum(points: dict[str, PublishedPoint]) -> None:
    operations = read_operations(operations_beside(BASELINES))
    others = {row: operations[row.name] for row in read_baselines(BASELINES) if row.fit == "yes"}
    family = [points[name] for name in RELEASED]
    evidence = Evidence.of(family, others)
    everything = np.arange(len(family) + len(others))
    best = evidence.fit(everything)

    def loss(coefficients: np.ndarray) -> float:
        """Negative log posterior, up to a constant. The priors are as documented at `Prior`."""
        errors = np.log(evidence.predict(coefficients) / evidence.published_ms) / evidence.uncertainty
        normal, student = errors[: len(family)], errors[len(family) :]
        prior = sum(
            (np.log((value - prior.floor) / (prior.typical - prior.floor)) / prior.spread) ** 2 / 2
            for value, prior in zip(coefficients, PRIORS.values(), strict=True)
        )
        return float((normal**2).sum() / 2 + (5 / 2 * np.log1p(student**2 / 4)).sum() + prior)

    for index in range(len(best)):
        for factor in (0.98, 1.02):
            moved = best.copy()
            moved[index] = max(moved[index] * factor, list(PRIORS.values())[index].floor * 1.001)
            assert loss(best) < loss(moved)


def test_refitting_loads_neither_timm_nor_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from nas.latency import calibrate; "
        "calibrate._observed_coverage = lambda *_: 1.0; "  # two fits of every pair of rows, which load nothing else
        f"calibrate.calibrate(Path({str(POINTS)!r}), Path({str(BASELINES)!r})); "
        "print(sorted({'timm', 'torch'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert output.strip() == "[]"


def test_baseline_without_operations_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.baselines.csv"
    path.write_bytes(BASELINES.read_bytes())
    lines = operations_beside(BASELINES).read_text().splitlines()
    operations_beside(path).write_text("\n".join(line for line in lines if not line.startswith("RepViT-M1.0,")))

    with pytest.raises(InputError, match=r"x\.baselines\.operations\.csv: has no operations of RepViT-M1\.0; make"):
        calibrate(POINTS, path)


def _without_512(tmp_path: Path) -> Path:
    path = tmp_path / "small.points.csv"
    lines = POINTS.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(AT_512)))
    return path


def test_too_few_rows_cannot_be_fitted(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("\n".join(POINTS.read_text().splitlines()[:6]))
    with pytest.raises(InputError, match=r"column fit: at least 10 rows must say yes, got 5"):
        calibrate(path)
