"""The errors that users see, each with the exit code of the command line.

::

    NasError                  1  something failed while running
    ├── InputError            2  bad input: a file, a name, an option
    ├── MissingLatencyError   3  a latency table has no entry for a layer
    ├── BudgetError           4  no network of the space meets the budget
    └── DeviceError           5  a device that cannot be used from here

Each message is one line. It names the place, the rule and what to do next. What it quotes from outside, such as the
name of a file, is shown by `visible`; passwords are left out of it by masking.py.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "BudgetError",
    "DeviceError",
    "InputError",
    "MissingLatencyError",
    "NasError",
    "did_you_mean",
    "finishing",
    "visible",
]

_PART, _MESSAGE = 60, 200  # characters of a quoted value or key, and of a rule


def visible(text: str, *, limit: int | None = None) -> str:
    r"""A text on one line, as a terminal can show it: what is not printed is written as an escape sequence.

    These are control characters and line breaks, marks that turn the direction of writing, spaces that are no plain
    space, and bytes of a file name that are not UTF-8.

    Args:
        text: any text from outside.
        limit: most characters to return. Of a longer text the middle is left out: a message begins with the place and
            ends with what to do.
    Examples:
        >>> visible("a\nb\u202e.txt")
        'a\\nb\\u202e.txt'
        >>> visible("abcdefghijkl", limit=9)
        'ab ... kl'
    """
    shown = text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    if limit is None or len(shown) <= limit:
        return shown
    kept = limit - len(" ... ")
    return f"{shown[: kept - kept // 2]} ... {shown[len(shown) - kept // 2 :]}"


class NasError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(NasError):
    """A file, name or option that cannot be used."""

    exit_code = 2

    @classmethod
    def from_validation(cls, where: str, error: ValidationError) -> InputError:
        """One line from pydantic's report: the file, the path in the file, the rule and the value.

        The line describes the first problem and gives the number of other problems.
        """
        problems = error.errors(include_url=False, include_context=False)
        places = [problem["loc"] for problem in problems]
        # Pydantic reports a tuple with a wrong item as too short as well. Only the item is of interest.
        first, *others = [
            problem
            for problem in problems
            if problem["type"] != "too_short" or not any(_inside(place, problem["loc"]) for place in places)
        ]
        # A typo is an unknown key, and perhaps a missing one: what was typed is what to mend.
        typos = [problem for problem in (first, *others) if problem["type"] == "extra_forbidden"]
        if typos:
            first, others = typos[0], [one for one in (first, *others) if one is not typos[0]]
        path = _path(first["loc"])
        message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if first["type"] == "extra_forbidden":
            name = str(first["loc"][-1])  # which may be a key elsewhere
            message = "unknown key" + did_you_mean(name, _keys(error.title) - {name})
        elif first["type"] == "missing":
            message = "missing key"
        elif first["type"] not in ("value_error", "json_invalid"):
            message = f"{message[0].lower()}{message[1:]}, got {_short(first['input'])}"
        more = f" (and {len(others)} more)" if others else ""
        return cls(f"{where}: {path}{': ' if path else ''}{visible(message, limit=_MESSAGE)}{more}")


class MissingLatencyError(NasError):
    """A latency table has neither an entry nor a model for a layer."""

    exit_code = 3


class BudgetError(NasError):
    """The latency budget is below the cheapest network of the space."""

    exit_code = 4


class DeviceError(NasError):
    """A device, runtime or execution provider that is not available here."""

    exit_code = 5


@contextmanager
def finishing(finish: Callable[[], object]) -> Iterator[None]:
    """Call `finish` at the end of the block, also after an error or Ctrl-C, which it does not replace by its own error.

    What it says after Ctrl-C is a note of the `KeyboardInterrupt`; the command line prints it.
    """
    try:
        yield
    except BaseException as error:
        try:
            finish()
        except (NasError, OSError) as failure:
            if isinstance(error, KeyboardInterrupt):
                error.add_note(str(failure))
        raise
    finish()


def did_you_mean(name: str, known: Iterable[str], *, shown: Callable[[str], str] = str) -> str:
    """The known name that is closest to an unknown one, as the end of a message; empty if none is close.

    Args:
        name: what the user typed.
        known: the names that there are.
        shown: how a name is written.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {shown(near[0])}?" if near else ""


def _keys(title: str) -> set[str]:
    """The keys of the models in the package of the one that a report is about, by its name."""
    from pydantic import BaseModel

    models = [BaseModel]
    for model in models:  # which grows
        models += model.__subclasses__()
    packages = {_package(model) for model in models if model.__name__ == title}
    named = [model.model_fields for model in models if _package(model) in packages]
    return {field.alias or name for fields in named for name, field in fields.items()}


def _package(model: type) -> str:
    return model.__module__.rpartition(".")[0]


def _inside(place: tuple[str | int, ...], outer: tuple[str | int, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _path(location: tuple[str | int, ...]) -> str:
    """`("stages", 2, "channels")` as `stages[2].channels`, as users read it in their file."""
    path = ""
    for index, part in enumerate(location):
        if location[max(index - 2, 0)] == "blocks" and index >= 2:
            continue  # Pydantic puts the type of a block behind its index. The file does not have it there.
        if str(part).startswith("<"):
            continue  # The tag of a union is not in the file either.
        name = visible(str(part), limit=_PART)
        path += f"[{part}]" if isinstance(part, int) else f".{name}" if path else name
    return visible(path, limit=_MESSAGE)


def _short(value: object) -> str:
    """The value in a few words, whatever its size and depth."""
    try:
        return visible(_SHORT.repr(value), limit=_PART)
    except ValueError:  # Python does not write whole numbers of thousands of digits.
        return "a number of thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = _PART
