"""Where named things are found: spaces, tables and plug-ins. The user's own come before the shipped ones."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from nas.errors import InputError, did_you_mean

__all__ = ["OF_TESTS", "files", "find_file", "hidden_by", "load_plugin", "loaded", "plugins", "unknown_name"]

T = TypeVar("T")

OF_TESTS = "fake"  # a plug-in that measures nothing, which people are not offered

_PACKAGE = Path(__file__).parent
# An installed wheel has the folders inside the package. A checkout has them beside the package.
_SHIPPED = _PACKAGE / "_shipped" if (_PACKAGE / "_shipped").is_dir() else _PACKAGE.parent


def files(folder: str, suffix: str) -> dict[str, Path]:
    """Stem -> path of the files in `folder`. Files below the working directory come before shipped files.

    `hidden_by` says which shipped file another one takes the place of.
    """
    found: dict[str, Path] = {}
    for root in (Path.cwd(), _SHIPPED):
        for path in sorted((root / folder).glob(f"*{suffix}")):
            found.setdefault(path.name.removesuffix(suffix), path)
    return dict(sorted(found.items()))


def hidden_by(path: Path) -> Path | None:
    """The shipped file of the same folder and name, in place of which a user's own is found; None if there is none."""
    shipped = _SHIPPED / path.parent.name / path.name
    if path.parent.resolve() != (Path.cwd() / path.parent.name).resolve() or not shipped.is_file():
        return None
    return None if shipped.samefile(path) else shipped


def loaded(folder: str, suffix: str, load: Callable[[Path], T]) -> Iterator[tuple[str, Path, T | InputError]]:
    """Stem, path and content of the files in `folder`; of a broken one the error, which does not hide the others."""
    for name, path in files(folder, suffix).items():
        try:
            yield name, path, load(path)
        except InputError as error:
            yield name, path, error


def find_file(kind: str, folder: str, suffix: str, name: str) -> Path:
    """Path of the file that `name` refers to: a path, a stem, or a unique prefix of a stem.

    A prefix that ends before a dot comes first: `iphone13` is `iphone13.coreml.fp16`, also beside `iphone13-mine.x`.

    Args:
        kind: how an error names it, such as "search space".
        folder: folder below the working directory and beside the package.
        suffix: suffix of its files, such as ".toml".
        name: what the user typed.
    Raises:
        InputError: there is no such file, or there are several with this prefix.
    """
    if name.endswith(suffix) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{name}: no such {kind} file")
        return path
    known = files(folder, suffix)
    if name in known:
        return known[name]
    begins = [stem for stem in known if stem.startswith(f"{name}.")]
    begins = begins or [stem for stem in known if name and stem.startswith(name)]
    if len(begins) > 1:
        shown = ", ".join(f"{stem} (yours)" if _is_own(known[stem]) else stem for stem in begins)
        raise InputError(f"{kind} {name!r} could be any of {shown}; write more of the name, or the path of a file")
    if not begins:
        raise unknown_name(kind, name, known)
    return known[begins[0]]


def plugins(package: str) -> list[str]:
    """Names of the plug-ins in a folder of nas/, as typed on the command line (`short-training`).

    Messages do not offer `OF_TESTS`.
    """
    folder = _PACKAGE / package
    names = (module.name for module in pkgutil.iter_modules([str(folder)]))
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


def _is_own(path: Path) -> bool:
    return not path.resolve().is_relative_to(_SHIPPED.resolve())


def load_plugin(kind: str, package: str, name: str) -> ModuleType:
    """Import the module of a plug-in.

    Args:
        kind: how an error names it, such as "proxy".
        package: folder below nas/ with one module or package per plug-in.
        name: what the user typed.
    Raises:
        InputError: there is no plug-in of this name.
    """
    known = plugins(package)
    if name not in known:
        raise unknown_name(kind, name, [one for one in known if one != OF_TESTS])
    return importlib.import_module(f"nas.{package}.{name.replace('-', '_')}")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for an unknown name. It lists the known names and suggests the closest one."""
    known = list(known)
    return InputError(f"no {kind} named {name!r}: there {_list(known)}{did_you_mean(name, known, shown=repr)}")


def _list(names: list[str]) -> str:
    return f"are {', '.join(names)}" if len(names) > 1 else f"is only {names[0]}" if names else "are none"
