"""Which network a name refers to: a known network of any space, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from nas import catalog
from nas.errors import InputError
from nas.files import read_text
from nas.networks.architecture import Architecture
from nas.networks.space import SearchSpace

__all__ = ["find_network"]

_BEST = "best.torch"  # of a folder of nas train


def find_network(name: str, *, stdin: BinaryIO | None = None) -> tuple[str, Architecture]:
    """The network that `name` refers to, with a name to show for it.

    Args:
        name: a reference of any space (`iformer_m`), an architecture file, or `-` for an architecture on `stdin`.
        stdin: read to its end if `name` is `-`; without it, `-` is a name like any other.
    Raises:
        InputError: there is no such reference or file, or the content is not an architecture.
    """
    if name == "-" and stdin is not None:
        return "stdin", Architecture.from_json(stdin.read(), where="stdin")
    path = Path(name)
    if (path / _BEST).is_dir():
        raise InputError(f"{path}: is a training: give its best network, {path / _BEST}")
    if path.suffix == ".json" or len(path.parts) > 1 or path.is_file():
        return path.stem, Architecture.load(path)
    references: dict[str, Architecture] = {}
    broken: InputError | None = None
    # A large space takes a second to load, so those that mention the name come first.
    spaces = catalog.files("search_spaces", ".toml").values()
    for space in sorted(spaces, key=lambda path: not _mentions(path, name)):
        try:
            references |= SearchSpace.load(space).references
        except InputError as error:  # Matters only if no other space has the name.
            broken = broken or error
        if name in references:
            return name, references[name]
    raise broken or catalog.unknown_name("network", name, references)


def _mentions(path: Path, name: str) -> bool:
    try:
        return name in read_text(path)
    except InputError:  # Loading says why.
        return False
