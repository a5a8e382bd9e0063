"""The errors that users see, each with the exit code of the command line.

::

    NasError                  1  something failed while running
    ├── InputError            2  bad input: a file, a name, an option
    ├── MissingLatencyError   3  a latency table has no entry for a layer
    ├── BudgetError           4  no network of the space meets the budget
    └── DeviceError           5  a device that cannot be used from here

Each message is one line. It names the place, the rule and what to do next. What it quotes from outside, such as the
name of a file, is shown by `visible`, and passwords in it by `masked`.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, quote_plus, unquote, unquote_plus

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "BudgetError",
    "DeviceError",
    "InputError",
    "MissingLatencyError",
    "NasError",
    "finishing",
    "is_masked",
    "masked",
    "secrets_of",
    "visible",
    "without_secrets",
]

_PART, _MESSAGE = 60, 200  # characters of a quoted value or key, and of a rule
_MASK = "***"
_SHORTEST_SECRET = 3  # characters; shorter ones are hidden in URLs only, as they occur in any text
_WORD = re.compile(r"(?:\S*[^\s:.,;)])?")  # without the marks behind it
_SCHEME = re.compile(r"(?<=\w)://")
# What stands between the user and the last @: a password may itself have an @ or a / that nobody quoted, and a user,
# as in Azure's me@server, an @ as well. What has more than one @ is rather hidden too far than not far enough. In a
# text of many words the last @ is that of a word; a password with a space reaches to the next word with an @, unless
# it looks like a port.
_LOGIN_ALONE = re.compile(r"[^:/]*:(.+)@", re.DOTALL)
_LOGIN = re.compile(r"[^\s:/]*:(\S+|(?!\d+(?:[/?\s]|$))[^@]*(?:@\S*)?)@")
_DECODINGS = 5  # of a value of a query that was quoted several times
_KEY = r"(?:pass(?:word|wd|phrase|code)?|pwd|secret|token)(?![a-z])[\w.-]*"
_QUOTED = r"\*{3}(?=[\s:.,;)}&'\"]|$)|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
# As libpq (password='x y'), options (NAME=VALUE), JSON and Python write it. In a text of many words a value ends at a
# space; in one argument it goes on until the next NAME=.
_IS = r"(?:\s*=\s*|[\"']\s*:\s*)"
_SETTING = re.compile(rf"{_KEY}{_IS}({_QUOTED}|[^\s&'\"]*[^\s&'\":.,;)])", re.IGNORECASE)
_SETTING_ALONE = re.compile(rf"{_KEY}{_IS}({_QUOTED}|.+?(?=\s+\w+\s*=|&|$))", re.IGNORECASE | re.DOTALL)


def visible(text: str, *, limit: int | None = None) -> str:
    r"""A text on one line, as a terminal can show it: what is not printed is written as an escape sequence.

    These are control characters and line breaks, marks that turn the direction of writing, spaces that are no plain
    space, and bytes of a file name that are not UTF-8.

    Args:
        text: any text from outside.
        limit: most characters to return. Of a longer text the middle is left out: a message begins with the place and
            ends with what to do.
    Example:
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


def masked(text: str, *, alone: bool = False) -> str:
    """A text with *** in place of each password in it: of a URL, of its query, or of a setting such as password=x.

    Args:
        text: any text from outside.
        alone: the text is one argument or one URL, so that a password goes on after a space.
    Example:
        >>> masked("--storage postgresql://me:secret@host/db?sslpassword=x")
        '--storage postgresql://me:***@host/db?sslpassword=***'
        >>> masked("mysql://me:pass word@host/db", alone=True)
        'mysql://me:***@host/db'
    """
    shown, after = "", 0
    for start, end in _spans(text, alone=alone):
        shown += text[after:start] + _MASK
        after = end
    return shown + text[after:]


def is_masked(url: str) -> bool:
    """Whether a password of a URL is only the *** that `masked` wrote."""
    return any(url[start:end] == _MASK for start, end in _spans(url, alone=True))


def secrets_of(url: str) -> set[str]:
    """The passwords of a URL: as they are written, as they are meant, and in parts; very short ones left out.

    A driver that splits a URL at another place than its writer meant shows a part of the password.
    """
    written = {url[start:end].strip("'\"") for start, end in _spans(url, alone=True)} - {_MASK}
    meant = written | {form(secret) for secret in written for form in (unquote, unquote_plus)}
    # A value of a query may hold the password in a longer text: options=-c password=x
    meant |= {text[start:end].strip("'\"") for text in meant for start, end in _spans(text, alone=True)}
    shown = meant | {form(secret) for secret in meant for form in (quote, quote_plus, _as_repr, _as_repr_of_quotes)}
    parts = {part for secret in written for between in (r"\s+", r"[\s@]+") for part in re.split(between, secret)}
    return {secret for secret in shown | parts if len(secret) >= _SHORTEST_SECRET}


def without_secrets(text: str, sources: Iterable[str]) -> str:
    """A text without the passwords of any URL in `sources`, or in the text itself."""
    text = masked(text)
    secrets = {secret for source in sources for secret in secrets_of(source)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return text


def _spans(text: str, *, alone: bool) -> list[tuple[int, int]]:
    """Where the passwords of a text begin and end, in order; those inside others left out."""
    found = [match.span(1) for match in (_SETTING_ALONE if alone else _SETTING).finditer(text)]
    after = 0
    for scheme in _SCHEME.finditer(text):
        if scheme.start() >= after:
            found += _spans_of_url(text, scheme.end(), alone=alone)
            after = max((end for _, end in found), default=0)
    kept: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda span: (span[0], -span[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
        else:
            kept[-1] = kept[-1][0], max(kept[-1][1], end)
    return kept


def _spans_of_url(text: str, place: int, *, alone: bool) -> Iterator[tuple[int, int]]:
    """Where the passwords of a URL begin and end; `place` is where its scheme ends."""
    if text.find("@", place) >= 0 and (login := (_LOGIN_ALONE if alone else _LOGIN).match(text, place)):
        yield login.span(1)
        place = login.end()
    # The query goes on to the end of the text, or of the word.
    word = None if alone else _WORD.match(text, place)
    end = word.end() if word else len(text)
    place, is_secret = text.find("?", place, end) + 1, False
    for part in text[place:end].split("&") if place else ():
        name, equals, value = part.partition("=")
        if equals:
            is_secret = value == _MASK or _hides(part)
        if is_secret:  # What has no = goes on with the value before it: there was an & in the password.
            yield place + len(name + equals if equals else ""), place + len(part)
        place += len(part) + 1


def _hides(part: str) -> bool:
    """Whether a NAME=VALUE of a query has a password, however often it was quoted."""
    for _ in range(_DECODINGS):
        if _spans(part, alone=True):
            return True
        part = unquote_plus(part)
    return False


def _as_repr(text: str) -> str:
    return repr(text)[1:-1]


def _as_repr_of_quotes(text: str) -> str:
    """As Python shows it inside a longer text with quotes of both kinds."""
    return repr('"' + text)[2:-1]


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
        path = _path(first["loc"])
        message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if first["type"] == "extra_forbidden":
            message = "unknown key"
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
