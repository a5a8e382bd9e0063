"""What images a source holds, known by content: the same under any path, and others after any change."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nas.data.rows import BLOCK, Content, Found, Missing, Progress, counted, in_blocks, unreadable
from nas.errors import InputError
from nas.files import Record, digest_of, read_record, write_beside

__all__ = ["ClassContents", "Contents"]

_DIGEST = 16  # bytes of an image
_SHOWN = 3  # differences in one message


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
    def of(cls, found: Found, progress: Progress | None = None) -> Contents:
        """Read all images of a source; 25,000 JPEG files of 64 px take about a second.

        Args:
            found: the source.
            progress: called with the number of images read.
        """
        names = list(found.class_names)
        whole = hashlib.sha256()
        own = [hashlib.sha256() for _ in names]
        counts = {split: np.zeros(len(names), dtype=int) for split in ("train", "val")}
        done, total = 0, sum(len(rows.labels) for rows in found.splits.values())
        for split, rows in found.splits.items():
            for text in (*names, split):
                whole.update(text.encode(errors="surrogateescape") + b"\0")
            for digest in own:
                digest.update(split.encode() + b"\0")
            images = itertools.chain.from_iterable(in_blocks(rows, _digests))
            for label, image in zip(rows.labels.tolist(), images, strict=True):
                whole.update(label.to_bytes(4, "little", signed=True) + image)
                if label >= 0:
                    own[label].update(image)
                    counts[split][label] += 1
                done += 1
                if progress and (done % BLOCK == 0 or done == total):
                    progress("Reading images, to know them again", done, total)
        classes = (
            ClassContents(name=name, train=int(train), val=int(val), digest=digest.hexdigest()[:_DIGEST])
            for name, train, val, digest in zip(names, counts["train"], counts["val"], own, strict=True)
        )
        return cls(fingerprint=whole.hexdigest()[:_DIGEST], classes=tuple(classes))

    @classmethod
    def drawn(cls, names: Sequence[str], version: str) -> Contents:
        """The contents of a source that draws its images: whoever draws with this version gets the same for a seed."""
        classes = (ClassContents(name=name, train=0, val=0, digest=digest_of(f"{version} {name}")) for name in names)
        return cls(fingerprint=digest_of(" ".join([version, *names])), classes=tuple(classes))

    @classmethod
    def kept(cls, file: Path) -> Contents | None:
        """The contents that `keep` wrote, or None if there are none that can be read."""
        if not file.exists():
            return None
        try:
            return read_record(file, cls)
        except InputError:
            return None

    def keep(self, file: Path) -> None:
        """Write the contents to a file of a cache.

        Raises:
            InputError: the file cannot be written.
        """
        write_beside(file, self.model_dump_json().encode())

    def differences(self, other: Contents) -> list[str]:
        """What differs in other images from these, in words; nothing if they are the same.

        Example:
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
