"""timm and torchvision, imported also where torchvision's compiled operators do not load.

The torchvision that pip finds by itself is often built for CUDA. Beside a torch for the CPU its operators do not load,
and the import ends at two of them. Neither timm's networks nor its transforms call these, so they are declared here.
Detection needs them in earnest: it asks `has_operators`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from nas.errors import InputError, visible

__all__ = ["has_operators", "timm_part", "torchvision_part"]

_DECLARED: list[torch.library.Library] = []  # a declaration ends with its object
_MISSING = ("nms", "qnms")


def timm_part(name: str = "timm", *, needed_for: str = "this", extra: str = "timm", otherwise: str = "") -> ModuleType:
    """Import timm, or a module of it.

    Args:
        name: such as `timm.data`.
        needed_for: what cannot be done without it; begins the message.
        extra: of this package, that brings it.
        otherwise: what helps without it; ends the message.
    Raises:
        InputError: it is not installed or does not load; the message says what to do.
    """
    _outside("torchvision", needed_for, extra, otherwise)
    return _outside(name, needed_for, extra, otherwise)


def torchvision_part(name: str = "torchvision", *, needed_for: str = "this", extra: str = "dense") -> ModuleType:
    """Import torchvision, or a module of it; its operators may be missing (`has_operators`).

    Raises:
        InputError: as `timm_part`.
    """
    _outside("torchvision", needed_for, extra)
    return _outside(name, needed_for, extra)


def has_operators() -> bool:
    """Whether torchvision's compiled operators, such as nms and roi_align, are there."""
    return not _DECLARED and bool(torchvision_part("torchvision.extension")._has_ops())


def _outside(name: str, needed_for: str, extra: str, otherwise: str = "") -> ModuleType:
    end = f", or {otherwise}" if otherwise else ""
    try:
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            if "torchvision::" not in str(error) or _DECLARED:
                raise
            _declare()
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"{needed_for} needs {error.name}: pip install 'nas[{extra}]'{end}") from error
    except (ImportError, RuntimeError, OSError) as error:  # of another torch, or damaged
        reason = visible(str(error).splitlines()[0], limit=200)
        raise InputError(
            f"{needed_for} needs {name}, which does not load here ({reason}): install the torch and the torchvision "
            f"that belong together, from one source{end}"
        ) from error


def _declare() -> None:
    """Declare the operators that torchvision looks for when it is imported, and forget its first, failed import."""
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in _MISSING:
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _DECLARED.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "timm")]:
        del sys.modules[name]
