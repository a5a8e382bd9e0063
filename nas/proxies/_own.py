"""A proxy in a file of the user's own: `--proxy ./my_proxy.py`.

This file is where code from a file is run. It is the only place, and it runs only a file that the user names as a
proxy, as `python ./my_proxy.py` would: with all that the user may do. A space, a table or a network never runs code.

The file has a function at its top level::

    def score(network):                            # nas.Architecture -> a number, higher is better
        return -len(network.stages[2].blocks)

or the form of the modules in this folder: `Options`, `build` and perhaps `VARIANT` (nas/proxies/__init__.py), with
`from nas.files import Record`. Then it has options and variants, `./my_proxy.py:thorough`. A file with `Options` and
`build` is taken in that form, also if it has a `score`.

A run is resumed only with the same scorer. The file is known by its content, without that of other modules that it
imports. A file with `VERSION = "1"` at its top level is known by that instead: it may be mended in the middle of a run,
and it is for the user to raise the version when scores change.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from nas.errors import InputError, NasError, visible
from nas.files import Record, digest_of, read_text
from nas.networks import Architecture
from nas.proxies._base import Inputs, Proxy, Score
from nas.proxies._function import FunctionProxy, OwnCode, accepts, checked, number_of

__all__ = ["Plugin", "is_own", "load_own"]

_PROMISED = ("settings", "estimate_seconds", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """What a module of this folder or a file of the user's has.

    Attributes:
        source: name of the module, or path of the file.
        options: the class of its options.
        variant: the option that a variant sets; None if it has no variants.
        build: makes the proxy from options and inputs.
    """

    source: str
    options: type[BaseModel]
    variant: str | None
    build: Callable[[Any, Inputs], Proxy]


class _NoOptions(Record):
    """A file with a plain function has no options."""


def is_own(name: str) -> bool:
    """Whether a name of a proxy, without its variant, is that of a file."""
    return "/" in name or name.endswith(".py")


def load_own(name: str) -> Plugin:
    """Run a file of the user's, and take what it has.

    Args:
        name: the path, as the user gave it.
    Raises:
        InputError: there is no such file, it cannot be run, or it has neither a score nor a proxy.
    """
    where = f"--proxy {visible(name)}"
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        raise InputError(f"{where}: is a folder; name the .py file in it")
    if not path.is_file():
        raise InputError(f"{where}: no such file")
    if path.suffix != ".py":
        raise InputError(f"{where}: a proxy of one's own is a file whose name ends in .py")
    text, code = read_text(path), OwnCode(name=visible(name), path=path)
    module = _run(code, path, text, where)
    known_by = _known_by(module, text, where)
    settings = {"proxy": "file", "file": name, **known_by}
    if hasattr(module, "Options") and hasattr(module, "build"):
        return _in_module_form(module, code, settings, where)
    score = getattr(module, "score", None)
    if score is None:
        raise InputError(
            f"{where}: has neither a function score(network) nor Options and build(options, inputs) at its top level"
        )
    if not callable(score) or not accepts(score, 1):
        raise InputError(f"{where}: score must be a function of one network, score(network)")
    return Plugin(
        source=str(path),
        options=_NoOptions,
        variant=None,
        build=lambda options, inputs: FunctionProxy(score, code=code, settings=settings),  # noqa: ARG005
    )


def _run(code: OwnCode, path: Path, text: str, where: str) -> ModuleType:
    """Run a file as a module."""
    try:
        # Not from a .pyc: what runs is what the digest is of. Not with the __future__ of this file.
        compiled = compile(text, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise InputError(f"{where}, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: is no Python ({error})") from error
    name = _module_name(path)
    spec = spec_from_file_location(name, path)
    assert spec is not None
    module, before = module_from_spec(spec), sys.modules.get(name)
    # pydantic and dataclasses look for the module of a class by its name. So do processes that the code starts.
    sys.modules[name] = module
    try:
        with code.running():
            exec(compiled, module.__dict__)  # noqa: S102 - the user named this file to be run
    except NasError as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        cause = error.__cause__ or error
        missing = (cause.name or "").partition(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
        hint = f"; install it where nas is installed, or put {missing}.py beside the file" if missing else ""
        raise InputError(f"--proxy {code.blame(cause)}{hint}") from cause
    return module


def _module_name(path: Path) -> str:
    """The name that `import` would give to a file, if no other module has it."""
    stem = path.stem
    other = sys.modules.get(stem)
    is_taken = stem in sys.stdlib_module_names or (other and getattr(other, "__file__", None) != str(path))
    return stem if stem.isidentifier() and not is_taken else f"_proxy_{digest_of(str(path))}"


def _known_by(module: ModuleType, text: str, where: str) -> dict[str, str]:
    """What tells a file from others: its version if it has one, else its content."""
    version = getattr(module, "VERSION", None)
    if version is None:
        return {"code": digest_of(text)}
    if not isinstance(version, str | int):
        raise InputError(f'{where}: VERSION must be a text or a whole number, such as VERSION = "1"')
    return {"version": str(version)}


def _in_module_form(module: ModuleType, code: OwnCode, settings: dict[str, str], where: str) -> Plugin:
    """A file with `Options` and `build`."""
    options, build, variant = module.Options, module.build, getattr(module, "VARIANT", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        raise InputError(f"{where}: Options must be a class of nas.files.Record")
    if not callable(build) or not accepts(build, 2):
        raise InputError(f"{where}: build must be a function of two, build(options, inputs)")
    if variant is not None and variant not in options.model_fields:
        raise InputError(f"{where}: VARIANT must be the name of one of its Options, got {variant!r}")

    def build_own(chosen: BaseModel, inputs: Inputs) -> Proxy:
        with code.running():
            built = build(chosen, inputs)
        if lacking := [name for name in _PROMISED if not callable(getattr(built, name, None))]:
            raise InputError(f"{where}: what build gives must have a method {lacking[0]}; see nas.proxies.Proxy")
        kind = _OwnBatchProxy if callable(getattr(built, "score_all", None)) else _OwnProxy
        further = {"options": chosen.model_dump(mode="json")} if options.model_fields else {}
        return kind(built, code=code, settings=settings | further)

    return Plugin(source=str(code.path), options=options, variant=variant, build=build_own)


class _OwnProxy(FunctionProxy):
    """A proxy that a file of the user's has built. What it gives is checked.

    Args:
        built: the proxy.
        code: the file.
        settings: what the file and its options are known by, besides the proxy's own settings.
    """

    def __init__(self, built: Any, *, code: OwnCode, settings: dict[str, Any]) -> None:
        super().__init__(built.score, code=code, settings=settings)
        self._built = built

    def settings(self) -> dict[str, Any]:
        """The settings of the proxy, and what its file is known by.

        Raises:
            NasError: they are no plain JSON.
        """
        with self._code.running():
            # As they are read from run.json again, where a tuple is a list.
            own: dict[str, Any] = json.loads(json.dumps(dict(self._built.settings()), allow_nan=False))
        return {**self._settings, **own, **{name: self._settings[name] for name in self._settings if name != "proxy"}}

    def estimate_seconds(self, architecture: Architecture) -> float:
        """What the proxy estimates."""
        with self._code.running(architecture):
            return max(0.0, number_of(self._built.estimate_seconds(architecture), "estimate_seconds"))


class _OwnBatchProxy(_OwnProxy):
    """The same for a proxy that scores thousands of networks at once."""

    def score_all(self, architectures: Sequence[Architecture]) -> list[Score]:
        """The score of each network."""
        start = time.perf_counter()
        with self._code.running():
            scores = [checked(one, start) for one in self._built.score_all(architectures)]
            if len(scores) != len(architectures):
                raise ValueError(f"score_all gave {len(scores)} scores for {len(architectures)} networks")
        return scores
