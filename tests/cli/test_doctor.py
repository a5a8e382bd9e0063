"""`nas doctor`, `nas cache`, and the options of every command."""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Nas = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an image set of 1500 bytes, a supernet, and a folder that is not of nas."""
    folder = tmp_path / "cache"
    for name, size in (("images/a/train.npy", 1500), ("supernets/b.safetensors", 10), ("supernets/b.lock", 0)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    (folder / "mine").mkdir()
    monkeypatch.setenv("NAS_CACHE", str(folder))
    return folder


def test_doctor_says_what_there_is(nas: Nas, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_STORAGE", "postgresql://me:secret@host/db")
    shown = nas("doctor", cwd=tmp_path)
    found = json.loads(nas("doctor", "--json", cwd=tmp_path).stdout)

    assert shown.returncode == 0
    assert "secret" not in shown.stdout + json.dumps(found)
    assert found["environment"]["NAS_STORAGE"] == "postgresql://me:***@host/db"
    assert found["libraries"]["torch"].startswith("2.")
    assert found["devices"]["onnxruntime"] is None
    assert "macOS" in found["devices"]["coreml"]
    assert found["folders"]["cache"] == str(cache)
    assert {one["part"]: one["bytes"] for one in found["cache"]}["images"] == 1500
    assert all(name in shown.stdout for name in ("torch", "device wasm", "cache images"))
    assert "fake" not in shown.stdout  # it measures nothing


def test_cache_shows_its_parts_and_clears_one(nas: Nas, cache: Path, tmp_path: Path) -> None:
    before = json.loads(nas("cache", "show", "--json", cwd=tmp_path).stdout)
    shown = nas("cache", "show", cwd=tmp_path).stdout
    cleared = nas("cache", "clear", "images", cwd=tmp_path)

    assert before["folder"] == str(cache)
    assert "2 kB" in shown
    assert cleared.stdout == f"{cache / 'images'}: removed, 2 kB\n"
    assert not (cache / "images").exists()
    assert (cache / "supernets" / "b.safetensors").exists()


def test_cache_clear_leaves_what_is_in_use_and_what_is_not_of_nas(nas: Nas, cache: Path, tmp_path: Path) -> None:
    with (cache / "supernets" / "b.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = nas("cache", "clear", cwd=tmp_path)
        stands = (cache / "supernets" / "b.safetensors").exists()
    cleared = nas("cache", "clear", cwd=tmp_path)

    assert left.returncode == 0
    assert "b.lock is in use by another process; left" in left.stderr
    assert stands
    assert "supernets: removed" in cleared.stdout
    assert [path.name for path in cache.iterdir()] == ["mine"]


def test_cache_has_no_other_parts(nas: Nas, cache: Path, tmp_path: Path) -> None:
    refused = nas("cache", "clear", "../mine", cwd=tmp_path)

    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ../mine: no part of the cache; there are contents, hub, images,")
    assert (cache / "mine").exists()


def test_version_is_that_of_the_package(nas: Nas, tmp_path: Path) -> None:
    from importlib.metadata import version

    assert nas("--version", cwd=tmp_path).stdout == f"nas {version('nas')}\n"


def test_quiet_leaves_data_and_errors(nas: Nas, tmp_path: Path) -> None:
    options = ("--space", "tiny", "--budget-ms", "1.1", "--proxy", "fake", "--trials", "3", "--out", "run", "--json")
    searched = nas("search", *options, "--quiet", cwd=tmp_path)
    refused = nas("--quiet", "search", *options, cwd=tmp_path)

    assert searched.stderr == ""
    assert json.loads(searched.stdout)["winner"]
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["command"].endswith("--json")


def test_verbose_adds_what_libraries_log(nas: Nas, tmp_path: Path) -> None:
    options = ("--space", "tiny", "--budget-ms", "1.1", "--proxy", "fake", "--trials", "3")
    searched = nas("search", *options, "--verbose", cwd=tmp_path)

    assert searched.returncode == 0
    assert "space: " in searched.stderr
