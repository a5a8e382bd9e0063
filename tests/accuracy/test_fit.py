from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from nas.accuracy.fit import _Problem, _published, fit_kernel, fit_published
from nas.accuracy.process import Labels, Process
from nas.accuracy.published import Published, Row
from nas.accuracy.table import AccuracyTable
from nas.errors import InputError

Array = npt.NDArray[np.float64]

N, T = 60, 3


def _synthetic() -> tuple[Array, Labels, Array]:
    """Traits (N, T), labels and standardised targets (N,): a line, a curve, and two offsets."""
    random = np.random.default_rng(0)
    traits, numbers = random.normal(size=(N, T)), np.arange(N)
    labels = Labels(
        family=random.integers(0, 8, N).astype(str),
        recipe=random.integers(0, 3, N).astype(str),
        network=(numbers // 2).astype(str),
        distilled=random.random(N) < 0.3,
    )
    line, curve = traits @ [0.6, 0.3, 0.0], 0.4 * np.sin(2 * traits[:, 0])
    offsets = 0.3 * (labels.family == "1") + 0.2 * labels.distilled
    targets = line + curve + offsets + random.normal(0, 0.1, N)
    return traits, labels, (targets - targets.mean()) / targets.std()


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_finite_differences(seed: int) -> None:
    traits, labels, targets = _synthetic()
    random = np.random.default_rng(seed)
    numbers = 2 * T + 8  # slopes and lengths of the traits, the curve, and seven others
    middle, spread = random.normal(-1, 0.5, numbers), random.uniform(0.5, 1.5, numbers)
    problem = _Problem(traits=traits, labels=labels, targets=targets, middle=middle, spread=spread)
    at = middle + 0.5 * random.normal(size=numbers)
    steps = 1e-5 * np.eye(numbers)
    differences = [(problem.loss(at + step)[0] - problem.loss(at - step)[0]) / 2e-5 for step in steps]

    np.testing.assert_allclose(differences, problem.loss(at)[1], rtol=1e-5, atol=1e-5)


def test_the_kernel_is_the_same_from_every_start() -> None:
    traits, labels, targets = _synthetic()
    others, new = np.random.default_rng(1).normal(size=(40, T)), np.full(40, "")
    unknown = Labels(family=new, recipe=np.full(40, "0"), network=new, distilled=np.zeros(40, dtype=bool))

    def foretold(seed: int | None) -> Array:
        """Means and standard deviations of the unknown networks, (2, 40)."""
        kernel = fit_kernel(traits, labels, targets, seed=seed)
        return np.stack(Process(kernel, traits, labels, targets).predict(others, unknown))

    middle, *starts = map(foretold, (None, 0, 1, 2))

    assert middle[0].std() > 0.5  # the predictions say something
    for start in starts:
        np.testing.assert_allclose(middle, start, rtol=0, atol=1e-3)  # standard deviations of the targets


def test_the_kernel_finds_which_traits_matter() -> None:
    kernel = fit_kernel(*_synthetic())

    assert kernel.linear[2] < kernel.linear[1] < kernel.linear[0]
    assert kernel.lengths[0] < kernel.lengths[2]  # the curve is one of the first trait
    assert kernel.noise == pytest.approx(0.1, rel=0.5)


def test_the_numbers_of_a_kernel_have_few_digits() -> None:
    kernel = fit_kernel(*_synthetic())
    numbers = [*kernel.linear, kernel.curve, *kernel.lengths, kernel.family, kernel.noise]

    assert [float(f"{number:.4e}") for number in numbers] == numbers


# Sixty networks of other families, and the twelve of the shipped table.


@pytest.fixture(scope="module")
def rows(table: AccuracyTable) -> tuple[list[Row], list[Row]]:
    own = [row for row in table.published.rows if row.family == table.origin.family]
    others = [row for row in table.published.rows if row.family != table.origin.family]
    return others[::5], own


@pytest.fixture(scope="module")
def axes(rows: tuple[list[Row], list[Row]]) -> dict[str, str]:
    return {row.name: "published" if row.name.startswith("iformer") else "ladder" for row in rows[1]}


@pytest.fixture(scope="module")
def published(rows: tuple[list[Row], list[Row]], axes: dict[str, str]) -> Published:
    return fit_published(*rows, axes=axes)


def test_the_kernel_never_sees_a_row_of_the_family(
    rows: tuple[list[Row], list[Row]], axes: dict[str, str], published: Published
) -> None:
    others, own = rows
    worse = [row.model_copy(update={"top1": row.top1 - 20}) for row in own]
    lower = fit_published(others, worse, axes=axes)

    assert published.kernel == lower.kernel
    assert (published.centre, published.scale) == (lower.centre, lower.scale)
    assert (published.target_centre, published.target_scale) == (lower.target_centre, lower.target_scale)
    assert published.widening == lower.widening
    (top1, _, _), (low_top1, _, _) = published.foretold(own), lower.foretold(own)
    np.testing.assert_allclose(top1 - 20, low_top1, rtol=0, atol=3)  # the process sees them, of course


def test_all_rows_are_kept_and_every_way_to_leave_them_out_is_tried(
    rows: tuple[list[Row], list[Row]], published: Published
) -> None:
    others, own = rows

    assert (*others, *own) == published.rows
    assert {
        "each family left out": len(others),
        "no row of the family seen": len(own),
        "each row of the family left out": len(own),
        "each axis of the family left out": len(own),
    } == {name: errors.networks for name, errors in published.errors.items()}


def test_intervals_cover_nine_of_ten_networks_of_families_left_out(
    rows: tuple[list[Row], list[Row]], published: Published
) -> None:
    """Neither the kernel nor the process has seen a row of the family, nor of the others left out with it."""
    others, _ = rows
    group = {family: number % 6 for number, family in enumerate(sorted({row.family for row in others}))}
    learnt = [_published([row for row in others if group[row.family] != number]) for number in range(6)]

    def foretold(row: Row, widening: float) -> list[float]:
        """Accuracy, and both ends of its interval."""
        rest = [one for one in others if one.family != row.family]
        process = learnt[group[row.family]].model_copy(update={"widening": widening}).with_rows(rest)
        return np.concatenate(process.foretold([row])).tolist()

    truth = np.asarray([row.top1 for row in others])
    top1, low, high = np.asarray([foretold(row, 1.0) for row in others]).T
    misses = np.abs(top1 - truth)
    _, widened_low, widened_high = np.asarray([foretold(row, published.widening) for row in others]).T
    inside = (widened_low <= truth) & (truth <= widened_high)
    errors = published.errors["each family left out"]

    assert np.quantile(2 * misses / (high - low), 0.9) == pytest.approx(published.widening, rel=1e-4)
    assert (misses.mean(), misses.max()) == pytest.approx((errors.mean, errors.worst), rel=1e-4)
    assert inside.mean() == pytest.approx(0.9, abs=2 / len(others))  # the upper half of an interval is the shorter one
    assert errors.covered == pytest.approx(0.9, abs=2 / len(others))


def test_rows_that_vary_alike_are_left_out_together(
    rows: tuple[list[Row], list[Row]], axes: dict[str, str], published: Published
) -> None:
    others, own = rows
    ladder = [row for row in own if axes[row.name] == "ladder"]
    rest = [row for row in own if axes[row.name] != "ladder"]
    misses = [
        abs(row.top1 - top1)
        for seen, unseen in ((rest, ladder), (ladder, rest))
        for row, top1 in zip(unseen, published.with_rows([*others, *seen]).foretold(unseen)[0], strict=True)
    ]

    assert published.errors["each axis of the family left out"].mean == pytest.approx(np.mean(misses), rel=1e-4)
    assert published.errors["each axis of the family left out"].worst == pytest.approx(max(misses), rel=1e-4)


def test_a_row_without_an_axis_is_named(rows: tuple[list[Row], list[Row]], axes: dict[str, str]) -> None:
    known = {name: axis for name, axis in axes.items() if name not in ("iformer_t", "ladder_bn")}
    with pytest.raises(InputError, match=r"^no axis for iformer_t, ladder_bn$"):
        fit_published(*rows, axes=known)
