from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import kendalltau

from nas.accuracy import Accuracy, AccuracyTable
from nas.accuracy.results import read_rows
from nas.accuracy.structure import ranges
from nas.accuracy.table import Errors, Row
from nas.accuracy.traits import TRAITS
from nas.errors import InputError
from nas.networks import Architecture, SearchSpace, random_choice

Array = npt.NDArray[np.float64]

FILE = Path(__file__).parents[2] / "accuracy_tables" / "iformer.imagenet.json"
PUBLISHED = {"t": 74.1, "s": 78.8, "m": 80.4, "l": 81.9}  # the paper's Table 3, 300 epochs without distillation


@pytest.fixture(scope="module")
def rows(table: AccuracyTable) -> tuple[list[Row], list[Row]]:
    """Rows of other families, and of its own."""
    own = [row for row in table.published.rows if row.family == table.origin.family]
    return [row for row in table.published.rows if row.family != table.origin.family], own


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace.find("iformer")


# The shipped file.


def test_the_shipped_table_says_without_torch_what_a_network_is_worth() -> None:
    code = (
        "import sys\n"
        "from nas.accuracy import AccuracyTable\n"
        "from nas.networks import SearchSpace\n"
        "table, path = AccuracyTable.find('iformer')\n"
        "(found,) = table.predict([SearchSpace.find('iformer').references['iformer_m']])\n"
        "print(path.name, found.low < found.top1 < found.high, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "iformer.imagenet.json True False\n"


def test_its_own_networks_lie_in_their_interval_when_they_are_left_out(
    table: AccuracyTable, rows: tuple[list[Row], list[Row]]
) -> None:
    others, own = rows
    _, low, high = table.published.left_out([row.family for row in others] + [row.name for row in own])
    known = {
        row.name: (row.top1, bottom, top)
        for row, bottom, top in zip(own, low[len(others) :], high[len(others) :], strict=True)
    }

    assert len(known) == len(own) >= 12
    assert [name for name, (top1, bottom, top) in known.items() if not bottom <= top1 <= top] == []
    assert {f"iformer_{name}": top1 for name, top1 in PUBLISHED.items()} == {
        name: known[name][0] for name in ("iformer_t", "iformer_s", "iformer_m", "iformer_l")
    }


def test_a_published_network_is_foretold_what_is_published(
    table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    found = dict(zip(PUBLISHED, table.predict([references[name] for name in PUBLISHED]), strict=True))

    for name, top1 in PUBLISHED.items():
        assert found[name].low < top1 < found[name].high
        assert found[name].top1 == pytest.approx(top1, abs=0.4)


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


def test_the_errors_in_the_file_are_those_of_its_rows_and_kernel(
    table: AccuracyTable, rows: tuple[list[Row], list[Row]], maker: ModuleType
) -> None:
    """Every error again, but one row or family at a time: nothing that is foretold has been seen."""
    published, (others, own) = table.published, rows
    families = [row.family for row in others]

    def seeing(groups: Sequence[str]) -> tuple[Array, Array, Array]:
        """The rows of the family, each foretold by all rows but its own group."""
        found = []
        for row, group in zip(own, groups, strict=True):
            rest = [one for one, its in zip(own, groups, strict=True) if its != group]
            found.append(published.with_rows([*others, *rest]).foretold([row]))
        top1, low, high = (np.concatenate(part) for part in zip(*found, strict=True))
        return top1, low, high

    again = {
        "each family left out": _errors(others, published.with_rows(others).left_out(families)),
        "no row of the family seen": _errors(own, published.with_rows(others).foretold(own)),
        "each row of the family left out": _errors(own, seeing([row.name for row in own])),
        "each axis of the family left out": _errors(own, seeing([maker.AXES[row.name] for row in own])),
    }

    assert set(again) == set(published.errors)
    for name, errors in published.errors.items():
        assert again[name].model_dump() == pytest.approx(errors.model_dump(), rel=1e-4), name
    assert published.errors["each family left out"].mean <= 1.0
    assert published.errors["each row of the family left out"].mean <= 0.6


def test_its_intervals_are_as_wide_as_families_left_out_ask_for(
    table: AccuracyTable, rows: tuple[list[Row], list[Row]]
) -> None:
    others, _ = rows
    alone = table.published.with_rows(others)
    mean, deviation = alone.process.leave_out([row.family for row in others])
    misses = np.abs(mean - alone.process.targets) / deviation

    assert table.published.widening == pytest.approx(np.quantile(misses, 0.9) / 1.6449, rel=1e-4)
    assert table.published.errors["each family left out"].covered == pytest.approx(0.9, abs=1 / len(others))


def test_its_rows_are_those_of_the_files_beside_it_and_of_the_papers_networks(
    table: AccuracyTable, maker: ModuleType
) -> None:
    others = read_rows(FILE.with_name("imagenet.networks.csv"), FILE.with_name("imagenet.results.csv"))
    points = maker.own_points()

    assert (*others, *maker.own_rows(points)) == table.published.rows
    assert ranges(point.architecture() for point in points) == table.published.ranges
    assert table.published.traits == TRAITS


def test_its_centre_and_scale_are_those_of_the_other_families(
    table: AccuracyTable, rows: tuple[list[Row], list[Row]]
) -> None:
    published, (others, _) = table.published, rows
    matrix = np.asarray([row.traits for row in others])
    targets = -np.log(100 - np.asarray([row.top1 for row in others]))

    np.testing.assert_allclose(matrix.mean(0), published.centre, rtol=1e-4)
    np.testing.assert_allclose(matrix.std(0), published.scale, rtol=1e-4)
    np.testing.assert_allclose(
        (targets.mean(), targets.std()), (published.target_centre, published.target_scale), rtol=1e-4
    )


# Any table.


def test_a_saved_table_is_the_same_file(table: AccuracyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "again.json")
    again, path = AccuracyTable.find(str(tmp_path / "again.json"))

    assert FILE.read_bytes() == (tmp_path / "again.json").read_bytes()
    assert (table, tmp_path / "again.json") == (again, path)
    assert table.digest() == again.digest()


def test_another_content_has_another_digest(table: AccuracyTable) -> None:
    wider = table.published.model_copy(update={"widening": 1.5})

    assert table.digest() != table.model_copy(update={"published": wider}).digest()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((), "typo: unknown key"),
        (("origin",), "origin.typo: unknown key"),
        (("published", "kernel"), "published.kernel.typo: unknown key"),
        (("published", "rows", 3), r"published.rows\[3\].typo: unknown key"),
        (("published", "errors", "each family left out"), "published.errors.each family left out.typo: unknown key"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place(place: tuple[str | int, ...], message: str, tmp_path: Path) -> None:
    document = json.loads(FILE.read_text())
    part = document
    for step in place:
        part = part[step]
    part["typo"] = 1
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(document))

    with pytest.raises(InputError, match=rf"wrong\.json: {message}$"):
        AccuracyTable.find(str(path))


def test_a_wrong_accuracy_and_a_table_that_is_not_there_are_named(tmp_path: Path) -> None:
    document = json.loads(FILE.read_text())
    document["published"]["rows"][3]["top1"] = 100
    (tmp_path / "wrong.json").write_text(json.dumps(document))

    with pytest.raises(InputError, match=r"published.rows\[3\].top1: input should be less than 100, got 100"):
        AccuracyTable.find(str(tmp_path / "wrong.json"))
    with pytest.raises(InputError, match=r"no accuracy table named 'ifomer': .*iformer\.imagenet"):
        AccuracyTable.find("ifomer")


def test_many_networks_are_foretold_what_each_is_alone(table: AccuracyTable, space: SearchSpace) -> None:
    choose = random_choice(seed=0)
    networks = [space.sample(choose) for _ in range(1002)]  # two batches
    found = table.predict(networks)

    for number in (0, 1, 999, 1000, 1001):
        (alone,) = table.predict([networks[number]])
        assert (alone.low, alone.top1, alone.high) == pytest.approx(
            (found[number].low, found[number].top1, found[number].high), abs=1e-6
        )
    assert len(networks) == len(found)
    assert table.predict([]) == []


def test_the_number_of_classes_does_not_matter(table: AccuracyTable, references: dict[str, Architecture]) -> None:
    """A network that is searched for 20 classes is worth what it is worth on ImageNet."""
    network = references["m"]

    assert table.predict([network]) == table.predict([network.at(num_classes=20)])


def test_less_is_known_about_a_network_that_is_unlike_the_others(
    table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    unlike = references["m"].at(resolution=448)
    known, doubtful = table.predict([references["m"], unlike])

    assert doubtful.high - doubtful.low > 1.5 * (known.high - known.low)


def test_rows_of_the_family_make_its_intervals_narrower(
    table: AccuracyTable, rows: tuple[list[Row], list[Row]], references: dict[str, Architecture]
) -> None:
    others, _ = rows
    unseen = table.model_copy(update={"published": table.published.with_rows(others)})
    (known,), (unknown,) = table.predict([references["m"]]), unseen.predict([references["m"]])

    assert known.high - known.low < 0.7 * (unknown.high - unknown.low)
    assert abs(known.top1 - PUBLISHED["m"]) < abs(unknown.top1 - PUBLISHED["m"])


def test_intervals_are_widened_by_the_number_in_the_file(
    table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    doubled = table.published.model_copy(update={"widening": 2 * table.published.widening})
    (once,), (twice,) = (
        one.predict([references["m"]]) for one in (table, table.model_copy(update={"published": doubled}))
    )

    def below(found: Accuracy) -> float:
        """Length of the lower half, where targets are: in logarithms of errors."""
        return float(np.log(100 - found.low) - np.log(100 - found.top1))

    assert once.top1 == twice.top1
    assert below(twice) == pytest.approx(2 * below(once))


def test_a_table_says_where_it_comes_from_and_how_far_it_can_be_trusted(table: AccuracyTable) -> None:
    words = "\n".join(table.describe())
    own = table.published.errors["each row of the family left out"]

    assert "predicted ImageNet-1k top-1 accuracy of iformer, trained for 300 epochs at 224 px" in words
    assert "from timm's results folder (Apache-2.0" in words
    assert f"each row of the family left out: {own.mean:.2f} points in the mean, {own.worst:.2f} at worst" in words
    assert table.trust.startswith(f"{own.mean:.1f} points off in the mean over {own.networks} networks of the family")
