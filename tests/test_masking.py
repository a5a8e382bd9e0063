from __future__ import annotations

import pytest

from nas.masking import is_masked, masked, secrets_of, without_secrets


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
        ("postgresql://me@server:secret@host/db", "postgresql://me@server:***@host/db"),
        ("postgresql://me:p?a#s/s@host/db: refused", "postgresql://me:***@host/db: refused"),
        (
            "cannot reach postgresql://me:pass word@host/db (refused)",
            "cannot reach postgresql://me:***@host/db (refused)",
        ),
        ("postgresql://me:se%40cr%et@[::1]:5432/db", "postgresql://me:***@[::1]:5432/db"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("see http://localhost:8080 or ask me@host", "see http://localhost:8080 or ask me@host"),
        ("x://host/db?sslpassword=secret&user=me: refused", "x://host/db?sslpassword=***&user=me: refused"),
        ("x://host/db?options=-c%20password%3Dsecret&user=me", "x://host/db?options=***&user=me"),
        ("x://host/db?options=-c%2520password%253Dsecret", "x://host/db?options=***"),
        ("x://host/db?p%61ssword=secret", "x://host/db?p%61ssword=***"),
        ("x://host/db?proxy=http%3A%2F%2Fme%3Asecret%40host", "x://host/db?proxy=***"),
        ("x://host/db?a=1;password=secret", "x://host/db?a=***"),
        ("x://host/db?password=se&cret&user=me", "x://host/db?password=***&***&user=me"),
        ("host=h password=secret user=me", "host=h password=*** user=me"),
        (r"host=h password = 'it\'s a secret' user=me", "host=h password = *** user=me"),
        ("PGPASSWORD=secret psql", "PGPASSWORD=*** psql"),
        ('{"password": "a secret", "x": 1}', '{"password": ***, "x": 1}'),
        ("(password=secret): wrong password: try another", "(password=***): wrong password: try another"),
        ("5 passes=4 tokens=5", "5 passes=4 tokens=5"),
        (f"password_{'x' * 500}=secret", f"password_{'x' * 500}=***"),
        ("see http://a.b x://me:secret@host password=y", "see http://a.b x://me:***@host password=***"),
    ],
)
def test_passwords_are_hidden_in_any_text(text: str, hidden: str) -> None:
    assert masked(text) == hidden
    assert masked(hidden) == hidden


@pytest.mark.parametrize(
    ("argument", "hidden"),
    [
        ("postgresql://me:a b@c d@host/db", "postgresql://me:***@host/db"),
        ("--storage=redis://:1234 5@host", "--storage=redis://:***@host"),
        ("x://me:line\nbreak@host", "x://me:***@host"),
        ("x://host/db?password=a secret&user=me", "x://host/db?password=***&user=me"),
        ("password=a secret", "password=***"),
        ("host=h password=a secret user=me", "host=h password=*** user=me"),
        ("http://localhost:8080/x y", "http://localhost:8080/x y"),
    ],
)
def test_a_password_with_a_space_is_hidden_in_an_argument(argument: str, hidden: str) -> None:
    assert masked(argument, alone=True) == hidden
    assert masked(hidden, alone=True) == masked(hidden) == hidden
    assert is_masked(hidden) == ("***" in hidden)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("x" * 10**5, "x" * 10**5),
        ("a://b:" * 20_000, "a://b:" * 20_000),
        ("a://b:c@" * 10_000, "a://b:***@"),
        ("password=" * 20_000, "password=***"),
        ("http://h?a=" + "%25" * 20_000, "http://h?a=" + "%25" * 20_000),
        ("a://b?x=1&" * 5_000, "a://b?x=1&" * 5_000),
        ("a://b?x=" * 5_000 + "&password=secret", "a://b?x=" * 5_000 + "&password=***"),
        ("http://h:80/a," * 20_000 + " me@x", "http://h:80/a," * 20_000 + " me@x"),
    ],
    ids=["letters", "schemes", "logins", "settings", "quoted", "queries", "queries in queries", "ports"],
)
def test_a_long_text_is_read_once(text: str, hidden: str) -> None:
    """A query is not read again for each URL in it."""
    assert masked(text) == hidden
    assert secrets_of(text) or "***" not in hidden


def test_a_secret_has_no_space_around_it() -> None:
    assert "se cret" in secrets_of("host=h password=se cret  user=me")


def test_a_masked_url_is_known_as_such() -> None:
    assert is_masked("postgresql://me:***@host/db")
    assert is_masked("postgresql://host/db?password=***")
    assert not is_masked("postgresql://me:secret@host/db")
    assert not is_masked("sqlite:///study.db")


def test_secrets_are_known_as_written_and_as_meant() -> None:
    secrets = secrets_of("postgresql://me:se%40cret@host/db?sslpassword=other")
    assert secrets == {"se%40cret", "se@cret", "other", "se%2540cret"}
    assert secrets_of("postgresql://me@host/db") == set()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("x://me:p@ssword@host/db", "cannot find the host ssword@host"),
        ("x://me:se cret@host/db", "unexpected argument cret@host/db"),
        ("x://me:se'cret\\@host/db", r"""wrong: 'se\'cret\\'"""),
        ("x://me:se'cret\\@host/db", r"""wrong: "se'cret\\" """),
        ("x://host/db?options=-c%20password%3Dsecret", "no setting -c password=secret"),
        ("x://host/db?password=a+secret", "wrong: a secret"),
        ("x://me:se/cret@host/db", "wrong: se%2Fcret"),
    ],
)
def test_a_driver_that_shows_a_password_in_another_form_is_cut_short(url: str, message: str) -> None:
    shown = without_secrets(message, [url])

    assert "***" in shown
    assert "cret" not in shown
    assert "ssword" not in shown.replace("password", "")
