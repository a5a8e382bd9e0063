"""The folder or object store that the workers of a search share."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.exceptions import FSTimeoutError  # type: ignore[import-untyped]

from nas.errors import InputError, NasError
from nas.search import patience
from nas.search.store import Store


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "a" / "b") if request.param == "folder" else f"memory://{secrets.token_hex(4)}/run")


def test_what_is_written_is_read_by_others_and_removed(store: Store) -> None:
    other = Store(store.url)
    before = other.read("weights/x.safetensors")
    store.write("weights/x.safetensors", b"one")
    store.write("weights/x.safetensors", b"two")
    read = other.read("weights/x.safetensors")
    other.remove("weights/x.safetensors")
    other.remove("weights/x.safetensors")

    assert (before, read, store.read("weights/x.safetensors")) == (None, b"two", None)


def test_no_drafts_are_left(store: Store) -> None:
    for content in (b"one", b"two"):
        store.write("files/supernet.safetensors", content)
    system, root = fsspec.core.url_to_fs(store.url)

    assert [name.removeprefix(f"{root}/") for name in system.find(root)] == ["files/supernet.safetensors"]


def test_interrupted_write_leaves_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("x", b"whole")

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupted)
        patched.setattr(store._system, "mv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.write("x", b"half")

    assert store.read("x") == b"whole"


def test_folder_is_named_by_its_whole_path_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("shared")
    store.make()

    assert store.url == str(tmp_path / "shared")
    assert store.is_seen
    assert not Store(str(tmp_path / "other")).is_seen
    assert Store("memory://x").is_seen


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nowhere://bucket/run", r"^--shared nowhere://bucket/run: Protocol not known: nowhere$"),
        ("s3://bucket/run", r"^--shared s3://bucket/run: .*s3fs.*$"),
        ("s3://me:secret@bucket/run", r"^--shared s3://me:\*\*\*@bucket/run: leave the password out; [^\n]*$"),
    ],
)
def test_store_that_cannot_be_used_is_refused_in_one_line(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # which may be installed
    with pytest.raises(InputError, match=words) as caught:
        Store(url)

    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(str(tmp_path / "file" / "shared"))

    for refused in (store.make, lambda: store.write("weights/x", b"")):
        with pytest.raises(InputError, match=rf"^{tmp_path}/file/shared.*: cannot be written \(Not a directory\)$"):
            refused()


Disconnected = type("ServerDisconnectedError", (type("ClientConnectionError", (Exception,), {}),), {})  # of aiohttp


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("refused"),
        FSTimeoutError("refused"),
        OSError(errno.EBUSY, "refused"),
        Disconnected("refused"),
    ],
    ids=repr,
)
def test_store_that_is_away_is_asked_again_with_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    said: list[str] = []
    store, failures = Store("memory://again/run", say=said.append), iter([error, error])
    store.write("weights/x", b"kept")
    answer = type(store._system).cat_file

    def away(*arguments: object, **options: object) -> object:
        for failure in failures:
            raise failure
        return answer(*arguments, **options)

    monkeypatch.setattr(patience, "PAUSE_S", 0.001)
    monkeypatch.setattr(type(store._system), "cat_file", away)

    assert store.read("weights/x") == b"kept"
    assert said == [f"--shared memory://again/run: {error}; asking again for 60 s"]


def test_store_that_stays_away_ends_the_search_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: object, **options: object) -> None:
        raise ConnectionResetError("reset by peer")

    said: list[str] = []
    store = Store("memory://away/run", say=said.append, patience_s=0.02)
    monkeypatch.setattr(patience, "PAUSE_S", 0.005)
    monkeypatch.setattr(type(store._system), "pipe_file", away)
    with pytest.raises(NasError) as caught:
        store.write("x", b"")

    assert len(said) == 1
    assert str(caught.value) == (
        "--shared memory://away/run: reset by peer, for 0 s; everything finished so far is saved: go on with --resume "
        "when it is back"
    )


def test_store_that_refuses_is_a_failure_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("memory://away/run")

    def away(*arguments: object, **options: object) -> None:
        raise PermissionError("Access denied\nto the bucket")

    for method in ("cat_file", "rm_file", "pipe_file"):
        monkeypatch.setattr(type(store._system), method, away)
    for asked in (lambda: store.read("x"), lambda: store.remove("x"), lambda: store.write("x", b"")):
        with pytest.raises(NasError, match=r"^--shared memory://away/run: Access denied$") as caught:
            asked()
        assert caught.value.exit_code == 1
