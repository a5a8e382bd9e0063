"""What a linear regression on stage widths explains."""

from __future__ import annotations

import numpy as np
import pytest

from nas.errors import InputError
from nas.latency import LatencyTable
from nas.networks import Architecture, SearchSpace
from nas.validate.widths import BandNetwork, WidthPart, draw_networks, variance_shares, width_part

SPACE = SearchSpace.find("iformer")
TABLE = LatencyTable.find("iphone13.coreml.fp16")[0]
BAND_MS = (0.95, 1.20)
# All 16 combinations of two widths in four stages: the columns are orthogonal.
FACTORS = np.array([[(number >> stage) & 1 for stage in range(4)] for number in range(16)], dtype=np.float64)
SLOPES = np.array([3.0, 0.0, 4.0, 0.0])


def fitted(widths: np.ndarray, values: list[float | None]) -> WidthPart:
    networks = [
        BandNetwork(id=str(number), widths=tuple(map(int, own)), latency_ms=1.0, value=value)
        for number, (own, value) in enumerate(zip(widths, values, strict=True))
    ]
    return width_part(networks, seed=0, asked=24, drawn=len(networks), seconds=2.0)


def r2_of(columns: np.ndarray, values: np.ndarray) -> float:
    design = np.column_stack([np.ones(len(values)), columns])
    residual = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return 1 - float(residual @ residual) / float(((values - values.mean()) ** 2).sum())


def test_orthogonal_widths_have_their_own_squared_correlations() -> None:
    shares = variance_shares(FACTORS, FACTORS @ SLOPES)

    assert shares == pytest.approx((9 / 25, 0.0, 16 / 25, 0.0))


def test_widths_that_vary_together_divide_what_they_explain() -> None:
    columns = FACTORS.copy()
    columns[:, 1] = 100 * columns[:, 0]
    shares = variance_shares(columns, columns[:, 0])

    assert shares == pytest.approx((0.5, 0.5, 0.0, 0.0))


def test_shares_of_any_widths_add_up_to_r2_and_none_is_negative() -> None:
    generator = np.random.default_rng(0)
    columns = generator.normal(size=(24, 4)) @ generator.normal(size=(4, 4))
    values = columns @ [1.0, -2.0, 0.5, 0.0] + generator.normal(0, 2, 24)
    shares = variance_shares(columns, values)
    assert shares is not None

    assert sum(shares) == pytest.approx(r2_of(columns, values))
    assert min(shares) >= 0


def test_values_or_widths_that_do_not_vary_explain_nothing() -> None:
    assert variance_shares(FACTORS, np.ones(16)) is None
    assert variance_shares(np.ones((16, 4)), FACTORS[:, 0]) is None


def test_chance_alone_explains_one_part_in_n_less_one_for_each_width() -> None:
    generator = np.random.default_rng(1)
    parts = [fitted(FACTORS, generator.normal(size=16).tolist()) for _ in range(400)]

    assert parts[0].by_chance == pytest.approx(4 / 15)
    # One R^2 has a standard deviation of 0.15, a mean of 400 one of 0.008.
    assert np.mean([part.r2 for part in parts]) == pytest.approx(4 / 15, abs=0.025)
    assert np.mean([part.adjusted for part in parts]) == pytest.approx(0.0, abs=0.035)


def test_a_width_that_never_varies_is_no_regressor() -> None:
    widths = FACTORS.copy()
    widths[:, 3] = 5
    values = (FACTORS @ SLOPES + FACTORS[:, 0] * FACTORS[:, 2]).tolist()
    part = fitted(widths, values)
    assert part.r2 is not None

    assert part.by_chance == pytest.approx(3 / 15)
    assert part.adjusted == pytest.approx(1 - (1 - part.r2) * 15 / 12)
    assert part.shares[3] == pytest.approx(0.0)


def test_failed_scores_are_counted_and_left_out() -> None:
    values: list[float | None] = (FACTORS @ SLOPES).tolist()
    values[5] = values[9] = None
    part = fitted(FACTORS, values)

    assert (part.failed, len(part.networks), part.seconds) == (2, 16, 2.0)
    assert part.r2 == pytest.approx(1.0)
    assert part.by_chance == pytest.approx(4 / 13)


def test_five_scores_are_too_few() -> None:
    part = fitted(FACTORS[:5], [1.0, 2.0, 3.0, 4.0, 5.0])

    assert (part.r2, part.adjusted, part.by_chance, part.shares) == (None, None, None, ())


def test_the_same_networks_of_the_band_are_drawn_each_time() -> None:
    found = draw_networks(SPACE, TABLE.latency_ms, BAND_MS, 24)

    assert len(found) == 24
    assert all(name == network.id and network in SPACE for name, network in found.items())
    assert all(BAND_MS[0] <= TABLE.latency_ms(network) <= BAND_MS[1] for network in found.values())
    assert list(draw_networks(SPACE, TABLE.latency_ms, BAND_MS, 10)) == list(found)[:10]


def test_drawing_ends_where_the_band_is_empty_or_latencies_are_unknown() -> None:
    asked: list[Architecture] = []

    def unknown(network: Architecture) -> None:
        asked.append(network)

    assert draw_networks(SPACE, unknown, BAND_MS, 6) == {}
    assert len(asked) == 300
    assert draw_networks(SPACE, TABLE.latency_ms, (5.0, 6.0), 6) == {}
    assert draw_networks(SPACE, unknown, BAND_MS, 0) == {}
    assert len(asked) == 300


def test_too_few_networks_for_a_regression_are_refused() -> None:
    with pytest.raises(InputError, match=r"--band-networks must be at least 6, to fit a mean and 4 widths.*got 5"):
        draw_networks(SPACE, TABLE.latency_ms, BAND_MS, 5)
