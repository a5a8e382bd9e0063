"""Which output is which class of the data."""

from __future__ import annotations

from types import ModuleType

import pytest

from nas.data import classes
from nas.data.classes import Matched, match_classes
from nas.errors import InputError


def match(data: list[str], outputs: int, names: list[str] | None = None) -> Matched:
    return match_classes(data, outputs, names or [], source="photos", network="net")


def test_names_in_another_order_and_a_part_of_them_are_found() -> None:
    found = match(["dog", "cat"], 3, ["cat", "cow", "dog"])

    assert (found.outputs.tolist(), found.names, found.how) == ([2, 0], ("cat", "cow", "dog"), "by their names")


def test_names_are_one_if_only_their_spelling_in_unicode_differs() -> None:
    assert match(["Kühe ", "x"], 2, ["Ku\u0308he", "x"]).outputs.tolist() == [0, 1]


def test_wordnet_ids_match_with_words_behind_them() -> None:
    found = match(["n02102040 English springer", "n01440764 tench"], 2, ["n01440764", "n02102040"])

    assert (found.outputs.tolist(), found.how) == ([1, 0], "by their WordNet ids")


def test_a_thousand_outputs_without_names_are_those_of_imagenet(timm: ModuleType) -> None:
    found = match(["n01440764 tench", "n15075141", "n03028079 church"], 1000)

    assert found.outputs.tolist() == [0, 999, 497]
    assert (found.names[0], found.names[999], found.names[1]) == ("n01440764 tench", "n15075141", "n01443537 goldfish")
    assert found.how == "by the WordNet ids of ImageNet's 1000 classes, as timm lists them"


def test_where_timm_does_not_load_one_line_says_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str, *, needed_for: str) -> ModuleType:
        raise InputError(f"{needed_for} needs {name}: pip install 'nas[timm]'")

    monkeypatch.setattr(classes, "timm_part", gone)
    says = (
        "the order of ImageNet's classes needs timm.data: pip install 'nas[timm]'; or give --classes FILE with the ids"
    )
    with pytest.raises(InputError, match=f"^{says.replace('[', chr(92) + '[').replace(']', chr(92) + ']')}"):
        match(["n01440764"], 1000)


def test_as_many_outputs_as_classes_are_taken_in_their_order_and_that_is_said() -> None:
    found = match(["b", "a"], 2)

    assert (found.outputs.tolist(), found.names) == ([0, 1], ("b", "a"))
    assert found.how.startswith("by order: the outputs have no names")


def test_classes_that_are_numbers_are_those_of_the_outputs() -> None:
    found = match(["0", "7", "3"], 10)

    assert (found.outputs.tolist(), found.names[7]) == ([0, 7, 3], "7")
    assert found.how.startswith("by number")


@pytest.mark.parametrize(
    ("data", "outputs", "names", "says"),
    [
        (
            ["cat", "gnu", "yak"],
            2,
            ["cat", "dog"],
            "photos: has classes that net does not know: gnu, yak; its classes are cat, dog",
        ),
        (["x", "x "], 2, ["x", "y"], "photos: its classes x and x  are one class of the network"),
        (
            ["n01440764 tench", "n01440764 fish"],
            2,
            ["n01440764", "n02102040"],
            "photos: its classes n01440764 tench and n01440764 fish are one class of the network",
        ),
        (
            ["a", "b"],
            3,
            [],
            "net: the names of its 3 outputs are not known, and photos has 2 classes: give --classes F",
        ),
        (["10", "11"], 10, [], "net: the names of its 10 outputs are not known, and photos has 2 classes"),
        (["a", "b"], 3, ["a", "b"], "net: has 3 outputs and 2 names of classes"),
    ],
)
def test_what_cannot_be_matched_is_refused(data: list[str], outputs: int, names: list[str], says: str) -> None:
    with pytest.raises(InputError) as refused:
        match(data, outputs, names)

    assert str(refused.value).startswith(says)


def test_an_id_that_imagenet_does_not_have_is_named(timm: ModuleType) -> None:
    with pytest.raises(InputError, match="photos: has classes that net does not know: n99999999 unicorn; its classes"):
        match(["n01440764", "n99999999 unicorn"], 1000)
