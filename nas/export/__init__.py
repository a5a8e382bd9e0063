"""How networks are exported to other tools: one module per format, with the members of `Exporter`.

`nas/export/onnx.py` is `--format onnx`. tests/export/test_contract.py runs the same tests on every module here.

This package is a function as well, that of nas/search/export.py, which knows results folders:
`nas.export("iformer_m", "onnx", batch="dynamic")`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from nas.data import ImageSet
    from nas.files import Record
    from nas.networks.modules import Network

from nas.export._card import RANDOM, Card
from nas.packages import also_function

__all__ = ["RANDOM", "Card", "Exporter"]


class Exporter(Protocol):
    """What a module of this folder has at its top level.

    Attributes:
        SUFFIX: ending of the file or folder that the module writes, such as `.onnx`.
        Options: what the user may choose, each field an option of `nas export`.
    """

    SUFFIX: str
    Options: type[Record]

    def export(
        self,
        network: Network,
        path: Path,
        *,
        options: Any = None,
        card: Card | None = None,
        images: ImageSet | None = None,
        say: Callable[[str], None] = ...,
    ) -> list[Path]:
        """Write `network` for use elsewhere, and return the files or folders that were written.

        Args:
            network: in training form, as `build_model` and `load_model` return it; it is not changed.
            path: file or folder to write; ends in `SUFFIX`. An existing file is only replaced by a complete one.
            options: an `Options` of the module.
            card: what is known of the network; by default what it says itself.
            images: of its classes, normalised as its input is; for options that need images.
            say: gets words about what was written, line by line.
        Raises:
            InputError: the format cannot express the network, the options do not go together, or `path` cannot be
                written.
            NasError: what was written is not what it should be, or the disk is full.
        """
        ...


# A search comes after this package in the order of imports.
also_function(__name__, "nas.search.export")
