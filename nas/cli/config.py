"""Where options come from besides the command line: a file, the environment, and the run that is resumed.

`expanded` turns all of them into one whole command line, which is what run.json keeps. What is typed counts most, then
what the resumed run was asked, the file of --config, and the environment.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from nas.errors import InputError, did_you_mean, visible
from nas.masking import is_masked

__all__ = ["expanded", "options_file"]

_OWN = ("out", "resume", "as_json", "help")  # of one call, not of a run
_CONFIG, _RESUME = "--config", "--resume"
_HEADER = "# The options of this run. To repeat it: nas search --config run.toml --out OTHER\n"


def expanded(group: TyperGroup, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """A command line with all options that it leaves to a file, the environment or a run.

    `--config FILE` is taken out, and `--resume DIR` becomes `--resume --out DIR`.

    Args:
        group: all commands.
        arguments: as typed, without the program.
        environment: has the variables NAS_OPTION, such as NAS_TABLE.
    Raises:
        InputError: the file cannot be read, or has a key that is no option of the command.
    """
    typed, config = _without_config(list(arguments))
    found = _command(group, typed)
    if found is None:  # The command line says what is wrong with it.
        return typed
    command, path, rest = found
    if path == ["search"]:
        rest = _with_folder(rest)
    given = _given(command, rest)
    if given is None:
        return [*path, *rest]
    known = {option.name: option for option in command.params if isinstance(option, TyperOption)}
    values = {name: value for name in known if (value := _of_environment(name, environment)) is not None}
    if config is not None:
        values |= _of_file(config, known, " ".join(["nas", *path]))
    if path == ["search"] and "resume" in given:
        values |= _of_run(group, given)
    missing = {name: value for name, value in values.items() if name not in given}
    return [*path, *_as_arguments(known, missing), *rest]


def options_file(command: str) -> str:
    """The options of a search as TOML, for --config.

    Args:
        command: its whole command line, as run.json keeps it.
    Examples:
        >>> print(options_file("nas search --budget-ms 1.1 --limit params=9M --trials 8 --out x"), end="")
        # The options of this run. To repeat it: nas search --config run.toml --out OTHER
        budget-ms = "1.1"
        limit = ["params=9M"]
        trials = 8
    """
    # The commands are put together in nas.cli, which imports this file.
    group = get_command(importlib.import_module("nas.cli").app)
    assert isinstance(group, TyperGroup)
    asked = _asked(group, command)
    # JSON writes texts, numbers and lists of texts as TOML does.
    return _HEADER + "".join(
        f"{_key(name)} = {json.dumps(value, default=str)}\n"
        for name, value in asked.items()
        if not (name == "storage" and is_masked(str(value)))
    )


def _without_config(arguments: list[str]) -> tuple[list[str], Path | None]:
    """A command line without --config FILE, and the file."""
    config = None
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != _CONFIG:
            rest.append(word)
            continue
        file = value if equals else next(words, None)
        if not file:
            raise InputError(f"{_CONFIG} needs the name of a .toml file")
        if config is not None:
            raise InputError(f"{_CONFIG} twice: give it once")
        config = Path(file)
    return rest, config


def _command(group: TyperGroup, arguments: Sequence[str]) -> tuple[TyperCommand, list[str], list[str]] | None:
    """The command that a command line names, its path, and what follows."""
    path: list[str] = []
    rest = list(arguments)
    while rest and rest[0] in group.commands:
        path.append(rest.pop(0))
        command = group.commands[path[-1]]
        if isinstance(command, TyperCommand):
            return command, path, rest
        assert isinstance(command, TyperGroup)
        group = command
    return None


def _with_folder(rest: Sequence[str]) -> list[str]:
    """`--resume DIR` as `--resume --out DIR`."""
    found = list(rest)
    if _RESUME in found:
        place = found.index(_RESUME) + 1
        if place < len(found) and not found[place].startswith("-"):
            found.insert(place, "--out")
    return found


def _given(command: TyperCommand, arguments: Sequence[str]) -> dict[str, Any] | None:
    """What a command line says by itself, by the names of parameters; None if it cannot be parsed."""
    try:
        context = command.make_context(command.name, list(arguments), resilient_parsing=True)
    except Exception:  # typer says what is wrong with it when the command is called
        return None
    sources = {name: context.get_parameter_source(name) for name in context.params}
    typed = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    return {name: value for name, value in context.params.items() if name in typed}


def _of_environment(name: str, environment: Mapping[str, str]) -> str | None:
    # --storage has a variable of its own: its password is kept nowhere.
    return None if name in (*_OWN, "storage") else environment.get(f"NAS_{name.upper()}") or None


def _of_file(path: Path, known: Mapping[str, TyperOption], command: str) -> dict[str, Any]:
    """The options in a TOML file, by the names of parameters."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{_CONFIG} {visible(str(path))}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{_CONFIG} {visible(str(path))}: not TOML: {str(error).splitlines()[0]}") from error
    keys = {_key(name): name for name in known if name not in _OWN}
    values = {}
    for key, value in content.items():
        name = keys.get(key.replace("_", "-"))
        if name is None:
            raise InputError(f"{path}: {visible(key)} is no option of {command}{did_you_mean(key, keys)}")
        if isinstance(value, dict) or (isinstance(value, list) and not known[name].multiple):
            raise InputError(f"{path}: {key} must be one value")
        if isinstance(value, bool) != bool(known[name].is_flag):
            must = "true or false" if known[name].is_flag else "a text or a number"
            raise InputError(f"{path}: {key} must be {must}")
        values[name] = value
    return values


def _of_run(group: TyperGroup, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the run to resume was asked, by the names of parameters; nothing if it was not begun from the shell."""
    from nas.search import default_out, read_budgets

    folder = given.get("out")
    kept = ""
    # Where something is wrong, the search says what.
    with suppress(InputError, OSError, ValueError, TypeError, LookupError, RecursionError):
        if folder is None:
            budgets_ms = read_budgets(given["budget_ms"]) if "budget_ms" in given else None
            folder = default_out(given.get("space", "iformer"), budgets_ms, resume=True)
        kept = json.loads((Path(folder) / "run.json").read_text())["command"]
    # run.json has the storage by itself, and knows what to say if NAS_STORAGE is another.
    return {name: value for name, value in _asked(group, kept).items() if name != "storage"}


def _asked(group: TyperGroup, command: str) -> dict[str, Any]:
    """The options of a search that a run keeps, by the names of parameters; nothing of what is no such command line."""
    with suppress(ValueError):  # a quotation mark that nothing closes
        found = _command(group, shlex.split(command)[1:])
        if found is not None and found[1] == ["search"]:
            given = _given(found[0], found[2]) or {}
            return {name: value for name, value in given.items() if name not in _OWN}
    return {}


def _as_arguments(known: Mapping[str, TyperOption], values: Mapping[str, Any]) -> list[str]:
    """Options as a command line has them."""
    found: list[str] = []
    for name, value in values.items():
        option = known[name].opts[0]
        if known[name].is_flag:
            found += [option] if value in (True, "1", "true") else []
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                found += [option, str(one)]
    return found


def _key(name: str) -> str:
    """The name of a parameter as a key of the file."""
    return name.replace("_", "-")
