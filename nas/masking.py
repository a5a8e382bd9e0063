"""Passwords, left out of every text that is shown or kept: of a URL, of its query, of a setting (password=x)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

__all__ = ["is_masked", "masked", "secrets_of", "without_secrets"]

_MASK = "***"
_SHORTEST_SECRET = 3  # characters; shorter ones are hidden in URLs only, as they occur in any text
_WORD = re.compile(r"(?:\S*[^\s:.,;)])?")  # without the marks behind it
_SCHEME = re.compile(r"(?<=\w)://")
# What stands between the user and the last @: a password may itself have an @ or a / that nobody quoted, and a user,
# as in Azure's me@server, an @ as well. What has more than one @ is rather hidden too far than not far enough. In a
# text of many words the last @ is that of a word; a password with a space reaches to the next word with an @, unless
# it looks like a port.
_LOGIN_ALONE = re.compile(r"[^:/]*:(.+)@", re.DOTALL)
_LOGIN = re.compile(r"[^\s:/]*:(\S+)@")
_LOGIN_OF_WORDS = re.compile(r"[^\s:/]*:((?!\d+(?:[/?\s]|$))[^@]*(?:@\S*)?)@")
_SPACE = re.compile(r"\s|$")
_DECODINGS = 5  # of a value of a query that was quoted several times
# Not the name of a folder, as in /data/token=5/images.
_KEY = r"(?<!/)(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|api[-_]?key)(?![a-z])[\w.-]{0,1000}+"
_QUOTED = r"\*{3}(?=[\s:.,;)}&'\"]|$)|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
# As libpq (password='x y'), options (NAME=VALUE), JSON and Python write it. In a text of many words a value ends at a
# space; in one argument it goes on until the next NAME=.
_IS = r"(?:\s*=\s*|[\"']\s*:\s*)"
_SETTING = re.compile(rf"{_KEY}{_IS}({_QUOTED}|[^\s&'\"]*[^\s&'\":.,;)])", re.IGNORECASE)
_SETTING_ALONE = re.compile(rf"{_KEY}{_IS}({_QUOTED}|.+?(?=\s\w+\s*=|&|$))", re.IGNORECASE | re.DOTALL)


def masked(text: str, *, alone: bool = False) -> str:
    """A text with *** in place of each password in it: of a URL, of its query, or of a setting such as password=x.

    Args:
        text: any text from outside.
        alone: the text is one argument or one URL, so that a password goes on after a space.
    Examples:
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
    written = {url[start:end].strip().strip("'\"") for start, end in _spans(url, alone=True)} - {_MASK}
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
    found += _spans_of_urls(text, alone=alone)
    kept: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda span: (span[0], -span[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
        else:
            kept[-1] = kept[-1][0], max(kept[-1][1], end)
    return kept


def _spans_of_urls(text: str, *, alone: bool) -> Iterator[tuple[int, int]]:
    """Where the passwords of the URLs of a text begin and end.

    No part of a text is read again for each URL in it, as an error message may repeat thousands of them.
    """
    after = word_end = query_end = run_end = last_at = 0
    for scheme in _SCHEME.finditer(text):
        if scheme.start() < after:  # in a password
            continue
        place = scheme.end()
        if not alone and place >= run_end and (space := _SPACE.search(text, place)):
            run_end = space.start()
            last_at = text.rfind("@", place, run_end)
        if login := _login(text, place, is_word=last_at > place, alone=alone):
            yield login.span(1)
            place = after = login.end()
        if place < query_end:  # in the query of a URL before it
            continue
        if alone:
            word_end = len(text)
        elif place >= word_end and (word := _WORD.match(text, place)):
            word_end = word.end()
        query = text.find("?", place, word_end) + 1
        if query:
            yield from _spans_of_query(text, query, word_end)
            query_end = word_end


def _login(text: str, place: int, *, alone: bool, is_word: bool = False) -> re.Match[str] | None:
    """The user and password of a URL; `place` is where its scheme ends.

    Args:
        text: all of it.
        place: where to look.
        alone: the text is one argument.
        is_word: there is an @ before the next space.
    """
    if text.find("@", place) < 0:
        return None
    if alone:
        return _LOGIN_ALONE.match(text, place)
    return (is_word and _LOGIN.match(text, place)) or _LOGIN_OF_WORDS.match(text, place)


def _spans_of_query(text: str, place: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the passwords of a query begin and end; it goes on to the end of the text, or of the word."""
    is_secret = False
    for part in text[place:end].split("&"):
        name, equals, value = part.partition("=")
        if equals:
            is_secret = value == _MASK or _hides(part)
        if is_secret:  # What has no = goes on with the value before it: there was an & in the password.
            yield place + len(name + equals if equals else ""), place + len(part)
        place += len(part) + 1


def _hides(part: str) -> bool:
    """Whether a NAME=VALUE of a query has a password, however often it was quoted."""
    for _ in range(_DECODINGS):
        if _SETTING_ALONE.search(part):
            return True
        if any(_login(part, scheme.end(), alone=True) for scheme in _SCHEME.finditer(part)):
            return True
        part = unquote_plus(part)
    return False


def _as_repr(text: str) -> str:
    return repr(text)[1:-1]


def _as_repr_of_quotes(text: str) -> str:
    """As Python shows it inside a longer text with quotes of both kinds."""
    return repr('"' + text)[2:-1]
