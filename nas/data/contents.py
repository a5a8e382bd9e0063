"""What images a source holds, known by content: the same under any path, and others after any change."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas.data.rows import BLOCK, Content, Found, Missing, Progress, counted, in_blocks, unreadable
from nas.errors import InputError
from nas.files import Record, digest_of, read_record, write_beside

__all__ = ["ClassContents", "Contents", "Survey"]

_DIGEST = 16  # bytes of an image
_SHOWN = 3  # differences in one message
_NOTHING = hashlib.sha256(b"").digest()[:_DIGEST]


class ClassContents(Record):
    """The images of one class in both splits.

    Attributes:
        train: number of training images.
        val: number of validation images; 0 if the source has no such split.
        digest: of the bytes of all these images, in their order. The name of the class and of the files is not in it.
    """

    name: str
    train: int
    val: int
    digest: str

    @property
    def images(self) -> int:
        """Number of images."""
        return self.train + self.val


class Contents(Record):
    """The images of a source.

    All images of the source count, also those that a limit leaves out, so that what is trained on a part of the images
    and what is scored on another part are known to be of one source.

    Attributes:
        fingerprint: digest of the names of the classes, and of the bytes, the class and the split of every image, in
            their order. Names and dates of files are not in it.
        classes: in the order of their labels.
    """

    fingerprint: str
    classes: tuple[ClassContents, ...]

    @classmethod
    def drawn(cls, names: Sequence[str], version: str) -> Contents:
        """The contents of a source that draws its images: whoever draws with this version gets the same for a seed."""
        classes = (ClassContents(name=name, train=0, val=0, digest=digest_of(f"{version} {name}")) for name in names)
        return cls(fingerprint=digest_of(" ".join([version, *names])), classes=tuple(classes))

    def differences(self, other: Contents) -> list[str]:
        """What differs in other images from these, in words; nothing if they are the same.

        Examples:
            >>> before = Contents.drawn(["cat", "cow"], "1")
            >>> before.differences(Contents.drawn(["cow", "dog"], "1"))
            ["class 'cat' is missing", "class 'dog' is new"]
        """
        if self.fingerprint == other.fingerprint:
            return []
        before, after = ({one.name: one for one in contents.classes} for contents in (self, other))
        gone = {one.digest: one.name for one in self.classes if one.name not in after}
        added = [one for one in other.classes if one.name not in before]
        renamed = {gone[one.digest]: one.name for one in added if one.digest in gone}
        owners = {one.digest: one.name for one in self.classes}
        words = [f"class {old!r} is called {new!r}" for old, new in renamed.items()]
        words += [f"class {name!r} is missing" for name in before if name not in after and name not in renamed]
        words += [f"class {one.name!r} is new" for one in added if one.digest not in gone]
        for name in before:
            if name in after and before[name].digest != after[name].digest:
                words.append(_changed(before[name], after[name], owners.get(after[name].digest)))
        if not words:
            is_sorted = list(before) == list(after)
            words = ["the images are in another order" if is_sorted else "the classes are in another order"]
        return words

    def difference(self, other: Contents) -> str:
        """The first differences in one line; empty if there are none."""
        words = self.differences(other)
        more = f" and {len(words) - _SHOWN} more differences" if len(words) > _SHOWN else ""
        return "; ".join(words[:_SHOWN]) + more


def _changed(before: ClassContents, after: ClassContents, owner: str | None) -> str:
    """What is different in a class."""
    name = f"class {before.name!r}"
    if owner is not None:
        return f"{name} has the images of class {owner!r}"
    changes = []
    for what, more in (("training", after.train - before.train), ("validation", after.val - before.val)):
        if more:
            changes.append(f"{counted(abs(more), f'{what} image')} {'more' if more > 0 else 'fewer'}")
    return f"{name} has {' and '.join(changes) or 'other images, or the same in another order'}"


class Survey(Record):
    """What reading all images of a source tells.

    Attributes:
        contents: what the source is known by.
        shared: validation images that are training images as well.
        repeated: training images that are there before, in their class or another.
        contrary: images that are in two classes.
    """

    contents: Contents
    shared: int
    repeated: int
    contrary: int

    @classmethod
    def of(cls, found: Found, progress: Progress | None = None) -> Survey:
        """Read all images of a source; 25,000 JPEG files of 64 px take about a second.

        Args:
            found: the source.
            progress: called with the number of images read.
        Raises:
            InputError: a file is gone, or cannot be read now.
        """
        names = list(found.class_names)
        whole = hashlib.sha256()
        own = [hashlib.sha256() for _ in names]
        counts = {split: np.zeros(len(names), dtype=int) for split in ("train", "val")}
        keys = {split: np.zeros(0, dtype=np.uint64) for split in ("train", "val")}
        done, total = 0, sum(len(rows.labels) for rows in found.splits.values())
        for split, rows in found.splits.items():
            for text in (*names, split):
                whole.update(text.encode(errors="surrogateescape") + b"\0")
            for digest in own:
                digest.update(split.encode() + b"\0")
            images = itertools.chain.from_iterable(in_blocks(rows, _digests))
            keys[split] = np.zeros(len(rows.labels), dtype=np.uint64)
            for place, (label, image) in enumerate(zip(rows.labels.tolist(), images, strict=True)):
                whole.update(label.to_bytes(4, "little", signed=True) + image)
                if label >= 0:
                    own[label].update(image)
                    counts[split][label] += 1
                    keys[split][place] = 0 if image == _NOTHING else int.from_bytes(image[:8], "little")
                done += 1
                if progress and (done % BLOCK == 0 or done == total):
                    progress("Reading images, to know them again", done, total)
        classes = (
            ClassContents(name=name, train=int(train), val=int(val), digest=digest.hexdigest()[:_DIGEST])
            for name, train, val, digest in zip(names, counts["train"], counts["val"], own, strict=True)
        )
        contents = Contents(fingerprint=whole.hexdigest()[:_DIGEST], classes=tuple(classes))
        return cls(contents=contents, **_counts(found, keys))

    @property
    def notes(self) -> list[str]:
        """What of it makes scores doubtful, in words."""
        val, words = sum(one.val for one in self.contents.classes), []
        if self.shared:
            words.append(f"{self.shared} of {val} validation images are trained on as well, so scores are too high")
        if self.repeated and not val:
            words.append(f"{counted(self.repeated, 'image')} repeated, so an image held out may be one trained on")
        if self.contrary:
            words.append(f"{counted(self.contrary, 'image')} in two classes")
        return words

    @classmethod
    def kept(cls, file: Path) -> Survey | None:
        """What `keep` wrote, or None if there is nothing that can be read."""
        if not file.exists():
            return None
        try:
            return read_record(file, cls)
        except InputError:
            return None

    def keep(self, file: Path) -> None:
        """Write it to a file of a cache.

        Raises:
            InputError: the file cannot be written.
            NasError: the disk is full.
        """
        write_beside(file, self.model_dump_json().encode())


def _counts(found: Found, keys: Mapping[str, npt.NDArray[np.uint64]]) -> dict[str, int]:
    """How many images are the same as another, by the beginnings of their digests; 0 is for no image."""
    train, val = keys["train"], keys["val"]
    labels = np.concatenate([rows.labels for rows in found.splits.values()])
    every = np.concatenate([keys[split] for split in found.splits])
    pairs = np.unique(np.stack([every, labels.astype(np.uint64)]), axis=1)[0]
    return {
        "shared": int((np.isin(val, train) & (val > 0)).sum()),
        "repeated": int((train > 0).sum() - len(np.unique(train[train > 0]))),
        "contrary": int((np.unique(pairs[pairs > 0], return_counts=True)[1] > 1).sum()),
    }


def _digests(start: int, contents: list[Content]) -> list[bytes]:  # noqa: ARG001 - in their order already
    return [_digest(content) for content in contents]


def _digest(content: Content) -> bytes:
    """The digest of an image; of nothing if there is none.

    Raises:
        InputError: its file is gone or cannot be read now.
    """
    if isinstance(content, str):
        try:
            with open(content, "rb") as file:  # noqa: PTH123 - a path may have bytes that are no text
                return hashlib.file_digest(file, "sha256").digest()[:_DIGEST]
        except OSError as error:
            raise unreadable(content, error) from error
    return hashlib.sha256(b"" if isinstance(content, Missing) else content).digest()[:_DIGEST]
