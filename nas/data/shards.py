"""WebDataset shards: tar files in which the members of one name are a sample, such as 0001.jpg and 0001.cls."""

from __future__ import annotations

import glob
import itertools
import os
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data.mapped import Loaded, load_mapped
from nas.data.rows import Found
from nas.data.tables import read_tables
from nas.data.walk import stamp
from nas.errors import InputError

__all__ = ["Shards"]

_LOOKED_AT = 20  # members of a shard, before all of it is copied
_UNPACK = "if it is no WebDataset but a folder in one file, unpack it with tar -xf and give the folder"
_ALIKE = "the first samples of all shards need the same members, such as 0001.jpg and 0001.cls, a number"
_GZIP = b"\x1f\x8b"
_BLOCK = 512  # bytes, in which a tar file is written; two blocks of zeros end it


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """Shards, as splits. `datasets` copies them into its cache, once, and maps that into memory.

    Attributes:
        source: as the user gave it.
        splits: the files of each.
        image: suffix of the pictures, without its first dot; without it, the one that is meant is looked for.
        label: suffix of the labels.
        notes: what is left out.
    """

    source: str
    splits: Mapping[str, Sequence[Path]]
    image: str | None
    label: str | None
    notes: tuple[str, ...]

    def fingerprint(self) -> list[Any]:
        """What the decoded pictures depend on."""
        files = {split: [[str(path), *stamp(path)] for path in paths] for split, paths in self.splits.items()}
        return ["webdataset", files]

    def read(self) -> Found:
        """The rows of each split.

        Raises:
            InputError: a file is no shard, or its samples have no pictures or labels.
            NasError: the disk of the cache is full.
        """
        for path in itertools.chain.from_iterable(self.splits.values()):
            self._look_at(path)
        tables = {}
        for split, paths in self.splits.items():
            files = [glob.escape(str(path)) for path in paths]
            # Of several splits at once all would get the columns of one.
            dataset = load_mapped("webdataset", source=self.source, cure=_ALIKE, data_files=files, split="train")
            tables[split] = Loaded(dataset=dataset, split=split)
        return read_tables(tables, self.source, image=self.image, label=self.label)

    def _look_at(self, path: Path) -> None:
        """Refuse what is no shard before it is copied: the archive of a whole data set may be as large as the disk."""
        where = self.source if Path(self.source).name == path.name else f"{self.source}: {path.name}"
        try:
            with tarfile.open(path) as archive:
                members = [member for member in itertools.islice(archive, _LOOKED_AT) if member.isfile()]
                suffixes = {member.name.rpartition("/")[2].partition(".")[2]: member for member in members}
                code = suffixes.get("cls")
                file = archive.extractfile(code) if code is not None else None
                label = file.read(_LOOKED_AT) if file is not None else b"0"
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise InputError(f"{where} is no tar file that can be read; fetch it again") from error
        if _ends_early(path):
            raise InputError(f"{where} ends early, without the end of a tar file; fetch it again")
        if not members:
            raise InputError(f"{where} holds no files; {_UNPACK}")
        if len(suffixes) == 1:
            raise InputError(f"{where}: its samples have no labels, only .{min(suffixes)}; {_UNPACK}")
        if not label.strip().isdigit():
            shown = label.decode(errors="backslashreplace").strip()
            raise InputError(
                f"{where}: a .cls holds the number of a class, got {shown!r}; write names into .txt, and give --option "
                "label=txt"
            )


def _ends_early(path: Path) -> bool:
    """Whether a plain tar file lacks its end, as half a download does."""
    with path.open("rb") as file:
        if file.read(2) == _GZIP:
            return False
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * _BLOCK))
        return any(file.read())
