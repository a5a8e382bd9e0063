from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import kendalltau

from nas.accuracy import AccuracyTable
from nas.accuracy.fit import fit_published
from nas.accuracy.published import Errors, Published, Row
from nas.accuracy.results import read_rows
from nas.accuracy.structure import ranges
from nas.accuracy.traits import TRAITS

Array = npt.NDArray[np.float64]

FOLDER = Path(__file__).parents[2] / "accuracy_tables"
TOP1 = {"iformer_t": 74.1, "iformer_s": 78.8, "iformer_m": 80.4, "iformer_l": 81.9}  # the paper's Table 3


@pytest.fixture(scope="module")
def published(table: AccuracyTable) -> Published:
    """The published part of the shipped table."""
    return table.published


@pytest.fixture(scope="module")
def others(table: AccuracyTable) -> list[Row]:
    return [row for row in table.published.rows if row.family != table.origin.family]


@pytest.fixture(scope="module")
def own(table: AccuracyTable) -> list[Row]:
    return [row for row in table.published.rows if row.family == table.origin.family]


@pytest.fixture(scope="module")
def again(others: list[Row], own: list[Row], maker: ModuleType) -> Published:
    """The same part, learnt again from the rows in the file; some seconds."""
    return fit_published(others, own, axes=maker.AXES)


def _errors(known: Sequence[Row], found: tuple[Array, Array, Array]) -> Errors:
    truth = np.asarray([row.top1 for row in known])
    top1, low, high = found
    return Errors(
        networks=len(known),
        mean=np.abs(top1 - truth).mean(),
        worst=np.abs(top1 - truth).max(),
        tau=kendalltau(top1, truth).statistic,
        covered=((low <= truth) & (truth <= high)).mean(),
    )


def _alone(
    published: Published, others: Sequence[Row], own: Sequence[Row], groups: Sequence[str]
) -> tuple[Array, Array, Array]:
    """The rows of the family, each foretold by a process that has never seen its group."""
    found = []
    for row, group in zip(own, groups, strict=True):
        rest = [one for one, its in zip(own, groups, strict=True) if its != group]
        found.append(published.with_rows([*others, *rest]).foretold([row]))
    top1, low, high = (np.concatenate(part) for part in zip(*found, strict=True))
    return top1, low, high


def test_networks_of_the_family_lie_in_their_interval_when_they_are_left_out(
    published: Published, others: list[Row], own: list[Row]
) -> None:
    _, low, high = published.left_out([row.family for row in others] + [row.name for row in own])
    ends = zip(own, low[len(others) :], high[len(others) :], strict=True)

    assert [row.name for row, bottom, top in ends if not bottom <= row.top1 <= top] == []
    assert TOP1.items() <= {row.name: row.top1 for row in own}.items()
    assert len(own) >= 12


def test_the_errors_in_the_file_are_those_of_its_rows_and_kernel(
    published: Published, again: Published, others: list[Row], own: list[Row], maker: ModuleType
) -> None:
    """Every error again. Nothing that is foretold has been seen, families left out not even by a kernel."""
    axes = [maker.AXES[row.name] for row in own]
    recomputed = {
        "no row of the family seen": _errors(own, published.with_rows(others).foretold(own)),
        "each row of the family left out": _errors(own, _alone(published, others, own, [row.name for row in own])),
        "each axis of the family left out": _errors(own, _alone(published, others, own, axes)),
    }

    assert {"each family left out", *recomputed} == set(published.errors)
    for name, errors in recomputed.items():
        assert errors.model_dump() == pytest.approx(published.errors[name].model_dump(), rel=1e-4), name
    learnt = again.errors["each family left out"]
    assert learnt.model_dump() == pytest.approx(published.errors["each family left out"].model_dump(), rel=1e-2)
    assert published.errors["each family left out"].mean <= 1.0
    assert published.errors["each row of the family left out"].mean <= 0.6


