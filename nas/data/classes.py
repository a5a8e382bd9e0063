"""Which output of a network is which class of the data: by name, by WordNet id, or by order without names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.data.rows import class_name, said
from nas.errors import InputError
from nas.networks.modules.outside import timm_part

__all__ = ["Matched", "are_wordnet_ids", "match_classes"]

_IMAGENET = 1000  # classes
_WORDNET = re.compile(r"n\d{8}(?!\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The outputs that are the classes of the data.

    Attributes:
        outputs: (K,) the output of each class of the data.
        names: of all outputs, as the data call them where they do.
        how: what they were matched by, in words.
    """

    outputs: npt.NDArray[np.int64]
    names: tuple[str, ...]
    how: str


def match_classes(data: Sequence[str], outputs: int, names: Sequence[str], *, source: str, network: str) -> Matched:
    """Find the output of each class of the data.

    Args:
        data: names of the classes of the data.
        outputs: number of the network's outputs.
        names: of the outputs, in order; empty if they are not known.
        source: what the user calls the data.
        network: and the network.
    Raises:
        InputError: a class of the data is no output, two are the same one, or nothing tells which is which.
    """
    if names and len(names) != outputs:
        raise InputError(f"{network}: has {outputs} outputs and {len(names)} names of classes")
    how = "by their names"
    if not names and outputs == _IMAGENET and are_wordnet_ids(data):
        names, how = _imagenet(), "by the WordNet ids of ImageNet's 1000 classes, as timm lists them"
    if not names:
        return _by_order(data, outputs, source=source, network=network)
    by_name = {_plain(name): place for place, name in enumerate(names)}
    by_id = {one: place for place, name in enumerate(names) if (one := _id(name))}
    places = [by_name.get(_plain(name), by_id.get(_id(name))) for name in data]
    if unknown := [name for name, place in zip(data, places, strict=True) if place is None]:
        raise InputError(
            f"{source}: has classes that {network} does not know: {said(unknown)}; its classes are {said(list(names))}"
        )
    if "WordNet" not in how and any(_plain(name) not in by_name for name in data):
        how = "by their WordNet ids"
    found = np.array(places, dtype=np.int64)
    _refuse_twice(data, found, source)
    shown = list(names)
    for name, place in zip(data, found.tolist(), strict=True):
        shown[place] = name
    return Matched(outputs=found, names=tuple(shown), how=how)


def are_wordnet_ids(names: Sequence[str]) -> bool:
    """Whether all names begin with WordNet ids, as those of ImageNet's classes do.

    Examples:
        >>> are_wordnet_ids(["n01440764 tench", "n02102040"]), are_wordnet_ids(["tench"])
        (True, False)
    """
    return all(_WORDNET.match(name) for name in names)


def _by_order(data: Sequence[str], outputs: int, *, source: str, network: str) -> Matched:
    """The classes of a network whose outputs have no names."""
    numbers = [int(name) for name in data if name.isascii() and name.isdecimal()]
    if len(numbers) == len(data) and len(set(numbers)) == len(data) and max(numbers) < outputs:
        shown = [str(place) for place in range(outputs)]
        how = "by number: the data name their classes by the numbers of the outputs"
        return Matched(outputs=np.array(numbers, dtype=np.int64), names=tuple(shown), how=how)
    if len(data) == outputs:
        how = "by order: the outputs have no names, and are taken to be in the order of the data's classes"
        return Matched(outputs=np.arange(outputs), names=tuple(data), how=how)
    raise InputError(
        f"{network}: the names of its {outputs} outputs are not known, and {source} has {len(data)} classes: give "
        "--classes FILE with the names of the outputs, one a line"
    )


def _imagenet() -> list[str]:
    """The WordNet ids and words of ImageNet's classes, in the order of the outputs of networks that are trained on it.

    Raises:
        InputError: timm, which lists them, does not load.
    """
    try:
        info = timm_part("timm.data", needed_for="the order of ImageNet's classes").ImageNetInfo()
    except InputError as error:
        raise InputError(f"{error}; or give --classes FILE with the ids in the order of the outputs") from error
    words = (info.index_to_description(place).partition(",")[0] for place in range(_IMAGENET))
    return [f"{one} {word}" for one, word in zip(info.label_names(), words, strict=True)]


def _refuse_twice(data: Sequence[str], found: npt.NDArray[np.int64], source: str) -> None:
    first: dict[int, str] = {}
    for name, place in zip(data, found.tolist(), strict=True):
        if place in first:
            raise InputError(f"{source}: its classes {first[place]} and {name} are one class of the network")
        first[place] = name


def _plain(name: str) -> str:
    """A name as it is compared."""
    return unicodedata.normalize("NFC", class_name(name))


def _id(name: str) -> str:
    found = _WORDNET.match(name)
    return found[0] if found else ""
