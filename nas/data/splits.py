"""Which folders, files or splits of the hub are trained on and which are held out: by words of their names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from nas.data.rows import counted, said
from nas.data.walk import File
from nas.errors import InputError

__all__ = ["TRAIN_WORDS", "VAL_WORDS", "file_splits", "hub_splits", "split_word"]

TRAIN_WORDS = ("train", "training")
VAL_WORDS = ("val", "validation", "valid", "dev", "test", "testing", "eval")  # in order of preference
_WORDS = TRAIN_WORDS + VAL_WORDS


def split_word(name: str) -> str | None:
    """The first word of a name that names a split, such as `test` of `test_set`.

    Examples:
        >>> split_word("seg_train"), split_word("val2017"), split_word("latest")
        ('train', 'val', None)
    """
    words = re.split(r"[^a-z]+", name.lower())
    return next((word for word in words if word in _WORDS), None)


def file_splits(
    files: Sequence[File], source: str, *, kind: str, alone: bool
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Sort files into `train` and `val` by the word nearest to the end of their paths that names a split.

    Args:
        files: the files, in their order.
        source: what the user calls them.
        kind: what one of them is, in words, such as `Parquet file`.
        alone: whether the user named these files, and not a folder: they are then used even if they are validation.
    Returns:
        The splits, and what is left out, in words.
    Raises:
        InputError: some names have such a word and another has none, or none is of training.
    """
    by_word: dict[str | None, dict[str, Path]] = {}
    second = 0
    for file in files:
        word = next((word for part in reversed(file.parts) if (word := split_word(part))), None)
        paths = by_word.setdefault("train" if word in TRAIN_WORDS else word, {})
        second += os.path.realpath(file.path) in paths
        paths.setdefault(os.path.realpath(file.path), Path(file.path))
    words = [word for word in by_word if word is not None]
    if None in by_word and words:
        raise InputError(
            f"{source}: {next(iter(by_word[None].values())).name} is of no split, other files are ({said(words)}); "
            "rename it or move it away"
        )
    notes = [f"{counted(second, 'second link')} to a {kind} left out"] if second else []
    if words and "train" not in words:
        names = [path.name for paths in by_word.values() for path in paths.values()]
        if len(words) > 1 or not alone:
            raise InputError(
                f"{source}: no {kind} of training beside those of {said(words)}; name one train, or give "
                f"--data '{next(iter(by_word[words[0]].values()))}' to use that alone"
            )
        notes.append(f"no {kind} of training: a tenth of {said(names)} is held out")
    train = by_word.pop("train", None) or by_word.pop(next(iter(by_word)))
    held = next((word for word in VAL_WORDS if word in by_word), None)
    val = by_word.pop(held) if held else {}
    notes += [f"{counted(len(paths), kind)} of {word} left out" for word, paths in by_word.items()]
    if held and by_word:
        notes.append(f"{held} is held out")
    return {"train": tuple(train.values())} | ({"val": tuple(val.values())} if val else {}), notes


def hub_splits(names: Sequence[str], source: str) -> tuple[dict[str, str], list[str]]:
    """Which splits of a data set are trained on and held out, by the words that folders and files go by; and a note.

    Raises:
        InputError: there are several splits, and none is named for training.
    """
    words = {name: split_word(name) for name in sorted(names, key=lambda name: (name not in _WORDS, names.index(name)))}
    train = next((name for name, word in words.items() if word in TRAIN_WORDS), None)
    if train is None and len(names) > 1:
        raise InputError(
            f"{source}: its splits are {said(names)}, and none is named train; save the one that is meant as a Parquet "
            "file, and give that"
        )
    taken = {"train": train or names[0]}
    held = next((name for word in VAL_WORDS for name in words if words[name] == word and name != train), None)
    if held is not None and train is not None:
        taken["val"] = held
    rest = [name for name in names if name not in taken.values()]
    how = f"{held} is held out" if "val" in taken else "a tenth of it is held out"
    return taken, [f"split {taken['train']} is trained on, {how}" + (f", {said(rest)} left out" if rest else "")]