def test_left_out_families_are_foretold_as_by_processes_that_never_saw_them(
    published: Published, others: list[Row]
) -> None:
    families = sorted({row.family for row in others}, key=lambda family: -sum(row.family == family for row in others))
    top1, low, high = published.with_rows(others).left_out([row.family for row in others])
    for family in families[:3]:
        out = [number for number, row in enumerate(others) if row.family == family]
        rest = published.with_rows([row for row in others if row.family != family])

        np.testing.assert_allclose(
            rest.foretold([others[number] for number in out]), (top1[out], low[out], high[out]), rtol=0, atol=1e-6
        )


def test_intervals_are_as_wide_as_families_left_out_ask_for(published: Published, again: Published) -> None:
    """What a fit makes of families left out is computed by another way in test_fit.py."""
    errors = published.errors["each family left out"]

    assert again.widening == pytest.approx(published.widening, rel=1e-2)
    assert errors.covered == pytest.approx(0.9, abs=2 / errors.networks)


def test_the_rows_are_those_of_the_files_beside_the_table_and_of_the_papers_networks(
    published: Published, maker: ModuleType
) -> None:
    others = read_rows(FOLDER / "imagenet.networks.csv", FOLDER / "imagenet.results.csv")
    points = maker.own_points()

    assert (*others, *maker.own_rows(points)) == published.rows
    assert ranges(point.architecture() for point in points) == published.ranges
    assert published.traits == TRAITS


def test_centre_and_scale_are_those_of_the_other_families(published: Published, others: list[Row]) -> None:
    matrix = np.asarray([row.traits for row in others])
    targets = -np.log(100 - np.asarray([row.top1 for row in others]))

    np.testing.assert_allclose(matrix.mean(0), published.centre, rtol=1e-4)
    np.testing.assert_allclose(matrix.std(0), published.scale, rtol=1e-4)
    np.testing.assert_allclose(
        (targets.mean(), targets.std()), (published.target_centre, published.target_scale), rtol=1e-4
    )


def test_rows_of_the_family_make_its_intervals_narrower(
    published: Published, others: list[Row], own: list[Row]
) -> None:
    medium = next(row for row in own if row.name == "iformer_m").model_copy(update={"name": "like iformer_m"})
    known, unknown = (
        np.concatenate(process.foretold([medium])) for process in (published, published.with_rows(others))
    )

    assert known[2] - known[1] < 0.7 * (unknown[2] - unknown[1])


def test_rows_of_the_family_bring_its_predictions_nearer(
    published: Published, others: list[Row], own: list[Row]
) -> None:
    """Each row is left out, and foretold by the others of the family or by no row of the family."""
    truth = np.asarray([row.top1 for row in own])
    known = _alone(published, others, own, [row.name for row in own])[0]
    unknown = published.with_rows(others).foretold(own)[0]

    assert np.abs(known - truth).mean() < 0.7 * np.abs(unknown - truth).mean()


def test_intervals_are_widened_by_the_number_in_the_file(published: Published, own: list[Row]) -> None:
    once = published.foretold(own)
    twice = published.model_copy(update={"widening": 2 * published.widening}).foretold(own)

    def below(found: tuple[Array, Array, Array]) -> Array:
        """Length of the lower half, where targets are: in logarithms of errors."""
        top1, low, _ = found
        return np.asarray(np.log(100 - low) - np.log(100 - top1))

    np.testing.assert_array_equal(once[0], twice[0])
    np.testing.assert_allclose(2 * below(once), below(twice))


def test_another_recipe_or_a_teacher_is_worth_another_accuracy(published: Published, own: list[Row]) -> None:
    usual = next(row for row in own if row.name == "iformer_m")
    taught = usual.model_copy(update={"distilled": True, "recipe": "another"})
    (found, _), (low, _), (high, _) = published.foretold([usual, taught])
    (_, better), (_, taught_low), (_, taught_high) = published.foretold([usual, taught])

    assert better > found
    assert taught_high - taught_low > high - low  # less is known about it


def test_the_kernel_in_the_file_is_the_one_that_its_rows_give(
    published: Published, again: Published, own: list[Row]
) -> None:
    for name, value in again.kernel.model_dump().items():
        np.testing.assert_allclose(value, getattr(published.kernel, name), rtol=1e-2, err_msg=name)
    np.testing.assert_allclose(again.foretold(own), published.foretold(own), rtol=0, atol=1e-3)
