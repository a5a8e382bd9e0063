"""What users meet: names from outside made visible, passwords hidden, and one line from pydantic's report."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from nas.errors import InputError, is_masked, masked, secrets_of, visible
from nas.networks import Architecture


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("iFormer-M é 北京 ok", "iFormer-M é 北京 ok"),
        ("a\nb\r\tc\x00", r"a\nb\r\tc\x00"),
        ("\x1b[31mred\x1b[0m\x9b", r"\x1b[31mred\x1b[0m\x9b"),
        ("gpj.\u202eexe\u2066\u200f", r"gpj.\u202eexe\u2066\u200f"),
        ("a\u2028b\u2029c\u00a0d\ufeff", r"a\u2028b\u2029c\xa0d\ufeff"),
        ("caf\udce9.jpg", r"caf\udce9.jpg"),
        ("[bold]x[/]", "[bold]x[/]"),
    ],
)
def test_what_a_terminal_does_not_show_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(text).isprintable()


def test_a_long_text_keeps_its_begin_and_its_end() -> None:
    shown = visible("x" * 5000 + ": rename it", limit=60)

    assert len(shown) == 60
    assert shown.startswith("xxxx")
    assert shown.endswith(": rename it")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg://me:secret@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("mysql://me:p@ss/w:rd@host/db", "mysql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("nas search --storage=redis://:secret@host --seed 1", "nas search --storage=redis://:***@host --seed 1"),
        ("ssh://pi:secret@raspberrypi.local:22", "ssh://pi:***@raspberrypi.local:22"),
        ("ssh://pi@raspberrypi.local:22", "ssh://pi@raspberrypi.local:22"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("mail me@example.org at 10:30", "mail me@example.org at 10:30"),
        ("postgresql://me:***@host/db", "postgresql://me:***@host/db"),
    ],
)
def test_passwords_of_urls_are_hidden(text: str, hidden: str) -> None:
    assert masked(text) == hidden


def test_a_masked_url_is_known_as_such() -> None:
    assert is_masked("postgresql://me:***@host/db")
    assert is_masked("postgresql://host/db?password=***")
    assert not is_masked("postgresql://me:secret@host/db")
    assert not is_masked("sqlite:///study.db")


def test_secrets_are_known_as_written_and_as_meant() -> None:
    assert secrets_of("postgresql://me:se%40cret@host/db?sslpassword=other") == {"se%40cret", "se@cret", "other"}
    assert secrets_of("postgresql://me@host/db") == set()


def _refusal(document: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Architecture.model_validate(document)
    return str(InputError.from_validation("net.json", caught.value))


def test_an_error_line_is_short_whatever_the_file_holds() -> None:
    deep: object = 1
    for _ in range(400):
        deep = {"a": deep}
    documents: list[object] = [
        {"resolution": "x" * 10**5},
        {"resolution": [0] * 10**5},
        {"resolution": deep},
        {"resolution": 10**5000},
        {"x" * 10**5: 1},
        {"stages": [{"channels": 8, "blocks": [{"type": "x" * 10**5}]}] * 4},
        json.loads('{"\\ud800\\u202e\\n": 1}'),
    ]

    for document in documents:
        line = _refusal(document)
        assert len(line) <= 400
        assert visible(line) == line
