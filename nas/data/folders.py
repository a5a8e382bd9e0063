"""Folders of class folders: which folders are the splits, and which class each picture is of.

One rule: the first folder under a split is the class, and whatever lies deeper belongs to it. Without a folder called
train the root is the only split.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.data.annotations import annotated
from nas.data.rows import Content, Found, Rows, class_name, counted, said
from nas.data.splits import TRAIN_WORDS, VAL_WORDS, split_word
from nas.data.walk import ANNOTATIONS, File, Listing
from nas.errors import InputError

__all__ = ["Files", "Folder", "read_folder", "refuse_dead_links"]

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".xlsx", ".parquet")  # that may hold labels
_UNLABELLED_WORDS = ("test", "testing")  # often published without labels

Labelled = list[tuple[File, str]]  # with the name of the class


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Pictures in class folders; `val` is None if no folder is named for validation. `notes` say what is left out."""

    train: Labelled
    val: Labelled | None
    notes: tuple[str, ...]

    def fingerprint(self) -> list[Any]:
        """What the decoded pictures depend on."""
        splits = (self.train, self.val or [])
        return ["folder", *([[file.path, *file.stamp, name] for file, name in split] for split in splits)]

    def read(self) -> Found:
        """The rows of each split."""
        names = sorted({name for _, name in self.train} | {name for _, name in self.val or ()})
        codes = {name: code for code, name in enumerate(names)}
        splits = {"train": self.train} | ({"val": self.val} if self.val is not None else {})
        rows = {
            split: Rows(
                images=Files(paths=tuple(file.path for file, _ in labelled)),
                labels=np.array([codes[name] for _, name in labelled], dtype=np.int64),
                index=np.arange(len(labelled)),
            )
            for split, labelled in splits.items()
        }
        return Found(splits=rows, class_names=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Pictures by their paths."""

    paths: Sequence[str]

    def where(self, row: int) -> str:
        """The path."""
        return self.paths[row]

    def read(self, rows: npt.NDArray[np.int64]) -> Iterator[Content]:
        """The paths, which are read where they are decoded."""
        return (self.paths[row] for row in rows.tolist())


def refuse_dead_links(
    listing: Listing, source: str, *, skip_broken: bool, suffixes: tuple[str, ...] | None = None
) -> None:
    """Refuse links that lead nowhere, or count them as left out.

    Args:
        listing: what a walk found.
        source: what the user calls it.
        skip_broken: count them.
        suffixes: of the links that matter; None for all.
    Raises:
        InputError: there are some.
    """
    dead = [name for name in listing.dead if suffixes is None or name.lower().endswith(suffixes)]
    if dead and not skip_broken:
        raise InputError(
            f"{source}: dead links: {said(sorted(dead))}; remove them or restore what they link to, or leave them out "
            "with --option skip_broken=true"
        )
    listing.reasons["behind a dead link"] += len(dead)


def read_folder(listing: Listing, root: Path, source: str, *, skip_broken: bool) -> Folder:
    """Tell the splits and classes of a folder.

    Raises:
        InputError: there is no picture in a class folder, a link leads nowhere, or a folder named for validation does
            not have the classes of train.
    """
    refuse_dead_links(listing, source, skip_broken=skip_broken)
    if not listing.pictures:
        if cures := _cures(listing):
            raise InputError(f"{source}: no image in this folder that can be read{cures}")
        raise InputError(
            f"{source}: neither images nor Parquet files nor shards in this folder; expected class folders such as "
            "cat/ and dog/" + "".join(f"; {words}" for words in listing.left_out())
        )
    tops = Counter(file.parts[0] for file in listing.pictures if len(file.parts) > 1)
    train, candidates = _splits(listing, tops, root, source)
    labelled = _by_folder(listing, train)
    if not labelled:
        tables = sorted(path.name for path in root.iterdir() if path.suffix.lower() in _TABLES)
        raise InputError(
            f"{source}: its {counted(len(listing.pictures), 'picture')} are in no class folder; give the folder above "
            "the classes, or move them into folders such as cat/ and dog/"
            + (f"; labels in {said(tables)} are not read" if tables else "")
        )
    if train is None and len({name for _, name in labelled}) < 2:
        _refuse_one_class(listing, tops, root, source)
    classes = {name for _, name in labelled}
    val, used = None, None
    for used in candidates:
        val = _validation(listing, used, classes, source)
        if val is not None:
            break
    for top in tops if train is not None else ():
        if top not in (train, used if val is not None else None):
            listing.reasons[f"in {top}/"] += tops[top]
    for folder in listing.annotations - ({(used,)} if used is not None and val is not None else set()):
        listing.count_suffix("/".join((*folder, ANNOTATIONS)))
    empty = _empty(listing, tops, train, classes)
    notes = [*listing.left_out(), *([f"no picture in {said(empty)}"] if empty else []), *_alike(classes)]
    return Folder(train=labelled, val=val, notes=tuple(notes))


def _splits(listing: Listing, tops: Counter[str], root: Path, source: str) -> tuple[str | None, list[str]]:
    """The folder of training, None for the root, and those that may be for validation, in order of preference.

    A class may be called "train". A split contains folders, and a class contains pictures.
    """
    holders = {parts[0] for parts in listing.folders if len(parts) == 2}
    exact = {top.lower(): top for top in sorted(tops) if top in holders}
    train = next((exact[word] for word in TRAIN_WORDS if word in exact), None)
    words = {top: split_word(top) for top in sorted(tops)}
    if train is None:
        if not tops or not all(words.values()):
            return None, []
        trains = [top for top, word in words.items() if word in TRAIN_WORDS]
        if not trains and (len(tops) > 1 or set(tops) & holders):
            first = next(iter(words))
            raise InputError(
                f"{source}: it has {said([f'{top}/' for top in words])} but no pictures in train/; rename one, or give "
                f"--data {root / first} to use that alone{_cures(listing)}"
            )
        if not trains or (len(tops) == 1 and trains[0] not in holders):
            return None, []  # the only class
        train = trains[0]
        if train not in holders:
            raise InputError(
                f"{source}: {train}/ holds pictures but no class folders; move them into folders such as "
                f"{train}/cat/ and {train}/dog/"
            )
    others = [top for top in words if top != train]
    if more := [top for top in others if words[top] in TRAIN_WORDS and top in holders]:
        raise InputError(f"{source}: both {train}/ and {more[0]}/ name training images; put them into one folder")
    candidates = [top for word in VAL_WORDS for top in others if words[top] == word]
    if others and not candidates:
        raise InputError(
            f"{source}: {others[0]}/ beside {train}/ is not a name of a split ({', '.join(VAL_WORDS)}); rename it, or "
            "move it away to hold out a tenth of the training images"
        )
    return train, candidates


def _by_folder(listing: Listing, split: str | None) -> Labelled:
    """The pictures of a split with their classes; those in no class folder are counted as left out."""
    depth = 0 if split is None else 1
    labelled = []
    ways: dict[tuple[str, tuple[int, int] | None], tuple[str, ...]] = {}
    for file in listing.pictures:
        if split is not None and file.parts[0] != split:
            continue
        if len(file.parts) > depth + 1:
            name = class_name(file.parts[depth]) or file.parts[depth]
            if ways.setdefault((name, file.folder), file.parts[:-1]) == file.parts[:-1]:
                labelled.append((file, name))
            else:
                listing.reasons["behind a second link to a folder"] += 1
        else:
            listing.reasons["in no class folder"] += 1
    if split is not None:
        listing.reasons["in no class folder"] += sum(len(file.parts) == 1 for file in listing.pictures)
    return labelled


def _validation(listing: Listing, split: str, classes: set[str], source: str) -> Labelled | None:
    """The pictures held out in a folder named for that; None if they are a test set without labels."""
    pictures = [file for file in listing.pictures if file.parts[0] == split]
    folders = {class_name(file.parts[1]) for file in pictures if len(file.parts) > 2}
    if (split,) in listing.annotations and not folders & classes:
        labelled = annotated(pictures, split, source)
        listing.reasons[f"not named in {split}/{ANNOTATIONS}"] += len(pictures) - len(labelled)
    else:
        labelled = [(file, class_name(file.parts[1])) for file in pictures if len(file.parts) > 2]
        if not labelled:
            if split_word(split) in _UNLABELLED_WORDS:
                return None
            raise InputError(
                f"{source}: {len(pictures)} pictures of {split}/ are in no class folder; move them into folders such "
                f"as {split}/{min(classes, default='cat')}/, or name their classes in {split}/{ANNOTATIONS}, a line "
                "FILE<tab>CLASS for each"
            )
        listing.reasons["in no class folder"] += len(pictures) - len(labelled)
    if lacking := sorted({name for _, name in labelled} - classes):
        close = difflib.get_close_matches(lacking[0], classes, n=1)
        near = f"rename it to {close[0]}" if close else "rename it to a class of train, or move it away"
        raise InputError(
            f"{source}: {split}/ has classes that train has no picture of: {said(lacking)}; "
            + (near if len(lacking) == 1 else "give both splits the same names of classes")
        )
    return labelled


def _refuse_one_class(listing: Listing, tops: Counter[str], root: Path, source: str) -> None:
    """Say what to do about the only class, if there is something better than to add another."""
    inner = sorted(parts[1] for parts in listing.folders if len(parts) == 2 and parts[0] in tops)
    hint = "class folders or a column of labels must tell two or more"
    if len(tops) == 1 and len(inner) > 1:
        (top,) = tops
        hint = f"if {said([f'{name}/' for name in inner])} are the classes, give --data {root / top}"
    raise InputError(f"{source}: all images are of one class; {hint}{_cures(listing)}")


def _cures(listing: Listing) -> str:
    """What could be read after something is done, for the end of a refusal."""
    return "".join(f"; {words}" for words in listing.left_out() if ": " in words)


def _empty(listing: Listing, tops: Counter[str], train: str | None, classes: set[str]) -> list[str]:
    """Folders that would be a split or a class but hold no picture."""
    depth = 1 if train is None else 2
    folders = [parts for parts in listing.folders if len(parts) == depth and (train is None or parts[0] == train)]
    empty = [parts[-1] for parts in folders if class_name(parts[-1]) not in classes]
    if train is not None:
        empty += [parts[0] for parts in listing.folders if len(parts) == 1 and parts[0] not in tops]
    return sorted(empty)


def _alike(classes: set[str]) -> list[str]:
    """A note of classes that a mistake in writing may have made two of."""
    known: dict[str, str] = {}
    pairs = [(known.setdefault(name.casefold(), name), name) for name in sorted(classes)]
    alike = [f"{first} and {second}" for first, second in pairs if first != second]
    return [f"classes that differ only in capitals: {said(alike)}"] if alike else []
