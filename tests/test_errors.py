"""What users meet: names from outside made visible, and one line from pydantic's report."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from nas.errors import InputError, finishing, visible
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


def test_what_is_done_at_the_end_does_not_replace_an_error() -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError("full")

    with finishing(lambda: done.append("at the end")):
        pass
    with pytest.raises(ValueError, match="first"), finishing(lambda: done.append("after an error")):
        raise ValueError("first")
    with pytest.raises(InputError, match="first") as caught, finishing(fail):
        raise InputError("first")
    with pytest.raises(OSError, match="full"), finishing(fail):
        pass

    assert done == ["at the end", "after an error"]
    assert not hasattr(caught.value, "__notes__")


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
