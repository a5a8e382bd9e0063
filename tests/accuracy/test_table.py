from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.accuracy import AccuracyTable
from nas.accuracy.fit import WEIGHTS, weigh
from nas.accuracy.structure import NUMBERS
from nas.accuracy.trained import Foretelling, Line, ScoredBySupernets, Trained
from nas.errors import InputError
from nas.networks import Architecture, SearchSpace, random_choice
from nas.networks.encoding import Encoding

FILE = Path(__file__).parents[2] / "accuracy_tables" / "iformer.imagenet.json"
PUBLISHED = {"t": 74.1, "s": 78.8, "m": 80.4, "l": 81.9}  # the paper's Table 3, 300 epochs without distillation


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


def test_its_own_networks_lie_in_their_interval_when_they_are_left_out(table: AccuracyTable) -> None:
    top1 = {row.name: row.top1 for row in table.published.rows if row.family == table.origin.family}
    found = table.left_out({name: name for name in top1})

    assert [name for name, one in found.items() if not one.low <= top1[name] <= one.high] == []
    assert set(found) == set(top1)
    assert {f"iformer_{size}": value for size, value in PUBLISHED.items()}.items() <= top1.items()


def test_a_published_network_is_foretold_what_is_published(
    table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    found = dict(zip(PUBLISHED, table.predict([references[name] for name in PUBLISHED]), strict=True))

    for name, top1 in PUBLISHED.items():
        assert found[name].low < top1 < found[name].high


def _weighed(
    published: tuple[float, float, float], trained: tuple[float, float], weight: float
) -> tuple[float, float, float]:
    """Both parts as one: accuracy, and both ends of its interval."""
    (top1, low, high), (middle, reach) = published, trained
    sure, other = ((high - low) / 2) ** -2, weight * reach**-2
    share = other / (sure + other)
    both = (1 - share) * top1 + share * middle
    apart = 1.6449 * math.sqrt(share * (1 - share) * (middle - top1) ** 2)
    below, above = (math.hypot((1 - share) * half + share * reach, apart) for half in (top1 - low, high - top1))
    return both, both - below, both + above


def _together(table: AccuracyTable, groups: Mapping[str, str]) -> dict[str, tuple[float, float, float]]:
    """Accuracy and interval of each row of the family without its group: every part fitted again, and weighed.

    Each part counts by the inverse square of its interval, and the interval holds how far the parts are apart.
    """
    others = [row for row in table.published.rows if row.family != table.origin.family]
    own = [row for row in table.published.rows if row.family == table.origin.family]
    found = {}
    for row in own:
        rest = [one for one in own if groups[one.name] != groups[row.name]]
        top1, low, high = np.concatenate(table.published.with_rows([*others, *rest]).foretold([row])).tolist()
        found[row.name] = (top1, low, high)
        if table.trained and row.name in table.trained.family:
            scores = table.trained.family
            line = Line.through(*np.asarray([(scores[one.name], one.top1) for one in rest if one.name in scores]).T)
            middle, reach = line.offset + line.slope * scores[row.name], line.reach(np.asarray(scores[row.name])).item()
            if math.isfinite(reach):
                found[row.name] = _weighed((top1, low, high), (middle, reach), table.weight)
    return found


def test_the_errors_in_the_file_are_those_of_its_parts(table: AccuracyTable, maker: ModuleType) -> None:
    """Every error again. Nothing that is foretold has been seen."""
    rows = [row for row in table.published.rows if row.family == table.origin.family]
    truth = np.asarray([row.top1 for row in rows])
    groups: dict[str, dict[str, str]] = {
        "each row of the family left out": {row.name: row.name for row in rows},
        "each axis of the family left out": maker.AXES,
    }

    assert set(table.errors) == set(groups)
    for name, errors in table.errors.items():
        foretold = _together(table, groups[name])
        top1, low, high = np.asarray([foretold[row.name] for row in rows]).T
        again = {
            "networks": len(rows),
            "mean": np.abs(top1 - truth).mean(),
            "worst": np.abs(top1 - truth).max(),
            "tau": kendalltau(top1, truth).statistic,
            "covered": ((low <= truth) & (truth <= high)).mean(),
        }
        assert again == pytest.approx(errors.model_dump(), rel=1e-4), name
    assert table.errors["each row of the family left out"].mean <= 0.6


def test_the_weight_in_the_file_is_the_best_with_axes_left_out_unless_chance_does_as_well(
    table: AccuracyTable, maker: ModuleType
) -> None:
    top1 = {row.name: row.top1 for row in table.published.rows if row.family == table.origin.family}

    def missed(weight: float) -> float:
        found = table.model_copy(update={"weight": weight}).left_out(maker.AXES)
        return float(np.mean([(one.top1 - top1[name]) ** 2 for name, one in found.items()]))

    again = weigh(table.model_copy(update={"weight": 0.0, "chance": None, "errors": {}}), maker.AXES)
    by_chance = table.chance is None or table.chance >= 0.1

    assert (table.trained is None) == (table.chance is None)
    assert (0.0 if by_chance else min(WEIGHTS, key=missed)) == table.weight
    assert (again.weight, again.chance, again.errors) == (table.weight, table.chance, table.errors)


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
    unlike = references["m"].at(resolution=64)
    known, doubtful = (one.parts["published"] for one in table.predict([references["m"], unlike]))

    assert doubtful.high - doubtful.low > 1.5 * (known.high - known.low)


def test_a_table_of_a_family_without_a_row_is_refused(tmp_path: Path) -> None:
    document = json.loads(FILE.read_text())
    document["origin"]["family"] = "iforme"
    (tmp_path / "wrong.json").write_text(json.dumps(document))

    with pytest.raises(InputError, match=r"published\.rows: none is of the family iforme$"):
        AccuracyTable.find(str(tmp_path / "wrong.json"))


def _with_trained(table: AccuracyTable, *, top1: float, reach: float, weight: float) -> AccuracyTable:
    """A trained part that says the same of every network, through so many points that its interval is a normal's."""
    row = ScoredBySupernets(id="x", numbers=(0.0,) * len(NUMBERS), score=0.0)
    trained = Trained(
        supernets=(),
        numbers=NUMBERS,
        centre=(0.0,) * len(NUMBERS),
        scale=(1.0,) * len(NUMBERS),
        kernel=table.published.kernel.model_copy(
            update={"linear": (0.0,) * len(NUMBERS), "lengths": (1e6,) * len(NUMBERS)}
        ),
        rows=(row,),
        family={},
        line=Line(
            offset=top1,
            slope=0.0,
            rest=reach / 1.6449,
            points=10**6,
            centre=0.0,
            spread=1e6,
            lowest=-1.0,
            highest=1.0,
        ),
        foretelling=Foretelling(networks=1, rank_correlation=1.0, in_bands={"1.0": 1.0}),
    )
    return table.model_copy(update={"trained": trained, "weight": weight})


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
def test_parts_are_weighed_by_their_intervals(
    weight: float, table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    (found,) = _with_trained(table, top1=80.0, reach=2.0, weight=weight).predict([references["m"]])
    (one,) = table.model_copy(update={"trained": None}).predict([references["m"]])
    published, other = found.parts["published"], found.parts["trained"]

    assert set(one.parts) == {"published"}
    assert published == one.parts["published"]
    assert (one.top1, one.low, one.high) == (published.top1, published.low, published.high)
    assert (other.low, other.top1, other.high) == pytest.approx((78, 80, 82), abs=1e-3)
    assert _weighed((one.top1, one.low, one.high), (80.0, 2.0), weight) == pytest.approx(
        (found.top1, found.low, found.high), abs=1e-3
    )


def test_parts_that_are_disjoint_make_an_interval_with_both_middles(
    table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    (alone,) = table.model_copy(update={"trained": None}).predict([references["m"]])
    reach = (alone.high - alone.low) / 2
    (found,) = _with_trained(table, top1=70.0, reach=reach, weight=1.0).predict([references["m"]])
    published, trained = found.parts["published"], found.parts["trained"]

    assert trained.high < published.low
    assert found.low < trained.top1 < found.top1 < published.top1 < found.high


def test_supernets_say_nothing_of_networks_smaller_or_larger_than_the_published_ones(
    table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    stages = tuple(stage.model_copy(update={"channels": stage.channels // 2}) for stage in references["t"].stages)
    small = references["t"].model_copy(update={"stages": stages})
    networks = [small, *(references[name] for name in ("t", "m", "l", "h"))]
    found = _with_trained(table, top1=80.0, reach=2.0, weight=1.0).predict(networks)
    alone = table.model_copy(update={"trained": None}).predict(networks)

    assert ["trained" in one.parts for one in found] == [False, True, True, True, False]
    assert (alone[0], alone[-1]) == (found[0], found[-1])


def test_a_table_without_some_rows_has_never_seen_them(
    table: AccuracyTable, references: dict[str, Architecture]
) -> None:
    names = {"iformer_m", "ladder_sha"}
    rest = [row for row in table.published.rows if row.name not in names]
    without = table.without(names)
    m = next(row for row in table.published.rows if row.name == "iformer_m")
    found = without.predict([references["m"]])[0].parts["published"]

    assert tuple(rest) == without.published.rows
    assert (found.top1, found.low, found.high) == pytest.approx(
        np.concatenate(
            table.published.with_rows(rest).predict(
                np.asarray([m.traits]), table.published.labels([m.model_copy(update={"name": ""})])
            )
        ),
        abs=1e-3,
    )
    assert table.trained is not None
    assert without.trained is not None
    scores = {name: score for name, score in table.trained.family.items() if name not in names}
    top1 = {row.name: row.top1 for row in rest}
    line = Line.through(np.asarray([*scores.values()]), np.asarray([top1[name] for name in scores]))
    assert (scores, line) == (without.trained.family, without.trained.line)
    assert table.without(()).predict([references["m"]]) == table.predict([references["m"]])


def test_a_table_says_where_it_comes_from_and_how_far_it_can_be_trusted(table: AccuracyTable) -> None:
    words = "\n".join(table.describe())
    own = table.errors["each row of the family left out"]

    assert "predicted ImageNet-1k top-1 accuracy of iformer, trained for 300 epochs at 224 px" in words
    assert "from timm's results folder (Apache-2.0" in words
    assert f"each row of the family left out: {own.mean:.2f} points in the mean, {own.worst:.2f} at worst" in words
    assert f"published part: {table.origin.data}" in words
    assert table.trained is not None
    assert f"trained part, counting {table.weight:g} times by its interval: scores of " in words
    assert f"of random orders of its scores {table.chance:.0%} predict the family's rows at least as well" in words
    assert ("so it is shown and does not count" in words) == (table.weight == 0)
    assert table.trust.startswith(
        f"{own.mean:.1f} points off in the mean over {own.networks} published networks of the family"
    )


def test_rows_are_worth_what_their_networks_are_worth(space: SearchSpace) -> None:
    table, encoding = AccuracyTable.find("iformer")[0], Encoding(space)
    rows = encoding.draw(100, np.random.default_rng(0))
    networks, of_rows = table.predict([encoding.decode(row) for row in rows]), table.of_rows(encoding)(rows)

    for one, other in zip(networks, of_rows, strict=True):
        assert one.parts.keys() == other.parts.keys()
        assert (one.top1, one.low, one.high) == pytest.approx((other.top1, other.low, other.high), abs=1e-9)
