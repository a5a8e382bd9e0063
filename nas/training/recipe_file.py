"""A recipe with what a TOML file says in place of its own, fitted to the epochs and the batch size of the file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from nas.errors import InputError
from nas.files import Record, read_text
from nas.training.optimisation import MOST

__all__ = ["recipe_of_file"]

R = TypeVar("R", bound=Record)


def recipe_of_file(path: Path, fit: Callable[..., R], *, epochs: int | None, batch_size: int | None) -> R:
    """The recipe that `fit` gives, with the lines of a file in place of its own.

    Args:
        path: of the file.
        fit: gives a recipe for `epochs` and `batch_size`, each of which may be None.
        epochs: that are asked for; not where the file says them.
        batch_size: in the same way.
    Raises:
        InputError: the file is no TOML, has a key that no recipe has, a value breaks a rule, or the file and an
            argument say the same.
    """
    try:
        given = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML ({error})") from error
    own = given.get("optimisation")
    sizes = {"epochs": epochs, "batch_size": batch_size}
    for name, asked in sizes.items():
        value = own.get(name) if isinstance(own, dict) else None
        if value is not None and asked is not None:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{path}: optimisation.{name} is in it: leave {option} or the line out")
        if type(value) is int and 0 < value <= MOST:  # What is none is refused with the others.
            sizes[name] = value
    recipe = fit(**sizes)
    try:
        return type(recipe).model_validate(_merged(recipe.model_dump(), given))
    except ValidationError as error:
        raise InputError.from_validation(str(path), error) from error


def _merged(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    both = dict(own)
    for name, value in given.items():
        before = own.get(name)
        both[name] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return both
