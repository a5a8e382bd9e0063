"""How networks are exported to other tools: one module per format, with the two members of `Exporter`.

`nas/export/onnx.py` is `--format onnx`. tests/export/test_contract.py runs the same tests on every module here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nas.networks.modules import Network

__all__ = ["Exporter"]


class Exporter(Protocol):
    """What a module of this folder has at its top level.

    Attributes:
        SUFFIX: ending of the file or folder that the module writes, such as `.onnx`.
    """

    SUFFIX: str

    def export(self, network: Network, path: Path) -> list[Path]:
        """Write `network` for use elsewhere, and return the files or folders that were written.

        Args:
            network: in training form, as `build_model` and `load_model` return it; it is not changed.
            path: file or folder to write; ends in `SUFFIX`. An existing file is only replaced by a complete one.
        Raises:
            InputError: the format cannot express the network, or `path` cannot be written.
        """
        ...
