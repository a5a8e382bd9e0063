"""The labels of a flat folder of pictures: val_annotations.txt beside them, a line FILE<tab>CLASS for each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

from nas.data.rows import class_name
from nas.data.walk import ANNOTATIONS, File
from nas.errors import InputError

__all__ = ["annotated"]

Parts = tuple[str, ...]
Rank = tuple[bool, int]


def annotated(pictures: Sequence[File], split: str, source: str) -> list[tuple[File, str]]:
    """The pictures of a folder with the classes that the annotations in it give them.

    A line names a picture by its path below that folder, or by as much of the end of its path as tells it from others.

    Args:
        pictures: all pictures of the folder.
        split: name of the folder.
        source: what the user calls the whole.
    Raises:
        InputError: the file cannot be read, a line is none, or it is not clear which picture or class it means.
    """
    where = f"{source}: {split}/{ANNOTATIONS}"
    classes = _classes(Path(pictures[0].path).parents[len(pictures[0].parts) - 2] / ANNOTATIONS, where)
    by_name = defaultdict(list)
    for named in classes:
        by_name[named[-1]].append(named)
    claims: dict[Parts, list[tuple[Rank, File]]] = defaultdict(list)
    for picture in pictures:
        parts = _parts("/".join(picture.parts))
        fitting = ((_rank(named, parts), named) for named in by_name[parts[-1]])
        ranked = sorted(((rank, named) for rank, named in fitting if rank[1]), reverse=True)
        best = [named for rank, named in ranked if rank == ranked[0][0]]
        if len({classes[named] for named in best}) > 1:
            both = " and ".join("/".join(named) for named in best[:2])
            raise InputError(
                f"{where}: {both} may both be {'/'.join(picture.parts)}; name it by its path below {split}/"
            )
        if best:
            claims[best[0]].append((ranked[0][0], picture))
    labelled = []
    for named, claimed in claims.items():
        top = max(rank for rank, _ in claimed)
        meant = [picture for rank, picture in claimed if rank == top]
        if len(meant) > 1:
            both = " or ".join("/".join(picture.parts) for picture in meant[:2])
            raise InputError(f"{where}: {'/'.join(named)} may be {both}; name it by its path below {split}/")
        labelled.append((meant[0], classes[named]))
    if not labelled:
        raise InputError(f"{where} names none of the {len(pictures)} pictures of {split}/")
    order = {picture.parts: number for number, picture in enumerate(pictures)}
    return sorted(labelled, key=lambda pair: order[pair[0].parts])


def _classes(file: Path, where: str) -> dict[Parts, str]:
    """The class of each name in the file."""
    try:
        lines = re.split(r"\r\n|\r|\n", file.read_bytes().decode("utf-8-sig"))  # other line breaks may be in a name
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})") from error
    classes: dict[Parts, str] = {}
    for number, line in enumerate(lines, start=1):
        name, *rest = line.split("\t")
        if not line.strip():
            continue
        if not rest or not class_name(rest[0]) or not _parts(name):
            raise InputError(f"{where}, line {number}: must be FILE<tab>CLASS")
        label = class_name(rest[0])
        if classes.setdefault(_parts(name), label) != label:
            raise InputError(f"{where}, line {number}: {name.strip()} has another class in a line above")
    return classes


def _parts(name: str) -> Parts:
    """The folders and the name of a path, in one spelling, also where it was written on Windows."""
    parts = (part.strip() for part in re.split(r"[/\\]", normalize("NFC", name)))
    return tuple(part for part in parts if part not in ("", "."))


def _rank(named: Parts, parts: Parts) -> Rank:
    """How well an annotation names a picture: by its whole path below the folder, else by how much of its end.

    The second is 0 where the two differ in a folder: then it names another picture.
    """
    below = parts[1:]
    pairs = zip(reversed(named), reversed(below), strict=False)
    agrees = all(one == other for one, other in pairs)
    return named in (parts, below), min(len(named), len(below)) if agrees else 0
